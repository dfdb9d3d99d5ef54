"""Scaling laws: constants that are known come back, and what cannot be read off is refused."""

from __future__ import annotations

import dataclasses
import itertools
import math

import pytest
import torch

from llmcourse.evaluate import scaling_law
from llmcourse.evaluate.scaling_law import (
    FitError,
    Prediction,
    Run,
    ScalingLaw,
    fit,
    interval,
    predict,
    resampled,
    residuals,
)

HOFFMANN = ScalingLaw(1.69, 406.4, 0.34, 410.7, 0.28)  # arXiv 2203.15556, section D.3
SMALL = ScalingLaw(0.245, 12.0, 0.45, 60.0, 0.5)
SIZES = (1e4, 2e4, 4e4, 8e4, 1.6e5, 3.2e5)
TOKENS = (6e4, 1.2e5, 2.4e5, 4.8e5, 9.6e5)


def runs_of(law, noise=0.0, seed=0, sizes=SIZES, tokens=TOKENS):
    generator = torch.Generator().manual_seed(seed)
    return [
        Run(n, d, law.loss(n, d) * math.exp(noise * float(torch.randn((), generator=generator))))
        for n, d in itertools.product(sizes, tokens)
    ]


def large_grid(law, **options):
    return runs_of(
        law, sizes=(7e7, 3e8, 1e9, 5e9, 1.6e10), tokens=(5e9, 2e10, 8e10, 4e11), **options
    )


def total_cost(law, runs, delta=scaling_law.DELTA):
    """Sum of Huber losses, written out run by run."""
    total = 0.0
    for run in runs:
        size = abs(math.log(law.loss(run.parameters, run.tokens)) - math.log(run.loss))
        total += 0.5 * size**2 if size <= delta else delta * (size - 0.5 * delta)
    return total


