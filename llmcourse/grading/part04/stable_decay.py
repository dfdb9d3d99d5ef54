"""Exercise 4.4 Warm-up, stable, decay."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from llmcourse.grading.inputs import Draw
from llmcourse.grading.records import Answer, Arguments, Exercise, Property, WrongAnswer


def _wsd_inputs(draw: Draw, size: int) -> Arguments:
    peak, floor = draw.number(0.5, 1.0), draw.number(0.05, 0.2)
    warmup, decay = draw.integer(4, 9), draw.integer(10, 14)
    total = warmup + decay + draw.integer(15, 25)
    step = [
        0,  # the first
        warmup + draw.integer(2, 9),  # on the level stretch
        total - decay + draw.integer(1, 3),  # just after its end
        total - draw.integer(2, 5),  # late in the decay
        total + draw.integer(1, 9),  # after the end
        warmup - draw.integer(1, 2),  # late in the warm-up
    ][size]
    return step, peak, warmup, decay, total, floor


def _wsd_oracle(
    step: int, peak: float, warmup_steps: int, decay_steps: int, total_steps: int, floor: float
) -> float:
    rates = [peak * (i + 1) / (warmup_steps + 1) for i in range(warmup_steps)]
    rates += [peak] * (total_steps - decay_steps - warmup_steps)
    rates += [peak - (peak - floor) * (i / decay_steps) ** 0.5 for i in range(decay_steps)]
    return rates[step] if step < total_steps else floor


def _wsd(
    step: int,
    peak: float,
    warmup: int,
    decay: int,
    total: int,
    floor: float,
    *,
    shape: Callable[[float], float] = lambda progress: 1 - math.sqrt(progress),
    rise: Callable[[int, int], float] = lambda step, warmup: (step + 1) / (warmup + 1),
) -> float:
    if step < warmup:
        return peak * rise(step, warmup)
    if step >= total:
        return floor
    progress = max(0.0, (step - (total - decay)) / decay)
    return floor + (peak - floor) * shape(progress)


def _wsd_linear(*arguments: Any) -> float:
    return _wsd(*arguments, shape=lambda progress: 1 - progress)


def _wsd_root_of_rest(*arguments: Any) -> float:
    return _wsd(*arguments, shape=lambda progress: math.sqrt(1 - progress))


def _wsd_cosine(*arguments: Any) -> float:
    return _wsd(
        *arguments,
        shape=lambda progress: (1 + math.cos(math.pi * progress)) / 2,
    )


def _wsd_from_zero(*arguments: Any) -> float:
    return _wsd(*arguments, rise=lambda step, warmup: step / warmup)


def _wsd_no_warmup(
    step: int, peak: float, warmup: int, decay: int, total: int, floor: float
) -> float:
    return _wsd(step, peak, 0, decay, total, floor)


def _wsd_no_level(
    step: int, peak: float, warmup: int, decay: int, total: int, floor: float
) -> float:
    return _wsd(step, peak, warmup, total - warmup, total, floor)


def _wsd_early(step: int, peak: float, warmup: int, decay: int, total: int, floor: float) -> float:
    return _wsd(step, peak, warmup, decay, min(total, warmup + decay), floor)


def _wsd_starts_at_decay(
    step: int, peak: float, warmup: int, decay: int, total: int, floor: float
) -> float:
    return _wsd(step, peak, warmup, total - max(warmup, decay), total, floor)


def _wsd_over_the_run(
    step: int, peak: float, warmup: int, decay: int, total: int, floor: float
) -> float:
    if step < warmup or step >= total or step < total - decay:
        return _wsd(step, peak, warmup, decay, total, floor)
    return floor + (peak - floor) * (1 - math.sqrt(step / total))


def _wsd_floor_added(
    step: int, peak: float, warmup: int, decay: int, total: int, floor: float
) -> float:
    rate = _wsd(step, peak, warmup, decay, total, 0.0)
    return rate if step < warmup else floor + rate


def _wsd_no_end(step: int, peak: float, warmup: int, decay: int, total: int, floor: float) -> float:
    if step < total:
        return _wsd(step, peak, warmup, decay, total, floor)
    return floor + (peak - floor) * (1 - math.sqrt((step - (total - decay)) / decay))


def _wsd_back_to_zero(
    step: int, peak: float, warmup: int, decay: int, total: int, floor: float
) -> float:
    return 0.0 if step >= total else _wsd(step, peak, warmup, decay, total, floor)


def _wsd_by_clamping(
    step: int, peak: float, warmup_steps: int, decay_steps: int, total_steps: int, floor: float
) -> float:
    rising = min(1.0, (step + 1) / (warmup_steps + 1)) * peak
    over = min(max(step - (total_steps - decay_steps), 0), decay_steps) / decay_steps
    return rising - (peak - floor) * over**0.5


def _whatever_the_length(got: float, arguments: Arguments, call: Answer) -> str | None:
    step, peak, warmup, decay, total, floor = arguments
    if step <= total - decay and call(step, peak, warmup, decay, 3 * total, floor) != got:
        return (
            "before the decay the rate must not depend on total_steps: that is what lets a run be "
            "continued as far as one likes"
        )
    return None


def _within_bounds(got: float, arguments: Arguments, call: Answer) -> str | None:
    step, peak, warmup, _, _, floor = arguments
    if step >= warmup and not floor - 1e-12 <= float(got) <= peak + 1e-12:
        return f"after the warm-up it must lie between floor {floor} and peak {peak}"
    return None


STABLE_DECAY = Exercise(
    id="4.4",
    title="warm-up, stable, decay",
    name="wsd_rate",
    signature=(
        "wsd_rate(step: int, peak: float, warmup_steps: int, decay_steps: int, "
        "total_steps: int, floor: float) -> float"
    ),
    taught="Part 4, schedules",
    difficulty=2,
    minutes=15,
    make_inputs=_wsd_inputs,
    oracle=_wsd_oracle,
    statement="a straight rise, level, 1 - sqrt down in the last decay_steps, then the floor",
    properties=(
        Property("the rate stays between floor and peak", _within_bounds),
        Property("the length of the run matters only in the decay", _whatever_the_length),
    ),
    wrong_answers=(
        WrongAnswer(
            "straight line",
            _wsd_linear,
            "The decay is a straight line. Asked for is 1 - sqrt(progress): steep at first, then "
            "flatter and flatter.",
        ),
        WrongAnswer(
            "root of what is left",
            _wsd_root_of_rest,
            "sqrt(1 - progress) stays high and drops at the very end. Asked for is "
            "1 - sqrt(progress): the root is taken first.",
        ),
        WrongAnswer(
            "half a cosine",
            _wsd_cosine,
            "The decay is half a cosine, as in Part 2. Asked for is 1 - sqrt(progress).",
        ),
        WrongAnswer(
            "warm-up from zero",
            _wsd_from_zero,
            "The warm-up starts at 0, so the first step is wasted: use (step + 1) / "
            "(warmup_steps + 1).",
        ),
        WrongAnswer(
            "no warm-up",
            _wsd_no_warmup,
            "The warm-up is missing: the rate begins at its peak.",
        ),
        WrongAnswer(
            "never level",
            _wsd_no_level,
            "The decay begins where the warm-up ends. In between the rate stays at its peak: it "
            "falls in the last decay_steps only, from step total_steps - decay_steps.",
        ),
        WrongAnswer(
            "decay at once, then the floor",
            _wsd_early,
            "The decay follows the warm-up at once and the rest of the run stands at the floor. "
            "Its decay_steps are the last ones: it begins at total_steps - decay_steps.",
        ),
        WrongAnswer(
            "decay from step decay_steps",
            _wsd_starts_at_decay,
            "decay_steps is taken for the step at which the decay begins. It is how long the decay "
            "lasts: it begins at total_steps - decay_steps.",
        ),
        WrongAnswer(
            "progress of the whole run",
            _wsd_over_the_run,
            "The progress is that of the whole run, so the rate jumps down where the decay begins. "
            "It is 0 there: (step - (total_steps - decay_steps)) / decay_steps.",
        ),
        WrongAnswer(
            "floor added on top",
            _wsd_floor_added,
            "The floor is added to the whole curve, so the level stretch is at peak + floor. Scale "
            "the decay by (peak - floor).",
        ),
        WrongAnswer(
            "below the floor",
            _wsd_no_end,
            "After total_steps the rate goes on falling, below the floor. From there on it stays.",
        ),
        WrongAnswer(
            "zero after the end",
            _wsd_back_to_zero,
            "After total_steps the rate is 0. It stays at the floor.",
        ),
    ),
    alternatives=(_wsd_by_clamping,),
    examples=((70, 1.0, 10, 40, 100, 0.2),),
)
