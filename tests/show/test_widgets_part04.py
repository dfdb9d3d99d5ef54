"""The merge stepper and the schedule designer, without a browser."""

from __future__ import annotations

import re

import numpy as np
import pytest

from llmcourse.show import bpe_stepper, schedule_designer
from llmcourse.show.widgets.bpe_stepper import LONGEST, TEXTS
from llmcourse.show.widgets.schedule_designer import PEAKS, TOTALS
from llmcourse.tokenizers import BPETokenizer, ByteTokenizer
from llmcourse.train.schedules import SCHEDULES, learning_rate, warmup_cosine


@pytest.fixture(scope="module")
def tokenizer() -> BPETokenizer:
    return BPETokenizer.train(["low lower lowest slow slower slowest"] * 3, 268)


@pytest.fixture
def stepper(tokenizer):
    return bpe_stepper(["low lower lowest", "café <b>bold</b> $x$"], tokenizer, max_merges=10)


@pytest.fixture
def designer():
    return schedule_designer(schedule="cosine", peak=1e-3, total=200, step=50)


def shown_tokens(view: str) -> list[bytes]:
    return [bytes.fromhex(token) for token in re.findall(r'data-token="([0-9a-f]*)"', view)]


def shown_pairs(view: str) -> list[tuple[bytes, bytes, str]]:
    found = re.findall(r'data-pair="([0-9a-f]*),([0-9a-f]*)" data-number="(\w+)"', view)
    return [(bytes.fromhex(a), bytes.fromhex(b), number) for a, b, number in found]


def test_stepper_shows_the_tokens_of_every_training_step(stepper):
    text = "low lower lowest"
    for made in range(stepper.step.max + 1):
        stepper.step.value = made
        trained = BPETokenizer.train([text], 256 + made)
        wanted = [trained.token_bytes(number) for number in trained.encode(text)]
        assert shown_tokens(stepper.view.value) == wanted
        assert f"vocabulary <b>{256 + made}</b>" in stepper.view.value
        assert f"<b>{len(wanted) / 16:.2f} tokens per byte</b>" in stepper.view.value
    assert "training ends here" in stepper.view.value


def test_stepper_lists_pairs_best_first_and_names_ties(stepper):
    pairs = shown_pairs(stepper.view.value)
    assert pairs[0] == (b"l", b"o", "3") and pairs[1] == (b"o", b"w", "3")
    assert [int(number) for *_, number in pairs] == sorted(
        (int(number) for *_, number in pairs), reverse=True
    )
    assert "the first of 2 equally frequent pairs: the smallest ids win" in stepper.view.value
    stepper.step.value = 1
    assert "the most frequent pair (3 times)" in stepper.view.value


def test_stepper_encodes_with_the_given_tokenizer(stepper, tokenizer):
    stepper.mode.value = "encoding"
    assert stepper.step.value == 0 and shown_tokens(stepper.view.value) == [
        bytes([b]) for b in b"low lower lowest"
    ]
    assert "the lowest of this piece" in stepper.view.value
    stepper.step.value = stepper.step.max
    ids = tokenizer.encode("low lower lowest")
    assert shown_tokens(stepper.view.value) == [tokenizer.token_bytes(i) for i in ids]
    assert ", ".join(map(str, ids)) in stepper.view.value
    assert f"vocabulary <b>{tokenizer.vocab_size}</b>" in stepper.view.value


def test_stepper_takes_any_text_and_escapes_it(stepper):
    stepper.example.value = "café <b>bold</b> $x$"
    assert stepper.text.value == stepper.example.value and stepper.step.value == 0
    assert "<b>bold</b>" not in stepper.view.value
    assert b"".join(shown_tokens(stepper.view.value)) == stepper.text.value.encode()
    for mode in ("training", "encoding"):
        stepper.mode.value = mode
        stepper.text.value = "<&>" * 3
        assert b"".join(shown_tokens(stepper.view.value)) == b"<&>" * 3
        stepper.text.value = "x"


@pytest.mark.parametrize("mode", ["training", "encoding"])
@pytest.mark.parametrize(
    ("text", "words"),
    [("", "Type a text"), ("x" * (LONGEST + 1), "longer than 2,000 bytes"),
     ("a\ud800b", "lone surrogate")],
)  # fmt: skip
def test_stepper_says_what_it_cannot_show(stepper, mode, text, words):
    stepper.mode.value = mode
    stepper.text.value = text
    assert words in stepper.view.value and stepper.step.disabled
    with pytest.raises(ValueError, match=r"there is nothing to show: .*" + words):
        stepper.static()
    stepper.text.value = "again again"
    assert not stepper.step.disabled and shown_tokens(stepper.view.value)


def test_stepper_without_a_tokenizer_only_trains():
    stepper = bpe_stepper()
    assert stepper.mode.disabled and list(stepper.mode.options) == ["training"]
    for text in TEXTS:  # every given example has something to merge
        stepper.example.value = text
        assert stepper.step.max >= 3
        assert b"".join(shown_tokens(stepper.view.value)) == text.encode()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("mode", ["training", "encoding"])
