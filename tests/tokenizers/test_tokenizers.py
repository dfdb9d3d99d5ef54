"""Tokenizers against Python's own UTF-8 and plain dictionaries, on arbitrary Unicode text."""

import doctest
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llmcourse.tokenizers import (
    END_OF_TEXT,
    ByteTokenizer,
    CharacterTokenizer,
    Tokenizer,
    WordTokenizer,
    bytes,
    characters,
    load_tokenizer,
    words,
)

# Every character but surrogates, which UTF-8 has no bytes for.
any_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
SPECIALS = (END_OF_TEXT, "<|user|>", "<|user|><|again|>")
text_with_specials = st.lists(st.one_of(any_text, st.sampled_from(SPECIALS)), max_size=8).map(
    "".join
)
quick = settings(max_examples=150, deadline=None, derandomize=True)


def make(kind: str, text: str = "hello", special_tokens: tuple[str, ...] = ()) -> Tokenizer:
    if kind == "bytes":
        return ByteTokenizer(special_tokens)
    if kind == "words":
        return WordTokenizer.train([text, "".join(SPECIALS)], special_tokens)
    return CharacterTokenizer.train([text, "".join(SPECIALS)], special_tokens)


every_kind = pytest.mark.parametrize("kind", ["bytes", "characters", "words"])


@quick
@given(any_text)
def test_bytes_are_the_bytes_of_utf8(text):
    tokenizer = ByteTokenizer()
    assert tokenizer.encode(text) == list(text.encode("utf-8"))
    assert tokenizer.decode(tokenizer.encode(text), errors="strict") == text


@quick
@given(any_text, any_text.filter(bool))
def test_words_encode_any_text_and_give_it_back(text, seen):
    tokenizer = WordTokenizer.train([seen])
    for anything in (text, seen, text + seen):
        assert tokenizer.decode(tokenizer.encode(anything), errors="strict") == anything
    assert b"".join(map(tokenizer.token_bytes, tokenizer.encode(text))) == text.encode()


def test_a_word_takes_its_space_along_and_the_unknown_falls_into_bytes():
    tokenizer = WordTokenizer.train(["Ada's cat sat. Ada ran."], max_words=5)
    # All occur once, so Unicode's order decides, in which the space comes first of all.
    assert tokenizer.words == (" Ada", " cat", " ran", " sat", "'s")
    pieces = [tokenizer.token_bytes(i).decode() for i in tokenizer.encode(" Ada ran.")]
    assert pieces == [" Ada", " ran", "."]
    assert tokenizer.encode("Bo") == [66, 111]
    assert tokenizer.encode(".") == [46], "one byte has an id already"


def test_words_are_the_most_frequent_ones_whatever_the_order_of_the_texts():
    texts = ["the cat", "the dog", "the cat"]
    assert WordTokenizer.train(texts).words == ("the", " cat", " dog")
    assert WordTokenizer.train(texts[::-1]) == WordTokenizer.train(texts)
    assert WordTokenizer.train(texts, max_words=1).words == ("the",)


def test_bad_words_are_refused():
    with pytest.raises(ValueError, match="no words"):
        WordTokenizer.train(["", ""])
    with pytest.raises(ValueError, match="max_words=0"):
        WordTokenizer.train(["a"], max_words=0)
    with pytest.raises(ValueError, match="a single str"):
        WordTokenizer.train("a text")
    with pytest.raises(ValueError, match="word 'to' is there twice"):
        WordTokenizer(("to", "be", "to"))
    with pytest.raises(ValueError, match=r"words\[1\] is 'two words'"):
        WordTokenizer(("one", "two words"))


@quick
@given(any_text.filter(bool))
def test_characters_are_numbered_in_the_order_of_unicode(text):
    tokenizer = CharacterTokenizer.train([text])
    order = sorted(set(text))
    assert tokenizer.vocab_size == len(order)
    assert tokenizer.encode(text) == [order.index(character) for character in text]
    assert tokenizer.decode(tokenizer.encode(text)) == text


