"""Loads, classes and capacity: shares that add up, starving experts named, drops where they are."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from llmcourse.model.experts_config import Experts
from llmcourse.model.router import Router
from llmcourse.show import (
    class_shares,
    dropped_by_position,
    plot_capacity,
    plot_expert_classes,
    plot_expert_load,
    plot_final_load,
)
from llmcourse.show.expert_load import verdict


def routed(batch=(3, 5), **experts):
    """A real router's decision about random tokens."""
    config = Experts(**{"n_experts": 4, "n_active": 2, **experts})
    router = Router(8, config, std=0.5, generator=torch.Generator().manual_seed(1))
    x = torch.randn(batch[0] * batch[1], 8, generator=torch.Generator().manual_seed(2))
    return router(x, batch, nn.Identity())


def arm(*rows):
    loads = np.array(rows)
    return {"steps": np.arange(len(rows)) * 10, "load": loads / loads.sum(1, keepdims=True)}


EVEN = arm([1, 1, 1, 1], [0.9, 1.1, 1, 1])
BAD = arm([1, 1, 1, 1], [0.05, 2.3, 1, 0.65])


def words(ax):
    return [text.get_text() for text in ax.texts]


def test_load_panels_name_the_starving_and_the_overfull(drawn):
    figure = drawn(plot_expert_load, {"$none$": BAD, "balanced": EVEN}, title="t")
    bad, even = figure.axes
    for ax, data in ((bad, BAD), (even, EVEN)):
        curves = [
            line for line in ax.lines if len(line.get_xdata()) == 2 and line.get_xdata()[1] == 10
        ]
        got = np.array([line.get_ydata() for line in curves]).T
        np.testing.assert_allclose(got, 100 * data["load"])
        flat = [line.get_ydata()[0] for line in ax.lines if line not in curves]
        assert flat == [25.0, 2.0]  # uniform, starving
        [band] = ax.patches
        assert band.get_y() == 12.5 and band.get_y() + band.get_height() == 50
    assert "starving: 0" in words(bad) and "overfull: 1" in words(bad)
    assert words(even) == [verdict(EVEN["load"][-1:])]
    assert bad.get_title("left") == r"\$none\$"
    assert bad.get_ylim() == even.get_ylim()  # one scale, or the eye is deceived


def test_verdicts():
    assert verdict(EVEN["load"][-1:]) == "within a factor of 2; 0.90 to 1.10 × uniform"
    assert verdict(BAD["load"][-1:]) == "1 of 4 below 2%; 0.05 to 2.30 × uniform"
    assert verdict(BAD["load"][-1:], 0.001) == "outside a factor of 2; 0.05 to 2.30 × uniform"
    edge = np.array([[0.125, 0.375, 0.25, 0.25], [0.5, 0.5 / 3, 0.5 / 3, 0.5 / 3]])
    assert verdict(edge).startswith("within")


def test_many_arms_fill_a_grid(drawn):
    figure = drawn(plot_expert_load, {str(n): EVEN for n in range(4)}, columns=3)
    assert [ax.get_visible() for ax in figure.axes] == [True] * 4 + [False] * 2


@pytest.mark.parametrize(
    ("arms", "options", "message"),
    [
        ({}, {}, "no arms"), ({"a": EVEN}, {"starving": 1.0}, "starving=1.0"),
        ({"a": EVEN}, {"columns": 0}, "columns must be at least 1"),
        ({"a": {"steps": [1], "load": EVEN["load"]}}, {}, r"\(S, E\) with S = 1"),
        ({"a": {"steps": [0, 10], "load": 4 * EVEN["load"]}}, {}, "sums to 4 instead of 1"),
        ({"a": {"steps": [0], "load": [[-0.5, 1.5]]}}, {}, "are not shares"),
    ],
)  # fmt: skip
def test_bad_loads_are_refused(arms, options, message):
    with pytest.raises(ValueError, match=message):
        plot_expert_load(arms, **options)


