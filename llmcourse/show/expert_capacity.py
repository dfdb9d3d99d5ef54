"""Capacity: how many assignments find their expert full, which ones, and what it does to the loss.

Taught in: Part 5. A capacity factor c gives each expert ceil(c N K / E) places in a batch of N
tokens. First choices are seated before second ones, and earlier tokens before later ones, so that
it is the late tokens of a batch that are dropped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from llmcourse.show import style
from llmcourse.show.arrays import to_array
from llmcourse.show.curves import smooth

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def dropped_by_position(routing: Any, n_active: int, *, by: str = "time") -> np.ndarray:
    """Share of a position's K assignments that found no place.

    Args:
        routing: of a layer in which every token chose `n_active` experts.
        n_active: K.
        by: "time" (T,), position in the sequence; "batch" (N,), position in the whole batch, in
            the order in which places are given away.

    Raises:
        ValueError: a K that the routing contradicts, or another `by`.
    """
    if by not in ("time", "batch"):
        raise ValueError(f'by={by!r} is unknown; choose "time" or "batch"')
    batch, time = routing.batch
    if batch * time == 0:
        raise ValueError("the routing has no tokens")
    tokens = np.asarray(routing.tokens.detach().cpu())
    kept = np.bincount(tokens, minlength=batch * time)  # (N,)
    missing = n_active * batch * time - kept.sum()
    if kept.max(initial=0) > n_active or missing != int(routing.dropped.sum()):
        raise ValueError(
            f"n_active={n_active} does not fit: {kept.sum()} assignments of {batch * time} tokens "
            f"were kept and {int(routing.dropped.sum())} dropped"
        )
    share = 1 - kept / n_active
    return share if by == "batch" else share.reshape(batch, time).mean(0)  # (B T,) -> (T,)


def plot_capacity(
    rows: Sequence[Mapping[str, Any]],
    positions: Mapping[float, Any] | None = None,
    *,
    unit: str = "nats per byte",
    title: str | None = None,
) -> Figure:
    """Dropped assignments and loss against the capacity factor, and where the dropped stand.

    Args:
        rows: with "capacity" (None: drop-less), "dropped" (share from 0 to 1) and "loss"; several
            rows of one capacity are seeds, drawn as their mean and range.
        positions: by capacity, the dropped share of each position (T,) or (N,).
        unit: of the loss.
        title: over the figure.

    Returns:
        The figure, known to pyplot.

    Raises:
        ValueError: no row with a capacity, or a share outside 0 to 1.
    """
    rows = list(rows)
    for number, row in enumerate(rows):
        if not {"capacity", "dropped", "loss"} <= row.keys():
            raise ValueError(f"row {number} needs capacity, dropped and loss; it has {list(row)}")
        if not 0 <= row["dropped"] <= 1:
            raise ValueError(f"row {number}: dropped={row['dropped']} must be a share from 0 to 1")
    factors = sorted({row["capacity"] for row in rows if row["capacity"] is not None})
    if not factors:
        raise ValueError("there is nothing to draw: no row has a capacity factor")
    shares = _checked_positions(positions or {})
    panels = 3 if shares else 2
    with style.applied():
        drawn, axes = style.figure(
            3.5 * panels + (0.8 if shares else 0), 3.2, 1, panels,
            **({"width_ratios": [1, 1, 1.3]} if shares else {}),
        )  # fmt: skip
        for ax, key, factor, words in (
            (axes[0, 0], "dropped", 100, "dropped assignments (%)"),
            (axes[0, 1], "loss", 1, f"validation loss ({unit})"),
        ):
            _against_capacity(ax, rows, factors, key, factor)
            ax.set_xlabel("capacity factor")
            ax.set_ylabel(words)
        axes[0, 0].set_ylim(bottom=0)
        if shares:
            _positions(axes[0, 2], shares)
        if title:
            drawn.suptitle(title, x=0.01, ha="left", fontsize=style.TEXT_SIZE + 2)
    return drawn


def _against_capacity(
    ax: Axes, rows: Sequence[Mapping[str, Any]], factors: Sequence[float], key: str, factor: float
) -> None:
    values = [
        np.array([factor * row[key] for row in rows if row["capacity"] == one]) for one in factors
    ]
    ax.vlines(
        factors, [v.min() for v in values], [v.max() for v in values], color=style.BLUE,
        linewidth=4, alpha=0.35,
    )  # fmt: skip
    ax.plot(factors, [v.mean() for v in values], color=style.BLUE, linestyle="-", marker="o")
    free = np.array([factor * row[key] for row in rows if row["capacity"] is None])
    if len(free):
        if free.max() > free.min():
            ax.axhspan(free.min(), free.max(), color=style.ORANGE, alpha=0.2, linewidth=0)
        ax.axhline(
            free.mean(), color=style.ORANGE, linestyle=(0, (5, 2)), label="no limit: drop-less"
        )
        ax.legend(loc="upper right")
    ax.set_xticks(factors, [f"{one:g}" for one in factors])
    style.grid(ax)


def _checked_positions(positions: Mapping[float, Any]) -> dict[float, np.ndarray]:
    """(T,) shares by capacity, the smallest first."""
    checked = {}
    for capacity in sorted(positions):
        array = to_array(positions[capacity], f"dropped shares at capacity {capacity}")
        if array.ndim != 1 or not len(array) or array.min() < 0 or array.max() > 1:
            raise ValueError(
                f"positions of capacity {capacity} must be (T,) shares from 0 to 1, not of shape "
                f"{array.shape}"
            )
        checked[capacity] = array
    return checked


def _positions(ax: Axes, shares: Mapping[float, np.ndarray]) -> None:
    for place, (capacity, array) in enumerate(shares.items()):
        look = style.series(place)
        calm = smooth(100 * array, max(1, len(array) / 24))
        ax.plot(
            np.arange(len(array)), calm, color=look.color, linestyle=look.linestyle,
            label=f"capacity {capacity:g}",
        )  # fmt: skip
    ax.set_ylim(bottom=0)
    ax.margins(x=0.02)
    ax.set_xlabel("position (tokens from the start)")
    ax.set_ylabel("dropped there (%)")
    ax.legend(loc="upper left")
    style.grid(ax)
