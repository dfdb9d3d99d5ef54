"""Dispatch as a drawing: tokens sorted into their experts' groups, one product each, and back.

Taught in: Part 5. Drawn from a real `llmcourse.model.routing.Routing`. The same token stands in as
many rows as it has experts; rows of one expert lie together, so that each group is one matrix
product; on the way back a token's rows are weighed and added.

Shapes: N tokens, E experts, A assignments.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from llmcourse.show import style
from llmcourse.show.tokens import token_labels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_TOKENS, MOST_EXPERTS, MOST_ROWS = 16, 8, 40
# Neighbouring groups differ in lightness; the number beside them says which expert it is.
FILLS = ("#cfe3f1", "#ffffff", "#86bbdd", "#f0f0f0")
TOKENS, ROWS, EXPERTS, BACK = 0.0, 3.0, 5.2, 8.4  # left edges of the four columns
WIDE, BOX = 1.25, 1.7  # widths of a token and of an expert
GAP = 0.55  # rows between two groups


def plot_dispatch(
    routing: Any, tokens: Any = None, *, tokenizer: Any = None, title: str | None = None
) -> Figure:
    """A small batch on its way through the experts and back.

    Args:
        routing: a `Routing` of at most 16 tokens and 8 experts.
        tokens: (N,) labels, text or ids, as `token_labels` takes them; None numbers them.
        tokenizer: names tokens that are ids.
        title: over the figure.

    Returns:
        The figure, known to pyplot.

    Raises:
        ValueError: a batch too large to draw, or a wrong number of labels.
    """
    count, e = routing.scores.shape
    t, x = (np.asarray(v.detach().cpu()) for v in (routing.tokens, routing.experts))  # (A,)
    w = np.asarray(routing.weights.detach().cpu().double())  # (A,)
    dropped = np.asarray(routing.dropped.detach().cpu())  # (E,)
    if count > MOST_TOKENS or e > MOST_EXPERTS or len(t) > MOST_ROWS:
        raise ValueError(
            f"{count} tokens in {len(t)} rows for {e} experts are too many to draw; at most "
            f"{MOST_TOKENS} tokens, {MOST_ROWS} rows and {MOST_EXPERTS} experts"
        )
    labels = [f"token {n}" for n in range(count)]
    if tokens is not None:
        labels = [style.drawable_label(text) for text in token_labels(tokens, tokenizer)]
    if len(labels) != count:
        raise ValueError(f"{len(labels)} labels for {count} tokens of the routing")
    order = np.argsort(x, kind="stable")  # as the grouped dispatch sorts
    heights, groups, length = _rows(x[order], e)
    spread = (np.arange(count) + 0.5) * length / count - 0.5  # tokens, as long as the rows
    with style.applied():
        drawn, axes = style.figure(9.8, max(3.0, 0.235 * length + 1.0))
        ax = axes[0, 0]
        for column in (TOKENS, BACK):
            for token in range(count):
                alone = token not in t  # no expert took it: it only has the residual stream
                _box(ax, column, spread[token], WIDE, 0.8, "#ffffff", labels[token], dashed=alone)
        for row, number in enumerate(order):
            fill = FILLS[x[number] % len(FILLS)]
            _box(ax, ROWS, heights[row], WIDE, 0.92, fill, labels[t[number]])
            _way(ax, TOKENS + WIDE, spread[t[number]], ROWS, heights[row], 0.8)
            _way(
                ax, EXPERTS + BOX, heights[row], BACK, spread[t[number]],
                0.5 + 3.0 * min(1.0, abs(w[number])), f"{w[number]:.2f}",
            )  # fmt: skip
        for expert, (top, size) in enumerate(groups):
            _expert(ax, expert, top, size, int(dropped[expert]))
        _finish(ax, length, len(t), int(dropped.sum()), e)
        if title:
            drawn.suptitle(title, x=0.01, ha="left", fontsize=style.TEXT_SIZE + 2)
    return drawn


def _rows(experts: np.ndarray, e: int) -> tuple[list[float], list[tuple[float, int]], float]:
    """Heights of the sorted rows; (top, rows) of every expert; the length of it all.

    An expert without rows has a place too, so that it is seen to have none.
    """
    heights: list[float] = []
    groups = []
    at = 0.0
    for expert in range(e):
        size = int((experts == expert).sum())
        groups.append((at, size))
        heights += [at + row for row in range(size)]
        at += max(size, 1) + GAP
    return heights, groups, at - GAP


def _box(
    ax: Axes,
    x: float,
    y: float,
    wide: float,
    high: float,
    fill: str,
    words: str,
    *,
    dashed: bool = False,
) -> None:
    from matplotlib.patches import Rectangle

    ax.add_patch(
        Rectangle(
            (x, y - high / 2), wide, high, facecolor=fill, edgecolor=style.MUTED, linewidth=0.8,
            linestyle=(0, (3, 2)) if dashed else "-", zorder=3,
        )
    )  # fmt: skip
    ax.text(
        x + wide / 2, y, words, ha="center", va="center", fontsize=style.SMALL_SIZE - 1,
        color=style.MUTED if dashed else style.text_color_on(fill), zorder=4,
    )  # fmt: skip


def _way(
    ax: Axes, x0: float, y0: float, x1: float, y1: float, width: float, words: str = ""
) -> None:
    """A smooth line from one column to the next; its words stand where it sets out."""
    t = np.linspace(0, 1, 24)
    begin = 0.45 if words else 0.0
    ax.plot(
        x0 + begin + (x1 - x0 - begin) * t, y0 + (y1 - y0) * t * t * (3 - 2 * t),
        color="#8a8a8a", linestyle="-", linewidth=width, alpha=0.75, zorder=1,
        solid_capstyle="butt",
    )  # fmt: skip
    if words:
        ax.text(x0 + 0.06, y0, words, ha="left", va="center", fontsize=style.SMALL_SIZE - 2)


def _expert(ax: Axes, expert: int, top: float, size: int, dropped: int) -> None:
    """One expert beside its rows; one without rows is dashed."""
    middle = top + (max(size, 1) - 1) / 2
    line = "\n" if size > 1 else " "  # a single row is as high as one line
    words = f"expert {expert}{line}"
    words += f"({size} {'row' if size == 1 else 'rows'}{f', {dropped} dropped' if dropped else ''})"
    fill = FILLS[expert % len(FILLS)] if size else style.PAPER
    _box(ax, EXPERTS, middle, BOX, max(size, 1) - 0.08, fill, words, dashed=not size)
    if size:
        ax.annotate(
            "", (EXPERTS, middle), (ROWS + WIDE, middle),
            arrowprops={"arrowstyle": "-|>", "color": style.INK, "linewidth": 1.0},
        )  # fmt: skip


def _finish(ax: Axes, length: float, rows: int, dropped: int, e: int) -> None:
    head = -1.5
    count = f"{rows} rows" + (f" ({dropped} dropped)" if dropped else "")
    for x, words in (
        (TOKENS + WIDE / 2, "tokens"),
        (ROWS + WIDE / 2, f"sorted by expert:\n{count}"),
        (EXPERTS + BOX / 2, f"one product for\neach of {e} experts"),
        (BACK + WIDE / 2, "back: weighed\nand added"),
    ):
        ax.text(x, head, words, ha="center", va="center", fontsize=style.SMALL_SIZE)
    ax.set_xlim(-0.1, BACK + WIDE + 0.1)
    ax.set_ylim(length - 0.3, head - 0.9)
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set_visible(False)