def test_final_loads_have_a_mark_for_every_expert(drawn):
    seeds = np.stack([[BAD["load"][-1], EVEN["load"][-1]]] * 3)  # (3 seeds, 2 layers, 4)
    ax = drawn(plot_final_load, {"none": seeds, "one run": EVEN["load"][-1:]}, title="t").axes[0]
    marks = {"o": [], "v": []}
    for line in ax.lines:
        if line.get_marker() in marks:
            marks[line.get_marker()] += zip(line.get_xdata(), np.round(line.get_ydata()))
    assert len(marks["v"]) == 3 and all(x == pytest.approx(1.25) for x, _ in marks["v"])
    expected = sorted(100 * np.concatenate([seeds[seeds >= 0.02], EVEN["load"][-1]]))
    np.testing.assert_allclose(sorted(x for x, _ in marks["o"]), expected)
    assert sum(row == 1 for _, row in marks["o"]) == 4
    assert words(ax)[0].startswith("3 of 24 below 2%")
    assert words(ax)[1].startswith("within a factor of 2")


@pytest.mark.parametrize(
    ("arms", "message"),
    [({}, "no arms"), ({"a": [0.5, 0.5]}, r"give \(\.\.\., E\) shares"),
     ({"a": [[1, 1]]}, "sums to 2"),
     ({"a": [[0.5, 0.5]], "b": [[1.0]]}, "different numbers of experts: {'a': 2, 'b': 1}")],
)  # fmt: skip
def test_bad_final_loads_are_refused(arms, message):
    with pytest.raises(ValueError, match=message):
        plot_final_load(arms)


def test_class_shares_count_assignments():
    routing = routed(capacity=0.75)
    classes = torch.tensor([[0, 1, 2, -1, 1]] * 3)
    shares = class_shares(routing, classes, 4)
    kinds = classes.reshape(-1).tolist()
    for kind in range(4):
        taken = [
            e for t, e in zip(routing.tokens.tolist(), routing.experts.tolist()) if kinds[t] == kind
        ]
        expected = [taken.count(e) / max(1, len(taken)) for e in range(4)]
        np.testing.assert_allclose(shares[:, kind], expected)
    assert (shares[:, 3] == 0).all() and int(routing.dropped.sum()) > 0
    np.testing.assert_allclose(shares[:, :3].sum(0), 1)


@pytest.mark.parametrize(
    ("classes", "count", "message"),
    [([0] * 14, 1, "14 classes for 15 tokens"), ([2] * 15, 2, "run from 2 to 2"),
     ([-2] * 15, 2, r"between -1 \(none\) and 1"), ([0] * 15, 0, "n_classes=0")],
)  # fmt: skip
def test_bad_classes_are_refused(classes, count, message):
    with pytest.raises(ValueError, match=message):
        class_shares(routed(), classes, count)


def test_class_maps_show_their_numbers_and_frame_the_specialists(drawn):
    shares = np.array([[[0.7, 0.1], [0.1, 0.2], [0.1, 0.5], [0.1, 0.2]],
                       [[0.25, 0.0]] * 4])  # fmt: skip
    figure = drawn(
        plot_expert_classes, shares, ["$names$", "verbs"], layers=[1, "last"], counts=[1200, 7]
    )
    maps = [ax for ax in figure.axes if ax.images]
    assert [ax.get_title("left") for ax in maps] == ["layer 1", "last"]
    first, second = maps
    np.testing.assert_array_equal(first.images[0].get_array(), shares[0])
    assert words(first) == ["70", "10", "10", "20", "10", "50", "10", "20"]
    framed = [(round(p.get_y() + 0.42), round(p.get_x() + 0.45)) for p in first.patches]
    assert framed == [(0, 0), (2, 1)] and not second.patches
    assert words(second) == ["25"] * 4  # no token of the second class: nothing to say
    labels = [tick.get_text() for tick in second.get_xticklabels()]
    assert labels == [r"\$names\$" + "\n(1,200)", "verbs\n(7)"]
    bar = figure.axes[-1]
    assert any(line.get_ydata()[0] == 0.25 for line in bar.lines)  # uniform
    assert "uniform, 25%" in bar.get_ylabel()


def test_fine_class_maps_have_no_numbers(drawn):
    ax = drawn(plot_expert_classes, np.full((32, 7), 1 / 32), list("abcdefg")).axes[0]
    assert words(ax) == [] and len(ax.get_yticks()) <= 9


