"""Loss curves with the entropy floor drawn in.

Taught in: Part 2. A curve means little alone: the floor says how low any model could go, a band
says where such a run usually is, and the raw loss behind the smooth one says how noisy it is.

A history is anything with `.steps`, `.losses` and, if there are any, `.validation` as (step, loss)
pairs; `.records` with `learning_rate` and `gradient_norm` feed the optional panels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from llmcourse.show import style
from llmcourse.show.arrays import to_array

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANELS = {
    "learning_rate": "learning rate",
    "gradient_norm": "gradient norm",
}


def smooth(values: Any, span: float) -> np.ndarray:
    """Centred moving average: it does not lag behind a falling curve, as a running one would.

    Two passes of half the width, so that one outlier leaves a small hill and not a plateau. The
    window narrows towards the start, where the loss falls steeply and one side would pull the
    average down; at the end, where the curve is flat, it keeps its left half.
    Not-a-number and infinite entries are passed over.

    Args:
        values: (N,).
        span: width of the window in entries, at least 1 (1 changes nothing).
    """
    if span < 1:
        raise ValueError(f"span must be at least 1 entry, not {span}")
    array = np.asarray(values, dtype=np.float64)
    half = int(span) // 4 if span >= 4 else int(span) // 2
    passes = 2 if span >= 4 else 1
    for _ in range(passes):
        array = _centred_mean(array, half)
    return array


def _centred_mean(array: np.ndarray, half: int) -> np.ndarray:
    """Mean of the finite entries at most `half` places away (at most i, for entry i)."""
    finite = np.isfinite(array)
    sums = np.concatenate([[0.0], np.cumsum(np.where(finite, array, 0.0))])  # (N + 1,)
    counts = np.concatenate([[0], np.cumsum(finite)])  # (N + 1,)
    place = np.arange(len(array))
    reach = np.minimum(half, place)
    first, end = place - reach, np.minimum(place + reach + 1, len(array))
    number = counts[end] - counts[first]
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(number > 0, (sums[end] - sums[first]) / number, np.nan)


def default_span(count: int) -> float:
    """A twentieth of the run: wide enough to calm the line, narrow enough to keep its bends."""
    return max(1.0, count / 20)


def gap_text(loss: float, floor: float, unit: str = "nats per byte") -> str:
    """How far `loss` lies above `floor`, in `unit` and as a share of the floor."""
    gap = loss - floor
    share = f" ({abs(gap) / floor:.0%})" if floor > 0 else ""
    return f"{abs(gap):.2f} {unit}{share} {'above' if gap >= 0 else 'below'} the floor"


def _named_histories(histories: Any) -> list[tuple[str | None, Any]]:
    if hasattr(histories, "losses"):
        return [(None, histories)]
    pairs = []
    for entry in histories:
        if not (isinstance(entry, tuple) and len(entry) == 2 and isinstance(entry[0], str)):
            raise ValueError(
                "give one history (with .steps and .losses) or a list of (label, history), not "
                f"{type(entry).__name__} inside {type(histories).__name__}"
            )
        pairs.append(entry)
    if not pairs:
        raise ValueError("there is no history to plot: the list is empty")
    return pairs


def _steps_and_losses(label: str | None, history: Any) -> tuple[np.ndarray, np.ndarray]:
    steps = np.asarray(list(history.steps), dtype=np.float64)
    losses = np.asarray(list(history.losses), dtype=np.float64)
    where = f" of {label!r}" if label else ""
    if not len(losses):
        raise ValueError(f"the history{where} is empty: train for at least one step first")
    if len(steps) != len(losses):
        raise ValueError(f"the history{where} has {len(steps)} steps but {len(losses)} losses")
    return steps, losses


def _draw_bands(ax: Axes, bands: Sequence[Sequence[Any]]) -> None:
    """Expected losses: (step, low, high) points make a ribbon, (name, low, high) a stripe each."""
    for band in bands:
        if len(band) != 3 or not band[1] <= band[2]:
            raise ValueError(
                f"a band is (step, low, high) or (name, low, high), low <= high; not {band!r}"
            )
    points = sorted((b for b in bands if not isinstance(b[0], str)), key=lambda b: b[0])
    if points:
        table = to_array(points, "bands")
        ax.fill_between(
            table[:, 0], table[:, 1], table[:, 2],
            color=style.GREEN, alpha=0.16, linewidth=0, label="usual range",
        )  # fmt: skip
    for name, low, high in (b for b in bands if isinstance(b[0], str)):
        ax.axhspan(low, high, color=style.GREEN, alpha=0.13, linewidth=0)
        ax.text(
            0.995, (low + high) / 2, name, transform=ax.get_yaxis_transform(),
            ha="right", va="center", color=style.MUTED, fontsize=style.SMALL_SIZE,
        )  # fmt: skip


def draw_history(
    ax: Axes,
    histories: Any,
    *,
    floor: float | None = None,
    bands: Sequence[Sequence[Any]] | None = None,
    unit: str = "nats per byte",
    log_x: bool = False,
    span: float | None = None,
) -> None:
    """Draw on given axes what `plot_history` draws; arguments as there."""
    pairs = _named_histories(histories)
    if bands:
        _draw_bands(ax, bands)
    best, best_name = (0.0, math.inf), ""
    for number, (label, history) in enumerate(pairs):
        steps, losses = _steps_and_losses(label, history)
        look = style.series(number)
        name = f"{label}, training" if label else "training"
        if len(losses) > 1:
            ax.plot(
                steps,
                losses,
                color=look.color,
                alpha=0.22,
                linewidth=0.8,
                linestyle="-",
                zorder=1.5,
            )
        smoothed = smooth(losses, default_span(len(losses)) if span is None else span)
        ax.plot(
            steps, smoothed, color=look.color, linestyle=look.linestyle,
            marker=look.marker if len(losses) == 1 else "", label=name,
        )  # fmt: skip
        end = (float(steps[-1]), float(smoothed[-1]))
        validation = list(getattr(history, "validation", ()) or ())
        if validation:
            points = to_array(validation, "validation losses")  # (number of evaluations, 2)
            ax.plot(
                points[:, 0], points[:, 1], color=look.color, linestyle="", marker=look.marker,
                markersize=6, markerfacecolor=style.PAPER, markeredgewidth=1.5, zorder=3,
                label=f"{label}, validation" if label else "validation",
            )  # fmt: skip
            end = (float(points[-1, 0]), float(points[-1, 1]))
        if end[1] < best[1]:
            best, best_name = end, label or ("validation" if validation else "training")
    if floor is not None:
        if not (math.isfinite(floor) and floor >= 0):
            raise ValueError(f"the entropy floor is a finite number of at least 0, not {floor}")
        ax.axhline(
            floor, color=style.FLOOR, linewidth=1.4, linestyle=(0, (6, 3)), zorder=2,
            label=f"entropy floor {floor:.2f}",
        )  # fmt: skip
        if math.isfinite(best[1]):
            ax.annotate(
                "", xy=(best[0], floor), xytext=best, zorder=2.5,
                arrowprops={"arrowstyle": "<->", "color": style.INK, "linewidth": 0.9,
                            "shrinkA": 4, "shrinkB": 0},
            )  # fmt: skip
            # Beneath the floor there is nothing else: make room for the words there.
            low, high = ax.get_ylim()
            ax.set_ylim(bottom=min(low, floor - 0.11 * (high - floor)))
            ax.annotate(
                f"{best_name} ends {gap_text(best[1], floor, unit)}",
                xy=(0.012, floor),
                xycoords=ax.get_yaxis_transform(),
                xytext=(0, -4),
                textcoords="offset points",
                ha="left",
                va="top",
                color=style.INK,
                fontsize=style.SMALL_SIZE,
                zorder=4,
            )
    style.grid(ax)
    if log_x:
        ax.set_xscale("symlog" if min(min(h.steps) for _, h in pairs) <= 0 else "log")
    else:
        ax.margins(x=0.02)
    ax.set_ylabel(f"loss ({unit})")
    if len(pairs) > 1:  # a long legend would lie on the curves: put it beside them
        ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0))
    else:
        ax.legend(loc="upper right")


def plot_history(
    history: Any,
    floor: float | None = None,
    bands: Sequence[Sequence[Any]] | None = None,
    unit: str = "nats per byte",
    *,
    log_x: bool = False,
    panels: Sequence[str] = (),
    span: float | None = None,
    title: str | None = None,
) -> Figure:
    """Training loss (raw, faint; smoothed, strong), validation points and the floor.

    Args:
        history: one history, or a list of (label, history).
        floor: the lowest loss any model can reach, in `unit`; the gap of the best run's last
            validation (else smoothed training) loss to it is written into the picture.
        bands: where such runs usually are: (step, low, high) points for a ribbon, and
            (name, low, high) for stripes.
        unit: of the losses.
        log_x: steps on a logarithmic axis, which opens up the first moments.
        panels: beneath the loss, any of "learning_rate" and "gradient_norm".
        span: of the smoothing, in records; None takes a twentieth of the run.
        title: over the picture.

    Returns:
        The figure, known to pyplot: `plt.show()` shows it.

    Raises:
        ValueError: for an empty history, an impossible floor or band, or an unknown panel.
    """
    for panel in panels:
        if panel not in PANELS:
            raise ValueError(f"unknown panel {panel!r}; there are {', '.join(sorted(PANELS))}")
    rows = 1 + len(panels)
    with style.applied():
        drawn, axes = style.figure(
            7.4 if hasattr(history, "losses") else 9.4, 3.6 + 1.3 * len(panels), rows, 1,
            sharex=True, height_ratios=[3.0] + [1.1] * len(panels),
        )  # fmt: skip
        try:
            draw_history(
                axes[0, 0], history, floor=floor, bands=bands, unit=unit, log_x=log_x, span=span
            )
            for row, panel in enumerate(panels, start=1):
                ax = axes[row, 0]
                for number, (_, one) in enumerate(_named_histories(history)):
                    look = style.series(number)
                    values = [getattr(record, panel) for record in one.records]
                    ax.plot(
                        list(one.steps), values,
                        color=look.color, linestyle=look.linestyle, linewidth=1.3,
                    )  # fmt: skip
                style.grid(ax)
                ax.set_ylabel(PANELS[panel], fontsize=style.SMALL_SIZE)
                ax.set_ylim(bottom=0)
        except Exception:
            style.discard(drawn)  # a refused argument leaves no empty figure behind
            raise
        axes[-1, 0].set_xlabel("optimiser step" + (" (logarithmic)" if log_x else ""))
        if title:
            axes[0, 0].set_title(title)
    return drawn
