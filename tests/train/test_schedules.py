"""The schedule at exact points, and its shape at every step."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmcourse.train.schedules import warmup_cosine


def test_exact_points():
    rates = [
        warmup_cosine(s, peak=1.0, warmup_steps=4, total_steps=12, floor=0.2) for s in range(15)
    ]
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    # Eight steps of half a cosine from 1.0 to 0.2 around 0.6.
    for n in range(9):
        assert rates[4 + n] == pytest.approx(0.6 + 0.4 * math.cos(math.pi * n / 8))
    assert rates[8] == pytest.approx(0.6) and rates[12:] == pytest.approx([0.2] * 3)


def test_without_warm_up_the_first_update_is_at_the_peak():
    assert warmup_cosine(0, peak=3e-4, warmup_steps=0, total_steps=1) == 3e-4
    assert warmup_cosine(0, peak=3e-4, warmup_steps=0, total_steps=10) == 3e-4


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.integers(1, 60), st.data())
def test_rises_then_falls_between_its_bounds(total, data):
    warmup = data.draw(st.integers(0, total - 1))
    peak = data.draw(st.floats(1e-6, 1.0))
    floor = data.draw(st.floats(0.0, 1.0)) * peak
    rates = [
        warmup_cosine(s, peak=peak, warmup_steps=warmup, total_steps=total, floor=floor)
        for s in range(total + 3)
    ]
    rise, fall = rates[: warmup + 1], rates[warmup:]
    assert rates[0] > 0 and all(a < b for a, b in pairwise(rise))
    assert rates[warmup] == max(rates) == pytest.approx(peak)
    assert all(a >= b for a, b in pairwise(fall))
    assert rates[total:] == [floor] * 3
    assert [b - a for a, b in pairwise(rise)] == pytest.approx([peak / (warmup + 1)] * warmup)


@pytest.mark.parametrize(
    "changes",
    [
        {"step": -1},
        {"warmup_steps": -1},
        {"warmup_steps": 10},
        {"warmup_steps": 11},
        {"floor": -0.1},
        {"floor": 1.1},
        {"total_steps": 0},
        {"peak": math.nan},
    ],
)
def test_impossible_settings_are_named(changes):
    settings = {"step": 0, "peak": 1.0, "warmup_steps": 2, "total_steps": 10, "floor": 0.0}
    [(name, value)] = changes.items()
    with pytest.raises(ValueError, match=rf"0 <= warmup_steps < total_steps.*{name}={value}"):
        warmup_cosine(**settings | changes)
