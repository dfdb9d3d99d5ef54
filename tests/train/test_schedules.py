"""The schedules at exact points, and their shapes at every step."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmcourse.train.schedules import (
    SCHEDULES,
    constant,
    learning_rate,
    warmup_cosine,
    warmup_linear,
    warmup_stable_decay,
)

ALL = [pytest.param(function, id=name) for name, function in SCHEDULES.items()]


def test_exact_points():
    rates = [
        warmup_cosine(s, peak=1.0, warmup_steps=4, total_steps=12, floor=0.2) for s in range(15)
    ]
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    # Eight steps of half a cosine from 1.0 to 0.2 around 0.6.
    for n in range(9):
        assert rates[4 + n] == pytest.approx(0.6 + 0.4 * math.cos(math.pi * n / 8))
    assert rates[8] == pytest.approx(0.6) and rates[12:] == pytest.approx([0.2] * 3)


def test_exact_points_of_the_straight_line():
    rates = [
        warmup_linear(s, peak=1.0, warmup_steps=4, total_steps=12, floor=0.2) for s in range(15)
    ]
    assert rates == pytest.approx(
        [0.2, 0.4, 0.6, 0.8, 1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.2, 0.2]
    )


@pytest.mark.parametrize(
    ("decay", "falling"),
    [
        ("linear", [1.0, 0.8, 0.6, 0.4]),
        # 1 - sqrt(n / 4) of the way from 0.2 to 1.0, for n = 0 to 3
        ("1-sqrt", [1.0, 0.6, 0.2 + 0.8 * (1 - 2**-0.5), 0.2 + 0.8 * (1 - 3**0.5 / 2)]),
    ],
)
def test_exact_points_of_warm_up_stable_decay(decay, falling):
    rates = [
        warmup_stable_decay(
            s, peak=1.0, warmup_steps=3, total_steps=12, floor=0.2, decay_steps=4, decay=decay
        )
        for s in range(14)
    ]
    assert rates == pytest.approx([0.25, 0.5, 0.75, *[1.0] * 5, *falling, 0.2, 0.2])


def test_the_stable_part_does_not_know_how_long_the_run_will_be():
    settings = {"peak": 0.3, "warmup_steps": 5, "decay_steps": 10}
    for step in range(41):
        short = warmup_stable_decay(step, total_steps=50, **settings)
        assert short == warmup_stable_decay(step, total_steps=1000, **settings)


@pytest.mark.parametrize(
    ("warmup", "total", "last"), [(5, 100, 80), (0, 3, 2), (95, 100, 95), (0, 1, 0)]
)
def test_the_fall_takes_a_fifth_of_the_run_unless_told(warmup, total, last):
    rates = [
        warmup_stable_decay(s, peak=1.0, warmup_steps=warmup, total_steps=total)
        for s in range(total + 1)
    ]
    assert [s for s, rate in enumerate(rates) if rate == 1.0] == list(range(warmup, last + 1))


def test_constant_stays():
    rates = [constant(s, peak=0.5, warmup_steps=3, total_steps=5, floor=0.1) for s in range(9)]
    assert rates == [0.125, 0.25, 0.375, *[0.5] * 6]


@pytest.mark.parametrize("schedule", ALL)
def test_without_warm_up_the_first_update_is_at_the_peak(schedule):
    assert schedule(0, peak=3e-4, warmup_steps=0, total_steps=1) == 3e-4
    assert schedule(0, peak=3e-4, warmup_steps=0, total_steps=10) == 3e-4


@pytest.mark.parametrize("schedule", ALL)
@settings(max_examples=60, deadline=None, derandomize=True)
@given(total=st.integers(1, 60), data=st.data())
def test_rises_then_falls_between_its_bounds(schedule, total, data):
    warmup = data.draw(st.integers(0, total - 1))
    peak = data.draw(st.floats(1e-6, 1.0))
    floor = data.draw(st.floats(0.0, 1.0)) * peak
    rates = [
        schedule(s, peak=peak, warmup_steps=warmup, total_steps=total, floor=floor)
        for s in range(total + 3)
    ]
    rise, fall = rates[: warmup + 1], rates[warmup:]
    assert rates[0] > 0 and all(a < b for a, b in pairwise(rise))
    assert rates[warmup] == max(rates) == pytest.approx(peak)
    assert all(a >= b for a, b in pairwise(fall))
    assert rates[total:] == [peak if schedule is constant else floor] * 3
    assert [b - a for a, b in pairwise(rise)] == pytest.approx([peak / (warmup + 1)] * warmup)


@pytest.mark.parametrize("schedule", ALL)
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
def test_impossible_settings_are_named(schedule, changes):
    settings = {"step": 0, "peak": 1.0, "warmup_steps": 2, "total_steps": 10, "floor": 0.0}
    [(name, value)] = changes.items()
    with pytest.raises(ValueError, match=rf"0 <= warmup_steps < total_steps.*{name}={value}"):
        schedule(**settings | changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"decay_steps": 0}, "1 <= decay_steps <= total_steps - warmup_steps, got decay_steps=0"),
        ({"decay_steps": 9}, "1 <= decay_steps <= total_steps - warmup_steps, got decay_steps=9"),
        ({"decay": "cosine"}, r"decay='cosine' is unknown; choose one of \['1-sqrt', 'linear'\]"),
    ],
)
def test_an_impossible_fall_is_named_at_every_step(changes, message):
    for step in (0, 5, 100):
        with pytest.raises(ValueError, match=message):
            warmup_stable_decay(step, peak=1.0, warmup_steps=2, total_steps=10, **changes)


class TestByName:
    settings: ClassVar = {"peak": 0.4, "warmup_steps": 3, "total_steps": 20, "floor": 0.1}

    @pytest.mark.parametrize("name", SCHEDULES)
    def test_gives_what_the_schedule_gives(self, name):
        for step in range(25):
            wanted = SCHEDULES[name](step, **self.settings)
            assert learning_rate(step, schedule=name, **self.settings) == wanted

    def test_the_names_mean_different_schedules(self):
        rates = {n: learning_rate(18, schedule=n, **self.settings) for n in SCHEDULES}
        assert len(set(rates.values())) == len(rates) == 4
        assert learning_rate(18, **self.settings) == rates["cosine"]

    def test_settings_of_its_own_reach_the_schedule(self):
        more = {"decay_steps": 8, "decay": "linear"}
        assert learning_rate(16, schedule="wsd", **self.settings, **more) == pytest.approx(0.25)

    def test_strangers_are_named(self):
        with pytest.raises(ValueError, match=r"schedule='cos' is unknown; choose one of \['cosine"):
            learning_rate(0, schedule="cos", **self.settings)
        with pytest.raises(ValueError, match=r"'cosine' has the settings .*decay_steps is not one"):
            learning_rate(0, **self.settings, decay_steps=4)
        with pytest.raises(ValueError, match=r"peak is missing, warmup_steps is missing"):
            learning_rate(0, schedule="linear", total_steps=4)
