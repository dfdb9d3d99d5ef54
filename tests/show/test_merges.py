"""Merge states against a textbook loop, boxes against the text, compression against counts."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from llmcourse.show import plot_compression, plot_merges, plot_tokenizations
from llmcourse.show.compression import compression_rows
from llmcourse.show.merges import RANKED, encoding_states, training_states
from llmcourse.show.token_boxes import fill_of, spelled, token_lines
from llmcourse.tokenizers import BPETokenizer, ByteTokenizer
from llmcourse.tokenizers.pretokenize import GPT4_PATTERN, split

TEXTS = (
    "low lower lowest, slow slower slowest",
    "aaaaaaa aaaa aaa",
    "naïve café, naïveté 日本 日本語\n\n  x = 10000",
    "a",
)


def textbook(text: str, n_merges: int) -> list[tuple[bytes, bytes]]:
    """The loop of the paper on one text: count everything, join the best, again; pairs of bytes."""
    pieces = [[bytes([b]) for b in piece.encode()] for piece in split(text, GPT4_PATTERN)]
    number = {bytes([b]): b for b in range(256)}
    merges = []
    for _ in range(n_merges):
        counts = Counter(pair for p in pieces for pair in pairwise(p))
        counts = {pair: n for pair, n in counts.items() if n >= 2}
        if not counts:
            break
        best = min(counts, key=lambda q: (-counts[q], number[q[0]], number[q[1]]))
        merges.append(best)
        number[best[0] + best[1]] = len(number)
        for p in pieces:
            i = 0
            while i < len(p) - 1:
                if (p[i], p[i + 1]) == best:
                    p[i : i + 2] = [best[0] + best[1]]
                i += 1
    return merges


@pytest.mark.parametrize("text", TEXTS)
def test_training_makes_the_textbook_merges(text):
    states = training_states(text, 12)
    merges = textbook(text, 12)
    assert [(s.last.left, s.last.right) for s in states[1:]] == merges
    assert [s.merges for s in states] == list(range(len(merges) + 1))
    for state, merge in zip(states, merges, strict=False):
        assert state.next_pair == merge and not state.done
        assert state.vocabulary == 256 + state.merges
        assert b"".join(t for piece in state.pieces for t in piece) == text.encode()
    tokenizer = BPETokenizer.train([text], 256 + len(merges))
    assert states[-1].n_tokens == len(tokenizer.encode(text))


@pytest.mark.parametrize("text", TEXTS)
def test_a_merge_takes_away_as_many_tokens_as_places_are_framed(text):
    states = training_states(text, 12)
    for state, after in pairwise(states):
        assert state.n_tokens - after.n_tokens == len(state.next_places) >= 1
    assert states[0].n_tokens == states[0].n_bytes == len(text.encode())


def test_pairs_are_ranked_by_count_and_ties_by_the_smallest_ids():
    [first, *_] = training_states("ba ba cd cd", 1)
    # "ba", " ba", " cd", " cd": b+a, c+d, and the space before c, twice each; the space is 32.
    wanted = [(b" ", b"c", 2), (b"b", b"a", 2), (b"c", b"d", 2), (b" ", b"b", 1)]
    assert [(c.left, c.right, c.number) for c in first.candidates] == wanted
    assert first.tied == 3
    assert first.next_places == {(2, 0), (3, 0)}


def test_training_ends_when_no_pair_is_frequent_enough():
    states = training_states("abcd", 10)
    assert len(states) == 1 and states[0].done and states[0].next_pair is None
    assert states[0].next_places == set() and len(states[0].candidates) == 3
    assert len(training_states("abcd", 10, min_count=1)) == 4


@pytest.fixture(scope="module")
def tokenizer() -> BPETokenizer:
    return BPETokenizer.train(["low lower lowest slow slower slowest naïve café"] * 3, 275)


@pytest.mark.parametrize("text", TEXTS)
def test_encoding_ends_at_the_tokenizers_own_tokens(tokenizer, text):
    states = encoding_states(text, tokenizer)
    ids = tokenizer.encode_reference(text)
    assert [t for p in states[-1].pieces for t in p] == [tokenizer.token_bytes(i) for i in ids]
    assert [s.merges for s in states] == list(range(len(states)))
    assert states[0].n_tokens == len(text.encode()) and states[-1].done
    for state, after in pairwise(states):
        assert after.n_tokens == state.n_tokens - 1  # one pair at a time
        assert len(state.next_places) == 1 and not state.done


def test_encoding_joins_the_lowest_rank_first(tokenizer):
    for state in encoding_states("slowest cafés", tokenizer)[:-1]:
        known = [c.number for c in state.candidates if c.number is not None]
        assert known == sorted(known)
        first = state.candidates[0]
        assert tokenizer.tokens[first.number] == first.left + first.right
        assert all(c.number is None for c in state.candidates[len(known) :])


def test_a_piece_that_is_a_token_without_a_way_to_it_ends_as_that_token():
    made = BPETokenizer((*(bytes([b]) for b in range(256)), b"xyz"))
    states = encoding_states("xyz xy", made)
    assert states[-1].pieces == ((b"xyz",), (b" ", b"x", b"y"))
    assert made.encode("xyz") == [256]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda t: training_states(""), "nothing to learn merges from"),
        (lambda t: training_states("\ud800"), "lone surrogate"),
        (lambda t: training_states("ab", -1), "n_merges=-1"),
        (lambda t: encoding_states("", t), "nothing to encode"),
        (lambda t: encoding_states("a", ByteTokenizer()), "not of ByteTokenizer"),
        (lambda t: plot_merges([]), "no state to draw"),
        (lambda t: plot_merges(training_states("a"), 1), "state 1 does not exist; there are 1"),
    ],
)
def test_bad_input_is_refused(tokenizer, call, message):
    with pytest.raises(ValueError, match=message):
        call(tokenizer)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("text", [*TEXTS, "$x$ \\alpha $$"])
@pytest.mark.parametrize("at", [0, None])
def test_merge_figure_shows_pairs_and_length(drawn, text, at):
    states = training_states(text, 5)
    state = states[-1 if at is None else at]
    bars, line, boxes = drawn(plot_merges, states, at).axes
    shown = state.candidates[:RANKED]
    assert [p.get_width() for p in bars.patches] == [c.number for c in shown]
    assert sum("next" in t.get_text() for t in bars.texts) == (0 if state.done else 1)
    assert list(line.lines[0].get_ydata()) == [s.tokens_per_byte for s in states]
    assert line.lines[1].get_xdata()[0] == state.merges
    assert len(boxes.patches) == state.n_tokens
    framed = [p for p in boxes.patches if p.get_linewidth() > 1]
    assert len(framed) == 2 * len(state.next_places)


def test_lines_hold_every_byte_once_and_fold_where_all_agree():
    text = b"the cat sat on the mat and then on the other mat"
    words = [w + b" " for w in text.split(b" ")[:-1]] + [b"mat"]
    rows = {"bytes": [bytes([b]) for b in text], "words": words}
    lines = token_lines(rows, 12)
    for name in rows:
        parts = [b"".join(box.part for box in line.boxes) for line in lines if line.name == name]
        assert b"".join(parts) == text and max(map(len, parts)) <= 12
        assert all(part.endswith(b" ") for part in parts[:-1])  # where the words end
    assert [line.block for line in lines] == sorted(line.block for line in lines)
    starts = [box.start for box in lines[0].boxes]
    assert starts == list(range(len(starts)))


def test_a_token_longer_than_a_line_is_drawn_in_parts():
    lines = token_lines({"": [b"x" * 20, b"y"]}, 8)
    assert [[box.part for box in line.boxes] for line in lines] == [
        [b"x" * 8], [b"x" * 8], [b"xxxx", b"y"],
    ]  # fmt: skip
    assert {box.number for line in lines for box in line.boxes} == {0, 1}


def test_characters_stand_over_the_bytes_they_take():
    assert spelled("aé日".encode()) == [("a", 0, 1), ("é", 1, 2), ("日", 3, 3)]
    assert spelled("é".encode()[:1]) == [("C3", 0, 1)]
    assert len({fill_of(b"x" * n) for n in (1, 2, 4, 9)}) == 4


def test_tokenizations_stand_one_above_the_other(drawn, tokenizer):
    text = "slower café"
    ax = drawn(plot_tokenizations, text, {"bytes": ByteTokenizer(), "BPE": tokenizer}).axes[0]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["bytes", "BPE"]
    ids = tokenizer.encode(text)
    assert len(ax.patches) == 12 + len(ids)
    assert ax.get_title("left") == f"12 bytes; tokens: 12 (bytes), {len(ids)} (BPE)"
    widths = [round(p.get_width() + 0.12) for p in ax.patches[12:]]
    assert widths == [len(tokenizer.token_bytes(i)) for i in ids]


class Uncased(ByteTokenizer):
    """Loses the case of letters, as some tokenizers do."""

    def encode(self, text: str, allow_special: bool = False) -> list[int]:
        return super().encode(text.lower(), allow_special)


def test_texts_that_differ_are_refused():
    with pytest.raises(ValueError, match="'b' holds another text than 'a': 1 bytes against 2"):
        token_lines({"a": [b"xy"], "b": [b"x"]}, 20)
    with pytest.raises(ValueError, match="nothing to draw"):
        token_lines({"a": []}, 20)
    with pytest.raises(ValueError, match="nothing to draw"):
        plot_tokenizations("text", {})
    with pytest.raises(ValueError, match="do not give this text back"):
        plot_tokenizations("Xyz", {"uncased": Uncased()})
    with pytest.raises(ValueError, match="columns=7 must be at least 8"):
        token_lines({"a": [b"x"]}, 7)


def test_compression_counts_tokens_per_byte(drawn, tokenizer):
    texts = {"English": "lower lowest slow", "café": "café naïve"}
    rows = compression_rows([tokenizer, ByteTokenizer()], texts)
    assert rows[2] == {"corpus": "English", "vocab_size": 256, "tokens_per_byte": 1.0}
    share = len(tokenizer.encode("café naïve")) / 12
    assert rows[1]["tokens_per_byte"] == share and rows[1]["vocab_size"] == 275
    ax = drawn(plot_compression, rows).axes[0]
    baseline, *lines = ax.lines
    assert set(baseline.get_ydata()) == {1.0}
    assert [list(line.get_xdata()) for line in lines] == [[256, 275]] * 2
    np.testing.assert_allclose(lines[1].get_ydata(), [1.0, share])
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels[1] == f"café: {share:.2f} at 275\n({1 / share:.1f} bytes per token)"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "no rows"),
        ([{"corpus": "a", "vocab_size": 300}], "row 0 has no 'tokens_per_byte'"),
        ([{"corpus": "a", "vocab_size": 255, "tokens_per_byte": 0.5}], "vocab_size=255"),
        ([{"corpus": "a", "vocab_size": 256, "tokens_per_byte": 4.2}], "tokens_per_byte=4.2"),
    ],
)
def test_compression_that_cannot_be_is_refused(rows, message):
    with pytest.raises(ValueError, match=message):
        plot_compression(rows)


def test_an_empty_corpus_is_refused():
    with pytest.raises(ValueError, match="text of 'a' is empty"):
        compression_rows([ByteTokenizer()], {"a": ""})
