"""What a model weighs against what it uses: parameters and arithmetic, dense and sparse.

Taught in: Part 5. A mixture of experts keeps E networks and sends a token through K of them. Its
memory goes with all parameters, its arithmetic with the active ones; in a dense model the two are
the same. Everything is counted from the configs by `llmcourse.model.summary`, nothing is built.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from llmcourse.show import style
from llmcourse.show.scaling_laws import count_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from llmcourse.model import ModelConfig


def amount_text(number: float) -> str:
    """A count in two or three digits: 53k, 6.7B, 1.4T."""
    return count_text(number / 1000).replace("B", "T") if number >= 9.995e11 else count_text(number)


class SparseCost(NamedTuple):
    """The counts of one model."""

    active: int  # parameters that one token meets
    total: int  # parameters
    flops: int  # per token, forward
    flops_of_all: int  # per token, forward, if it went through every expert

    @property
    def dense(self) -> bool:
        return self.active == self.total


def sparse_cost(config: ModelConfig, tokens: int) -> SparseCost:
    """Parameters and forward FLOPs per token of a model at `tokens` of context.

    Raises:
        ValueError: tokens below 1.
    """
    from llmcourse.model.summary import summary

    if isinstance(tokens, bool) or not isinstance(tokens, int) or tokens < 1:
        raise ValueError(f"tokens={tokens!r} must be a whole number of at least 1")
    counted = summary(config)
    # Learned positions belong to the model's own context, FLOPs to the one that is asked about.
    flops = summary(dataclasses.replace(config, context_length=tokens)).forward_flops_per_token
    active, total = counted.active_parameters, counted.total_parameters
    # What is not active is (but for a few biases) matrices: a multiplication and addition each.
    return SparseCost(active, total, flops, flops + 2 * (total - active))


def plot_sparse_cost(
    models: Mapping[str, ModelConfig | str], *, tokens: int = 4096, title: str | None = None
) -> Figure:
    """Active and total parameters of several models, and what a token costs in each.

    A full mark is what a token uses, a hollow one what there is; dense models have one mark only.

    Args:
        models: by name, configs or names of presets; drawn in this order.
        tokens: of context, for the arithmetic of attention.
        title: over the figure.

    Returns:
        The figure, known to pyplot.

    Raises:
        ValueError: no models, an unknown preset, or tokens below 1.
    """
    from llmcourse.model import ModelConfig

    if not models:
        raise ValueError("there is nothing to draw: no models")
    costs = {
        name: sparse_cost(ModelConfig.preset(model) if isinstance(model, str) else model, tokens)
        for name, model in models.items()
    }
    with style.applied():
        drawn, axes = style.figure(10.0, 0.42 * len(costs) + 1.55, 1, 2, sharey=True)
        left, right = axes[0]
        said: tuple[list[str], list[str]] = ([], [])
        for place, cost in enumerate(costs.values()):
            share = "all active" if cost.dense else f"{cost.active / cost.total:.0%} active"
            words = f"{amount_text(cost.total)}, {share}"
            if not cost.dense:
                words = f"{amount_text(cost.active)} of {words}"
            _dumbbell(left, place, cost.active, cost.total)
            said[0].append(words)
            words = amount_text(cost.flops)
            if not cost.dense:
                words += f" (all experts: {amount_text(cost.flops_of_all)})"
            _dumbbell(right, place, cost.flops, cost.flops_of_all)
            said[1].append(words)
        for ax, words, label in (
            (left, said[0], "parameters (logarithmic)"),
            (
                right, said[1],
                f"FLOPs per token, forward,\n{tokens:,} tokens of context (logarithmic)",
            ),
        ):  # fmt: skip
            low, high = ax.dataLim.intervalx
            ax.set_xscale("log")
            ax.set_xlim(low / (high / low) ** 0.06 / 1.1, high * (high / low) ** 0.06 * 1.1)
            ax.xaxis.set_major_formatter(lambda value, _: amount_text(value))
            _write(ax, costs.values(), words, flops=ax is right)
            ax.xaxis.set_minor_formatter(lambda *_: "")
            ax.set_xlabel(label)
            style.grid(ax, "x")
        left.set_yticks(range(len(costs)), [style.drawable_label(name) for name in costs])
        left.set_ylim(len(costs) - 0.5, -0.75)
        for ax in (left, right):
            ax.tick_params(axis="y", length=0)
        _legend(drawn)
        if title:
            drawn.suptitle(title, x=0.01, ha="left", fontsize=style.TEXT_SIZE + 2)
    return drawn


def _dumbbell(ax: Axes, place: int, used: float, there: float) -> None:
    """A full mark at `used`, and a hollow one at `there` if that is more."""
    dense = used == there
    if not dense:
        ax.plot([used, there], [place] * 2, color=style.MUTED, linestyle="-", linewidth=1.4)
        ax.plot(
            there, place, linestyle="", marker="D", markersize=7, markerfacecolor=style.PAPER,
            markeredgecolor=style.INK, markeredgewidth=1.3,
        )  # fmt: skip
    ax.plot(
        used, place, linestyle="", markersize=8, marker="s" if dense else "o",
        color=style.MUTED if dense else style.BLUE,
    )  # fmt: skip


def _write(ax: Axes, costs: Iterable[SparseCost], words: Sequence[str], *, flops: bool) -> None:
    """Words over the marks, which stay inside the axes."""
    low, high = np.log(ax.get_xlim())
    for place, (cost, text) in enumerate(zip(costs, words, strict=True)):
        used, there = (cost.flops, cost.flops_of_all) if flops else (cost.active, cost.total)
        middle = (used * there) ** 0.5
        share = (np.log(middle) - low) / (high - low)
        side, at = "center", middle
        if share < 0.25:
            side, at = "left", used
        elif share > 0.75:
            side, at = "right", there
        ax.annotate(
            text, (at, place), (0, 6), textcoords="offset points", ha=side, va="bottom",
            fontsize=style.SMALL_SIZE - 1,
        )  # fmt: skip


def _legend(drawn: Figure) -> None:
    from matplotlib.lines import Line2D

    def mark(marker: str, color: str, words: str, hollow: bool = False) -> Line2D:
        face = style.PAPER if hollow else color
        return Line2D(
            [], [], linestyle="", marker=marker, color=color, markerfacecolor=face, label=words
        )

    drawn.legend(
        handles=[
            mark("s", style.MUTED, "dense: a token uses everything"),
            mark("o", style.BLUE, "sparse: what a token uses"),
            mark("D", style.INK, "sparse: what there is", hollow=True),
        ],
        loc="outside upper center", ncols=3,
    )  # fmt: skip
