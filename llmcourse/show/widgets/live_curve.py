"""A loss curve that draws itself while the loop runs.

Taught in: Part 2. It is handed records and knows nothing of the loop:

    live = LiveCurve(total_steps=500, floor=0.55)
    display(live)
    for record in training_steps(model, batches, config):
        live.update(record)

Outside a notebook the same lines run and show nothing.
"""

from __future__ import annotations

import math
import time
from html import escape
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import ipywidgets
import numpy as np

from llmcourse.show import style
from llmcourse.show.curves import default_span, plot_history, smooth
from llmcourse.show.widgets import html

if TYPE_CHECKING:
    from matplotlib.figure import Figure

REDRAW_EVERY = 0.3  # seconds between two redraws: calm to look at, and cheap
POINTS = 240  # buckets along the curve: more than a screen can show is wasted
WIDTH, HEIGHT = 860, 300  # pixels
LEFT, RIGHT, TOP, BOTTOM = 48, 12, 12, 34  # pixels around the plot


def buckets(steps: np.ndarray, values: np.ndarray, count: int) -> tuple[np.ndarray, ...]:
    """At most `count` buckets of neighbouring points: mean step, mean, lowest and highest value."""
    parts = np.array_split(np.arange(len(values)), min(count, len(values)))
    return tuple(
        np.array([reduce(source[part]) for part in parts])
        for source, reduce in (
            (steps, np.mean), (values, np.mean), (values, np.min), (values, np.max),
        )
    )  # fmt: skip


def curve_svg(
    steps: list[int],
    losses: list[float],
    validation: list[tuple[int, float]],
    total_steps: int,
    floor: float | None,
    unit: str,
) -> str:
    """The curve as SVG: the raw loss as a faint ribbon, smoothed loss, validation, floor."""
    from matplotlib.ticker import MaxNLocator

    finite = [(s, v) for s, v in zip(steps, losses, strict=True) if math.isfinite(v)]
    step = np.array([s for s, _ in finite], dtype=np.float64)
    loss = np.array([v for _, v in finite], dtype=np.float64)
    seen = [*loss.tolist(), *(v for _, v in validation)] + ([] if floor is None else [floor])
    low, high = (min(seen), max(seen)) if seen else (0.0, 1.0)
    low, high = (low - 0.06 * (high - low), high + 0.04 * (high - low) + 1e-6)
    last = max([total_steps, *steps])

    def x(value: float) -> float:
        return LEFT + value / last * (WIDTH - LEFT - RIGHT)

    def y(value: float) -> float:
        return TOP + (high - value) / (high - low) * (HEIGHT - TOP - BOTTOM)

    def line(xs: Any, ys: Any) -> str:
        return " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in zip(xs, ys, strict=True))

    parts = []
    decimals = 1 if high - low > 1 else 2
    for tick in MaxNLocator(6, steps=[1, 2, 5, 10]).tick_values(low, high):
        if low <= tick <= high:
            parts.append(
                f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(tick):.1f}" y2="{y(tick):.1f}" '
                f'stroke="currentColor" opacity=".13"/><text x="{LEFT - 6}" y="{y(tick) + 4:.1f}" '
                f'text-anchor="end" opacity=".65">{tick:.{decimals}f}</text>'
            )
    for tick in MaxNLocator(6, integer=True).tick_values(0, last):
        if 0 <= tick <= last:
            anchor = "end" if tick > 0.97 * last else "middle"
            parts.append(
                f'<text x="{x(tick):.1f}" y="{HEIGHT - BOTTOM + 15}" text-anchor="{anchor}" '
                f'opacity=".65">{tick:.0f}</text>'
            )
    parts.append(
        f'<text x="{LEFT}" y="{HEIGHT - 4}" opacity=".65">optimiser step &#8594;'
        f"&#160;&#160; loss in {escape(unit)}</text>"
    )
    if floor is not None:
        parts.append(
            f'<line class="floor" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(floor):.1f}" '
            f'y2="{y(floor):.1f}" stroke="{style.FLOOR}" stroke-width="1.6" '
            f'stroke-dasharray="8 4" data-floor="{floor!r}"/><text x="{WIDTH - RIGHT}" '
            f'y="{y(floor) + 13:.1f}" text-anchor="end" fill="{style.FLOOR}">entropy floor '
            f"{floor:.2f}</text>"
        )
    if len(loss):
        smoothed = smooth(loss, default_span(len(loss)))
        at, _, lowest, highest = buckets(step, loss, POINTS)
        where, middle, _, _ = buckets(step, smoothed, POINTS)
        ribbon = f"{line(at, highest)} {line(at[::-1], lowest[::-1])}"
        parts.append(
            f'<polygon points="{ribbon}" fill="{style.SKY}" '
            f'stroke="{style.SKY}" stroke-width="1" opacity=".45"/>'
        )
        parts.append(
            f'<polyline points="{line(where, middle)}" fill="none" stroke="{style.BLUE}" '
            f'stroke-width="2.2" stroke-linejoin="round"/>'
            f'<circle cx="{x(where[-1]):.1f}" cy="{y(middle[-1]):.1f}" r="3.5" '
            f'fill="{style.BLUE}"/>'
        )
    for at_step, value in validation:
        parts.append(
            f'<circle cx="{x(at_step):.1f}" cy="{y(value):.1f}" r="5" '
            f'fill="var(--jp-layout-color0,#fff)" stroke="{style.VERMILLION}" stroke-width="2"/>'
        )
    return (
        f'<svg role="img" aria-label="training loss" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'style="width:100%;max-width:{WIDTH}px;font-size:11px" fill="currentColor">'
        f"{''.join(parts)}</svg>"
    )


