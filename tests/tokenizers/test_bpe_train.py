"""The fast trainer against the textbook loop, which counts all pairs anew for every merge."""

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmcourse.data import load_corpus, tales
from llmcourse.tokenizers import BPETokenizer
from llmcourse.tokenizers.bpe_textbook import textbook_merges, textbook_step
from llmcourse.tokenizers.bpe_train import count_words, learn_merges
from llmcourse.tokenizers.pretokenize import GPT2_PATTERN, GPT4_PATTERN

any_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
runs = st.text(alphabet="ab ", max_size=40)
quick = settings(max_examples=120, deadline=None, derandomize=True)


def foreign(seed=0):
    """Words of random letters from alphabets of two, three and four bytes a character."""
    rng = random.Random(seed)
    letters = "абвгд" + "你好世界" + "🙂🚀" + "éß"
    return ["".join(rng.choices(letters + "  ", k=400)) for _ in range(10)]


def test_the_textbook_itself():
    """The example of the paper (Sennrich et al. 2015, figure 1), worked by hand."""
    words = {"low": 5, "lowest": 2, "newer": 6, "wider": 3}
    e, r, ell, o, w = b"erlow"
    # er 9; lo 7 and ow 7, of which (l, o) has the smaller left id.
    assert textbook_merges(words, 3) == [(e, r), (ell, o), (257, w)]
    spelled = [(list(b"aaab"), 1), (list(b"ab"), 4)]
    assert textbook_step(spelled, 256) == (97, 98)
    assert spelled == [([97, 97, 256], 1), ([256], 4)]
    assert textbook_step(spelled, 257) is None  # (a, a) and (a, ab) are there once
    assert textbook_step(spelled, 257, min_count=1) == (97, 97)
    assert textbook_step([], 256) is None


CORPORA = {
    "docs": lambda: load_corpus("docs").train[:6],
    "code": lambda: load_corpus("code", max_bytes=60_000).train,
    "tales": lambda: [tales.sample_story(seed) for seed in range(120)],
    "foreign": foreign,
}


@pytest.mark.parametrize("pattern", [GPT2_PATTERN, GPT4_PATTERN], ids=["gpt2", "gpt4"])
@pytest.mark.parametrize("name", CORPORA)
def test_merges_are_the_textbooks_on_real_text(name, pattern):
    words = count_words(map(str, CORPORA[name]()), pattern)
    ours = learn_merges(words, 120)
    assert ours == textbook_merges(words, 120)
    assert len(ours) == 120


@quick
@given(st.lists(st.one_of(any_text, runs), max_size=5), st.integers(1, 3))
def test_merges_are_the_textbooks_until_the_pairs_run_out(texts, min_count):
    words = count_words(texts)
    assert learn_merges(words, 60, min_count=min_count) == textbook_merges(
        words, 60, min_count=min_count
    )


@quick
@given(st.dictionaries(st.binary(max_size=12), st.integers(1, 9), max_size=8))
def test_words_may_be_any_bytes(words):
    assert learn_merges(words, 30) == textbook_merges(words, 30)


@quick
@given(st.lists(st.text(alphabet="aab", max_size=30), max_size=4))
def test_overlapping_runs(texts):
    words = Counter(texts)
    assert learn_merges(words, 40, min_count=1) == textbook_merges(words, 40, min_count=1)


def test_the_rule_for_ties():
    # (a, b), (c, d) and (b, a) all occur twice: the smallest left id, then the smallest right id.
    words = {"ab": 2, "cd": 2, "ba": 2, "ac": 2}
    assert learn_merges(words, 4) == [(97, 98), (97, 99), (98, 97), (99, 100)]
    # A run of three counts twice, so (a, a) goes first. Of what is left, (256, a) and (b, c), both
    # there once, b is the smaller id.
    assert learn_merges({"aaa": 1, "bc": 1}, 2, min_count=1) == [(97, 97), (98, 99)]


def test_the_order_of_texts_and_their_cutting_into_documents_is_of_no_account():
    texts = ["the cat sat", "the dog ran", "a cat ran"] * 2
    merges = learn_merges(count_words(texts), 20)
    assert learn_merges(count_words(texts[::-1]), 20) == merges
    halves = count_words(texts[:3]) + count_words(texts[3:])
    assert learn_merges(halves, 20) == merges


def test_no_merge_crosses_a_cut():
    tokenizer = BPETokenizer.train(["dog. dog! dog? dog, " * 20], 300)
    letters = [token for token in tokenizer.tokens if b"dog" in token]
    assert letters == [b" dog"] or set(letters) == {b"dog", b" dog"}
    assert not any(mark in token for token in letters for mark in b".!?,")


@pytest.mark.slow
def test_ids_beyond_the_characters_of_one_and_two_bytes():
    # chr(id) passes U+00FF, U+D800 (surrogates) and U+FFFF on the way: all must work as symbols.
    rng = random.Random(1)
    words = {rng.randbytes(60): 1 for _ in range(2500)}
    merges = learn_merges(words, 300_000, min_count=1)
    assert len(merges) > 0x10000 - 256 and len(set(merges)) == len(merges)
    tokens = [bytes([value]) for value in range(256)]
    for left, right in merges:
        tokens.append(tokens[left] + tokens[right])
    # Merged to the end, every word is a token, and no token came about twice.
    assert set(words) <= set(tokens)
    assert len(set(tokens)) == len(tokens)


def test_progress_bar_counts_merges(capsys):
    learn_merges({"abab": 3}, 2, progress=True)
    assert "2/2" in capsys.readouterr().err
    learn_merges({"abab": 3}, 2)
    assert capsys.readouterr().err == ""


def test_nothing_to_learn():
    assert learn_merges({}, 5) == []
    assert learn_merges({"a": 9, "": 2}, 5) == []
    assert learn_merges({"ab": 9}, 0) == []
    assert learn_merges({"ab": 1}, 5) == []


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="n_merges=-1 must be between 0 and 1,113,856"):
        learn_merges({"ab": 2}, -1)
    with pytest.raises(ValueError, match="min_count=0 must be at least 1"):
        learn_merges({"ab": 2}, 1, min_count=0)
    with pytest.raises(ValueError, match="got a single str; put it in a list"):
        count_words("text")
    with pytest.raises(ValueError, match=r"lone surrogate U\+D800"):
        count_words(["a\ud800"])
    with pytest.raises(ValueError, match="text must be a str, got int"):
        count_words([3])
    with pytest.raises(ValueError, match="vocab_size=257 must be at least 258: 256 bytes and 2"):
        BPETokenizer.train(["ab"], 257, ("<|a|>", "<|b|>"))
    with pytest.raises(ValueError, match="hold no text"):
        BPETokenizer.train(["", ""], 300)
    with pytest.raises(ValueError, match="no regular expression"):
        BPETokenizer.train(["ab"], 300, pattern="(")
    with pytest.raises(ValueError, match="which libraries read differently"):
        BPETokenizer.train(["ab"], 300, pattern=r"[\p{L}&&[^a]]+|[\s\S]")
    with pytest.raises(ValueError, match="there are: 'gpt2', 'gpt4'"):
        BPETokenizer.train(["ab"], 300, pattern=" *")
