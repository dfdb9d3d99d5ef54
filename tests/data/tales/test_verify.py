"""The verifier and the questions."""

import random
import string

import pytest

from llmcourse.data import tales

START = "Ada sat in the barn one sunny day. She could not find her red ball."
CLUE = " It had to be in the barn or in the kitchen."


def test_sampled_stories_pass():
    for seed in range(300):
        story = tales.sample_story(seed)
        verdict = tales.verify(story.text)
        assert verdict.grammatical and verdict.consistent and verdict.complete
        assert verdict.problems == ()
        n = len(story.sentences)
        assert verdict.n_sentences == verdict.grammatical_sentences == n
        assert verdict.consistent_sentences == n


def test_any_string_gets_a_verdict():
    rng = random.Random(0)
    texts = ["", " ", ".", '"', "...", "A. B. C.", "\x00", "é", "They", "%s %d", "[then]", "{a}."]
    texts += ["".join(rng.choices(string.printable, k=rng.randrange(80))) for _ in range(300)]
    for text in texts:
        verdict = tales.verify(text)
        assert not verdict.complete and verdict.problems
        assert verdict.grammatical_sentences == 0
    with pytest.raises(TypeError, match="needs a str"):
        tales.verify(None)


def test_every_truncation_is_told_from_a_mistake():
    story = tales.sample_story(12)
    for cut in range(1, len(story.text)):
        verdict = tales.verify(story.text[:cut])
        assert not verdict.complete
        assert verdict.grammatical_sentences == verdict.n_sentences
        assert all(s.grammatical or s.unfinished for s in verdict.sentences), story.text[:cut]


def test_damage_is_found():
    """One word changed: the sentence is ungrammatical, inconsistent, or another possible one."""
    rng = random.Random(1)
    found = 0
    for seed in range(200):
        words = tales.sample_story(seed).text.split(" ")
        i = rng.randrange(len(words) - 1)
        words[i], words[i + 1] = words[i + 1], words[i]
        verdict = tales.verify(" ".join(words))
        found += not (verdict.grammatical and verdict.consistent)
    assert found >= 190


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Tom gladly gave the ball to Ada.", "the story needs an opening first"),
        (START + " Tom felt so sad.", "the story needs a place to go first"),
        (START + CLUE + " Tom felt so sad.", "Tom is not in the story"),
        (START + CLUE + " He felt so sad.", "it is not clear who or what 'he' is"),
        (START + CLUE + " They gladly played with the ball.", "who or what 'they' is"),
        (START + CLUE + " Ada gladly put the kite in the hay.", "there is no kite in the story"),
        (START + CLUE + " Ada looked in the reeds and found the ball!", "cannot happen"),
        (START + CLUE + " Ada looked in the hay in vain.", "unknown word 'vain'"),
        (START + CLUE + " Ada looked in the red hay.", "not a sentence of this world"),
        (
            START
            + CLUE
            + " Ada looked in the hay and saw a wet nail. She looked in the hay and saw "
            "a wet nail.",
            "the hay has been searched before",
        ),
        (START + CLUE + " Ada sat in the barn one sunny day.", "already begun"),
        (
            START + CLUE + " Soon Tom the baker ran up. She politely asked for help to find "
            "it. She felt so sad.",
            "Tom has not answered yet",
        ),
        (
            START + CLUE + " Soon Tom the baker ran up. Ada went to the kitchen. Tom felt so sad.",
            "Tom is not in the kitchen",
        ),
    ],
)
def test_reasons(text, reason):
    verdict = tales.verify(text)
    assert not verdict.consistent
    assert reason in verdict.problems[0]


def test_nothing_follows_an_ending():
    story = tales.sample_story(3)
    verdict = tales.verify(story.text + " A robin sat by the gates.")
    assert verdict.grammatical and not verdict.consistent
    assert "the story is over" in verdict.problems[0]


def test_texts_outside_and_impossible_texts():
    with pytest.raises(tales.ParseError, match="sentence 2: not a sentence") as caught:
        tales.log_probability("Ada sat in the barn one sunny day. Xyzzy.")
    assert caught.value.index == 1 and isinstance(caught.value, ValueError)
    with pytest.raises(tales.ParseError):
        tales.log_probability("")
    assert tales.log_probability(START) == float("-inf")  # no ending
    assert tales.log_probability("Tom gladly gave the ball to Ada.") == float("-inf")
    with pytest.raises(ValueError, match="cannot happen"):
        tales.parse("Tom gladly gave the ball to Ada.")
    with pytest.raises(ValueError, match="this cannot happen"):
        tales.next_kinds("Tom gladly gave the ball to Ada.")


def test_questions_have_true_answers():
    text = (
        START + CLUE + " Soon Tom the baker ran up. Ada looked in the hay and found the ball! "
        "Then Ada and Tom played with the ball. It had been a fine day in the old village."
    )
    asked = {q.text: q for q in tales.questions(text)}
    answers = {
        "Where was Ada last?": "in the barn",
        "Who found the ball?": "Ada",
        "Who had the ball in the end?": "Ada",
        "How did Tom feel in the end?": "happy",
        "Why did Tom feel happy in the end?": "because playing with the ball was fun",
        "What was Tom's trade?": "baker",
        "What was Ada's trade?": tales.UNKNOWN,
        "What kind of ball was it?": "a red ball",
        "Where was the person who had the ball last?": "in the barn",
        "Who came into the story first, Ada or Tom?": "Ada",
        "What was the weather like in the end?": "sunny",
    }
    assert {q: asked[q].answer for q in answers} == answers
    assert asked["Where was the person who had the ball last?"].hops == 2
    assert not asked["What was Ada's trade?"].answerable


def test_questions_about_sampled_stories():
    kinds = set()
    for seed in range(200):
        story = tales.sample_story(seed)
        found = tales.questions(story)
        assert found == tales.questions(story.text)
        assert len({q.text for q in found}) == len(found)
        kinds |= {q.kind for q in found}
        for q in found:
            assert q.answerable == (q.answer != tales.UNKNOWN)
            if q.kind == "who":
                assert q.answer in story.text
            if q.kind == "who has" and q.answerable:
                assert story.state.holder[q.text.split()[3]] == q.answer
        assert any(not q.answerable for q in found) and any(q.answerable for q in found)
    assert kinds == {
        "where",
        "who has",
        "feeling",
        "why",
        "who",
        "first",
        "trade",
        "thing",
        "weather",
    }
