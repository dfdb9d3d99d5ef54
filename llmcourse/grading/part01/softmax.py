"""Exercise 1.2 Softmax."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from llmcourse.grading.inputs import Draw
from llmcourse.grading.records import Answer, Arguments, Exercise, Property, WrongAnswer


def _softmax_inputs(draw: Draw, size: int) -> Arguments:
    if size == 0:
        return (draw.normal(1),)
    if size == 1:
        return (draw.normal(3),)
    if size == 2:
        return (draw.normal(2, 3),)
    if size == 3:  # rows far apart: each needs its own maximum
        return (draw.normal(2, 3) + torch.tensor([[1000.0], [-1000.0]], dtype=torch.float64),)
    if size == 4:  # masked scores, as attention makes them
        x = draw.normal(3, 4)
        x[0, 1:] = -math.inf
        x[1, 3] = -math.inf
        return (x,)
    return (draw.normal(2, draw.integer(1, 4), 5, scale=3.0),)


def _softmax_oracle(x: Tensor) -> Tensor:
    rows = []
    for row in x.reshape(-1, x.shape[-1]).tolist():
        top = max(row)
        powers = [math.exp(value - top) for value in row]
        total = math.fsum(powers)
        rows.append([power / total for power in powers])
    return torch.tensor(rows, dtype=torch.float64).reshape(x.shape)


def _softmax_unstable(x: Tensor) -> Tensor:
    powers = torch.exp(x)
    return powers / powers.sum(dim=-1, keepdim=True)


def _softmax_first_axis(x: Tensor) -> Tensor:
    powers = torch.exp(x - x.amax(dim=0, keepdim=True))
    return powers / powers.sum(dim=0, keepdim=True)


def _softmax_all(x: Tensor) -> Tensor:
    powers = torch.exp(x - x.max())
    return powers / powers.sum()


def _softmax_one_maximum(x: Tensor) -> Tensor:
    powers = torch.exp(x - x.max())
    return powers / powers.sum(dim=-1, keepdim=True)


def _softmax_no_keepdim(x: Tensor) -> Tensor:
    powers = torch.exp(x - x.max(dim=-1).values)
    return powers / powers.sum(dim=-1)


def _softmax_by_logarithm(x: Tensor) -> Tensor:
    return torch.exp(x - torch.logsumexp(x, dim=-1, keepdim=True))


def _rows_sum_to_one(got: Tensor, arguments: Arguments, call: Answer) -> str | None:
    total = got.sum(-1).reshape(-1)
    worst = total[(total - 1).abs().argmax()].item()
    return f"a row sums to {worst:.4g}" if abs(worst - 1) > 1e-6 else None


SOFTMAX = Exercise(
    id="1.2",
    title="a softmax that does not overflow",
    name="softmax",
    signature="softmax(x: Tensor) -> Tensor",
    taught="Part 1, attention from first principles",
    difficulty=2,
    minutes=10,
    make_inputs=_softmax_inputs,
    oracle=_softmax_oracle,
    statement="entry i of a row is exp(x_i) / sum_j exp(x_j)",
    properties=(Property("every row sums to 1", _rows_sum_to_one),),
    forbidden=(
        "torch.softmax",
        "torch.Tensor.softmax",
        "torch.nn.functional.softmax",
        "torch.nn.functional.softmin",
        "torch.special.softmax",
        "torch.log_softmax",
        "torch.Tensor.log_softmax",
        "torch.nn.functional.log_softmax",
        "torch.special.log_softmax",
        "torch.nn.functional.gumbel_softmax",
    ),
    wrong_answers=(
        WrongAnswer(
            "no maximum subtracted",
            _softmax_unstable,
            "exp overflows for large scores (and is 0 / 0 for very negative ones). Subtract each "
            "row's maximum first: the ratio stays the same and no exponent exceeds 0.",
        ),
        WrongAnswer(
            "over the first axis",
            _softmax_first_axis,
            "The softmax runs over the first axis (dim=0). It belongs on the last one, dim=-1.",
        ),
        WrongAnswer(
            "over all entries",
            _softmax_all,
            "You divide by the sum over the whole tensor, so only all rows together sum to 1. "
            "Each row needs a sum of its own: dim=-1, keepdim=True.",
        ),
        WrongAnswer(
            "one maximum for all rows",
            _softmax_one_maximum,
            "You subtract one maximum for the whole tensor. A row that lies far below it turns "
            "into 0 / 0: subtract each row's own maximum (dim=-1, keepdim=True).",
        ),
        WrongAnswer(
            "keepdim forgotten",
            _softmax_no_keepdim,
            "keepdim=True is missing: without it the rows' maxima and sums line up with the "
            "columns, which fails or silently mixes rows.",
        ),
    ),
    alternatives=(_softmax_by_logarithm,),
    examples=((torch.tensor([[0.0, 0.0], [0.0, math.log(3.0)]], dtype=torch.float64),),),
)
