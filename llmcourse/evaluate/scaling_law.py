"""Scaling laws: how the loss falls with parameters and data, fitted to small runs.

Taught in Part 4. A model of N parameters that has read D tokens, each once, has about the loss

    L(N, D) = E + A / N^alpha + B / D^beta

E is what nobody can predict: the entropy of the text. The second term is what a model of finite
size cannot hold, the third what finite data cannot teach. Five numbers from a dozen small runs say
what a larger run will reach before it is made, and how to divide a given amount of arithmetic
between parameters and tokens.

Sources: Hoffmann et al. 2022, arXiv 2203.15556, equation 10 (the form), section D.2 (Huber loss on
log L, several starts), equation 4 (the best division of compute); Kaplan et al. 2020, arXiv
2001.08361, section 2.1 (6 N D operations, N without embeddings).

Deviations: the paper minimises with L-BFGS. Here a Gauss-Newton step with Marquardt's damping, the
Huber loss written as weights, solves all starts and all resamples at once. Exponents stay above 0,
and E can be held at a floor that is known, for which web text has none. An interval is for a run to
come and not for the curve alone: it holds the fit's uncertainty (resampled runs) and a run's own
luck (the residuals).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from llmcourse.errors import CourseError
from llmcourse.evaluate.scaling_solver import minimise, starting_points

DELTA = 1e-3
"""Where the Huber loss turns from squared to absolute, in log L; as in the paper, so nearly all of
it is absolute and one bad run bends the law little."""

MINIMUM_DISTINCT = 3  # sizes, and amounts of data: two cannot tell an exponent from a floor
FLOPS_PER_PARAMETER_AND_TOKEN = 6  # forward two, backward four


class FitError(CourseError):
    """No law can be read off these runs."""


@dataclass(frozen=True)
class Run:
    """One finished training run, each token read once."""

    parameters: float  # N, without the embedding tables
    tokens: float  # D, targets trained on
    loss: float  # held out, in the unit that the floor has: nats per byte


@dataclass(frozen=True)
class ScalingLaw:
    """L(N, D) = floor + size_factor / N^size_exponent + data_factor / D^data_exponent."""

    floor: float  # E, unit of the loss
    size_factor: float  # A, unit of the loss times parameters^alpha
    size_exponent: float  # alpha
    data_factor: float  # B, unit of the loss times tokens^beta
    data_exponent: float  # beta

    def loss(self, parameters: float, tokens: float) -> float:
        """The expected loss of a run."""
        return self.floor + self.size_term(parameters) + self.data_term(tokens)

    def size_term(self, parameters: float) -> float:
        """What the loss would lack of the floor with endless data."""
        return self.size_factor * parameters**-self.size_exponent

    def data_term(self, tokens: float) -> float:
        """What the loss would lack of the floor with an endless model."""
        return self.data_factor * tokens**-self.data_exponent

    def optimal(self, flops: float) -> tuple[float, float]:
        """(N, D) of the lowest loss that `flops` = 6 N D of training can buy; equation 4.

        Raises:
            ValueError: flops is not a positive number.
        """
        if not 0 < flops < math.inf:
            raise ValueError(f"flops={flops} must be a number above 0")
        a, b = self.size_exponent, self.data_exponent
        pairs = flops / FLOPS_PER_PARAMETER_AND_TOKEN  # N D
        balance = (a * self.size_factor / (b * self.data_factor)) ** (1 / (a + b))
        return balance * pairs ** (b / (a + b)), pairs ** (a / (a + b)) / balance


@dataclass(frozen=True)
class Prediction:
    """What a run to come will reach, with an interval that should hold it."""

    loss: float  # unit of the fitted losses
    low: float
    high: float
    level: float  # how often such an interval should hold the run

    def holds(self, loss: float) -> bool:
        return self.low <= loss <= self.high


def fit(runs: Sequence[Run], *, floor: float | None = None, delta: float = DELTA) -> ScalingLaw:
    """The law nearest to the runs: smallest sum of Huber(log L(N, D) - log loss).

    Args:
        runs: at least one more than numbers to find, of at least 3 sizes and 3 amounts of data.
        floor: E where it is known; None finds it too.
        delta: where the Huber loss turns from squared to absolute, in log L.

    Raises:
        FitError: too few runs, too few sizes or amounts of data, or N and D that rise together.
        ValueError: a number that is not positive, a floor at or above a loss.
    """
    numbers = _checked(runs, floor, delta)
    weights = torch.ones(1, len(numbers), dtype=torch.float64)
    starts = starting_points(numbers, floor)
    found, costs = minimise(numbers, weights, starts[None], floor, delta)
    return _law(found[0, int(costs[0].argmin())], numbers, floor)


def residuals(law: ScalingLaw, runs: Sequence[Run]) -> list[float]:
    """log loss - log L(N, D), run by run: about the relative miss."""
    return [math.log(run.loss / law.loss(run.parameters, run.tokens)) for run in runs]


def resampled(
    runs: Sequence[Run],
    generator: torch.Generator,
    samples: int = 400,
    *,
    floor: float | None = None,
    delta: float = DELTA,
) -> list[ScalingLaw]:
    """Laws fitted to as many runs drawn with replacement: how far the fit hangs on its runs.

    Draws from which no law could be read (too few different runs) are drawn anew.

    Raises:
        FitError, ValueError: as `fit`; fewer than 2 samples.
    """
    best = fit(runs, floor=floor, delta=delta)
    return _resampled(runs, best, generator, samples, floor, delta)


def _resampled(
    runs: Sequence[Run],
    best: ScalingLaw,  # of all runs
    generator: torch.Generator,
    samples: int,
    floor: float | None,
    delta: float,
) -> list[ScalingLaw]:
    if samples < 2:
        raise ValueError(f"samples={samples} must be at least 2")
    numbers = _checked(runs, floor, delta)
    counts = torch.stack([_draw(numbers, floor, generator) for _ in range(samples)])
    # From the law of all runs, and from the same exponents shaken: near, but not one start only.
    centre = _unknowns(best, numbers)
    shaken = centre.repeat(3, 1)
    shaken[1, [1, 3]] += torch.tensor([0.4, -0.4], dtype=torch.float64)
    shaken[2, [1, 3]] += torch.tensor([-0.4, 0.4], dtype=torch.float64)
    starts = shaken.expand(samples, -1, -1).clone()
    found, costs = minimise(numbers, counts, starts, floor, delta)
    chosen = costs.argmin(1)
    return [_law(found[i, int(best)], numbers, floor) for i, best in enumerate(chosen)]


def predict(
    runs: Sequence[Run],
    parameters: float,
    tokens: float,
    generator: torch.Generator,
    *,
    floor: float | None = None,
    level: float = 0.9,
    samples: int = 400,
    delta: float = DELTA,
) -> Prediction:
    """The loss of a run that has not been made, from runs that have.

    Every resampled law gives one value; each is then multiplied by the luck of a run, which is a
    residual of the fit drawn at random and stretched for the numbers that the fit has used up. The
    interval leaves out as much on either side.

    Raises:
        FitError, ValueError: as `resampled`; a level outside (0, 1).
    """
    if not 0 < level < 1:
        raise ValueError(f"level={level} must lie between 0 and 1")
    best = fit(runs, floor=floor, delta=delta)
    laws = _resampled(runs, best, generator, samples, floor, delta)
    luck = torch.tensor(residuals(best, runs), dtype=torch.float64)
    luck = luck * math.sqrt(len(runs) / (len(runs) - _unknown_count(floor)))
    drawn = luck[torch.randint(len(runs), (samples,), generator=generator)]
    values = torch.tensor([law.loss(parameters, tokens) for law in laws], dtype=torch.float64)
    low, high = interval((values * drawn.exp()).tolist(), level)
    return Prediction(best.loss(parameters, tokens), low, high, level)


def interval(values: Sequence[float], level: float = 0.9) -> tuple[float, float]:
    """The middle share `level` of some values, such as one number of each resampled law."""
    tail = (1 - level) / 2
    numbers = torch.tensor(list(values), dtype=torch.float64)
    low, high = numbers.quantile(torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return low, high


def _unknown_count(floor: float | None) -> int:
    return 5 if floor is None else 4


def _checked(runs: Sequence[Run], floor: float | None, delta: float) -> Tensor:
    """(n, 3): log N, log D and log loss."""
    for number, run in enumerate(runs):
        for name in ("parameters", "tokens", "loss"):
            value = getattr(run, name)
            if not 0 < value < math.inf:
                raise ValueError(f"run {number}: {name}={value} must be a number above 0")
        if floor is not None and run.loss <= floor:
            raise ValueError(
                f"run {number}: its loss {run.loss} is at or below the floor {floor}; both must be "
                f"in the same unit and of the same text"
            )
    if floor is not None and not floor > 0:
        raise ValueError(f"floor={floor} must be above 0, or None to be found")
    if not delta > 0:
        raise ValueError(f"delta={delta} must be above 0")
    rows = [[math.log(x) for x in (r.parameters, r.tokens, r.loss)] for r in runs]
    numbers = torch.tensor(rows, dtype=torch.float64).reshape(-1, 3)
    problem = _problem(numbers, floor)
    if problem:
        raise FitError(problem)
    return numbers


def _problem(numbers: Tensor, floor: float | None) -> str:
    """Why no law can be read off these runs, or nothing."""
    different = len({tuple(row) for row in numbers[:, :2].tolist()})
    needed = _unknown_count(floor) + 1
    if different < needed:
        return f"{different} different runs; {needed - 1} numbers need at least {needed}"
    for column, name in ((0, "sizes"), (1, "amounts of data")):
        count = len(set(numbers[:, column].tolist()))
        if count < MINIMUM_DISTINCT:
            return f"{count} different {name}; an exponent needs at least {MINIMUM_DISTINCT}"
    spread = numbers[:, :2] - numbers[:, :2].mean(0)
    if abs(float(torch.corrcoef(spread.T)[0, 1])) > 0.999:
        return (
            "parameters and tokens rise together in all runs, so nothing tells their shares apart; "
            "add runs of one size on several amounts of data"
        )
    return ""


def _draw(numbers: Tensor, floor: float | None, generator: torch.Generator) -> Tensor:
    """(n,) how often each run is in one draw with replacement."""
    n = len(numbers)
    for _ in range(1000):
        drawn = torch.randint(n, (n,), generator=generator)
        if not _problem(numbers[drawn], floor):
            return torch.bincount(drawn, minlength=n).double()
    raise FitError(
        f"draws from these {n} runs leave too few different ones; a resampled fit needs more runs"
    )


def _law(unknowns: Tensor, numbers: Tensor, floor: float | None) -> ScalingLaw:
    a, u, b, v, e = unknowns.tolist()
    alpha, beta = math.exp(u), math.exp(v)
    n, d = numbers[:, :2].mean(0).tolist()
    return ScalingLaw(
        floor=math.exp(e) if floor is None else floor,
        size_factor=math.exp(a + alpha * n),
        size_exponent=alpha,
        data_factor=math.exp(b + beta * d),
        data_exponent=beta,
    )


def _unknowns(law: ScalingLaw, numbers: Tensor) -> Tensor:
    """(5,) the inverse of `_law`."""
    n, d = numbers[:, :2].mean(0).tolist()
    a = math.log(law.size_factor) - law.size_exponent * n
    b = math.log(law.data_factor) - law.data_exponent * d
    logs = [a, math.log(law.size_exponent), b, math.log(law.data_exponent), math.log(law.floor)]
    return torch.tensor(logs, dtype=torch.float64)
