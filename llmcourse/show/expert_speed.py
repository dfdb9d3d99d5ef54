"""How fast a mixture of experts is, against others and against a dense layer of equal arithmetic.

Taught in: Part 5. Every bar is a speed relative to the dense row of its table, whose speed is 1. A
sparse layer of the same arithmetic that stood at 1 would move its tokens for nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from llmcourse.show import style
from llmcourse.show.scaling import time_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def speed_rows(tables: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows for `plot_expert_speed` from the section "layer" that benchmarks/moe.py writes.

    Args:
        tables: mappings of "case" and of "rows", by name "seconds", "low" and "high".
    """
    kept = ("seconds", "low", "high")
    return [
        {"name": name, "dtype": table["case"], **{key: row[key] for key in kept}}
        for table in tables
        for name, row in table["rows"].items()
    ]


def _checked(rows: Sequence[Mapping[str, Any]], reference: str) -> dict[str, list[Any]]:
    """Rows by dtype, each group with a reference."""
    groups: dict[str, list[Any]] = {}
    for number, row in enumerate(rows):
        for name in ("name", "dtype", "seconds"):
            if name not in row:
                raise ValueError(f"row {number} has no {name!r}; it has {list(row)}")
        for name in ("seconds", "low", "high", "tokens"):
            value = row.get(name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ValueError(f"row {number} ({row['name']}): {name}={value} must be above 0")
        groups.setdefault(str(row["dtype"]), []).append(row)
    if not groups:
        raise ValueError("there is nothing to draw: no rows")
    for dtype, group in groups.items():
        names = [row["name"] for row in group]
        if not any(name.startswith(reference) for name in names):
            raise ValueError(
                f"{dtype} needs a row whose name begins with {reference!r} to compare with; it has "
                f"{names}"
            )
    return groups


def plot_expert_speed(
    rows: Sequence[Mapping[str, Any]],
    *,
    reference: str = "dense",
    ours: str = "ours",
    title: str | None = None,
) -> Figure:
    """Speeds relative to a reference, a panel for each precision, with the time in words.

    Args:
        rows: medians, with "name", "dtype" and "seconds"; optionally "low" and "high" (seconds,
            drawn as a range) and "tokens" (of the batch, for tokens/s in words).
        reference: the first row of each dtype whose name begins so has speed 1; all such rows are
            hatched.
        ours: rows whose name begins so are drawn dark.
        title: over the figure.

    Returns:
        The figure, known to pyplot.

    Raises:
        ValueError: no rows, one without a name, dtype or time, or a dtype without a reference.
    """
    groups = _checked(list(rows), reference)
    counts = [len(group) for group in groups.values()]
    with style.applied():
        drawn, axes = style.figure(
            8.8, 0.27 * sum(counts) + 0.45 * len(counts) + 0.7, len(counts), 1, sharex=True,
            height_ratios=counts,
        )  # fmt: skip
        longest = 0.0
        for ax, (dtype, group) in zip(axes[:, 0], groups.items(), strict=True):
            longest = max(longest, _panel(ax, group, reference, ours))
            ax.set_title(style.drawable_label(dtype), fontsize=style.TEXT_SIZE)
        room = 1.55 if any(row.get("tokens") for row in rows) else 1.25
        last = axes[-1, 0]
        last.set_xlim(0, longest * room)
        last.set_xticks(np.arange(0, longest + 0.125, 0.25))
        last.set_xlabel(
            f"speed relative to “{style.drawable_label(reference)}” (first hatched row)"
        )
        if title:
            drawn.suptitle(title, x=0.01, ha="left", fontsize=style.TEXT_SIZE + 2)
    return drawn


def _panel(ax: Axes, group: Sequence[Mapping[str, Any]], reference: str, ours: str) -> float:
    """One precision; returns how far to the right it reaches."""
    base = next(row["seconds"] for row in group if row["name"].startswith(reference))
    longest = 0.0
    for place, row in enumerate(group):
        end = speed = base / row["seconds"]
        look: dict[str, Any] = {"facecolor": "#cfe3f1", "edgecolor": style.BLUE}
        if row["name"].startswith(reference):
            look = {"facecolor": "#f3f3f3", "edgecolor": style.MUTED, "hatch": "////"}
        elif row["name"].startswith(ours):
            look = {"facecolor": style.BLUE, "edgecolor": style.BLUE}
        ax.barh(place, speed, height=0.66, linewidth=0.8, **look)
        low, high = row.get("low"), row.get("high")
        if low is not None and high is not None:
            end = base / low
            ax.plot([base / high, end], [place] * 2, color=style.INK, linestyle="-", linewidth=1.3)
        words = f"{speed:.2f}   {time_text(row['seconds'])}"
        if row.get("tokens") is not None:
            words += f", {row['tokens'] / row['seconds']:,.0f} tokens/s"
        ax.annotate(
            words, (max(end, speed), place), (5, 0), textcoords="offset points", va="center",
            fontsize=style.SMALL_SIZE - 1, zorder=4,
            bbox={"facecolor": style.PAPER, "edgecolor": "none", "alpha": 0.85, "pad": 0.8},
        )  # fmt: skip
        longest = max(longest, end, speed)
    ax.axvline(1.0, color=style.INK, linewidth=1.0, linestyle=(0, (6, 3)))
    names = [style.drawable_label(row["name"]) for row in group]
    ax.set_yticks(range(len(group)), names, fontsize=style.SMALL_SIZE)
    ax.tick_params(axis="y", length=0)
    ax.set_ylim(len(group) - 0.4, -0.6)
    style.grid(ax, "x")
    return longest
