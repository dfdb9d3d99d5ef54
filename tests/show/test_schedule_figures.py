"""Learning rates as drawn, against formulas by hand; gradient norms and what was clipped."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest

from llmcourse.show import plot_gradient_norm, plot_schedules
from llmcourse.show.schedules import peak_updates, rates


def test_rates_by_hand():
    linear = rates("linear", 10, peak=1.0, warmup_steps=3, floor=0.3)
    np.testing.assert_allclose(linear, [0.25, 0.5, 0.75, *(1 - 0.1 * np.arange(7))])
    wsd = rates("wsd", 8, peak=2.0, warmup_steps=0, decay_steps=4)
    np.testing.assert_allclose(wsd, [2] * 4 + [2 * (1 - math.sqrt(k / 4)) for k in range(4)])


def test_area_in_updates_at_the_peak():
    assert peak_updates(np.array([1.0, 0.5, 0.0]), 0.5) == 3.0
    with pytest.raises(ValueError, match=r"peak=0\.0"):
        peak_updates(np.ones(3), 0.0)


def test_all_schedules_in_one_figure(drawn):
    ax = drawn(plot_schedules, peak=3e-4, warmup_steps=10, total_steps=90, floor=3e-5).axes[0]
    assert len(ax.lines) == 4 and len({str(line._dash_pattern) for line in ax.lines}) == 4
    for line in ax.lines:
        values = np.asarray(line.get_ydata())
        assert len(values) == 90 and values.max() == pytest.approx(3e-4)
        np.testing.assert_allclose(values[:10], 3e-4 * np.arange(1, 11) / 11)
    cosine = 3e-5 + 2.7e-4 * (1 + np.cos(np.pi * np.arange(80) / 80)) / 2
    np.testing.assert_allclose(ax.lines[0].get_ydata()[10:], cosine)
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    area = np.asarray(ax.lines[0].get_ydata()).sum() / 3e-4
    assert labels[0] == f"cosine\n(as {area:,.0f} updates at the peak)"
    assert ax.get_ylabel() == "learning rate" and ax.get_xlabel() == "optimiser step"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"schedules": []}, "nothing to draw"),
        ({"schedules": ["step"]}, "schedule='step' is unknown"),
        ({"total_steps": 50}, "warmup_steps < total_steps"),
        ({"floor": 1.0}, "floor <= peak"),
    ],
)
def test_bad_schedules_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        plot_schedules(**options)


def history(norms):
    records = [SimpleNamespace(step=n, gradient_norm=v) for n, v in enumerate(norms, start=1)]
    return SimpleNamespace(records=records)


def test_norms_above_the_limit_are_marked(drawn):
    ax = drawn(plot_gradient_norm, history([3.0, 0.5, 1.0, None, 2.0, 0.25]), 1.0).axes[0]
    norms, clipped, limit, left_out = ax.lines
    assert list(norms.get_ydata()) == [3.0, 0.5, 1.0, 2.0, 0.25]
    assert list(norms.get_xdata()) == [1, 2, 3, 5, 6]
    assert list(clipped.get_xdata()) == [1, 5]  # a norm at the limit is let through
    assert set(limit.get_ydata()) == {1.0} and list(left_out.get_xdata()) == [4]
    assert ax.get_title("left") == "2 of 6 updates clipped, 1 left out"
    assert ax.get_yscale() == "log"


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("norms", [[0.0], [None], [0.0, 1e-9], [5.0, 5.0]])
def test_odd_norms_are_drawn(drawn, norms):
    drawn(plot_gradient_norm, history(norms), 1.0)


@pytest.mark.parametrize(
    ("norms", "clip", "message"),
    [
        ([], 1.0, "history is empty"),
        ([1.0], 0.0, r"clip=0\.0"),
        ([1.0], math.inf, "clip=inf"),
        ([1.0, math.nan], 1.0, "gradient norm of step 2"),
        ([-1.0], 1.0, "gradient norm of step 1"),
    ],
)
def test_bad_norms_are_refused(norms, clip, message):
    with pytest.raises(ValueError, match=message):
        plot_gradient_norm(history(norms), clip)
