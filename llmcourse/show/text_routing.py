"""Which experts the tokens of one text take, layer by layer, and how that loads the experts.

Taught in: Part 5. What the routing viewer shows, as data and as a figure for the page. The routing
is that of the model's own forward pass (`llmcourse.model.routing.record_routing`).

Shapes: T tokens of the text, E experts, L sparse layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from llmcourse.show import style
from llmcourse.show.expert_load import FACTOR

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_LAYERS = 4  # maps one above the other that fit on a page
MOST_LABELS = 64  # tokens: beyond this, ticks are positions


class LayerRouting(NamedTuple):
    """One sparse layer's routing of one text."""

    layer: int  # number of the block, from 0
    gates: np.ndarray  # (T, E) weights, 0 where an expert was not chosen
    taken: np.ndarray  # (T, E) bool, whether it was
    scores: np.ndarray  # (T, E) the router's scores
    load: np.ndarray  # (E,) share of the assignments, those that were dropped included
    dropped: int  # assignments that found their expert full


def collect_routing(model: Any, ids: Any) -> list[LayerRouting]:
    """The routing of one forward pass over (T,) or (B, T) ids, sparse layer by sparse layer.

    The model is put into evaluation mode for the pass (noise would move tokens at random) and back
    afterwards. Of a batch, tokens are those of its sequences one after another.

    Raises:
        ValueError: a model without sparse layers.
    """
    import torch

    from llmcourse.model.routing import record_routing

    device = next(model.parameters()).device
    rows = torch.as_tensor(ids, device=device)
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad(), record_routing(model) as routings:
            model(rows if rows.ndim == 2 else rows[None])  # (B, T)
    finally:
        model.train(was_training)
    if not routings:
        raise ValueError("the model has no sparse layers; there is no routing to show")
    numbers = {id(block.feed_forward): number for number, block in enumerate(model.blocks)}
    found = []
    for routing in routings:
        taken = torch.zeros_like(routing.scores, dtype=torch.bool)
        taken[routing.tokens, routing.experts] = True
        gates, scores = (v.double().cpu().numpy() for v in (routing.gates(), routing.scores))
        load = routing.load().double().cpu().numpy()
        found.append(
            LayerRouting(
                numbers[id(routing.layer)], gates, taken.cpu().numpy(), scores,
                load / max(load.sum(), 1), int(routing.dropped.sum()),
            )
        )  # fmt: skip
    return found