def test_stepper_static_is_the_present_moment(stepper, mode, drawn):
    stepper.example.value = "café <b>bold</b> $x$"
    stepper.mode.value = mode
    stepper.step.value = min(2, stepper.step.max)
    boxes = drawn(stepper.static).axes[-1]
    assert len(boxes.patches) == len(shown_tokens(stepper.view.value))
    assert boxes.get_title("left").startswith(f"{mode}, {stepper.step.value} of ")


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ([[]], {}, "at least one text"),
        (["text"], {}, "must be a list"),
        ([["a", ""]], {}, "none of them empty"),
        ([["a"], ByteTokenizer()], {}, "not of ByteTokenizer"),
        ([["a"]], {"max_merges": 0}, "max_merges=0"),
    ],
)
def test_stepper_refuses(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        bpe_stepper(*arguments, **options)


def shown_answers(view: str) -> dict[str, float]:
    found = re.findall(r'data-answer="(\w+)" data-rate="([^"]+)"', view)
    return {name: float(rate) for name, rate in found}


def test_designer_draws_the_schedule_itself(designer):
    designer.warmup.value, designer.floor.value = 0.1, 0.2
    settings = {"peak": 1e-3, "warmup_steps": 20, "total_steps": 200, "floor": 2e-4}
    wanted = [warmup_cosine(step, **settings) for step in range(200)]
    np.testing.assert_allclose(designer.rates, wanted)
    assert f"<b>{sum(wanted) / 1e-3:,.0f} updates at the peak</b>" in designer.view.value
    assert f"rate <b>{wanted[50]:.3g}</b>" in designer.view.value


@pytest.mark.parametrize("schedule", list(SCHEDULES))
def test_designer_says_what_a_resumed_run_uses(designer, schedule):
    designer.schedule.value, designer.step.value = schedule, 150
    answers = shown_answers(designer.view.value)
    assert answers == designer.answers()
    assert answers["resumed"] == designer.rates[150] == learning_rate(150, **designer.settings)
    assert answers["anew"] == designer.rates[0]
    # Twice the updates: a stable phase does not notice, the others do.
    if schedule in ("wsd", "constant"):
        assert answers["longer"] == answers["resumed"]
    else:
        assert answers["longer"] > answers["resumed"]


def test_designer_a_run_made_longer_keeps_its_warm_up(designer):
    designer.warmup.value, designer.step.value = 0.5, 99
    assert designer.answers()["longer"] == designer.answers()["resumed"] == designer.rates[99]


@pytest.mark.parametrize(
    ("control", "value"),
    [("schedule", "linear"), ("peak", 3e-3), ("total", 500), ("warmup", 0.3), ("floor", 0.5),
     ("step", 120)],
)  # fmt: skip
def test_designer_every_control_changes_the_view(designer, control, value):
    before = designer.view.value
    getattr(designer, control).value = value
    assert designer.view.value != before


@pytest.mark.parametrize(("control", "value"), [("decay_share", 0.6), ("decay", "linear")])
def test_designer_decay_belongs_to_wsd(designer, control, value):
    assert getattr(designer, control).disabled
    designer.schedule.value = "wsd"
    assert not getattr(designer, control).disabled
    before = designer.view.value
    getattr(designer, control).value = value
    assert designer.view.value != before
    designer.schedule.value = "constant"
    assert designer.decay.disabled and designer.floor.disabled


def test_designer_shorter_run_lowers_the_step(designer):
    designer.step.value = 199
    designer.total.value = 100
    assert designer.step.max == designer.step.value == 99 and len(designer.rates) == 100


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("schedule", list(SCHEDULES))
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_designer_bears_every_corner_of_its_sliders(schedule, share):
    designer = schedule_designer(schedule=schedule, total=TOTALS[0], step=0)
    for control in (designer.warmup, designer.decay_share, designer.floor):
        control.value = control.min + share * (control.max - control.min)
    for step in (0, 99):
        designer.step.value = step
        for peak in (PEAKS[0], PEAKS[-1]):
            designer.peak.value = peak
            assert len(shown_answers(designer.view.value)) == 3
            assert designer.rates.min() >= 0 and designer.rates.max() <= peak * (1 + 1e-12)


@pytest.mark.filterwarnings("error")
def test_designer_static_shows_the_same_curve(designer, drawn):
    designer.step.value = 150
    ax = drawn(designer.static).axes[0]
    anew, longer, own, dot = ax.lines
    np.testing.assert_array_equal(own.get_ydata(), designer.rates)
    np.testing.assert_array_equal(anew.get_ydata(), designer.rates[:50])
    assert longer.get_ydata()[0] == designer.answers()["longer"] and len(longer.get_xdata()) == 50
    assert (dot.get_xdata()[0], dot.get_ydata()[0]) == (150, designer.rates[150])


@pytest.mark.parametrize(
    ("options", "message"),
    [({"schedule": "step"}, "schedule='step' is not there"), ({"peak": 0.5}, "peak=0.5 is not"),
     ({"total": 7}, "total=7 is not there"), ({"step": 1000}, "step=1000 .* from 0 to 999"),
     ({"step": True}, "step=True")],
)  # fmt: skip
def test_designer_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        schedule_designer(**options)


def test_what_a_notebook_compares_is_stable(stepper, designer, capsys):
    shown = []
    for widget in (stepper, designer):
        shown.append(widget._repr_mimebundle_()["text/plain"])
        assert widget.model_id not in repr(widget)
    stepper.step.value, designer.schedule.value = 2, "wsd"
    assert shown == [repr(stepper), repr(designer)]
    assert shown == ["BPEStepper(up to 10 merges)", "ScheduleDesigner(4 schedules)"]
    assert capsys.readouterr() == ("", "")


def test_controls_are_native_and_named(stepper, designer):
    import ipywidgets

    native = (
        ipywidgets.Text, ipywidgets.IntSlider, ipywidgets.FloatSlider, ipywidgets.Dropdown,
        ipywidgets.SelectionSlider,
    )  # fmt: skip
    counts = []
    for widget in (stepper, designer):
        *above, columns, view = widget.children
        assert view is widget.view
        controls = [*above, *(c for column in columns.children for c in column.children)]
        assert all(isinstance(control, native) for control in controls)
        assert len({control.description for control in controls} - {""}) == len(controls)
        counts.append(len(controls))
    assert counts == [4, 8]
