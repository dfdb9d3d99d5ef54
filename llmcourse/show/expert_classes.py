"""What experts specialise in: which share of each kind of token goes to which expert.

Taught in: Part 5. A column is a class of tokens (names, verbs, digits, ...), and sums to 1: it says
where that class goes. If routing did not depend on the class, a row would be the same everywhere,
the expert's load, and 1/E if the load is even.

Shapes: N tokens, E experts, L layers, c classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from llmcourse.show import style
from llmcourse.show.arrays import SUM_TOLERANCE, to_array

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FACTOR = 2.0  # times uniform: cells above it are framed
NUMBERED = 200  # cells: a panel with more is too fine for numbers


def class_shares(routing: Any, classes: Any, n_classes: int) -> np.ndarray:
    """(E, c) share of each class's assignments that each expert took.

    Args:
        routing: a `Routing` of N tokens; assignments that were dropped do not count.
        classes: (N,) or (B, T) class of each token, from 0; -1 for tokens of none.
        n_classes: c.

    Returns:
        Columns that sum to 1; those of a class without assignments are 0.

    Raises:
        ValueError: not one class per token, or a class that does not exist.
    """
    kinds = to_array(classes, "classes").astype(int).reshape(-1)  # (N,)
    count, e = routing.scores.shape
    if n_classes < 1:
        raise ValueError(f"n_classes={n_classes} must be at least 1")
    if len(kinds) != count:
        raise ValueError(f"{len(kinds)} classes for {count} tokens of the routing")
    if len(kinds) and not (kinds.min() >= -1 and kinds.max() < n_classes):
        raise ValueError(
            f"classes run from {kinds.min()} to {kinds.max()}; they must lie between -1 (none) and "
            f"{n_classes - 1}"
        )
    tokens, experts = (np.asarray(v.detach().cpu()) for v in (routing.tokens, routing.experts))
    own = kinds[tokens] >= 0  # (A,)
    cells = experts[own] * n_classes + kinds[tokens][own]
    table = np.bincount(cells, minlength=e * n_classes).reshape(e, n_classes).astype(float)
    return table / np.maximum(table.sum(0), 1)


def plot_expert_classes(
    shares: Any,
    classes: Sequence[str],
    *,
    layers: Sequence[int | str] | None = None,
    counts: Any = None,
    title: str | None = None,
) -> Figure:
    """Expert by class, a heat map for each layer; cells of twice the uniform share are framed.

    Args:
        shares: (L, E, c) or (E, c), columns that sum to 1 over the experts (or to 0: no token).
        classes: the c names.
        layers: names or numbers of the L layers; None counts from 0.
        counts: (c,) tokens of each class, written under its name.
        title: over the figure.

    Returns:
        The figure, known to pyplot.

    Raises:
        ValueError: shapes that do not fit, or columns that are no shares.
    """
    array = to_array(shares, "shares")
    if array.ndim == 2:
        array = array[None]  # (E, c) -> (1, E, c)
    if array.ndim != 3 or 0 in array.shape:
        raise ValueError(f"shares must have shape (L, E, c) or (E, c), not {array.shape}")
    count, e, c = array.shape
    if len(classes) != c:
        raise ValueError(f"{len(classes)} names for {c} classes")
    sums = array.sum(1)  # (L, c)
    wrong = (np.abs(sums - 1) > SUM_TOLERANCE) & (sums != 0)
    if (array < 0).any() or wrong.any():
        value = sums[wrong][0] if wrong.any() else array.min()
        raise ValueError(
            f"a class must be shared out among the experts: its column sums to 1, not {value:.3g} "
            "(divide by the class's assignments, not by the expert's)"
        )
    names = [f"layer {i}" for i in range(count)] if layers is None else [*layers]
    names = [f"layer {name}" if isinstance(name, int) else str(name) for name in names]
    if len(names) != count:
        raise ValueError(f"{len(names)} layer names for {count} layers")
    labels = [style.drawable_label(name) for name in classes]
    if counts is not None:
        sizes = to_array(counts, "counts")
        if sizes.shape != (c,):
            raise ValueError(f"counts has shape {sizes.shape}, not ({c},): one number per class")
        labels = [f"{label}\n({size:,.0f})" for label, size in zip(labels, sizes, strict=True)]
    columns = 1 if c > 10 else min(2, count)
    rows = -(-count // columns)
    with style.applied():
        wide, high = max(3.6, 0.58 * c + 0.9), max(1.7, 0.27 * e + 0.5)
        drawn, axes = style.figure(columns * wide + 1.1, rows * high + 0.9, rows, columns)
        largest = min(1.0, max(FACTOR / e, float(array.max())))
        for place, ax in enumerate(axes.flat):
            if place >= count:
                ax.set_visible(False)
                continue
            image = _map(ax, array[place], largest)
            ax.set_title(names[place])
            below = place + columns < count
            ax.set_xticks(range(c), [] if below else labels, fontsize=style.SMALL_SIZE - 1)
            if not below and max(max(map(len, label.split("\n"))) for label in labels) > 8:
                ax.tick_params(axis="x", labelrotation=40)
                for tick in ax.get_xticklabels():
                    tick.set_horizontalalignment("right")
                    tick.set_rotation_mode("anchor")
            if place % columns == 0:
                ax.set_ylabel("expert")
        bar = drawn.colorbar(image, ax=list(axes.flat), shrink=0.9, aspect=24, pad=0.015)
        bar.ax.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f}")
        bar.ax.axhline(1 / e, color=style.VERMILLION, linewidth=2)
        bar.set_label(
            f"share of the class's assignments (%);\nline: uniform, {100 / e:.3g}%; "
            f"framed: {FACTOR:g} × that or more",
            fontsize=style.SMALL_SIZE,
        )
        bar.outline.set_visible(False)
        if title:
            drawn.suptitle(title, x=0.01, ha="left", fontsize=style.TEXT_SIZE + 2)
    return drawn


def _map(ax: Axes, shares: np.ndarray, largest: float) -> Any:
    """One layer (E, c)."""
    from matplotlib.patches import Rectangle

    e, c = shares.shape
    image = ax.imshow(
        shares, cmap=style.weight_colormap(), vmin=0, vmax=largest, aspect="auto",
        interpolation="nearest",
    )  # fmt: skip
    for row, column in np.ndindex(e, c):
        share = shares[row, column]
        ink = style.text_color_on(image.cmap(image.norm(share)))
        if e * c <= NUMBERED and shares[:, column].any():
            ax.text(
                column, row, f"{100 * share:.0f}", ha="center", va="center", color=ink,
                fontsize=style.SMALL_SIZE - 1,
            )  # fmt: skip
        if share * e >= FACTOR:
            ax.add_patch(
                Rectangle(
                    (column - 0.45, row - 0.42), 0.9, 0.84, fill=False, edgecolor=ink,
                    linewidth=1.4,
                )
            )  # fmt: skip
    ax.set_yticks(range(e) if e <= 16 else range(0, e, -(-e // 8)))
    ax.tick_params(length=0)
    for spine in ax.spines.values():
        spine.set_visible(False)
    return image
