"""Exercise 3.12 Attention over cached latents."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from llmcourse.grading.inputs import Draw
from llmcourse.grading.part01.attention import attention_loops
from llmcourse.grading.records import Answer, Arguments, Exercise, Property, WrongAnswer


def _latent_inputs(draw: Draw, size: int) -> Arguments:
    h, s, d, e, r = [
        (1, 2, 1, 1, 2),
        (1, 2, 2, 2, 3),
        (2, 3, 2, 2, 2),
        (2, 3, 4, 4, 2),
        (3, 4, 2, 3, 5),
        (4, 6, 6, 5, 3),
    ][size]
    return draw.normal(h, d), draw.normal(s, r), draw.normal(h, d, r), draw.normal(h, e, r)


def _latent_oracle(q: Tensor, latents: Tensor, key_up: Tensor, value_up: Tensor) -> Tensor:
    def expanded(matrix: Tensor) -> Tensor:
        rows = [
            [math.fsum(a * b for a, b in zip(row, latent)) for row in matrix.tolist()]
            for latent in latents.tolist()
        ]
        return torch.tensor(rows, dtype=torch.float64)

    rows = [
        attention_loops(q[h : h + 1], expanded(key_up[h]), expanded(value_up[h]), lambda t, s: True)
        for h in range(len(q))
    ]
    return torch.tensor(rows, dtype=torch.float64)[:, 0]


def _absorbed(
    q: Tensor, latents: Tensor, key_up: Tensor, value_up: Tensor, width: int | None = None
) -> Tensor:
    asked = torch.einsum("hd,hdr->hr", q, key_up)
    weights = torch.softmax(asked @ latents.T / math.sqrt(width or q.shape[-1]), dim=-1)
    return torch.einsum("hr,her->he", weights @ latents, value_up)


def _latent_root_of_r(q: Tensor, latents: Tensor, key_up: Tensor, value_up: Tensor) -> Tensor:
    return _absorbed(q, latents, key_up, value_up, latents.shape[-1])


def _latent_unscaled(q: Tensor, latents: Tensor, key_up: Tensor, value_up: Tensor) -> Tensor:
    return _absorbed(q, latents, key_up, value_up, 1)


def _latent_untransposed(q: Tensor, latents: Tensor, key_up: Tensor, value_up: Tensor) -> Tensor:
    asked = torch.einsum("hd,hrd->hr", q, key_up)
    weights = torch.softmax(asked @ latents.T / math.sqrt(q.shape[-1]), dim=-1)
    return torch.einsum("hr,her->he", weights @ latents, value_up)


def _latent_not_expanded(q: Tensor, latents: Tensor, key_up: Tensor, value_up: Tensor) -> Tensor:
    asked = torch.einsum("hd,hdr->hr", q, key_up)
    return torch.softmax(asked @ latents.T / math.sqrt(q.shape[-1]), dim=-1) @ latents


def _latent_swapped(q: Tensor, latents: Tensor, key_up: Tensor, value_up: Tensor) -> Tensor:
    return _absorbed(q, latents, value_up, key_up)


def _latent_one_matrix(q: Tensor, latents: Tensor, key_up: Tensor, value_up: Tensor) -> Tensor:
    return _absorbed(q, latents, key_up, key_up)


def _latent_first_head(q: Tensor, latents: Tensor, key_up: Tensor, value_up: Tensor) -> Tensor:
    return _absorbed(q, latents, key_up[:1].expand_as(key_up), value_up[:1].expand_as(value_up))


def _latent_over_heads(q: Tensor, latents: Tensor, key_up: Tensor, value_up: Tensor) -> Tensor:
    asked = torch.einsum("hd,hdr->hr", q, key_up)
    weights = torch.softmax(asked @ latents.T / math.sqrt(q.shape[-1]), dim=0)
    return torch.einsum("hr,her->he", weights @ latents, value_up)


def _latent_expanded(q: Tensor, latents: Tensor, key_up: Tensor, value_up: Tensor) -> Tensor:
    # The long way, as in training: every head's keys and values are written out.
    keys, values = latents @ key_up.mT, latents @ value_up.mT  # (H, S, D) and (H, S, E)
    scores = (keys @ q[:, :, None]) / math.sqrt(q.shape[-1])  # (H, S, 1)
    return (torch.softmax(scores, dim=1) * values).sum(dim=1)


def _latent_absorbed(q: Tensor, latents: Tensor, key_up: Tensor, value_up: Tensor) -> Tensor:
    asked = (q[:, None, :] @ key_up)[:, 0]  # (H, R)
    scores = asked @ latents.T * q.shape[-1] ** -0.5  # (H, S)
    weights = (scores - scores.logsumexp(dim=-1, keepdim=True)).exp()
    return (value_up @ (weights @ latents)[:, :, None])[:, :, 0]


def _equal_latents(got: Tensor, arguments: Arguments, call: Answer) -> str | None:
    q, latents, key_up, value_up = arguments
    one = latents[:1].expand_as(latents).clone()
    wanted = value_up @ latents[0]  # (H, E)
    if float((call(q, one, key_up, value_up) - wanted).abs().max()) > 1e-6:
        return (
            "with all latents equal the output must be value_up times that latent, whatever the "
            "query asks"
        )
    return None


def _values_do_not_choose(got: Tensor, arguments: Arguments, call: Answer) -> str | None:
    q, latents, key_up, value_up = arguments
    if float((call(q, latents, key_up, 2.0 * value_up) - 2.0 * got).abs().max()) > 1e-6:
        return "doubling value_up must double the output: it has no part in the weights"
    return None


LATENT_ATTENTION = Exercise(
    id="3.12",
    title="attention over cached latents",
    name="latent_attention",
    signature=(
        "latent_attention(q: Tensor, latents: Tensor, key_up: Tensor, value_up: Tensor) -> Tensor"
    ),
    taught="Part 3, multi-head latent attention",
    difficulty=4,
    minutes=20,
    make_inputs=_latent_inputs,
    oracle=_latent_oracle,
    statement="attention with keys key_up[h] c and values value_up[h] c for the latents c",
    properties=(
        Property("equal latents leave nothing to choose", _equal_latents),
        Property("value_up has no part in the weights", _values_do_not_choose),
    ),
    forbidden=(
        "torch.nn.functional.scaled_dot_product_attention",
        "torch.nn.functional.multi_head_attention_forward",
    ),
    wrong_answers=(
        WrongAnswer(
            "root of the latent width",
            _latent_root_of_r,
            "The scores are divided by sqrt(R). Absorbing a matrix changes the order of the "
            "products, not the scores: they are still q · k of width D, so sqrt(D).",
        ),
        WrongAnswer(
            "unscaled",
            _latent_unscaled,
            "The scores are not divided by sqrt(D), D being the width of q.",
        ),
        WrongAnswer(
            "matrix not transposed",
            _latent_untransposed,
            "key_up meets the query the wrong way round. q · (U c) = (Uᵀ q) · c: the sum runs over "
            "D, the second axis of key_up, and R is left.",
        ),
        WrongAnswer(
            "values not expanded",
            _latent_not_expanded,
            "The weighted latents are returned as they are, R numbers for each head. Each head "
            "still turns them into a value: value_up[h] times the average.",
        ),
        WrongAnswer(
            "matrices swapped",
            _latent_swapped,
            "key_up and value_up are swapped: key_up goes with the query, value_up with the "
            "output.",
        ),
        WrongAnswer(
            "one matrix for both",
            _latent_one_matrix,
            "key_up is used for the values as well. One latent gives both, through a matrix each.",
        ),
        WrongAnswer(
            "one matrix for all heads",
            _latent_first_head,
            "All heads use head 0's matrices. They share the latents; each has matrices of its "
            "own.",
        ),
        WrongAnswer(
            "softmax over the heads",
            _latent_over_heads,
            "This equals a softmax over the heads. Each head shares out its attention over the "
            "latents, the last axis of the scores (H, S).",
        ),
    ),
    alternatives=(_latent_absorbed, _latent_expanded),
    examples=(
        (
            torch.tensor([[1.0]], dtype=torch.float64),
            torch.tensor([[0.0, 8.0], [math.log(3.0), 4.0]], dtype=torch.float64),
            torch.tensor([[[1.0, 0.0]]], dtype=torch.float64),
            torch.tensor([[[0.0, 1.0]]], dtype=torch.float64),
        ),
    ),
)
