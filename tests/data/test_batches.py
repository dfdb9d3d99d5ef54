"""Batches against plain loops over Python lists."""

import itertools
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llmcourse.data import (
    IGNORE_INDEX,
    Batch,
    document_aligned,
    encode_documents,
    padding_share,
    sliding_window,
    windows,
)
from llmcourse.tokenizers import END_OF_TEXT, ByteTokenizer, CharacterTokenizer

quick = settings(max_examples=80, deadline=None, derandomize=True)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def distinct_documents(lengths: list[int]) -> list[list[int]]:
    """Documents in which every token is different from every other, so each tells its place."""
    numbers = itertools.count(1)
    return [[next(numbers) for _ in range(length)] for length in lengths]


def same(first: list[Batch], second: list[Batch]) -> bool:
    return len(first) == len(second) and all(
        torch.equal(a.inputs, b.inputs) and torch.equal(a.targets, b.targets)
        for a, b in zip(first, second)
    )


class TestSlidingWindow:
    @quick
    @given(st.integers(1, 9), st.integers(1, 5), st.integers(0, 30), st.integers(0, 99))
    def test_rows_are_pieces_of_the_text_and_targets_one_further(self, length, rows, extra, seed):
        tokens = list(range(1000, 1000 + length + 1 + extra))
        batches = itertools.islice(
            sliding_window(torch.tensor(tokens), length, rows, seeded(seed)), 3
        )
        for inputs, targets in batches:
            assert inputs.shape == targets.shape == (rows, length)
            assert inputs.dtype == targets.dtype == torch.int64
            for row_in, row_out in zip(inputs.tolist(), targets.tolist()):
                start = tokens.index(row_in[0])
                assert row_in == tokens[start : start + length]
                assert row_out == tokens[start + 1 : start + length + 1]

    def test_all_starts_are_equally_likely(self):
        # 11 tokens and windows of 4: starts 0 to 6, each with probability 1/7.
        draws = 700
        stream = sliding_window(torch.arange(11), 4, 10, seeded(1))
        starts = torch.cat([next(stream).inputs[:, 0] for _ in range(draws)])
        counts = torch.bincount(starts, minlength=7)
        assert len(counts) == 7
        # Pearson's statistic with 6 degrees of freedom exceeds 22.5 once in 1,000 seeds.
        expected = 10 * draws / 7
        assert ((counts - expected) ** 2 / expected).sum() < 22.5

    def test_the_generator_decides_and_nothing_else(self):
        def draw(seed):
            torch.rand(3)  # the global state must not matter
            stream = sliding_window(torch.arange(100), 8, 4, seeded(seed))
            return list(itertools.islice(stream, 5))

        assert same(draw(0), draw(0))
        assert not same(draw(0), draw(1))

    def test_a_batch_may_be_changed_without_changing_the_text(self):
        tokens = torch.arange(20)
        batch = next(sliding_window(tokens, 4, 2, seeded()))
        batch.inputs.zero_()
        batch.targets.zero_()
        assert torch.equal(tokens, torch.arange(20))

    @pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
    def test_narrow_integers_become_int64(self, dtype):
        batch = next(sliding_window(torch.arange(9, dtype=dtype), 4, 2, seeded()))
        assert batch.inputs.dtype == batch.targets.dtype == torch.int64

    def test_too_few_tokens(self):
        next(sliding_window(torch.arange(5), 4, 1, seeded()))
        with pytest.raises(
            ValueError, match=r"4 tokens are too few for context_length 4.* needs 5"
        ):
            sliding_window(torch.arange(4), 4, 1, seeded())

    @pytest.mark.parametrize("generator", [None, 0, random.Random(0)])
    def test_needs_a_generator(self, generator):
        with pytest.raises(ValueError, match=r"need a torch\.Generator"):
            sliding_window(torch.arange(9), 4, 1, generator)