def expert_loads(model: Any, ids: Sequence[int], *, most: int = 4096) -> np.ndarray:
    """(L, E) shares of the assignments over a longer text, read in pieces of the model's context.

    Args:
        model: with sparse layers.
        ids: of the text; a last piece that is shorter than the context is left out, unless it is
            the only one.
        most: tokens that are read, at most.

    Raises:
        ValueError: no ids, or a model without sparse layers.
    """
    if not len(ids):
        raise ValueError("the text for the experts' load has no tokens")
    piece = min(len(ids), model.config.context_length)
    count = max(1, min(len(ids), most) // piece)
    rows = [list(ids[start * piece : (start + 1) * piece]) for start in range(count)]
    return np.stack([layer.load for layer in collect_routing(model, rows)])


def plot_text_routing(
    layers: Sequence[LayerRouting],
    labels: Sequence[str],
    *,
    reference: Any = None,
    title: str | None = None,
) -> Figure:
    """For each layer a map of the weights, expert by token, and beside it the experts' loads.

    Args:
        layers: of `collect_routing`; at most four are drawn, the first ones.
        labels: the T tokens.
        reference: (L, E) loads over a longer text, drawn as hollow marks.
        title: over the figure.

    Returns:
        The figure, known to pyplot.

    Raises:
        ValueError: no layers, or labels or a reference that do not fit them.
    """
    if not layers:
        raise ValueError("there is nothing to draw: no layers")
    time, e = layers[0].gates.shape
    if len(labels) != time:
        raise ValueError(f"{len(labels)} labels for {time} tokens")
    if reference is not None and np.shape(reference) != (len(layers), e):
        raise ValueError(
            f"reference loads have shape {np.shape(reference)}, not (L, E) = {(len(layers), e)}"
        )
    shown = layers[:MOST_LAYERS]
    names = [style.drawable_label(label) for label in labels]
    largest = max(1.0, max(float(layer.gates.max()) for layer in shown))
    with style.applied():
        drawn, axes = style.figure(
            10.0, max(1.5, 0.17 * e + 0.4) * len(shown) + 0.9, len(shown), 2,
            width_ratios=[3.2, 1], sharey="row",
        )  # fmt: skip
        for row, layer in enumerate(shown):
            left, right = axes[row]
            image = left.imshow(
                layer.gates.T, cmap=style.weight_colormap(), vmin=0, vmax=largest, aspect="auto",
                interpolation="nearest",
            )  # fmt: skip
            left.set_title(f"layer {layer.layer}", fontsize=style.TEXT_SIZE)
            left.set_ylabel("expert")
            left.set_yticks(range(e) if e <= 16 else range(0, e, -(-e // 8)))
            left.set_xticks(np.arange(time + 1) - 0.5, minor=True)
            left.grid(True, axis="x", which="minor", color=style.FAINT, linewidth=0.5)
            left.tick_params(which="both", length=0)
            if row + 1 == len(shown):
                _tokens(left, names)
            else:
                left.set_xticks([])
            _loads(right, layer.load, None if reference is None else np.asarray(reference)[row])
        axes[-1, 1].set_xlabel("share of the assignments (%)")
        for ax in axes[:-1, 1]:
            ax.tick_params(labelbottom=False)
        widest = max(ax.get_xlim()[1] for ax in axes[:, 1])
        for ax in axes[:, 1]:
            ax.set_xlim(0, widest)
        axes[0, 1].set_title("load", fontsize=style.TEXT_SIZE)
        bar = drawn.colorbar(image, ax=list(axes[:, 0]), location="left", aspect=30, pad=0.02)
        bar.set_label("weight of the expert's output")
        bar.outline.set_visible(False)
        _legend(drawn, reference is not None)
        if title:
            drawn.suptitle(title, x=0.01, ha="left", fontsize=style.TEXT_SIZE + 2)
    return drawn


def _tokens(ax: Axes, names: Sequence[str]) -> None:
    if len(names) <= MOST_LABELS:
        size = style.SMALL_SIZE if len(names) <= 32 else 5.5
        turned = max(map(len, names)) > 2
        ax.set_xticks(range(len(names)), names, fontsize=size, rotation=90 if turned else 0)
    ax.set_xlabel("token")


def _loads(ax: Axes, load: np.ndarray, reference: np.ndarray | None) -> None:
    e = len(load)
    ax.axvspan(100 / e / FACTOR, 100 / e * FACTOR, color=style.GREEN, alpha=0.15, linewidth=0)
    ax.axvline(100 / e, color=style.INK, linewidth=1.0, linestyle=(0, (6, 3)))
    ax.barh(range(e), 100 * load, height=0.62, color=style.BLUE)
    if reference is not None:
        ax.plot(
            100 * reference, range(e), linestyle="", marker="D", markersize=4.5,
            markerfacecolor=style.PAPER, markeredgecolor=style.INK,
        )  # fmt: skip
    ax.tick_params(axis="y", length=0, labelleft=False)
    style.grid(ax, "x")


def _legend(drawn: Figure, reference: bool) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = [Patch(facecolor=style.BLUE, label="load over this text")]
    if reference:
        handles.append(
            Line2D(
                [], [], linestyle="", marker="D", markerfacecolor=style.PAPER, color=style.INK,
                label="over the reference text",
            )
        )  # fmt: skip
    handles += [
        Line2D([], [], color=style.INK, linewidth=1.0, linestyle=(0, (6, 3)), label="uniform"),
        Patch(facecolor=style.GREEN, alpha=0.15, label=f"within a factor of {FACTOR:g}"),
    ]
    drawn.legend(handles=handles, loc="outside upper right", ncols=len(handles))
