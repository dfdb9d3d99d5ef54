"""A small SVG chart for the widgets: axes with ticks, lines, marks and text in data units.

Taught in: nowhere. Ink is the page's own (`currentColor`), so that dark themes read as well.
"""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import Any

from llmcourse.show import style

LEFT, RIGHT, TOP, BOTTOM = 56, 10, 10, 36  # pixels around the plot


class Chart:
    """Axes from (x0, y0) to (x1, y1) in a picture of `width` × `height` pixels.

    Args:
        width, height: pixels.
        x, y: (lowest, highest) in data units; two equal numbers are spread a little.
        x_label, y_label: with their units.
        x_ticks: places of the ticks; None chooses round numbers.
    """

    def __init__(
        self,
        width: int,
        height: int,
        x: tuple[float, float],
        y: tuple[float, float],
        *,
        x_label: str,
        y_label: str,
        x_ticks: Iterable[float] | None = None,
    ) -> None:
        self.width, self.height = width, height
        self._x, self._y = (
            (low, high) if high > low else (low - 0.5, low + 0.5) for low, high in (x, y)
        )
        self.parts: list[str] = []
        self._axes(x_label, y_label, x_ticks)

    def x(self, value: float) -> float:
        """Pixels from the left."""
        low, high = self._x
        return LEFT + (value - low) / (high - low) * (self.width - LEFT - RIGHT)

    def y(self, value: float) -> float:
        """Pixels from the top."""
        low, high = self._y
        return TOP + (high - value) / (high - low) * (self.height - TOP - BOTTOM)

    def _axes(self, x_label: str, y_label: str, x_ticks: Iterable[float] | None) -> None:
        from matplotlib.ticker import MaxNLocator

        (left, right), (low, high) = self._x, self._y
        for tick in MaxNLocator(5, steps=[1, 2, 5, 10]).tick_values(low, high):
            if low <= tick <= high:
                at = self.y(tick)
                self.parts.append(
                    f'<line x1="{LEFT}" x2="{self.width - RIGHT}" y1="{at:.1f}" y2="{at:.1f}" '
                    f'stroke="currentColor" opacity=".13"/><text x="{LEFT - 6}" y="{at + 4:.1f}" '
                    f'text-anchor="end" opacity=".7">{_number(tick)}</text>'
                )
        if x_ticks is None:
            x_ticks = MaxNLocator(7, steps=[1, 2, 5, 10]).tick_values(left, right)
        for tick in x_ticks:
            if left <= tick <= right:
                self.parts.append(
                    f'<text x="{self.x(tick):.1f}" y="{self.height - BOTTOM + 14}" '
                    f'text-anchor="middle" opacity=".7">{_number(tick)}</text>'
                )
        middle = TOP + (self.height - TOP - BOTTOM) / 2
        self.parts.append(
            f'<text x="{(LEFT + self.width - RIGHT) / 2:.0f}" y="{self.height - 5}" '
            f'text-anchor="middle">{escape(x_label)}</text>'
            f'<text transform="translate(11 {middle:.0f}) rotate(-90)" text-anchor="middle">'
            f"{escape(y_label)}</text>"
        )

    def line(
        self,
        xs: Any,
        ys: Any,
        color: str,
        *,
        dash: str = "",
        width: float = 2.0,
        opacity: float = 1,
    ) -> None:
        """A line through the points; `dash` as SVG's stroke-dasharray."""
        points = " ".join(f"{self.x(a):.1f},{self.y(b):.1f}" for a, b in zip(xs, ys, strict=True))
        dashes = f' stroke-dasharray="{dash}"' if dash else ""
        self.parts.append(
            f'<polyline points="{points}" fill="none" stroke="{color}" stroke-width="{width}" '
            f'stroke-linejoin="round" opacity="{opacity}"{dashes}/>'
        )

    def dot(
        self, x: float, y: float, color: str, *, radius: float = 4.5, hollow: bool = False
    ) -> None:
        """A mark; hollow ones show the page through."""
        fill = "var(--jp-layout-color0,#fff)" if hollow else color
        self.parts.append(
            f'<circle cx="{self.x(x):.1f}" cy="{self.y(y):.1f}" r="{radius}" fill="{fill}" '
            f'stroke="{color}" stroke-width="1.8"/>'
        )

    def band(self, left: float, right: float, fill: str, opacity: float = 1.0) -> None:
        """A stripe over the whole height."""
        self.parts.append(
            f'<rect x="{self.x(left):.1f}" y="{TOP}" width="{self.x(right) - self.x(left):.1f}" '
            f'height="{self.height - TOP - BOTTOM}" fill="{fill}" opacity="{opacity}"/>'
        )

    def svg(self, name: str, defs: str = "") -> str:
        """The picture; `name` is what a screen reader says of it."""
        return (
            f'<svg role="img" aria-label="{escape(name)}" viewBox="0 0 {self.width} {self.height}" '
            f'style="width:100%;max-width:{self.width}px;font-size:11px" fill="currentColor">'
            f"<defs>{defs}</defs>{''.join(self.parts)}</svg>"
        )


def key(color: str, words: str, *, dash: str = "", mark: str = "") -> str:
    """One entry of a legend as HTML: a short line, or a mark, and its words."""
    drawing = f'<circle cx="11" cy="6" r="4.5" fill="{color}"/>' if mark == "dot" else ""
    if mark == "ring":
        drawing = f'<circle cx="11" cy="6" r="4" fill="none" stroke="{color}" stroke-width="2"/>'
    dashes = f' stroke-dasharray="{dash}"' if dash else ""
    if not mark:
        drawing = f'<path d="M0 6H22" stroke="{color}" stroke-width="2.2"{dashes}/>'
    return (
        f'<span style="white-space:nowrap;margin-right:16px"><svg width="22" height="12" '
        f'aria-hidden="true" style="vertical-align:-1px">{drawing}</svg> {escape(words)}</span>'
    )


def box_key(fill: str, words: str, *, edge: str = style.MUTED) -> str:
    """One entry of a legend as HTML: a filled box and its words; `fill` is CSS."""
    return (
        f'<span style="white-space:nowrap;margin-right:16px"><span style="display:inline-block;'
        f"width:20px;height:11px;vertical-align:-1px;border:1px solid {edge};background:{fill}"
        f'"></span> {escape(words)}</span>'
    )


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value + 0.0:.6g}"
