"""Who may look at whom, drawn from the rule itself: causal, window, sinks, packed documents.

Taught in: Part 3. The cells are `Visibility.table()`, the one that attention uses; a cell that only
the sinks keep visible has its own colour, a forbidden one is hatched as in the attention maps.

Shapes: B batch, T queries, S keys.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from llmcourse.show import style
from llmcourse.show.attention import hatch_forbidden

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from llmcourse.model.masks import Visibility

HIDDEN, SEEN, SINK = 0, 1, 2  # what a cell can be
CELL = {SEEN: style.SKY, SINK: style.BLUE}


def visible_table(visibility: Visibility, row: int = 0) -> np.ndarray:
    """(T, S) bool, True = may look, of one row of the batch.

    Raises:
        ValueError: the batch has no such row.
    """
    table = visibility.table()
    if table is None:
        return np.ones((visibility.t, visibility.s), dtype=bool)
    seen = table.cpu().numpy()
    if seen.ndim == 2:  # the same for every row of the batch
        return seen
    if not 0 <= row < len(seen):
        raise ValueError(f"batch row {row} does not exist; there are {len(seen)}, from 0")
    return seen[row, 0]  # (B, 1, T, S) -> (T, S)


def cells(visibility: Visibility, row: int = 0) -> np.ndarray:
    """(T, S) of HIDDEN, SEEN and SINK: a sink is what would be hidden if there were no sinks."""
    import dataclasses

    seen = visible_table(visibility, row)
    without = visible_table(dataclasses.replace(visibility, sinks=0), row)
    return np.where(seen, np.where(without, SEEN, SINK), HIDDEN)


def label_positions(ax: Axes, visibility: Visibility, row: int = 0) -> None:
    """Ticks that say positions: with a cache the first query does not stand at position 0."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    for axis, positions in zip((ax.yaxis, ax.xaxis), visibility.positions()):
        numbers = (positions[row] if positions.ndim == 2 else positions).tolist()

        def name(place: float, _: Any, numbers: list[int] = numbers) -> str:
            if place != int(place) or not 0 <= place < len(numbers):
                return ""
            return str(numbers[int(place)]) if numbers[int(place)] >= 0 else "pad"

        if len(numbers) == 1:
            axis.set_ticks([0])
        else:
            axis.set_major_locator(MaxNLocator(integer=True, nbins=8))
        axis.set_major_formatter(FuncFormatter(name))


def draw_visibility(ax: Axes, visibility: Visibility, row: int = 0) -> None:
    """Draw on given axes one panel of `plot_visibility`."""
    from matplotlib.colors import ListedColormap

    kinds = cells(visibility, row)
    paint = ListedColormap([style.PAPER, CELL[SEEN], CELL[SINK]])
    ax.imshow(kinds, cmap=paint, vmin=0, vmax=2, interpolation="nearest", aspect="equal")
    hatch_forbidden(ax, kinds != HIDDEN)
    t, s = kinds.shape
    if max(t, s) <= 40:  # lines between the cells
        ax.set_xticks(np.arange(s + 1) - 0.5, minor=True)
        ax.set_yticks(np.arange(t + 1) - 0.5, minor=True)
        ax.grid(True, which="minor", color=style.PAPER, linewidth=0.8)
        ax.set_axisbelow(False)
    ax.tick_params(which="both", length=0)
    label_positions(ax, visibility, row)
    for spine in ax.spines.values():
        spine.set_visible(True)
        spine.set_color(style.FAINT)


def plot_visibility(
    visibility: Visibility | Mapping[str, Visibility],
    *,
    row: int = 0,
    title: str | None = None,
) -> Figure:
    """Masks side by side: one row per query, one column per key.

    Args:
        visibility: one, or several under their names.
        row: of the batch, where rows differ.
        title: over the figure.

    Returns:
        The figure, known to pyplot.

    Raises:
        ValueError: nothing to draw, or a row that the batch does not have.
    """
    from matplotlib.patches import Patch

    named = dict(visibility) if isinstance(visibility, Mapping) else {"": visibility}
    if not named:
        raise ValueError("there is nothing to draw: give at least one Visibility")
    tables = [cells(one, row) for one in named.values()]
    columns = min(4, len(named))
    rows = -(-len(named) // columns)
    side = 3.4 if len(named) == 1 else 9.4 / max(columns, 3)
    tallest = max(len(one) / one.shape[1] for one in tables)
    alike = len({one.shape for one in tables}) == 1
    with style.applied():
        drawn, axes = style.figure(
            columns * side + (2.6 if len(named) == 1 else 0.5), rows * (side * tallest + 0.4) + 0.5,
            rows, columns, layout="compressed" if alike else "constrained",
        )  # fmt: skip
        for place, ax in enumerate(axes.flat):
            if place >= len(named):
                ax.set_visible(False)
                continue
            name, one = list(named.items())[place]
            draw_visibility(ax, one, row)
            ax.set_title(name, fontsize=style.TEXT_SIZE)
            if place + columns >= len(named):
                ax.set_xlabel("key position (tokens)")
            if place % columns == 0:
                ax.set_ylabel("query position (tokens)")
        names = {SEEN: "may look", SINK: "sink outside the window"}
        found = {kind for table in tables for kind in np.unique(table)}
        handles = [Patch(facecolor=CELL[k], label=names[k]) for k in (SEEN, SINK) if k in found]
        if HIDDEN in found:
            handles.append(
                Patch(facecolor="#f3f3f3", edgecolor="#c4c4c4", hatch="////", label="may not look")
            )
        if len(named) == 1:
            axes[0, 0].legend(handles=handles, loc="upper left", bbox_to_anchor=(1.01, 1.0))
        else:
            drawn.legend(handles=handles, loc="outside lower center", ncols=len(handles))
        if title:
            drawn.suptitle(title, x=0.01, ha="left", fontsize=style.TEXT_SIZE + 2)
    return drawn
