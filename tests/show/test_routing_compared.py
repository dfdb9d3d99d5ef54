"""Dense against sparse: counts, stacks, losses at equal budgets, speeds."""

from __future__ import annotations

import math

import numpy as np
import pytest

from llmcourse.model import ModelConfig, Transformer
from llmcourse.model.experts_config import Experts
from llmcourse.show import (
    loss_at,
    plot_dense_and_sparse,
    plot_expert_speed,
    plot_sparse_cost,
    plot_stacks,
    plot_upcycling,
    speed_rows,
)
from llmcourse.show.layer_stacks import layer_runs
from llmcourse.show.sparse_cost import amount_text, sparse_cost


def config(n_layers=3, **experts) -> ModelConfig:
    return ModelConfig(
        vocab_size=64, context_length=32, n_layers=n_layers, n_heads=2, d_model=16, norm="rms",
        feed_forward="gated", attention_bias=False, feed_forward_bias=False,
        experts=Experts(**experts) if experts else None,
    )  # fmt: skip


def words(ax):
    return [text.get_text() for text in ax.texts]


@pytest.mark.parametrize("k", [1, 2, 5])
def test_costs_are_those_of_the_built_model(k):
    sparse = config(n_experts=5, n_active=k, d_ff=24, layers=(0, 2), n_shared=1)
    cost = sparse_cost(sparse, 32)
    model = Transformer(sparse)
    assert cost.total == model.n_parameters()
    one = 3 * 16 * 24  # the three matrices of an expert
    assert cost.total - cost.active == 2 * (5 - k) * one and cost.dense == (k == 5)
    # A model that really goes through all experts is the other count.
    everything = sparse_cost(
        config(n_experts=5, n_active=5, d_ff=24, layers=(0, 2), n_shared=1), 32
    )
    assert cost.flops_of_all == everything.flops and cost.flops <= everything.flops
    assert everything.flops - cost.flops == 2 * (cost.total - cost.active)


def test_dense_models_use_everything_and_context_costs_attention():
    cost = sparse_cost(config(), 32)
    assert cost.dense and cost.flops == cost.flops_of_all
    longer = sparse_cost(config(), 64)
    assert longer.total == cost.total  # learned positions are the model's own
    assert longer.flops - cost.flops == 3 * 2 * 2 * 16 * 32  # layers, 2 products, width, keys
    for tokens in (0, True, 2.0):
        with pytest.raises(ValueError, match="tokens="):
            sparse_cost(config(), tokens)


def test_cost_figure_has_one_mark_for_dense_and_two_for_sparse(drawn):
    sparse = config(n_experts=8, n_active=2)
    left, right = drawn(
        plot_sparse_cost, {"dense": config(), "$sparse$": sparse, "GPT-2": "gpt2"}, tokens=100,
        title="t",
    ).axes  # fmt: skip
    cost = sparse_cost(sparse, 100)

    def marks(ax, marker):
        return [
            (line.get_xdata()[0], line.get_ydata()[0]) for line in ax.lines
            if line.get_marker() == marker
        ]  # fmt: skip

    assert marks(left, "o") == [(cost.active, 1)] and marks(left, "D") == [(cost.total, 1)]
    assert marks(right, "o") == [(cost.flops, 1)] and marks(right, "D") == [(cost.flops_of_all, 1)]
    assert [y for _, y in marks(left, "s")] == [0, 2]
    assert marks(left, "s")[1][0] == 124_439_808
    labels = [tick.get_text() for tick in left.get_yticklabels()]
    assert labels == ["dense", r"\$sparse\$", "GPT-2"]
    share = f"{cost.active / cost.total:.0%} active"
    assert words(left)[1] == f"{amount_text(cost.active)} of {amount_text(cost.total)}, {share}"
    assert left.get_xscale() == right.get_xscale() == "log"
    assert "100 tokens of context" in right.get_xlabel()


def test_cost_figure_refuses_nothing_and_the_unknown():
    with pytest.raises(ValueError, match="no models"):
        plot_sparse_cost({})
    with pytest.raises(ValueError, match="mixtrol"):
        plot_sparse_cost({"a": "mixtrol"})


@pytest.mark.parametrize(
    ("number", "text"), [(999, "999"), (53_000, "53k"), (688e9, "688B"), (1.39e12, "1.4T")]
)
def test_amounts_in_words(number, text):
    assert amount_text(number) == text


def test_layer_runs():
    assert [tuple(run) for run in layer_runs(config(3))] == [(n, n, False) for n in range(3)]
    deep = config(20, n_experts=4, n_active=1, layers=(3, *range(5, 20)))
    assert [tuple(run) for run in layer_runs(deep)] == [
        (0, 2, False), (3, 3, True), (4, 4, False), (5, 19, True),
    ]  # fmt: skip
    assert sum(run.count for run in layer_runs(deep)) == 20


