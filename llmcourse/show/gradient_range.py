"""How large gradients are, and which of them a number format lets vanish.

Taught in: Part 4. Multiplying the loss by S moves the whole histogram to the right by log2 S powers
of two, away from where float16 ends.

Source: Micikevicius et al. 2017, arXiv 1710.03740, figure 3 and section 3.2.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from llmcourse.show import style
from llmcourse.show.precision import NumberFormat, chosen_formats

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FAR = 45  # powers of two: a limit farther left than this is told in words


def magnitudes_of(gradients: Any) -> np.ndarray:
    """(N,) absolute values of one tensor or several, as float64.

    Raises:
        ValueError: none at all, or not-a-number among them.
    """
    several = [gradients] if hasattr(gradients, "ndim") else list(gradients)
    parts = []
    for one in several:
        if hasattr(one, "detach"):
            one = one.detach().double().cpu().numpy()
        parts.append(np.abs(np.asarray(one, dtype=np.float64)).ravel())
    values = np.concatenate(parts) if parts else np.zeros(0)
    if not values.size:
        raise ValueError("there are no gradients: give at least one tensor with numbers in it")
    if not np.isfinite(values).all():
        raise ValueError(
            f"{int((~np.isfinite(values)).sum())} gradients are infinite or not a number"
        )
    return values


def vanished(magnitudes: np.ndarray, form: NumberFormat) -> float:
    """The share of non-zero numbers that become 0 in a format: at most half its smallest number."""
    known = magnitudes[magnitudes > 0]
    return float((known <= form.smallest / 2).mean()) if known.size else 0.0


def overflowed(magnitudes: np.ndarray, form: NumberFormat) -> float:
    """The share of numbers that a format rounds to infinity."""
    # From half a gap above the largest number on.
    return float((magnitudes >= form.largest + form.spacing(form.largest) / 2).mean())


def plot_gradient_range(
    gradients: Any,
    *,
    loss_scale: float | None = None,
    formats: Iterable[str] = ("float16", "bfloat16"),
    title: str | None = None,
) -> Figure:
    """A histogram of gradient magnitudes, and where each format lets them vanish.

    Args:
        gradients: a tensor or array of any shape, or several; computed in float32.
        loss_scale: a second histogram, of the gradients of the loss times this.
        formats: whose limits are drawn; names, of `FORMATS`. Shares are told of the first.
        title: over the figure.

    Returns:
        The figure, known to pyplot.

    Raises:
        ValueError: no gradients, all of them 0, infinite ones, a scale that is not above 0, or an
            unknown format.
    """
    chosen = chosen_formats(formats)
    values = magnitudes_of(gradients)
    if not (values > 0).any():
        raise ValueError("all gradients are 0: run a backward pass first")
    if loss_scale is not None and not (loss_scale > 0 and math.isfinite(loss_scale)):
        raise ValueError(f"loss_scale={loss_scale} must be a finite number above 0")
    sets = [("as they are", values)]
    if loss_scale is not None:
        sets.append((f"of the loss × {loss_scale:,.10g}", values * loss_scale))
    first = chosen[0]
    with style.applied():
        drawn, axes = style.figure(9.2, 3.6)
        ax = axes[0, 0]
        for number, (name, magnitudes) in enumerate(sets):
            exponents = np.log2(magnitudes[magnitudes > 0])
            edges = np.arange(math.floor(exponents.min()), math.ceil(exponents.max()) + 2)
            shares, _ = np.histogram(exponents, edges)
            label = f"{name}: {vanished(magnitudes, first):.1%} vanish in {first.name}"
            if over := overflowed(magnitudes, first):
                label += f", {over:.1%} overflow"
            look = {"facecolor": "#b5d7ec", "edgecolor": style.BLUE}
            if number:
                look = {"facecolor": "none", "edgecolor": style.VERMILLION, "hatch": "////"}
            ax.stairs(
                shares / exponents.size, edges, fill=True, linewidth=1.2, label=label,
                zorder=2 + number, **look,
            )  # fmt: skip
        _draw_limits(ax, chosen)
        zeros = float((values == 0).mean())
        ax.set_xlabel("magnitude (powers of two)" + (f"; {zeros:.1%} are 0" if zeros else ""))
        ax.set_ylabel("share of gradients")
        ax.xaxis.set_major_formatter(lambda value, _: rf"$2^{{{value:.0f}}}$")
        ax.set_ylim(bottom=0)
        style.grid(ax)
        drawn.legend(loc="outside upper center", ncols=len(sets))
        if title:
            drawn.suptitle(title, x=0.01, ha="left", fontsize=style.TEXT_SIZE + 2)
    return drawn


def _draw_limits(ax: Axes, chosen: list[NumberFormat]) -> None:
    """Where each format rounds to 0 and where it starts to lose digits; in words if out of view."""
    low, high = ax.get_xlim()
    limits = [
        (math.log2(form.smallest) - 1, math.log2(form.smallest_normal), number, form)
        for number, form in enumerate(chosen)
    ]
    low = min([low, *(zero - 3 for zero, *_ in limits if zero > low - FAR)])
    ax.set_xlim(low, high)
    away = []
    for zero, normal, number, form in limits:
        look = style.series(2 * number + 2)
        for place, dashes, words in (
            (zero, "-", f"{form.name}: 0"),
            (normal, (0, (2, 2)), f"{form.name}: fewer digits"),
        ):
            if low < place < high:
                ax.axvline(place, color=look.color, linewidth=1.4, linestyle=dashes, zorder=4)
                ax.annotate(
                    words, (place, 0.98), (-3, 0), xycoords=ax.get_xaxis_transform(),
                    textcoords="offset points", ha="right", va="top", rotation=90,
                    fontsize=style.SMALL_SIZE, color=style.INK, zorder=5,
                )  # fmt: skip
        if not low < zero < high:
            away.append(f"{form.name}: 0 from $2^{{{zero:.0f}}}$ down")
    if away:
        ax.annotate(
            "← out of view\n" + "\n".join(away), (0.008, 0.97), xycoords="axes fraction", va="top",
            fontsize=style.SMALL_SIZE, color=style.MUTED,
        )  # fmt: skip
