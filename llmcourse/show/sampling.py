"""The next-token distribution, before and after temperature, top-k, top-p and min-p.

Taught in: Part 2. Bars for the likeliest tokens; the outline is the model's own distribution, the
filled bar what is sampled from. A token that a filter cut has a hatched outline and no bar.

Shapes: V vocabulary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from llmcourse.show import style
from llmcourse.show.arrays import check_distribution, to_array
from llmcourse.show.tokens import token_labels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def entropy(probabilities: Any) -> float:
    """-sum p ln p in nats of a distribution (V,); 0 ln 0 counts as 0."""
    array = to_array(probabilities, "probabilities")
    positive = array[array > 0]
    return max(0.0, float(-(positive * np.log(positive)).sum()))


def check_pair(probabilities: Any, after: Any) -> tuple[np.ndarray, np.ndarray]:
    """The distributions before and after, both (V,) and both checked; after=None means before."""
    before = to_array(probabilities, "probabilities")
    check_distribution(before, "probabilities")
    if after is None:
        return before, before
    result = to_array(after, "probabilities after")
    check_distribution(result, "probabilities after")
    if result.shape != before.shape:
        raise ValueError(
            f"{len(before)} probabilities before but {len(result)} after: one per token each"
        )
    return before, result


def likeliest(before: np.ndarray, top: int) -> np.ndarray:
    """Indices of the `top` likeliest tokens, falling; ties go to the smaller id."""
    return np.argsort(-before, kind="stable")[: max(1, top)]


def draw_distribution(
    ax: Axes, before: np.ndarray, after: np.ndarray, labels: list[str], top: int, compared: bool
) -> None:
    """Draw on given axes what `plot_distribution` draws; arguments are checked there."""
    order = likeliest(before, top)
    places = np.arange(len(order))
    kept = after[order] > 0
    if compared:
        # One call for each kind of bar, so that the legend tells them apart.
        for chosen, hatch, edge, name in (
            (kept, "", style.INK, "the model's own: kept"),
            (~kept, "/////", "#8a8a8a", "the model's own: cut"),
        ):
            if chosen.any():
                ax.bar(
                    places[chosen], before[order][chosen], width=0.82, facecolor="none",
                    edgecolor=edge, linewidth=1.0, hatch=hatch, label=name, zorder=3,
                )  # fmt: skip
    ax.bar(
        places[kept], after[order][kept], width=0.56, color=style.KEPT, zorder=2,
        label="sampled from" if compared else None,
    )  # fmt: skip
    ax.set_xticks(
        places, [style.drawable_label(labels[i]) for i in order], fontsize=style.SMALL_SIZE
    )
    if max(len(labels[i]) for i in order) > 3:
        ax.tick_params(axis="x", labelrotation=60)
    ax.tick_params(axis="x", length=0)
    style.grid(ax)
    ax.set_xlim(-0.7, len(order) - 0.3)
    ax.set_xlabel(f"next token (the {len(order)} likeliest of {len(before)})")
    ax.set_ylabel("probability")
    if compared:
        ax.legend(loc="upper right")


def plot_distribution(
    probabilities: Any,
    labels: Any = None,
    after: Any = None,
    *,
    top: int = 20,
    tokenizer: Any = None,
    title: str | None = None,
) -> Figure:
    """Bars of a next-token distribution, and of what sampling settings make of it.

    Args:
        probabilities: (V,), the model's own distribution.
        labels: V token labels, as `token_labels` takes them; None names ids 0 .. V - 1 with
            `tokenizer`, or by number without one.
        after: (V,), the distribution that is sampled from; exact zeros are tokens that were cut.
        top: how many of the likeliest tokens to draw.
        tokenizer: names the ids.
        title: over the picture; None says how many tokens stay and the entropy in nats.

    Returns:
        The figure, known to pyplot: `plt.show()` shows it.

    Raises:
        ValueError: for numbers that are no distribution, or a wrong number of labels.
    """
    before, result = check_pair(probabilities, after)
    names = vocabulary_labels(len(before), labels, tokenizer)
    if top < 1:
        raise ValueError(f"top must be at least 1 token, not {top}")
    if title is None:
        title = f"entropy {entropy(before):.2f} nats"
        if after is not None:
            title += (
                f" → {entropy(result):.2f} nats, {int((result > 0).sum())} of {len(before)} "
                "tokens kept"
            )
    with style.applied():
        drawn, axes = style.figure(max(5.0, 0.36 * min(top, len(before)) + 1.4), 3.2)
        draw_distribution(axes[0, 0], before, result, names, top, after is not None)
        axes[0, 0].set_title(title)
    return drawn


def vocabulary_labels(size: int, labels: Any = None, tokenizer: Any = None) -> list[str]:
    """`size` labels for a whole vocabulary, from labels, a tokenizer, or plain numbers."""
    if labels is None:
        if tokenizer is None:
            return [str(i) for i in range(size)]
        labels = range(size)
    names = token_labels(labels, tokenizer)
    if len(names) != size:
        raise ValueError(f"{len(names)} labels for {size} probabilities: one label per token")
    return names


def plot_sampling(
    logits: Any, sampling: Any, labels: Any = None, *, tokenizer: Any = None, top: int = 20
) -> Figure:
    """`plot_distribution` of softmax(logits) beside what `sampling` makes of it.

    Args:
        logits: (V,) tensor, the model's scores for the next token.
        sampling: an `llmcourse.generate.Sampling`.
        labels, tokenizer, top: as in `plot_distribution`.
    """
    from llmcourse.generate.sampling import next_token_probabilities

    after = next_token_probabilities(logits, sampling)
    return plot_distribution(logits.softmax(-1), labels, after, top=top, tokenizer=tokenizer)