class TestWindows:
    @quick
    @given(st.integers(2, 60), st.integers(1, 12), st.integers(1, 5), st.data())
    def test_every_target_is_scored_once_in_order_with_its_own_past(self, n, length, rows, data):
        stride = data.draw(st.integers(1, length))
        tokens = list(range(500, 500 + n))
        batches = list(windows(torch.tensor(tokens), length, rows, stride))
        assert all(batch.inputs.shape[1] == length for batch in batches)
        assert all(len(batch.inputs) == rows for batch in batches[:-1])
        scored = []
        for batch in batches:
            for row_in, row_out in zip(batch.inputs.tolist(), batch.targets.tolist()):
                places = [t for t, target in enumerate(row_out) if target != IGNORE_INDEX]
                assert places, "a window that scores nothing is work for nothing"
                for t in places:
                    scored.append(row_out[t])
                    end = tokens.index(row_out[t])
                    # What stands to the left is the text right before the target.
                    assert row_in[: t + 1] == tokens[end - t - 1 : end]
                    # All but the start of the text is predicted from at least T - stride + 1.
                    assert t + 1 >= min(end, length - stride + 1)
        assert scored == tokens[1:]

    def test_the_default_lies_end_to_end(self):
        [batch] = windows([1, 2, 3, 4, 5, 6], 4, 8)
        assert batch.inputs.tolist() == [[1, 2, 3, 4], [5, 0, 0, 0]]
        ignored = [IGNORE_INDEX] * 3
        assert batch.targets.tolist() == [[2, 3, 4, 5], [6, *ignored]]

    def test_overlap_by_hand(self):
        [batch] = windows([1, 2, 3, 4, 5, 6], 4, 8, stride=2)
        assert batch.inputs.tolist() == [[1, 2, 3, 4], [3, 4, 5, 0]]
        assert batch.targets.tolist() == [[2, 3, 4, 5], [-100, -100, 6, -100]]

    def test_the_text_may_be_shorter_than_one_window(self):
        [batch] = windows([7, 8], 4, 3)
        assert batch.inputs.tolist() == [[7, 0, 0, 0]]
        assert batch.targets.tolist() == [[8, -100, -100, -100]]

    def test_one_token_has_nothing_to_predict(self):
        with pytest.raises(ValueError, match="at least 2"):
            windows([7], 4, 3)

    def test_a_stride_past_the_context_would_skip_tokens(self):
        with pytest.raises(ValueError, match=r"stride 5 is longer .* must be 1 to 4"):
            windows(torch.arange(9), 4, 1, stride=5)


