"""The routing viewer: type a sentence and see each token's experts and weights, layer by layer.

Taught in: Part 5. The dial of the balance loss chooses among models that were trained with
different weights of it, so that the same sentence shows what an unbalanced router does. Routings
are those of the models' own forward passes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from html import escape
from typing import TYPE_CHECKING, Any

import ipywidgets
import numpy as np

from llmcourse.show.expert_load import STARVING
from llmcourse.show.text_routing import (
    LayerRouting,
    collect_routing,
    expert_loads,
    plot_text_routing,
)
from llmcourse.show.tokens import token_labels
from llmcourse.show.widgets import html, layout
from llmcourse.show.widgets.routing_html import (
    PER_TOKEN,
    experts_of,
    load_bars,
    token_chips,
    weight_table,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TEXT = "Brave Tom the cook was in the kitchen."
LONGEST = 64  # tokens: more do not fit into a view that can be read


def default_reference() -> str:
    """A few tales, the text over which loads are counted where none is given."""
    from llmcourse.data import tales

    return "\n".join(tales.sample_stories(24, seed=5))


def checked_models(models: Any) -> dict[float, Any]:
    """Models by the weight of their balance loss, lightest first.

    Raises:
        ValueError: no models, a weight that is no number of at least 0, a model without experts, or
            models whose sparse layers or experts differ in number.
    """
    if not isinstance(models, Mapping):
        experts = getattr(getattr(models, "config", None), "experts", None)
        models = {0.0 if experts is None else experts.balance_weight: models}
    if not models:
        raise ValueError("give at least one model")
    shapes = {}
    for weight, model in models.items():
        good = isinstance(weight, int | float) and not isinstance(weight, bool)
        if not good or not math.isfinite(weight) or weight < 0:
            raise ValueError(
                f"models are named by their balance weight, a number of at least 0, not {weight!r}"
            )
        config = model.config
        if config.experts is None:
            raise ValueError(
                f"the model of balance weight {weight:g} has no sparse layers; there is no routing "
                "to show"
            )
        sparse = config.sparse_layers
        shapes[weight] = (sparse, config.experts.n_experts, config.vocab_size)
    if len(set(shapes.values())) > 1:
        told = "; ".join(
            f"{weight:g}: layers {list(layers)}, {e} experts, vocabulary {v}"
            for weight, (layers, e, v) in shapes.items()
        )
        raise ValueError(f"the models must differ in their training only, but have {told}")
    return {float(weight): models[weight] for weight in sorted(models)}


class RoutingViewer(ipywidgets.VBox):
    """The widget; made by `routing_viewer`, which documents the arguments.

    Attributes:
        text, balance, layer, token: the controls, ordinary ipywidgets.
        view: the HTML that shows tokens, weights and loads.
        layers: a `LayerRouting` of the text for each sparse layer of the chosen model.
        reference_loads: (L, E) shares over the reference text, of the chosen model.
    """

    def __init__(
        self,
        models: Any,
        tokenizer: Any,
        text: str,
        reference: str | None,
        layer: int | None,
        balance: float | None,
    ) -> None:
        self._models, self._tokenizer = checked_models(models), tokenizer
        config = next(iter(self._models.values())).config
        numbers = list(config.sparse_layers)
        weights = list(self._models)
        layer = numbers[0] if layer is None else layer
        balance = weights[-1] if balance is None else balance
        for name, value, known in (("layer", layer, numbers), ("balance", balance, weights)):
            if value not in known:
                raise ValueError(f"{name}={value!r} is not there; choose one of {known}")
        self._e = config.experts.n_experts
        given = default_reference() if reference is None else reference
        self._reference_ids = tokenizer.encode(given, allow_special=True)
        if not self._reference_ids:
            raise ValueError("the reference text is empty; loads are counted over it")
        self._loads: dict[float, np.ndarray] = {}  # (L, E) by balance weight
        self.text = ipywidgets.Text(value=text, description="text", **layout.line(100))
        self.balance = ipywidgets.SelectionSlider(
            options=[(f"{weight:g}", weight) for weight in weights], value=balance,
            description="balance loss", **layout.control(100),
        )  # fmt: skip
        self.layer = ipywidgets.SelectionSlider(
            options=[(str(number), number) for number in numbers], value=layer,
            description="layer", **layout.control(100),
        )  # fmt: skip
        self.token = ipywidgets.IntSlider(
            value=0, min=0, max=0, description="token", **layout.control(100)
        )
        self.balance.disabled = len(weights) == 1
        self.layer.disabled = len(numbers) == 1
        self.view = ipywidgets.HTML()
        self.layers: list[LayerRouting] = []
        self._labels: list[str] = []  # T
        self._note = ""
        super().__init__(
            layout.arranged(
                [self.balance, self.layer], [self.token], above=self.text, view=self.view
            )
        )
        for control in (self.text, self.balance):
            control.observe(self._on_text, "value")
        for control in (self.layer, self.token):
            control.observe(self._on_choice, "value")
        self._on_text(None)

    def __repr__(self) -> str:
        # Compared by strict notebook tests, so it says what stays the same whatever is chosen.
        models, layers = len(self._models), len(self.layer.options)
        return (
            f"RoutingViewer({models} {_plural('model', models)}, {layers} sparse "
            f"{_plural('layer', layers)}, {self._e} experts)"
        )

    @property
    def model(self) -> Any:
        """The model of the chosen balance weight."""
        return self._models[self.balance.value]

    @property
    def routing(self) -> LayerRouting:
        """Of the chosen layer.

        Raises:
            ValueError: the text gives none.
        """
        if not self.layers:
            raise ValueError(f"there is nothing to show: {self._note}")
        return next(one for one in self.layers if one.layer == self.layer.value)

    @property
    def reference_loads(self) -> np.ndarray:
        weight = self.balance.value
        if weight not in self._loads:
            self._loads[weight] = expert_loads(self.model, self._reference_ids)
        return self._loads[weight]

    def _read_text(self) -> None:
        """Run the model on the text; what goes wrong becomes a sentence in the view."""
        self.layers, self._labels, self._note = [], [], ""
        try:
            ids = self._tokenizer.encode(self.text.value, allow_special=True)
            if not ids:
                raise ValueError("Type some text to look at.")
            limit = min(LONGEST, self.model.config.context_length)
            if len(ids) > limit:
                self._note = f"Only the first {limit} of {len(ids)} tokens are shown."
                ids = ids[:limit]
            self.layers = collect_routing(self.model, ids)
        except ValueError as error:
            self._note = str(error)
            return
        self._labels = token_labels(ids, self._tokenizer)

    def _on_text(self, _change: Any) -> None:
        self.token.unobserve(self._on_choice, "value")  # one redraw, not two
        self._read_text()
        self.token.max = max(0, len(self._labels) - 1)  # ipywidgets lowers a value too high
        self.token.disabled = not self._labels
        self.token.observe(self._on_choice, "value")
        self._draw()

    def _on_choice(self, _change: Any) -> None:
        self._draw()

    def _draw(self) -> None:
        if not self.layers:
            self.view.value = html.message(self._note)
            return
        routing, token = self.routing, self.token.value
        table = weight_table(self.layers, routing.layer, token, self._labels[token])
        self.view.value = html.page(
            html.summary(self._sentence()),
            token_chips(routing, self._labels, token),
            '<div style="display:flex;gap:30px;flex-wrap:wrap;align-items:flex-start">',
            f'<div style="flex:1 1 380px">{table}</div>',
            f'<div style="flex:1 1 380px">{load_bars(routing, self._reference_load)}</div></div>',
        )

    @property
    def _reference_load(self) -> np.ndarray:
        """(E,) of the chosen layer."""
        place = [one.layer for one in self.layers].index(self.layer.value)
        return self.reference_loads[place]

    def _sentence(self) -> str:
        routing, token = self.routing, self.token.value
        label = f"<b>{escape(self._labels[token])}</b> at {token}"
        experts = experts_of(routing, token)
        goes = "is taken by no expert"
        if experts:
            named = [f"<b>{e}</b> ({routing.gates[token, e]:.2f})" for e in experts[:PER_TOKEN]]
            more = len(experts) - PER_TOKEN
            goes = f"goes to {_plural('expert', len(experts))} {' and '.join(named)}"
            goes += f" and {more} more" if more > 0 else ""
        load = self._reference_load
        hungry = np.flatnonzero(load < STARVING).tolist()
        shown = ", ".join(map(str, hungry[:8])) + (", …" if len(hungry) > 8 else "")
        starving = (
            f"{_plural('expert', len(hungry))} {shown} "
            f"{'starves' if len(hungry) == 1 else 'starve'} (below {STARVING:.0%})"
            if hungry else f"no expert is below {STARVING:.0%}"
        )  # fmt: skip
        sentence = (
            f"Balance loss {self.balance.value:g}, layer {self.layer.value}: {label} {goes}. Over "
            f"the reference text {starving}; the busiest takes {100 * load.max():.3g}%, where "
            f"uniform is {100 / self._e:.3g}%."
        )
        if routing.dropped:
            sentence += f" {routing.dropped} assignments of this text found their expert full."
        return sentence + (f" <i>{escape(self._note)}</i>" if self._note else "")

    def static(self) -> Figure:
        """The text's routing as a matplotlib figure: weights of all layers, and loads."""
        chosen = self.routing.layer  # refuses an empty text
        place = [one.layer for one in self.layers].index(chosen)
        first = max(0, min(place, len(self.layers) - 4))
        return plot_text_routing(
            self.layers[first:], self._labels, reference=self.reference_loads[first:],
            title=f"balance loss {self.balance.value:g}",
        )  # fmt: skip


def _plural(word: str, number: int) -> str:
    return word if number == 1 else word + "s"


def routing_viewer(
    models: Any,
    tokenizer: Any,
    text: str = TEXT,
    *,
    reference: str | None = None,
    layer: int | None = None,
    balance: float | None = None,
) -> RoutingViewer:
    """A widget that shows which experts each token of a text takes, and how that loads them.

    Args:
        models: `llmcourse.model.Transformer`s with experts, by the weight of the balance loss they
            were trained with, alike in shape; or one such model.
        tokenizer: theirs.
        text: to begin with; any other can be typed.
        reference: a longer text over which loads are counted; None takes a few tales.
        layer: a sparse block, counted from 0, to begin with; None takes the first.
        balance: the weight to begin with; None takes the largest.

    Raises:
        ValueError: models without experts or of different shapes, an empty reference, or a layer or
            weight that is not there.
    """
    return RoutingViewer(models, tokenizer, text, reference, layer, balance)
