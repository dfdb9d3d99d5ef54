"""The widgets, without a browser: controls move, views follow, nothing is printed or left open."""

from __future__ import annotations

import math
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from llmcourse.model import ModelConfig, Transformer
from llmcourse.model.config import Latent
from llmcourse.model.masks import Visibility
from llmcourse.show import (
    LiveCurve,
    attention_explorer,
    cache_calculator,
    flash_stepper,
    rotary_explorer,
    sampling_playground,
)
from llmcourse.show.widgets import html, layout, live_curve
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


@pytest.fixture
def rotary():
    return rotary_explorer(d_head=16)


def shown_angles(view: str) -> dict[int, tuple[float, float]]:
    """(key, query) in radians for each drawn pair."""
    found = re.findall(r'data-pair="(\d+)" data-key="([^"]+)" data-query="([^"]+)"', view)
    return {int(pair): (float(key), float(query)) for pair, key, query in found}


def test_rotary_hands_stand_at_the_angles_of_the_equation(rotary):
    rotary.position.value, rotary.distance.value, rotary.base.value = 13, 40, 1000
    shown = shown_angles(rotary.view.value)
    assert list(shown) == list(range(8))
    for pair, angles in shown.items():
        rate = 1000.0 ** (-2 * pair / 16)
        for angle, position in zip(angles, (13, 53), strict=True):
            assert math.remainder(angle - rate * position, 2 * math.pi) == pytest.approx(0)


def test_rotary_score_moves_with_the_distance_and_not_with_the_position(rotary):
    before, view = rotary.scores, rotary.view.value
    np.testing.assert_allclose(before, before[0], atol=1e-10)  # near and far alike
    rotary.position.value = 777
    np.testing.assert_allclose(rotary.scores, before, atol=1e-10)
    assert shown_angles(rotary.view.value) != shown_angles(view)
    rotary.distance.value = 30
    wanted = np.cos(30 * 10_000.0 ** (-np.arange(8) / 8)).mean()
    np.testing.assert_allclose(rotary.scores, wanted, atol=1e-10)
    assert f"{wanted:.4f}" in rotary.view.value


@pytest.mark.parametrize(
    ("control", "value"),
    [("position", 3), ("distance", 50), ("pair", 5), ("width", 64), ("base", 500_000),
     ("scaling", "linear"), ("scaling", "ntk"), ("scaling", "yarn"), ("scaling", "llama3")],
)  # fmt: skip
def test_rotary_every_control_changes_the_view(rotary, control, value):
    before = rotary.view.value
    getattr(rotary, control).value = value
    assert rotary.view.value != before
    assert ("without scaling" in rotary.view.value) == (control == "scaling")


def test_rotary_factor_moves_only_a_scaled_rotation(rotary):
    before = shown_angles(rotary.view.value)
    rotary.factor.value = 32
    assert shown_angles(rotary.view.value) == before
    rotary.scaling.value = "linear"
    key = shown_angles(rotary.view.value)[0][0]
    assert key == pytest.approx(20 / 32)  # pair 0 turns a 32nd of a radian a token


def test_rotary_narrower_head_lowers_the_pair(rotary):
    rotary.pair.value = 7
    rotary.width.value = 4
    assert rotary.pair.max == 1 and rotary.pair.value == 1
    assert "Pair 1 of 2" in rotary.view.value
    rotary.width.value = 128
    rotary.pair.value = 50  # not among the evenly spread ones
    shown = shown_angles(rotary.view.value)
    assert 50 in shown and len(shown) == 8


def test_rotary_static_shows_the_same_hands(rotary, drawn):
    rotary.scaling.value = "yarn"
    figure = drawn(rotary.static)
    shown = shown_angles(rotary.view.value)
    clocks = [ax for ax in figure.axes if ax.get_title("center").startswith("pair")]
    for ax, (key, query) in zip(clocks, shown.values(), strict=True):
        for line, angle in ((ax.lines[1], query), (ax.lines[3], key)):
            x, y = line.get_xydata()[1]
            assert math.atan2(y, x) == pytest.approx(angle)
    assert "scaling YaRN 4 ×" in figure.get_suptitle()


@pytest.mark.parametrize(
    ("options", "message"),
    [({"d_head": 12}, "d_head=12 is not on the slider"), ({"base": 7}, "base=7 is not on")],
)
def test_rotary_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        rotary_explorer(**options)


@pytest.fixture
def models():
    base = ModelConfig(
        vocab_size=64, context_length=2048, n_layers=2, n_heads=8, d_model=64, positions="rope"
    )
    return {
        "plain": base,
        "shared": base.replace(n_kv_heads=2, window=256, sinks=4),
        "latent": base.replace(latent=Latent(d_latent=24, d_nope=8, d_rope=4, d_value=6)),
        "single": base.replace(n_heads=1, context_length=4096),
    }


@pytest.fixture
def calculator(models):
    return cache_calculator(models)


def shown_bytes(view: str) -> dict[str, int]:
    found = re.findall(r'data-name="([^"]+)" data-bytes="(\d+)"', view)
    return {name: int(value) for name, value in found}


