"""`check("1.3", attention)`: instant feedback on one answer.

Inputs are tried from the smallest up, so the first that fails is the one to think about. A failure
says which property broke, on which input, what came and what was expected, and, where the answer
behaves like a known mistake on every input, which mistake that is.
"""

from __future__ import annotations

import contextlib
import textwrap
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from llmcourse.grading.diagnosis import diagnose
from llmcourse.grading.guard import Guard, library_of
from llmcourse.grading.judge import (
    Case,
    Outcome,
    Problem,
    drawn_case,
    example_cases,
    judge,
    run,
    seeded,
)
from llmcourse.grading.records import (
    Answer,
    CheckFailed,
    Exercise,
    NotAttempted,
    Property,
    WrongAnswer,
    exercises,
    find,
)
from llmcourse.grading.values import copy, difference, show

__all__ = [
    "DEFAULT_SEEDS",
    "CheckFailed",
    "Exercise",
    "NotAttempted",
    "Property",
    "Verdict",
    "WrongAnswer",
    "assess",
    "check",
    "exercises",
    "find",
]

DEFAULT_SEEDS = (0, 1, 2)
WIDTH = 96  # characters in a line of a message

PASSED, FAILED, NOT_ATTEMPTED = "passed", "failed", "not attempted"


@dataclass(frozen=True)
class Verdict:
    """What the checker thinks of an answer. `message` is what a learner reads."""

    status: str  # "passed", "failed" or "not attempted"
    message: str
    broken: str = ""
    misconception: str | None = None
    error: float = 0.0  # of the failing case, relative to the largest expected magnitude


def check(exercise_id: str, answer: Any, *, seeds: Iterable[int] = DEFAULT_SEEDS) -> None:
    """Check an answer to an exercise; prints one line if it is right.

    Args:
        exercise_id: such as "1.3".
        answer: the function you wrote.
        seeds: which random inputs to try.

    Raises:
        CheckFailed: the answer is wrong; the message says how.
        NotAttempted: the answer is still the stub.
        ValueError: there is no such exercise.
    """
    exercise = find(exercise_id)
    verdict = assess(exercise, answer, seeds)
    notice = _remember(exercise, verdict)
    if notice:
        print(notice)
    if verdict.status == NOT_ATTEMPTED:
        raise NotAttempted(verdict.message) from None
    if verdict.status == FAILED:
        raise CheckFailed(
            verdict.message, exercise.id, verdict.broken, verdict.misconception
        ) from None
    # One write: print's separate newline can reach a notebook as an output of its own.
    print(f"{verdict.message}\n", end="")


def assess(exercise: Exercise, answer: Any, seeds: Iterable[int] = DEFAULT_SEEDS) -> Verdict:
    """Check an answer and return the verdict instead of raising it.

    Writes nothing anywhere, and leaves the global random generators as it found them.
    """
    with seeded(0):
        return _assess(exercise, answer, list(seeds))


def _assess(exercise: Exercise, answer: Any, seeds: list[int]) -> Verdict:
    if answer is None or answer is ...:
        return _not_attempted(exercise)
    if not callable(answer):
        detail = f"`{exercise.name}` is {show(answer)}; it must be a function {exercise.signature}"
        return _failed(exercise, "the answer is a function", [detail])
    library = library_of(answer)
    if library:
        detail = f"{library} is somebody else's function; write your own {exercise.signature}"
        return _failed(exercise, "the work is your own", [detail])
    guard = Guard(exercise.forbidden)
    shortcut = guard.read(answer)
    if shortcut:
        detail = f"`{exercise.name}` uses {shortcut}, which does the exercise for you"
        return _failed(exercise, "the work is your own", [detail])

    cases = [drawn_case(exercise, seed, size) for size in range(exercise.sizes) for seed in seeds]
    cases += example_cases(exercise)
    outcomes: list[Outcome] = []

    def call(*others: Any) -> Any:
        return answer(*copy(others))

    for index, case in enumerate(cases):
        outcome = run(exercise, answer, case, guard)
        outcomes.append(outcome)
        problem = judge(exercise, case, outcome, call)
        if problem is not None:
            outcomes += [run(exercise, answer, other, guard) for other in cases[index + 1 :]]
            return _wrong(exercise, cases, outcomes, index, problem)
    restless = _restless(exercise, answer, cases[-1], outcomes[-1])
    return restless or Verdict(PASSED, _passed(exercise))


