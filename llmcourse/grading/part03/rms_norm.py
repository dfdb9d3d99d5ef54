"""Exercise 3.1 RMSNorm."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from llmcourse.grading.inputs import Draw
from llmcourse.grading.records import Answer, Arguments, Exercise, Property, WrongAnswer


def _rms_inputs(draw: Draw, size: int) -> Arguments:
    shape = [(1, 2), (1, 3), (2, 3), (2, 4), (2, 3, 5), (3, 2, 7)][size]
    x = draw.normal(*shape) + 2.0
    if size == 3:
        x[0] = 0.0  # a token of zeros: only eps stands between it and 0 / 0
    eps = draw.pick([0.3, 0.2, 0.1]) if size else 0.3
    return x, draw.normal(shape[-1]) + 1.5, eps


def _rms_oracle(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    c, scales = x.shape[-1], weight.tolist()
    rows = []
    for row in x.reshape(-1, c).tolist():
        root = math.sqrt(math.fsum(value * value for value in row) / c + eps)
        rows.append([value / root * scale for value, scale in zip(row, scales)])
    return torch.tensor(rows, dtype=torch.float64).reshape(x.shape)


def _mean_square(x: Tensor) -> Tensor:
    return (x * x).mean(dim=-1, keepdim=True)


def _rms_centred(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    centred = x - x.mean(dim=-1, keepdim=True)
    return centred / torch.sqrt(_mean_square(centred) + eps) * weight


def _rms_by_deviation(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x / torch.sqrt(x.var(dim=-1, keepdim=True, correction=0) + eps) * weight


def _rms_eps_outside(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x / (torch.sqrt(_mean_square(x)) + eps) * weight


def _rms_no_eps(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x / torch.sqrt(_mean_square(x)) * weight


def _rms_no_root(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x / (_mean_square(x) + eps) * weight


def _rms_sum(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x / torch.sqrt((x * x).sum(dim=-1, keepdim=True) + eps) * weight


def _rms_offset(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x / torch.sqrt(_mean_square(x) + eps) * (1.0 + weight)


def _rms_no_weight(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x / torch.sqrt(_mean_square(x) + eps)


def _rms_all_tokens(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x / torch.sqrt((x * x).mean() + eps) * weight


def _rms_by_length(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return torch.einsum("...c,c->...c", x * (length.square() / x.shape[-1] + eps).rsqrt(), weight)


def _tokens_are_apart(got: Tensor, arguments: Arguments, call: Answer) -> str | None:
    x, weight, eps = arguments
    rows = x.reshape(-1, x.shape[-1])
    if len(rows) < 2:
        return None
    changed = rows.clone()
    changed[-1] = changed[-1] * 7.0 + 1.0
    after = call(changed.reshape(x.shape), weight, eps).reshape(rows.shape)
    if float((after - got.reshape(rows.shape))[:-1].abs().max()) > 1e-6:
        return "changing the last token changed the others; each token is normalised by itself"
    return None


def _size_is_one(got: Tensor, arguments: Arguments, call: Answer) -> str | None:
    x, weight, _ = arguments
    long = 1e4 * (x.abs() + 1.0)  # so long that eps does not count
    sizes = call(long, torch.ones_like(weight), 1e-5).square().mean(dim=-1).sqrt()
    worst = float(sizes.reshape(-1)[(sizes - 1).abs().reshape(-1).argmax()])
    if abs(worst - 1.0) > 1e-6:
        return (
            "with weight 1 and a tiny eps the mean square of each token must come out as 1; its "
            f"root is {worst:.4g}"
        )
    return None


def _shift_matters(got: Tensor, arguments: Arguments, call: Answer) -> str | None:
    x, weight, eps = arguments
    if float((call(x + 3.0, weight, eps) - got).abs().max()) < 1e-9:
        return "adding 3 to every channel changed nothing: the mean is taken out, and it must stay"
    return None


RMS_NORM = Exercise(
    id="3.1",
    title="RMSNorm",
    name="rms_norm",
    signature="rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor",
    taught="Part 3, RMSNorm",
    difficulty=1,
    minutes=5,
    make_inputs=_rms_inputs,
    oracle=_rms_oracle,
    statement="x / sqrt(mean of x² + eps) * weight, the mean over the channels of each token",
    properties=(
        Property("each token is normalised by itself", _tokens_are_apart),
        Property("the mean is left in", _shift_matters),
        Property("the root mean square of each token becomes 1", _size_is_one),
    ),
    forbidden=(
        "torch.rms_norm",
        "torch.nn.functional.rms_norm",
        "torch.layer_norm",
        "torch.nn.functional.layer_norm",
    ),
    wrong_answers=(
        WrongAnswer(
            "mean subtracted",
            _rms_centred,
            "The mean is taken out first: that is LayerNorm without its bias. RMSNorm divides x as "
            "it stands.",
        ),
        WrongAnswer(
            "divided by the standard deviation",
            _rms_by_deviation,
            "You divide by the standard deviation, from which the mean is taken out. RMSNorm "
            "divides by the root of the mean of x² itself.",
        ),
        WrongAnswer(
            "eps outside the root",
            _rms_eps_outside,
            "eps is added to the root. It belongs inside: sqrt(mean of x² + eps).",
        ),
        WrongAnswer(
            "eps not used",
            _rms_no_eps,
            "eps is not used. It is what keeps a token of zeros from becoming 0 / 0: "
            "sqrt(mean of x² + eps).",
        ),
        WrongAnswer(
            "root forgotten",
            _rms_no_root,
            "You divide by the mean square; the square root is missing.",
        ),
        WrongAnswer(
            "sum rather than mean",
            _rms_sum,
            "The squares are summed. With their mean the size of the result does not depend on how "
            "many channels there are.",
        ),
        WrongAnswer(
            "weight counted from zero",
            _rms_offset,
            "The scale is 1 + weight, as Gemma stores it. Here the scale is weight itself.",
        ),
        WrongAnswer(
            "weight forgotten",
            _rms_no_weight,
            "weight is not used: after the normalisation each channel gets its own learned scale.",
        ),
        WrongAnswer(
            "over all tokens",
            _rms_all_tokens,
            "The mean runs over the whole tensor. RMSNorm looks at one token at a time: the last "
            "axis only.",
        ),
    ),
    alternatives=(_rms_by_length,),
    examples=(
        (
            torch.tensor([[1.0, 7.0]], dtype=torch.float64),
            torch.tensor([1.0, 2.0], dtype=torch.float64),
            0.0,
        ),
    ),
)
