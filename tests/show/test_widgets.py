"""The widgets, without a browser: controls move, views follow, nothing is printed or left open."""

from __future__ import annotations

import math
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from llmcourse.model import ModelConfig, Transformer
from llmcourse.show import LiveCurve, attention_explorer, sampling_playground
from llmcourse.show.widgets import html, live_curve
from llmcourse.tokenizers import ByteTokenizer, CharacterTokenizer

TEXT = "The cat\nsleeps."


@pytest.fixture(scope="module")
def model() -> Transformer:
    config = ModelConfig(
        vocab_size=256, context_length=32, n_layers=2, n_heads=4, d_model=16, dropout=0.5
    )
    made = Transformer(config, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(4)  # sharper weights: heads and positions must differ visibly
    return made


@pytest.fixture
def explorer(model):
    return attention_explorer(model, ByteTokenizer(), TEXT)


def shown_weights(view: str) -> list[float]:
    return [float(value) for value in re.findall(r'data-weight="([^"]+)"', view)]


@pytest.mark.parametrize(("layer", "head", "query"), [(0, 0, 14), (1, 3, 6), (1, 0, 0)])
def test_explorer_shows_the_models_own_weights(model, explorer, layer, head, query):
    explorer.layer.value, explorer.head.value, explorer.query.value = layer, head, query
    model.eval()
    maps: list[torch.Tensor] = []
    with torch.no_grad():
        model(torch.tensor([ByteTokenizer().encode(TEXT)]), record=maps)
    np.testing.assert_allclose(
        shown_weights(explorer.view.value), maps[layer][0, head, query].numpy(), atol=1e-6
    )


def test_explorer_leaves_the_model_in_its_mode(model):
    model.train()
    first = attention_explorer(model, ByteTokenizer(), TEXT)
    assert model.training
    again = attention_explorer(model, ByteTokenizer(), TEXT)
    assert first.view.value == again.view.value  # dropout was off
    model.eval()
    attention_explorer(model, ByteTokenizer(), TEXT)
    assert not model.training


@pytest.mark.parametrize(("control", "value"), [("layer", 1), ("head", 2), ("query", 3)])
def test_explorer_every_control_changes_the_view(explorer, control, value):
    before = explorer.view.value
    getattr(explorer, control).value = value
    assert explorer.view.value != before


def test_explorer_marks_the_future(explorer):
    explorer.query.value = 4
    assert explorer.view.value.count(html.HATCH_CSS) == len(TEXT) - 5


def test_explorer_takes_new_text(explorer):
    explorer.text.value = "A dog"
    assert explorer.query.max == 4 and explorer.query.value == 4
    assert len(shown_weights(explorer.view.value)) == 5
    explorer.text.value = ""
    assert "Type some text" in explorer.view.value
    explorer.head.value = 1  # moving on an empty text is harmless
    explorer.text.value = "Hi"
    assert len(shown_weights(explorer.view.value)) == 2


def test_explorer_cuts_a_text_beyond_the_context(explorer):
    explorer.text.value = "x" * 50
    assert "Only the first 32 of 50 tokens" in explorer.view.value
    assert len(shown_weights(explorer.view.value)) == 32


def test_explorer_says_what_the_tokenizer_refuses(model):
    tokenizer = CharacterTokenizer.train(["abc"])
    widget = attention_explorer(model, tokenizer, "abx")
    assert "x" in widget.view.value and "<svg" not in widget.view.value
    with pytest.raises(ValueError, match="nothing to draw"):
        widget.static()


def test_explorer_escapes_the_text(explorer):
    explorer.text.value = "<b>&"
    assert "&lt;" in explorer.view.value and "><</span>" not in explorer.view.value


def test_explorer_static_figure_holds_the_chosen_row(explorer, drawn):
    explorer.layer.value, explorer.head.value, explorer.query.value = 1, 2, 6
    left, right = drawn(explorer.static).axes
    np.testing.assert_array_equal(left.images[0].get_array(), explorer.weights[2])
    heights = [bar.get_height() for bar in right.containers[0]]
    np.testing.assert_allclose(heights, explorer.weights[2, 6])


@pytest.mark.parametrize(
    ("options", "message"), [({"layer": 2}, "layer 2 does not exist"), ({"head": -1}, "head -1")]
)
def test_explorer_refuses_what_the_model_lacks(model, options, message):
    with pytest.raises(ValueError, match=message):
        attention_explorer(model, ByteTokenizer(), TEXT, **options)


@pytest.fixture
def playground(model):
    return sampling_playground(model, ByteTokenizer(), "The ", length=12)


def shown_bars(view: str) -> dict[int, float]:
    found = re.findall(r'data-token="(\d+)" data-after="([^"]+)"', view)
    return {int(token): float(value) for token, value in found}


def test_playground_bars_are_the_samplers_probabilities(model, playground):
    from llmcourse.generate.sampling import Sampling, next_token_probabilities

    playground.temperature.value = 0.8
    playground.top_k.value = 7
    playground.top_p.value = 0.9
    playground.min_p.value = 0.02
    model.eval()
    with torch.no_grad():
        logits = model(torch.tensor([ByteTokenizer().encode("The ")]))[0, -1]
    wanted = next_token_probabilities(
        logits, Sampling(temperature=0.8, top_k=7, top_p=0.9, min_p=0.02)
    )
    np.testing.assert_allclose(playground.after, wanted.double().numpy(), atol=1e-7)
    shown = shown_bars(playground.view.value)
    assert list(shown) == logits.argsort(descending=True, stable=True)[:20].tolist()
    for token, value in shown.items():
        assert value == pytest.approx(float(wanted[token]), abs=1e-7)


@pytest.mark.parametrize(
    ("control", "value"),
    [("temperature", 1.7), ("top_k", 2), ("top_p", 0.2), ("min_p", 0.4), ("seed", 5)],
)
def test_playground_every_slider_changes_the_view(playground, control, value):
    view, after, text = playground.view.value, playground.after, playground.continuation
    getattr(playground, control).value = value
    assert playground.view.value != view
    assert playground.continuation != text
    assert np.array_equal(playground.after, after) == (control == "seed")


def test_playground_text_is_that_of_generate(model, playground):
    from llmcourse.generate import generate

    playground.seed.value = 3
    ids = generate(
        model,
        torch.tensor([ByteTokenizer().encode("The ")]),
        12,
        sampling=playground.sampling,
        generator=torch.Generator().manual_seed(3),
        overflow="slide",
    )
    assert playground.continuation == ByteTokenizer().decode(ids[0, 4:].tolist())


def test_playground_same_seed_same_text(model, playground):
    again = sampling_playground(model, ByteTokenizer(), "The ", length=12)
    assert again.continuation == playground.continuation
    assert again.view.value == playground.view.value


def test_playground_cut_tokens_are_hatched(playground):
    playground.top_k.value = 3
    assert sum(value > 0 for value in shown_bars(playground.view.value).values()) == 3
    assert playground.view.value.count("url(#llmcourse-hatch)") == 17
    assert "<b>3</b> of 256 tokens can be sampled" in playground.view.value


def test_playground_takes_a_new_prompt_and_an_empty_one(playground):
    before = playground.view.value
    playground.prompt.value = "A dog " * 9  # longer than the context of 32
    assert playground.view.value != before
    playground.prompt.value = ""
    assert "Type a prompt" in playground.view.value
    with pytest.raises(ValueError, match="nothing to draw"):
        playground.static()
    playground.top_k.value = 4  # harmless
    playground.prompt.value = "The "
    assert "<svg" in playground.view.value


@pytest.mark.filterwarnings("error")  # a warning on stderr would fail a compared notebook cell
def test_static_figures_draw_any_text_silently(model, drawn):
    strange = "\x01\t $a$ 漢字 é"
    drawn(sampling_playground(model, ByteTokenizer(), strange, length=30).static)
    tokenizer = CharacterTokenizer.train([strange])
    drawn(attention_explorer(model, tokenizer, strange).static)


@pytest.mark.filterwarnings("error")
def test_playground_static_figure(playground, drawn):
    playground.top_k.value = 4
    figure = drawn(playground.static)
    ax = figure.axes[0]
    assert "top-k 4: 4 tokens kept" in ax.get_title("left")
    assert figure.get_supxlabel().startswith("The ")


def test_playground_greedy_leaves_one_token(playground):
    playground.temperature.value = 0.0
    assert sorted(playground.after)[-2:] == [0.0, 1.0]
    assert "<b>1</b> of 256 tokens can be sampled" in playground.view.value


def test_playground_reads_and_stops_at_the_end_of_text():
    tokenizer = ByteTokenizer(("<|endoftext|>",))
    config = ModelConfig(vocab_size=257, context_length=16, n_layers=1, n_heads=1, d_model=8)
    model = Transformer(config, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        model.final_norm.weight.zero_()  # the same hidden state everywhere ...
        model.final_norm.bias.fill_(10.0)
        model.embedding.weight[256] = 10.0  # ... that asks for the end of the text
    widget = sampling_playground(model, tokenizer, "<|endoftext|>", length=12)
    assert len(widget._ids) == 1
    assert widget.continuation == "<|endoftext|>"  # it stopped after one token
    assert "⟨endoftext⟩" in widget.view.value


def test_playground_refuses_nothing_to_sample(model):
    with pytest.raises(ValueError, match="at least 1 token"):
        sampling_playground(model, ByteTokenizer(), "a", length=0)


def record(step, loss, validation=None):
    return SimpleNamespace(step=step, loss=loss, validation_loss=validation)


def test_live_curve_is_throttled_and_ends_complete(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(live_curve.time, "monotonic", lambda: now[0])
    live = LiveCurve(100, floor=0.5)
    drawn_first = live.redraws
    for step in range(1, 100):
        now[0] += 0.01  # 99 updates within a second
        live.update(record(step, 5 / step + 0.5))
    assert live.redraws - drawn_first == 3  # one each 0.3 seconds
    live.update(record(100, 0.55, validation=0.6))
    assert 'aria-valuenow="100"' in live.view.value and "0.600" in live.view.value
    assert "+0.100 (+20%)" in live.view.value
    assert live.steps == list(range(1, 101)) and live.validation == [(100, 0.6)]


def vertical(view: str, pattern: str) -> list[float]:
    return [float(value) for value in re.findall(pattern, view)]


def test_live_curve_floor_and_points_share_one_scale():
    live = LiveCurve(2, floor=1.0)
    live.update(record(1, 5.0, validation=3.0))
    live.update(record(2, 3.0, validation=1.0))
    [floor] = vertical(live.view.value, r'class="floor"[^>]* y1="([\d.]+)"')
    at_three, at_one = vertical(live.view.value, r'cy="([\d.]+)" r="5"')
    assert at_one == pytest.approx(floor, abs=0.1)  # a validation loss on the floor lies on it
    top = vertical(live.view.value, r'<polyline points="[\d.]+,([\d.]+)')[0]
    assert (at_three - top) == pytest.approx(floor - at_three, abs=0.2)  # 5, 3, 1: equal steps


def test_live_curve_survives_a_loss_that_is_no_number():
    live = LiveCurve(3, floor=0.5)
    for step, loss in enumerate([math.nan, math.inf, 2.0], start=1):
        live.update(record(step, loss))
        live.draw()
    assert "nan" not in re.sub(r"<b.*?</b>", "", live.view.value)


def test_live_curve_takes_more_steps_than_announced():
    live = LiveCurve(2)
    for step in range(1, 6):
        live.update(record(step, 1.0))
    assert live.steps == [1, 2, 3, 4, 5] and "width:100.0%" in live.view.value


def test_live_curve_static(drawn):
    live = LiveCurve(3, floor=0.5)
    for step in range(1, 4):
        live.update(record(step, 3.0 / step))
    ax = drawn(live.static).axes[0]
    assert list(ax.lines[0].get_ydata()) == [3.0, 1.5, 1.0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((0,), "at least 1 optimiser step, not 0"), ((5, -1.0), "at least 0, not -1.0")],
)
def test_live_curve_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        LiveCurve(*arguments)


def test_what_a_notebook_compares_is_stable(model, explorer, playground, capsys):
    live = LiveCurve(7)
    shown = []
    for widget in (explorer, playground, live):
        bundle = widget._repr_mimebundle_()
        shown.append(bundle["text/plain"])
        assert widget.model_id not in repr(widget) and "0x" not in repr(widget)
    live.update(record(1, 2.0))
    explorer.query.value = 1
    assert shown == [repr(explorer), repr(playground), repr(live)]  # whatever their state
    assert shown == [
        "AttentionExplorer(2 layers, 4 heads)",
        "SamplingPlayground(256 tokens)",
        "LiveCurve(7 steps)",
    ]
    assert capsys.readouterr() == ("", "")


def test_controls_are_native_and_named(explorer, playground):
    import ipywidgets

    for widget in (explorer, playground):
        for name in ("query", "head", "temperature", "top_k", "top_p", "min_p", "seed"):
            control = getattr(widget, name, None)
            if control is not None:
                assert isinstance(control, (ipywidgets.IntSlider, ipywidgets.FloatSlider))
                assert control.description


def test_forbidden_path_covers_exactly_the_forbidden_cells():
    allowed = np.array([[1, 0, 0, 1], [1, 1, 1, 1], [0, 1, 0, 0]], dtype=bool)
    assert html.forbidden_path(allowed) == "M1 0H3V1H1ZM0 2H1V3H0ZM2 2H4V3H2Z"


def test_png_is_one_pixel_for_each_cell():
    import base64
    import io

    from PIL import Image

    weights = np.array([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0]])
    data = base64.b64decode(html.png_uri(weights).split(",")[1])
    pixels = np.asarray(Image.open(io.BytesIO(data)).convert("L"))
    assert pixels.shape == (2, 3)
    assert pixels[0, 0] < pixels[1, 0] < pixels[0, 1] == 255  # more weight is darker
