"""Hybrid stacks: which layers are dense, which sparse, and what stands beside the experts.

Taught in: Part 5. A stack is drawn from its config, the first layer at the bottom, as data flows.
In a deep one equal neighbours are joined into a box. A sparse layer shows its experts as
cells, as many of them dark as a token uses; shared experts and a dense branch stand beside.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from llmcourse.show import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from llmcourse.model import ModelConfig

CELLS = 16  # experts drawn singly; of more, the share that a token uses is drawn
SINGLE = 8  # layers of a stack that are all drawn
WIDE, SIDE, HIGH, SMALL = 3.2, 0.8, 0.62, 0.24  # of a network, a neighbour; heights
EDGE = "#555555"


class LayerRun(NamedTuple):
    """Neighbouring layers of one kind."""

    first: int
    last: int
    sparse: bool

    @property
    def count(self) -> int:
        return self.last - self.first + 1


def layer_runs(config: ModelConfig) -> list[LayerRun]:
    """The stack as runs of equal layers, first layer first; a short one layer by layer."""
    runs: list[LayerRun] = []
    for layer in range(config.n_layers):
        sparse = config.is_sparse(layer)
        if config.n_layers > SINGLE and runs and runs[-1].sparse == sparse:
            runs[-1] = runs[-1]._replace(last=layer)
        else:
            runs.append(LayerRun(layer, layer, sparse))
    return runs


def plot_stacks(models: Mapping[str, ModelConfig | str], *, title: str | None = None) -> Figure:
    """The layers of several models side by side.

    Args:
        models: by name, configs or names of presets.
        title: over the figure.

    Returns:
        The figure, known to pyplot.

    Raises:
        ValueError: no models, or an unknown preset.
    """
    from llmcourse.model import ModelConfig

    if not models:
        raise ValueError("there is nothing to draw: no models")
    configs = {
        name: ModelConfig.preset(model) if isinstance(model, str) else model
        for name, model in models.items()
    }
    tallest = max(len(layer_runs(config)) for config in configs.values())
    with style.applied():
        drawn, axes = style.figure(
            max(5.0, 2.75 * len(configs)), 0.62 * tallest + 1.5, 1, len(configs), sharey=True
        )
        for ax, (name, config) in zip(axes[0], configs.items(), strict=True):
            for height, run in enumerate(layer_runs(config)):
                _layer(ax, height * 1.25, run, config)
            ax.set_xlim(-0.1, WIDE + 2 * SIDE + 0.5)
            ax.set_ylim(-0.25, tallest * 1.25)
            ax.axis("off")
            ax.set_title(f"{style.drawable_label(name)}\n{_words(config)}", fontsize=9)
        _legend(drawn)
        if title:
            drawn.suptitle(title, x=0.01, ha="left", fontsize=style.TEXT_SIZE + 2)
    return drawn


def _words(config: ModelConfig) -> str:
    e = config.experts
    if e is None:
        return f"{config.n_layers} dense layers"
    sparse = sum(run.count for run in layer_runs(config) if run.sparse)
    of = "all" if sparse == config.n_layers else f"{sparse} of {config.n_layers}"
    return f"{of} layers sparse: {e.n_active} of {e.n_experts} experts"


def _rectangle(
    ax: Axes, x: float, y: float, wide: float, high: float, fill: str, hatch: str | None = None
) -> None:
    from matplotlib.patches import Rectangle

    ax.add_patch(
        Rectangle((x, y), wide, high, facecolor=fill, edgecolor=EDGE, linewidth=0.7, hatch=hatch)
    )


def _layer(ax: Axes, y: float, run: LayerRun, config: ModelConfig) -> None:
    """Attention below, the feed-forward network or the experts above it."""
    _rectangle(ax, 0, y, WIDE, SMALL, "#f3f3f3")
    ax.text(
        WIDE / 2, y + SMALL / 2, "attention", ha="center", va="center_baseline", fontsize=6.5,
        color=style.MUTED,
    )  # fmt: skip
    y += SMALL + 0.06
    e = config.experts
    x = WIDE + 0.1
    if run.sparse and e is not None:
        _experts(ax, y, e.n_experts, e.n_active)
        if e.n_shared:
            _rectangle(ax, x, y, SIDE, HIGH, style.ORANGE, "////")
            x += SIDE + 0.1
        if e.dense_branch:
            _rectangle(ax, x, y, SIDE, HIGH, "#a8a8a8")
            x += SIDE + 0.1
    else:
        _rectangle(ax, 0, y, WIDE, HIGH, "#a8a8a8")
    words = f"layer {run.first}"
    if run.count > 1:
        words = f"layers {run.first} to {run.last}\n({run.count} ×)"
    ax.text(x + 0.05, y + HIGH / 2, words, ha="left", va="center", fontsize=style.SMALL_SIZE - 1)


def _experts(ax: Axes, y: float, n_experts: int, n_active: int) -> None:
    """A cell for each expert; more than fit are one box, dark as far as a token uses them."""
    if n_experts <= CELLS:
        step = WIDE / n_experts
        for cell in range(n_experts):
            fill = style.BLUE if cell < n_active else style.PAPER
            _rectangle(ax, cell * step, y, step * 0.9, HIGH, fill)
        return
    _rectangle(ax, 0, y, WIDE, HIGH, style.PAPER)
    _rectangle(ax, 0, y, WIDE * n_active / n_experts, HIGH, style.BLUE)
    ax.text(
        WIDE / 2, y + HIGH / 2, f"{n_experts} experts", ha="center", va="center", fontsize=7,
        color=style.INK if 2 * n_active < n_experts else style.PAPER,
    )  # fmt: skip


def _legend(drawn: Figure) -> None:
    from matplotlib.patches import Patch

    drawn.legend(
        handles=[
            Patch(facecolor="#a8a8a8", edgecolor=EDGE, label="dense network"),
            Patch(facecolor=style.BLUE, edgecolor=EDGE, label="experts a token uses"),
            Patch(facecolor=style.PAPER, edgecolor=EDGE, label="other experts"),
            Patch(facecolor=style.ORANGE, edgecolor=EDGE, hatch="////", label="shared experts"),
        ],
        loc="outside lower center", ncols=4,
    )  # fmt: skip
