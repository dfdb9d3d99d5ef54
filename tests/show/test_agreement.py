"""Runs compared: the differences drawn are those of the losses; one bit is not called none."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from llmcourse.show import plot_accumulation, plot_agreement, plot_resume
from llmcourse.show.agreement import EPSILON, loss_differences

LOSSES = np.linspace(3.0, 1.0, 20)


def run(losses, first: int = 1):
    return SimpleNamespace(steps=list(range(first, first + len(losses))), losses=list(losses))


def test_differences_are_taken_at_common_steps():
    steps, gaps = loss_differences(run([1.0, 2.0, 3.0]), run([2.5, 3.5, 9.0], first=2))
    assert steps.tolist() == [2, 3] and gaps.tolist() == [0.5, 0.5]


def test_agreement_draws_losses_and_differences(drawn):
    other = LOSSES + 0.01 * (np.arange(20) % 3)
    pairs = [("one", run(LOSSES)), ("two", run(LOSSES)), ("three", run(other))]
    above, below = drawn(plot_agreement, pairs, unit="nats per byte", marks=[(5, "here")]).axes
    np.testing.assert_array_equal(above.lines[0].get_ydata(), LOSSES)
    np.testing.assert_array_equal(above.lines[2].get_ydata(), other)
    assert set(below.lines[0].get_ydata()) == {0.0}
    np.testing.assert_allclose(below.lines[1].get_ydata(), other - LOSSES)
    assert above.get_title("left") == "largest difference 0.02 nats per byte"
    assert "here" in [text.get_text() for text in above.texts]
    assert below.get_ylim() == pytest.approx((-below.get_ylim()[1], below.get_ylim()[1]))
    assert above.lines[0].get_linewidth() > 2 * above.lines[1].get_linewidth()  # seen beneath


def test_one_bit_is_not_called_identical(drawn):
    import matplotlib.pyplot as plt

    same = plot_agreement([("a", run(LOSSES)), ("b", run(LOSSES))])
    assert same.axes[0].get_title("left").startswith("identical: all 20 losses")
    plt.close(same)
    other = LOSSES.copy()
    other[7] = np.nextafter(other[7], 9)
    title = drawn(plot_agreement, [("a", run(LOSSES)), ("b", run(other))]).axes[0].get_title("left")
    assert title == "largest difference 4.4e-16 nats per token"


def test_a_loss_that_is_no_number_is_not_passed_over(drawn):
    broken = [*LOSSES[:-1], float("nan")]
    pairs = [("a", run(LOSSES)), ("b", run(LOSSES + 1)), ("c", run(broken))]
    assert "nan" in drawn(plot_agreement, pairs).axes[0].get_title("left")


def test_smoothing_is_the_same_for_losses_and_differences(drawn):
    noisy = LOSSES + np.where(np.arange(20) % 2, 0.1, -0.1)
    pairs = [("a", run(LOSSES)), ("b", run(noisy))]
    above, below = drawn(plot_agreement, pairs, span=8).axes
    gap = np.asarray(above.lines[1].get_ydata()) - np.asarray(above.lines[0].get_ydata())
    np.testing.assert_allclose(below.lines[0].get_ydata(), gap, atol=1e-12)
    assert np.abs(gap[4:-4]).max() < 0.05


def test_resume_shows_the_kill_and_what_is_done_twice(drawn):
    figure = drawn(plot_resume, run(LOSSES), run(LOSSES[:12]), run(LOSSES[8:], first=9))
    above, below = figure.axes
    assert above.get_title("left") == "identical: all 24 losses compared are equal, bit by bit"
    words = [text.get_text() for text in above.texts]
    assert words == ["from the checkpoint\nof step 8: done twice", "killed after step 12"]
    assert [len(line.get_xdata()) for line in above.lines[:3]] == [20, 12, 12]
    shaded = above.patches[0]
    assert (shaded.get_x(), shaded.get_x() + shaded.get_width()) == (8, 12)
    assert below.get_ylim() == pytest.approx((-EPSILON, EPSILON))


def test_a_resume_that_starts_again_is_seen(drawn):
    """The trap: random state or data position not saved."""
    wrong = LOSSES[8:] + 0.05
    figure = drawn(plot_resume, run(LOSSES), run(LOSSES[:12]), run(wrong, first=9))
    assert figure.axes[0].get_title("left") == "largest difference 0.05 nats per token"


def test_a_resume_from_the_very_step_of_the_kill_has_nothing_done_twice(drawn):
    figure = drawn(plot_resume, run(LOSSES), run(LOSSES[:12]), run(LOSSES[12:], first=13))
    assert not figure.axes[0].patches
    assert [text.get_text() for text in figure.axes[0].texts] == ["killed after step 12"]


def test_accumulation_keeps_exact_zeros_in_view(drawn):
    rows = [
        {"micro_batches": n, "difference": d, "way": way}
        for way, values in (("weighted", (1e-7, 0.0)), ("mean of means", (0.3, 0.0)))
        for n, d in zip((4, 1), values, strict=True)
    ]
    ax = drawn(plot_accumulation, rows).axes[0]
    assert [list(line.get_xdata()) for line in ax.lines[:2]] == [[1, 4]] * 2
    assert list(ax.lines[0].get_ydata()) == [0.0, 1e-7]
    assert set(ax.lines[2].get_ydata()) == {EPSILON}
    assert ax.get_ylim()[0] == 0 and ax.get_ylim()[1] > 0.3
    assert ax.get_yscale() == "symlog"
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels[:2] == ["weighted", "mean of means"]


@pytest.mark.filterwarnings("error")
def test_a_single_way_needs_no_name(drawn):
    drawn(plot_accumulation, [{"micro_batches": 1, "difference": 0.0}])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: plot_agreement([("a", run(LOSSES))]), "at least two runs are compared, got 1"),
        (lambda: plot_agreement([("a", run(LOSSES)), ("b", run([]))]), "history of 'b' is empty"),
        (
            lambda: plot_agreement([("a", run([1.0])), ("b", run([1.0], first=2))]),
            "no step in common",
        ),
        (
            lambda: plot_agreement(
                [("a", run([1.0])), ("b", SimpleNamespace(steps=[1, 2], losses=[1.0]))]
            ),
            "'b' has 2 steps, 1 losses",
        ),
        (
            lambda: plot_resume(run(LOSSES), run(LOSSES[:5]), run(LOSSES[7:], first=8)),
            "steps 6 to 7 are missing",
        ),
        (
            lambda: plot_agreement([("a", run(LOSSES)), ("b", run(LOSSES))], span=0),
            "span must be at least 1 record, not 0",
        ),
        (lambda: plot_accumulation([]), "no rows"),
        (lambda: plot_accumulation([{"difference": 1.0}]), "row 0 has no 'micro_batches'"),
        (
            lambda: plot_accumulation([{"micro_batches": 0, "difference": 1.0}]),
            "micro_batches=0 must be at least 1",
        ),
        (
            lambda: plot_accumulation([{"micro_batches": 1, "difference": float("nan")}]),
            "difference=nan",
        ),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
