"""Why an answer is wrong: compare what it does with what known mistakes do, on several inputs."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from llmcourse.grading.judge import Case, Outcome, known_outcome
from llmcourse.grading.records import Exercise, WrongAnswer
from llmcourse.grading.values import difference, numbers, same

FLOAT32 = 1e-5  # the same mistake made in float32 is still the same mistake

# The same slip raises one or another of these, by whether it is made with view, [] or gather.
SHAPE_ERRORS = (RuntimeError, IndexError, ValueError)

AMONG_OTHERS = "Not the whole story, but this is part of it:"
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
    partly = _recognise_in_part(exercise, cases[first:], outcomes[first:])
    if partly:
        return f"{AMONG_OTHERS} {partly.diagnosis}"
    return _relation(exercise, cases[first:], outcomes[first:])


def recognise(exercise: Exercise, cases: list[Case], outcomes: list[Outcome]) -> WrongAnswer | None:
    """The known wrong answer that behaves as this answer does on every input."""
    for tolerance in (exercise.tolerance, max(exercise.tolerance, FLOAT32)):
        for wrong in exercise.wrong_answers:
            # Most candidates are ruled out by their first two or three inputs.
            alike = (_alike(exercise, wrong, c, o, tolerance) for c, o in zip(cases, outcomes))
            if all(alike) and _far_from_right(exercise, wrong, cases, 100 * tolerance):
                return wrong
    return None


def _recognise_in_part(
    exercise: Exercise, cases: list[Case], outcomes: list[Outcome]
) -> WrongAnswer | None:
    """A mistake that explains the smallest failing input and at least one more, though not all.

    Two mistakes at once match no known wrong answer on every input; the first is still worth
    naming. Errors and NaN are no evidence here: too many mistakes end in them.
    """
    best, most = None, 1
    for wrong in exercise.wrong_answers:
        explained = 0
        for index, (case, outcome) in enumerate(zip(cases, outcomes)):
            error = difference(outcome.value, case.expected, True, strict=False).error
            telling = outcome.error is None and exercise.tolerance < error < math.inf
            if telling and _alike(exercise, wrong, case, outcome, exercise.tolerance):
                explained += 1
            elif index == 0:
                break
        if explained > most:
            best, most = wrong, explained
    return best


def _alike(
    exercise: Exercise, wrong: WrongAnswer, case: Case, outcome: Outcome, tolerance: float
) -> bool:
    other = known_outcome(exercise, wrong, case)
    if outcome.error is not None or other.error is not None:
        if isinstance(outcome.error, SHAPE_ERRORS) and isinstance(other.error, SHAPE_ERRORS):
            return True
        return type(outcome.error) is type(other.error)
    if other.changed != outcome.changed:
        return False
    found = difference(outcome.value, other.value, any_float=True, strict=False)
    return found.error <= tolerance


def _far_from_right(
    exercise: Exercise, wrong: WrongAnswer, cases: list[Case], distance: float
) -> bool:
    # Otherwise a right answer in float32 could be taken for a mistake that is nearly right.
    for case in cases:
        other = known_outcome(exercise, wrong, case)
        if other.error is not None:
            return True
        if difference(other.value, case.expected, exercise.any_float).error >= distance:
            return True
    return False


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


def _relation(exercise: Exercise, cases: list[Case], outcomes: list[Outcome]) -> str | None:
    """A relation between what came and what was expected that holds on every failing input."""
    found = set()
    for case, outcome in zip(cases, outcomes):
        got, expected = outcome.value, case.expected
        if not (isinstance(got, Tensor) and isinstance(expected, Tensor)):
            return None
        if got.numel() < 2:  # one number stands in any relation to another
            continue
        if difference(got, expected, exercise.any_float).error > exercise.tolerance:
            try:
                found.add(_generic(got, expected))
            except (RuntimeError, NotImplementedError):  # complex, sparse, another device, ...
                return None
    return found.pop() if len(found) == 1 else None


def _generic(got: Tensor, expected: Tensor) -> str | None:
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
    if not (a.isfinite().all() and b.isfinite().all()):
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
