"""Exercise 4.9 A scaling law, and what it predicts."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from llmcourse.grading.inputs import Draw
from llmcourse.grading.records import Answer, Arguments, Exercise, Property, WrongAnswer

Result = tuple[float, float]


def _law_inputs(draw: Draw, size: int) -> Arguments:
    n = [2, 3, 3, 4, 5, 7][size]
    floor, exponent, factor = (
        draw.number(0.5, 1.5),
        draw.number(0.2, 0.5),
        draw.number(3.0, 9.0),
    )
    first = draw.number(20.0, 90.0)
    sizes = first * torch.tensor([3.0**k for k in range(n)], dtype=torch.float64)
    # To and fro, so that no line goes through three points.
    sides = torch.tensor([(-1.0) ** k for k in range(n)], dtype=torch.float64)
    noise = torch.exp(draw.pick([-1.0, 1.0]) * sides * draw.uniform(0.1, 0.25, n))
    if size == 5:  # in any order
        sizes = sizes[draw.distinct(n, 0, n - 1)]
    losses = floor + factor * sizes**-exponent * noise
    return sizes, losses, floor, round(float(sizes.max()) * draw.number(5.0, 20.0), 1)


def _law_oracle(sizes: Tensor, losses: Tensor, floor: float, size: float) -> Result:
    x = [math.log(n) for n in sizes.tolist()]
    y = [math.log(loss - floor) for loss in losses.tolist()]
    mean_x, mean_y = math.fsum(x) / len(x), math.fsum(y) / len(y)
    slope = math.fsum((a - mean_x) * (b - mean_y) for a, b in zip(x, y)) / math.fsum(
        (a - mean_x) ** 2 for a in x
    )
    return -slope, floor + math.exp(mean_y + slope * (math.log(size) - mean_x))


def _line(x: Tensor, y: Tensor) -> tuple[float, float]:
    """Slope and height at 0 of the straight line of least squares."""
    centred = x - x.mean()
    slope = float((centred * y).sum() / (centred * centred).sum())
    return slope, float(y.mean()) - slope * float(x.mean())


def _law_floor_ignored(sizes: Tensor, losses: Tensor, floor: float, size: float) -> Result:
    slope, height = _line(sizes.log(), losses.log())
    return -slope, math.exp(height + slope * math.log(size))


def _law_floor_added_only(sizes: Tensor, losses: Tensor, floor: float, size: float) -> Result:
    slope, height = _line(sizes.log(), losses.log())
    return -slope, floor + math.exp(height + slope * math.log(size))


def _law_floor_not_added(sizes: Tensor, losses: Tensor, floor: float, size: float) -> Result:
    slope, height = _line(sizes.log(), (losses - floor).log())
    return -slope, math.exp(height + slope * math.log(size))


def _law_sign(sizes: Tensor, losses: Tensor, floor: float, size: float) -> Result:
    exponent, predicted = _law_by_solving(sizes, losses, floor, size)
    return -exponent, predicted


def _law_rises(sizes: Tensor, losses: Tensor, floor: float, size: float) -> Result:
    slope, height = _line(sizes.log(), (losses - floor).log())
    return -slope, floor + math.exp(height - slope * math.log(size))


def _law_log_of_size(sizes: Tensor, losses: Tensor, floor: float, size: float) -> Result:
    slope, height = _line(sizes.log(), losses - floor)
    return -slope, floor + height + slope * math.log(size)


def _law_straight(sizes: Tensor, losses: Tensor, floor: float, size: float) -> Result:
    slope, height = _line(sizes, losses - floor)
    return -slope, floor + height + slope * size


def _law_exponential(sizes: Tensor, losses: Tensor, floor: float, size: float) -> Result:
    slope, height = _line(sizes, (losses - floor).log())
    return -slope, floor + math.exp(height + slope * size)


def _law_ends(sizes: Tensor, losses: Tensor, floor: float, size: float) -> Result:
    x, y = sizes.log(), (losses - floor).log()
    slope = float((y[-1] - y[0]) / (x[-1] - x[0]))
    return -slope, floor + math.exp(float(y[-1]) + slope * (math.log(size) - float(x[-1])))


def _law_through_the_origin(sizes: Tensor, losses: Tensor, floor: float, size: float) -> Result:
    x, y = sizes.log(), (losses - floor).log()
    slope = float((x * y).sum() / (x * x).sum())
    return -slope, floor + math.exp(slope * math.log(size))


def _law_two_logarithms(sizes: Tensor, losses: Tensor, floor: float, size: float) -> Result:
    slope, height = _line(sizes.log10(), (losses - floor).log10())
    return -slope, floor + math.exp(height + slope * math.log10(size))


def _law_not_exponentiated(sizes: Tensor, losses: Tensor, floor: float, size: float) -> Result:
    slope, height = _line(sizes.log(), (losses - floor).log())
    return -slope, floor + height + slope * math.log(size)


def _law_regressed_backwards(sizes: Tensor, losses: Tensor, floor: float, size: float) -> Result:
    slope, height = _line((losses - floor).log(), sizes.log())
    return -1 / slope, floor + math.exp((math.log(size) - height) / slope)


def _law_by_solving(sizes: Tensor, losses: Tensor, floor: float, size: float) -> Result:
    # In logarithms of base 10, by a solver of linear systems.
    columns = torch.stack([torch.ones_like(sizes), sizes.log10()], dim=1)  # (N, 2)
    heights = (losses - floor).log10()[:, None]  # (N, 1)
    height, slope = torch.linalg.lstsq(columns, heights).solution[:, 0].tolist()
    return -slope, floor + 10**height * size**slope


def _above_the_floor(got: Result, arguments: Arguments, call: Answer) -> str | None:
    floor, size = arguments[2:]
    if not got[1] > floor:
        return f"the loss predicted for size {size:g} is {got[1]:.4g}, not above the floor {floor}"
    return None


def _doubled(
    change: Callable[[Tensor], Tensor],
) -> Callable[[Result, Arguments, Answer], str | None]:
    def problem(got: Result, arguments: Arguments, call: Answer) -> str | None:
        sizes, losses, floor, size = arguments
        other = call(change(sizes), losses, floor, float(change(torch.tensor(size))))
        if abs(other[0] - got[0]) > 1e-6 or abs(other[1] - got[1]) > 1e-6:
            return (
                "with all sizes counted in thousands the law must say the same: the same exponent "
                "and the same loss"
            )
        return None

    return problem


POWER_LAW = Exercise(
    id="4.9",
    title="fit a scaling law and predict",
    name="predict_loss",
    signature=(
        "predict_loss(sizes: Tensor, losses: Tensor, floor: float, size: float) "
        "-> tuple[float, float]"
    ),
    taught="Part 4, scaling laws",
    difficulty=3,
    minutes=15,
    make_inputs=_law_inputs,
    oracle=_law_oracle,
    tolerance=1e-8,
    statement="least squares for log(loss - floor) over log(size), continued to the new size",
    properties=(
        Property("no loss is below the floor", _above_the_floor),
        Property("units do not matter", _doubled(lambda x: x.double() / 1000)),
    ),
    wrong_answers=(
        WrongAnswer(
            "floor ignored",
            _law_floor_ignored,
            "The floor is not used. A power law falls towards 0, the loss towards its floor: "
            "only loss - floor is a straight line in logarithms.",
        ),
        WrongAnswer(
            "floor added only",
            _law_floor_added_only,
            "The floor is added to the prediction and was not taken off before the fit. "
            "Fit loss - floor.",
        ),
        WrongAnswer(
            "floor not added back",
            _law_floor_not_added,
            "The exponent is right. The prediction lacks the floor: what was fitted is the loss "
            "above it.",
        ),
        WrongAnswer(
            "slope for exponent",
            _law_sign,
            "The prediction is right. The exponent's sign is not: in size^(-alpha) it is the slope "
            "times -1, a positive number.",
        ),
        WrongAnswer(
            "rises with the size",
            _law_rises,
            "The prediction rises with the size: the slope is taken with the wrong sign there.",
        ),
        WrongAnswer(
            "logarithm of the size only",
            _law_log_of_size,
            "Only the size is in logarithms. In a power law both are: log(loss - floor) over "
            "log(size) is the straight line.",
        ),
        WrongAnswer(
            "a straight line",
            _law_straight,
            "A straight line through sizes and losses themselves. Take logarithms of both first.",
        ),
        WrongAnswer(
            "an exponential",
            _law_exponential,
            "Only the loss is in logarithms: that fits an exponential. In a power law the size is "
            "in logarithms too.",
        ),
        WrongAnswer(
            "through the two ends",
            _law_ends,
            "The line goes through the first and the last point, so their noise is all of the "
            "error. Least squares uses every point.",
        ),
        WrongAnswer(
            "through the origin",
            _law_through_the_origin,
            "The line is forced through the origin: there is no factor a in a * size^(-alpha). Fit "
            "slope and height both (subtract the means first).",
        ),
        WrongAnswer(
            "two kinds of logarithm",
            _law_two_logarithms,
            "The fit is in logarithms of base 10 and the prediction goes back with exp. Use one "
            "base for both.",
        ),
        WrongAnswer(
            "not exponentiated",
            _law_not_exponentiated,
            "The predicted logarithm is taken for the loss: exp is missing.",
        ),
        WrongAnswer(
            "regressed backwards",
            _law_regressed_backwards,
            "The line is fitted to log(size) over log(loss - floor). The sizes were chosen and the "
            "noise is in the losses: their squared errors are to be small.",
        ),
    ),
    alternatives=(_law_by_solving,),
    examples=(
        (
            torch.tensor([10.0, 1000.0], dtype=torch.float64),
            torch.tensor([3.0, 1.2], dtype=torch.float64),
            1.0,
            100_000.0,
        ),
    ),
)