def with_lbfgs(runs, delta=scaling_law.DELTA):
    """The paper's own way: L-BFGS from a grid of starts on log-sum-exp; the best law."""
    n, d, loss = (
        torch.tensor([getattr(run, name) for run in runs], dtype=torch.float64).log()
        for name in ("parameters", "tokens", "loss")
    )
    best, least = None, math.inf
    for alpha, beta, a, b in itertools.product((0.3, 0.6), (0.3, 0.6), (0.0, 5.0), (5.0,)):
        unknowns = torch.tensor([a, alpha, b, beta, -1.0], dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.LBFGS(
            [unknowns], max_iter=300, line_search_fn="strong_wolfe", tolerance_grad=1e-10,
            tolerance_change=1e-14,
        )  # fmt: skip

        def closure(x=unknowns, optimizer=optimizer):
            optimizer.zero_grad()
            terms = torch.stack([x[0] - x[1] * n, x[2] - x[3] * d, x[4].expand_as(n)])
            cost = torch.nn.functional.huber_loss(
                terms.logsumexp(0), loss, delta=delta, reduction="sum"
            )
            cost.backward()
            return cost

        optimizer.step(closure)
        cost = float(closure().detach())
        if cost < least:
            a, alpha, b, beta, e = unknowns.tolist()
            best = ScalingLaw(math.exp(e), math.exp(a), alpha, math.exp(b), beta)
            least = cost
    return best


@pytest.mark.parametrize(
    ("law", "runs"),
    [(HOFFMANN, large_grid(HOFFMANN)), (SMALL, runs_of(SMALL))],
    ids=["Hoffmann", "small"],
)
@pytest.mark.parametrize("known", [False, True], ids=["free", "floor known"])
def test_exact_runs_give_the_constants_back(law, runs, known):
    found = fit(runs, floor=law.floor if known else None)
    for field in dataclasses.fields(ScalingLaw):
        assert getattr(found, field.name) == pytest.approx(getattr(law, field.name), rel=1e-5)
    assert max(map(abs, residuals(found, runs))) < 1e-9


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_it_is_no_worse_than_the_papers_own_way(seed):
    runs = runs_of(SMALL, noise=0.01, seed=seed)
    ours, theirs = fit(runs), with_lbfgs(runs)
    assert total_cost(ours, runs) <= total_cost(theirs, runs) * (1 + 1e-4)


def test_one_bad_run_bends_the_law_little():
    runs = runs_of(SMALL, noise=0.002)
    bad = [dataclasses.replace(runs[7], loss=runs[7].loss * 1.5), *runs[:7], *runs[8:]]
    assert fit(bad).loss(1e6, 4e6) == pytest.approx(fit(runs).loss(1e6, 4e6), rel=0.01)
    # With a wide Huber loss, which is least squares, it bends far more: the check can fail.
    squares = fit(bad, delta=10.0).loss(1e6, 4e6) / fit(runs, delta=10.0).loss(1e6, 4e6)
    assert abs(squares - 1) > 0.02


def test_a_known_floor_makes_the_rest_surer():
    runs = runs_of(SMALL, noise=0.01)
    widths = []
    for floor in (None, SMALL.floor):
        laws = resampled(runs, torch.Generator().manual_seed(0), 100, floor=floor)
        low, high = interval([law.data_exponent for law in laws])
        assert low < SMALL.data_exponent < high
        widths.append(high - low)
        if floor is not None:
            assert {law.floor for law in laws} == {floor}
    assert widths[1] < 0.8 * widths[0]


@pytest.mark.slow
def test_the_interval_of_the_floor_holds_the_truth_as_often_as_it_says():
    held = 0
    for seed in range(20):
        laws = resampled(
            runs_of(SMALL, noise=0.01, seed=seed), torch.Generator().manual_seed(seed), 40
        )
        low, high = interval([law.floor for law in laws], level=0.9)
        held += low <= SMALL.floor <= high
    assert 13 <= held <= 20  # 18 are expected; a bootstrap of few runs is somewhat too narrow


@pytest.mark.slow
@pytest.mark.parametrize("known", [False, True], ids=["free", "floor known"])
def test_predictions_hold_a_new_run_as_often_as_they_say(known):
    floor, held, widths = SMALL.floor if known else None, 0, []
    generator = torch.Generator().manual_seed(5)
    for seed in range(25):
        runs = runs_of(SMALL, noise=0.01, seed=seed)
        said = predict(runs, 8e5, 2e6, generator, floor=floor, samples=40, level=0.8)
        luck = 0.01 * float(torch.randn((), generator=generator))
        held += said.holds(SMALL.loss(8e5, 2e6) * math.exp(luck))
        widths.append(math.log(said.high / said.low))
    assert 15 <= held <= 24  # 20 of 25 are expected
    # A run's own luck is in it: 80% of a normal with 1% lies within 2 x 1.28%.
    assert min(widths) > 0.01 and sum(widths) / 25 > 0.02


def test_a_prediction_is_repeatable_and_centred_on_the_fit():
    runs = runs_of(SMALL, noise=0.01)
    first, second = (
        predict(runs, 8e5, 2e6, torch.Generator().manual_seed(3), samples=50) for _ in range(2)
    )
    # Sums of another order, as memory happens to lie, end elsewhere in a flat valley.
    assert dataclasses.astuple(first) == pytest.approx(dataclasses.astuple(second), rel=1e-5)
    assert first.loss == pytest.approx(fit(runs).loss(8e5, 2e6), rel=1e-5)
    assert first.low < first.loss < first.high
    wide = predict(runs, 8e5, 2e6, torch.Generator().manual_seed(3), samples=50, level=0.99)
    assert wide.low < first.low and wide.high > first.high


def test_an_interval_is_closed():
    said = Prediction(1.0, 0.9, 1.1, 0.9)
    assert [said.holds(x) for x in (0.89, 0.9, 1.1, 1.11)] == [False, True, True, False]
    assert interval(range(101), 0.9) == pytest.approx((5.0, 95.0))


@pytest.mark.parametrize("law", [HOFFMANN, SMALL])
@pytest.mark.parametrize("flops", [1e13, 5.76e23])
def test_the_best_division_of_compute_is_found_by_trying(law, flops):
    n, d = law.optimal(flops)
    assert 6 * n * d == pytest.approx(flops, rel=1e-9)
    tried = [n * 1.02**k for k in range(-200, 201)]
    best = min(tried, key=lambda size: law.loss(size, flops / 6 / size))
    assert best == pytest.approx(n, rel=1e-6)
    # At the optimum one percent more of either buys as much: alpha x size term = beta x data term.
    assert law.size_exponent * law.size_term(n) == pytest.approx(
        law.data_exponent * law.data_term(d), rel=1e-9
    )


def test_hoffmanns_constants_give_hoffmanns_advice():
    """Table A3 of the paper, third approach: about 40 billion parameters for Gopher's compute."""
    n, _ = HOFFMANN.optimal(5.76e23)
    assert 3e10 < n < 5e10


@pytest.mark.parametrize(
    ("runs", "floor", "message"),
    [
        ([], None, "0 different runs; 5 numbers need at least 6"),
        (runs_of(SMALL)[:5], None, "5 different runs; 5 numbers need at least 6"),
        (runs_of(SMALL)[:4], 0.2, "4 different runs; 4 numbers need at least 5"),
        (runs_of(SMALL)[:1] * 9, None, "1 different runs"),
        (runs_of(SMALL, sizes=(1e4, 2e4)), None, "2 different sizes; an exponent needs at least 3"),
        (runs_of(SMALL, tokens=(6e4, 1e6)), 0.2, "2 different amounts of data"),
        (
            [Run(10**k, 20 * 10**k, SMALL.loss(10**k, 20 * 10**k)) for k in range(3, 10)],
            None,
            "rise together in all runs",
        ),
    ],
)
def test_too_little_to_read_a_law_off_is_refused(runs, floor, message):
    with pytest.raises(FitError, match=message):
        fit(runs, floor=floor)
    with pytest.raises(FitError, match=message):
        predict(runs, 1e6, 1e6, torch.Generator(), floor=floor)


@pytest.mark.parametrize("name", ["parameters", "tokens", "loss"])
@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_impossible_runs_are_refused(name, value):
    runs = runs_of(SMALL)
    runs[3] = dataclasses.replace(runs[3], **{name: value})
    with pytest.raises(ValueError, match=f"run 3: {name}="):
        fit(runs)


def test_bad_settings_are_refused():
    runs = runs_of(SMALL)
    with pytest.raises(ValueError, match=r"run \d+: its loss .* at or below the floor 0.9"):
        fit(runs, floor=0.9)
    with pytest.raises(ValueError, match="floor=-1 must be above 0"):
        fit(runs, floor=-1)
    with pytest.raises(ValueError, match="delta=0 must be above 0"):
        fit(runs, delta=0)
    with pytest.raises(ValueError, match="samples=1 must be at least 2"):
        resampled(runs, torch.Generator(), 1)
    with pytest.raises(ValueError, match="level=1 must lie between 0 and 1"):
        predict(runs, 1e6, 1e6, torch.Generator(), level=1)
    with pytest.raises(ValueError, match="flops=0 must be a number above 0"):
        SMALL.optimal(0)


def test_draws_that_cannot_be_fitted_are_drawn_anew():
    grid = runs_of(SMALL, sizes=(1e4, 4e4, 1.6e5), tokens=(6e4, 2.4e5, 9.6e5))
    # Seven runs and five numbers: most draws with replacement have too few different runs.
    few = [grid[i] for i in (0, 1, 3, 4, 5, 7, 8)]
    assert len(resampled(few, torch.Generator().manual_seed(0), 5)) == 5


def test_a_generator_that_never_draws_enough_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(torch, "randint", lambda high, size, generator: torch.zeros(size).long())
    with pytest.raises(FitError, match="needs more runs"):
        resampled(runs_of(SMALL), torch.Generator(), 2)
