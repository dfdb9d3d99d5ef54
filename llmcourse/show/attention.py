"""Attention maps: who looks where.

Taught in: Part 1. Draws the weights softmax(q k^T / sqrt(D)) of Vaswani et al. 2017, equation 1:
one row per query, one column per source token, darker for more weight. A cell that the mask
forbids is hatched, so that "was not allowed to look" and "looked and found nothing" differ.

Shapes: H query heads, T time, S source length.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from llmcourse.show import style
from llmcourse.show.arrays import SUM_TOLERANCE, to_array
from llmcourse.show.tokens import token_labels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NUMBERS_UP_TO = 8  # tokens: a larger map is too fine to print a number in each cell
LABELS_UP_TO = 40  # tokens: beyond this, ticks are positions instead of tokens


def check_weights(weights: Any, mask: Any = None) -> tuple[np.ndarray, np.ndarray]:
    """Weights as (H, T, S) and the mask as (T, S), both checked.

    Args:
        weights: (H, T, S) or (T, S), each row a distribution over the S source tokens.
        mask: bool (T, S), True = may look. None: taken as causal when every weight above the
            diagonal is exactly 0 (the diagonal ends in the lower right corner), else all True.

    Raises:
        ValueError: for a wrong shape, a row that does not sum to 1, or weight on a forbidden cell.
    """
    array = to_array(weights, "attention weights")
    if array.ndim == 2:
        array = array[None]  # (T, S) -> (1, T, S)
    if array.ndim != 3 or 0 in array.shape:
        raise ValueError(
            f"attention weights must have shape (H, T, S) or (T, S), not {tuple(array.shape)}; "
            "for a batch (B, H, T, S) pick one row: weights[0]"
        )
    _, time, source = array.shape
    if mask is None:
        causal = np.tri(time, source, k=source - time, dtype=bool)  # (T, S)
        allowed = causal if not array[:, ~causal].any() else np.ones((time, source), dtype=bool)
    else:
        allowed = to_array(mask, "mask").astype(bool)
        if allowed.shape != (time, source):
            raise ValueError(
                f"mask must have shape (T, S) = {(time, source)}, not {tuple(allowed.shape)}"
            )
        forbidden = np.argwhere((array != 0) & ~allowed)
        if len(forbidden):
            head, query, key = (int(i) for i in forbidden[0])
            raise ValueError(
                f"head {head} gives weight {array[head, query, key]:.3g} to source {key} from "
                f"query {query}, which the mask forbids (in a mask, True = may look)"
            )
    if (array < 0).any():
        raise ValueError(
            f"attention weights hold the negative value {array.min():.3g}; "
            "are these scores before the softmax?"
        )
    sums = array.sum(axis=-1)  # (H, T)
    # A query that may look nowhere (padding) has an all-zero row, and that is right.
    wrong = np.argwhere((np.abs(sums - 1) > SUM_TOLERANCE) & allowed.any(axis=-1))
    if len(wrong):
        head, query = (int(i) for i in wrong[0])
        hint = ""
        if np.allclose(array.sum(axis=-2), 1, atol=SUM_TOLERANCE):
            hint = "; the columns do, so the softmax ran over the query axis"
        raise ValueError(
            f"attention weights of head {head}, query {query} sum to {sums[head, query]:.3f}, "
            f"not to 1{hint}"
        )
    return array, allowed


def hatch_forbidden(ax: Axes, allowed: np.ndarray) -> None:
    """Mark all forbidden cells with one hatched shape (one, so that large maps stay quick)."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    cells = np.argwhere(~allowed)
    if not len(cells):
        return
    corners = np.array([[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5], [-0.5, -0.5]])
    # (cells, 1, 2) + (5, 2) -> (cells, 5, 2) -> (cells * 5, 2); a cell is (row, column) = (y, x)
    vertices = (cells[:, None, ::-1] + corners).reshape(-1, 2)
    codes = np.tile(
        [Path.MOVETO, Path.LINETO, Path.LINETO, Path.LINETO, Path.CLOSEPOLY], len(cells)
    )
    patch = PathPatch(
        Path(vertices, codes),
        facecolor="#f3f3f3",
        edgecolor="#c4c4c4",
        hatch="////",
        linewidth=0,
        label="masked",
    )
    ax.add_patch(patch)


def _label_axis(ax: Axes, which: str, labels: list[str]) -> None:
    """Tokens along an axis while they are few; positions (counted from 0) once they are many."""
    if len(labels) > LABELS_UP_TO:
        return
    labels = [style.drawable_label(label) for label in labels]
    size = style.SMALL_SIZE if len(labels) <= 24 else style.SMALL_SIZE - 2
    if which == "x":
        rotation = 90 if max(map(len, labels)) > 2 else 0
        ax.set_xticks(range(len(labels)), labels, rotation=rotation, fontsize=size)
    else:
        ax.set_yticks(range(len(labels)), labels, fontsize=size)


