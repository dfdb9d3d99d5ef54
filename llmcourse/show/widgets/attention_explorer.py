"""The attention explorer: pick a layer, a head and a position, and see where it looks.

Taught in: Part 1. The weights are those of the model's own forward pass (its `record` list), not a
second implementation.

Shapes: H query heads, T time, S source length (here S = T).
"""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

import ipywidgets
import numpy as np

from llmcourse.show import style
from llmcourse.show.attention import check_weights, draw_attention
from llmcourse.show.tokens import token_labels
from llmcourse.show.widgets import html, layout

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LONGEST = 96  # tokens: more do not fit into a picture that can be read


def collect_attention(model: Any, ids: list[int]) -> list[np.ndarray]:
    """The attention weights of one forward pass, a (H, T, S) array for each layer.

    The model is put into evaluation mode for the pass (dropout would blank cells at random) and
    back afterwards.
    """
    import torch

    maps: list[torch.Tensor] = []  # every layer appends its (1, H, T, T)
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            model(torch.tensor([ids], device=device), record=maps)  # (1, T)
    finally:
        model.train(was_training)
    return [check_weights(layer[0])[0] for layer in maps]  # (1, H, T, S) -> (H, T, S)


class AttentionExplorer(ipywidgets.VBox):
    """The widget; made by `attention_explorer`, which documents the arguments.

    Attributes:
        text, layer, head, query: the controls, ordinary ipywidgets.
        view: the HTML that shows the answer.
    """

    def __init__(self, model: Any, tokenizer: Any, text: str, layer: int, head: int) -> None:
        self._model, self._tokenizer = model, tokenizer
        layers, heads = model.config.n_layers, model.config.n_heads
        for name, value, count in (("layer", layer, layers), ("head", head, heads)):
            if not 0 <= value < count:
                raise ValueError(f"{name} {value} does not exist; there are {count}, from 0")
        self.text = ipywidgets.Text(value=text, description="text", **layout.line(110))
        self.layer = ipywidgets.Dropdown(
            options=[(f"layer {i}", i) for i in range(layers)], value=layer,
            description="layer", **layout.control(110),
        )  # fmt: skip
        self.head = ipywidgets.IntSlider(
            value=head, min=0, max=heads - 1, description="head", **layout.control(110)
        )
        self.query = ipywidgets.IntSlider(
            value=0, min=0, max=0, description="query position", **layout.control(110)
        )
        self.view = ipywidgets.HTML()
        self._weights: list[np.ndarray] = []  # one (H, T, S) for each layer
        self._labels: list[str] = []  # T
        self._note = ""
        self._read_text()
        self.query.value = self.query.max  # the last position sees the whole text
        super().__init__(
            layout.arranged([self.layer, self.head], [self.query], above=self.text, view=self.view)
        )
        self.text.observe(self._on_text, "value")
        for control in (self.layer, self.head, self.query):
            control.observe(self._on_choice, "value")
        self._draw()

    def __repr__(self) -> str:
        # Compared by strict notebook tests, so it says what stays the same on every machine.
        config = self._model.config
        return f"AttentionExplorer({config.n_layers} layers, {config.n_heads} heads)"

    @property
    def weights(self) -> np.ndarray:
        """(H, T, S) weights of the chosen layer."""
        return self._weights[self.layer.value]

    def _read_text(self) -> None:
        """Run the model on the text; what goes wrong becomes a sentence in the view."""
        self._weights, self._labels, self._note = [], [], ""
        try:
            ids = self._tokenizer.encode(self.text.value, allow_special=True)
        except ValueError as error:
            self._note = str(error)
            return
        if not ids:
            self._note = "Type some text to look at."
            return
        limit = min(LONGEST, self._model.config.context_length)
        if len(ids) > limit:
            self._note = f"Only the first {limit} of {len(ids)} tokens are shown."
            ids = ids[:limit]
        self._weights = collect_attention(self._model, ids)
        self._labels = token_labels(ids, self._tokenizer)
        self.query.max = len(ids) - 1  # ipywidgets lowers the value if it is now too high

    def _on_text(self, _change: Any) -> None:
        self.query.unobserve(self._on_choice, "value")  # one redraw, not two
        self._read_text()
        self.query.observe(self._on_choice, "value")
        self._draw()

    def _on_choice(self, _change: Any) -> None:
        self._draw()

    def _draw(self) -> None:
        if not self._weights:
            self.view.value = html.message(self._note)
            return
        head, query = self.head.value, self.query.value
        allowed = check_weights(self.weights)[1]  # (T, S)
        row = self.weights[head, query]  # (S,)
        self.view.value = html.page(
            html.summary(self._sentence(row)),
            '<div style="display:flex;gap:28px;flex-wrap:wrap;align-items:flex-start">',
            '<div style="flex:1 1 380px">',
            self._chips(row, allowed[query]),
            self._bars(row),
            "</div>",
            f"<div>{self._maps(allowed)}</div></div>",
        )

    def _sentence(self, row: np.ndarray) -> str:
        query = self.query.value
        best = np.argsort(-row, kind="stable")[:2]
        looks = " and ".join(
            f"<b>{escape(self._labels[i])}</b> at {i} ({row[i]:.0%})" for i in best if row[i] > 0
        )
        sentence = (
            f"Layer {self.layer.value}, head {self.head.value}: "
            f"<b>{escape(self._labels[query])}</b> at position {query} looks mostly at {looks}."
        )
        return sentence + (f" <i>{escape(self._note)}</i>" if self._note else "")

    def _chips(self, row: np.ndarray, allowed: np.ndarray) -> str:
        """The text, each token tinted by its weight; the query framed, the future hatched."""
        chips = []
        for place, label in enumerate(self._labels):
            look = html.tint(row[place]) if allowed[place] else f"background:{html.HATCH_CSS}"
            if not allowed[place]:
                look += ";opacity:.55"
            if place == self.query.value:
                look += f";outline:2px solid {style.QUERY};outline-offset:-1px;font-weight:bold"
            chips.append(
                f'<span title="position {place}: {row[place]:.3f}" data-weight="{row[place]:.6f}" '
                f'style="display:inline-block;min-width:9px;text-align:center;padding:2px 2px;'
                f'margin:0 1px 3px 0;border-radius:3px;{look}">{escape(label)}</span>'
            )
            if label == "↵":
                chips.append("<br>")
        return f'<div style="{html.MONO};font-size:14px;margin-bottom:12px">{"".join(chips)}</div>'

    def _bars(self, row: np.ndarray) -> str:
        best = [i for i in np.argsort(-row, kind="stable")[:6] if row[i] > 0]
        heading = (
            f'<div style="{html.MUTED};margin-bottom:4px">attention weight, largest first</div>'
        )
        return heading + "".join(
            html.bar_row(self._labels[i], float(row[i]), f"at {i}") for i in best
        )

    def _maps(self, allowed: np.ndarray) -> str:
        """The head's whole map, and all heads of the layer small beneath it."""
        head, layer = self.head.value, self.layer.value
        large = html.heat_map(
            self.weights[head], allowed, 240, query=self.query.value,
            name=f"attention weights of layer {layer}, head {head}; a row for each query",
        )  # fmt: skip
        small = "".join(
            f'<span style="text-align:center;{html.MUTED};font-size:11px">'
            f"{html.heat_map(one, allowed, 52, selected=i == head, name=f'head {i}')}{i}</span>"
            for i, one in enumerate(self.weights)
        )
        return (
            f'<div style="{html.MUTED};margin-bottom:4px">row: query &nbsp;·&nbsp; column: source '
            f"&nbsp;·&nbsp; hatched: the future</div>{large}"
            f'<div style="{html.MUTED};margin:8px 0 4px">all heads of layer {layer}</div>'
            f'<div style="display:flex;gap:6px;flex-wrap:wrap;max-width:240px">{small}</div>'
        )

    def static(self) -> Figure:
        """The present view as a matplotlib figure: the head's map, and the query's weights."""
        if not self._weights:
            raise ValueError(f"there is nothing to draw: {self._note}")
        head, query = self.head.value, self.query.value
        allowed = check_weights(self.weights)[1]
        row = self.weights[head, query]
        labels = [style.drawable_label(label) for label in self._labels]
        with style.applied():
            drawn, axes = style.figure(9.6, 3.9, 1, 2, width_ratios=[1, 1.5])
            left, right = axes[0]
            draw_attention(left, self.weights[head], allowed)
            left.axhspan(query - 0.5, query + 0.5, fill=False, edgecolor=style.QUERY, linewidth=2)
            left.set_title(f"layer {self.layer.value}, head {head}")
            left.set_xlabel("source position (tokens)")
            left.set_ylabel("query position (tokens)")
            places = np.arange(len(row))
            right.bar(places, row, color=style.BLUE, width=0.8)
            right.axvspan(
                query - 0.5, query + 0.5, color=style.QUERY, alpha=0.25, linewidth=0, zorder=0
            )
            for place in np.flatnonzero(~allowed[query]):
                right.axvspan(
                    place - 0.5, place + 0.5, facecolor="none", edgecolor="#c4c4c4", hatch="////",
                    linewidth=0,
                )  # fmt: skip
            size = style.SMALL_SIZE if len(labels) <= 32 else 5.5
            right.set_xticks(places, labels, fontsize=size)
            right.tick_params(axis="x", length=0)
            right.set_xlim(-0.6, len(row) - 0.4)
            right.set_title(f"where “{labels[query]}” at position {query} looks")
            right.set_xlabel("source token")
            right.set_ylabel("attention weight")
            style.grid(right)
        return drawn


def attention_explorer(
    model: Any, tokenizer: Any, text: str, *, layer: int = 0, head: int = 0
) -> AttentionExplorer:
    """A widget that shows where each head of `model` looks on a text that can be edited.

    Args:
        model: an `llmcourse.model.Transformer`.
        tokenizer: its tokenizer.
        text: to begin with.
        layer, head: chosen to begin with, from 0.

    Raises:
        ValueError: for a layer or head the model does not have.
    """
    return AttentionExplorer(model, tokenizer, text, layer, head)