class TestDocumentAligned:
    @quick
    @given(
        st.lists(st.integers(2, 13), min_size=1, max_size=40),
        st.integers(1, 7),
        st.booleans(),
        st.integers(1, 3),
    )
    def test_each_row_is_one_whole_document_each_epoch(self, lengths, rows, shuffle, epochs):
        documents = distinct_documents(lengths)
        seen = []
        for batch in document_aligned(
            documents, 12, rows, seeded() if shuffle else None, shuffle, epochs
        ):
            assert batch.inputs.shape == batch.targets.shape
            assert 1 <= len(batch.inputs) <= rows
            widths = []
            for row_in, row_out in zip(batch.inputs.tolist(), batch.targets.tolist()):
                [document] = [d for d in documents if d[0] == row_in[0]]
                steps = len(document) - 1
                padding = len(row_in) - steps
                assert row_in == document[:-1] + [0] * padding
                assert row_out == document[1:] + [IGNORE_INDEX] * padding
                widths.append(steps)
                seen.append(document[0])
            assert max(widths) == batch.inputs.shape[1]  # no wider than it must be
        firsts = sorted(document[0] for document in documents)
        for epoch in range(epochs):
            part = seen[epoch * len(documents) : (epoch + 1) * len(documents)]
            assert sorted(part) == firsts
        assert len(seen) == epochs * len(documents)

    def test_end_of_text_is_a_target(self):
        tokenizer = ByteTokenizer((END_OF_TEXT,))
        documents = encode_documents(["abc", "de"], tokenizer, end_of_text=True)
        [batch] = document_aligned(documents, 8, 2, shuffle=False, epochs=1)
        end = tokenizer.special_id(END_OF_TEXT)
        lasts = [[t for t in row if t != IGNORE_INDEX][-1] for row in batch.targets.tolist()]
        assert lasts == [end, end]
        assert end not in batch.inputs.flatten().tolist()

    def test_the_generator_decides_and_nothing_else(self):
        documents = distinct_documents([2 + i % 9 for i in range(100)])

        def draw(seed):
            torch.rand(3)
            return list(document_aligned(documents, 12, 4, seeded(seed), epochs=2))

        assert same(draw(0), draw(0))
        assert not same(draw(0), draw(1))
        first, second = draw(0)[:25], draw(0)[25:]
        assert not same(first, second)  # the second epoch is shuffled anew

    def test_batches_are_not_served_by_length(self):
        documents = distinct_documents([2 + i % 40 for i in range(400)])
        widths = [b.inputs.shape[1] for b in document_aligned(documents, 50, 8, seeded(), epochs=1)]
        assert len(widths) == 50 and widths != sorted(widths)

    def test_goes_on_for_ever_without_epochs(self):
        stream = document_aligned(distinct_documents([3, 4]), 12, 2, seeded())
        assert len(list(itertools.islice(stream, 500))) == 500

    def test_without_shuffling_the_order_is_by_length(self):
        batches = list(document_aligned([[1, 2, 3], [4, 5], [6, 7]], 4, 2, shuffle=False, epochs=1))
        assert [b.inputs.tolist() for b in batches] == [[[4], [6]], [[1, 2]]]

    def test_little_is_padded(self):
        # Lengths as of short stories: 60 to 260 tokens, most near 150. Unsorted, a third is waste.
        rng = random.Random(0)
        lengths = [min(260, max(60, round(rng.gauss(150, 40)))) for _ in range(3000)]
        documents = [[1] * length for length in lengths]

        def waste(batches):
            batches = list(batches)
            total = sum(batch.targets.numel() for batch in batches)
            return sum(padding_share(b) * b.targets.numel() for b in batches) / total

        unsorted = [Batch(*_pad(documents[i : i + 32])) for i in range(0, 3000, 32)]
        assert waste(unsorted) > 0.3
        assert waste(document_aligned(documents, 259, 32, seeded(), epochs=1)) < 0.03
        assert waste(document_aligned(documents, 259, 32, shuffle=False, epochs=1)) < 0.01
        # Even when the documents fill hardly a pool.
        assert waste(document_aligned(documents[:300], 259, 32, seeded(), epochs=1)) < 0.12

    def test_widths_can_be_rounded_up_to_few(self):
        documents = distinct_documents(range(2, 40))
        plain = list(document_aligned(documents, 36, 3, shuffle=False, epochs=1, truncate=True))
        few = list(
            document_aligned(
                documents, 36, 3, shuffle=False, epochs=1, truncate=True, width_multiple=16
            )
        )
        assert {batch.inputs.shape[1] for batch in few} == {16, 32, 36}, "never past the context"
        for one, other in zip(plain, few, strict=True):
            width = one.inputs.shape[1]
            assert torch.equal(other.inputs[:, :width], one.inputs)
            assert torch.equal(other.targets[:, :width], one.targets)
            assert (other.targets[:, width:] == IGNORE_INDEX).all()
        with pytest.raises(ValueError, match="width_multiple"):
            document_aligned(documents, 36, 3, seeded(), width_multiple=0)

    def test_documents_that_are_too_long(self):
        documents = distinct_documents([3, 6])
        with pytest.raises(ValueError, match=r"document 1 has 6 tokens.* allows 5 .*truncate=True"):
            document_aligned(documents, 4, 2, seeded())
        [batch] = document_aligned(documents, 4, 2, shuffle=False, epochs=1, truncate=True)
        assert batch.inputs.tolist() == [[1, 2, 0, 0], [4, 5, 6, 7]]
        assert batch.targets.tolist() == [[2, 3, -100, -100], [5, 6, 7, 8]]
        [batch] = document_aligned(documents, 5, 2, shuffle=False, epochs=1)  # just fits

    def test_bad_documents(self):
        with pytest.raises(ValueError, match="no documents"):
            document_aligned([], 4, 2, seeded())
        with pytest.raises(ValueError, match="document 1: empty"):
            document_aligned([[1, 2], []], 4, 2, seeded())
        with pytest.raises(ValueError, match="document 1 is a single token"):
            document_aligned([[1, 2], [3]], 4, 2, seeded())
        with pytest.raises(ValueError, match="document 0 must be one row of integer ids"):
            document_aligned([[0.5, 1.5]], 4, 2, seeded())
        with pytest.raises(ValueError, match="document 0 must be one row of integer ids"):
            document_aligned(["words"], 4, 2, seeded())

    def test_shuffling_needs_a_generator(self):
        with pytest.raises(ValueError, match=r"need a torch\.Generator"):
            document_aligned([[1, 2]], 4, 2)