@pytest.mark.parametrize(
    ("shares", "options", "message"),
    [
        ([0.5, 0.5], {}, r"\(L, E, c\) or \(E, c\)"),
        ([[1.0, 1.0, 0.0]], {}, "2 names for 3 classes"),
        ([[0.9, 0.1], [0.6, 0.4]], {}, "its column sums to 1, not 1.5"),
        ([[-0.5, 1], [1.5, 0]], {}, "its column sums to 1, not -0.5"),
        ([[1.0, 1.0]], {"layers": [0, 1]}, "2 layer names for 1 layers"),
        ([[1.0, 1.0]], {"counts": [1]}, "one number per class"),
    ],
)
def test_bad_class_maps_are_refused(shares, options, message):
    with pytest.raises(ValueError, match=message):
        plot_expert_classes(shares, ["a", "b"], **options)


@pytest.mark.parametrize("batch", [(3, 5), (1, 8), (16, 1)])
def test_drops_by_position_are_what_is_missing(batch):
    routing = routed(batch, capacity=0.5)
    b, t = batch
    kept = [routing.tokens.tolist().count(n) for n in range(b * t)]
    expected = [1 - k / 2 for k in kept]
    np.testing.assert_allclose(dropped_by_position(routing, 2, by="batch"), expected)
    by_time = [np.mean([expected[row * t + at] for row in range(b)]) for at in range(t)]
    np.testing.assert_allclose(dropped_by_position(routing, 2), by_time)
    assert dropped_by_position(routing, 2).mean() * 2 * b * t == pytest.approx(
        int(routing.dropped.sum())
    )
    assert not dropped_by_position(routed(batch), 2).any()


def test_drops_fall_on_the_end_of_the_batch():
    routing = routed((1, 400), capacity=0.6, n_active=1)
    share = dropped_by_position(routing, 1)
    assert not share[:100].any() and share[300:].mean() > 0.5


def test_drops_refuse_a_wrong_number_of_choices():
    for routing, k in ((routed(capacity=0.5), 3), (routed(), 1), (routed(choice="expert"), 1)):
        with pytest.raises(ValueError, match=f"n_active={k} does not fit"):
            dropped_by_position(routing, k)
    with pytest.raises(ValueError, match='choose "time" or "batch"'):
        dropped_by_position(routed(), 2, by="layer")


ROWS = [
    {"capacity": c, "dropped": d + s, "loss": 1 + d + s}
    for c, d in ((1.5, 0.0), (0.5, 0.4), (1.0, 0.1)) for s in (0.0, 0.02)
] + [{"capacity": None, "dropped": 0.0, "loss": 0.9}]  # fmt: skip


def test_capacity_draws_means_ranges_and_positions(drawn):
    positions = {1.5: np.zeros(30), 0.5: np.linspace(0, 1, 30)}
    drops, loss, where = drawn(plot_capacity, ROWS, positions, title="t").axes
    curve = next(line for line in drops.lines if line.get_marker() == "o")
    assert list(curve.get_xdata()) == [0.5, 1.0, 1.5]
    np.testing.assert_allclose(curve.get_ydata(), [41, 11, 1])
    curve = next(line for line in loss.lines if line.get_marker() == "o")
    np.testing.assert_allclose(curve.get_ydata(), [1.41, 1.11, 1.01])
    spans = [path.vertices[:, 1].tolist() for path in loss.collections[0].get_paths()]
    np.testing.assert_allclose(spans, [[1.4, 1.42], [1.1, 1.12], [1.0, 1.02]])
    free = next(line for line in loss.lines if line.get_label().startswith("no limit"))
    assert free.get_ydata()[0] == 0.9
    assert [line.get_label() for line in where.lines] == ["capacity 0.5", "capacity 1.5"]
    assert where.lines[0].get_ydata()[-1] > 90 and not where.lines[1].get_ydata().any()


@pytest.mark.filterwarnings("error")
def test_capacity_without_positions_has_two_panels(drawn):
    assert len(drawn(plot_capacity, ROWS).axes) == 2


@pytest.mark.parametrize(
    ("rows", "positions", "message"),
    [
        ([], None, "no row has a capacity"), (ROWS[-1:], None, "no row has a capacity"),
        ([{"capacity": 1.0}], None, "row 0 needs capacity, dropped and loss"),
        ([{"capacity": 1.0, "dropped": 3, "loss": 1}], None, "dropped=3 must be a share"),
        (ROWS, {1.0: [[0.5]]}, r"must be \(T,\) shares"), (ROWS, {1.0: [50.0]}, "from 0 to 1"),
    ],
)  # fmt: skip
def test_bad_capacity_rows_are_refused(rows, positions, message):
    with pytest.raises(ValueError, match=message):
        plot_capacity(rows, positions)
