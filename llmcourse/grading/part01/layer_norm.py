"""Exercise 1.8 LayerNorm."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from llmcourse.grading.inputs import Draw
from llmcourse.grading.records import Answer, Arguments, Exercise, Property, WrongAnswer


def _norm_inputs(draw: Draw, size: int) -> Arguments:
    shape = [(1, 1, 2), (1, 1, 3), (1, 2, 3), (2, 1, 4), (2, 3, 5), (3, 2, 7)][size]
    x = draw.normal(*shape) + 2.0
    if size == 3:
        x[0] = 0.5  # a token whose channels are all alike: variance zero
    eps = draw.pick([0.1, 0.03, 0.01]) if size else 0.1
    return x, draw.normal(shape[-1]), draw.normal(shape[-1]), eps


def _norm_oracle(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    c = x.shape[-1]
    rows = []
    for row in x.reshape(-1, c).tolist():
        mean = math.fsum(row) / c
        variance = math.fsum((value - mean) ** 2 for value in row) / c
        scale = 1.0 / math.sqrt(variance + eps)
        rows.append(
            [(v - mean) * scale * float(weight[i]) + float(bias[i]) for i, v in enumerate(row)]
        )
    return torch.tensor(rows, dtype=torch.float64).reshape(x.shape)


def _centred(x: Tensor) -> Tensor:
    return x - x.mean(dim=-1, keepdim=True)


def _norm_unbiased(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    return _centred(x) / torch.sqrt(x.var(dim=-1, keepdim=True) + eps) * weight + bias


def _norm_eps_outside(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    deviation = torch.sqrt(x.var(dim=-1, keepdim=True, correction=0))
    return _centred(x) / (deviation + eps) * weight + bias


def _norm_by_variance(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    return _centred(x) / (x.var(dim=-1, keepdim=True, correction=0) + eps) * weight + bias


def _norm_over_time(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    mean = x.mean(dim=(1, 2), keepdim=True)
    variance = x.var(dim=(1, 2), keepdim=True, correction=0)
    return (x - mean) / torch.sqrt(variance + eps) * weight + bias


def _norm_uncentred(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    return x / torch.sqrt((x * x).mean(dim=-1, keepdim=True) + eps) * weight + bias


def _norm_no_affine(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    return _centred(x) / torch.sqrt(x.var(dim=-1, keepdim=True, correction=0) + eps)


def _norm_by_moments(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    mean = torch.einsum("btc->bt", x)[..., None] / x.shape[-1]
    difference = x - mean
    variance = torch.einsum("btc,btc->bt", difference, difference)[..., None] / x.shape[-1]
    return torch.addcmul(bias.expand_as(x), difference * (variance + eps).rsqrt(), weight)


def _shift_changes_nothing(got: Tensor, arguments: Arguments, call: Answer) -> str | None:
    x, weight, bias, eps = arguments
    if float((call(x + 3.0, weight, bias, eps) - got).abs().max()) > 1e-6:
        return "adding 3 to every channel of x changed the result; the mean must be taken out"
    return None


def _tokens_are_apart(got: Tensor, arguments: Arguments, call: Answer) -> str | None:
    x, weight, bias, eps = arguments
    if x.shape[1] < 2:
        return None
    changed = x.clone()
    changed[:, -1] *= 7.0
    if float((call(changed, weight, bias, eps) - got)[:, :-1].abs().max()) > 1e-6:
        return "changing the last token changed the others; each token is normalised by itself"
    return None


LAYER_NORM = Exercise(
    id="1.8",
    title="LayerNorm",
    name="layer_norm",
    signature="layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor",
    taught="Part 1, residuals and LayerNorm",
    difficulty=2,
    minutes=10,
    make_inputs=_norm_inputs,
    oracle=_norm_oracle,
    statement="(x - mean) / sqrt(variance + eps) * weight + bias over the channels of each token",
    properties=(
        Property("each token is normalised by itself", _tokens_are_apart),
        Property("the mean is taken out", _shift_changes_nothing),
    ),
    forbidden=(
        "torch.layer_norm",
        "torch.native_layer_norm",
        "torch.nn.functional.layer_norm",
        "torch.nn.functional.group_norm",
        "torch.nn.functional.instance_norm",
        "torch.nn.functional.batch_norm",
        "torch.nn.functional.rms_norm",
        "torch.group_norm",
        "torch.batch_norm",
    ),
    wrong_answers=(
        WrongAnswer(
            "unbiased variance",
            _norm_unbiased,
            "The variance divides by C - 1, torch's default. LayerNorm divides by C: "
            "x.var(..., correction=0).",
        ),
        WrongAnswer(
            "eps outside the root",
            _norm_eps_outside,
            "eps is added to the standard deviation. It belongs inside the root: "
            "sqrt(variance + eps).",
        ),
        WrongAnswer(
            "divided by the variance",
            _norm_by_variance,
            "You divide by the variance; the square root is missing.",
        ),
        WrongAnswer(
            "over all tokens",
            _norm_over_time,
            "Mean and variance run over the whole sequence. LayerNorm looks at one token at a "
            "time: the last axis only.",
        ),
        WrongAnswer(
            "mean not subtracted",
            _norm_uncentred,
            "The mean is not taken out; this is RMSNorm plus a bias, which comes in Part 3. "
            "LayerNorm centres first.",
        ),
        WrongAnswer(
            "weight and bias forgotten",
            _norm_no_affine,
            "weight and bias are not used: after the normalisation each channel gets its own "
            "learned scale and shift.",
        ),
    ),
    alternatives=(_norm_by_moments,),
    examples=(
        (
            torch.tensor([[[1.0, 3.0]]], dtype=torch.float64),
            torch.ones(2, dtype=torch.float64),
            torch.zeros(2, dtype=torch.float64),
            3.0,
        ),
    ),
)
