"""Exercise 2.5 The schedule."""

from __future__ import annotations

import math

from llmcourse.grading.inputs import Draw
from llmcourse.grading.records import Answer, Arguments, Exercise, Property, WrongAnswer


def _schedule_inputs(draw: Draw, size: int) -> Arguments:
    peak, floor = draw.number(0.5, 1.0), draw.number(0.05, 0.2)
    if size == 0:  # the first step
        return 0, peak, draw.integer(3, 9), draw.integer(20, 30), floor
    if size == 1:  # the last step of the warm-up
        warmup = draw.integer(3, 9)
        return warmup - 1, peak, warmup, draw.integer(20, 30), floor
    warmup, total = draw.integer(2, 9), draw.integer(23, 40)
    if size == 2:  # early on the cosine
        return warmup + draw.integer(3, 6), peak, warmup, total, floor
    if size == 3:  # late on it
        return total - draw.integer(2, 5), peak, warmup, total, floor
    if size == 4:  # the end and after it
        return total + draw.integer(1, 9), peak, warmup, total, floor
    return draw.integer(0, warmup - 2), peak, warmup, total, 0.0


def _schedule_oracle(
    step: int, peak: float, warmup_steps: int, total_steps: int, floor: float
) -> float:
    if step < warmup_steps:
        return peak * (step + 1) / (warmup_steps + 1)
    if step >= total_steps:
        return floor
    share = (step - warmup_steps) / (total_steps - warmup_steps)
    # cos² of the half angle is the same curve as half of one plus the cosine
    return floor + (peak - floor) * math.cos(math.pi * share / 2) ** 2


def _cosine(share: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * share))


def _schedule_from_zero(step: int, peak: float, warmup: int, total: int, floor: float) -> float:
    if step < warmup:
        return peak * step / warmup
    share = min(1.0, (step - warmup) / (total - warmup))
    return floor + (peak - floor) * _cosine(share)


def _schedule_peak_twice(step: int, peak: float, warmup: int, total: int, floor: float) -> float:
    if step < warmup:
        return peak * (step + 1) / warmup
    share = min(1.0, (step - warmup) / (total - warmup))
    return floor + (peak - floor) * _cosine(share)


def _schedule_whole(step: int, peak: float, warmup: int, total: int, floor: float) -> float:
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    return floor + (peak - floor) * _cosine(min(1.0, step / total))


def _schedule_floor_added(step: int, peak: float, warmup: int, total: int, floor: float) -> float:
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    return floor + peak * _cosine(min(1.0, (step - warmup) / (total - warmup)))


def _schedule_bare(step: int, peak: float, warmup: int, total: int, floor: float) -> float:
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    share = min(1.0, (step - warmup) / (total - warmup))
    return floor + (peak - floor) * math.cos(math.pi * share)


def _schedule_linear(step: int, peak: float, warmup: int, total: int, floor: float) -> float:
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    share = min(1.0, (step - warmup) / (total - warmup))
    return floor + (peak - floor) * (1 - share)


def _schedule_unclamped(step: int, peak: float, warmup: int, total: int, floor: float) -> float:
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    return floor + (peak - floor) * _cosine((step - warmup) / (total - warmup))


def _schedule_no_warmup(step: int, peak: float, warmup: int, total: int, floor: float) -> float:
    share = min(1.0, max(0.0, (step - warmup) / (total - warmup)))
    return floor + (peak - floor) * _cosine(share)


def _schedule_by_interpolation(
    step: int, peak: float, warmup_steps: int, total_steps: int, floor: float
) -> float:
    rising = min(1.0, (step + 1) / (warmup_steps + 1)) * peak
    share = min(max(step - warmup_steps, 0) / (total_steps - warmup_steps), 1.0)
    return rising - (peak - floor) * (1 - math.cos(share * math.pi)) / 2


def _never_zero(got: float, arguments: Arguments, call: Answer) -> str | None:
    step = arguments[0]
    if step == 0 and float(got) == 0:
        return "the first step has learning rate 0: it would teach nothing"
    return None


def _within_bounds(got: float, arguments: Arguments, call: Answer) -> str | None:
    _, peak, warmup_steps, _, floor = arguments
    step = arguments[0]
    if step >= warmup_steps and not floor - 1e-12 <= float(got) <= peak + 1e-12:
        return f"after the warm-up it must lie between floor {floor} and peak {peak}"
    return None


SCHEDULE = Exercise(
    id="2.5",
    title="warm-up and cosine",
    name="warmup_cosine",
    signature=(
        "warmup_cosine(step: int, peak: float, warmup_steps: int, total_steps: int, floor: float)"
        " -> float"
    ),
    taught="Part 2, the loop",
    difficulty=2,
    minutes=15,
    make_inputs=_schedule_inputs,
    oracle=_schedule_oracle,
    statement="a straight rise to the peak, half a cosine down to the floor, then the floor",
    properties=(
        Property("the first step already learns", _never_zero),
        Property("the rate stays between floor and peak", _within_bounds),
    ),
    wrong_answers=(
        WrongAnswer(
            "warm-up from zero",
            _schedule_from_zero,
            "The warm-up starts at 0, so the first step is wasted: use (step + 1) / "
            "(warmup_steps + 1).",
        ),
        WrongAnswer(
            "peak reached twice",
            _schedule_peak_twice,
            "The last step of the warm-up is at the peak already, and so is the next. The peak "
            "comes at step warmup_steps: divide by warmup_steps + 1.",
        ),
        WrongAnswer(
            "cosine over all steps",
            _schedule_whole,
            "The cosine is measured from step 0, so the rate jumps down where the warm-up ends. "
            "It starts at the end of the warm-up: (step - warmup) / (total - warmup).",
        ),
        WrongAnswer(
            "floor added on top",
            _schedule_floor_added,
            "The floor is added to the whole curve, so it starts at peak + floor. Scale the cosine "
            "by (peak - floor).",
        ),
        WrongAnswer(
            "cosine from 1 to -1",
            _schedule_bare,
            "cos runs from 1 to -1, so the rate goes below the floor (and becomes negative). Bring "
            "it to 1 ... 0 with (1 + cos) / 2.",
        ),
        WrongAnswer(
            "straight line",
            _schedule_linear,
            "The decay is a straight line; asked for is half a cosine: flat at both ends.",
        ),
        WrongAnswer(
            "rises again after the end",
            _schedule_unclamped,
            "After total_steps the cosine turns up again. From there on the rate stays at the "
            "floor.",
        ),
        WrongAnswer(
            "no warm-up",
            _schedule_no_warmup,
            "The warm-up is missing: the rate begins at its peak. It rises in a straight line over "
            "the first warmup_steps steps.",
        ),
    ),
    alternatives=(_schedule_by_interpolation,),
    examples=((6, 1.0, 2, 10, 0.2),),
)