def _pad(rows):
    width = max(map(len, rows)) - 1
    inputs = [r[:-1] + [0] * (width + 1 - len(r)) for r in rows]
    targets = [r[1:] + [IGNORE_INDEX] * (width + 1 - len(r)) for r in rows]
    return torch.tensor(inputs), torch.tensor(targets)


MAKERS = {
    "sliding_window": lambda tokens, length, rows: sliding_window(tokens, length, rows, seeded()),
    "windows": windows,
    "document_aligned": lambda tokens, length, rows: document_aligned(
        [tokens], length, rows, seeded()
    ),
}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
class TestBadInputIsRefusedAtTheCall:
    @pytest.mark.parametrize(
        "tokens",
        [
            torch.zeros(3, 3).long(),
            torch.rand(9),
            torch.ones(9).bool(),
            torch.tensor(3),
            [0.5, 1.5],
        ],
    )
    def test_tokens_that_are_no_row_of_integers(self, make, tokens):
        with pytest.raises(ValueError, match="must be one row of integer ids"):
            make(tokens, 2, 2)

    @pytest.mark.parametrize("tokens", [[], torch.tensor([]), torch.tensor([], dtype=torch.long)])
    def test_no_tokens(self, make, tokens):
        with pytest.raises(ValueError, match="empty"):
            make(tokens, 2, 2)

    @pytest.mark.parametrize("bad", [0, -1, 2.0, True, None])
    def test_sizes(self, make, bad):
        with pytest.raises(ValueError, match=f"context_length must be .*, got {bad!r}"):
            make(torch.arange(3), bad, 2)
        with pytest.raises(ValueError, match=f"batch_size must be .*, got {bad!r}"):
            make(torch.arange(3), 2, bad)


def test_other_sizes_are_checked_too():
    with pytest.raises(ValueError, match=r"stride must be .* got 0"):
        windows(torch.arange(9), 4, 1, stride=0)
    with pytest.raises(ValueError, match=r"epochs must be .* got 0"):
        document_aligned([[1, 2]], 4, 1, seeded(), epochs=0)


def test_encode_documents():
    tokenizer = ByteTokenizer((END_OF_TEXT,))
    assert encode_documents(["ab", ""], tokenizer, end_of_text=False) == [[97, 98], []]
    assert encode_documents(["ab", ""], tokenizer, end_of_text=True) == [[97, 98, 256], [256]]
    both = encode_documents(["ab"], tokenizer, end_of_text=True, start_of_text=True)
    assert both == [[256, 97, 98, 256]]
    # A document that contains the marker's name cannot end itself.
    [sly] = encode_documents([END_OF_TEXT], tokenizer, end_of_text=True)
    assert sly == [*END_OF_TEXT.encode(), 256]


def test_encode_documents_needs_the_marker_it_is_asked_for():
    plain = CharacterTokenizer("ab")
    assert encode_documents(["ab"], plain, end_of_text=False) == [[0, 1]]
    with pytest.raises(ValueError, match=r"no special token '<\|endoftext\|>'"):
        encode_documents(["ab"], plain, end_of_text=True)
    with pytest.raises(ValueError, match="a single str"):
        encode_documents("ab", plain, end_of_text=False)