def _wrong(
    exercise: Exercise,
    cases: list[Case],
    outcomes: list[Outcome],
    index: int,
    problem: Problem,
) -> Verdict:
    case, outcome = cases[index], outcomes[index]
    if all(one.stub for one in outcomes):
        return _not_attempted(exercise, returned=outcome.error is None)
    examples = list(zip(cases, outcomes))[-len(exercise.examples) :]
    right = all(
        one.error is None
        and difference(one.value, example.expected, exercise.any_float).error <= exercise.tolerance
        for example, one in examples
    )
    cause = None
    if outcome.shortcut is None and outcome.changed is None:
        cause = diagnose(exercise, cases, outcomes, index, right)
    if cause is None and outcome.stub:
        cause = "Some inputs get no result: is there a branch that ends without `return`?"
    lines = [problem.detail] if problem.detail else []
    digits = 12 if problem.error < 1e-3 else 4  # enough for the difference to be seen
    wanted = show(case.expected, digits)
    if wanted.endswith("...") and problem.where:  # too large to find the difference by eye
        wanted += f" (furthest off {problem.where})"
    if outcome.place:
        lines.append(f"at {outcome.place}")
    body = _arguments(exercise, case) if outcome.shortcut is None else []
    if outcome.error is None and outcome.shortcut is None and outcome.changed is None:
        body += [("you returned", show(outcome.value, digits)), ("expected", wanted)]
    if outcome.printed.strip():
        body.append(("you printed", outcome.printed.strip().splitlines()[0][:100]))
    return _failed(exercise, problem.rule, lines, body, cause, problem.error)


def _restless(exercise: Exercise, answer: Answer, case: Case, before: Outcome) -> Verdict | None:
    """A second run on the same input must give the same, wherever the global generators stand."""
    with contextlib.redirect_stdout(None):
        try:
            again = answer(*copy(case.arguments))
        except Exception as error:
            again = error
    if difference(again, before.value, any_float=True).error <= exercise.tolerance:
        return None
    detail = "a second call on the same input gave another result: it draws or remembers something"
    body = _arguments(exercise, case)
    return _failed(exercise, "the same input always gives the same result", [detail], body)


def _arguments(exercise: Exercise, case: Case) -> list[tuple[str, str]]:
    """The failing input as rows of a message: one line if it fits, else one line an argument."""
    named = list(zip(exercise.arguments, case.arguments))
    each = [f"{name} = {show(value)}" for name, value in named if not callable(value)]
    functions = [name for name, value in named if callable(value)]
    if functions:
        each.append(f"{', '.join(functions)}: function{'s' if len(functions) > 1 else ''}")
    together = ", ".join(each)
    if len(together) <= WIDTH - 20:
        return [("smallest case", together)]
    return [("smallest case", each[0]), *(("", text) for text in each[1:])]


def _passed(exercise: Exercise) -> str:
    points = f"{exercise.points} point{'s' if exercise.points > 1 else ''}"
    return f"{exercise.id} {exercise.title}: right ({points})."


def _not_attempted(exercise: Exercise, returned: bool = False) -> Verdict:
    text = f"{exercise.id} {exercise.title}: not attempted yet."
    if returned:
        text += f" (`{exercise.name}` returns None; if you did write it, `return` is missing.)"
    return Verdict(NOT_ATTEMPTED, text)


def _failed(
    exercise: Exercise,
    rule: str,
    details: list[str],
    body: list[tuple[str, str]] | None = None,
    cause: str | None = None,
    error: float = float("inf"),
) -> Verdict:
    rows = [("what broke", rule), *(("", detail) for detail in details), *(body or [])]
    if cause:
        rows.append(("likely cause", cause))
    lines = [f"{exercise.id} {exercise.title}: not right yet."]
    for label, text in rows:
        head = f"  {label + ':' if label else '':<15}"
        lines += textwrap.wrap(
            text, WIDTH, initial_indent=head, subsequent_indent=" " * len(head)
        ) or [head.rstrip()]
    return Verdict(FAILED, "\n".join(lines), rule, cause, error)


def _remember(exercise: Exercise, verdict: Verdict) -> str | None:
    from llmcourse.grading import progress

    return progress.remember(exercise.id, verdict.status, verdict.message)
