"""The text that the base model is trained on: endless, the same each time, nothing held out."""

from __future__ import annotations

from itertools import islice

from llmcourse.data import arithmetic, tales
from llmcourse.data.arithmetic.corpus import is_held_out
from llmcourse.data.arithmetic.problems import QUESTION
from llmcourse.stages.base_text import encode, encoded, first_bytes, problems, stories
from llmcourse.tokenizers import END_OF_TEXT, ByteTokenizer

TOKENIZER = ByteTokenizer((END_OF_TEXT,))


def first(stream, n=60):
    return list(islice(stream, n))


def test_stories_are_the_same_each_time_and_others_for_another_seed():
    assert first(stories(frozenset(), 0)) == first(stories(frozenset(), 0))
    assert not set(first(stories(frozenset(), 0))) & set(first(stories(frozenset(), 1)))
    assert all(tales.verify(story).complete for story in first(stories(frozenset(), 0), 5))


def test_held_out_stories_are_left_out_and_the_others_stay():
    drawn = first(stories(frozenset(), 0))
    held_out = frozenset(drawn[::3])
    expected = [story for story in drawn if story not in held_out]
    assert first(stories(held_out, 0), len(expected)) == expected


def test_problems_are_right_of_every_level_and_not_held_out():
    texts = first(problems(range(1, 5), 0), 200)
    assert texts == first(problems(range(1, 5), 0), 200)
    assert all(arithmetic.verify(text).correct for text in texts[:50])
    longest = [max(len(word) for word in text.split() if word.isdigit()) for text in texts]
    assert min(longest) <= 2 and max(longest) >= 3  # of easy and of hard ones
    # Held out is a calculation: make every tenth problem anew from its question, and ask.
    for text in texts:
        question = text.split("\n")[0].removeprefix(QUESTION)
        problem = arithmetic.Problem(question, (), 1, "", arithmetic.solve(question).key)
        assert not is_held_out(problem)


def test_a_text_is_taken_whole_until_there_is_enough():
    assert list(first_bytes(["aa", "bbb", "cc", "d"], 5)) == ["aa", "bbb"]
    assert list(first_bytes(["aa", "bbb"], 100)) == ["aa", "bbb"]
    assert list(first_bytes(["éé", "b"], 3)) == ["éé"]  # bytes, not characters


def test_documents_stand_between_ends_of_text():
    end = TOKENIZER.special_id(END_OF_TEXT)
    [ids] = encode(["Ada"], TOKENIZER)
    assert ids == [end, *b"Ada", end]
    assert encoded(["Ada"], TOKENIZER) == [ids]
    stream = encoded(lambda: iter(["Ada", "Ben"]), TOKENIZER)
    assert next(stream()) == ids  # begun anew at each call
    assert len(list(stream())) == 2