@pytest.mark.filterwarnings("error")
def test_stacks_show_what_a_layer_has(drawn):
    models = {
        "dense": config(2),
        "hybrid": config(2, n_experts=4, n_active=3, layers=(1,), n_shared=2),
        "branch": config(2, n_experts=4, n_active=1, dense_branch=True),
        "fine": config(12, n_experts=64, n_active=16),
    }
    dense, hybrid, branch, fine = drawn(plot_stacks, models, title="t").axes

    def fills(ax):
        from matplotlib.colors import to_hex

        found = [to_hex(patch.get_facecolor()).upper() for patch in ax.patches]
        return {color: found.count(color) for color in set(found)}

    grey, blue, paper, orange, attention = "#A8A8A8", "#0072B2", "#FFFFFF", "#E69F00", "#F3F3F3"
    assert fills(dense) == {attention: 2, grey: 2}
    assert fills(hybrid) == {attention: 2, grey: 1, blue: 3, paper: 1, orange: 1}
    assert fills(branch) == {attention: 2, grey: 2, blue: 2, paper: 6}
    assert fills(fine) == {attention: 1, blue: 1, paper: 1}
    widths = sorted(patch.get_width() for patch in fine.patches)
    assert widths[0] / widths[-1] == 16 / 64  # to scale
    assert "layers 0 to 11\n(12 ×)" in words(fine) and "64 experts" in words(fine)
    assert hybrid.get_title("left") == "hybrid\n1 of 2 layers sparse: 3 of 4 experts"
    assert [w for w in words(hybrid) if w.startswith("layer")] == ["layer 0", "layer 1"]


def test_stacks_refuse_nothing():
    with pytest.raises(ValueError, match="no models"):
        plot_stacks({})


def run(shift=0.0, pace=0.1, points=6):
    updates = np.arange(points) * 10
    return {
        "updates": updates, "loss": 2.0 - 0.02 * updates + shift, "flops": 1e9 * updates,
        "seconds": pace * updates,
    }  # fmt: skip


ARMS = {
    "sparse": [run(), run(0.1, 0.2)],
    "dense, $equal$": [run(0.3), run(0.5)],
}


def test_loss_at_reads_between_points_and_not_beyond():
    np.testing.assert_allclose(loss_at(ARMS["sparse"], "updates", 25), [1.5, 1.6])
    np.testing.assert_allclose(loss_at(ARMS["sparse"], "seconds", 5.0), [1.0, 1.6])
    np.testing.assert_allclose(loss_at(ARMS["sparse"], "flops", 50e9), [1.0, 1.1])
    for budget in (-1, 51):
        with pytest.raises(ValueError, match="none on both sides"):
            loss_at(ARMS["sparse"], "updates", budget)
    with pytest.raises(ValueError, match="axis='time'"):
        loss_at(ARMS["sparse"], "time", 1)
    with pytest.raises(ValueError, match="no runs"):
        loss_at([], "updates", 1)


def test_each_panel_has_the_means_and_the_budgets_are_read(drawn):
    budgets = {"updates": 50, "seconds": 4.0}
    updates, flops, seconds = drawn(plot_dense_and_sparse, ARMS, budgets=budgets, title="t").axes

    def curves(ax):
        return [line for line in ax.lines if line.get_marker() not in ("", "None")]

    for ax, key in ((updates, "updates"), (flops, "flops")):
        np.testing.assert_allclose(curves(ax)[0].get_xdata(), run()[key])
        np.testing.assert_allclose(curves(ax)[0].get_ydata(), run(0.05)["loss"])
        np.testing.assert_allclose(curves(ax)[1].get_ydata(), run(0.4)["loss"])
    # The second seed is half as fast: the mean ends where the faster one ends.
    mean = curves(seconds)[0]
    assert mean.get_xdata()[[0, -1]].tolist() == [0.0, 5.0]
    np.testing.assert_allclose(mean.get_ydata()[-1], (1.0 + 1.6) / 2)
    assert "at 50 updates:" in updates.get_xlabel()
    assert "sparse: 1.050 (1.000 to 1.100)" in updates.get_xlabel()
    assert r"dense, \$equal\$: 1.400 (1.300 to 1.500)" in updates.get_xlabel()
    assert "at 4 s:" in seconds.get_xlabel() and "at" not in flops.get_xlabel()
    assert [line.get_xdata()[0] for line in updates.lines if line not in curves(updates)] == [50]
    assert updates.get_ylim() == flops.get_ylim()


@pytest.mark.filterwarnings("error")
def test_one_seed_has_no_band(drawn):
    [ax] = drawn(plot_dense_and_sparse, {"a": [run()]}, ["updates"], budgets={"updates": 20}).axes
    assert not ax.collections and "a: 1.600" in ax.get_xlabel()


