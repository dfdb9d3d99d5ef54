"""How evenly experts are loaded: every expert's share over training, and at the end of many runs.

Taught in: Part 5. Uniform is 1/E of the assignments. Within a factor of 2 of that is the shaded
band; an expert below the "starving" share has nearly left the model, and is named. Left alone, a
router feeds the experts that it already prefers, and they improve the most: the rich get richer.

Shapes: S steps, E experts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from llmcourse.show import style
from llmcourse.show.arrays import SUM_TOLERANCE, to_array

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FACTOR = 2.0  # of the band around uniform
STARVING = 0.02  # share of the assignments beneath which an expert starves


def check_shares(loads: np.ndarray, name: str) -> None:
    """Refuse (..., E) loads that are not shares of the assignments."""
    if loads.ndim < 2 or not loads.size:
        raise ValueError(f"the loads of {name!r} have shape {loads.shape}; give (..., E) shares")
    if (loads < 0).any() or not np.allclose(loads.sum(-1), 1, atol=SUM_TOLERANCE):
        worst = loads.sum(-1).flat[int(np.abs(loads.sum(-1) - 1).argmax())]
        raise ValueError(
            f"the loads of {name!r} are not shares: a row sums to {worst:.3g} instead of 1 "
            "(divide the counts by their sum)"
        )


def _check_starving(starving: float) -> None:
    if not 0 <= starving < 1:
        raise ValueError(f"starving={starving} must be a share from 0 up to, not including, 1")


def verdict(loads: np.ndarray, starving: float = STARVING) -> str:
    """In words how even (..., E) final loads are: starving experts first, then the band."""
    e = loads.shape[-1]
    rows = loads.reshape(-1, e)  # (R, E)
    hungry = int((rows < starving).sum())
    ratio = f"{rows.min() * e:.2f} to {rows.max() * e:.2f} × uniform"
    if hungry:
        return f"{hungry} of {rows.size} below {starving:.0%}; {ratio}"
    inside = rows.min() * e >= 1 / FACTOR and rows.max() * e <= FACTOR
    return f"{'within' if inside else 'outside'} a factor of {FACTOR:g}; {ratio}"


def plot_expert_load(
    arms: Mapping[str, Mapping[str, Any]],
    *,
    starving: float = STARVING,
    columns: int = 3,
    title: str | None = None,
) -> Figure:
    """Every expert's share of the assignments over training, a panel for each arm.

    Args:
        arms: by name, {"steps": (S,), "load": (S, E)}, each row of shares summing to 1.
        starving: the share beneath which an expert's end is drawn as starving, and named.
        columns: panels side by side, at most.
        title: over the figure.

    Returns:
        The figure, known to pyplot.

    Raises:
        ValueError: no arms, loads that are no shares, or steps that do not fit them.
    """
    _check_starving(starving)
    if not arms:
        raise ValueError("there is nothing to draw: no arms")
    if columns < 1:
        raise ValueError(f"columns must be at least 1, not {columns}")
    data = {}
    for name, arm in arms.items():
        steps, loads = to_array(arm["steps"], "steps"), to_array(arm["load"], f"loads of {name!r}")
        if loads.ndim != 2 or steps.shape != loads.shape[:1]:
            raise ValueError(
                f"the loads of {name!r} must have shape (S, E) with S = {len(steps)} steps, not "
                f"{loads.shape}"
            )
        check_shares(loads, name)
        data[name] = (steps, loads)
    columns = min(columns, len(data))
    rows = -(-len(data) // columns)
    with style.applied():
        drawn, axes = style.figure(
            max(5.6, 3.4 * columns + 0.5), 2.6 * rows + 0.7, rows, columns, sharey=True, sharex=True
        )
        for place, ax in enumerate(axes.flat):
            if place >= len(data):
                ax.set_visible(False)
                continue
            name, (steps, loads) = list(data.items())[place]
            _panel(ax, steps, loads, starving)
            ax.set_title(style.drawable_label(name), pad=18)
            ax.text(
                0, 1.02, verdict(loads[-1:], starving), transform=ax.transAxes, va="bottom",
                fontsize=style.SMALL_SIZE - 1, color=style.MUTED,
            )  # fmt: skip
            if place + columns >= len(data):
                ax.set_xlabel("optimiser step")
                ax.tick_params(labelbottom=True)
            if place % columns == 0:
                ax.set_ylabel("share of the assignments (%)")
        _legend(drawn, starving, 6 if columns > 2 else 3)
        if title:
            drawn.suptitle(title, x=0.01, ha="left", fontsize=style.TEXT_SIZE + 2)
    return drawn


def _bands(ax: Axes, e: int, starving: float) -> None:
    ax.axhspan(100 / e / FACTOR, 100 / e * FACTOR, color=style.GREEN, alpha=0.15, linewidth=0)
    ax.axhline(100 / e, color=style.INK, linewidth=1.0, linestyle=(0, (6, 3)), zorder=1.5)
    if starving:
        ax.axhline(100 * starving, color=style.VERMILLION, linewidth=1.0, linestyle=(0, (1, 1.5)))


def _panel(ax: Axes, steps: np.ndarray, loads: np.ndarray, starving: float) -> None:
    e = loads.shape[1]
    _bands(ax, e, starving)
    names: dict[str, list[str]] = {"starving": [], "over": []}
    for expert in range(e):
        end = loads[-1, expert]
        hungry, over = end < starving, end * e > FACTOR
        color = style.VERMILLION if hungry else "#000000" if over else style.BLUE
        ax.plot(
            steps, 100 * loads[:, expert], color=color, zorder=3 if hungry or over else 2,
            linestyle=(0, (3, 1)) if hungry else "-", linewidth=1.8 if hungry or over else 1.0,
            alpha=1.0 if hungry or over else 0.75,
        )  # fmt: skip
        if hungry or over:
            names["starving" if hungry else "over"].append(str(expert))
    for kind, words, at, up in (
        ("starving", "starving", 100 * loads[-1].min(), "bottom"),
        ("over", "overfull", 100 * loads[-1].max(), "bottom"),
    ):
        if names[kind]:
            shown = ", ".join(names[kind][:8]) + (", …" if len(names[kind]) > 8 else "")
            ax.annotate(
                f"{words}: {shown}", (steps[-1], at), (-2, 5), textcoords="offset points",
                ha="right", va=up, fontsize=style.SMALL_SIZE - 1, zorder=5,
                color=style.VERMILLION if kind == "starving" else "#000000",
                bbox={"facecolor": style.PAPER, "edgecolor": "none", "alpha": 0.8, "pad": 0.6},
            )  # fmt: skip
    ax.set_ylim(bottom=0)
    ax.margins(x=0.02)
    style.grid(ax)


def _legend(drawn: Figure, starving: float, ncols: int) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = [
        Line2D([], [], color=style.BLUE, linestyle="-", linewidth=1.2, label="an expert"),
        Line2D([], [], color="#000000", linestyle="-", linewidth=1.8, label="overfull expert"),
        Line2D([], [], color=style.VERMILLION, linestyle=(0, (3, 1)), label="starving expert"),
        Line2D([], [], color=style.INK, linewidth=1.0, linestyle=(0, (6, 3)), label="uniform"),
        Patch(facecolor=style.GREEN, alpha=0.15, label=f"within a factor of {FACTOR:g}"),
        Line2D(
            [], [], color=style.VERMILLION, linewidth=1.0, linestyle=(0, (1, 1.5)),
            label=f"{starving:.0%}",
        ),
    ]  # fmt: skip
    drawn.legend(handles=handles, loc="outside lower center", ncols=ncols)


def plot_final_load(
    arms: Mapping[str, Any], *, starving: float = STARVING, title: str | None = None
) -> Figure:
    """Where every expert of every seed and layer ends, arm by arm.

    Args:
        arms: by name, (runs, E) or (seeds, layers, E) shares at the end of training.
        starving: the share beneath which an expert starves.
        title: over the figure.

    Returns:
        The figure, known to pyplot.

    Raises:
        ValueError: no arms, arms of different numbers of experts, or loads that are no shares.
    """
    _check_starving(starving)
    if not arms:
        raise ValueError("there is nothing to draw: no arms")
    data = {}
    for name, loads in arms.items():
        array = to_array(loads, f"loads of {name!r}")
        check_shares(array, name)
        data[name] = array.reshape(-1, array.shape[-1])  # (R, E)
    if len({rows.shape[1] for rows in data.values()}) > 1:
        sizes = {name: rows.shape[1] for name, rows in data.items()}
        raise ValueError(f"the arms have different numbers of experts: {sizes}")
    e = next(iter(data.values())).shape[1]
    with style.applied():
        drawn, axes = style.figure(9.2, 0.5 * len(data) + 1.5)
        ax = axes[0, 0]
        ax.axvspan(100 / e / FACTOR, 100 / e * FACTOR, color=style.GREEN, alpha=0.15, linewidth=0)
        ax.axvline(100 / e, color=style.INK, linewidth=1.0, linestyle=(0, (6, 3)))
        ax.axvline(100 * starving, color=style.VERMILLION, linewidth=1.0, linestyle=(0, (1, 1.5)))
        for place, rows in enumerate(data.values()):
            values = rows.ravel()
            # Rows lie one above the other by a hair, so that equal dots are seen to be several.
            lift = np.repeat(np.linspace(-0.24, 0.24, len(rows)) if len(rows) > 1 else [0.0], e)
            for own, color, marker in (
                (values >= starving, style.BLUE, "o"),
                (values < starving, style.VERMILLION, "v"),
            ):
                ax.plot(
                    100 * values[own], place + lift[own], linestyle="", marker=marker, color=color,
                    markersize=4.5, alpha=0.75, markeredgewidth=0,
                )  # fmt: skip
            ax.annotate(
                verdict(rows, starving), (1.0, place), (6, 0), va="center",
                xycoords=ax.get_yaxis_transform(), textcoords="offset points",
                fontsize=style.SMALL_SIZE, annotation_clip=False,
            )  # fmt: skip
        ax.set_yticks(range(len(data)), [style.drawable_label(name) for name in data])
        ax.set_ylim(len(data) - 0.5, -0.6)
        ax.set_xlim(left=-0.5)
        ax.tick_params(axis="y", length=0)
        ax.set_xlabel(
            "share of the assignments at the end (%), a mark for each expert of each layer and "
            f"seed;\ndashed: uniform, shaded: within a factor of {FACTOR:g}, dotted: {starving:.0%}"
        )
        style.grid(ax, "x")
        if title:
            drawn.suptitle(title, x=0.01, ha="left", fontsize=style.TEXT_SIZE + 2)
    return drawn
