"""The verifier: is each step true, does it follow, and is the answer right? Part 4.

Works on any string, as a reward in Part 8 must. The question is solved anew from its own words;
nothing that the text claims is believed. A step is right if its equation is true *and* it is the
next step of an accepted way to work out the next operation (`calculation.derivations`; numbers
of a sum or product may be swapped). After the first wrong step there is no telling what the next
should be, so later steps are judged by their equation alone.

Deviation from a proof checker: operations must come in the order in which the question tells them;
another right order is refused with the step that was expected. The answer is judged on its own
(`answer_correct`), so a reward can ask for the answer only.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import takewhile

from llmcourse.data.arithmetic.calculation import Calculation, Step, derivations
from llmcourse.data.arithmetic.problems import ANSWER, QUESTION, STEP, solve

# Long enough for every true result; a bound, since Python refuses to read numbers without end.
_NUMBER = "(0|[1-9][0-9]{0,199})"
_EQUATION = re.compile(rf"{_NUMBER} ([-+*]) {_NUMBER} = {_NUMBER}")
_ANSWER = re.compile(_NUMBER)


@dataclass(frozen=True)
class StepVerdict:
    """What the verifier says about one step. `reason` is empty if all is well."""

    text: str  # without the word "Step: "
    correct: bool
    reason: str


@dataclass(frozen=True)
class Verdict:
    """What the verifier says about a text."""

    readable: bool  # a question that can be solved, then steps, then an answer, and nothing else
    steps: tuple[StepVerdict, ...]
    complete: bool  # the steps are right and lead all the way to the answer
    answer_correct: bool  # whatever the steps say
    expected: int | None  # the true answer; None if the question cannot be solved
    problems: tuple[str, ...]  # everything that is wrong, in words

    @property
    def correct(self) -> bool:
        """The text is as a teacher would want it: form, every step and the answer."""
        return self.readable and self.complete and self.answer_correct

    @property
    def wrong_step(self) -> int | None:
        """The number of the first wrong step, from 1; None if no step is wrong."""
        return next((i for i, step in enumerate(self.steps, start=1) if not step.correct), None)


def verify(text: str) -> Verdict:
    """Judges any string. Surrounding white space is ignored; everything else counts.

    Raises:
        TypeError: `text` is not a string.
    """
    if not isinstance(text, str):
        raise TypeError(f"verify needs a str, got {type(text).__name__}")
    lines = text.strip().split("\n")
    problems: list[str] = []
    question, steps, answer = _lines(lines, problems)
    calculation = solve(question) if question else None
    if question and calculation is None:
        problems.append("line 1: not a question of this kind")
    readable = not problems

    verdicts, complete = _judge(steps, calculation)
    problems += [f"step {i}: {v.reason}" for i, v in enumerate(verdicts, start=1) if v.reason]
    expected = calculation.answer if calculation else None
    if calculation and not complete and all(verdict.correct for verdict in verdicts):
        problems.append(f"steps are missing: after step {len(verdicts)} there is more to work out")
    right = answer is not None and _ANSWER.fullmatch(answer) is not None and int(answer) == expected
    if answer is not None and expected is not None and not right:
        problems.append(f"the answer is {expected}, not {answer[:60]!r}")
    return Verdict(readable, tuple(verdicts), complete, right, expected, tuple(problems))


def _lines(lines: list[str], problems: list[str]) -> tuple[str, list[str], str | None]:
    """Question, steps and answer of a text; what is wrong with its form goes to `problems`."""
    if not lines[0].startswith(QUESTION):
        problems.append(f"line 1: must begin with {QUESTION!r}")
        return "", [], None
    steps: list[str] = []
    answer = None
    for number, line in enumerate(lines[1:], start=2):
        if answer is not None:
            problems.append(f"line {number}: the text goes on after the answer")
            break
        if line.startswith(STEP):
            steps.append(line.removeprefix(STEP))
        elif line.startswith(ANSWER):
            answer = line.removeprefix(ANSWER)
        else:
            problems.append(f"line {number}: must begin with {STEP!r} or {ANSWER!r}")
    if answer is None:
        problems.append("there is no answer")
    return lines[0].removeprefix(QUESTION), steps, answer


def _judge(texts: list[str], calculation: Calculation | None) -> tuple[list[StepVerdict], bool]:
    """A verdict for each step, and whether they lead to the end."""
    read = [_read(text) for text in texts]
    verdicts = [StepVerdict(text, not reason, reason) for text, (_, reason) in zip(texts, read)]
    if calculation is None:
        return verdicts, False
    # A false equation is never part of a derivation: it is put in as None, which equals no step.
    given = [None if reason else step for step, reason in read]
    place, wanted = _walk(given, calculation)
    if wanted is None and place == len(given):
        return verdicts, True
    if place < len(given) and verdicts[place].correct:
        reason = (
            f"true, but what follows here is for example {str(wanted)!r}"
            if wanted
            else "needless: the answer had been worked out before"
        )
        verdicts[place] = StepVerdict(texts[place], False, reason)
    return verdicts, False


def _walk(given: list[Step | None], calculation: Calculation) -> tuple[int, Step | None]:
    """How many steps are right, and a step that should come next (None: nothing is missing)."""
    place = 0
    for operation in calculation.operations:
        ways = derivations(operation)
        matched = [_matches(way, given[place:]) for way in ways]
        done = [n for n, way in zip(matched, ways) if n == len(way)]
        if not done:
            furthest = max(range(len(ways)), key=lambda i: matched[i])  # the first of the best
            return place + matched[furthest], ways[furthest][matched[furthest]]
        place += max(done)
    return place, None


def _matches(way: tuple[Step, ...], given: list[Step | None]) -> int:
    """How many of the given steps begin this way of working it out."""
    pairs = zip(way, given)  # whichever ends first
    return sum(1 for _ in takewhile(lambda p: p[1] and p[0].turned == p[1].turned, pairs))


def _read(text: str) -> tuple[Step | None, str]:
    """The equation of a step, and what is wrong with it by itself."""
    match = _EQUATION.fullmatch(text)
    if match is None:
        return None, "not of the form 'a + b = c' (or - or *)"
    step = Step(match[2], int(match[1]), int(match[3]))
    if step.result != int(match[4]):
        return step, f"{step.left} {step.operator} {step.right} is {step.result}, not {match[4]}"
    return step, ""
