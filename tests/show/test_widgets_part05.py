"""The routing viewer, without a browser: small random models whose routing is worked out again."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from llmcourse.model import ModelConfig, Transformer
from llmcourse.model.experts_config import Experts
from llmcourse.model.routing import record_routing
from llmcourse.show import routing_viewer
from llmcourse.show.widgets.routing_html import COLUMNS, PER_TOKEN
from llmcourse.show.widgets.routing_viewer import LONGEST, TEXT
from llmcourse.tokenizers import ByteTokenizer

TOKENIZER = ByteTokenizer()
REFERENCE = "The cook ran to the kitchen. " * 20


def model(seed=0, n_layers=3, context=48, **experts) -> Transformer:
    settings = {"n_experts": 6, "n_active": 2, "layers": (0, 2), **experts}
    config = ModelConfig(
        vocab_size=256, context_length=context, n_layers=n_layers, n_heads=2, d_model=16,
        init_std=0.3, experts=Experts(**settings) if settings["n_experts"] else None,
    )  # fmt: skip
    return Transformer(config, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def viewer():
    models = {0.01: model(1), 0.0: model(0)}
    return routing_viewer(models, TOKENIZER, "A cat <b>.", reference=REFERENCE)


def gates_of(one: Transformer, text: str) -> dict[int, torch.Tensor]:
    """(T, E) weights of the sparse layers 0 and 2, by the model itself."""
    with torch.no_grad(), record_routing(one.eval()) as routings:
        one(torch.tensor([TOKENIZER.encode(text)]))
    return {layer: r.gates() for layer, r in zip((0, 2), routings, strict=True)}


def shown_experts(view: str) -> list[list[int]]:
    found = re.findall(r'data-token="\d+" data-experts="([\d,]*)"', view)
    return [[int(e) for e in one.split(",")] if one else [] for one in found]


def shown_rows(view: str) -> dict[int, list[float]]:
    """Weights of the chosen token, by layer."""
    return {
        int(layer): [float(w) for w in re.findall(r'data-weight="([\d.]+)"', row)]
        for layer, row in re.findall(r'<tr data-layer="(\d+)"(.*?)</tr>', view)
    }


def test_every_token_shows_its_experts_in_every_layer_of_every_model(viewer):
    models = {0.0: model(0), 0.01: model(1)}
    assert [value for _, value in viewer.balance.options] == [0.0, 0.01]  # lightest first
    assert viewer.balance.value == 0.01 and viewer.layer.value == 0
    for weight, one in models.items():
        viewer.balance.value = weight
        gates = gates_of(one, viewer.text.value)
        for layer in (0, 2):
            viewer.layer.value = layer
            wanted = [row.argsort(descending=True)[:2].tolist() for row in gates[layer]]
            assert shown_experts(viewer.view.value) == wanted
            assert f"Balance loss {weight:g}, layer {layer}:" in viewer.view.value


def test_the_table_has_the_chosen_tokens_weights_in_all_layers(viewer):
    gates = gates_of(model(1), viewer.text.value)
    for token in range(viewer.token.max + 1):
        viewer.token.value = token
        rows = shown_rows(viewer.view.value)
        assert list(rows) == [0, 2]
        for layer, row in rows.items():
            np.testing.assert_allclose(row, gates[layer][token], atol=1e-6)
        best, second = gates[0][token].sort(descending=True)[:2]
        said = f"<b>{second[0]}</b> ({best[0]:.2f}) and <b>{second[1]}</b> ({best[1]:.2f})"
        assert said in viewer.view.value
        for weight in best[:2]:
            assert f">{weight:.2f}</td>" in viewer.view.value  # to two digits
        assert (
            f"expert {second[0]}: {best[0]:.2f}, expert {second[1]}" in viewer.view.value
        )  # hover


def test_loads_over_the_text_and_over_the_reference(viewer):
    ids = TOKENIZER.encode(REFERENCE)
    rows = torch.tensor(ids[: len(ids) // 48 * 48]).view(-1, 48)
    for weight, one in {0.0: model(0), 0.01: model(1)}.items():
        viewer.balance.value = weight
        with torch.no_grad(), record_routing(one.eval()) as there:
            one(rows)
        here = gates_of(one, viewer.text.value)
        for number, layer in enumerate((0, 2)):
            viewer.layer.value = layer
            found = re.findall(
                r'data-expert="(\d)" data-load="([\d.]+)" data-reference="([\d.]+)"',
                viewer.view.value,
            )
            assert [int(e) for e, *_ in found] == list(range(6))
            load = (here[layer] > 0).sum(0) / (2 * len(here[layer]))
            np.testing.assert_allclose([float(x) for _, x, _ in found], load, atol=1e-6)
            long = there[number].statistics().load
            np.testing.assert_allclose([float(x) for *_, x in found], long, atol=1e-6)


def test_starving_experts_are_named():
    one = model(0, n_active=1)
    with torch.no_grad():
        one.blocks[0].feed_forward.router.weight[1:5] *= 0.0  # scores between the best and worst
        one.blocks[0].feed_forward.router.weight[0] = -one.blocks[0].feed_forward.router.weight[5]
    viewer = routing_viewer(one, TOKENIZER, "A cat.", reference=REFERENCE)
    load = viewer.reference_loads[0]
    hungry = [str(e) for e in range(6) if load[e] < 0.02]
    assert len(hungry) >= 3
    assert f"experts {', '.join(hungry)} starve (below 2%)" in viewer.view.value
    assert f"the busiest takes {100 * load.max():.3g}%, where uniform is 16.7%" in viewer.view.value


@pytest.mark.filterwarnings("error")
def test_static_is_the_present_view(viewer, drawn):
    viewer.balance.value = 0.0
    figure = drawn(viewer.static)
    maps = [ax for ax in figure.axes if ax.images]
    gates = gates_of(model(0), viewer.text.value)
    for ax, layer in zip(maps, (0, 2), strict=True):
        assert ax.get_title("left") == f"layer {layer}"
        np.testing.assert_allclose(ax.images[0].get_array(), gates[layer].T, atol=1e-6)
    assert figure.get_suptitle() == "balance loss 0"


def test_static_of_a_deep_model_holds_the_chosen_layer(drawn):
    viewer = routing_viewer(
        model(n_layers=9, layers=None), TOKENIZER, "ab", reference="abc", layer=6
    )
    titles = [ax.get_title("left") for ax in drawn(viewer.static).axes if ax.images]
    assert titles == [f"layer {n}" for n in (5, 6, 7, 8)]


def test_text_is_escaped_and_cut(viewer):
    assert "<b>.</b>" not in viewer.view.value and "&lt;" in viewer.view.value
    viewer.token.value = viewer.token.max
    viewer.text.value = "x" * 60
    assert "Only the first 48 of 60 tokens are shown." in viewer.view.value  # the context's length
    assert viewer.token.max == 47 and len(shown_experts(viewer.view.value)) == 48
    long = routing_viewer(model(context=99), TOKENIZER, "y" * 80, reference=REFERENCE)
    assert long.token.max == LONGEST - 1


@pytest.mark.parametrize(("text", "said"), [("", "Type some text"), ("a\ud800", "surrogate")])
def test_a_text_that_cannot_be_shown_is_named_and_forgotten(viewer, text, said):
    viewer.text.value = text
    assert said in viewer.view.value and viewer.token.disabled
    with pytest.raises(ValueError, match="there is nothing to show"):
        viewer.static()
    viewer.text.value = "again"
    assert not viewer.token.disabled and len(shown_experts(viewer.view.value)) == 5


def test_expert_choice_shows_tokens_without_experts_and_with_many():
    one = model(choice="expert", n_active=1)
    with torch.no_grad():
        one.blocks[0].feed_forward.router.weight[:] = one.blocks[0].feed_forward.router.weight[0]
    viewer = routing_viewer(one, TOKENIZER, REFERENCE[:29], reference=REFERENCE)
    with torch.no_grad(), record_routing(one) as routings:
        one(torch.tensor([TOKENIZER.encode(REFERENCE[:29])]))
    counts = torch.bincount(routings[0].tokens, minlength=29).tolist()
    experts = shown_experts(viewer.view.value)
    assert [len(one) for one in experts] == counts and min(counts) == 0 and max(counts) > PER_TOKEN
    assert ">none</span>" in viewer.view.value
    assert f"+{max(counts) - PER_TOKEN}</span>" in viewer.view.value
    viewer.token.value = counts.index(0)
    assert "is taken by no expert" in viewer.view.value


def test_drops_are_told():
    viewer = routing_viewer(model(capacity=0.5), TOKENIZER, "A cat sat.", reference=REFERENCE)
    dropped = viewer.routing.dropped
    assert dropped > 0
    assert f"{dropped} assignments of this text found their expert full" in viewer.view.value
    assert sum(map(len, shown_experts(viewer.view.value))) == 2 * 10 - dropped


def test_of_many_experts_each_layer_lists_its_own():
    viewer = routing_viewer(
        model(n_experts=24, n_active=3), TOKENIZER, "A cat.", reference=REFERENCE
    )
    gates = gates_of(viewer.model, "A cat.")
    for token in range(6):
        viewer.token.value = token
        rows = dict(re.findall(r'<tr data-layer="(\d)"(.*?)</tr>', viewer.view.value))
        for layer in (0, 2):
            best = gates[layer][token].sort(descending=True)
            wanted = [(str(int(e)), f"{w:.2f}") for w, e in zip(best[0][:3], best[1][:3])]
            assert re.findall(r">(\d+)</span> (\d\.\d\d)", rows[str(layer)]) == wanted
    order = np.argsort(-viewer.reference_loads[0], kind="stable").tolist()
    listed = [int(e) for e in re.findall(r'data-expert="(\d+)"', viewer.view.value)]
    assert listed == order[: COLUMNS // 2] + order[-COLUMNS // 2 :]


@pytest.mark.filterwarnings("error")
def test_defaults_need_nothing_but_a_model():
    viewer = routing_viewer(model(balance_weight=0.02), TOKENIZER)
    assert viewer.text.value == TEXT and viewer.balance.value == 0.02
    assert viewer.balance.disabled and not viewer.layer.disabled
    assert viewer.reference_loads.shape == (2, 6)
    np.testing.assert_allclose(viewer.reference_loads.sum(1), 1)


@pytest.mark.parametrize(
    ("models", "options", "message"),
    [
        ({}, {}, "at least one model"),
        ({-1.0: model()}, {}, "a number of at least 0, not -1"),
        ({"none": model()}, {}, "not 'none'"),
        ({0.0: model(n_experts=0)}, {}, "balance weight 0 has no sparse layers"),
        ({0.0: model(), 0.1: model(n_experts=4)}, {}, "0.1: layers .*, 4 experts"),
        ({0.0: model(), 0.1: model(layers=(1,))}, {}, r"0.1: layers \[1\]"),
        (model(), {"layer": 1}, r"layer=1 is not there; choose one of \[0, 2\]"),
        (model(), {"balance": 0.5}, r"balance=0.5 is not there; choose one of \[0.01\]"),
        (model(), {"reference": ""}, "reference text is empty"),
    ],
)
def test_viewer_refuses(models, options, message):
    with pytest.raises(ValueError, match=message):
        routing_viewer(models, TOKENIZER, "a", **options)


def test_what_a_notebook_compares_is_stable(viewer, capsys):
    shown = viewer._repr_mimebundle_()["text/plain"]
    assert shown == repr(viewer) == "RoutingViewer(2 models, 2 sparse layers, 6 experts)"
    viewer.balance.value, viewer.layer.value, viewer.token.value = 0.0, 2, 1
    assert repr(viewer) == shown and capsys.readouterr() == ("", "")


def test_controls_are_native_and_named(viewer):
    import ipywidgets

    above, columns, view = viewer.children
    assert view is viewer.view
    controls = [above, *(c for column in columns.children for c in column.children)]
    native = (ipywidgets.Text, ipywidgets.IntSlider, ipywidgets.SelectionSlider)
    assert all(isinstance(control, native) for control in controls)
    names = [control.description for control in controls]
    assert names == ["text", "balance loss", "layer", "token"]
