"""Token classes against texts that were read by hand."""

from __future__ import annotations

import keyword

import pytest

from llmcourse.data import tales
from llmcourse.data.tales import vocabulary
from llmcourse.evaluate.token_classes import (
    CLASSES,
    KINDS,
    spans,
    token_classes,
    village_lexicon,
)
from llmcourse.tokenizers import BPETokenizer, ByteTokenizer, WordTokenizer


def labelled(text, kind):
    """Words and signs with their classes, spaces left out."""
    return [(text[a:b], name) for a, b, name in spans(text, kind) if name != "spaces"]


def test_a_story_is_read_as_a_person_reads_it():
    text = "Mia gave the red ball to Ben's friend by the pond."
    assert labelled(text, "tales") == [
        ("Mia", "names"), ("gave", "verbs"), ("the", "function words"),
        ("red", "describing words"), ("ball", "objects"), ("to", "function words"),
        ("Ben's", "names"), ("friend", "plain words"), ("by", "function words"),
        ("the", "function words"), ("pond", "places"), (".", "punctuation"),
    ]  # fmt: skip


def test_a_sum_is_digits_and_operators():
    found = labelled("12 + 3 = 15, so 15 apples.", "arithmetic")
    assert found == [
        ("1", "digits"), ("2", "digits"), ("+", "operators"), ("3", "digits"), ("=", "operators"),
        ("1", "digits"), ("5", "digits"), (",", "punctuation"), ("so", "function words"),
        ("1", "digits"), ("5", "digits"), ("apples", "plain words"), (".", "punctuation"),
    ]  # fmt: skip


def test_code_is_read_as_python_and_its_comments_as_prose():
    text = 'def f(x1):  # return the 2 parts\n    return x1 + 3.5e2 if x1 else "if it is"\n'
    found = labelled(text, "code")
    assert [name for word, name in found if word == "return"] == ["plain words", "code keywords"]
    assert [name for word, name in found if word == "if"] == ["code keywords", "function words"]
    assert dict(found)["x1"] == dict(found)["f"] == "identifiers"
    assert ("3.5e2", "digits") in found and ("2", "digits") in found
    assert ("+", "operators") in found and (":", "punctuation") in found


@pytest.mark.parametrize(
    "text",
    [
        '"""half a docstring\nand on',
        "'open",
        "x = '''a\nb''' + 'c'",
        'r"\\"',
        "",
        "\t\n",
        "é = 'ü'",
    ],
)
def test_spans_leave_no_gap_and_end_with_the_text(text):
    for kind in KINDS:
        place = 0
        for start, stop, name in spans(text, kind):
            assert start == place and stop > start and name in CLASSES
            place = stop
        assert place == len(text)


def test_all_that_the_village_lists_is_known():
    lexicon = village_lexicon()
    assert all(lexicon[person.name.lower()] == "names" for person in vocabulary.PEOPLE)
    assert all(lexicon[thing.noun] == "objects" for thing in vocabulary.THINGS)
    assert all(lexicon[place.name] == "places" for place in vocabulary.PLACES)
    assert all(lexicon[word] == "verbs" for word in ("ran", "whistled", "said", "gave"))
    # Little of the stories is left without a class of its own.
    names = [
        name
        for story in tales.sample_stories(200, seed=8)
        for _, _, name in spans(story, "tales")
        if name not in ("spaces", "punctuation")
    ]
    assert names.count("plain words") / len(names) < 0.04
    assert {"names", "verbs", "objects", "places", "describing words"} <= set(names)


def test_keywords_are_pythons_own():
    assert all(labelled(word, "code")[0][1] == "code keywords" for word in keyword.kwlist)
    assert labelled("printed", "code") == [("printed", "identifiers")]


def test_each_token_has_the_class_of_what_it_begins_with():
    text = "Mia saw 12 cats.\n    ü"
    words = WordTokenizer.train([text])
    found = token_classes(text, words.encode(text), words, "tales")
    spelled = [words.decode([i]) for i in words.encode(text)]
    assert dict(zip(spelled, (CLASSES[i] for i in found.tolist())))[" saw"] == "verbs"
    every = ByteTokenizer()
    by_byte = [CLASSES[i] for i in token_classes(text, every.encode(text), every, "tales")]
    assert by_byte[:4] == ["names"] * 3 + ["spaces"] and by_byte[8:10] == ["digits"] * 2
    assert by_byte[-2:] == ["plain words"] * 2, "both bytes of one character"
    assert len(by_byte) == len(text.encode())


def test_pieces_of_a_name_are_pieces_of_a_name():
    pieces = BPETokenizer.train(["Wendy ran. " * 3], 257)
    text = "Wendy ran."
    ids = pieces.encode(text)
    assert len(ids) > 3
    found = [CLASSES[i] for i in token_classes(text, ids, pieces, "tales")]
    place = 0
    for token, name in zip(ids, found, strict=True):
        piece = pieces.token_bytes(token)
        inside = place < len("Wendy") or piece.strip() == b""
        assert (name == "names") == (place < len("Wendy")) or not inside
        place += len(piece)


def test_what_does_not_fit_is_refused():
    every = ByteTokenizer()
    with pytest.raises(ValueError, match="do not spell"):
        token_classes("cat", every.encode("cut"), every, "tales")
    with pytest.raises(ValueError, match=r"'poems'.*tales"):
        token_classes("cat", every.encode("cat"), every, "poems")
