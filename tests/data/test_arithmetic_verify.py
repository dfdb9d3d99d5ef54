"""The verifier refuses every text that is wrong, and says where."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmcourse.data.arithmetic import LEVELS, problem, verify

quick = settings(max_examples=150, deadline=None, derandomize=True)
problems = st.builds(problem, st.integers(0, 10**9), st.sampled_from(sorted(LEVELS)))

STORY = "Ada has 47 coins. Ben gives her 85 more. How many coins does Ada have now?"
GOOD = f"Question: {STORY}\nStep: 47 + 5 = 52\nStep: 52 + 80 = 132\nAnswer: 132"


def text_of(question: str, steps, answer) -> str:
    lines = [f"Question: {question}", *(f"Step: {step}" for step in steps), f"Answer: {answer}"]
    return "\n".join(lines)


@quick
@given(problems, st.data())
def test_a_changed_digit_in_a_step_is_found_there(problem, data):
    index = data.draw(st.integers(0, len(problem.steps) - 1))
    step = problem.steps[index]
    place = data.draw(st.sampled_from([m.start() for m in re.finditer(r"[0-9]", step)]))
    digit = data.draw(st.sampled_from([d for d in "0123456789" if d != step[place]]))
    steps = list(problem.steps)
    steps[index] = step[:place] + digit + step[place + 1 :]
    verdict = verify(text_of(problem.question, steps, problem.answer))
    assert not verdict.correct and not verdict.complete and verdict.answer_correct
    assert verdict.wrong_step == index + 1
    assert any(p.startswith(f"step {index + 1}: ") for p in verdict.problems)


@quick
@given(problems, st.data())
def test_another_sign_is_found(problem, data):
    index = data.draw(st.integers(0, len(problem.steps) - 1))
    old = problem.steps[index].split(" ")[1]
    new = data.draw(st.sampled_from([sign for sign in "+-*" if sign != old]))
    steps = list(problem.steps)
    steps[index] = steps[index].replace(f" {old} ", f" {new} ")
    verdict = verify(text_of(problem.question, steps, problem.answer))
    # Also where the equation stays true, as 2 + 2 = 4 does: it is not what was asked.
    assert not verdict.complete and verdict.wrong_step == index + 1


@quick
@given(problems, st.data())
def test_a_step_left_out_or_told_twice_is_found(problem, data):
    index = data.draw(st.integers(0, len(problem.steps) - 1))
    left_out = [*problem.steps[:index], *problem.steps[index + 1 :]]
    twice = [*problem.steps[: index + 1], *problem.steps[index:]]
    for steps in (left_out, twice):
        verdict = verify(text_of(problem.question, steps, problem.answer))
        assert not verdict.complete and not verdict.correct and verdict.problems


@quick
@given(problems, st.integers(-(10**6), 10**6).filter(bool))
def test_every_other_answer_is_refused(problem, difference):
    verdict = verify(text_of(problem.question, problem.steps, problem.answer + difference))
    assert verdict.complete and not verdict.answer_correct and not verdict.correct
    assert verdict.problems[-1].startswith(f"the answer is {problem.answer}, not ")


@quick
@given(problems, st.data())
def test_another_question_makes_the_old_steps_wrong(problem, data):
    places = list(re.finditer(r"[0-9]+", problem.question))
    place = data.draw(st.sampled_from(places))
    number = int(place[0]) + data.draw(st.sampled_from([-1, 1]))
    question = problem.question[: place.start()] + str(number) + problem.question[place.end() :]
    assert not verify(text_of(question, problem.steps, problem.answer)).correct


@quick
@given(st.text() | st.text("0123456789 +-*=\n") | st.text(max_size=40).map(lambda t: GOOD + t))
def test_any_text_gets_a_verdict(text):
    verdict = verify(text)
    assert verdict.correct == (text.strip() == GOOD)
    assert bool(verdict.problems) != verdict.correct


@quick
@given(problems, st.data())
def test_the_beginning_of_a_text_is_never_correct_but_never_blamed_for_a_whole_step(problem, data):
    text = problem.text
    cut = data.draw(st.integers(0, len(text) - 1))
    verdict = verify(text[:cut])
    whole = verdict.steps if text[cut] == "\n" else verdict.steps[:-1]
    assert all(step.correct for step in whole)
    assert not verdict.correct


@pytest.mark.parametrize(
    "steps",
    [
        ["47 + 85 = 132"],
        ["85 + 47 = 132"],
        ["5 + 47 = 52", "80 + 52 = 132"],
        ["47 + 80 = 127", "127 + 5 = 132"],
        ["85 + 7 = 92", "92 + 40 = 132"],
    ],
)
def test_other_right_ways_are_accepted(steps):
    assert verify(text_of(STORY, steps, 132)).correct


def test_ways_to_a_product():
    for steps in (
        ["24 * 13 = 312"],
        ["24 * 3 = 72", "24 * 10 = 240", "72 + 240 = 312"],
        ["24 * 3 = 72", "24 * 10 = 240", "72 + 40 = 112", "112 + 200 = 312"],
        ["13 * 20 = 260", "13 * 4 = 52", "260 + 52 = 312"],
    ):
        assert verify(text_of("24 * 13 = ?", steps, 312)).correct
    cut = ["24 * 3 = 72", "24 * 10 = 240"]
    verdict = verify(text_of("24 * 13 = ?", cut, 312))
    assert not verdict.complete and verdict.wrong_step is None and verdict.answer_correct
    assert verdict.problems == ("steps are missing: after step 2 there is more to work out",)


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("= 52", "= 53", "step 1: 47 + 5 is 52, not 53"),
        (
            "47 + 5 = 52",
            "47 + 6 = 53",
            "step 1: true, but what follows here is for example '47 + 5",
        ),
        (
            "52 + 80 = 132",
            "1 + 1 = 2",
            "step 2: true, but what follows here is for example '52 + 8",
        ),
        ("47 + 5 = 52", "47 plus 5", "step 1: not of the form 'a + b = c'"),
        ("47 + 5 = 52", "47+5=52", "step 1: not of the form"),
        ("47 + 5 = 52", "047 + 5 = 52", "step 1: not of the form"),
        ("47 + 5 = 52", "47 + 5 = " + "9" * 5000, "step 1: not of the form"),
        ("\nAnswer", "\nStep: 132 + 1 = 133\nAnswer", "step 3: needless"),
        ("Answer: 132", "Answer: 133", "the answer is 132, not '133'"),
        ("Answer: 132", "Answer: 0132", "the answer is 132, not '0132'"),
        ("Answer: 132", "Answer: 132\nAnswer: 132", "line 5: the text goes on after the answer"),
        ("\nAnswer: 132", "", "there is no answer"),
        ("Step: 52", "step: 52", "line 3: must begin with 'Step: ' or 'Answer: '"),
        ("Question: ", "", "line 1: must begin with 'Question: '"),
        ("gives her", "gives him", "line 1: not a question of this kind"),
        ("Ben gives", "Ada gives", "line 1: not a question of this kind"),
        ("coins does", "balls does", "line 1: not a question of this kind"),
        ("85 more", "0 more", "line 1: not a question of this kind"),
        (STORY, "Ada has 47 coins. How many coins does Ada have now?", "line 1: not a question"),
        (STORY, "What is 7 - 47?", "line 1: not a question of this kind"),
        (
            "How many coins does Ada have now?",
            "Her sister has 3 coins. How many figs do they have together?",
            "line 1: not a question of this kind",
        ),
    ],
)
def test_what_is_said_about_what_is_wrong(old, new, problem):
    assert GOOD.count(old) == 1 and verify(GOOD).correct
    verdict = verify(GOOD.replace(old, new))
    assert not verdict.correct
    assert any(p.startswith(problem) for p in verdict.problems), verdict.problems


def test_after_a_wrong_step_equations_are_judged_alone():
    steps = ["47 + 5 = 53", "53 + 80 = 133", "133 + 1 = 135"]
    verdict = verify(text_of(STORY, steps, 133))
    assert [step.correct for step in verdict.steps] == [False, True, False]
    assert verdict.wrong_step == 1 and verdict.expected == 132


@pytest.mark.parametrize("text", ["", " \n", "\n\n"])
def test_nothing(text):
    verdict = verify(text)
    assert not verdict.readable and verdict.expected is None and verdict.steps == ()


def test_only_strings():
    with pytest.raises(TypeError, match="verify needs a str, got bytes"):
        verify(b"Question: ")
