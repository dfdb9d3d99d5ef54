"""FlashAttention's tiles: the table of scores, and which parts of it are never computed.

Taught in: Part 3. The table of T × S scores is cut into tiles. A tile that the mask hides whole is
skipped; one that it hides in part is computed and masked; the others are computed as they are.
What happens to a query on its way through them is in `llmcourse.show.running`.

Source: Dao et al. 2022, arXiv 2205.14135, algorithm 1.

Shapes: T queries, S keys, R rows and C columns of tiles.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from llmcourse.show import style
from llmcourse.show.attention import hatch_forbidden
from llmcourse.show.masks import label_positions, visible_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from llmcourse.model.masks import Visibility

SKIPPED, PARTLY, FULL = 0, 1, 2  # what the mask leaves of a tile: nothing, something, all
NAMES = {SKIPPED: "skipped", PARTLY: "partly masked", FULL: "full"}
FILL = {PARTLY: "#a9d3ee", FULL: "#4b97c6"}  # the darker, the fuller; skipped tiles are hatched


def check_tile(tile: int) -> None:
    """Refuse a tile that is no whole number of at least 1 token."""
    if isinstance(tile, bool) or not isinstance(tile, int) or tile < 1:
        raise ValueError(f"tile={tile!r} must be a whole number of at least 1 token")


def tile_states(visible: np.ndarray, tile: int) -> np.ndarray:
    """(R, C) of SKIPPED, PARTLY and FULL for a table (T, S); the last tiles may be narrower."""
    check_tile(tile)
    t, s = visible.shape
    states = np.empty((-(-t // tile), -(-s // tile)), dtype=np.int64)
    for i, j in np.ndindex(*states.shape):
        part = visible[i * tile : (i + 1) * tile, j * tile : (j + 1) * tile]
        states[i, j] = FULL if part.all() else PARTLY if part.any() else SKIPPED
    return states


def schedule(states: np.ndarray) -> list[tuple[int, int]]:
    """The tiles that are computed, in the order of the loops: rows of queries, then keys."""
    return [(int(i), int(j)) for i, j in np.argwhere(states != SKIPPED)]


def draw_tiles(
    ax: Axes,
    visible: np.ndarray,
    tile: int,
    *,
    current: tuple[int, int] | None = None,
    query: int | None = None,
) -> None:
    """Draw on given axes what `plot_tiles` draws."""
    from matplotlib.patches import Rectangle

    t, s = visible.shape
    states = tile_states(visible, tile)
    hatch_forbidden(ax, visible)
    for (i, j), state in np.ndenumerate(states):
        top, left = i * tile, j * tile
        height, width = min(tile, t - top), min(tile, s - left)
        corner = (left - 0.5, top - 0.5)
        # Beneath the hatching, so that a partly masked tile shows which cells it computes in vain.
        ax.add_patch(
            Rectangle(
                corner, width, height, facecolor=FILL.get(state, "none"), linewidth=0, zorder=0.5
            )
        )
        ax.add_patch(
            Rectangle(
                corner, width, height, fill=False, edgecolor=style.MUTED, linewidth=0.9, zorder=2
            )
        )
    if query is not None:
        ax.add_patch(
            Rectangle(
                (-0.5, query - 0.5), s, 1, fill=False, edgecolor=style.INK, linewidth=1.4,
                linestyle=(0, (3, 2)), zorder=3,
            )
        )  # fmt: skip
    if current is not None:
        top, left = current[0] * tile, current[1] * tile
        for color, width in ((style.INK, 5.0), (style.QUERY, 2.8)):  # dark rim: seen in grey too
            ax.add_patch(
                Rectangle(
                    (left - 0.5, top - 0.5), min(tile, s - left), min(tile, t - top), fill=False,
                    edgecolor=color, linewidth=width, zorder=4, clip_on=False,
                )
            )  # fmt: skip
    ax.set_xlim(-0.5, s - 0.5)
    ax.set_ylim(t - 0.5, -0.5)
    ax.set_aspect("equal")
    ax.tick_params(length=0)
    for spine in ax.spines.values():
        spine.set_visible(False)
    ax.set_xlabel("key position (tokens)")
    ax.set_ylabel("query position (tokens)")


def label_tiles(ax: Axes, visibility: Visibility, tile: int, row: int = 0) -> None:
    """A tick with its position at the first query, and the first key, of every tile."""
    label_positions(ax, visibility, row)
    ax.xaxis.set_ticks(range(0, visibility.s, tile))
    ax.yaxis.set_ticks(range(0, visibility.t, tile))


def tile_legend(ax: Axes, states: np.ndarray, **options: Any) -> None:
    """A legend that counts the tiles of each kind."""
    from matplotlib.patches import Patch

    count = {kind: int((states == kind).sum()) for kind in NAMES}
    handles = []
    for kind in (FULL, PARTLY, SKIPPED):
        look = {"facecolor": FILL.get(kind, "#f3f3f3"), "edgecolor": style.MUTED}
        if kind == SKIPPED:
            look |= {"hatch": "////", "edgecolor": "#c4c4c4"}
        handles.append(Patch(**look, label=f"{NAMES[kind]}: {count[kind]}"))
    ax.legend(handles=handles, **options)


def plot_tiles(
    visibility: Visibility,
    tile: int = 4,
    *,
    current: tuple[int, int] | None = None,
    query: int | None = None,
    row: int = 0,
    title: str | None = None,
) -> Figure:
    """The table of scores cut into tiles: computed in full, computed and masked, or skipped.

    Args:
        visibility: the mask.
        tile: queries, and keys, per tile.
        current: (row, column) of a tile to frame.
        query: a query whose row is framed.
        row: of the batch, where rows differ.
        title: over the figure.

    Returns:
        The figure, known to pyplot.

    Raises:
        ValueError: a tile below 1, or a tile or query that is not there.
    """
    visible = visible_table(visibility, row)
    states = tile_states(visible, tile)
    if current is not None and not all(0 <= c < n for c, n in zip(current, states.shape)):
        raise ValueError(f"tile {current} does not exist; there are {states.shape}, from (0, 0)")
    if query is not None and not 0 <= query < visible.shape[0]:
        raise ValueError(f"query {query} does not exist; there are {visible.shape[0]}, from 0")
    t, s = visible.shape
    with style.applied():
        drawn, axes = style.figure(5.6, 3.6 * t / s + 0.8, layout="compressed")
        ax = axes[0, 0]
        draw_tiles(ax, visible, tile, current=current, query=query)
        label_tiles(ax, visibility, tile, row)
        tile_legend(ax, states, loc="upper left", bbox_to_anchor=(1.01, 1.0))
        if title:
            ax.set_title(title)
    return drawn
