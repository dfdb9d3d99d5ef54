"""The flash stepper: FlashAttention's loops, one tile at a time.

Taught in: Part 3. The tiles' states come from `llmcourse.model.masks.Visibility`; the numbers
beside them are one query's running maximum, running sum and output after each tile, and the exact
softmax they end at. (Dao et al. 2022, arXiv 2205.14135, algorithm 1.)

Shapes: T queries, as many keys.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import ipywidgets
import numpy as np

from llmcourse.show import style
from llmcourse.show.masks import visible_table
from llmcourse.show.running import (
    CHANNELS,
    TileStep,
    draw_running,
    exact_output,
    example,
    running_softmax,
    tile_rows,
)
from llmcourse.show.tiles import NAMES, SKIPPED, draw_tiles, label_tiles, schedule, tile_states
from llmcourse.show.widgets import chart, html, layout, tile_grid

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from llmcourse.model.masks import Visibility

LONGEST = 32  # tokens: cells must stay large enough to see
MASKS = ("causal", "window", "window and sinks", "everything")


class FlashStepper(ipywidgets.VBox):
    """The widget; made by `flash_stepper`, which documents the arguments.

    Attributes:
        step, row, mask, tokens, tile, window, sinks: the controls, ordinary ipywidgets.
        view: the HTML that shows the tiles and the numbers.
        steps: what happened to the chosen query so far, a `TileStep` for each tile of its row.
        exact: the chosen query's output, computed all at once.
    """

    def __init__(self, tokens: int, tile: int, mask: str, seed: int) -> None:
        for name, value, low, high in (("tokens", tokens, 4, LONGEST), ("tile", tile, 4, 8)):
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                raise ValueError(f"{name}={value!r} must be a whole number from {low} to {high}")
        if mask not in MASKS:
            raise ValueError(f"mask={mask!r} is unknown; choose one of {', '.join(MASKS)}")
        self._scores, self._values = example(LONGEST, LONGEST, seed=seed)

        def slider(value: int, low: int, high: int, words: str) -> ipywidgets.IntSlider:
            return ipywidgets.IntSlider(
                value=value, min=low, max=high, description=words, **layout.control(110)
            )

        self.step = slider(1, 1, 1, "step")
        self.row = slider(0, 0, tile - 1, "row in the tile")
        self.mask = ipywidgets.Dropdown(
            options=MASKS, value=mask, description="mask", **layout.control(110)
        )
        self.tokens = slider(tokens, 4, LONGEST, "tokens")
        self.tile = slider(tile, 4, 8, "tile")
        self.window = slider(min(10, tokens), 1, LONGEST, "window")
        self.sinks = slider(2, 0, 8, "sinks")
        self.view = ipywidgets.HTML()
        self.steps: list[TileStep] = []
        self.exact = np.zeros(0)
        super().__init__(
            layout.arranged(
                [self.step, self.row, self.mask],
                [self.tokens, self.tile, self.window, self.sinks],
                view=self.view,
            )
        )
        for control in (self.mask, self.tokens, self.tile, self.window, self.sinks):
            control.observe(self._on_problem, "value")
        for control in (self.step, self.row):
            control.observe(self._on_step, "value")
        self._on_problem(None)

    def __repr__(self) -> str:
        # Compared by strict notebook tests, so it says what stays the same whatever is chosen.
        return f"FlashStepper(up to {LONGEST} tokens)"

    @property
    def visibility(self) -> Visibility:
        """The mask that the controls stand for."""
        from llmcourse.model.masks import Visibility

        t, mask = self.tokens.value, self.mask.value
        if mask in ("causal", "everything"):
            return Visibility(t, t, causal=mask == "causal")
        sinks = self.sinks.value if mask == "window and sinks" else 0
        return Visibility(t, t, window=self.window.value, sinks=sinks)

    @property
    def current(self) -> tuple[int, int]:
        """(row, column) of the tile that has just been computed."""
        return self._order[self.step.value - 1]

    @property
    def query(self) -> int:
        """The query that is followed: a row of the current tile."""
        first = self.current[0] * self.tile.value
        return min(first + self.row.value, self.tokens.value - 1)

    def _on_problem(self, _change: Any) -> None:
        """Another mask or another cut: the loop begins anew at its first tile."""
        self._visible = visible_table(self.visibility)  # (T, T)
        self._states = tile_states(self._visible, self.tile.value)
        self._order = schedule(self._states)
        for control in (self.step, self.row):  # one redraw, not three
            control.unobserve(self._on_step, "value")
        self.window.disabled = "window" not in self.mask.value
        self.sinks.disabled = "sinks" not in self.mask.value
        self.step.max = len(self._order)
        self.step.value = 1
        self.row.max = self.tile.value - 1
        for control in (self.step, self.row):
            control.observe(self._on_step, "value")
        self._draw()

    def _on_step(self, _change: Any) -> None:
        self._draw()

    def _follow(self) -> None:
        """The chosen query's steps up to the current tile, and where they lead."""
        t, tile, query = self.tokens.value, self.tile.value, self.query
        score, values = self._scores[query, :t], self._values[:t]
        rows = tile_rows(self._visible, query, tile)
        every = running_softmax(score, values, rows, tile)
        self.steps = [step for step in every if step.column <= self.current[1]]
        self.exact = exact_output(score, values, self._visible[query])

    def _draw(self) -> None:
        self._follow()
        self.view.value = html.page(
            html.summary(self._sentence()),
            '<div style="display:flex;gap:26px;flex-wrap:wrap;align-items:flex-start">',
            f"<div>{self._grid()}{tile_grid.legend(self._states)}</div>",
            f'<div style="flex:1 1 420px">{self._chart()}{self._table()}</div></div>',
        )

    def _sentence(self) -> str:
        (i, j), tile, now = self.current, self.tile.value, self.steps[-1]
        last = self.tokens.value - 1
        queries = f"{i * tile} to {min(last, (i + 1) * tile - 1)}"
        keys = f"{j * tile} to {min(last, (j + 1) * tile - 1)}"
        text = (
            f"Step {self.step.value} of {len(self._order)}: queries {queries}, keys {keys}, "
            f"<b>{NAMES[int(self._states[i, j])]}</b>. "
        )
        if not np.isfinite(now.maximum):
            return text + f"Query {self.query} has seen no key yet."
        if j == self._last_column(i):
            return text + f"Query {self.query} is done: its output is the <b>exact</b> one."
        return text + (
            f"Query {self.query}: maximum {now.maximum:.3f}, sum {now.total:.3f}, output still "
            f"{now.error:.3f} away from the exact one."
        )

    def _last_column(self, row: int) -> int:
        return max(j for i, j in self._order if i == row)

    def _grid(self) -> str:
        return tile_grid.grid(
            self._visible, self.tile.value, done=self._order[: self.step.value], query=self.query
        )

    def _chart(self) -> str:
        """The scores that the query sees, and the maximum that runs over them."""
        t, tile, query = self.tokens.value, self.tile.value, self.query
        seen, scores = self._visible[query], self._scores[query, :t]
        known = scores[seen] if seen.any() else np.zeros(1)
        picture = chart.Chart(
            470, 170, (-0.5, t - 0.5), (float(known.min()) - 0.3, float(known.max()) + 0.3),
            x_label="key position (tokens)", y_label="score", x_ticks=range(0, t, tile),
        )  # fmt: skip
        for column, state in enumerate(self._states[self.current[0]]):
            if state == SKIPPED:
                edge = min(t, (column + 1) * tile) - 0.5
                picture.band(column * tile - 0.5, edge, "url(#llmcourse-hatch)", 0.4)
        reached = min(t, (self.current[1] + 1) * tile)
        for place in np.flatnonzero(seen):
            picture.dot(place, scores[place], style.BLUE, radius=3.6, hollow=place >= reached)
        for step in self.steps:
            if np.isfinite(step.maximum):
                edge = min(t, (step.column + 1) * tile) - 0.5
                picture.line(
                    [step.column * tile - 0.5, edge], [step.maximum] * 2, style.VERMILLION, width=3
                )
        legend = (
            chart.key(style.BLUE, "score", mark="dot")
            + chart.key(style.BLUE, "still to come", mark="ring")
            + chart.key(style.VERMILLION, "running maximum")
        )
        svg = picture.svg(f"scores of query {query}", html.HATCH_SVG)
        return f'<div style="font-size:12px">{legend}</div>{svg}'

    def _table(self) -> str:
        """One row per tile so far, and the exact output to compare with."""
        names = ["tile", "maximum m", "× before", "sum l", f"output (first {CHANNELS} channels)"]
        heads = "".join(
            f'<th scope="col" style="font-weight:normal;{html.MUTED};padding:0 0 2px 14px">'
            f"{name}</th>"
            for name in names
        )
        cell = '<td style="padding:1px 0 1px 14px">'
        lines = []
        for step in self.steps:
            maximum = f"{step.maximum:.3f}" if np.isfinite(step.maximum) else "−∞"
            entries = [
                str(step.column), maximum, f"{step.correction:.3f}", f"{step.total:.3f}",
                _vector(step.output),
            ]  # fmt: skip
            weight = "bold" if step is self.steps[-1] else "normal"
            lines.append(
                f'<tr style="font-weight:{weight}" data-sum="{step.total!r}" '
                f'data-maximum="{step.maximum!r}">'
                + "".join(f"{cell}{entry}</td>" for entry in entries)
                + "</tr>"
            )
        lines.append(
            f'<tr style="border-top:1px solid {html.BORDER}"><td colspan="4" '
            f'style="text-align:left;padding-left:14px">exact, all at once</td>'
            f"{cell}{_vector(self.exact)}</td></tr>"
        )
        return (
            '<table style="border-collapse:collapse;text-align:right;font-size:12px;'
            f'font-variant-numeric:tabular-nums;margin:6px 0 0 -14px"><thead><tr>{heads}</tr>'
            f"</thead><tbody>{''.join(lines)}</tbody></table>"
        )

    def static(self) -> Figure:
        """The present view as a matplotlib figure: tiles on the left, the query's run right."""
        t, tile, query = self.tokens.value, self.tile.value, self.query
        with style.applied():
            drawn, axes = style.figure(
                9.8, 5.4, 3, 2, width_ratios=[1, 1.2], height_ratios=[1.7, 1.0, 1.4]
            )  # fmt: skip
            grid = axes[0, 0].get_gridspec()
            for ax in axes[:, 0]:
                ax.remove()
            left = drawn.add_subplot(grid[:, 0])
            draw_tiles(left, self._visible, tile, current=self.current, query=query)
            label_tiles(left, self.visibility, tile)
            left.tick_params(labelsize=style.SMALL_SIZE, colors=style.INK)
            counts = ", ".join(
                f"{int((self._states == kind).sum())} {NAMES[kind]}"
                for kind in sorted(NAMES, reverse=True)
            )
            left.set_title(
                f"step {self.step.value} of {len(self._order)}; {counts}",
                fontsize=style.SMALL_SIZE,
            )
            for ax in axes[:2, 1]:
                ax.tick_params(labelbottom=False)
            draw_running(
                axes[:, 1], self._scores[query, :t], self._visible[query], self.steps, self.exact,
                tile, skipped=np.flatnonzero(self._states[self.current[0]] == SKIPPED),
            )  # fmt: skip
            axes[0, 1].set_title(f"query {query}", pad=22)
        return drawn


def _vector(values: np.ndarray) -> str:
    return ", ".join(f"{value + 0.0:.3f}" for value in values[:CHANNELS])


def flash_stepper(
    *, tokens: int = 24, tile: int = 4, mask: str = "causal", seed: int = 0
) -> FlashStepper:
    """A widget that walks through the tiles of a small attention and follows one query.

    Args:
        tokens: queries, and keys, to begin with: 4 to 32.
        tile: queries, and keys, per tile to begin with: 4 to 8.
        mask: one of `MASKS` to begin with.
        seed: of the scores and values.

    Raises:
        ValueError: a size outside its range, or an unknown mask.
    """
    return FlashStepper(tokens, tile, mask, seed)
