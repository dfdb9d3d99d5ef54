"""Exercise 1.9 GELU."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from llmcourse.grading.inputs import Draw
from llmcourse.grading.records import Answer, Arguments, Exercise, Property, WrongAnswer


def _gelu_inputs(draw: Draw, size: int) -> Arguments:
    if size == 5:  # far out, where GELU is 0 or the identity
        return (torch.cat([draw.uniform(20.0, 60.0, 2), draw.uniform(-60.0, -20.0, 2)]),)
    shape = [(3,), (4,), (2, 3), (1, 5), (2, 3, 3)][size]
    return (draw.uniform(-3.0, 3.0, *shape),)


def _gelu_oracle(x: Tensor) -> Tensor:
    values = [v * 0.5 * math.erfc(-v / math.sqrt(2.0)) for v in x.reshape(-1).tolist()]
    return torch.tensor(values, dtype=torch.float64).reshape(x.shape)


def _gelu_tanh(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def _gelu_sigmoid(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


def _gelu_no_root(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.erf(x))


def _gelu_relu(x: Tensor) -> Tensor:
    return x.clamp_min(0)


def _gelu_no_half(x: Tensor) -> Tensor:
    return x * (1 + torch.erf(x / math.sqrt(2)))


def _gelu_silu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(x)


def _gelu_by_ndtr(x: Tensor) -> Tensor:
    return x * torch.special.ndtr(x)


def _odd_part_is_half(got: Tensor, arguments: Arguments, call: Answer) -> str | None:
    (x,) = arguments
    if float((got - call(-x) - x).abs().max()) > 1e-6:
        return "gelu(x) - gelu(-x) must be x, because Φ(x) + Φ(-x) = 1"
    return None


GELU = Exercise(
    id="1.9",
    title="GELU",
    name="gelu",
    signature="gelu(x: Tensor) -> Tensor",
    taught="Part 1, the feed-forward layer",
    difficulty=1,
    minutes=5,
    make_inputs=_gelu_inputs,
    oracle=_gelu_oracle,
    statement="gelu(x) = x Φ(x), with Φ the normal distribution function",
    properties=(Property("gelu(x) - gelu(-x) = x", _odd_part_is_half),),
    forbidden=("torch.nn.functional.gelu", "torch._C._nn.gelu"),
    wrong_answers=(
        WrongAnswer(
            "the tanh approximation",
            _gelu_tanh,
            "This is the tanh approximation that GPT-2 used, up to 5e-4 away. Asked for is the "
            "exact one, with torch.erf.",
        ),
        WrongAnswer(
            "the sigmoid approximation",
            _gelu_sigmoid,
            "This is the quick approximation x sigmoid(1.702 x), up to 0.02 away. Asked for is the "
            "exact one, with torch.erf.",
        ),
        WrongAnswer(
            "sqrt(2) forgotten",
            _gelu_no_root,
            "Φ(x) is (1 + erf(x / sqrt(2))) / 2: the sqrt(2) inside erf is missing.",
        ),
        WrongAnswer(
            "ReLU",
            _gelu_relu,
            "This is ReLU. GELU is smooth: x times the probability that a standard normal number "
            "is below x.",
        ),
        WrongAnswer(
            "half forgotten",
            _gelu_no_half,
            "This is twice GELU: erf runs from -1 to 1, and a probability needs the half in front.",
        ),
        WrongAnswer(
            "SiLU",
            _gelu_silu,
            "This is SiLU, x sigmoid(x). GELU has the normal distribution function in place of the "
            "logistic one.",
        ),
    ),
    alternatives=(_gelu_by_ndtr,),
    examples=((torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64),),),
)
