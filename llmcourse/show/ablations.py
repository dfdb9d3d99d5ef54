"""One change at a time: what each variant gains or loses, with a dot for every seed.

Taught in: Part 3. Where a baseline is named, bars show differences to it, seed by seed: runs of the
same seed saw the same batches, so their difference is calmer than either loss, and a bar from zero
hides nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from llmcourse.show import style
from llmcourse.show.arrays import to_array

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def differences(results: Mapping[str, Sequence[float]], baseline: str) -> dict[str, np.ndarray]:
    """(seeds,) value minus the baseline's of the same seed, for every variant but the baseline.

    Raises:
        ValueError: no such baseline, nothing beside it, or other numbers of seeds than it has.
    """
    if baseline not in results:
        raise ValueError(f"there is no variant {baseline!r}; there are {', '.join(results)}")
    reference = to_array(results[baseline], baseline)
    found = {}
    for name, values in results.items():
        if name == baseline:
            continue
        own = to_array(values, name)
        if own.shape != reference.shape:
            raise ValueError(
                f"{name} has {own.size} seeds but {baseline} has {reference.size}; "
                "differences are taken seed by seed"
            )
        found[name] = own - reference
    if not found:
        raise ValueError(f"there is nothing to compare with {baseline!r}")
    return found


def plot_ablation(
    results: Mapping[str, Sequence[float]],
    baseline: str | None = None,
    *,
    unit: str = "nats per token",
    quantity: str = "validation loss",
    title: str | None = None,
) -> Figure:
    """Bars of the mean with one dot per seed, one row per variant.

    Args:
        results: the seeds' values of each variant, in the same order of seeds.
        baseline: the variant that the others are compared with; None shows the values themselves.
        unit: of the values.
        quantity: what they are.
        title: over the picture.

    Returns:
        The figure, known to pyplot.

    Raises:
        ValueError: no variant, a variant without a seed, or as `differences`.
    """
    if not results:
        raise ValueError("there is nothing to draw: give at least one variant")
    for name, values in results.items():
        if to_array(values, name).ndim != 1 or not len(values):
            raise ValueError(f"{name} must have one number for each seed, not {values!r}")
    if baseline is None:
        shown = {name: to_array(values, name) for name, values in results.items()}
    else:
        shown = differences(results, baseline)
    low = min(0.0, *(float(values.min()) for values in shown.values()))
    high = max(0.0, *(float(values.max()) for values in shown.values()))
    room = 0.08 * (high - low) or 1.0
    with style.applied():
        drawn, axes = style.figure(7.6, 0.42 * len(shown) + 1.3)
        ax = axes[0, 0]
        for place, values in enumerate(shown.values()):
            worse = baseline is not None and values.mean() > 0
            # Better is dark and filled, worse light and hatched: readable without colour.
            ax.barh(
                place, values.mean(), height=0.6, linewidth=0.9,
                facecolor="#fbe3d3" if worse else style.SKY,
                edgecolor=style.VERMILLION if worse else style.BLUE,
                hatch="////" if worse else None,
            )  # fmt: skip
            # Seeds above one another, so that equal values stay countable.
            offsets = np.linspace(-0.18, 0.18, len(values)) if len(values) > 1 else np.zeros(1)
            ax.plot(
                values, place + offsets, linestyle="", marker="o", markersize=4.5,
                color="#000000", markeredgecolor=style.PAPER, markeredgewidth=0.7, zorder=3,
            )  # fmt: skip
            mean = round(float(values.mean()), 3) + 0.0  # adding 0 turns -0 into 0
            digits = f"{mean:.3f}" if baseline is None else f"{mean:+.3f}"
            ax.annotate(
                digits, (1.0, place), (6, 0), xycoords=ax.get_yaxis_transform(),
                textcoords="offset points", va="center", fontsize=style.SMALL_SIZE,
            )  # fmt: skip
        ax.annotate(
            "mean", (1.0, -0.5), (6, 0), xycoords=ax.get_yaxis_transform(),
            textcoords="offset points", va="bottom", color=style.MUTED, fontsize=style.SMALL_SIZE,
        )  # fmt: skip
        ax.axvline(0, color=style.INK, linewidth=0.9)
        ax.set_xlim(low - room if low < 0 else 0, high + room if high > 0 or low == 0 else 0)
        if baseline is None:
            ax.set_xlabel(f"{quantity} ({unit}); bar: mean, dots: seeds")
        else:
            ax.set_xlabel(
                f"{quantity} minus that of {style.drawable_label(baseline)} ({unit})\n"
                "left is better; bar: mean, dots: seeds"
            )
        ax.set_yticks(range(len(shown)), [style.drawable_label(name) for name in shown])
        ax.set_ylim(len(shown) - 0.5, -0.5)
        ax.tick_params(axis="y", length=0)
        style.grid(ax, "x")
        if title:
            ax.set_title(title)
    return drawn
