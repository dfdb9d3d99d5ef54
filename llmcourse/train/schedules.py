"""Learning rates as functions of the step.

Taught in Part 2; Part 4 adds the others. A schedule is a pure function: nothing to save, nothing
to restore, and a run that resumes at step 700 asks for step 700's rate.

Source of the cosine: Loshchilov and Hutter 2017, arXiv 1608.03983, equation 5, without restarts.
"""

from __future__ import annotations

import math


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
    if step < 0 or not 0 <= warmup_steps < total_steps or not 0 <= floor <= peak:
        raise ValueError(
            f"need step >= 0, 0 <= warmup_steps < total_steps and 0 <= floor <= peak, got "
            f"step={step}, warmup_steps={warmup_steps}, total_steps={total_steps}, "
            f"floor={floor}, peak={peak}"
        )
    if step < warmup_steps:
        return peak * (step + 1) / (warmup_steps + 1)
    if step >= total_steps:
        return floor
    progress = (step - warmup_steps) / (total_steps - warmup_steps)  # 0 at the peak, 1 at the end
    return floor + (peak - floor) * (1 + math.cos(math.pi * progress)) / 2
