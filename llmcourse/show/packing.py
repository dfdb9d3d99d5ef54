"""Rows of a batch with their documents in colour, and what of the rows is padding.

Taught in: Part 4. A padded batch gives each document a row of its own and fills the row up; a
packed one puts several documents into a row. What is hatched is computed for nothing.

Shapes: B batch, T time (tokens).
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from llmcourse.show import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TINTS = ("#0072B2", "#b5d7ec", "#56B4E9")  # of a row's documents in turn: dark, light, middle
PADDING = -1


def document_table(batch: Any) -> np.ndarray:
    """(B, T) the number of each token's document in its row, PADDING where there is none.

    Args:
        batch: a `Batch` (one document a row) or a `PackedBatch`. Padding is a stretch of which no
            position is scored.

    Raises:
        ValueError: shapes that differ, or are not (B, T).
    """
    from llmcourse.data.batches import IGNORE_INDEX

    targets = np.asarray(batch.targets)
    if targets.ndim != 2 or not targets.size:
        raise ValueError(f"targets must have shape (B, T), not {targets.shape}")
    scored = targets != IGNORE_INDEX
    documents = getattr(batch, "documents", None)
    if documents is None:
        # Behind the last scored position of a row nothing follows.
        behind = np.cumsum(scored[:, ::-1], axis=1)[:, ::-1] == 0
        return np.where(behind, PADDING, 0)
    table = np.asarray(documents).astype(np.int64)
    if table.shape != targets.shape:
        raise ValueError(f"documents {table.shape} and targets {targets.shape} differ in shape")
    result = table.copy()
    for row in range(len(table)):
        for number in np.unique(table[row]):
            inside = table[row] == number
            if not scored[row, inside].any():
                result[row, inside] = PADDING
    return result


def padding_share(table: np.ndarray) -> float:
    """The share of a table's tokens that are padding, 0 to 1."""
    return float((table == PADDING).mean())


def draw_packing(ax: Axes, table: np.ndarray) -> None:
    """Draw rows of documents on given axes: a tint for each, padding hatched.

    Args:
        ax: the axes.
        table: (B, T) of `document_table`.
    """
    from matplotlib.patches import Rectangle

    for row, numbers in enumerate(table):
        edges = [0, *(np.flatnonzero(np.diff(numbers)) + 1), len(numbers)]
        for start, stop in pairwise(edges):
            number = int(numbers[start])
            look: dict[str, Any] = {"facecolor": TINTS[number % len(TINTS)], "edgecolor": "white"}
            if number == PADDING:
                look = {"facecolor": "#f6f6f6", "edgecolor": "#a8a8a8", "hatch": "////"}
            ax.add_patch(Rectangle((start, row - 0.4), stop - start, 0.8, linewidth=0.8, **look))
    ax.set_xlim(0, table.shape[1])
    ax.set_ylim(len(table) - 0.4, -0.6)
    ax.set_yticks([])
    ax.set_ylabel(f"{len(table)} row" + ("s" if len(table) > 1 else ""))
    for side in ("left", "bottom"):
        ax.spines[side].set_visible(False)


def plot_packing(batches: Any, *, most_rows: int = 16, title: str | None = None) -> Figure:
    """Batches with their documents in colour, and the share of padding in each.

    Args:
        batches: a `Batch` or `PackedBatch`, or several by name.
        most_rows: drawn of each batch; the shares are those of all rows.
        title: over the figure.

    Returns:
        The figure, known to pyplot.

    Raises:
        ValueError: no batch, one of another shape than (B, T), or no rows to draw.
    """
    from matplotlib.legend_handler import HandlerTuple
    from matplotlib.patches import Patch

    if not isinstance(batches, Mapping):
        batches = {"": batches}
    if not batches:
        raise ValueError("there is nothing to draw: no batch")
    if most_rows < 1:
        raise ValueError(f"most_rows={most_rows} must be at least 1")
    tables = {name: document_table(batch) for name, batch in batches.items()}
    rows = [min(len(table), most_rows) for table in tables.values()]
    with style.applied():
        drawn, axes = style.figure(
            8.8, 0.17 * sum(rows) + 0.75 * len(rows) + 0.3, len(rows), 1, height_ratios=rows
        )
        for ax, (name, table), count in zip(axes[:, 0], tables.items(), rows, strict=True):
            draw_packing(ax, table[:count])
            ax.set_xlim(0, max(one.shape[1] for one in tables.values()))  # one scale for all
            real = table[table != PADDING].size
            words = f"{padding_share(table):.1%} padding, {real:,} of {table.size:,} tokens used"
            if count < len(table):
                words += f" ({count} of {len(table)} rows drawn)"
            ax.set_title(f"{name}: {words}" if name else words, fontsize=style.TEXT_SIZE)
        axes[-1, 0].set_xlabel("position in the row (tokens)")
        handles = [Patch(facecolor=tint, edgecolor="white") for tint in TINTS]
        handles.append(Patch(facecolor="#f6f6f6", edgecolor="#a8a8a8", hatch="////"))
        drawn.legend(
            [tuple(handles[:3]), handles[3]], ["documents, in turn", "padding"],
            loc="outside upper right", ncols=2, handlelength=4,
            handler_map={tuple: HandlerTuple(ndivide=None, pad=0)},
        )  # fmt: skip
        if title:
            drawn.suptitle(title, x=0.01, ha="left", fontsize=style.TEXT_SIZE + 2)
    return drawn
