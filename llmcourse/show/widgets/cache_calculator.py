"""The cache calculator: how many bytes keys and values take, beside the weights.

Taught in: Part 3. Formulas only, the same as `llmcourse.show.cache`: nothing is built or run, so a
model of any size can be asked about.
"""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import TYPE_CHECKING, Any

import ipywidgets

from llmcourse.show import style
from llmcourse.show.cache import (
    DTYPES,
    CacheRow,
    cache_rows,
    groups_between,
    plot_cache_memory,
    size_text,
    usual_groups,
    weights_bytes,
)
from llmcourse.show.widgets import html, layout

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from llmcourse.model import ModelConfig

CONTEXTS = tuple(2**n for n in range(7, 21))  # tokens: 128 to 1,048,576
BATCHES = tuple(2**n for n in range(9))  # rows: 1 to 256
WINDOWS = tuple(2**n for n in range(6, 16))  # tokens: 64 to 32,768


def published_models() -> dict[str, ModelConfig]:
    """Every preset of the course by its name."""
    from llmcourse.model.config import PRESETS, ModelConfig

    return {name: ModelConfig.preset(name) for name in PRESETS}


class CacheCalculator(ipywidgets.VBox):
    """The widget; made by `cache_calculator`, which documents the arguments.

    Attributes:
        model, context, batch, dtype, kv_heads, window: the controls, ordinary ipywidgets.
        view: the HTML that shows the answer.
        rows: the answer, a `CacheRow` for each way of keeping keys and values.
    """

    def __init__(self, models: Mapping[str, ModelConfig], model: str) -> None:
        if model not in models:
            raise ValueError(f"there is no model {model!r}; there are {', '.join(models)}")
        self._models, self._first = dict(models), model
        self.model = ipywidgets.Dropdown(
            options=list(models), value=model, description="model", **layout.control()
        )
        self.context = ipywidgets.SelectionSlider(
            options=[(f"{n:,}", n) for n in CONTEXTS], description="context", **layout.control()
        )
        self.batch = ipywidgets.SelectionSlider(
            options=[(str(n), n) for n in BATCHES], description="batch", **layout.control()
        )
        self.dtype = ipywidgets.Dropdown(
            options=[(f"{name} ({width} bytes)", name) for name, width in DTYPES.items()],
            value="bfloat16", description="dtype", **layout.control(),
        )  # fmt: skip
        self.kv_heads = ipywidgets.SelectionSlider(
            options=[("none", 0)], description="GQA’s heads", **layout.control()
        )
        self.window = ipywidgets.SelectionSlider(
            options=[("own", 0), *((f"{n:,}", n) for n in WINDOWS)],
            description="window", **layout.control(),
        )  # fmt: skip
        self.view = ipywidgets.HTML()
        self.rows: list[CacheRow] = []
        super().__init__(
            layout.arranged(
                [self.model, self.context, self.batch],
                [self.dtype, self.kv_heads, self.window],
                view=self.view,
            )
        )
        self._choices = (self.context, self.batch, self.dtype, self.kv_heads, self.window)
        for control in self._choices:
            control.observe(self._on_choice, "value")
        self.model.observe(self._on_model, "value")
        self._on_model(None)

    def __repr__(self) -> str:
        # Compared by strict notebook tests, so it says what stays the same on every machine, and
        # not how many models there are to choose from: later parts add some.
        return f"CacheCalculator(first {self._first})"

    @property
    def config(self) -> ModelConfig:
        """The chosen model's."""
        return self._models[self.model.value]

    @property
    def _options(self) -> dict[str, Any]:
        return {
            "batch_size": self.batch.value, "dtype": self.dtype.value,
            "kv_heads": self.kv_heads.value or None, "window": self.window.value or None,
        }  # fmt: skip

    def _on_model(self, _change: Any) -> None:
        """Offer what the model allows, and begin at its own context and heads."""
        for control in self._choices:  # one redraw, not one for each control that is set here
            control.unobserve(self._on_choice, "value")
        between = groups_between(self.config)
        self.kv_heads.options = [(str(n), n) for n in between] or [("none", 0)]
        self.kv_heads.value = usual_groups(self.config) or 0  # 0: a slider cannot hold None
        self.kv_heads.disabled = not between
        own = self.config.context_length
        self.context.value = max((n for n in CONTEXTS if n <= own), default=CONTEXTS[0])
        for control in self._choices:
            control.observe(self._on_choice, "value")
        self._draw()

    def _on_choice(self, _change: Any) -> None:
        self._draw()

    def _draw(self) -> None:
        self.rows = cache_rows(self.config, self.context.value, **self._options)
        weights = weights_bytes(self.config, self.dtype.value)
        largest = max(weights, *(row.n_bytes for row in self.rows))
        lines = [
            self._line(row.name, row.formula, row.n_bytes, weights, largest, row.own)
            for row in self.rows
        ]
        lines.append(self._line("weights", "", weights, weights, largest, None))
        heads = "".join(
            f'<th scope="col" style="text-align:{side};font-weight:normal;{html.MUTED};'
            f'padding:0 8px 4px 0">{words}</th>'
            for words, side in (
                ("keeps", "left"),
                ("numbers per token and layer", "left"),
                ("memory", "left"),
                ("bytes", "right"),
                ("share of the weights", "right"),
            )
        )
        self.view.value = html.page(
            html.summary(self._sentence(weights)),
            f'<table style="width:100%;border-collapse:collapse"><thead><tr>{heads}</tr></thead>'
            f"<tbody>{''.join(lines)}</tbody></table>",
        )

    def _line(
        self, name: str, formula: str, n_bytes: int, weights: int, largest: int, own: bool | None
    ) -> str:
        """One row of the table; `own` is None for the weights."""
        fill, words = style.SKY, escape(name)
        if own:
            fill, words = style.BLUE, f"<b>{words}</b> (this model)"
        if own is None:
            fill = html.HATCH_CSS
        edge = style.MUTED if own is None else style.BLUE
        share = f"{n_bytes / weights:,.1%}" if own is not None else ""
        right = "text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap"
        return (
            f'<tr data-name="{escape(name)}" data-bytes="{n_bytes}">'
            f'<th scope="row" style="text-align:left;font-weight:normal;white-space:nowrap;'
            f'padding:3px 12px 3px 0">{words}</th>'
            f'<td style="white-space:nowrap;padding-right:12px;{html.MUTED}">{escape(formula)}</td>'
            f'<td style="width:48%"><span style="display:block;height:13px;border:1px solid {edge};'
            f"box-sizing:border-box;width:max(2px,{100 * n_bytes / largest:.2f}%);"
            f'background:{fill}"></span></td>'
            f'<td style="{right};padding:0 8px 0 12px">{size_text(n_bytes)}</td>'
            f'<td style="{right}">{share}</td></tr>'
        )

    def _sentence(self, weights: int) -> str:
        config, own = self.config, next((row for row in self.rows if row.own), None)
        row = own or self.rows[-1]  # the last is the model's own kind with another window
        per_token = DTYPES[self.dtype.value] * row.numbers * config.n_layers
        text = (
            f"<b>{escape(self.model.value)}</b>: {config.n_layers} layers, {config.n_heads} heads. "
            f"With {escape(row.name)} each token takes <b>{size_text(per_token)}</b>; "
            f"{self.context.value:,} tokens × batch {self.batch.value} take "
            f"<b>{size_text(row.n_bytes)}</b>, the weights {size_text(weights)}."
        )
        longest = config.context_length
        if self.context.value > longest and not config.endless:
            text += f" <i>The model itself was made for {longest:,} tokens.</i>"
        return text

    def static(self) -> Figure:
        """The present view as a matplotlib figure, with the growth over the context beside it."""
        return plot_cache_memory(
            self.config, self.context.value, title=self.model.value, **self._options
        )


def cache_calculator(
    models: Mapping[str, ModelConfig] | None = None, *, model: str | None = None
) -> CacheCalculator:
    """A widget that says what a key/value cache takes, and what sharing or forgetting would save.

    Args:
        models: configs by name; None offers the course's presets.
        model: chosen to begin with; None takes the first.

    Raises:
        ValueError: no models, or a name that is not among them.
    """
    known = published_models() if models is None else dict(models)
    if not known:
        raise ValueError("there is nothing to calculate: give at least one model's config")
    return CacheCalculator(known, next(iter(known)) if model is None else model)
