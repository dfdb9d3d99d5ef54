"""The rotary explorer: pairs of channels as clock hands, and the score that only distance moves.

Taught in: Part 3. The hands are a query and a key turned by `llmcourse.model.rotary` itself. Moving
the key's position carries both along and leaves every angle between them, and so the score, as it
was; moving the distance does not. (Su et al. 2021, arXiv 2104.09864, equation 16.)

Shapes: D head width.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import ipywidgets
import numpy as np

from llmcourse.show import style
from llmcourse.show.rotary import (
    FACE,
    draw_clock,
    rates_of,
    relative_scores,
    spread_pairs,
    tokens_text,
    turned,
)
from llmcourse.show.widgets import chart, html, layout

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from llmcourse.model.rotary import Rope

BASES = (100, 1_000, 10_000, 100_000, 500_000, 1_000_000)
WIDTHS = (4, 8, 16, 32, 64, 128)  # channels of a head
FACTORS = (1, 2, 4, 8, 16, 32)  # times the original context
SCALINGS = (
    ("none", "none"), ("linear", "linear"), ("NTK-aware", "ntk"), ("YaRN", "yarn"),
    ("Llama 3", "llama3"),
)  # fmt: skip
FARTHEST = 256  # tokens: the largest distance
CLOCKS = 8  # drawn at once
LATER = 5_000  # tokens: how much further the last of the three places of comparison is


class RotaryExplorer(ipywidgets.VBox):
    """The widget; made by `rotary_explorer`, which documents the arguments.

    Attributes:
        position, distance, pair, base, width, scaling, factor: the controls, ordinary ipywidgets.
        view: the HTML that shows clocks and score.
        scores: three scores, of a key at 0, at `position`, and far behind it, all with the same
            distance to their query.
    """

    def __init__(self, d_head: int, base: int, original_context: int) -> None:
        for name, value, known in (("d_head", d_head, WIDTHS), ("base", base, BASES)):
            if value not in known:
                raise ValueError(f"{name}={value!r} is not on the slider; choose one of {known}")
        self._context = original_context
        self.position = ipywidgets.IntSlider(
            value=20, min=0, max=2000, description="key position", **layout.control(110)
        )
        self.distance = ipywidgets.IntSlider(
            value=8, min=0, max=FARTHEST, description="distance", **layout.control(110)
        )
        self.pair = ipywidgets.IntSlider(
            value=0, min=0, max=d_head // 2 - 1, description="pair", **layout.control(110)
        )
        self.width = ipywidgets.SelectionSlider(
            options=[(str(n), n) for n in WIDTHS], value=d_head, description="head width",
            **layout.control(110),
        )  # fmt: skip
        self.base = ipywidgets.SelectionSlider(
            options=[(f"{n:,}", n) for n in BASES], value=base, description="base",
            **layout.control(110),
        )  # fmt: skip
        self.scaling = ipywidgets.Dropdown(
            options=SCALINGS, value="none", description="scaling", **layout.control(110)
        )
        self.factor = ipywidgets.SelectionSlider(
            options=[(f"{n} ×", n) for n in FACTORS], value=4, description="longer by",
            **layout.control(110),
        )  # fmt: skip
        self.view = ipywidgets.HTML()
        self.scores: tuple[float, ...] = ()
        _ = self.rope  # an impossible original_context is refused here
        super().__init__(
            layout.arranged(
                [self.position, self.distance, self.pair],
                [self.width, self.base, self.scaling, self.factor],
                view=self.view,
            )
        )
        self.width.observe(self._on_width, "value")
        for control in (
            self.position, self.distance, self.pair, self.base, self.scaling, self.factor,
        ):  # fmt: skip
            control.observe(self._on_choice, "value")
        self._draw()

    def __repr__(self) -> str:
        # Compared by strict notebook tests, so it says what stays the same on every machine.
        return f"RotaryExplorer(trained on {self._context} tokens)"

    @property
    def rope(self) -> Rope:
        """The `llmcourse.model.rotary.Rope` that the controls stand for."""
        return self._rope(self.scaling.value)

    def _rope(self, scaling: str) -> Rope:
        from llmcourse.model.rotary import Rope

        factor = 1.0 if scaling == "none" else float(self.factor.value)
        return Rope(
            base=float(self.base.value), scaling=scaling, factor=factor,
            original_context=self._context,
        )  # fmt: skip

    def _on_width(self, _change: Any) -> None:
        self.pair.unobserve(self._on_choice, "value")  # one redraw, not two
        self.pair.max = self.width.value // 2 - 1  # ipywidgets lowers the value if it is too high
        self.pair.observe(self._on_choice, "value")
        self._draw()

    def _on_choice(self, _change: Any) -> None:
        self._draw()

    def _shown_pairs(self) -> list[int]:
        """Pairs whose clocks are drawn: evenly spread, and the chosen one among them."""
        pairs = spread_pairs(self.width.value // 2, CLOCKS)
        chosen = self.pair.value
        if chosen not in pairs:
            pairs[int(np.argmin([abs(pair - chosen) for pair in pairs]))] = chosen
        return sorted(pairs)

    def _hands(self) -> tuple[np.ndarray, np.ndarray]:
        """Key and query as (R, 2) hands of their pairs, of length 1 before any scaling."""
        d = self.width.value
        key, query = turned(
            np.concatenate([np.ones(d // 2), np.zeros(d // 2)]),
            [self.position.value, self.position.value + self.distance.value],
            self.rope,
        )  # (D,) each
        return key.reshape(2, -1).T, query.reshape(2, -1).T  # (D,) -> (2, R) -> (R, 2)

    def _draw(self) -> None:
        rope, d, distance = self.rope, self.width.value, self.distance.value
        starts = (0, self.position.value, self.position.value + LATER)
        self.scores = tuple(
            float(relative_scores(rope, d, [distance], start=start)[0]) for start in starts
        )
        self.view.value = html.page(
            html.summary(self._sentence()),
            self._clocks(),
            self._curve(),
            self._comparison(starts),
        )

    def _sentence(self) -> str:
        rate = float(rates_of(self.rope, self.width.value)[self.pair.value])
        distance, angle = self.distance.value, rate * self.distance.value
        return (
            f"Pair {self.pair.value} of {self.width.value // 2} turns {rate:.3g} radians a "
            f"token, once around in <b>{tokens_text(2 * math.pi / rate)} tokens</b>. "
            f"Over a distance of {distance} tokens the hands are {angle:.3g} radians apart. "
            f"Score q&nbsp;·&nbsp;k&nbsp;=&nbsp;<b>{self.scores[1]:.4f}</b>."
        )

    def _clocks(self) -> str:
        key, query = self._hands()
        rates = rates_of(self.rope, self.width.value)
        faces = []
        for pair in self._shown_pairs():
            hands = "".join(
                f'<line x1="0" y1="0" x2="{x:.4f}" y2="{-y:.4f}" stroke="{color}" '
                f'stroke-width="{width}" stroke-linecap="round"{dash}/>'
                f'<circle cx="{x:.4f}" cy="{-y:.4f}" r=".09" fill="{color}"/>'
                for (x, y), color, width, dash in (
                    (query[pair], style.BLUE, 0.09, ""),
                    (key[pair], style.ORANGE, 0.07, ' stroke-dasharray=".16 .13"'),
                )
            )
            chosen = pair == self.pair.value
            frame = f"2px solid {style.QUERY}" if chosen else f"1px solid {html.BORDER}"
            weight = "bold" if chosen else "normal"
            angles = [math.atan2(hand[1], hand[0]) for hand in (key[pair], query[pair])]
            faces.append(
                f'<div style="text-align:center;border:{frame};border-radius:4px;padding:3px 2px;'
                f'flex:1 1 88px;max-width:104px;font-size:11px" data-pair="{pair}" '
                f'data-key="{angles[0]!r}" data-query="{angles[1]!r}">'
                f'<div style="font-weight:{weight}">pair {pair}</div>'
                f'<svg role="img" aria-label="pair {pair}: query at {angles[1]:.2f} radians, key '
                f'at {angles[0]:.2f}" viewBox="{-FACE} {-FACE} {2 * FACE} {2 * FACE}" '
                f'style="width:100%;max-width:92px"><circle r="1" fill="none" '
                f'stroke="currentColor" stroke-width=".03" opacity=".6"/>'
                f'<line x1=".9" x2="1.1" y1="0" y2="0" stroke="currentColor" stroke-width=".04"/>'
                f"{hands}</svg>"
                f'<div style="{html.MUTED}">turn: {tokens_text(2 * math.pi / rates[pair])}</div>'
                f"</div>"
            )
        at = self.position.value
        legend = chart.key(style.BLUE, f"query at position {at + self.distance.value}") + chart.key(
            style.ORANGE, f"key at position {at}", dash="5 4"
        )
        return (
            f'<div style="font-size:12px;margin-bottom:4px">{legend}'
            f'<span style="{html.MUTED}">the tick is position 0; turn: tokens for one turn</span>'
            f'</div><div style="display:flex;gap:6px;flex-wrap:wrap">{"".join(faces)}</div>'
        )

    def _curves(self) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Distances, scores at them, and the unscaled scores where a scaling is chosen."""
        distances, d = np.arange(FARTHEST + 1), self.width.value
        scores = relative_scores(self.rope, d, distances, start=self.position.value)
        if self.scaling.value == "none":
            return distances, scores, None
        plain = relative_scores(self._rope("none"), d, distances, start=self.position.value)
        return distances, scores, plain

    def _curve(self) -> str:
        distances, scores, plain = self._curves()
        low = min(float(scores.min()), 0.0 if plain is None else float(plain.min()), 0.0)
        high = max(float(scores.max()), 1.0)
        picture = chart.Chart(
            860, 210, (0, FARTHEST), (low - 0.05, high + 0.05),
            x_label="distance from key to query (tokens)", y_label="score q · k",
        )  # fmt: skip
        legend = chart.key(style.BLUE, "score, all pairs together")
        if plain is not None:
            picture.line(distances, plain, "currentColor", dash="4 3", width=1.3, opacity=0.6)
            legend += chart.key("currentColor", "without scaling", dash="4 3")
        picture.line(distances, scores, style.BLUE)
        picture.dot(self.distance.value, scores[self.distance.value], style.VERMILLION, radius=5.5)
        legend += chart.key(style.VERMILLION, "the chosen distance", mark="dot")
        return (
            f'<div style="font-size:12px;margin:10px 0 2px">{legend}</div>'
            f"{picture.svg('score against distance')}"
        )

    def _comparison(self, starts: tuple[int, ...]) -> str:
        """The relative property in three numbers, each computed at its own positions."""
        rows = "".join(
            f"<tr><td>{start:,}</td><td>{start + self.distance.value:,}</td>"
            f'<td data-score="{score!r}">{score:.8f}</td></tr>'
            for start, score in zip(starts, self.scores, strict=True)
        )
        return (
            '<table style="font-variant-numeric:tabular-nums;text-align:right;'
            'border-spacing:18px 0;margin-left:-18px"><thead><tr><th>key at</th><th>query at</th>'
            f"<th>score q · k</th></tr></thead><tbody>{rows}</tbody></table>"
        )

    def static(self) -> Figure:
        """The present view as a matplotlib figure: clocks above, score against distance below."""
        rope, pairs = self.rope, self._shown_pairs()
        key, query = self._hands()
        rates = rates_of(rope, self.width.value)
        distances, scores, plain = self._curves()
        with style.applied():
            drawn, axes = style.figure(9.6, 4.3, 2, len(pairs), height_ratios=[1, 1.7])
            for ax, pair in zip(axes[0], pairs, strict=True):
                draw_clock(ax, query[pair], angle=0.0)
                ax.plot(
                    [0, key[pair, 0]], [0, key[pair, 1]], color=style.ORANGE, linewidth=2.2,
                    linestyle=(0, (2, 1.4)), marker="s", markevery=[1], markersize=4.5,
                )  # fmt: skip
                ax.set_title(
                    f"pair {pair}\nturn: {tokens_text(2 * math.pi / rates[pair])}", loc="center",
                    fontsize=style.SMALL_SIZE, pad=1,
                    fontweight="bold" if pair == self.pair.value else "normal",
                )  # fmt: skip
            grid = axes[1, 0].get_gridspec()
            for ax in axes[1]:
                ax.remove()
            below = drawn.add_subplot(grid[1, :])
            below.tick_params(labelsize=style.SMALL_SIZE, colors=style.INK, length=3)
            if plain is not None:
                below.plot(
                    distances, plain, color="#000000", linestyle=(0, (1, 1)), linewidth=1.2,
                    label="without scaling",
                )  # fmt: skip
            below.plot(distances, scores, color=style.BLUE, linestyle="-", label="score")
            below.plot(
                [self.distance.value], [scores[self.distance.value]], marker="o", markersize=7,
                linestyle="", color=style.VERMILLION,
                label=f"distance {self.distance.value}: {self.scores[1]:.3f}",
            )  # fmt: skip
            style.grid(below)
            below.margins(x=0.02)
            below.set_xlabel("distance from key to query (tokens)")
            below.set_ylabel("score q · k")
            below.set_ylim(bottom=min(0.0, below.get_ylim()[0]))
            below.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=3)
            drawn.suptitle(
                f"solid: query at {self.position.value + self.distance.value}, dashed: key at "
                f"{self.position.value}; head width {self.width.value}, base "
                f"{self.base.value:,}, scaling {self.scaling.label}"
                + ("" if plain is None else f" {self.factor.value} ×"),
                x=0.01, ha="left", fontsize=style.TEXT_SIZE,
            )  # fmt: skip
        return drawn


def rotary_explorer(
    *, d_head: int = 32, base: int = 10_000, original_context: int = 1024
) -> RotaryExplorer:
    """A widget that turns pairs of channels and shows what a score remembers of two positions.

    Args:
        d_head: width of the head to begin with, one of the slider's.
        base: to begin with, one of the slider's.
        original_context: tokens trained on, which YaRN and Llama 3 scale around.

    Raises:
        ValueError: a width or base that is not on its slider, a context below 1.
    """
    return RotaryExplorer(d_head, base, original_context)