def test_calculator_shows_the_formula(calculator):
    calculator.context.value, calculator.batch.value = 512, 4
    calculator.dtype.value = "float32"
    calculator.kv_heads.value = 4
    one = 4 * 4 * 512 * 2  # bytes of one number per token and layer
    weights = calculator.view.value.count("weights")
    assert weights >= 2
    shown = shown_bytes(calculator.view.value)
    assert {name: value / one for name, value in shown.items() if name != "weights"} == {
        "MHA": 2 * 8 * 8, "GQA (4 heads)": 2 * 4 * 8, "MQA": 2 * 8, "MLA": 4 * 8 + 4,
    }  # fmt: skip


@pytest.mark.parametrize("name", ["plain", "shared", "latent", "single"])
def test_calculator_marks_the_models_own(calculator, models, name):
    from llmcourse.model.summary import summary

    calculator.model.value = name
    calculator.context.value = 1024
    assert calculator.view.value.count("(this model)") == 1
    [own] = [row for row in calculator.rows if row.own]
    assert own.n_bytes * 2 == summary(models[name]).cache_bytes(1, 1024)
    assert shown_bytes(calculator.view.value)[own.name] == own.n_bytes


@pytest.mark.parametrize(
    ("control", "value"),
    [("model", "shared"), ("context", 8192), ("batch", 16), ("dtype", "int8"), ("kv_heads", 4),
     ("window", 128)],
)  # fmt: skip
def test_calculator_every_control_changes_the_view(calculator, control, value):
    before = calculator.view.value
    getattr(calculator, control).value = value
    assert calculator.view.value != before


def test_calculator_offers_what_the_model_allows(calculator):
    assert calculator.context.value == 2048
    assert [value for _, value in calculator.kv_heads.options] == [2, 4]
    calculator.model.value = "single"
    assert calculator.kv_heads.disabled and calculator.context.value == 4096
    assert list(shown_bytes(calculator.view.value)) == ["MHA", "MLA", "weights"]
    calculator.model.value = "shared"
    assert not calculator.kv_heads.disabled and calculator.kv_heads.value == 2


def test_calculator_says_when_a_text_is_too_long(calculator):
    calculator.context.value = 4096
    assert "was made for 2,048 tokens" in calculator.view.value
    calculator.model.value = "shared"  # every layer has a window: no limit
    calculator.context.value = 1 << 20
    assert "was made for" not in calculator.view.value


def test_calculator_static(calculator, drawn):
    calculator.window.value = 64
    figure = drawn(calculator.static)
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert names == ["MHA\n(this model)", "GQA (2 heads)", "MQA", "MLA", "MHA + window", "weights"]
    assert figure.get_suptitle() == "plain"


def test_calculator_knows_the_courses_presets():
    from llmcourse.model.config import PRESETS

    calculator = cache_calculator(model="gpt2-xl")
    assert list(calculator.model.options) == list(PRESETS)
    assert "48 layers, 25 heads" in calculator.view.value
    for name in PRESETS:
        calculator.model.value = name
        assert calculator.view.value.count("(this model)") == 1, name


def test_calculator_refuses():
    with pytest.raises(ValueError, match="no model 'gpt5'"):
        cache_calculator(model="gpt5")
    with pytest.raises(ValueError, match="at least one model"):
        cache_calculator({})


@pytest.fixture
def stepper():
    return flash_stepper(tokens=14, tile=4, mask="window and sinks")


def shown_states(view: str) -> dict[tuple[int, int], str]:
    found = re.findall(r'data-tile="(\d+),(\d+)" data-state="([^"]+)"', view)
    return {(int(i), int(j)): state for i, j, state in found}


def test_stepper_states_are_those_of_the_rule(stepper):
    stepper.window.value, stepper.sinks.value = 5, 1
    seen = Visibility(14, 14, window=5, sinks=1).table().numpy()
    for (i, j), state in shown_states(stepper.view.value).items():
        cells = seen[4 * i : 4 * i + 4, 4 * j : 4 * j + 4]
        assert state == ("full" if cells.all() else "partly masked" if cells.any() else "skipped")


