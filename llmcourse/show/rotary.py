"""Rotary positions as clock hands: how far each pair has turned, and what a score remembers of it.

Taught in: Part 3. The angles are those of `llmcourse.model.rotary` (Su et al. 2021, arXiv
2104.09864, equations 14 and 15), in float64, so that "the same score" can be seen to twelve digits.

Shapes: D head width, N positions or distances.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from llmcourse.show import style
from llmcourse.show.arrays import to_array

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from llmcourse.model.rotary import Rope

FACE = 1.45  # half the width of a clock's picture, in lengths of an unscaled hand
MAP_UP_TO = 48  # positions along a side of the map of scores


def rates_of(rope: Rope, d_head: int) -> np.ndarray:
    """(R,) radians per token of each pair, fastest first."""
    from llmcourse.model.rotary import rotary_frequencies

    return to_array(rotary_frequencies(rope, d_head), "rotary frequencies")


def wavelengths(rope: Rope, d_head: int) -> np.ndarray:
    """(R,) tokens in which each pair turns once around."""
    return 2 * math.pi / rates_of(rope, d_head)


def level_vector(rope: Rope, d_head: int) -> np.ndarray:
    """(D,) of length 1: every pair that turns lies at angle 0 and has the same share.

    The score of two such vectors is the mean cosine of the pairs' angles. Channels that do not turn
    are 0: they would add the same at every distance.
    """
    count = len(rates_of(rope, d_head))
    vector = np.zeros(d_head)
    vector[:count] = 1 / math.sqrt(count)  # channel i turns with channel i + count
    return vector


def turned(vector: Any, positions: Any, rope: Rope) -> np.ndarray:
    """One vector (D,) as it is at each of N positions: (N, D)."""
    import torch

    from llmcourse.model.rotary import rotate

    x = to_array(vector, "vector")
    at = to_array(positions, "positions")
    angles = at[:, None] * rates_of(rope, len(x))  # (N, R) radians
    cos, sin = (torch.from_numpy(f(angles) * rope.magnitude) for f in (np.cos, np.sin))
    repeated = torch.from_numpy(x).expand(len(at), -1)  # (D,) -> (N, D)
    return rotate(repeated, cos, sin).numpy()


def relative_scores(
    rope: Rope,
    d_head: int,
    distances: Any,
    *,
    start: int = 0,
    q: Any = None,
    k: Any = None,
) -> np.ndarray:
    """(N,) scores q · k of a key at `start` and queries `distances` tokens after it.

    Args:
        rope: how pairs turn.
        d_head: width of the head, D.
        distances: (N,) tokens from the key to the query.
        start: position of the key.
        q, k: (D,) before rotation; None means `level_vector`.

    Raises:
        ValueError: a vector of another width.
    """
    level = level_vector(rope, d_head)
    query = level if q is None else to_array(q, "q")
    key = level if k is None else to_array(k, "k")
    for name, vector in (("q", query), ("k", key)):
        if vector.shape != (d_head,):
            raise ValueError(f"{name} must have shape (D,) = ({d_head},), not {vector.shape}")
    at = to_array(distances, "distances")
    return turned(query, start + at, rope) @ turned(key, [start], rope)[0]


def spread_pairs(count: int, most: int) -> list[int]:
    """At most `most` of `count` pairs, evenly spread, with the first and the last."""
    if count <= most:
        return list(range(count))
    return [round(i * (count - 1) / (most - 1)) for i in range(most)]


def tokens_text(tokens: float) -> str:
    """A length in tokens with three digits, never in powers of ten: 6.28, 1,990, 54,400."""
    if tokens < 100:
        return f"{tokens:.3g}"
    digits = max(0, math.floor(math.log10(tokens)) - 2)
    return f"{round(tokens, -digits):,.0f}"


def draw_clock(ax: Axes, hand: np.ndarray, *, angle: float) -> None:
    """One pair: a face, the place at position 0, the sector swept since, and the hand (2,)."""
    from matplotlib.patches import Circle, Wedge

    ax.add_patch(Circle((0, 0), 1, facecolor="none", edgecolor=style.MUTED, linewidth=0.9))
    rest = math.degrees(math.fmod(angle, 2 * math.pi))
    if angle >= 2 * math.pi:  # more than once around: the whole face was swept
        ax.add_patch(Circle((0, 0), 1, facecolor=style.SKY, alpha=0.16, linewidth=0))
    ax.add_patch(Wedge((0, 0), 1, 0, rest, facecolor=style.SKY, alpha=0.45, linewidth=0))
    ax.plot([0, 1], [0, 0], color=style.MUTED, linewidth=0.9, linestyle=(0, (3, 2)))
    ax.plot([0, hand[0]], [0, hand[1]], color=style.BLUE, linewidth=2.2, solid_capstyle="round")
    ax.plot([hand[0]], [hand[1]], marker="o", markersize=4.5, color=style.BLUE)
    ax.set_xlim(-FACE, FACE)
    ax.set_ylim(-FACE, FACE)
    ax.set_aspect("equal")
    ax.axis("off")


def plot_rotation(
    rope: Rope,
    d_head: int,
    positions: Sequence[int] = (0, 1, 8, 64),
    pairs: Sequence[int] | None = None,
    *,
    title: str | None = None,
) -> Figure:
    """Channel pairs as clock hands, at several positions.

    Args:
        rope: how pairs turn.
        d_head: width of the head.
        positions: one row of clocks each, in tokens.
        pairs: one column each, at most 8; None takes up to six, evenly spread.
        title: over the figure.

    Returns:
        The figure, known to pyplot.

    Raises:
        ValueError: no position, a negative one, or a pair that the head does not have.
    """
    rates = rates_of(rope, d_head)
    chosen = spread_pairs(len(rates), 6) if pairs is None else list(pairs)
    if not chosen or len(chosen) > 8:
        raise ValueError(f"choose 1 to 8 pairs to draw, not {len(chosen)}")
    for pair in chosen:
        if not 0 <= pair < len(rates):
            raise ValueError(
                f"pair {pair} does not exist; a head of width {d_head} has {len(rates)} that turn"
            )
    if not len(positions) or min(positions) < 0:
        raise ValueError(f"positions must be numbers of at least 0, not {list(positions)}")
    vector = np.zeros(d_head)
    vector[: len(rates)] = 1.0  # every pair starts at (1, 0)
    hands = turned(vector, positions, rope)  # (N, D)
    with style.applied():
        drawn, axes = style.figure(
            1.25 * len(chosen) + 0.9, 1.28 * len(positions) + 0.6, len(positions), len(chosen)
        )
        for row, position in enumerate(positions):
            for column, pair in enumerate(chosen):
                ax = axes[row, column]
                angle = float(rates[pair] * position)
                draw_clock(ax, hands[row, [pair, pair + len(rates)]], angle=angle)
                if row == 0:
                    once = tokens_text(2 * math.pi / rates[pair])
                    ax.set_title(
                        f"pair {pair}\none turn in\n{once} tokens",
                        fontsize=style.SMALL_SIZE, loc="center", pad=1,
                    )  # fmt: skip
                ax.text(
                    0, -1.38, f"{angle:.3g} rad", ha="center", va="center", color=style.MUTED,
                    fontsize=style.SMALL_SIZE - 1,
                )  # fmt: skip
            axes[row, 0].text(
                -1.6, 0, f"position\n{position:,}", ha="right", va="center",
                fontsize=style.SMALL_SIZE,
            )  # fmt: skip
        if title:
            drawn.suptitle(title, x=0.01, ha="left", fontsize=style.TEXT_SIZE + 2)
    return drawn


def plot_relative_score(
    rope: Rope,
    d_head: int,
    *,
    q: Any = None,
    k: Any = None,
    farthest: int = 64,
    starts: Sequence[int] = (0, 10, 1000),
    title: str | None = None,
) -> Figure:
    """The score q · k of turned vectors: every pair of positions, and against the distance.

    Args:
        rope: how pairs turn.
        d_head: width of the head.
        q, k: (D,) before rotation; None: all pairs alike, so that the score is the mean cosine.
        farthest: tokens, the largest distance drawn.
        starts: positions of the key; their marks lie on one curve, which is the relative property.
        title: over the figure.

    Raises:
        ValueError: no start, a distance below 1, or as `relative_scores`.
    """
    if farthest < 1 or not len(starts):
        raise ValueError(f"farthest={farthest} must be at least 1 token, with at least one start")
    distance = np.arange(farthest + 1)
    curves = [relative_scores(rope, d_head, distance, start=s, q=q, k=k) for s in starts]
    side = min(farthest + 1, MAP_UP_TO)
    place = np.arange(side)
    # Row: query; column: key. Each key's scores are computed at its own position, not copied along
    # the diagonal, so that what is seen is a property and not a drawing.
    table = np.stack(
        [relative_scores(rope, d_head, place - key, start=int(key), q=q, k=k) for key in place],
        axis=1,
    )  # (side, side)
    with style.applied():
        drawn, axes = style.figure(9.6, 3.5, 1, 2, width_ratios=[1, 1.5])
        left, right = axes[0]
        # From the lowest score to the highest: symmetric limits would hide the faint diagonals.
        image = left.imshow(table, cmap=style.signed_colormap(), interpolation="nearest")
        left.set_xlabel("key position (tokens)")
        left.set_ylabel("query position (tokens)")
        bar = drawn.colorbar(image, ax=left, pad=0.02)
        bar.set_label("score q · k")
        bar.outline.set_visible(False)
        right.plot(distance, curves[0], color=style.MUTED, linewidth=1.2, zorder=1)
        every = max(1, farthest // 16) * len(starts)
        for number, (start, curve) in enumerate(zip(starts, curves, strict=True)):
            look = style.series(number)
            right.plot(
                distance, curve, color=look.color, linestyle="", marker=look.marker, markersize=6,
                markevery=(number * every // len(starts), every), label=f"key at {start:,}",
            )  # fmt: skip
        right.axhline(0, color=style.MUTED, linewidth=0.8)
        style.grid(right)
        right.margins(x=0.02)
        right.set_xlabel("distance from key to query (tokens)")
        right.set_ylabel("score q · k")
        right.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(starts))
        if title:
            drawn.suptitle(title, x=0.01, ha="left", fontsize=style.TEXT_SIZE + 2)
    return drawn


def named_ropes(ropes: Rope | Mapping[str, Rope]) -> dict[str, Rope]:
    """One rotation or several under their names; a single one is named after its scaling."""
    if isinstance(ropes, Mapping):
        if not ropes:
            raise ValueError("there is nothing to draw: give at least one Rope")
        return dict(ropes)
    return {"unscaled" if ropes.scaling == "none" else ropes.scaling: ropes}


def plot_frequencies(
    ropes: Rope | Mapping[str, Rope], d_head: int, *, title: str | None = None
) -> Figure:
    """How long each pair takes to turn once, and by how much a scaling slows it.

    Args:
        ropes: one, or several by name.
        d_head: width of the head.
        title: over the figure.

    Raises:
        ValueError: nothing to draw, or more than six (they would look alike).
    """
    import dataclasses

    named = named_ropes(ropes)
    if len(named) > len(style.SERIES):
        raise ValueError(f"{len(named)} curves; at most {len(style.SERIES)} can be told apart")
    contexts = {r.original_context for r in named.values() if r.original_context is not None}
    with style.applied():
        drawn, axes = style.figure(9.6, 3.6, 1, 2)
        left, right = axes[0]
        for number, (name, rope) in enumerate(named.items()):
            look = style.series(number)
            length = wavelengths(rope, d_head)
            plain = dataclasses.replace(rope, scaling="none", factor=1.0)
            signs = {
                "color": look.color, "linestyle": look.linestyle, "marker": look.marker,
                "markevery": (number, max(1, len(length) // 8)), "markersize": 5,
            }  # fmt: skip
            left.plot(length, **signs, label=name)
            right.plot(length / wavelengths(plain, d_head), **signs, label=name)
        for context in sorted(contexts):
            left.axhline(context, color=style.MUTED, linewidth=1, linestyle=(0, (6, 3)))
            left.annotate(
                f"trained on {context:,} tokens", (0.02, context), (0, 3),
                xycoords=left.get_yaxis_transform(), textcoords="offset points",
                color=style.MUTED, fontsize=style.SMALL_SIZE,
            )  # fmt: skip
        left.set_yscale("log")
        left.set_ylabel("tokens for one turn (logarithmic)")
        low, high = right.get_ylim()
        right.set_ylim(min(low, 0.8), max(high, 1.5))
        right.set_ylabel("turns slower by (times)")
        for ax in (left, right):
            style.grid(ax)
            ax.set_xlabel("channel pair (0 turns fastest)")
            ax.xaxis.get_major_locator().set_params(integer=True)
        drawn.legend(
            *left.get_legend_handles_labels(), loc="outside upper center", ncols=len(named)
        )
        if title:
            drawn.suptitle(title, x=0.01, ha="left", fontsize=style.TEXT_SIZE + 2)
    return drawn
