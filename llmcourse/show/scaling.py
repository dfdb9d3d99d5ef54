"""Memory and time against the length of the text, on logarithmic axes.

Taught in: Part 3. On such axes a cost that grows as T or as T² is a straight line, and its slope is
the exponent; two faint guides show the slopes 1 and 2.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from llmcourse.show import style
from llmcourse.show.cache import size_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

QUANTITIES = {"bytes": "extra memory (logarithmic)", "seconds": "time (logarithmic)"}


def time_text(seconds: float) -> str:
    """Three digits and a unit: 1.5 ms."""
    for factor, unit in ((1e6, "µs"), (1e3, "ms")):
        if seconds * factor < 999.5:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds:.3g} s"


TEXT = {"bytes": size_text, "seconds": time_text}


def series_of(rows: Iterable[Mapping[str, Any]], quantity: str) -> dict[str, list[tuple]]:
    """(tokens, value) pairs by implementation, in the order of first appearance, T ascending.

    Raises:
        ValueError: a row without its tokens or implementation, or a value that has no logarithm.
    """
    found: dict[str, list[tuple]] = {}
    for number, row in enumerate(rows):
        for name in ("implementation", "tokens"):
            if name not in row:
                raise ValueError(f"row {number} has no {name!r}; it has {list(row)}")
        value = row.get(quantity)
        if value is None:
            continue
        if not (value > 0 and row["tokens"] > 0 and np.isfinite(value)):
            raise ValueError(
                f"row {number} ({row['implementation']}, {row['tokens']} tokens): "
                f"{quantity}={value} cannot stand on a logarithmic axis"
            )
        found.setdefault(row["implementation"], []).append((row["tokens"], value))
    return {name: sorted(pairs) for name, pairs in found.items()}


def draw_guides(ax: Axes, lines: dict[str, list[tuple]]) -> None:
    """Slopes 1 and 2 from just beneath the lowest first point, each named at its end."""
    lengths = [t for pairs in lines.values() for t, _ in pairs]
    first, last = min(lengths), max(lengths)
    if first == last:
        return
    start = 0.5 * min(pairs[0][1] for pairs in lines.values())
    for slope, name, dashes in ((1, "∝ T", "-"), (2, "∝ T²", (0, (6, 3)))):
        end = start * (last / first) ** slope
        ax.plot(
            [first, last], [start, end], color="#b5b5b5", linestyle=dashes, linewidth=1.0,
            zorder=0.5,
        )  # fmt: skip
        ax.annotate(
            name, (last, end), (5, 0), textcoords="offset points", va="center",
            color=style.MUTED, fontsize=style.SMALL_SIZE,
        )  # fmt: skip


def plot_scaling(
    rows: Sequence[Mapping[str, Any]],
    quantities: Sequence[str] | None = None,
    *,
    title: str | None = None,
) -> Figure:
    """What several implementations cost at several lengths, one panel per quantity.

    Args:
        rows: mappings with "implementation", "tokens" and any of "bytes" and "seconds".
        quantities: which of the two, in this order; None: those that the rows have.
        title: over the figure.

    Returns:
        The figure, known to pyplot.

    Raises:
        ValueError: nothing to draw, an unknown quantity, or a value that is not above 0.
    """
    rows = list(rows)
    if quantities is None:
        quantities = [name for name in QUANTITIES if any(name in row for row in rows)]
    for name in quantities:
        if name not in QUANTITIES:
            raise ValueError(f"unknown quantity {name!r}; there are {', '.join(QUANTITIES)}")
    lines = {name: series_of(rows, name) for name in quantities}
    if not lines or not all(lines.values()):
        raise ValueError("there is nothing to draw: no row has bytes or seconds that were asked")
    names = list(dict.fromkeys(row["implementation"] for row in rows))
    with style.applied():
        drawn, axes = style.figure(4.8 * len(lines) + 0.2, 3.7, 1, len(lines))
        handles: dict[str, Any] = {}
        for ax, (quantity, series) in zip(axes[0], lines.items(), strict=True):
            draw_guides(ax, series)
            for name, pairs in series.items():
                look = style.series(names.index(name))
                handles[name] = ax.plot(
                    *zip(*pairs, strict=True), color=look.color, linestyle=look.linestyle,
                    marker=look.marker, markersize=5.5,
                )[0]  # fmt: skip
            ax.set_xscale("log", base=2)
            ax.set_yscale("log")
            lengths = sorted({t for pairs in series.values() for t, _ in pairs})
            ax.set_xticks(lengths if len(lengths) <= 8 else lengths[:: -(-len(lengths) // 8)])
            ax.set_xticks([], minor=True)
            ax.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
            ax.yaxis.set_major_formatter(lambda value, _, text=TEXT[quantity]: text(value))
            ax.set_xlabel("T (tokens, logarithmic)")
            ax.set_ylabel(QUANTITIES[quantity])
            ax.margins(x=0.1)
            style.grid(ax)
        drawn.legend(
            list(handles.values()), list(handles), loc="outside upper center", ncols=len(handles)
        )
        if title:
            drawn.suptitle(title, x=0.01, ha="left", fontsize=style.TEXT_SIZE + 2)
    return drawn
