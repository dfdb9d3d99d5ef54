"""Exercise 2.6 Gradient clipping."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from llmcourse.grading.inputs import Draw
from llmcourse.grading.records import Answer, Arguments, Exercise, Property, WrongAnswer


def _clip_inputs(draw: Draw, size: int) -> Arguments:
    if size == 0:
        return [draw.normal(2) + 3.0], 1.0
    if size == 1:  # small enough already
        return [draw.uniform(0.1, 0.2, 2), draw.uniform(0.1, 0.2, 1)], 1.0
    if size == 2:  # one large, one small
        return [draw.normal(2) + 5.0, draw.uniform(0.1, 0.3, 3)], 1.0
    if size == 3:
        return [torch.zeros(2, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)], 0.5
    shapes = [(2, 3), (4,), (1,)] if size == 4 else [(3, 5), (5,), (2, 2, 2)]
    return [draw.normal(*shape, scale=2.0) for shape in shapes], draw.number(0.5, 1.5)


def _clip_oracle(gradients: list[Tensor], max_norm: float) -> list[Tensor]:
    norm = math.sqrt(math.fsum(v * v for g in gradients for v in g.reshape(-1).tolist()))
    factor = max_norm / norm if norm > max_norm else 1.0
    return [
        torch.tensor([v * factor for v in g.reshape(-1).tolist()], dtype=g.dtype).reshape(g.shape)
        for g in gradients
    ]


def _global_norm(gradients: list[Tensor]) -> Tensor:
    return torch.sqrt(sum((g * g).sum() for g in gradients))


def _clip_each(gradients: list[Tensor], max_norm: float) -> list[Tensor]:
    return [g * min(1.0, max_norm / max(float(g.norm()), 1e-12)) for g in gradients]


def _clip_values(gradients: list[Tensor], max_norm: float) -> list[Tensor]:
    return [g.clamp(-max_norm, max_norm) for g in gradients]


def _clip_always(gradients: list[Tensor], max_norm: float) -> list[Tensor]:
    return [g * (max_norm / (_global_norm(gradients) + 1e-12)) for g in gradients]


def _clip_sum_of_norms(gradients: list[Tensor], max_norm: float) -> list[Tensor]:
    norm = sum(float(g.norm()) for g in gradients)
    return [g * min(1.0, max_norm / max(norm, 1e-12)) for g in gradients]


def _clip_squared(gradients: list[Tensor], max_norm: float) -> list[Tensor]:
    norm = sum(float((g * g).sum()) for g in gradients)
    return [g * min(1.0, max_norm / max(norm, 1e-12)) for g in gradients]


def _clip_by_cat(gradients: list[Tensor], max_norm: float) -> list[Tensor]:
    norm = torch.cat([g.flatten() for g in gradients]).norm().item()
    if norm <= max_norm:
        return gradients
    return [g / (norm + 1e-6) * max_norm for g in gradients]


def _direction_is_kept(got: Any, arguments: Arguments, call: Answer) -> str | None:
    before = torch.cat([g.reshape(-1) for g in arguments[0]])
    after = torch.cat([g.reshape(-1) for g in got]).double()
    lengths = before.norm() * after.norm()
    if float(lengths) > 0 and abs(float(before @ after / lengths) - 1) > 1e-6:
        return "all gradients together point another way than before; only their length may change"
    return None


def _small_is_untouched(got: Any, arguments: Arguments, call: Answer) -> str | None:
    gradients, max_norm = arguments
    norm = float(_global_norm(gradients))
    after = float(torch.cat([g.reshape(-1) for g in got]).norm())
    if norm <= max_norm and abs(after - norm) > 1e-4:
        return f"the norm was {norm:.4g}, below max_norm = {max_norm}, and is {after:.4g} now"
    return None


CLIP = Exercise(
    id="2.6",
    title="clip the gradients by their global norm",
    name="clip_gradients",
    signature="clip_gradients(gradients: list[Tensor], max_norm: float) -> list[Tensor]",
    taught="Part 2, the loop",
    difficulty=2,
    minutes=10,
    make_inputs=_clip_inputs,
    oracle=_clip_oracle,
    tolerance=1e-5,  # many add 1e-6 to the norm against a division by zero
    statement="one factor, min(1, max_norm / norm), for all tensors; norm is that of all of them",
    properties=(
        Property("gradients already small enough stay as they are", _small_is_untouched),
        Property("the direction is kept", _direction_is_kept),
    ),
    forbidden=(
        "torch.nn.utils.clip_grad_norm_",
        "torch.nn.utils.clip_grads_with_norm_",
        "torch.nn.utils.get_total_norm",
    ),
    wrong_answers=(
        WrongAnswer(
            "each tensor by itself",
            _clip_each,
            "Each tensor is clipped by its own norm, which turns the overall direction. Compute "
            "one norm over all tensors and scale them all by one factor.",
        ),
        WrongAnswer(
            "clipped by value",
            _clip_values,
            "Each number is clamped to ±max_norm: that is clipping by value. By norm, all numbers "
            "shrink by the same factor.",
        ),
        WrongAnswer(
            "always scaled",
            _clip_always,
            "Small gradients are blown up to max_norm. The factor never exceeds 1.",
        ),
        WrongAnswer(
            "sum of the norms",
            _clip_sum_of_norms,
            "The tensors' norms are added. The global norm is the root of the "
            "sum of their squares.",
        ),
        WrongAnswer(
            "square root forgotten",
            _clip_squared,
            "This compares the sum of squares with max_norm: the square root is missing.",
        ),
    ),
    alternatives=(_clip_by_cat,),
    examples=(
        (
            [torch.tensor([3.0], dtype=torch.float64), torch.tensor([[4.0]], dtype=torch.float64)],
            1.0,
        ),
    ),
)