@every_kind
@quick
@given(text=text_with_specials)
def test_special_ids_come_only_when_allowed(kind, text):
    tokenizer = make(kind, text, SPECIALS)
    special_ids = {tokenizer.special_id(name) for name in SPECIALS}
    plain = tokenizer.encode(text)
    assert not special_ids.intersection(plain)
    allowed = tokenizer.encode(text, allow_special=True)
    assert tokenizer.decode(plain) == tokenizer.decode(allowed) == text
    # An independent count: cut the longest names out first, as a reader would.
    rest, expected = text, 0
    for name in sorted(SPECIALS, key=len, reverse=True):
        expected += rest.count(name)
        rest = rest.replace(name, "\0")
    assert sum(id in special_ids for id in allowed) == expected


def test_special_ids_follow_the_vocabulary():
    tokenizer = ByteTokenizer(("<|a|>", "<|b|>"))
    assert tokenizer.vocab_size == 258
    assert [tokenizer.special_id("<|a|>"), tokenizer.special_id("<|b|>")] == [256, 257]
    assert tokenizer.encode("x<|b|>y", allow_special=True) == [120, 257, 121]
    assert tokenizer.decode([120, 257, 121]) == "x<|b|>y"
    assert tokenizer.token_bytes(257) == b"<|b|>"
    letters = CharacterTokenizer.train(["cab"], ("<|a|>",))
    assert letters.special_id("<|a|>") == 3
    assert letters.encode("b<|a|>", allow_special=True) == [1, 3]


def test_the_longer_of_two_special_names_wins():
    tokenizer = ByteTokenizer(("<|user|>", "<|user|><|again|>"))
    assert tokenizer.encode("<|user|><|again|><|user|>", allow_special=True) == [257, 256]


def test_token_bytes_put_together_are_the_text():
    text = "naïve 日本 \N{GRINNING FACE}"
    for tokenizer in (ByteTokenizer(), CharacterTokenizer.train([text])):
        joined = b"".join(tokenizer.token_bytes(id) for id in tokenizer.encode(text))
        assert joined.decode("utf-8") == text
    assert [ByteTokenizer().token_bytes(id)[0] for id in range(256)] == list(range(256))


def test_broken_utf8_is_handled_as_asked():
    tokenizer = ByteTokenizer((END_OF_TEXT,))
    cut = list("aé".encode())[:2]  # "a" and the first half of "é"
    assert tokenizer.decode(cut) == "a\N{REPLACEMENT CHARACTER}"
    assert tokenizer.decode(cut, errors="ignore") == "a"
    assert tokenizer.decode(cut, errors="backslashreplace") == "a\\xc3"
    with pytest.raises(ValueError, match="unexpected end of data"):
        tokenizer.decode(cut, errors="strict")
    with pytest.raises(ValueError, match=r"errors must be one of replace.*got 'loose'"):
        tokenizer.decode(cut, errors="loose")
    # A special token between the halves of a character does not heal it.
    assert tokenizer.decode([0xC3, 256, 0xA9]) == f"\ufffd{END_OF_TEXT}\ufffd"


@every_kind
@pytest.mark.parametrize(
    "convert",
    [list, tuple, iter, np.array, torch.tensor, lambda ids: torch.tensor(ids, dtype=torch.int16)],
)
def test_decode_takes_any_row_of_integers(kind, convert):
    tokenizer = make(kind)
    assert tokenizer.decode(convert(tokenizer.encode("hello"))) == "hello"


@every_kind
def test_ids_out_of_range_are_named(kind):
    tokenizer = make(kind, special_tokens=(END_OF_TEXT,))
    top = tokenizer.vocab_size - 1
    assert tokenizer.decode([top]) == END_OF_TEXT
    for bad in (-1, top + 1, 10**30):
        with pytest.raises(ValueError, match=rf"id {bad} at position 1 .* ids 0 to {top}"):
            tokenizer.decode([0, bad])
        with pytest.raises(ValueError, match=rf"id {bad} .* ids 0 to {top}"):
            tokenizer.token_bytes(bad)


@every_kind
@pytest.mark.parametrize("bad", ["text", 3, [1.5], [[1, 2]], torch.zeros(2, 2).long(), [None]])
def test_ids_that_are_no_row_of_integers_are_refused(kind, bad):
    with pytest.raises(ValueError, match="ids must be one row of integers"):
        make(kind).decode(bad)


