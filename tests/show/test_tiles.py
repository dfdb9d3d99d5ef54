"""Tiles and the online softmax, against plain loops over cells and the softmax of torch."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from llmcourse.model.masks import Visibility
from llmcourse.show import plot_running_maximum, plot_tiles
from llmcourse.show.masks import visible_table
from llmcourse.show.running import exact_output, example, running_softmax, tile_rows
from llmcourse.show.tiles import FULL, PARTLY, SKIPPED, schedule, tile_states

MASKS = {
    "causal": Visibility(13, 13),
    "window": Visibility(13, 13, window=3),
    "window and sinks": Visibility(13, 13, window=3, sinks=2),
    "everything": Visibility(13, 13, causal=False),
    "with a cache": Visibility(5, 13),
}


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("tile", [1, 4, 5, 13, 20])
def test_states_against_a_loop_over_cells(name, tile):
    visible = visible_table(MASKS[name])
    t, s = visible.shape
    states = tile_states(visible, tile)
    assert states.shape == (math.ceil(t / tile), math.ceil(s / tile))
    for i in range(states.shape[0]):
        for j in range(states.shape[1]):
            seen = [
                bool(visible[q, k])
                for q in range(i * tile, min(t, (i + 1) * tile))
                for k in range(j * tile, min(s, (j + 1) * tile))
            ]
            wanted = FULL if all(seen) else PARTLY if any(seen) else SKIPPED
            assert states[i, j] == wanted


def test_causal_tiles_by_hand():
    states = tile_states(visible_table(Visibility(8, 8)), 4)
    assert states.tolist() == [[PARTLY, SKIPPED], [FULL, PARTLY]]
    assert schedule(states) == [(0, 0), (1, 0), (1, 1)]


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("tile", [1, 4, 5, 20])
def test_running_softmax_ends_at_the_softmax(name, tile):
    visible = visible_table(MASKS[name])
    t, s = visible.shape
    scores, values = example(t, s, d=3, seed=4)
    masked = torch.from_numpy(np.where(visible, scores, -math.inf))
    wanted = (masked.softmax(-1) @ torch.from_numpy(values)).numpy()  # (T, D)
    for query in range(t):
        steps = running_softmax(scores[query], values, tile_rows(visible, query, tile), tile)
        assert [(query // tile, step.column) for step in steps] == [
            place for place in schedule(tile_states(visible, tile)) if place[0] == query // tile
        ]
        np.testing.assert_allclose(steps[-1].output, wanted[query], atol=1e-13)
        assert steps[-1].error < 1e-13
        total = masked[query].logsumexp(-1).item()
        assert steps[-1].maximum + math.log(steps[-1].total) == pytest.approx(total, abs=1e-12)


def test_every_step_is_the_softmax_over_the_keys_so_far():
    visible = visible_table(MASKS["causal"])
    scores, values = example(13, 13, seed=1)
    for step in running_softmax(scores[12], values, visible[12], 4):
        keys = min(13, (step.column + 1) * 4)
        assert step.maximum == scores[12, :keys].max()
        assert step.total == pytest.approx(np.exp(scores[12, :keys] - step.maximum).sum())
        wanted = exact_output(scores[12, :keys], values[:keys], np.ones(keys, dtype=bool))
        np.testing.assert_allclose(step.output, wanted, atol=1e-13)


def test_corrections_are_the_falls_of_the_maximum():
    scores, values = example(1, 16, seed=2)
    steps = running_softmax(scores[0], values, np.ones(16, dtype=bool), 4)
    assert steps[0].correction == 1.0
    for before, after in itertools.pairwise(steps):
        assert after.maximum >= before.maximum
        assert after.correction == pytest.approx(math.exp(before.maximum - after.maximum))
    assert min(step.correction for step in steps) < 1  # the example has something to show


def test_a_tile_seen_only_by_a_neighbour_changes_nothing():
    visible = visible_table(Visibility(8, 8, window=2))
    scores, values = example(8, 8)
    # Query 7 sees keys 6 and 7; its tile row (4 to 7) also computes the keys 0 to 3, for query 4.
    steps = running_softmax(scores[7], values, tile_rows(visible, 7, 4), 4)
    assert [step.column for step in steps] == [0, 1]
    assert steps[0].maximum == -math.inf and steps[0].total == 0
    assert not steps[0].output.any()
    assert steps[1].error < 1e-14 and steps[1].correction == 1.0


def test_a_query_that_sees_nothing_gets_zero():
    steps = running_softmax(np.ones(4), np.ones((4, 2)), np.zeros(4, dtype=bool), 2)
    assert steps == []
    assert exact_output(np.ones(4), np.ones((4, 2)), np.zeros(4, dtype=bool)).tolist() == [0, 0]


def test_large_scores_do_not_overflow():
    scores = np.array([1000.0, -1000.0, 2000.0, 1999.0])
    steps = running_softmax(scores, np.eye(4), np.ones(4, dtype=bool), 2)
    assert steps[1].correction == 0.0 and np.isfinite(steps[1].output).all()
    np.testing.assert_allclose(steps[1].output[2], 1 / (1 + math.exp(-1)), atol=1e-13)


def facecolors(ax):
    """One filled rectangle for each tile, in the order of the rows."""
    return [patch.get_facecolor() for patch in ax.patches if patch.get_zorder() == 0.5]


def test_tiles_figure_counts_and_colours(drawn):
    figure = drawn(plot_tiles, MASKS["window and sinks"], 4, current=(2, 0), query=9, title="x")
    ax = figure.axes[0]
    states = tile_states(visible_table(MASKS["window and sinks"]), 4)
    texts = [text.get_text() for text in ax.get_legend().get_texts()]
    assert texts == [
        f"full: {(states == FULL).sum()}",
        f"partly masked: {(states == PARTLY).sum()}",
        f"skipped: {(states == SKIPPED).sum()}",
    ]
    found = facecolors(ax)
    assert len(found) == states.size
    for kind in (FULL, PARTLY, SKIPPED):
        shades = {c for c, state in zip(found, states.flat, strict=True) if state == kind}
        assert len(shades) <= 1
    assert ax.get_title("left") == "x"


def test_tiles_are_apart_in_grey():
    from llmcourse.show import style
    from llmcourse.show.tiles import FILL

    lightness = [style.lightness(c) for c in (FILL[FULL], FILL[PARTLY], "#f3f3f3")]
    assert min(np.diff(lightness)) > 10


def test_ticks_are_positions_also_with_a_cache(drawn):
    ax = drawn(plot_tiles, MASKS["with a cache"], 4).axes[0]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["8", "12"]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["0", "4", "8", "12"]


def test_running_figure_draws_the_steps(drawn):
    visibility = MASKS["causal"]
    scores, values = example(13, 13, seed=3)
    figure = drawn(plot_running_maximum, scores, values, visibility, query=11, tile=4)
    top, middle, bottom = figure.axes
    visible = visible_table(visibility)
    steps = running_softmax(scores[11], values, tile_rows(visible, 11, 4), 4)
    np.testing.assert_array_equal(top.lines[0].get_ydata(), scores[11, :12])
    assert [line.get_ydata()[0] for line in top.lines[1:4]] == [step.maximum for step in steps]
    assert [line.get_ydata()[0] for line in middle.lines[:3]] == [step.total for step in steps]
    outputs = [line for line in bottom.lines if str(line.get_label()).startswith("channel")]
    np.testing.assert_array_equal(outputs[1].get_ydata(), [step.output[1] for step in steps])


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (3, 32)])
def test_odd_shapes_are_drawn(drawn, shape):
    visibility = Visibility(*shape)
    drawn(plot_tiles, visibility, 4)
    scores, values = example(*shape, d=1)
    drawn(plot_running_maximum, scores, values, visibility, query=shape[0] - 1, tile=8)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda v, s, x: plot_tiles(v, 0), "tile=0"),
        (lambda v, s, x: plot_tiles(v, 4, current=(0, 4)), r"tile \(0, 4\) does not exist"),
        (lambda v, s, x: plot_tiles(v, 4, query=13), "query 13 does not exist"),
        (lambda v, s, x: plot_running_maximum(s[:4], x, v, query=0), r"\(T, S\) = \(13, 13\)"),
        (lambda v, s, x: plot_running_maximum(s, x, v, query=-1), "query -1"),
        (lambda v, s, x: plot_running_maximum(s, x[:4], v, query=0), "must share S"),
        (lambda v, s, x: running_softmax(s[0], x, visible_table(v)[0], True), "tile=True"),
    ],
)
def test_bad_input_is_refused_and_leaves_no_figure(call, message):
    scores, values = example(13, 13)
    with pytest.raises(ValueError, match=message):
        call(MASKS["causal"], scores, values)
