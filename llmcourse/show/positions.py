"""Position encodings: the table, its waves, and what it says about distance.

Taught in: Part 1. The sinusoidal table is Vaswani et al. 2017, section 3.5; a learned one is any
(T, C) parameter. Nothing here knows which of the two it is given.

Shapes: T positions, C model width (channels).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from llmcourse.show import style
from llmcourse.show.arrays import to_array

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def _check_table(table: Any) -> np.ndarray:
    array = to_array(table, "position table")
    if array.ndim != 2 or 0 in array.shape:
        raise ValueError(
            f"a position table has shape (T, C): a row per position; not {tuple(array.shape)}"
        )
    return array


def plot_positions(
    table: Any, waves: Sequence[int] | None = None, *, title: str | None = None
) -> Figure:
    """A position table as a heat map, and a few of its channels as curves over position.

    Args:
        table: (T, C), one row per position.
        waves: channels to draw as curves; None picks four from fast to slow (even channels).
        title: over the whole figure.

    Raises:
        ValueError: for a wrong shape or a channel that does not exist.
    """
    array = _check_table(table)
    time, width = array.shape
    if waves is None:
        picks = np.linspace(0, width - 1, num=5)[:4] * 0.6  # the slowest quarter hardly moves
        waves = sorted({int(channel) // 2 * 2 for channel in picks})
    for channel in waves:
        if not 0 <= channel < width:
            raise ValueError(f"channel {channel} does not exist; the table has {width} channels")
    limit = float(np.abs(array).max()) or 1.0
    with style.applied():
        drawn, axes = style.figure(9.6, 3.4, 1, 2, width_ratios=[1.15, 1])
        left, right = axes[0]
        image = left.imshow(
            array, cmap=style.signed_colormap(), vmin=-limit, vmax=limit, aspect="auto",
            interpolation="nearest",
        )  # fmt: skip
        left.set_xlabel("channel")
        left.set_ylabel("position (tokens)")
        bar = drawn.colorbar(image, ax=left, pad=0.02)
        bar.set_label("value added to the embedding")
        bar.outline.set_visible(False)
        for number, channel in enumerate(waves):
            look = style.series(number)
            right.plot(
                np.arange(time), array[:, channel], color=look.color, linestyle=look.linestyle,
                marker=look.marker, markevery=(number * 2, max(1, time // 8)), markersize=4,
                label=f"channel {channel}",
            )  # fmt: skip
        style.grid(right)
        right.set_xlim(0, max(1, time - 1))
        right.set_xlabel("position (tokens)")
        right.set_ylabel("value")
        right.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=4, handlelength=2.2)
        if title:
            drawn.suptitle(title, x=0.01, ha="left", fontsize=style.TEXT_SIZE + 2)
    return drawn


def similarity_by_distance(table: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Dot products of all pairs of positions, gathered by their distance.

    Args:
        table: (T, C).

    Returns:
        mean, lowest, highest, each (T,): over all pairs p, p + d, for d = 0 .. T - 1.
    """
    array = _check_table(table)
    products = array @ array.T  # (T, T)
    diagonals = [np.diagonal(products, offset) for offset in range(len(array))]
    return (
        np.array([line.mean() for line in diagonals]),
        np.array([line.min() for line in diagonals]),
        np.array([line.max() for line in diagonals]),
    )


def plot_position_similarity(table: Any, *, title: str | None = None) -> Figure:
    """Dot products between position vectors: every pair, and gathered by distance.

    For a sinusoidal table the product depends on the distance alone, so the band has no width; a
    learned table has to find that out for itself.

    Args:
        table: (T, C).
        title: over the whole figure.
    """
    array = _check_table(table)
    mean, low, high = similarity_by_distance(array)
    distance = np.arange(len(array))
    with style.applied():
        drawn, axes = style.figure(9.6, 3.4, 1, 2, width_ratios=[1, 1.2])
        left, right = axes[0]
        image = left.imshow(array @ array.T, cmap=style.signed_colormap(), interpolation="nearest")
        left.set_xlabel("position (tokens)")
        left.set_ylabel("position (tokens)")
        bar = drawn.colorbar(image, ax=left, pad=0.02)
        bar.set_label("dot product")
        bar.outline.set_visible(False)
        right.fill_between(
            distance, low, high, color=style.SKY, alpha=0.35, linewidth=0, label="lowest to highest"
        )
        right.plot(distance, mean, color=style.BLUE, label="mean over pairs")
        right.axhline(0, color=style.MUTED, linewidth=0.8)
        style.grid(right)
        right.set_xlim(0, max(1, len(array) - 1))
        right.set_xlabel("distance between the two positions (tokens)")
        right.set_ylabel("dot product")
        right.legend(loc="upper right")
        if title:
            drawn.suptitle(title, x=0.01, ha="left", fontsize=style.TEXT_SIZE + 2)
    return drawn
