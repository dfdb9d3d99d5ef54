"""Byte-pair encoding against tiktoken, and against itself by other ways, on arbitrary text."""

import copy
import doctest
import json
import pickle
import random

import pytest
import regex
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st

from llmcourse.data import load_corpus
from llmcourse.tokenizers import (
    COURSE_SPECIAL_TOKENS,
    END_OF_TEXT,
    BPETokenizer,
    Tokenizer,
    bpe,
    bpe_files,
    bpe_merge,
    load_tokenizer,
    pretokenize,
)
from llmcourse.tokenizers.bpe_merge import merge, merge_long, merge_once
from llmcourse.tokenizers.pretokenize import GPT2_PATTERN, GPT4_PATTERN, split

quick = settings(max_examples=200, deadline=None, derandomize=True)
# Characters where alphabets, white space, case and Unicode versions are peculiar.
PECULIAR = "sStTlLvVeE'’ſK 019٣½²\t\n\r\x0b\x1c\x85\xa0\u2028\u3000aÅéß你🙂\u0301\u0558\ufffd\x00"
characters = st.one_of(
    st.characters(exclude_categories=["Cs"]), st.sampled_from(PECULIAR), st.sampled_from("ab \n'")
)
any_text = st.text(characters, max_size=80)
PIECES = (*COURSE_SPECIAL_TOKENS, "the ", "def f():\n", "<|", "|>")
any_text_with_names = st.lists(st.one_of(any_text, st.sampled_from(PIECES)), max_size=6).map(
    "".join
)


@pytest.fixture(scope="module")
def texts():
    docs, code = load_corpus("docs"), load_corpus("code", max_bytes=200_000)
    return [*docs.train[:8], *code.train]


@pytest.fixture(scope="module", params=["gpt2", "gpt4"])
def tokenizer(request, texts):
    return BPETokenizer.train(texts, 700, COURSE_SPECIAL_TOKENS, pattern=request.param)


@pytest.fixture(scope="module")
def encodings():
    return {}


def test_ids_are_bytes_merges_and_special_tokens(tokenizer):
    assert isinstance(tokenizer, Tokenizer)
    assert tokenizer.vocab_size == 700
    assert [tokenizer.token_bytes(id) for id in range(256)] == [bytes([b]) for b in range(256)]
    assert len(tokenizer.merges) == 700 - 256 - len(COURSE_SPECIAL_TOKENS)
    for place, (left, right) in enumerate(tokenizer.merges):
        whole = tokenizer.token_bytes(left) + tokenizer.token_bytes(right)
        assert max(left, right) < 256 + place and tokenizer.token_bytes(256 + place) == whole
    assert tokenizer.special_id(END_OF_TEXT) == 688
    assert tokenizer.special_id(COURSE_SPECIAL_TOKENS[-1]) == 699


def test_frequent_words_are_short_and_no_text_is_lost(tokenizer, texts):
    text = "\n".join(texts)
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids, errors="strict") == text
    assert 2 < len(text.encode()) / len(ids) < 4, "bytes per token"
    assert len(set(ids) & set(range(256, 688))) > 400, "learned tokens are used"
    assert tokenizer.encode_reference(text) == ids


@quick
@given(text=any_text)
def test_reference_tiktoken_and_encode_give_the_same_ids(tokenizer, encodings, text):
    if tokenizer.pattern not in encodings:
        encodings[tokenizer.pattern] = tokenizer.to_tiktoken()
    encoding = encodings[tokenizer.pattern]
    for some in (text, text * 8, text + " the end" * 40):
        ids = tokenizer.encode_reference(some)
        assert ids == encoding.encode_ordinary(some)
        assert ids == tokenizer.encode(some)
        assert tokenizer.decode(ids, errors="strict") == some
        assert b"".join(map(tokenizer.token_bytes, ids)) == some.encode()


@quick
@given(text=any_text_with_names)
def test_special_tokens_only_for_those_who_ask(tokenizer, encodings, text):
    if tokenizer.pattern not in encodings:
        encodings[tokenizer.pattern] = tokenizer.to_tiktoken()
    plain = tokenizer.encode(text)
    assert not set(plain) & {tokenizer.special_id(name) for name in COURSE_SPECIAL_TOKENS}
    ids = tokenizer.encode(text, allow_special=True)
    assert ids == encodings[tokenizer.pattern].encode(text, allowed_special="all")
    assert ids == tokenizer.encode_reference(text, allow_special=True)
    assert tokenizer.decode(plain) == tokenizer.decode(ids) == text
    names = sum(text.count(name) for name in COURSE_SPECIAL_TOKENS)
    assert sum(id >= len(tokenizer.tokens) for id in ids) == names


@quick
@given(data=st.one_of(st.binary(max_size=60), any_text.map(str.encode)))
def test_any_bytes_round_trip(tokenizer, data):
    assert tokenizer.decode_bytes(tokenizer.encode_bytes(data)) == data