def draw_attention(
    ax: Axes,
    weights: np.ndarray,
    allowed: np.ndarray,
    *,
    numbers: bool = False,
    largest: float = 1.0,
) -> Any:
    """Draw one head (T, S) on `ax` and return the image; colours run from 0 to `largest`."""
    image = ax.imshow(
        weights, cmap=style.weight_colormap(), vmin=0, vmax=largest, aspect="equal",
        interpolation="nearest",
    )  # fmt: skip
    hatch_forbidden(ax, allowed)
    ax.tick_params(length=0)
    for spine in ax.spines.values():
        spine.set_visible(True)
        spine.set_color(style.FAINT)
    if numbers:
        for query, key in np.argwhere(allowed):
            color = style.text_color_on(image.cmap(image.norm(weights[query, key])))
            ax.text(
                key, query, f"{weights[query, key]:.2f}",
                ha="center", va="center", color=color, fontsize=style.TEXT_SIZE,
            )  # fmt: skip
    return image


def plot_attention(
    weights: Any,
    tokens: Any,
    heads: Sequence[int] | int | None = None,
    *,
    source_tokens: Any = None,
    mask: Any = None,
    tokenizer: Any = None,
    titles: Sequence[str] | None = None,
    title: str | None = None,
    columns: int = 4,
) -> Figure:
    """Attention weights as heat maps, one per head; a single small head with its numbers.

    Args:
        weights: (H, T, S) or (T, S); row t of a head is where query t looks, and sums to 1.
        tokens: the T query tokens, as `token_labels` takes them.
        heads: which heads to draw (one number or several); None draws all.
        source_tokens: the S source tokens; None means the query tokens.
        mask: bool (T, S), True = may look; None recognises a causal map by its zeros.
        tokenizer: names the tokens when they are ids.
        titles: one per drawn head; None gives "head 0", "head 1", ...
        title: over the whole figure.
        columns: heads side by side at most.

    Returns:
        The figure, known to pyplot: `plt.show()` shows it.

    Raises:
        ValueError: as `check_weights`; also for a wrong number of labels or titles, or an unknown
            head.
    """
    array, allowed = check_weights(weights, mask)
    count, time, source = array.shape
    queries = token_labels(tokens, tokenizer)
    sources = queries if source_tokens is None else token_labels(source_tokens, tokenizer)
    for labels, wanted, which in ((queries, time, "query"), (sources, source, "source")):
        if len(labels) != wanted:
            raise ValueError(
                f"{len(labels)} {which} labels for {wanted} {which} positions: "
                f"the weights have shape (H, T, S) = {tuple(array.shape)}"
            )
    chosen = range(count) if heads is None else [heads] if isinstance(heads, int) else list(heads)
    for head in chosen:
        if not 0 <= head < count:
            raise ValueError(
                f"head {head} does not exist; there are {count} heads, 0 to {count - 1}"
            )
    if not len(chosen):
        raise ValueError("heads is empty: name at least one head, or None for all")
    if titles is None:
        names = [f"head {head}" for head in chosen]
    else:
        names = list(titles)
    if len(names) != len(chosen):
        raise ValueError(f"{len(names)} titles for {len(chosen)} heads")

    single = len(chosen) == 1
    columns = min(columns, len(chosen))
    rows = -(-len(chosen) // columns)
    side = min(6.0, max(3.2, 0.55 * max(time, source))) if single else 9.6 / max(columns, 3)
    width, height = columns * side + 0.9, rows * (side * time / source + 0.3) + 0.5
    with style.applied():
        drawn, axes = style.figure(width, max(height, 2.2), rows, columns, layout="compressed")
        image = None
        for place, ax in enumerate(axes.flat):
            if place >= len(chosen):
                ax.set_visible(False)
                continue
            image = draw_attention(
                ax, array[chosen[place]], allowed,
                numbers=single and max(time, source) <= NUMBERS_UP_TO,
            )  # fmt: skip
            if not (single and titles is None and count == 1):
                ax.set_title(names[place])
            last_in_column = place + columns >= len(chosen)
            if single or max(time, source) <= 24:
                _label_axis(ax, "x", sources)
                _label_axis(ax, "y", queries)
            if place % columns:
                ax.set_yticks([])
            if not last_in_column:
                ax.set_xticks([])
        drawn.supxlabel("source token (looked at)", fontsize=style.TEXT_SIZE)
        drawn.supylabel("query token (looking)", fontsize=style.TEXT_SIZE)
        bar = drawn.colorbar(image, ax=list(axes.flat), shrink=0.85, aspect=26, pad=0.02)
        bar.set_label("attention weight (each row sums to 1)")
        bar.outline.set_visible(False)
        if title:
            drawn.suptitle(title, x=0.01, ha="left", fontsize=style.TEXT_SIZE + 2)
    return drawn
