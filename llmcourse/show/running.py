"""The online softmax: one query's running maximum, running sum and output, tile after tile.

Taught in: Part 3. Each query carries a running maximum m, a running sum l and an unfinished output;
a new tile may raise the maximum, and then what was summed before shrinks by exp(m_old - m_new).
After the last tile the result is exact.

Source: Dao et al. 2022, arXiv 2205.14135, algorithm 1. Deviation: the output is shown divided by
the sum after every tile, so that it can be compared with the exact one all along; the algorithm
divides once, at the end.

Shapes: T queries, S keys, D head width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from llmcourse.show import style
from llmcourse.show.arrays import to_array
from llmcourse.show.masks import visible_table
from llmcourse.show.tiles import SKIPPED, check_tile, tile_states

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from llmcourse.model.masks import Visibility

CHANNELS = 3  # of the output that are drawn


@dataclass(frozen=True)
class TileStep:
    """One query's state after one tile of keys."""

    column: int  # of the tile, from 0
    maximum: float  # m: the largest score so far
    correction: float  # exp(m_old - m_new), what the sum and output so far were multiplied by
    total: float  # l: sum of exp(score - m) so far
    output: np.ndarray  # (D,) as it would be if this tile were the last
    error: float  # largest distance of `output` from the exact one


def exact_output(scores: np.ndarray, values: np.ndarray, visible: np.ndarray) -> np.ndarray:
    """(D,) of one query from its (S,) scores, all at once; a query that sees nothing gets 0."""
    if not visible.any():
        return np.zeros(values.shape[1])
    weights = np.exp(scores[visible] - scores[visible].max())
    return weights @ values[visible] / weights.sum()


def running_softmax(scores: Any, values: Any, visible: np.ndarray, tile: int) -> list[TileStep]:
    """One query's way through the tiles of its row: a step for each that is not skipped.

    Args:
        scores: (S,) of this query, already scaled.
        values: (S, D).
        visible: (S,) bool, or (rows, S) for the queries that share the tiles: a tile is skipped
            only if none of them sees it. The first row is the query's own.
        tile: keys per tile.

    Raises:
        ValueError: sizes that do not fit.
    """
    check_tile(tile)
    score, value = to_array(scores, "scores"), to_array(values, "values")
    rows = np.atleast_2d(visible)  # (rows, S)
    if score.ndim != 1 or value.ndim != 2 or len({len(score), len(value), rows.shape[1]}) != 1:
        raise ValueError(
            f"scores (S,), values (S, D) and visible (S,) must share S, not {score.shape}, "
            f"{value.shape} and {rows.shape[1:]}"
        )
    own = rows[0]
    exact = exact_output(score, value, own)
    maximum, total, summed = -math.inf, 0.0, np.zeros(value.shape[1])
    steps = []
    for column, start in enumerate(range(0, len(score), tile)):
        keys = slice(start, start + tile)
        if not rows[:, keys].any():
            continue
        masked = np.where(own[keys], score[keys], -math.inf)
        highest = max(maximum, float(masked.max()))
        # Before any key was seen both are -inf, whose difference is no number: nothing to correct.
        correction = math.exp(maximum - highest) if maximum > -math.inf else 1.0
        weights = np.exp(masked - highest) if highest > -math.inf else np.zeros(len(masked))
        total = total * correction + float(weights.sum())
        summed = summed * correction + weights @ value[keys]
        maximum = highest
        output = summed / total if total else np.zeros(len(summed))
        error = float(np.abs(output - exact).max())
        steps.append(TileStep(column, maximum, correction, total, output, error))
    return steps


