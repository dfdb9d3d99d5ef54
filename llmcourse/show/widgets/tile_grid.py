"""The flash stepper's grid: T × S cells cut into tiles, as SVG.

Taught in: Part 3. Done tiles are strong, tiles to come pale, skipped ones hatched like every cell
that the mask forbids; the current tile is framed and the query's row dashed.
"""

from __future__ import annotations

import numpy as np

from llmcourse.show import style
from llmcourse.show.tiles import FILL, NAMES, SKIPPED, tile_states
from llmcourse.show.widgets import chart, html

SIDE = 320  # pixels


def grid(visible: np.ndarray, tile: int, *, done: list[tuple[int, int]], query: int) -> str:
    """The picture.

    Args:
        visible: (T, T) bool, True = may look.
        tile: queries, and keys, per tile.
        done: tiles already computed, (row, column) each; the last is the current one.
        query: the one whose row is marked.
    """
    t = len(visible)
    cell = SIDE / t

    def box(i: int, j: int) -> str:
        width, height = (cell * min(tile, t - k * tile) for k in (j, i))
        return (
            f'x="{j * tile * cell:.1f}" y="{i * tile * cell:.1f}" width="{width:.1f}" '
            f'height="{height:.1f}"'
        )

    parts = []
    for (i, j), state in np.ndenumerate(tile_states(visible, tile)):
        name = NAMES[int(state)]
        fill = FILL.get(int(state), "none")
        opacity = 1.0 if state == SKIPPED or (i, j) in done else 0.35
        parts.append(
            f'<rect {box(i, j)} fill="{fill}" opacity="{opacity}" data-tile="{i},{j}" '
            f'data-state="{name}"><title>tile {i}, {j}: {name}</title></rect>'
        )
    parts += [_forbidden(visible, cell), _lines(t, tile, cell)]
    parts.append(
        f'<rect x="0" y="{query * cell:.1f}" width="{SIDE}" height="{cell:.1f}" fill="none" '
        f'stroke="#222" stroke-width="1.6" stroke-dasharray="5 3"/>'
    )
    for color, width in (("#222", 6), (style.QUERY, 3.4)):  # a dark rim: seen in grey too
        parts.append(
            f'<rect {box(*done[-1])} fill="none" stroke="{color}" stroke-width="{width}"/>'
        )
    return (
        f'<svg role="img" aria-label="tiles of the table of scores" width="{SIDE + 46}" '
        f'height="{SIDE + 40}" viewBox="-42 -4 {SIDE + 46} {SIDE + 40}" '
        f'style="font-size:11px" fill="currentColor"><defs>{html.HATCH_SVG}</defs>'
        f"{''.join(parts)}</svg>"
    )


def _forbidden(visible: np.ndarray, cell: float) -> str:
    """Hatching over the cells that the mask forbids."""
    whole = f'width="{SIDE}" height="{SIDE}" clip-path="url(#llmcourse-tiles)"'
    return (
        f'<clipPath id="llmcourse-tiles"><path d="{html.forbidden_path(visible)}" '
        f'transform="scale({cell:.4f})"/></clipPath><rect {whole} fill="#f3f3f3"/>'
        f'<rect {whole} fill="url(#llmcourse-hatch)" opacity=".6"/>'
    )


def _lines(t: int, tile: int, cell: float) -> str:
    """The edges of the tiles, the positions where they begin, and what the axes are."""
    edges = [first * cell for first in range(0, t, tile)] + [SIDE]
    path = "".join(f"M{edge:.1f} 0V{SIDE}M0 {edge:.1f}H{SIDE}" for edge in edges)
    parts = [f'<path d="{path}" stroke="#6b6b6b" stroke-width=".9" fill="none"/>']
    for first in range(0, t, tile):
        at = (first + 0.5) * cell
        parts.append(
            f'<text x="{at:.1f}" y="{SIDE + 15}" text-anchor="middle">{first}</text>'
            f'<text x="-6" y="{at + 4:.1f}" text-anchor="end">{first}</text>'
        )
    parts.append(
        f'<text x="{SIDE / 2}" y="{SIDE + 31}" text-anchor="middle">key position (tokens)</text>'
        f'<text transform="translate(-28 {SIDE / 2}) rotate(-90)" text-anchor="middle">'
        f"query position (tokens)</text>"
    )
    return "".join(parts)


def legend(states: np.ndarray) -> str:
    """What the fills mean, with the number of tiles of each kind."""
    counts = "".join(
        chart.box_key(
            FILL.get(kind, html.HATCH_CSS), f"{NAMES[kind]}: {int((states == kind).sum())}"
        )
        for kind in sorted(NAMES, reverse=True)
    )
    return (
        f'<div style="font-size:12px;max-width:{SIDE + 46}px">{counts}'
        f'<div style="{html.MUTED}">framed: the current tile; dashed: the query; pale: tiles '
        f"still to come</div></div>"
    )
