"""The evidence of Part 3: matched, fresh, verdicts that follow, made again where it is cheap."""

from __future__ import annotations

import math
import statistics

import pytest
import torch

from llmcourse.evidence import StaleEvidence, load, part03
from llmcourse.model import ModelConfig, Transformer


@pytest.fixture(scope="module")
def evidence():
    return load("part03")


def test_it_is_complete(evidence):
    assert "provisional" not in evidence, "this file is a stand-in; run: llmcourse evidence part03"
    assert len(part03.SEEDS) >= 3
    steps = part03.TRAINING.steps // part03.CURVE_STEP
    for name in part03.VARIANTS:
        runs = evidence["ablations"]["runs"][name]
        assert [run["seed"] for run in runs] == list(part03.SEEDS)
        assert all(len(run["curve"]) == steps for run in runs)
    for name in part03.SINK_ROPES:
        assert [run["seed"] for run in evidence["sinks"][name]] == list(part03.SEEDS)


def test_all_variants_have_the_same_size(evidence):
    runs = evidence["ablations"]["runs"]
    target = runs[part03.BASELINE][0]["parameters"]
    for name, own in runs.items():
        assert own[0]["parameters"] == pytest.approx(target, rel=0.003), name


def test_no_model_is_below_the_floor(evidence):
    floor = evidence["ablations"]["floor"]
    assert floor == pytest.approx(part03.village_floor(), abs=1e-4)
    for name in part03.VARIANTS:
        assert min(part03.losses(evidence, name)) > floor


def test_the_learning_rate_is_the_baselines_best(evidence):
    rates = evidence["ablations"]["baseline_by_rate"]
    assert len(rates) >= 3
    assert min(rates, key=rates.get) == str(part03.TRAINING.learning_rate)


def test_the_verdicts_follow_from_the_losses(evidence):
    base = part03.losses(evidence, part03.BASELINE)
    for name, stored in evidence["ablations"]["comparisons"].items():
        own = part03.losses(evidence, name)
        differences = [a - b for a, b in zip(own, base)]
        mean = sum(differences) / len(differences)
        assert stored["mean"] == pytest.approx(mean, abs=1e-6)
        assert stored["spread"] == pytest.approx(statistics.stdev(differences), abs=1e-6)
        found = part03.compare(own, base)
        assert stored["verdict"] == found.verdict
        assert (found.verdict == "undecided") == (abs(mean) <= found.margin)


def test_a_model_that_grew_a_sink_needs_it(evidence):
    """The claims of the chapter, for the seeds that are recorded."""
    runs = [run for name in part03.SINK_ROPES for run in evidence["sinks"][name]]
    assert all(0 <= run["full"] < 0.1 for run in runs), "above the floor, and not far"
    worth = [run["window"] - run["window_and_sink"] for run in runs]
    assert sum(gain > 0.1 for gain in worth) >= len(runs) / 2
    assert all(abs(run["window_and_sink"] - run["full"]) < 0.05 for run in runs)
    still = [run["far_window_and_sink"] for run in evidence["sinks"]["half of them turn"]]
    turning = [run["far_window_and_sink"] for run in evidence["sinks"]["all channels turn"]]
    assert statistics.median(still) < statistics.median(turning)


@pytest.mark.parametrize("name", [part03.BASELINE, "all modern"])
def test_the_beginning_can_be_made_again(evidence, name):
    recorded = evidence["ablations"]["runs"][name][0]["curve"]
    _, steps = part03.variant_steps(name, 0)
    losses = [next(steps).loss for _ in range(2 * part03.CURVE_STEP)]
    # Sums in another order on another processor: the beginning of a run hardly notices.
    assert part03.curve(losses) == pytest.approx(recorded[:2], abs=0.03)


def test_the_sinks_beginning_can_be_made_again(evidence):
    recorded = evidence["sinks"]["half of them turn"][0]["curve"]
    _, steps = part03.sink_steps("half of them turn", 0)
    # Only the first point: at this learning rate rounding errors grow tenfold every seven steps.
    losses = [next(steps).loss for _ in range(part03.CURVE_STEP)]
    assert part03.curve(losses) == pytest.approx(recorded[:1], abs=0.02)


def test_a_comparison_knows_when_it_knows_nothing():
    base = [1.0, 1.1, 0.9, 1.05, 1.0]
    same = part03.compare([x + d for x, d in zip(base, (0.01, -0.01, 0.0, 0.02, -0.02))], base)
    assert same.verdict == "undecided" and same.mean == pytest.approx(0.0, abs=1e-9)
    better = part03.compare([x - 0.1 - d for x, d in zip(base, (0.0, 0.01, 0.0, 0.01, 0.0))], base)
    assert better.verdict == "wins" and better.mean < 0
    assert part03.compare([x + 0.1 for x in base], base).verdict == "loses"
    # One seed that differs widely takes the certainty away, although the mean is the same.
    wild = part03.compare([x - d for x, d in zip(base, (0.5, 0.0, 0.0, 0.0, 0.0))], base)
    assert wild.mean == pytest.approx(-0.1) and wild.verdict == "undecided"
    # Student's t against an independent formula: the half-width for two seeds is 12.7 |d| / 2.
    two = part03.compare([1.0, 3.0], [0.0, 0.0])
    assert two.margin == pytest.approx(12.706 * math.sqrt(2) / math.sqrt(2), rel=1e-6)


@pytest.mark.parametrize(
    ("a", "b"), [([1.0], [1.0]), ([1.0, 2.0], [1.0]), ([1.0] * 10, [1.0] * 10)]
)
def test_a_comparison_refuses_what_it_cannot_judge(a, b):
    with pytest.raises(ValueError, match="2 to 9 seeds"):
        part03.compare(a, b)


def test_parameters_are_matched_through_the_feed_forward_width():
    base = ModelConfig(vocab_size=50, context_length=16, n_layers=2, n_heads=4, d_model=32)
    target = Transformer(base).n_parameters()
    for changes in ({"n_kv_heads": 1}, {"feed_forward": "gated"}, {"positions": "rope"}):
        matched = part03.match_parameters(base.replace(**changes), target)
        assert abs(Transformer(matched).n_parameters() - target) <= 2 * 3 * 32


def test_sinks_are_scored_against_the_exact_surprise():
    """A model that knows nothing is above the floor by what it does not know, in every view."""
    model, steps = part03.sink_steps("half of them turn", 0)
    scores = part03.score_sinks(model)
    assert set(scores) >= {"full", "window", "window_and_sink", "far_window", "weight_on_first"}
    ignorance = math.log(28) - 0.86  # the language's own surprise taken off
    assert ignorance < scores["full"] < ignorance + 0.6
    assert 0 <= scores["weight_on_first"] < 0.2, "an untrained head spreads its weight"
    assert math.log(28) < next(steps).loss < math.log(28) + 0.6
    assert torch.isfinite(torch.tensor(list(scores.values()))).all()


def test_a_changed_recipe_makes_it_stale(monkeypatch):
    changed = part03.recipe() | {"seeds": [7]}
    monkeypatch.setattr(part03, "recipe", lambda: changed)
    with pytest.raises(StaleEvidence, match=r"another recipe.*llmcourse evidence part03"):
        load("part03")