def example(t: int, s: int, d: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Scores (T, S) and values (S, D) to look at, the same for the same seed.

    The scores drift upwards, so that the running maximum has something to do.
    """
    generator = np.random.default_rng(seed)
    drift = np.linspace(-1.0, 1.5, s)
    return generator.normal(size=(t, s)) + drift, generator.normal(size=(s, d))


def tile_rows(visible: np.ndarray, query: int, tile: int) -> np.ndarray:
    """The rows of the table that share `query`'s tiles, its own first, for `running_softmax`."""
    first = query // tile * tile
    return np.concatenate([visible[query : query + 1], visible[first : first + tile]])


def draw_running(
    axes: Any,
    scores: np.ndarray,
    own: np.ndarray,
    steps: list[TileStep],
    exact: np.ndarray,
    tile: int,
    skipped: np.ndarray,
) -> None:
    """Three axes over the same keys: scores with the maximum, the sum, the output and the exact.

    `skipped` numbers the columns of tiles that are not computed, which are hatched.
    """
    top, middle, bottom = axes
    keys = np.arange(len(scores))
    top.plot(
        keys[own], scores[own], linestyle="", marker="o", color=style.SKY, markersize=5,
        markeredgecolor=style.BLUE, label="scores this query sees",
    )  # fmt: skip
    ends = [min(len(scores), (step.column + 1) * tile) - 0.5 for step in steps]
    starts = [step.column * tile - 0.5 for step in steps]
    for ax, name, color, label in (
        (top, "maximum", style.VERMILLION, "running maximum m"),
        (middle, "total", style.BLUE, None),
    ):
        for step, left, right in zip(steps, starts, ends, strict=True):
            height = getattr(step, name)
            ax.plot(
                [left, right], [height] * 2, color=color, linewidth=2.4, linestyle="-", label=label
            )
            label = None
    middle.set_ylim(bottom=0)
    middles = (np.array(starts) + np.array(ends)) / 2
    outputs = np.stack([step.output for step in steps])  # (steps, D)
    for channel in range(min(CHANNELS, outputs.shape[1])):
        look = style.series(channel)
        bottom.axhline(exact[channel], color=look.color, linewidth=1, linestyle=(0, (6, 3)))
        bottom.plot(
            middles, outputs[:, channel], color=look.color, linestyle="-", marker=look.marker,
            linewidth=1.2, label=f"channel {channel}",
        )  # fmt: skip
    for ax in axes:
        for edge in range(0, len(scores) + tile, tile):
            ax.axvline(min(edge, len(scores)) - 0.5, color=style.FAINT, linewidth=0.9, zorder=0)
        for column in skipped:
            ax.axvspan(
                column * tile - 0.5, min(len(scores), (column + 1) * tile) - 0.5,
                facecolor="#f3f3f3", edgecolor="#c4c4c4", hatch="////", linewidth=0, zorder=0.1,
            )  # fmt: skip
    top.set_ylabel("score")
    top.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    middle.set_ylabel("sum l")
    bottom.set_ylabel("output\n(dashed: exact)")
    bottom.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=CHANNELS)
    bottom.set_xlabel("key position (tokens); hatched: skipped tiles")
    for ax in axes:
        ax.set_xlim(-0.5, len(scores) - 0.5)
        ax.set_xticks(range(0, len(scores), tile))


def plot_running_maximum(
    scores: Any,
    values: Any,
    visibility: Visibility,
    *,
    query: int,
    tile: int = 4,
    row: int = 0,
    title: str | None = None,
) -> Figure:
    """One query's scores, running maximum and running sum, and how its output becomes exact.

    Args:
        scores: (T, S), already scaled.
        values: (S, D).
        visibility: the mask of those T queries and S keys.
        query: which one, from 0.
        tile: queries, and keys, per tile.
        row: of the batch, where rows differ.
        title: over the figure.

    Raises:
        ValueError: sizes that do not fit, a query that is not there or that sees no key.
    """
    visible = visible_table(visibility, row)
    score = to_array(scores, "scores")
    if score.shape != visible.shape:
        raise ValueError(f"scores must have shape (T, S) = {visible.shape}, not {score.shape}")
    if not 0 <= query < len(visible):
        raise ValueError(f"query {query} does not exist; there are {len(visible)}, from 0")
    if not visible[query].any():
        raise ValueError(f"query {query} sees no key: there is no maximum to run")
    steps = running_softmax(score[query], values, tile_rows(visible, query, tile), tile)
    with style.applied():
        drawn, axes = style.figure(
            7.6, 5.6, 3, 1, sharex=True, height_ratios=[1.7, 1.0, 1.4]
        )  # fmt: skip
        exact = exact_output(score[query], to_array(values), visible[query])
        skipped = np.flatnonzero(tile_states(visible, tile)[query // tile] == SKIPPED)
        draw_running(axes[:, 0], score[query], visible[query], steps, exact, tile, skipped)
        if title:
            axes[0, 0].set_title(title)
    return drawn