def test_bytes_that_are_text_are_encoded_as_text(tokenizer):
    text = "the function returns é"
    assert tokenizer.encode_bytes(text.encode()) == tokenizer.encode(text)
    assert tokenizer.encode_bytes(b"\xff the") == [255, *tokenizer.encode(" the")]
    assert tokenizer.decode([255, *tokenizer.encode(" the")]) == "\ufffd the"
    with pytest.raises(ValueError, match="data must be bytes, got str"):
        tokenizer.encode_bytes("text")


ranked = st.dictionaries(
    st.text(alphabet="abc", min_size=2, max_size=5).map(str.encode), st.integers(0, 99), max_size=12
)


@quick
@given(ranked, st.text(alphabet="abc", max_size=40).map(str.encode))
def test_three_ways_to_merge_agree_for_any_ranks(ranks, piece):
    parts = [piece[place : place + 1] for place in range(len(piece))]
    while (joined := merge_once(parts, ranks)) is not None:
        parts = joined
    assert merge(piece, ranks) == parts
    # Equal ranks for different tokens exist in no vocabulary: the leftmost wins here as there.
    assert merge_long(piece, ranks) == parts


@settings(quick, max_examples=60)
@given(
    st.lists(st.text(alphabet="abc", min_size=2, max_size=5), unique=True, max_size=12),
    st.lists(st.text(alphabet="abc ", max_size=30), min_size=1, max_size=4).map("".join),
)
def test_lists_that_no_trainer_made_are_encoded_as_tiktoken_does(learned, text):
    tokens = [bytes([value]) for value in range(256)] + [token.encode() for token in learned]
    tokenizer = BPETokenizer(tuple(tokens), pattern="gpt2")
    long = text * 40  # tiktoken too has a second way for long pieces
    for some in (text, long, "ab" * 300 + text, long.replace(" ", "")):
        expected = tokenizer.to_tiktoken().encode_ordinary(some)
        assert tokenizer.encode_reference(some) == expected


@pytest.mark.parametrize("pattern", [GPT2_PATTERN, GPT4_PATTERN], ids=["gpt2", "gpt4"])
def test_the_pattern_for_ascii_cuts_as_the_real_one(pattern):
    rng = random.Random(0)
    real = regex.compile(pattern)
    alphabet = [chr(code) for code in range(128)]
    alphabet += list(" \n\r\t'sdmtSDMTrevl019.,") * 6 + ["'ll", "'VE", "\r\n", "   "] * 10
    for _ in range(4000):
        text = "".join(rng.choices(alphabet, k=rng.randint(0, 40)))
        assert text.isascii() and split(text, pattern) == real.findall(text)


@pytest.mark.parametrize("pattern", [GPT2_PATTERN, GPT4_PATTERN], ids=["gpt2", "gpt4"])
def test_stretches_of_ascii_in_other_text_are_cut_as_by_the_real_pattern(pattern):
    rng = random.Random(1)
    real = regex.compile(pattern)
    ends = [
        "é",
        "é ",
        " é",
        "\xa0 ",
        " \u2028",
        "é\n ",
        "\x1c ",
        " \x1c",
        "! ",
        " !\n",
        "  ",
        "'s ",
    ]
    between = "abc  \n\t!9'\x1c"
    for _ in range(1500):
        parts = []
        for _ in range(rng.randint(1, 4)):
            parts += rng.choices(ends, k=rng.randint(0, 3))
            parts += rng.choices(between, k=rng.choice([3, 99, 100, 101, 150]))
        text = "".join(parts)
        assert split(text, pattern) == real.findall(text)


def test_every_character_is_cut_as_tiktoken_cuts_it():
    # Between two letters, a letter and nothing else is cut nowhere. Asked for every character there
    # is, since two libraries seldom know the same version of Unicode.
    codes = [code for code in range(128, 0x110000) if not 0xD800 <= code <= 0xDFFF]
    text = "".join(f" a{chr(code)}a" for code in codes)
    ranks = {bytes([value]): value for value in range(256)}
    letters = tiktoken.Encoding(
        "letters", pat_str=r"a\p{L}a", mergeable_ranks=ranks, special_tokens={}
    )
    theirs = set(bytes(letters.encode_ordinary(text)).decode("utf-8")) - {"a"}
    ours = {piece[2] for piece in split(text, GPT4_PATTERN) if len(piece) == 4}
    assert ours == theirs
    assert len(theirs) > 130_000


