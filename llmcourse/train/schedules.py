"""Learning rates as functions of the step.

The cosine is taught in Part 2, the others in Part 4. A schedule is a pure function: nothing to
save, nothing to restore, and a run that resumes at step 700 asks for step 700's rate. All begin
with the same rise in a straight line, because the first gradients say little and Adam's averages
hold little; they differ in how they come down.

Source of the cosine: Loshchilov and Hutter 2017, arXiv 1608.03983, equation 5, without restarts.
Warm-up, stable, decay: Hu et al. 2024, "MiniCPM", section 4; its 1 - sqrt decay: Hägele et al.
2024, "Scaling Laws and Compute-Optimal Training Beyond Fixed Training Durations", section 3.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

DECAYS: dict[str, Callable[[float], float]] = {
    "1-sqrt": lambda progress: 1 - math.sqrt(progress),
    "linear": lambda progress: 1 - progress,
}
"""Share of the way from the floor to the peak that is left, by how much of the decay is over."""


def warmup_cosine(
    step: int, *, peak: float, warmup_steps: int, total_steps: int, floor: float = 0.0
) -> float:
    """Rise in a straight line to `peak`, then fall along half a cosine to `floor`.

    Args:
        step: updates already made, 0 for the first update.
        peak: the highest rate, reached at the update after `warmup_steps`.
        warmup_steps: updates of the rise; the first already moves, at peak / (warmup_steps + 1).
        total_steps: updates of the whole run; from here on the rate is `floor`.
        floor: the rate at the end.

    Raises:
        ValueError: a negative step, a warm-up as long as the run, or floor above peak.
    """
    _check(step, peak, warmup_steps, total_steps, floor)
    if step < warmup_steps:
        return _rise(step, peak, warmup_steps)
    if step >= total_steps:
        return floor
    progress = (step - warmup_steps) / (total_steps - warmup_steps)  # 0 at the peak, 1 at the end
    return floor + (peak - floor) * (1 + math.cos(math.pi * progress)) / 2


def warmup_linear(
    step: int, *, peak: float, warmup_steps: int, total_steps: int, floor: float = 0.0
) -> float:
    """Rise in a straight line to `peak`, then fall in a straight line to `floor`.

    Arguments and errors are those of `warmup_cosine`.
    """
    _check(step, peak, warmup_steps, total_steps, floor)
    if step < warmup_steps:
        return _rise(step, peak, warmup_steps)
    if step >= total_steps:
        return floor
    progress = (step - warmup_steps) / (total_steps - warmup_steps)  # 0 at the peak, 1 at the end
    return floor + (peak - floor) * (1 - progress)


def warmup_stable_decay(
    step: int,
    *,
    peak: float,
    warmup_steps: int,
    total_steps: int,
    floor: float = 0.0,
    decay_steps: int | None = None,
    decay: str = "1-sqrt",
) -> float:
    """Rise to `peak`, stay there, and fall to `floor` in the last `decay_steps` updates (WSD).

    Until the decay begins the rate does not depend on `total_steps`. So one long run can be
    continued as far as one likes and brought down from any of its checkpoints, where a cosine would
    need a run of its own for every length.

    Args:
        step: updates already made, 0 for the first update.
        peak: the highest rate, reached at the update after `warmup_steps`.
        warmup_steps: updates of the rise; the first already moves, at peak / (warmup_steps + 1).
        total_steps: updates of the whole run; from here on the rate is `floor`.
        floor: the rate at the end.
        decay_steps: updates of the fall; None is a fifth of the run, or what the warm-up leaves.
        decay: the fall's shape, "1-sqrt" (steep at first) or "linear".

    Raises:
        ValueError: as `warmup_cosine`; a fall that does not fit behind the warm-up, or an unknown
            shape.
    """
    _check(step, peak, warmup_steps, total_steps, floor)
    left = total_steps - warmup_steps
    if decay_steps is None:
        decay_steps = min(max(total_steps // 5, 1), left)
    if not 1 <= decay_steps <= left:
        raise ValueError(
            f"need 1 <= decay_steps <= total_steps - warmup_steps, got decay_steps={decay_steps}, "
            f"total_steps={total_steps}, warmup_steps={warmup_steps}"
        )
    if decay not in DECAYS:
        raise ValueError(f"decay={decay!r} is unknown; choose one of {list(DECAYS)}")
    if step < warmup_steps:
        return _rise(step, peak, warmup_steps)
    if step >= total_steps:
        return floor
    started = total_steps - decay_steps  # the last update at the peak, where progress is 0
    progress = max(0.0, (step - started) / decay_steps)
    return floor + (peak - floor) * DECAYS[decay](progress)


def constant(
    step: int, *, peak: float, warmup_steps: int, total_steps: int, floor: float = 0.0
) -> float:
    """Rise in a straight line to `peak` and stay there, whatever `total_steps` and `floor` are.

    The other arguments are taken, and checked, so that all schedules can be called alike. Arguments
    and errors are those of `warmup_cosine`.
    """
    _check(step, peak, warmup_steps, total_steps, floor)
    return _rise(step, peak, warmup_steps) if step < warmup_steps else peak


SCHEDULES: dict[str, Callable[..., float]] = {
    "cosine": warmup_cosine,
    "linear": warmup_linear,
    "wsd": warmup_stable_decay,
    "constant": constant,
}
"""By the names that a config and the command line use."""


def learning_rate(step: int, *, schedule: str = "cosine", **settings: Any) -> float:
    """The rate of a schedule chosen by name.

    Args:
        step: updates already made, 0 for the first update.
        schedule: one of `SCHEDULES`.
        settings: `peak`, `warmup_steps`, `total_steps`, `floor` and what the schedule takes beside
            them.

    Raises:
        ValueError: an unknown schedule, a setting it does not take or one that is missing, or
            whatever the schedule refuses.
    """
    if schedule not in SCHEDULES:
        raise ValueError(f"schedule={schedule!r} is unknown; choose one of {list(SCHEDULES)}")
    function = SCHEDULES[schedule]
    takes = {n: p for n, p in inspect.signature(function).parameters.items() if n != "step"}
    wrong = [f"{name} is not one" for name in settings if name not in takes]
    wrong += [
        f"{name} is missing"
        for name, parameter in takes.items()
        if parameter.default is parameter.empty and name not in settings
    ]
    if wrong:
        raise ValueError(
            f"schedule={schedule!r} has the settings {list(takes)}: {', '.join(wrong)}"
        )
    return function(step, **settings)


def _rise(step: int, peak: float, warmup_steps: int) -> float:
    return peak * (step + 1) / (warmup_steps + 1)


def _check(step: int, peak: float, warmup_steps: int, total_steps: int, floor: float) -> None:
    if step < 0 or not 0 <= warmup_steps < total_steps or not 0 <= floor <= peak:
        raise ValueError(
            f"need step >= 0, 0 <= warmup_steps < total_steps and 0 <= floor <= peak, got "
            f"step={step}, warmup_steps={warmup_steps}, total_steps={total_steps}, "
            f"floor={floor}, peak={peak}"
        )
