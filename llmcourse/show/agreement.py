"""Runs that should be the same run: loss curves one upon the other, and how far they part.

Taught in: Part 4. The same picture answers several questions: does a resumed run go on exactly, do
two processes learn what one does, what does a lower precision change, does accumulation equal the
large batch. The curves lie on each other where all is well, so beneath them stands the difference,
in numbers that show rounding.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from llmcourse.show import style
from llmcourse.show.curves import smooth

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

EPSILON = 2.0**-23  # float32: the gap from 1 to the next number


def _series_of(label: str, history: Any) -> dict[int, float]:
    """Loss by step; of a step that was done twice, the later one."""
    steps, losses = list(history.steps), list(history.losses)
    if len(steps) != len(losses):
        raise ValueError(f"the history of {label!r} has {len(steps)} steps, {len(losses)} losses")
    if not steps:
        raise ValueError(f"the history of {label!r} is empty: train for at least one step first")
    return dict(zip(steps, losses, strict=True))


def loss_differences(reference: Any, other: Any) -> tuple[np.ndarray, np.ndarray]:
    """(N,) steps that both histories have, and the other's loss minus the reference's there.

    Raises:
        ValueError: an empty history, or no common step.
    """
    first, second = _series_of("reference", reference), _series_of("other", other)
    steps = sorted(first.keys() & second.keys())
    if not steps:
        raise ValueError("the two histories have no step in common; nothing can be compared")
    return np.array(steps), np.array([second[step] - first[step] for step in steps])


def plot_agreement(
    histories: Sequence[tuple[str, Any]],
    *,
    unit: str = "nats per token",
    marks: Iterable[tuple[float, str]] = (),
    span: float = 1,
    title: str | None = None,
) -> Figure:
    """Losses of several runs above, and their differences from the first run below.

    Args:
        histories: (label, history) of each run, the reference first; a history has `.steps` and
            `.losses`.
        unit: of the losses.
        marks: (step, words) of moments to point out.
        span: of the smoothing of both panels, in records; 1 changes nothing.
        title: over the figure; None says how large the largest difference is.

    Returns:
        The figure, known to pyplot.

    Raises:
        ValueError: fewer than two runs, an empty one, one without a step in common with the first,
            or a span below 1.
    """
    pairs = list(histories)
    if len(pairs) < 2:
        raise ValueError(f"at least two runs are compared, got {len(pairs)}")
    if span < 1:
        raise ValueError(f"span must be at least 1 record, not {span}")
    curves = [(label, _series_of(label, history)) for label, history in pairs]
    gaps = [loss_differences(pairs[0][1], history) for _, history in pairs[1:]]
    if title is None:
        title = _verdict(gaps, unit)
    with style.applied():
        drawn, axes = style.figure(8.8, 4.4, 2, 1, sharex=True, height_ratios=[2.2, 1])
        above, below = axes[:, 0]
        for number, (label, losses) in enumerate(curves):
            color, line = _look(number)
            above.plot(
                list(losses), _calmed(list(losses.values()), span), color=color, label=label,
                **line,
            )  # fmt: skip
        for number, (steps, gap) in enumerate(gaps, start=1):
            color, line = _look(number)
            below.plot(steps, _calmed(gap, span), color=color, **line)
        _finish(above, below, marks, unit)
        above.set_title(title)
    return drawn


def _calmed(values: Any, span: float) -> Any:
    # A mean of one entry is not that entry to the last bit, and here the last bit counts.
    return values if span == 1 else smooth(values, span)


def _look(number: int) -> tuple[str, dict[str, Any]]:
    """The reference is broad and light, so that what lies on it is still seen, and so is it."""
    if number == 0:
        return style.SKY, {"linestyle": "-", "linewidth": 5.0, "alpha": 0.75}
    look = style.SERIES[(2, 5, 0, 3)[(number - 1) % 4]]
    return look.color, {"linestyle": look.linestyle, "linewidth": 1.6}


def _verdict(gaps: Sequence[tuple[np.ndarray, np.ndarray]], unit: str) -> str:
    # One array, so that a loss that is not a number shows as such.
    worst = float(np.abs(np.concatenate([gap for _, gap in gaps])).max())
    count = sum(len(steps) for steps, _ in gaps)
    if worst == 0:
        return f"identical: all {count:,} losses compared are equal, bit by bit"
    return f"largest difference {worst:.2g} {unit}"


def _finish(above: Axes, below: Axes, marks: Iterable[tuple[float, str]], unit: str) -> None:
    below.axhline(0.0, color=style.MUTED, linewidth=0.8, zorder=0)
    low, high = below.get_ylim()
    reach = max(abs(low), abs(high))
    # Exactly 0 everywhere: a range of float32's rounding, so that the line means something.
    if all(not np.any(line.get_ydata()) for line in below.lines):
        reach = EPSILON
    below.set_ylim(-reach, reach)
    below.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3), useMathText=True)
    below.yaxis.get_offset_text().set_fontsize(style.SMALL_SIZE)
    for step, words in marks:
        for ax in (above, below):
            ax.axvline(step, color=style.INK, linewidth=1.1, linestyle=(0, (2, 2)), zorder=1)
        above.annotate(
            words, (step, 0.97), (4, 0), xycoords=above.get_xaxis_transform(), va="top",
            textcoords="offset points", fontsize=style.SMALL_SIZE,
        )  # fmt: skip
    for ax in (above, below):
        style.grid(ax)
        ax.margins(x=0.02)
    above.set_ylabel(f"loss ({unit})")
    below.set_ylabel("difference")
    below.set_xlabel("optimiser step")
    above.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0))


def plot_resume(
    uninterrupted: Any,
    killed: Any,
    resumed: Any,
    *,
    unit: str = "nats per token",
    title: str | None = None,
) -> Figure:
    """A run that was killed and resumed, over one that was not: the moment, and the difference.

    The steps between the last checkpoint and the kill are done twice; they are shaded.

    Args:
        uninterrupted: history of the run that nothing happened to.
        killed: history up to the kill.
        resumed: history from the checkpoint on; its first step follows the last one saved.
        unit: of the losses.
        title: over the figure; None says how large the largest difference is.

    Returns:
        The figure, known to pyplot.

    Raises:
        ValueError: an empty history, no common steps, or a resumed run that leaves steps out.
    """
    before, after = _series_of("killed", killed), _series_of("resumed", resumed)
    end, start = max(before), min(after)
    if start > end + 1:
        raise ValueError(
            f"the resumed run begins with step {start}, but the killed one ended at step {end}: "
            f"steps {end + 1} to {start - 1} are missing"
        )
    gaps = [loss_differences(uninterrupted, history) for history in (killed, resumed)]
    reference = _series_of("uninterrupted", uninterrupted)
    with style.applied():
        drawn, axes = style.figure(8.8, 4.4, 2, 1, sharex=True, height_ratios=[2.2, 1])
        above, below = axes[:, 0]
        names = ("until the kill", "resumed")
        color, line = _look(0)
        above.plot(
            list(reference), list(reference.values()), color=color, label="never stopped", **line
        )
        for number, (name, losses, (steps, gap)) in enumerate(
            zip(names, (before, after), gaps, strict=True), start=1
        ):
            color, line = _look(number)
            above.plot(list(losses), list(losses.values()), color=color, label=name, **line)
            below.plot(steps, gap, color=color, **line)
        if start <= end:
            for ax in (above, below):
                ax.axvspan(start - 1, end, color=style.FAINT, alpha=0.6, linewidth=0, zorder=0)
        marks = [(end, f"killed after step {end}")]
        if start <= end:
            above.annotate(
                f"from the checkpoint\nof step {start - 1}: done twice", (start - 1, 0.04), (-4, 0),
                xycoords=above.get_xaxis_transform(), textcoords="offset points", ha="right",
                fontsize=style.SMALL_SIZE, color=style.MUTED,
            )  # fmt: skip
        _finish(above, below, marks, unit)
        above.set_title(_verdict(gaps, unit) if title is None else title)
    return drawn


def plot_accumulation(rows: Sequence[Mapping[str, Any]], *, title: str | None = None) -> Figure:
    """How far an accumulated gradient is from the large batch's, by the number of micro-batches.

    Args:
        rows: mappings with "micro_batches", "difference" (norm of the difference over the norm of
            the large batch's gradient) and, where ways are compared, "way".
        title: over the figure.

    Returns:
        The figure, known to pyplot.

    Raises:
        ValueError: no rows, one that lacks something, or numbers that cannot be.
    """
    lines: dict[str, list[tuple[int, float]]] = {}
    for number, row in enumerate(rows):
        for name in ("micro_batches", "difference"):
            if name not in row:
                raise ValueError(f"row {number} has no {name!r}; it has {list(row)}")
        count, difference = row["micro_batches"], row["difference"]
        if not count >= 1 or not (np.isfinite(difference) and difference >= 0):
            raise ValueError(
                f"row {number}: micro_batches={count} must be at least 1, and difference="
                f"{difference} a finite number of at least 0"
            )
        lines.setdefault(row.get("way", "accumulated"), []).append((count, difference))
    if not lines:
        raise ValueError("there is nothing to draw: no rows")
    counts = sorted({count for pairs in lines.values() for count, _ in pairs})
    with style.applied():
        drawn, axes = style.figure(8.0, 3.3)
        ax = axes[0, 0]
        for number, (way, pairs) in enumerate(lines.items()):
            look = style.series(number)
            ax.plot(
                *zip(*sorted(pairs), strict=True), color=look.color, linestyle=look.linestyle,
                marker=look.marker, label=way, clip_on=False, zorder=3,
            )  # fmt: skip
        ax.axhline(
            EPSILON, color=style.MUTED, linewidth=1.1, linestyle=(0, (6, 3)),
            label="float32's rounding of one number",
        )  # fmt: skip
        # Linear around 0, so that an exact agreement has a place too.
        ax.set_yscale("symlog", linthresh=1e-9)
        ax.set_ylim(0, 10 * max(EPSILON, *(d for pairs in lines.values() for _, d in pairs)))
        ax.set_yticks([0, *(10.0**n for n in range(-8, 3, 2) if 10.0**n <= ax.get_ylim()[1])])
        ax.set_yticks([], minor=True)
        ax.set_xscale("log", base=2)
        ax.set_xticks(counts)
        ax.set_xticks([], minor=True)
        ax.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        ax.set_xlabel("micro-batches per update (logarithmic)")
        ax.set_ylabel("relative difference\n(logarithmic above 1e-9)")
        style.grid(ax)
        ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0))
        if title:
            ax.set_title(title)
    return drawn