class LiveCurve(ipywidgets.VBox):
    """A training curve fed record by record.

    Args:
        total_steps: optimiser steps of the whole run, at least 1: the width of the picture.
        floor: the lowest loss any model can reach, in `unit`; None draws none.
        unit: of the losses.

    Attributes:
        steps, losses, validation, records: what has been handed over, as in a history.
        view: the HTML that shows it.
        redraws: how often it has been drawn.
    """

    def __init__(
        self, total_steps: int, floor: float | None = None, unit: str = "nats per byte"
    ) -> None:
        if total_steps < 1:
            raise ValueError(f"total_steps must be at least 1 optimiser step, not {total_steps}")
        if floor is not None and not (math.isfinite(floor) and floor >= 0):
            raise ValueError(f"the entropy floor is a finite number of at least 0, not {floor}")
        self.total_steps, self.floor, self.unit = total_steps, floor, unit
        self.steps: list[int] = []
        self.losses: list[float] = []
        self.validation: list[tuple[int, float]] = []
        self.records: list[Any] = []
        self.redraws = 0
        self._drawn_at = -math.inf
        self.view = ipywidgets.HTML()
        super().__init__([self.view])
        self.draw()

    def __repr__(self) -> str:
        # Compared by strict notebook tests, so it says what stays the same on every machine.
        return f"LiveCurve({self.total_steps} steps)"

    def update(self, record: Any) -> None:
        """Take one record (`step`, `loss`, `validation_loss`); redraw if the last is a while ago.

        The last step is always drawn, so that the picture ends complete.
        """
        self.records.append(record)
        self.steps.append(int(record.step))
        self.losses.append(float(record.loss))
        value = getattr(record, "validation_loss", None)
        if value is not None:
            self.validation.append((int(record.step), float(value)))
        finished = len(self.losses) >= self.total_steps
        if finished or time.monotonic() - self._drawn_at >= REDRAW_EVERY:
            self.draw()

    def draw(self) -> None:
        """Redraw now; a loop that ends early calls this once at its end."""
        svg = curve_svg(
            self.steps, self.losses, self.validation, self.total_steps, self.floor, self.unit
        )
        self.view.value = html.page(self._status(), svg)
        self.redraws += 1
        self._drawn_at = time.monotonic()

    def _status(self) -> str:
        """Numbers over the picture, in columns that do not jump about."""
        fields = [("step", f"{len(self.losses)} / {self.total_steps}")]
        if self.losses:
            now = smooth(self.losses, default_span(len(self.losses)))[-1]
            fields.append(("training loss", f"{now:.3f}"))
            if self.validation:
                now = self.validation[-1][1]
                fields.append(("validation loss", f"{now:.3f}"))
            if self.floor is not None:
                gap = now - self.floor
                share = f" ({gap / self.floor:+.0%})" if self.floor else ""
                fields.append(("above the floor", f"{gap:+.3f}{share}"))
        cells = "".join(
            f'<span style="min-width:96px;white-space:nowrap">'
            f'<span style="{html.MUTED};font-size:11px;display:block">{escape(name)}</span>'
            f'<b style="font-variant-numeric:tabular-nums">'
            f"{escape(value)}</b></span>"
            for name, value in fields
        )
        legend = (
            f'<span style="{html.MUTED};font-size:11px;margin-left:auto;align-self:end;'
            f'white-space:nowrap">'
            f'<span style="color:{style.BLUE}">&#9644;</span> training (smoothed; ribbon: raw) '
            f'&nbsp; <span style="color:{style.VERMILLION}">&#9675;</span> validation</span>'
        )
        done = min(1.0, len(self.losses) / self.total_steps)
        return (
            f'<div style="display:flex;gap:18px;max-width:{WIDTH}px;margin-bottom:4px">{cells}'
            f"{legend}</div>"
            f'<div role="progressbar" aria-label="training" aria-valuemin="0" '
            f'aria-valuemax="{self.total_steps}" aria-valuenow="{len(self.losses)}" '
            f'style="height:3px;max-width:{WIDTH}px;background:rgba(128,128,128,.18);'
            f'margin-bottom:8px"><div style="height:3px;width:{100 * done:.1f}%;'
            f'background:{style.BLUE}"></div></div>'
        )

    def static(self) -> Figure:
        """The curve so far as a matplotlib figure."""
        history = SimpleNamespace(
            steps=self.steps, losses=self.losses, validation=self.validation, records=self.records
        )
        return plot_history(history, floor=self.floor, unit=self.unit)