@every_kind
@given(before=any_text, after=any_text, code=st.integers(0xD800, 0xDFFF))
@quick
def test_lone_surrogates_are_refused_with_their_place(kind, before, after, code):
    with pytest.raises(ValueError, match=rf"position {len(before)} .*surrogate U\+{code:04X}"):
        make(kind, before + after).encode(before + chr(code) + after)


@every_kind
@pytest.mark.parametrize("bad", [b"bytes", None, 7, ["text"]])
def test_text_that_is_no_text_is_refused(kind, bad):
    with pytest.raises(ValueError, match="text must be a str, got"):
        make(kind).encode(bad)


def test_unknown_characters_are_named_with_their_place():
    tokenizer = CharacterTokenizer.train(["abc"], ("<|s|>",))
    with pytest.raises(ValueError, match="character 'z' at position 3"):
        tokenizer.encode("abczab")
    with pytest.raises(ValueError, match="character 'z' at position 7"):
        tokenizer.encode("a<|s|>bz", allow_special=True)


@every_kind
@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("<|a|>", "<|b|>", "<|a|>"), "'<|a|>' is there twice"),
        (("",), "non-empty string, got ''"),
        ((3,), "non-empty string, got 3"),
        ("<|a|>", "must be a tuple of names"),
    ],
)
def test_bad_special_tokens_are_refused(kind, names, message):
    with pytest.raises(ValueError) as caught:
        make(kind, special_tokens=names)
    assert message in str(caught.value)


@every_kind
def test_unknown_special_tokens_are_refused(kind):
    with pytest.raises(ValueError, match=r"no special token '<\|x\|>'.*has: none"):
        make(kind).special_id("<|x|>")
    with pytest.raises(ValueError, match=r"has: '<\|a\|>', '<\|b\|>'"):
        make(kind, special_tokens=("<|a|>", "<|b|>")).special_id("<|x|>")


def test_a_vocabulary_needs_characters_and_each_once():
    for texts in ([], ["", ""]):
        with pytest.raises(ValueError, match="no characters"):
            CharacterTokenizer.train(texts)
    with pytest.raises(ValueError, match="characters is empty"):
        CharacterTokenizer("")
    with pytest.raises(ValueError, match="character 'a' is there twice"):
        CharacterTokenizer("aba")
    with pytest.raises(ValueError, match="surrogate"):
        CharacterTokenizer("a\ud800")


@quick
@given(
    text=any_text.filter(bool), specials=st.lists(any_text.filter(bool), unique=True, max_size=3)
)
def test_saved_and_loaded_it_is_the_same(text, specials):
    for tokenizer in (
        ByteTokenizer(tuple(specials)),
        CharacterTokenizer.train([text], tuple(specials)),
        WordTokenizer.train([text], tuple(specials)),
    ):
        data = json.loads(json.dumps(tokenizer.to_dict()))
        loaded = load_tokenizer(data)
        assert loaded == tokenizer and type(loaded) is type(tokenizer)
        assert loaded.encode(text) == tokenizer.encode(text)
        assert loaded.vocab_size == tokenizer.vocab_size


def test_saved_tokenizers_of_other_shapes_are_refused():
    with pytest.raises(ValueError, match="no tokenizer of kind 'unigram'; there are: bytes, char"):
        load_tokenizer({"kind": "unigram"})
    with pytest.raises(ValueError, match="is a dict, got list"):
        load_tokenizer([])
    with pytest.raises(ValueError, match=r"has the fields \['kind', 'special_tokens'\]"):
        load_tokenizer({"kind": "bytes", "special_tokens": [], "merges": []})
    with pytest.raises(ValueError, match="of kind 'bytes', got 'characters'"):
        ByteTokenizer.from_dict(CharacterTokenizer("a").to_dict())


@every_kind
def test_tokenizers_fulfil_the_interface(kind):
    assert isinstance(make(kind), Tokenizer)


@pytest.mark.parametrize("module", [bytes, characters, words])
def test_examples_in_docstrings(module):
    assert doctest.testmod(module).failed == 0


def test_tokenizers_do_not_import_torch():
    code = "import sys, llmcourse.tokenizers; assert not {'torch', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
