"""Exercise 2.7 Temperature and top-k."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from llmcourse.grading.inputs import Draw
from llmcourse.grading.records import Answer, Arguments, Exercise, Property, WrongAnswer


def _top_k_inputs(draw: Draw, size: int) -> Arguments:
    b, v, k = [(1, 2, 1), (1, 3, 2), (1, 4, 4), (2, 5, 2), (3, 7, 3), (2, 11, draw.integer(2, 9))][
        size
    ]
    temperature = draw.pick([0.4, 0.7, 1.6, 2.5])
    logits = draw.normal(b, v)
    if b > 1:  # a row whose scores all lie above those of the others
        logits[0] += 6.0
    return logits, temperature, k


def _top_k_oracle(logits: Tensor, temperature: float, k: int) -> Tensor:
    rows = []
    for row in logits.tolist():
        kept = sorted(range(len(row)), key=lambda i: row[i], reverse=True)[:k]
        top = max(row)
        powers = {i: math.exp((row[i] - top) / temperature) for i in kept}
        total = math.fsum(powers.values())
        rows.append([powers.get(i, 0.0) / total for i in range(len(row))])
    return torch.tensor(rows, dtype=torch.float64)


def _keep(logits: Tensor, k: int, fill: float = -math.inf) -> Tensor:
    least = logits.topk(k, dim=-1).values[:, -1:]
    return logits.masked_fill(logits < least, fill)


def _top_k_times(logits: Tensor, temperature: float, k: int) -> Tensor:
    return torch.softmax(_keep(logits, k) * temperature, dim=-1)


def _top_k_after(logits: Tensor, temperature: float, k: int) -> Tensor:
    return torch.softmax(_keep(logits, k), dim=-1) / temperature


def _top_k_not_normalised(logits: Tensor, temperature: float, k: int) -> Tensor:
    probabilities = torch.softmax(logits / temperature, dim=-1)
    return probabilities.masked_fill(_keep(logits, k).isinf(), 0.0)


def _top_k_zero(logits: Tensor, temperature: float, k: int) -> Tensor:
    return torch.softmax(_keep(logits, k, 0.0) / temperature, dim=-1)


def _top_k_smallest(logits: Tensor, temperature: float, k: int) -> Tensor:
    return torch.softmax(_lowest(logits, k) / temperature, dim=-1)


def _lowest(logits: Tensor, k: int) -> Tensor:
    most = logits.topk(k, dim=-1, largest=False).values[:, -1:]
    return logits.masked_fill(logits > most, -math.inf)


def _top_k_no_temperature(logits: Tensor, temperature: float, k: int) -> Tensor:
    return torch.softmax(_keep(logits, k), dim=-1)


def _top_k_first_row(logits: Tensor, temperature: float, k: int) -> Tensor:
    least = logits[0].topk(k).values[-1]
    return torch.softmax(logits.masked_fill(logits < least, -1e30) / temperature, dim=-1)


def _top_k_by_scatter(logits: Tensor, temperature: float, k: int) -> Tensor:
    values, places = logits.sort(dim=-1, descending=True)
    kept = torch.softmax(values[:, :k] / temperature, dim=-1)
    return torch.zeros_like(logits).scatter(-1, places[:, :k], kept)


def sums_to_one(got: Tensor, arguments: Arguments, call: Answer) -> str | None:
    total = got.sum(-1)
    worst = total[(total - 1).abs().argmax()].item()
    return f"a row sums to {worst:.4g}" if abs(worst - 1) > 1e-6 else None


def _keeps_k(got: Tensor, arguments: Arguments, call: Answer) -> str | None:
    kept = (got > 0).sum(-1)
    wrong = kept[kept != arguments[2]]
    if len(wrong):
        return f"{int(wrong[0])} tokens of a row can be drawn, k = {arguments[2]} should be"
    return None


TOP_K = Exercise(
    id="2.7",
    title="temperature and top-k",
    name="top_k_probabilities",
    signature="top_k_probabilities(logits: Tensor, temperature: float, k: int) -> Tensor",
    taught="Part 2, sampling",
    difficulty=2,
    minutes=10,
    make_inputs=_top_k_inputs,
    oracle=_top_k_oracle,
    statement="softmax(logits / temperature) over each row's k largest logits, 0 elsewhere",
    properties=(
        Property("the probabilities of a row sum to 1", sums_to_one),
        Property("exactly k tokens of each row are kept", _keeps_k),
    ),
    wrong_answers=(
        WrongAnswer(
            "multiplied by the temperature",
            _top_k_times,
            "The logits are multiplied by the temperature: it works backwards. Divide, so that a "
            "low temperature makes the favourite stand out.",
        ),
        WrongAnswer(
            "temperature after the softmax",
            _top_k_after,
            "The temperature divides the probabilities, so they no longer sum to 1. It divides the "
            "logits, before the softmax.",
        ),
        WrongAnswer(
            "not renormalised",
            _top_k_not_normalised,
            "The others are set to 0 after the softmax and the rest is not scaled up to sum to 1 "
            "again. Set their logits to -inf before the softmax.",
        ),
        WrongAnswer(
            "logits set to zero",
            _top_k_zero,
            "The removed logits are set to 0, and exp(0) is 1: they can still be drawn. Set them "
            "to -inf.",
        ),
        WrongAnswer(
            "the smallest k",
            _top_k_smallest,
            "The k smallest logits are kept. Keep the largest.",
        ),
        WrongAnswer(
            "temperature ignored",
            _top_k_no_temperature,
            "The temperature changes nothing in your result: divide the logits by it.",
        ),
        WrongAnswer(
            "one threshold for the batch",
            _top_k_first_row,
            "One threshold, that of the first row, serves the whole batch. Every row has its own "
            "k-th largest logit: topk(..., dim=-1).",
        ),
    ),
    alternatives=(_top_k_by_scatter,),
    examples=((torch.tensor([[0.0, math.log(9.0), math.log(4.0)]], dtype=torch.float64), 2.0, 2),),
)