@pytest.mark.parametrize("mask", ["causal", "window", "window and sinks", "everything"])
@pytest.mark.parametrize("tile", [4, 5, 8])
def test_stepper_every_query_ends_at_the_softmax(stepper, mask, tile):
    stepper.mask.value, stepper.tile.value, stepper.row.value = mask, tile, 2
    table = stepper.visibility.table()
    allowed = torch.ones(14, 14, dtype=torch.bool) if table is None else table
    scores = torch.from_numpy(stepper._scores[:14, :14]).masked_fill(~allowed, -math.inf)
    wanted = (scores.softmax(-1) @ torch.from_numpy(stepper._values[:14])).numpy()
    rows_done = set()
    for step in range(1, stepper.step.max + 1):
        stepper.step.value = step
        row, column = stepper.current
        assert shown_states(stepper.view.value)[row, column] != "skipped"
        assert stepper.query == min(row * tile + 2, 13)
        if "is done" in stepper.view.value:
            rows_done.add(row)
            np.testing.assert_allclose(stepper.steps[-1].output, wanted[stepper.query], atol=1e-12)
            np.testing.assert_allclose(stepper.exact, wanted[stepper.query], atol=1e-12)
    assert rows_done == set(range(-(-14 // tile)))


def test_stepper_table_shows_the_steps_so_far(stepper):
    stepper.mask.value, stepper.step.value = "causal", 8  # third row of tiles, second tile
    assert stepper.current == (3, 1)
    sums = [float(v) for v in re.findall(r'data-sum="([^"]+)"', stepper.view.value)]
    assert sums == [step.total for step in stepper.steps] and len(sums) == 2
    expected = np.exp(stepper._scores[12, :8] - stepper._scores[12, :8].max()).sum()
    assert sums[-1] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("control", "value"),
    [("step", 4), ("row", 3), ("mask", "causal"), ("tokens", 30), ("tile", 6), ("window", 3),
     ("sinks", 7)],
)  # fmt: skip
def test_stepper_every_control_changes_the_view(stepper, control, value):
    before = stepper.view.value
    getattr(stepper, control).value = value
    assert stepper.view.value != before


def test_stepper_begins_anew_with_another_mask(stepper):
    stepper.step.value = stepper.step.max
    stepper.mask.value = "causal"
    assert stepper.step.value == 1 and stepper.step.max == 10  # 4 rows of tiles: 1 + 2 + 3 + 4
    assert stepper.window.disabled and stepper.sinks.disabled
    stepper.mask.value = "window"
    assert not stepper.window.disabled and stepper.sinks.disabled


def test_stepper_says_when_a_query_has_seen_nothing(stepper):
    stepper.mask.value, stepper.window.value, stepper.row.value = "window", 2, 3
    stepper.step.value = 2  # queries 4 to 7, keys 0 to 3: query 7 sees only 6 and 7
    assert stepper.query == 7 and "has seen no key yet" in stepper.view.value
    assert "−∞" in stepper.view.value and "nan" not in stepper.view.value


@pytest.mark.filterwarnings("error")
def test_stepper_static_at_every_step(stepper, drawn):
    import matplotlib.pyplot as plt

    stepper.mask.value, stepper.window.value, stepper.row.value = "window", 2, 3
    for step in (1, 2, stepper.step.max):  # with a query that has seen nothing, too
        stepper.step.value = step
        figure = stepper.static()
        figure.canvas.draw()
        plt.close(figure)
    title = drawn(stepper.static).axes[-1].get_title("left")
    assert title.startswith(f"step {stepper.step.max} of {stepper.step.max}; 0 full, ")


@pytest.mark.parametrize(
    ("options", "message"),
    [({"tokens": 33}, "tokens=33 .* from 4 to 32"), ({"tile": 3}, "tile=3 .* from 4 to 8"),
     ({"mask": "prefix"}, "mask='prefix' is unknown")],
)  # fmt: skip
def test_stepper_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        flash_stepper(**options)


def test_what_a_notebook_compares_is_stable(
    model, explorer, playground, rotary, calculator, stepper, capsys
):
    live = LiveCurve(7)
    widgets = (explorer, playground, live, rotary, calculator, stepper)
    shown = []
    for widget in widgets:
        bundle = widget._repr_mimebundle_()
        shown.append(bundle["text/plain"])
        assert widget.model_id not in repr(widget) and "0x" not in repr(widget)
    live.update(record(1, 2.0))
    explorer.query.value = 1
    rotary.scaling.value = "yarn"
    calculator.model.value = "latent"
    stepper.step.value = 3
    assert shown == [repr(widget) for widget in widgets]  # whatever their state
    assert shown == [
        "AttentionExplorer(2 layers, 4 heads)",
        "SamplingPlayground(256 tokens)",
        "LiveCurve(7 steps)",
        "RotaryExplorer(trained on 1024 tokens)",
        "CacheCalculator(first plain)",
        "FlashStepper(up to 32 tokens)",
    ]
    assert capsys.readouterr() == ("", "")


def test_controls_are_native_and_named(explorer, playground, rotary, calculator, stepper):
    import ipywidgets

    native = (
        ipywidgets.Text, ipywidgets.IntSlider, ipywidgets.FloatSlider, ipywidgets.Dropdown,
        ipywidgets.SelectionSlider,
    )  # fmt: skip
    counts = []
    for widget in (explorer, playground, rotary, calculator, stepper):
        *above, columns, view = widget.children
        assert view is widget.view
        controls = [*above, *(c for column in columns.children for c in column.children)]
        assert all(isinstance(control, native) for control in controls)
        assert len({control.description for control in controls} - {""}) == len(controls)
        counts.append(len(controls))
    assert counts == [4, 6, 7, 6, 7]


def test_layout_puts_the_view_last():
    import ipywidgets

    text, slider, view = ipywidgets.Text(), ipywidgets.IntSlider(), ipywidgets.HTML()
    assert layout.arranged([slider], view=view)[0].children[0].children == (slider,)
    assert layout.arranged([slider], above=text, view=view)[0::2] == [text, view]


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
