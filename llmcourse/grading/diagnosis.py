"""Why an answer is wrong: compare what it does with what known mistakes do, on several inputs."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from llmcourse.grading.judge import Case, Outcome, run
from llmcourse.grading.records import Exercise, WrongAnswer
from llmcourse.grading.values import difference, numbers, same

MEMORISED = (
    "The worked example comes out right and other inputs do not: the answer looks written down "
    "rather than computed. Compute it from the arguments."
)
ZEROS = "Your function returns zeros whatever it is given: the result is never filled in."
CONSTANT = (
    "Your function returns the same numbers whatever it is given: it does not use its arguments."
)


def diagnose(
    exercise: Exercise,
    cases: list[Case],
    outcomes: list[Outcome],
    first: int,
    examples_right: bool,
) -> str | None:
    """The likely cause, or None.

    Args:
        exercise: the record.
        cases: all inputs of this check, smallest first.
        outcomes: what the answer did on each.
        first: the index of the first failing case.
        examples_right: whether the answer is right on the examples of the task's text.
    """
    constant = _constant(cases, outcomes)
    if examples_right and (constant or _only_knows_examples(exercise, cases, outcomes)):
        return MEMORISED
    if constant:
        return constant
    name = outcomes[first].itself
    if name and all(outcome.itself == name for outcome in outcomes):
        return f"Your function hands back its argument `{name}` itself: nothing was computed."
    known = recognise(exercise, cases, outcomes)
    if known:
        return known.diagnosis
    return _generic(cases[first], outcomes[first])


def recognise(exercise: Exercise, cases: list[Case], outcomes: list[Outcome]) -> WrongAnswer | None:
    """The known wrong answer that behaves as this answer does on every input."""
    for wrong in exercise.wrong_answers:
        # Cheapest first: most candidates are ruled out by their first two or three inputs.
        if all(_alike(exercise, wrong, case, outcome) for case, outcome in zip(cases, outcomes)):
            return wrong
    return None


def _alike(exercise: Exercise, wrong: WrongAnswer, case: Case, outcome: Outcome) -> bool:
    other = run(exercise, wrong.function, case)
    if outcome.error is not None or other.error is not None:
        return type(outcome.error) is type(other.error)
    if other.changed != outcome.changed:
        return False
    found = difference(outcome.value, other.value, any_float=True, strict=False)
    # The same mistake made in float32 is still the same mistake.
    return found.error <= max(exercise.tolerance, _precision(outcome.value))


def _precision(value: Any) -> float:
    if isinstance(value, Tensor) and value.dtype in (torch.float32, torch.float16, torch.bfloat16):
        return 1e-4
    return 0.0


def _constant(cases: list[Case], outcomes: list[Outcome]) -> str | None:
    values = [outcome.value for outcome in outcomes if outcome.error is None]
    if len(values) < len(outcomes) or len(values) < 3:
        return None
    distinct = {number for value in values for number in numbers(value)}
    wanted = {round(number, 9) for case in cases for number in numbers(case.expected)}
    if len(distinct) == 1 and len(wanted) > 1:
        return ZEROS if distinct == {0.0} else CONSTANT
    if all(same(value, values[0]) for value in values[1:]) and len(wanted) > 1:
        return CONSTANT
    return None


def _only_knows_examples(exercise: Exercise, cases: list[Case], outcomes: list[Outcome]) -> bool:
    """Right on the examples; elsewhere nothing, an error of its own making, or a constant."""
    examples = exercise.examples
    others = [
        outcome
        for case, outcome in zip(cases, outcomes)
        if not any(same(case.arguments, example) for example in examples)
    ]
    raised = [o for o in others if o.error is not None and not isinstance(o.error, RuntimeError)]
    return bool(others) and (
        all(outcome.stub for outcome in others)
        or len(raised) == len(others)
        or _constant(cases, others) is not None
    )


def _generic(case: Case, outcome: Outcome) -> str | None:
    """Relations between what came and what was expected that name a mistake by themselves."""
    got, expected = outcome.value, case.expected
    if not (isinstance(got, Tensor) and isinstance(expected, Tensor)):
        return None
    if got.dtype == torch.bool and expected.dtype == torch.bool and got.shape == expected.shape:
        if torch.equal(got, ~expected):
            return "Every entry is the opposite of what it should be: True and False are swapped."
        return None
    if got.is_floating_point() and expected.dtype == torch.bool:
        return "A mask of True and False is asked for here, not one of numbers."
    if got.dtype != expected.dtype and got.shape == expected.shape:
        if got.is_floating_point() and expected.is_floating_point():
            return (
                "The arguments are float64 and the result is not: somewhere a tensor was made "
                "without dtype=x.dtype, or .float() was called."
            )
        return None
    if got.ndim >= 2 and got.mT.shape == expected.shape and _close(got.mT, expected):
        return "Your result is the transpose of the right one: its last two axes are swapped."
    if got.shape != expected.shape:
        return None
    a, b = got.double(), expected.double()
    if not (a.isfinite().all() and b.isfinite().all()) or a.numel() < 2:
        return None
    error = float((a - b).abs().max() / max(1.0, float(b.abs().max())))
    if error < 1e-5:
        return (
            "Right to about six digits, as float32 arithmetic would be: keep the float64 of the "
            "arguments all the way through."
        )
    ratio = float((a * b).sum() / (b * b).sum()) if float((b * b).sum()) > 0 else math.nan
    if math.isfinite(ratio) and ratio != 0 and _close(a, ratio * b):
        return f"Every number is {ratio:.4g} times what it should be: a factor is missing or extra."
    shift = float((a - b).mean())
    if _close(a, b + shift):
        return f"Every number is off by the same {shift:.4g}."
    return None


def _close(a: Tensor, b: Tensor) -> bool:
    return difference(a, b, any_float=True, strict=False).error < 1e-9
