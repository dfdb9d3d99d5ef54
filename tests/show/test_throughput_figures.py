"""The ladder's factors, and profiles whose shares add up."""

from __future__ import annotations

import math

import pytest
import torch

from llmcourse.show import plot_ladder, plot_profile
from llmcourse.show.throughput import OTHER, operator_groups

ROWS = [
    {"name": "plain $loop", "tokens_per_second": 1000.0, "peak_bytes": 2_000_000_000},
    {"name": "bfloat16", "tokens_per_second": 2500.0, "peak_bytes": None},
    {"name": "compile", "tokens_per_second": 2000.0, "peak_bytes": 500_000_000},
]


def words(ax):
    return [text.get_text() for text in ax.texts]


def test_ladder_gives_speed_and_both_factors(drawn):
    left, right = drawn(plot_ladder, ROWS, title="rows").axes
    assert [bar.get_width() for bar in left.patches] == [1000, 2500, 2000]
    assert words(left) == ["1,000", "2,500   × 2.50  (× 2.50)", "2,000   × 2.00  (× 0.80)"]
    assert [bar.get_hatch() for bar in left.patches] == [None, None, "////"]  # slower: hatched
    assert [bar.get_width() for bar in right.patches] == [2.0, 0.5]
    assert words(right) == ["2 GB", "not measured", "500 MB   × 0.25"]
    assert right.get_xlabel() == "peak memory (GB)"
    assert left.get_xlabel() == "training speed (tokens/s)"
    labels = [label.get_text() for label in left.get_yticklabels()]
    assert labels == [r"plain \$loop", "bfloat16", "compile"]
    top, bottom = left.get_ylim()[::-1]
    assert top < 0 < bottom  # the first row on top


@pytest.mark.filterwarnings("error")
def test_ladder_without_memory_has_one_panel(drawn):
    rows = [{k: v for k, v in row.items() if k != "peak_bytes"} for row in ROWS]
    assert len(drawn(plot_ladder, rows).axes) == 1


@pytest.mark.filterwarnings("error")
def test_ladder_of_one_row(drawn):
    assert words(drawn(plot_ladder, ROWS[:1]).axes[0]) == ["1,000"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "no rows"),
        ([{"name": "a"}], "row 0 has no 'tokens_per_second'"),
        ([{"tokens_per_second": 1.0}], "row 0 has no 'name'"),
        ([{"name": "a", "tokens_per_second": 0.0}], r"tokens_per_second=0\.0 must be above 0"),
        ([{"name": "a", "tokens_per_second": None}], "has no tokens_per_second"),
        ([ROWS[0], {**ROWS[1], "peak_bytes": -1}], r"row 1 \(bfloat16\): peak_bytes=-1"),
    ],
)
def test_bad_ladders_are_refused(rows, message):
    with pytest.raises(ValueError, match=message):
        plot_ladder(rows)


@pytest.mark.parametrize(
    ("operator", "group"),
    [
        ("aten::mm", "matrix products"), ("aten::addmm", "matrix products"),
        ("aten::mkldnn_convolution", "matrix products"),
        ("autograd::engine::evaluate_function: AddmmBackward0", "matrix products"),
        ("aten::_scaled_dot_product_flash_attention_for_cpu", "fused attention"),
        ("aten::_softmax", "softmax"), ("aten::_log_softmax_backward_data", "cross-entropy"),
        ("aten::nll_loss_forward", "cross-entropy"), ("aten::_foreach_add_", "optimiser"),
        ("Optimizer.step#AdamW.step", "optimiser"), ("aten::_fused_adamw_", "optimiser"),
        ("aten::native_layer_norm", "normalisation"), ("aten::gelu", "activation"),
        ("aten::copy_", "copies and casts"), ("aten::mul_", "element by element"),
        ("aten::view", OTHER),
    ],
)  # fmt: skip
def test_operators_find_their_group(operator, group):
    assert operator_groups({operator: 1.0}) == {group: 1.0}


def test_groups_keep_the_sum_and_put_other_last():
    seconds = {"aten::view": 9.0, "aten::mm": 2.0, "aten::addmm": 1.5, "aten::gelu": 0.5}
    groups = operator_groups(seconds)
    assert list(groups.items()) == [("matrix products", 3.5), ("activation", 0.5), (OTHER, 9.0)]


def test_a_real_profile_is_mostly_what_it_did():
    from torch.profiler import ProfilerActivity, profile

    a = torch.ones(256, 256)
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        for _ in range(20):
            a = (a @ a).clamp_(max=1.0)
    seconds = {e.key: e.self_cpu_time_total / 1e6 for e in profiled.key_averages()}
    groups = operator_groups(seconds)
    assert next(iter(groups)) == "matrix products"
    assert sum(groups.values()) == pytest.approx(sum(seconds.values()))


def test_profile_shares_add_up(drawn):
    ax = drawn(plot_profile, {"a": 1.0, "b": 5.0, "c": 2.0, OTHER: 2.0}, top=2).axes[0]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["b", "c", OTHER]
    assert [bar.get_width() for bar in ax.patches] == pytest.approx([50, 20, 30])
    assert words(ax) == ["50%", "20%", "30%"]
    assert ax.patches[-1].get_hatch() == "////" and ax.get_title("left") == "10 s in all"


@pytest.mark.parametrize(
    ("seconds", "top", "message"),
    [
        ({}, 3, "no time to share out"), ({"a": 0.0}, 3, "no time to share out"),
        ({"a": -1.0}, 3, r"time of 'a' is -1\.0"), ({"a": math.nan}, 3, "time of 'a' is nan"),
        ({"a": 1.0}, 0, "top must be at least 1"),
    ],
)  # fmt: skip
def test_bad_profiles_are_refused(seconds, top, message):
    with pytest.raises(ValueError, match=message):
        plot_profile(seconds, top=top)
    if top and seconds.get("a"):
        with pytest.raises(ValueError, match=message):
            operator_groups(seconds)
