"""Where training time goes, and what each step towards speed was worth.

Taught in: Part 4. A *ladder* starts from a plain loop and adds one thing at a time; each bar is the
speed with everything up to there. A *profile* says which kinds of operations take the time that is
left.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from llmcourse.show import style
from llmcourse.show.cache import UNITS, size_text
from llmcourse.show.scaling import time_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Which kind of work an operator's name belongs to; the first that matches counts. Names are those
# of torch.profiler ("aten::mm", "AdamWStep", ...).
GROUPS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("optimiser", ("_foreach", "_fused_adam", "optimizer", "addcdiv", "addcmul", "lerp")),
    ("fused attention", ("scaled_dot_product", "flash_attention")),
    ("cross-entropy", ("log_softmax", "nll_loss", "cross_entropy", "logsumexp")),
    ("softmax", ("softmax",)),
    (
        "matrix products",
        ("::mm", "addmm", "bmm", "matmul", "linear", "convolution", "conv2d", "mkldnn", "einsum"),
    ),
    ("normalisation", ("norm",)),
    ("activation", ("gelu", "silu", "relu", "tanh", "sigmoid")),
    ("embedding", ("embedding", "index", "gather", "scatter")),
    ("copies and casts", ("copy_", "_to_copy", "::to", "clone", "contiguous", "cat", "stack")),
    ("memory", ("empty", "zero_", "zeros", "fill_", "resize_", "zeros_like")),
    ("element by element", ("add", "mul", "sub", "div", "sum", "mean", "pow", "sqrt", "neg")),
)
OTHER = "other"


def operator_groups(seconds: Mapping[str, float]) -> dict[str, float]:
    """Times of single operators added up by the kind of work they do.

    Args:
        seconds: by operator name, the time spent in itself (without what it calls), as
            `torch.profiler`'s `self_cpu_time_total` has it; any unit.

    Returns:
        Time by group, the longest first and "other" last; the sum is kept.

    Raises:
        ValueError: a time that is negative or no number.
    """
    found: dict[str, float] = {}
    for name, time in seconds.items():
        if not (math.isfinite(time) and time >= 0):
            raise ValueError(f"the time of {name!r} is {time}; it must be a number of at least 0")
        lower = name.lower()
        group = next((g for g, signs in GROUPS if any(sign in lower for sign in signs)), OTHER)
        found[group] = found.get(group, 0.0) + time
    return dict(sorted(found.items(), key=lambda item: (item[0] == OTHER, -item[1])))


def plot_profile(
    seconds: Mapping[str, float], *, top: int = 10, title: str | None = None
) -> Figure:
    """Bars of the share of time that each group of operators takes.

    Args:
        seconds: by group, as `operator_groups` gives it.
        top: bars; what is left over becomes "other".
        title: over the figure; None gives the total.

    Returns:
        The figure, known to pyplot.

    Raises:
        ValueError: no time at all, a negative one, or no bars.
    """
    if top < 1:
        raise ValueError(f"top must be at least 1 bar, not {top}")
    for name, time in seconds.items():
        if not (math.isfinite(time) and time >= 0):
            raise ValueError(f"the time of {name!r} is {time}; it must be a number of at least 0")
    total = sum(seconds.values())
    if not total > 0:
        raise ValueError("there is no time to share out: give at least one group above 0")
    ranked = sorted(
        ((name, time) for name, time in seconds.items() if name != OTHER),
        key=lambda item: -item[1],
    )
    shown = ranked[:top]
    rest = total - sum(time for _, time in shown)
    if rest > 1e-9 * total:
        shown.append((OTHER, rest))
    with style.applied():
        drawn, axes = style.figure(7.8, 0.3 * len(shown) + 1.0)
        ax = axes[0, 0]
        for place, (name, time) in enumerate(shown):
            last = name == OTHER
            ax.barh(
                place, 100 * time / total, height=0.66, linewidth=0.8,
                facecolor="#f3f3f3" if last else style.BLUE,
                edgecolor=style.MUTED if last else style.BLUE, hatch="////" if last else None,
            )  # fmt: skip
            ax.annotate(
                f"{time / total:.0%}", (100 * time / total, place), (4, 0), va="center",
                textcoords="offset points", fontsize=style.SMALL_SIZE,
            )  # fmt: skip
        _names(ax, [name for name, _ in shown])
        ax.set_xlim(0, 112 * max(time for _, time in shown) / total)
        ax.set_xlabel("share of time (%)")
        style.grid(ax, "x")
        ax.set_title(title if title is not None else f"{time_text(total)} in all")
    return drawn


def _names(ax: Axes, names: Sequence[str]) -> None:
    """Names of horizontal bars, the first on top."""
    labels = [style.drawable_label(name) for name in names]
    ax.set_yticks(range(len(names)), labels, fontsize=style.SMALL_SIZE)
    ax.tick_params(axis="y", length=0)
    ax.set_ylim(len(names) - 0.4, -0.6)


def _checked(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    rows = list(rows)
    if not rows:
        raise ValueError("there is nothing to draw: no rows")
    for number, row in enumerate(rows):
        for name in ("name", "tokens_per_second"):
            if name not in row:
                raise ValueError(f"row {number} has no {name!r}; it has {list(row)}")
        for name in ("tokens_per_second", "peak_bytes"):
            value = row.get(name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ValueError(f"row {number} ({row['name']}): {name}={value} must be above 0")
        if row["tokens_per_second"] is None:
            raise ValueError(f"row {number} ({row['name']}) has no tokens_per_second")
    return rows


def plot_ladder(rows: Sequence[Mapping[str, Any]], *, title: str | None = None) -> Figure:
    """Training speed step by step, each with its factor, and the peak memory beside it.

    Behind each bar stands its speed, how many times the first row that is, and in brackets how many
    times the row before. A row that is slower than the one before is hatched.

    Args:
        rows: in order; mappings with "name", "tokens_per_second" and, for the right panel,
            "peak_bytes" (which may be None where it was not measured).
        title: over the figure.

    Returns:
        The figure, known to pyplot.

    Raises:
        ValueError: no rows, one without a name or speed, or numbers that are not above 0.
    """
    rows = _checked(rows)
    speeds = [float(row["tokens_per_second"]) for row in rows]
    peaks = [row.get("peak_bytes") for row in rows]
    panels = 2 if any(peak is not None for peak in peaks) else 1
    with style.applied():
        drawn, axes = style.figure(
            9.8 if panels == 2 else 7.6, 0.34 * len(rows) + 1.1, 1, panels, sharey=True,
            **({"width_ratios": [1.7, 1]} if panels == 2 else {}),
        )  # fmt: skip
        left = axes[0, 0]
        for place, speed in enumerate(speeds):
            before = speeds[max(0, place - 1)]
            words = f"{speed:,.0f}"
            if place:
                words += f"   × {speed / speeds[0]:.2f}  (× {speed / before:.2f})"
            _bar(left, place, speed, words, hatched=speed < before)
        left.set_xlim(0, 1.5 * max(speeds))
        left.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        left.set_xlabel("training speed (tokens/s)")
        style.grid(left, "x")
        if panels == 2:
            _memory(axes[0, 1], peaks)
        _names(left, [row["name"] for row in rows])
        if title:
            drawn.suptitle(title, x=0.01, ha="left", fontsize=style.TEXT_SIZE + 2)
    return drawn


def _bar(ax: Axes, place: int, length: float, words: str, *, hatched: bool = False) -> None:
    look = {"facecolor": "#cfe3f1", "hatch": "////"} if hatched else {"facecolor": style.BLUE}
    ax.barh(place, length, height=0.66, linewidth=0.8, edgecolor=style.BLUE, **look)
    ax.annotate(
        words, (length, place), (4, 0), textcoords="offset points", va="center",
        fontsize=style.SMALL_SIZE,
    )  # fmt: skip


def _memory(ax: Axes, peaks: Sequence[float | None]) -> None:
    """Peak memory of each row, and its share of the first known one."""
    known = [peak for peak in peaks if peak is not None]
    power = min(len(UNITS) - 1, int(math.log10(max(known)) // 3))
    for place, peak in enumerate(peaks):
        if peak is None:
            ax.annotate(
                "not measured", (0, place), (4, 0), textcoords="offset points", va="center",
                fontsize=style.SMALL_SIZE, color=style.MUTED,
            )  # fmt: skip
            continue
        words = size_text(peak)
        if place:
            words += f"   × {peak / known[0]:.2f}"
        ax.barh(
            place, peak / 1000**power, height=0.66, linewidth=0.8, facecolor=style.ORANGE,
            edgecolor=style.MUTED,
        )  # fmt: skip
        ax.annotate(
            words, (peak / 1000**power, place), (4, 0), textcoords="offset points", va="center",
            fontsize=style.SMALL_SIZE,
        )  # fmt: skip
    ax.set_xlim(0, 1.6 * max(known) / 1000**power)
    ax.set_xlabel(f"peak memory ({UNITS[power]})")
    ax.tick_params(axis="y", length=0, labelleft=False)
    style.grid(ax, "x")