@pytest.mark.parametrize("blank", [" ", "\n", "\t \r\n"])
def test_a_desert_of_blanks_does_not_break_the_fast_way(tokenizer, blank):
    text = "a" + blank * 12_000 + "b"
    assert not tokenizer._suits_tiktoken(text)
    assert not tokenizer._suits_tiktoken("word " * 3001 + blank * 10_000 + "word " * 3000)
    assert tokenizer._suits_tiktoken("word " * 9000 + blank * (9000 // len(blank)))
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert ids == tokenizer.to_tiktoken().encode_ordinary(text), "12,000 are few enough for both"


def test_merge_steps_go_from_bytes_to_tokens(tokenizer):
    steps = tokenizer.merge_steps(" return")
    assert steps[0] == [b" ", b"r", b"e", b"t", b"u", b"r", b"n"]
    assert all(b"".join(step) == b" return" for step in steps)
    assert [len(step) for step in steps] == list(range(7, 7 - len(steps), -1))
    assert [tokenizer.token_bytes(id) for id in tokenizer.encode(" return")] == steps[-1]
    assert tokenizer.merge_steps("") == [[]]


def test_without_tiktoken_the_ids_are_the_same(tokenizer, texts, monkeypatch):
    fresh = copy.copy(tokenizer)
    expected = tokenizer.encode(texts[0])
    monkeypatch.setitem(__import__("sys").modules, "tiktoken", None)
    assert fresh._tiktoken is None
    assert fresh.encode(texts[0]) == expected


def test_saved_and_loaded_it_is_the_same(tokenizer, tmp_path):
    data = json.loads(json.dumps(tokenizer.to_dict()))
    tokenizer.save(tmp_path / "sub" / "bpe.json")
    for loaded in (
        load_tokenizer(data),
        BPETokenizer.load(tmp_path / "sub" / "bpe.json"),
        pickle.loads(pickle.dumps(tokenizer)),
    ):
        assert loaded == tokenizer and type(loaded) is BPETokenizer
        assert loaded.encode("the end<|endoftext|>", True) == tokenizer.encode(
            "the end<|endoftext|>", True
        )
        assert loaded.vocab_size == tokenizer.vocab_size


def test_damaged_files_of_ours_are_refused_by_name(tokenizer, tmp_path):
    path = tmp_path / "mine.json"
    tokenizer.save(path)
    good = path.read_bytes()
    rng = random.Random(3)
    for _ in range(60):
        place = rng.randrange(len(good) - 1)
        path.write_bytes(
            good[:place] + bytes([good[place] ^ 1 << rng.randrange(8)]) + good[place + 1 :]
        )
        try:
            assert BPETokenizer.load(path) == tokenizer  # a changed blank between two fields
        except ValueError as error:
            assert str(error).startswith("mine.json: ")
    path.write_bytes(good.replace("Ġthe".encode(), "Ġtho".encode(), 1))
    with pytest.raises(ValueError, match=r"mine\.json: damaged: the checksum"):
        BPETokenizer.load(path)
    path.write_bytes(good[: len(good) // 2])
    with pytest.raises(ValueError, match=r"mine\.json: no JSON from line \d+"):
        BPETokenizer.load(path)
    path.write_text("[]")
    with pytest.raises(ValueError, match="must hold a JSON object, got list"):
        BPETokenizer.load(path)
    path.write_text("{}")
    with pytest.raises(ValueError, match="there is from_huggingface"):
        BPETokenizer.load(path)


def test_impossible_tokenizers_are_refused():
    bytes_alone = tuple(bytes([value]) for value in range(256))
    assert BPETokenizer(bytes_alone).encode("é") == [0xC3, 0xA9]
    with pytest.raises(ValueError, match=r"1 of the 256 single bytes are missing.* 0x07"):
        BPETokenizer(bytes_alone[:7] + bytes_alone[8:])
    with pytest.raises(ValueError, match="token b'ab' is there twice"):
        BPETokenizer((*bytes_alone, b"ab", b"ab"))
    with pytest.raises(ValueError, match=r"tokens\[256\] must be non-empty bytes, got ''"):
        BPETokenizer((*bytes_alone, ""))
    with pytest.raises(ValueError, match="got a single one"):
        BPETokenizer(b"abc")
    with pytest.raises(ValueError, match="special token '<a>' is there twice"):
        BPETokenizer(bytes_alone, ("<a>", "<a>"))
    with pytest.raises(ValueError, match="pattern must be a str"):
        BPETokenizer(bytes_alone, pattern=None)
    data = BPETokenizer(bytes_alone).to_dict()
    with pytest.raises(ValueError, match="must be a list of strings"):
        BPETokenizer.from_dict({**data, "tokens": "abc"})
    with pytest.raises(ValueError, match="spells no byte"):
        BPETokenizer.from_dict({**data, "tokens": [*data["tokens"], "a b"]})
    with pytest.raises(ValueError, match="must be spelled as a string, got int"):
        BPETokenizer.from_dict({**data, "tokens": [1]})


def test_bad_input_is_refused(tokenizer):
    with pytest.raises(ValueError, match=r"lone surrogate U\+DC80"):
        tokenizer.encode("a\udc80")
    with pytest.raises(ValueError, match="token id 700 at position 1 is out of range"):
        tokenizer.decode([0, 700])
    with pytest.raises(ValueError, match="no special token '<x>'"):
        tokenizer.special_id("<x>")
    with pytest.raises(ValueError, match="errors must be one of"):
        tokenizer.decode([0], errors="guess")


def test_the_examples_in_the_docstrings():
    for module in (bpe, bpe_files, bpe_merge, pretokenize):
        result = doctest.testmod(module)
        assert result.attempted and not result.failed
