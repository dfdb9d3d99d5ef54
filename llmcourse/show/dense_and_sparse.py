"""Dense against sparse, fairly: the same losses against updates, arithmetic and seconds.

Taught in: Part 5. Which of two models learns faster depends on what is held equal. Against updates
a sparse model shows what its extra parameters are worth; against FLOPs what it spends on them;
against seconds what this machine makes of it. Lines are means over seeds, bands their whole range.

An upcycled model, made of a dense one, is compared the same way with training from scratch and with
going on dense (Komatsuzaki et al. 2022, arXiv 2212.05055).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from llmcourse.show import style
from llmcourse.show.arrays import to_array

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

AXES = {
    "updates": "optimiser step (updates made)",
    "flops": "training arithmetic (FLOPs)",
    "seconds": "training time (s)",
}
POINTS = 120  # of a mean line, where the runs' own points differ
Run = Mapping[str, Any]  # "loss" (P,) and any of AXES (P,)


def _curve(run: Run, axis: str, name: str) -> tuple[np.ndarray, np.ndarray]:
    """(P,) budgets, rising, and (P,) losses."""
    for key in (axis, "loss"):
        if key not in run:
            raise ValueError(f"a run of {name!r} has no {key!r}; it has {list(run)}")
    x, loss = to_array(run[axis], axis), to_array(run["loss"], "losses")
    if x.ndim != 1 or x.shape != loss.shape or not len(x):
        raise ValueError(
            f"a run of {name!r} has {axis} of shape {x.shape} and losses of shape {loss.shape}; "
            "give one of each for every validation"
        )
    if (np.diff(x) <= 0).any():
        raise ValueError(f"{axis} of a run of {name!r} must rise from point to point")
    return x, loss


def loss_at(runs: Sequence[Run], axis: str, budget: float) -> np.ndarray:
    """(seeds,) validation loss of each run once it has spent `budget`, between points linear.

    Args:
        runs: of one arm, a run per seed.
        axis: "updates", "flops" or "seconds".
        budget: in that unit.

    Raises:
        ValueError: another axis, no runs, or a run that does not reach from before to after the
            budget: nothing is made up beyond its ends.
    """
    if axis not in AXES:
        raise ValueError(f"axis={axis!r} is unknown; choose one of {list(AXES)}")
    if not runs:
        raise ValueError("there are no runs")
    losses = []
    for number, run in enumerate(runs):
        x, loss = _curve(run, axis, f"number {number}")
        if not x[0] <= budget <= x[-1]:
            raise ValueError(
                f"run {number} has validations from {x[0]:g} to {x[-1]:g} {axis}, and none on "
                f"both sides of {budget:g}"
            )
        losses.append(float(np.interp(budget, x, loss)))
    return np.array(losses)


def _mean_line(curves: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """(P,) common budgets and (seeds, P) losses there."""
    first = curves[0][0]
    if all(np.array_equal(x, first) for x, _ in curves):
        return first, np.stack([loss for _, loss in curves])
    # Seconds differ from run to run: only the part that all runs have is a fair mean.
    low, high = max(x[0] for x, _ in curves), min(x[-1] for x, _ in curves)
    if low >= high:
        raise ValueError("the runs of an arm have no common part; they cannot be averaged")
    common = np.linspace(low, high, POINTS)
    return common, np.stack([np.interp(common, x, loss) for x, loss in curves])


def draw_arms(ax: Axes, arms: Mapping[str, Sequence[Run]], axis: str) -> dict[str, Any]:
    """Mean and range of every arm on given axes; the lines by name, for a legend."""
    handles = {}
    for place, (name, runs) in enumerate(arms.items()):
        if not runs:
            raise ValueError(f"{name!r} has no runs")
        x, losses = _mean_line([_curve(run, axis, name) for run in runs])
        look = style.series(place)
        if len(losses) > 1:
            ax.fill_between(
                x, losses.min(0), losses.max(0), color=look.color, alpha=0.18, linewidth=0
            )
        every = max(1, len(x) // 8)
        handles[name] = ax.plot(
            x, losses.mean(0), color=look.color, linestyle=look.linestyle, marker=look.marker,
            markevery=(every // 2, every), markersize=5,
        )[0]  # fmt: skip
    return handles


def _focus(ax: Axes, arms: Mapping[str, Sequence[Run]], axis: str) -> None:
    """The first validations stand so high that the rest would be one line: cut them off."""
    losses = [_curve(run, axis, name) for name, runs in arms.items() for run in runs]
    ends = [loss.min() for _, loss in losses]
    spread = [loss[len(loss) // 4 :].max() for _, loss in losses]
    low, high = min(ends), max(spread)
    if high > low:
        ax.set_ylim(low - 0.06 * (high - low), high + 0.04 * (high - low))


def plot_dense_and_sparse(
    arms: Mapping[str, Sequence[Run]],
    axes: Sequence[str] = ("updates", "flops", "seconds"),
    *,
    budgets: Mapping[str, float] | None = None,
    unit: str = "nats per byte",
    title: str | None = None,
) -> Figure:
    """Validation losses of several arms, a panel for each thing that may be held equal.

    Args:
        arms: by name, a run per seed: mappings of "loss" (P,) and, for each axis, (P,) budgets.
        axes: any of "updates", "flops" and "seconds", in this order.
        budgets: by axis, where the arms are compared: a vertical line, and each arm's mean loss
            (and range over seeds) there, in words.
        unit: of the losses.
        title: over the figure.

    Returns:
        The figure, known to pyplot.

    Raises:
        ValueError: no arms or axes, an unknown axis, a run without what is asked, or a budget
            that a run does not reach.
    """
    axes = list(axes)
    for name in (*axes, *(budgets or {})):
        if name not in AXES:
            raise ValueError(f"axis={name!r} is unknown; choose one of {list(AXES)}")
    if not arms or not axes:
        raise ValueError("there is nothing to draw: give at least one arm and one axis")
    read = {
        axis: {name: loss_at(runs, axis, at) for name, runs in arms.items()}
        for axis, at in (budgets or {}).items()
        if axis in axes
    }
    with style.applied():
        height = 3.6 + (0.2 * len(arms) if read else 0)
        drawn, panels = style.figure(
            max(5.6, 3.5 * len(axes) + 0.4), height, 1, len(axes), sharey=True
        )
        try:
            for ax, axis in zip(panels[0], axes, strict=True):
                handles = draw_arms(ax, arms, axis)
                if axis == "flops":
                    ax.xaxis.set_major_formatter(lambda value, _: _power_text(value))
                label = AXES[axis]
                if axis in read:
                    ax.axvline(budgets[axis], color=style.INK, linewidth=1.0, linestyle=(0, (6, 3)))
                    label += f"\nat {_amount(budgets[axis], axis)}:\n" + "\n".join(
                        style.drawable_label(f"{name}: {_spread(losses)}")
                        for name, losses in read[axis].items()
                    )
                ax.set_xlabel(label)
                ax.margins(x=0.02)
                style.grid(ax)
            _focus(panels[0, 0], arms, axes[0])
        except Exception:
            style.discard(drawn)  # a refused argument leaves no empty figure behind
            raise
        drawn.align_xlabels(panels[0])
        panels[0, 0].set_ylabel(f"validation loss ({unit})")
        names = [style.drawable_label(name) for name in handles]
        drawn.legend(
            list(handles.values()), names, loc="outside upper center", ncols=min(4, len(names))
        )
        if title:
            drawn.suptitle(title, x=0.01, ha="left", fontsize=style.TEXT_SIZE + 2)
    return drawn


def _amount(budget: float, axis: str) -> str:
    if axis == "flops":
        return f"{_power_text(budget)} FLOPs"
    return f"{budget:g} s" if axis == "seconds" else f"{budget:,.0f} updates"


def _power_text(value: float) -> str:
    """3 digits and a power of ten, as matplotlib sets formulas."""
    if value == 0:
        return "0"
    digits, power = f"{value:.2e}".split("e")
    return rf"${float(digits):g}\times10^{{{int(power)}}}$"


def _spread(losses: np.ndarray) -> str:
    if len(losses) == 1:
        return f"{losses[0]:.3f}"
    return f"{losses.mean():.3f} ({losses.min():.3f} to {losses.max():.3f})"


def plot_upcycling(
    arms: Mapping[str, Sequence[Run]],
    *,
    axis: str = "updates",
    start: float | None = None,
    unit: str = "nats per byte",
    title: str | None = None,
) -> Figure:
    """Losses of an upcycled model, of one from scratch and of the dense one going on.

    Args:
        arms: as for `plot_dense_and_sparse`; budgets counted from the checkpoint on.
        axis: "updates", "flops" or "seconds".
        start: validation loss of the dense checkpoint; a line.
        unit: of the losses.
        title: over the figure.

    Returns:
        The figure, known to pyplot.

    Raises:
        ValueError: as `plot_dense_and_sparse`.
    """
    if axis not in AXES:
        raise ValueError(f"axis={axis!r} is unknown; choose one of {list(AXES)}")
    if not arms:
        raise ValueError("there is nothing to draw: no arms")
    with style.applied():
        drawn, axes = style.figure(8.2, 3.6)
        ax = axes[0, 0]
        try:
            handles = draw_arms(ax, arms, axis)
            _focus(ax, arms, axis)
        except Exception:
            style.discard(drawn)
            raise
        if start is not None:
            low, high = ax.get_ylim()
            ax.set_ylim(low, max(high, start + 0.06 * (start - low)))
            line = ax.axhline(start, color=style.MUTED, linewidth=1.0, linestyle=(0, (6, 3)))
            handles[f"the dense checkpoint: {start:.3f}"] = line
        if axis == "flops":
            ax.xaxis.set_major_formatter(lambda value, _: _power_text(value))
        ax.set_xlabel(f"{AXES[axis]}, counted from the checkpoint")
        ax.set_ylabel(f"validation loss ({unit})")
        ax.margins(x=0.02)
        names = [style.drawable_label(name) for name in handles]
        ax.legend(list(handles.values()), names, loc="upper left", bbox_to_anchor=(1.01, 1.0))
        style.grid(ax)
        if title:
            ax.set_title(title)
    return drawn
