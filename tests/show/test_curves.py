"""Loss curves: the floor at the right height, the gap in the right numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest

from llmcourse.show import plot_history
from llmcourse.show.curves import gap_text, smooth
from llmcourse.train import History, StepRecord


def run(losses, validation=()) -> History:
    measured = dict(validation)
    return History(
        [
            StepRecord(
                step=step,
                loss=loss,
                learning_rate=1e-3 / step,
                gradient_norm=0.5 * step,
                tokens=step * 64,
                seconds=step * 0.1,
                validation_loss=measured.get(step),
            )
            for step, loss in enumerate(losses, start=1)
        ]
    )


FALLING = [5.5 * 0.98**i + 0.6 for i in range(200)]


def line(ax, label):
    [found] = [one for one in ax.lines if one.get_label() == label]
    return found


def test_raw_loss_floor_and_validation_are_where_they_belong(drawn):
    history = run(FALLING, [(100, 1.5), (200, 0.8)])
    ax = drawn(plot_history, history, floor=0.55).axes[0]
    assert set(line(ax, "entropy floor 0.55").get_ydata()) == {0.55}
    points = line(ax, "validation")
    assert list(points.get_xdata()) == [100, 200] and list(points.get_ydata()) == [1.5, 0.8]
    raw = ax.lines[0]
    assert list(raw.get_ydata()) == FALLING and list(raw.get_xdata()) == list(range(1, 201))
    assert raw.get_alpha() < 0.4


def test_gap_is_that_of_the_last_validation(drawn):
    ax = drawn(plot_history, run(FALLING, [(200, 0.8)]), floor=0.5).axes[0]
    texts = [text.get_text() for text in ax.texts]
    assert "validation ends 0.30 nats per byte (60%) above the floor" in texts


def test_gap_without_validation_is_that_of_the_smoothed_loss(drawn):
    ax = drawn(plot_history, run([2.0] * 50), floor=1.6, unit="nats per token").axes[0]
    assert "training ends 0.40 nats per token (25%) above the floor" in [
        text.get_text() for text in ax.texts
    ]


def test_the_best_of_several_runs_is_measured(drawn):
    runs = [("a", run(FALLING, [(200, 1.2)])), ("b", run(FALLING, [(200, 0.9)]))]
    ax = drawn(plot_history, runs, floor=0.6).axes[0]
    assert "b ends 0.30 nats per byte (50%) above the floor" in [t.get_text() for t in ax.texts]
    first, second = line(ax, "a, training"), line(ax, "b, training")
    assert first.get_linestyle() != second.get_linestyle()
    assert line(ax, "a, validation").get_marker() != line(ax, "b, validation").get_marker()


def test_gap_text_says_below_when_it_is_below():
    assert gap_text(0.4, 0.5) == "0.10 nats per byte (20%) below the floor"
    assert gap_text(0.4, 0.0) == "0.40 nats per byte above the floor"


def test_panels_show_the_records(drawn):
    history = run(FALLING)
    panels = ["learning_rate", "gradient_norm"]
    _, rate, norm = drawn(plot_history, history, panels=panels).axes
    assert list(rate.lines[0].get_ydata()) == [r.learning_rate for r in history.records]
    assert list(norm.lines[0].get_ydata()) == [r.gradient_norm for r in history.records]
    assert "step" in norm.get_xlabel() and rate.get_ylabel() == "learning rate"


def test_bands_are_drawn_at_their_heights(drawn):
    ax = drawn(
        plot_history, run(FALLING), bands=[(1, 5.4, 5.7), (200, 0.5, 1.0), ("start", 5.4, 5.7)]
    ).axes[0]
    [ribbon] = [c for c in ax.collections if c.get_label() == "usual range"]
    corners = {(round(x, 3), round(y, 3)) for x, y in ribbon.get_paths()[0].vertices}
    assert {(1, 5.4), (1, 5.7), (200, 0.5), (200, 1.0)} <= corners
    stripe = ax.patches[0].get_extents().transformed(ax.transData.inverted())
    assert (stripe.y0, stripe.y1) == pytest.approx((5.4, 5.7))


def test_logarithmic_steps(drawn):
    ax = drawn(plot_history, run(FALLING), log_x=True).axes[0]
    assert ax.get_xscale() == "log" and "logarithmic" in ax.get_xlabel()


def test_units_stand_on_the_axis(drawn):
    ax = drawn(plot_history, run(FALLING), unit="nats per token").axes[0]
    assert ax.get_ylabel() == "loss (nats per token)" and ax.get_xlabel() == "optimiser step"


def test_a_run_of_one_step_is_visible(drawn):
    ax = drawn(plot_history, run([5.5]), floor=0.5).axes[0]
    assert line(ax, "training").get_marker() == "o"


def test_a_diverged_run_is_drawn_as_far_as_it_went(drawn):
    losses = [5.0, 4.0, math.nan, math.inf]
    ax = drawn(plot_history, run(losses), floor=0.5).axes[0]
    assert np.isfinite(ax.get_ylim()).all()


@pytest.mark.parametrize(
    ("history", "options", "message"),
    [
        (run([]), {}, "the history is empty"),
        ([], {}, "the list is empty"),
        ([("a", run([]))], {}, "of 'a' is empty"),
        ([run([1.0])], {}, r"list of \(label, history\)"),
        (run([1.0]), {"floor": -1.0}, "at least 0, not -1.0"),
        (run([1.0]), {"floor": math.nan}, "not nan"),
        (run([1.0]), {"bands": [(1, 3.0, 2.0)]}, "low <= high"),
        (run([1.0]), {"panels": ["speed"]}, "unknown panel 'speed'"),
        (run([1.0]), {"span": 0}, "span must be at least 1"),
    ],
)
def test_bad_input_says_what_is_wrong_and_leaves_no_figure(history, options, message):
    with pytest.raises(ValueError, match=message):
        plot_history(history, **options)


def test_smoothing_against_a_plain_loop():
    values = np.random.default_rng(0).normal(size=57)
    wanted = values
    for _ in range(2):  # a span of 12 is two passes that reach 3 to either side
        wanted = [
            np.mean(wanted[i - min(3, i) : i + min(3, i) + 1]) for i in range(len(values))
        ]  # fmt: skip
    np.testing.assert_allclose(smooth(values, 12), wanted)


def test_smoothing_keeps_a_straight_line_and_does_not_lag():
    straight = np.linspace(5, 1, 100)
    np.testing.assert_allclose(smooth(straight, 20)[:85], straight[:85])


def test_smoothing_of_span_one_changes_nothing():
    values = [3.0, 1.0, 2.0]
    assert smooth(values, 1).tolist() == values


def test_smoothing_passes_over_what_is_no_number():
    values = smooth([1.0, math.nan, 3.0, math.inf, 5.0], 3)
    assert np.isfinite(values).all()
    assert values[1] == 2.0  # the mean of its two neighbours
