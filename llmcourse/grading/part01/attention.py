"""Exercise 1.3 Scaled dot-product attention."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from llmcourse.grading.inputs import Draw
from llmcourse.grading.records import Answer, Arguments, Exercise, Property, WrongAnswer


def _attention_inputs(draw: Draw, size: int) -> Arguments:
    t, s, d, e = [
        (1, 1, 1, 1),
        (1, 2, 2, 1),
        (2, 2, 3, 1),
        (2, 3, 2, 2),
        (3, 5, 4, 2),
        (5, 7, draw.integer(2, 6), 3),
    ][size]
    return draw.normal(t, d), draw.normal(s, d), draw.normal(s, e)


def attention_loops(q: Tensor, k: Tensor, v: Tensor, sees: Any) -> list[list[float]]:
    """softmax(q k / sqrt D) v over the keys for which sees(t, s) holds, in plain loops."""
    queries, keys, values = q.tolist(), k.tolist(), v.tolist()
    out = []
    for t, query in enumerate(queries):
        visible = [s for s in range(len(keys)) if sees(t, s)]
        scores = [
            sum(a * b for a, b in zip(query, keys[s])) / math.sqrt(len(query)) for s in visible
        ]
        top = max(scores)
        powers = [math.exp(score - top) for score in scores]
        total = math.fsum(powers)
        out.append(
            [
                math.fsum(p / total * values[s][e] for p, s in zip(powers, visible))
                for e in range(len(values[0]))
            ]
        )
    return out


def _attention_oracle(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.tensor(attention_loops(q, k, v, lambda t, s: True), dtype=torch.float64)


def _attention_unscaled(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.softmax(q @ k.T, dim=-1) @ v


def _attention_query_axis(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.softmax(q @ k.T / math.sqrt(q.shape[-1]), dim=0) @ v


def _attention_by_width(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.softmax(q @ k.T / q.shape[-1], dim=-1) @ v


def _attention_by_length(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.softmax(q @ k.T / math.sqrt(k.shape[0]), dim=-1) @ v


def _attention_late_scale(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.softmax(q @ k.T, dim=-1) / math.sqrt(q.shape[-1]) @ v


def _attention_no_softmax(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return q @ k.T / math.sqrt(q.shape[-1]) @ v


def _attention_einsum(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = torch.einsum("td,sd->ts", q, k) * q.shape[-1] ** -0.5
    weights = (scores - scores.logsumexp(dim=1, keepdim=True)).exp()
    return torch.einsum("ts,se->te", weights, v)


def _average_of_equal_values(got: Tensor, arguments: Arguments, call: Answer) -> str | None:
    q, k, v = arguments
    constant = call(q, k, torch.ones_like(v))
    if float((constant - 1).abs().max()) > 1e-6:
        return (
            "with all values equal to 1 every output must be 1: the weights over the keys of a "
            "query must sum to 1"
        )
    return None


ATTENTION = Exercise(
    id="1.3",
    title="scaled dot-product attention",
    name="attention",
    signature="attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor",
    taught="Part 1, attention from first principles",
    difficulty=3,
    minutes=15,
    make_inputs=_attention_inputs,
    oracle=_attention_oracle,
    statement="each output is the average of v, weighted by softmax(q · k / sqrt(D)) over the keys",
    properties=(Property("the output is an average of the values", _average_of_equal_values),),
    forbidden=(
        "torch.nn.functional.scaled_dot_product_attention",
        "torch.nn.functional.multi_head_attention_forward",
    ),
    wrong_answers=(
        WrongAnswer(
            "unscaled",
            _attention_unscaled,
            "The scores are not divided by sqrt(D). Without it the dot products grow with the "
            "width and the softmax saturates.",
        ),
        WrongAnswer(
            "softmax over the queries",
            _attention_query_axis,
            "This equals a softmax over the query axis. Each query shares out its attention over "
            "the keys, the last axis of the scores: dim=-1.",
        ),
        WrongAnswer(
            "divided by D",
            _attention_by_width,
            "The scores are divided by D; the paper divides by sqrt(D), the standard deviation of "
            "a dot product of D independent unit-variance products.",
        ),
        WrongAnswer(
            "divided by the root of the length",
            _attention_by_length,
            "The scores are divided by the square root of the number of keys. What counts is the "
            "width D of q and k: q.shape[-1].",
        ),
        WrongAnswer(
            "scaled after the softmax",
            _attention_late_scale,
            "The division by sqrt(D) comes after the softmax, so the weights no longer sum to 1. "
            "Scale the scores before the softmax.",
        ),
        WrongAnswer(
            "no softmax",
            _attention_no_softmax,
            "The raw scores multiply the values: the softmax that turns them into weights is "
            "missing.",
        ),
    ),
    alternatives=(_attention_einsum,),
    examples=(
        (
            torch.zeros(1, 4, dtype=torch.float64),
            torch.eye(2, 4, dtype=torch.float64),
            torch.tensor([[2.0], [4.0]], dtype=torch.float64),
        ),
    ),
)
