"""How a router chooses: one token's scores, the experts that are chosen, and their weights.

Taught in: Part 5. Drawn from a real `llmcourse.model.routing.Routing`: the scores of all experts,
the K best among them, and the weights by which their outputs count. With a selection bias it is the
sum of score and bias that is ranked, while the weights come from the scores alone (DeepSeek-V3,
arXiv 2412.19437, equations 13 to 16).

Shapes: E experts, K chosen per token.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from llmcourse.show import style
from llmcourse.show.arrays import to_array

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_EXPERTS = 64  # bars that can be told apart
CHOSEN_FILL, LEFT_FILL = style.BLUE, "#e4e4e4"


def choice_of(routing: Any, token: int) -> dict[str, Any]:
    """One token's row of a `Routing`, as `plot_choice` takes it.

    Args:
        routing: of one sparse layer.
        token: its number in the flattened batch, from 0 to N - 1.

    Raises:
        ValueError: no such token, or one that no expert took.
    """
    count = routing.scores.shape[0]
    if isinstance(token, bool) or not isinstance(token, int) or not 0 <= token < count:
        raise ValueError(f"token={token!r} does not exist; the routing has tokens 0 to {count - 1}")
    own = routing.tokens == token  # (A,)
    if not bool(own.any()):
        raise ValueError(f"token {token} was taken by no expert; there is no choice to draw")
    weights = routing.weights[own]
    order = weights.argsort(descending=True, stable=True)
    chosen: dict[str, Any] = {
        "scores": routing.scores[token],
        "chosen": routing.experts[own][order],
        "weights": weights[order],
    }
    bias = getattr(getattr(routing.layer, "router", None), "selection_bias", None)
    if bias is not None:
        chosen["selection"] = routing.scores[token] + bias
    return {name: value.detach().cpu() for name, value in chosen.items()}


def plot_choice(
    scores: Any,
    chosen: Any,
    weights: Any,
    *,
    selection: Any = None,
    label: str | None = None,
    title: str | None = None,
) -> Figure:
    """One token's scores over all experts, those chosen among them, and their weights.

    Args:
        scores: (E,) the router's scores, softmax or sigmoid.
        chosen: (K,) numbers of the chosen experts.
        weights: (K,) the weights of their outputs.
        selection: (E,) what experts were ranked by, where that is not the score itself (the score
            and a selection bias); drawn as hollow marks.
        label: the token, for the titles.
        title: over the figure.

    Returns:
        The figure, known to pyplot.

    Raises:
        ValueError: shapes that do not fit, an expert that does not exist or is chosen twice.
    """
    s, w = to_array(scores, "scores"), to_array(weights, "weights")
    c = to_array(chosen, "chosen experts").astype(int)
    if s.ndim != 1 or not 1 <= len(s) <= MOST_EXPERTS:
        raise ValueError(
            f"scores must have shape (E,) with E from 1 to {MOST_EXPERTS}, not {s.shape}"
        )
    if c.ndim != 1 or c.shape != w.shape or not len(c):
        raise ValueError(f"chosen {c.shape} and weights {w.shape} must both have shape (K,)")
    if len(set(c.tolist())) < len(c) or c.min() < 0 or c.max() >= len(s):
        raise ValueError(f"chosen {c.tolist()} must be different experts, from 0 to {len(s) - 1}")
    ranked = None if selection is None else to_array(selection, "selection")
    if ranked is not None and ranked.shape != s.shape:
        raise ValueError(f"selection has shape {ranked.shape}, scores {s.shape}; they must agree")
    words = "" if label is None else f" of “{style.drawable_label(label)}”"
    with style.applied():
        wide = max(4.6, 0.32 * len(s) + 2.2)
        drawn, axes = style.figure(wide + 3.4, 3.1, 1, 2, width_ratios=[wide, 2.2 + 0.25 * len(c)])
        left, right = axes[0]
        _draw_scores(left, s, c, ranked)
        left.set_title(f"scores{words}: {len(c)} of {len(s)} experts are chosen")
        order = np.argsort(-w, kind="stable")
        right.bar(range(len(c)), w[order], color=CHOSEN_FILL, width=0.62)
        for place, number in enumerate(order):
            right.annotate(
                f"{w[number]:.2f}", (place, w[number]), (0, 3), textcoords="offset points",
                ha="center", fontsize=style.SMALL_SIZE,
            )  # fmt: skip
        right.set_xticks(range(len(c)), [str(c[number]) for number in order])
        right.set_xlim(-0.7, len(c) - 0.3)
        right.set_ylim(0, 1.15 * max(w.max(), 1e-9))
        right.set_xlabel("expert")
        right.set_ylabel("weight of its output")
        right.set_title(f"weights (sum {w.sum():.2f})")
        style.grid(right)
        if title:
            drawn.suptitle(title, x=0.01, ha="left", fontsize=style.TEXT_SIZE + 2)
    return drawn


def _draw_scores(ax: Axes, s: np.ndarray, c: np.ndarray, ranked: np.ndarray | None) -> None:
    places = np.arange(len(s))
    taken = np.isin(places, c)
    for own, fill, hatch, words in (
        (taken, CHOSEN_FILL, None, "chosen"),
        (~taken, LEFT_FILL, "////", "not chosen"),
    ):
        if own.any():
            ax.bar(
                places[own], s[own], width=0.72, facecolor=fill, hatch=hatch, label=words,
                edgecolor=CHOSEN_FILL if hatch is None else style.MUTED, linewidth=0.6,
            )  # fmt: skip
    heights = s if ranked is None else np.maximum(s, ranked)
    if ranked is not None:
        for place in places:
            ax.plot([place] * 2, [s[place], ranked[place]], color=style.INK, linestyle=(0, (1, 1)),
                    linewidth=1.0)  # fmt: skip
        ax.plot(
            places, ranked, linestyle="", marker="D", markerfacecolor=style.PAPER,
            markeredgecolor=style.INK, markersize=5, label="score and bias: what is ranked",
        )  # fmt: skip
    order = c[np.argsort(-(s if ranked is None else ranked)[c], kind="stable")]
    for rank, expert in enumerate(order, start=1):
        ax.annotate(
            f"{rank}.", (expert, heights[expert]), (0, 5), textcoords="offset points",
            ha="center", fontsize=style.SMALL_SIZE,
        )  # fmt: skip
    high = 1.16 * max(float(heights.max()), 1e-9)
    low = 0.0 if ranked is None else min(0.0, float(ranked.min()))
    ax.set_ylim(low if low == 0 else low - 0.06 * (high - low), high)
    ax.set_xticks(places if len(s) <= 32 else places[:: -(-len(s) // 16)])
    ax.set_xlim(-0.7, len(s) - 0.3)
    ax.set_xlabel("expert")
    ax.set_ylabel("score")
    ax.figure.legend(loc="outside lower left", ncols=3)
    style.grid(ax)
