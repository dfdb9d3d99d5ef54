"""Learning rates over a run, and the size of the gradients they meet.

Taught in: Part 4. The curves are `llmcourse.train.schedules` asked at every step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from llmcourse.show import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NAMES = {
    "cosine": "cosine",
    "linear": "linear",
    "wsd": "warm-up, stable, decay",
    "constant": "constant",
}


def rates(schedule: str, total_steps: int, **settings: Any) -> np.ndarray:
    """(total_steps,) learning rates of a whole run, the first update's first.

    Args:
        schedule: one of `llmcourse.train.schedules.SCHEDULES`.
        total_steps: updates.
        settings: `peak`, `warmup_steps`, `floor` and what the schedule takes beside them.

    Raises:
        ValueError: whatever the schedule refuses.
    """
    from llmcourse.train.schedules import learning_rate

    return np.array(
        [
            learning_rate(step, schedule=schedule, total_steps=total_steps, **settings)
            for step in range(total_steps)
        ]
    )


def peak_updates(values: np.ndarray, peak: float) -> float:
    """The area under the curve: as many updates at the peak would add up to the same."""
    if not peak > 0:
        raise ValueError(f"peak={peak} must be above 0")
    return float(values.sum() / peak)


def plot_schedules(
    *,
    peak: float = 1e-3,
    warmup_steps: int = 50,
    total_steps: int = 1000,
    floor: float = 0.0,
    decay_steps: int | None = None,
    schedules: Sequence[str] = ("cosine", "linear", "wsd", "constant"),
    title: str | None = None,
) -> Figure:
    """Several schedules with the same peak, warm-up and end, in one figure.

    Args:
        peak: the highest rate.
        warmup_steps, total_steps: updates.
        floor: the rate at the end.
        decay_steps: updates of the fall of "wsd"; None is its own choice.
        schedules: names, as in `llmcourse.train.schedules.SCHEDULES`.
        title: over the figure.

    Returns:
        The figure, known to pyplot.

    Raises:
        ValueError: no schedules, or whatever a schedule refuses.
    """
    if not schedules:
        raise ValueError("there is nothing to draw: name at least one schedule")
    curves = {}
    for name in schedules:
        settings = {"decay_steps": decay_steps} if name == "wsd" else {}
        curves[name] = rates(
            name, total_steps, peak=peak, warmup_steps=warmup_steps, floor=floor, **settings
        )
    with style.applied():
        drawn, axes = style.figure(8.8, 3.3)
        ax = axes[0, 0]
        for number, (name, values) in enumerate(curves.items()):
            look = style.series(number)
            ax.plot(
                range(total_steps), values, color=look.color, linestyle=look.linestyle,
                label=f"{NAMES.get(name, name)}\n(as {peak_updates(values, peak):,.0f} updates at "
                "the peak)",
            )  # fmt: skip
        if warmup_steps:
            ax.axvspan(0, warmup_steps, color=style.FAINT, alpha=0.5, linewidth=0)
            ax.annotate(
                "warm-up", (warmup_steps, 0.0), (5, 5), xycoords=("data", "axes fraction"),
                textcoords="offset points", color=style.MUTED, fontsize=style.SMALL_SIZE,
            )  # fmt: skip
        rate_axes(ax, peak)
        ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), labelspacing=0.8)
        if title:
            ax.set_title(title)
    return drawn


def rate_axes(ax: Axes, peak: float) -> None:
    """Labels and range of a picture of learning rates."""
    ax.set_ylim(0, 1.08 * peak)
    ax.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3), useMathText=True)
    ax.yaxis.get_offset_text().set_fontsize(style.SMALL_SIZE)
    ax.margins(x=0.02)
    ax.set_xlabel("optimiser step")
    ax.set_ylabel("learning rate")
    style.grid(ax)


def plot_gradient_norm(history: Any, clip: float, *, title: str | None = None) -> Figure:
    """The gradient's norm at every step, before clipping, and the line above which it was clipped.

    Args:
        history: has `.records` with `step` and `gradient_norm` (None where float16 overflowed and
            the update was left out).
        clip: the largest norm that is let through.
        title: over the figure; None says how many steps were clipped.

    Returns:
        The figure, known to pyplot.

    Raises:
        ValueError: no records, a limit that is not above 0, or norms that are no numbers.
    """
    if not (clip > 0 and math.isfinite(clip)):
        raise ValueError(f"clip={clip} must be a finite number above 0")
    records = list(history.records)
    if not records:
        raise ValueError("the history is empty: train for at least one step first")
    left_out = [r.step for r in records if r.gradient_norm is None]
    known = [r for r in records if r.gradient_norm is not None]
    steps = np.array([r.step for r in known])
    norms = np.array([r.gradient_norm for r in known], dtype=np.float64)
    if not np.isfinite(norms).all() or (norms < 0).any():
        first = int(steps[~(np.isfinite(norms) & (norms >= 0))][0])
        raise ValueError(f"the gradient norm of step {first} is not a finite number of at least 0")
    from matplotlib.ticker import LogLocator, NullLocator

    above = norms > clip
    if title is None:
        title = f"{int(above.sum())} of {len(records)} updates clipped"
        title += f", {len(left_out)} left out" if left_out else ""
    with style.applied():
        drawn, axes = style.figure(7.6, 3.2)
        ax = axes[0, 0]
        ax.plot(steps, norms, color=style.BLUE, linestyle="-", linewidth=1.1, label="gradient norm")
        ax.plot(
            steps[above], norms[above], color=style.VERMILLION, marker="o", markersize=3.5,
            linestyle="", label="clipped to the limit",
        )  # fmt: skip
        ax.axhline(
            clip, color=style.INK, linewidth=1.3, linestyle=(0, (6, 3)), label=f"limit {clip:g}"
        )
        if left_out:
            ax.plot(
                left_out, [0.97] * len(left_out), marker="x", color=style.INK, linestyle="",
                transform=ax.get_xaxis_transform(), label="overflow: update left out",
            )  # fmt: skip
        if (norms > 0).any():
            ax.set_yscale("log")
            ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=12))
            ax.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
            ax.yaxis.set_minor_locator(NullLocator())
        ax.margins(x=0.02)
        ax.set_xlabel("optimiser step")
        ax.set_ylabel("norm before clipping (logarithmic)")
        style.grid(ax)
        ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0))
        ax.set_title(title)
    return drawn
