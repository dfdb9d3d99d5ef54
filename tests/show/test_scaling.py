"""Costs against length, and ablations: every number given is drawn, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from llmcourse.show import plot_ablation, plot_scaling
from llmcourse.show.ablations import differences
from llmcourse.show.scaling import time_text

ROWS = [
    {"implementation": name, "tokens": t, "bytes": t**power, "seconds": 1e-6 * t}
    for name, power in (("naive", 2), ("flash", 1))
    for t in (2048, 1024, 4096)
]


def test_lines_are_the_rows_in_ascending_length(drawn):
    figure = drawn(plot_scaling, ROWS)
    memory, time = figure.axes
    lines = [line for line in memory.lines if line.get_marker() != "None"]
    assert [list(line.get_xdata()) for line in lines] == [[1024, 2048, 4096]] * 2
    assert list(lines[0].get_ydata()) == [1024**2, 2048**2, 4096**2]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["naive", "flash"]
    assert memory.get_xscale() == memory.get_yscale() == time.get_yscale() == "log"


def test_guides_have_the_slopes_they_name(drawn):
    ax = drawn(plot_scaling, ROWS, ["bytes"]).axes[0]
    guides = [line for line in ax.lines if line.get_marker() == "None"]
    for line, slope in zip(guides, (1, 2), strict=True):
        x, y = np.log(line.get_xdata()), np.log(line.get_ydata())
        assert (y[1] - y[0]) / (x[1] - x[0]) == pytest.approx(slope)
    assert [text.get_text() for text in ax.texts] == ["∝ T", "∝ T²"]


def test_an_implementation_keeps_its_look_in_both_panels(drawn):
    rows = [*ROWS, {"implementation": "sdpa", "tokens": 1024, "seconds": 1e-3}]
    memory, time = drawn(plot_scaling, rows[3:] + rows[:3]).axes
    look = {line.get_color() for line in memory.lines if line.get_marker() == "o"}
    assert look == {line.get_color() for line in time.lines if line.get_marker() == "o"}
    assert sum(line.get_marker() != "None" for line in time.lines) == 3


@pytest.mark.parametrize(
    ("rows", "quantities", "message"),
    [
        ([], None, "nothing to draw"),
        (ROWS, ["energy"], "unknown quantity 'energy'"),
        ([{"tokens": 1, "bytes": 1}], None, "row 0 has no 'implementation'"),
        ([{"implementation": "a", "tokens": 8, "bytes": 0}], None, r"\(a, 8 tokens\): bytes=0"),
        ([{"implementation": "a", "tokens": 8, "bytes": 1}], ["seconds"], "nothing to draw"),
    ],
)
def test_bad_rows_are_refused(rows, quantities, message):
    with pytest.raises(ValueError, match=message):
        plot_scaling(rows, quantities)


@pytest.mark.parametrize(
    ("seconds", "text"), [(2e-6, "2 µs"), (0.0015, "1.5 ms"), (0.9996, "1 s"), (12.0, "12 s")]
)
def test_times_in_words(seconds, text):
    assert time_text(seconds) == text


RESULTS = {"base": [1.5, 1.6, 1.7], "better": [1.4, 1.3, 1.6], "worse": [1.5, 1.7, 1.9]}


def dots(ax):
    return [line.get_xdata() for line in ax.lines if line.get_marker() == "o"]


def test_ablation_shows_differences_seed_by_seed(drawn):
    ax = drawn(plot_ablation, RESULTS, "base").axes[0]
    np.testing.assert_allclose(dots(ax), [[-0.1, -0.3, -0.1], [0.0, 0.1, 0.2]], atol=1e-12)
    bars = ax.patches
    np.testing.assert_allclose([bar.get_width() for bar in bars], [-0.5 / 3, 0.1])
    assert [bar.get_hatch() for bar in bars] == [None, "////"]  # worse is hatched
    assert [label.get_text() for label in ax.get_yticklabels()] == ["better", "worse"]
    assert [text.get_text() for text in ax.texts] == ["-0.167", "+0.100", "mean"]
    low, high = ax.get_xlim()
    assert low < -0.3 and high > 0.2


def test_ablation_without_a_baseline_starts_at_zero(drawn):
    ax = drawn(plot_ablation, RESULTS).axes[0]
    np.testing.assert_allclose(dots(ax), list(RESULTS.values()))
    assert ax.get_xlim()[0] == 0 and ax.get_xlim()[1] > 1.9


@pytest.mark.filterwarnings("error")
def test_no_difference_at_all_is_drawn(drawn):
    drawn(plot_ablation, {"a": [1.0], "b$": [1.0]}, "a")


@pytest.mark.parametrize(
    ("results", "baseline", "message"),
    [
        ({}, None, "nothing to draw"),
        ({"a": []}, None, "a must have one number for each seed"),
        ({"a": [1.0]}, "b", "no variant 'b'; there are a"),
        ({"a": [1.0]}, "a", "nothing to compare with 'a'"),
        ({"a": [1.0, 2.0], "b": [1.0]}, "a", "b has 1 seeds but a has 2"),
        ({"a": [float("nan")]}, None, "NaN"),
    ],
)
def test_bad_results_are_refused(results, baseline, message):
    with pytest.raises(ValueError, match=message):
        plot_ablation(results, baseline)


def test_differences_leave_the_baseline_out():
    assert list(differences(RESULTS, "worse")) == ["base", "better"]