@pytest.mark.parametrize(
    ("arms", "axes", "budgets", "message"),
    [
        ({}, ["updates"], None, "at least one arm"), (ARMS, [], None, "at least one arm"),
        (ARMS, ["steps"], None, "axis='steps' is unknown"),
        (ARMS, ["updates"], {"hours": 1}, "axis='hours' is unknown"),
        (ARMS, ["updates"], {"updates": 99}, "none on both sides of 99"),
        ({"a": []}, ["updates"], None, "'a' has no runs"),
        ({"a": [{"loss": [1.0]}]}, ["updates"], None, "has no 'updates'"),
        ({"a": [{"loss": [1.0], "updates": [1, 2]}]}, ["updates"], None, "one of each"),
        ({"a": [{"loss": [1, 2], "updates": [2, 2]}]}, ["updates"], None, "must rise"),
        ({"a": [{"loss": [1, math.nan], "updates": [1, 2]}]}, ["updates"], None, "1 NaN"),
        ({"a": [run(), {**run(), "seconds": 100 + run()["seconds"]}]}, ["seconds"], None,
         "no common part"),
    ],
)  # fmt: skip
def test_bad_arms_are_refused_and_leave_no_figure(arms, axes, budgets, message):
    with pytest.raises(ValueError, match=message):
        plot_dense_and_sparse(arms, axes, budgets=budgets)


def test_upcycling_shows_where_it_starts(drawn):
    arms = {"upcycled": [run(-0.5)], "from scratch": [run(0.5)]}
    [ax] = drawn(plot_upcycling, arms, start=1.5, title="t").axes
    legend = [text.get_text() for text in ax.get_legend().get_texts()]
    assert legend == ["upcycled", "from scratch", "the dense checkpoint: 1.500"]
    assert ax.lines[-1].get_ydata()[0] == 1.5 and ax.get_ylim()[1] > 1.5
    assert "counted from the checkpoint" in ax.get_xlabel()
    assert ax.get_ylim()[0] < 0.5  # the lowest end is inside


def test_bad_upcycling_is_refused():
    with pytest.raises(ValueError, match="no arms"):
        plot_upcycling({})
    with pytest.raises(ValueError, match="axis='tokens'"):
        plot_upcycling(ARMS, axis="tokens")
    with pytest.raises(ValueError, match="'a' has no runs"):
        plot_upcycling({"a": []})


SPEEDS = [
    {"name": "ours, $grouped$", "dtype": "float32", "seconds": 0.2, "low": 0.19, "high": 0.25},
    {"name": "peer", "dtype": "float32", "seconds": 0.5, "tokens": 100},
    {"name": "dense", "dtype": "float32", "seconds": 0.25},
    {"name": "dense", "dtype": "bfloat16", "seconds": 0.1},
]


def test_speeds_are_relative_to_the_reference_of_their_dtype(drawn):
    single, half = drawn(plot_expert_speed, SPEEDS, title="t").axes
    assert [bar.get_width() for bar in single.patches] == pytest.approx([1.25, 0.5, 1.0])
    assert [bar.get_width() for bar in half.patches] == [1.0]
    assert [bar.get_hatch() for bar in single.patches] == [None, None, "////"]
    assert words(single) == ["1.25   200 ms", "0.50   500 ms, 200 tokens/s", "1.00   250 ms"]
    spans = [line.get_xdata() for line in single.lines if len(set(line.get_ydata())) == 1]
    np.testing.assert_allclose(spans, [[1.0, 0.25 / 0.19]])
    assert [ax.get_title("left") for ax in (single, half)] == ["float32", "bfloat16"]
    assert single.get_yticklabels()[0].get_text() == r"ours, \$grouped\$"


def test_speeds_of_the_benchmark_compare_with_the_first_dense_row(drawn):
    times = {"ours, grouped, plain": 0.2, "dense, plain": 0.3, "dense, convolution": 0.1}
    table = {
        "case": "float32", "flops": 1,
        "rows": {n: {"seconds": t, "low": t, "high": t, "best": t} for n, t in times.items()},
    }  # fmt: skip
    rows = speed_rows([table, table | {"case": "bfloat16"}])
    assert [row["dtype"] for row in rows] == ["float32"] * 3 + ["bfloat16"] * 3
    single, half = drawn(plot_expert_speed, rows).axes
    for ax in (single, half):
        assert [bar.get_width() for bar in ax.patches] == pytest.approx([1.5, 1.0, 3.0])
        assert [bar.get_hatch() for bar in ax.patches] == [None, "////", "////"]
    assert "relative to “dense” (first hatched row)" in half.get_xlabel()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "no rows"), ([{"name": "a", "dtype": "f"}], "row 0 has no 'seconds'"),
        ([{"name": "a", "dtype": "f", "seconds": 0.0}], r"seconds=0\.0 must be above 0"),
        ([{**SPEEDS[0], "low": -1.0}], "low=-1.0 must be above 0"),
        (SPEEDS[:2], "float32 needs a row whose name begins with 'dense'"),
        ([*SPEEDS[:3], SPEEDS[1] | {"dtype": "half"}], "half needs a row"),
    ],
)  # fmt: skip
def test_bad_speeds_are_refused(rows, message):
    with pytest.raises(ValueError, match=message):
        plot_expert_speed(rows)
