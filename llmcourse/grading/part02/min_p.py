"""Exercise 2.9 Min-p."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from llmcourse.grading.inputs import Draw
from llmcourse.grading.part02.top_k import sums_to_one
from llmcourse.grading.part02.top_p import probability_rows
from llmcourse.grading.records import Answer, Arguments, Exercise, Property, WrongAnswer


def _min_p_inputs(draw: Draw, size: int) -> Arguments:
    if size == 0:  # no token reaches p by itself: an absolute threshold keeps none
        return torch.tensor([[0.25, 0.15, 0.3, 0.3]], dtype=torch.float64), 0.6
    b, v = [(1, 2), (1, 3), (1, 5), (2, 4), (2, 6), (3, 9)][size]
    probabilities = probability_rows(draw, b, v)
    if b > 1:  # a sure row beside a hesitant one
        probabilities[1] = torch.softmax(draw.normal(v, scale=0.1), dim=-1)
        probabilities[0] = 0.9 * torch.nn.functional.one_hot(torch.tensor(1), v) + 0.1 / v
    return probabilities, 0.5 if size == 4 else draw.pick([0.1, 0.2, 0.3, 0.5])


def _min_p_oracle(probabilities: Tensor, min_p: float) -> Tensor:
    rows = []
    for row in probabilities.tolist():
        kept = [value if value >= min_p * max(row) else 0.0 for value in row]
        rows.append([value / math.fsum(kept) for value in kept])
    return torch.tensor(rows, dtype=torch.float64)


def _renormalised(probabilities: Tensor, keep: Tensor) -> Tensor:
    kept = probabilities * keep
    return kept / kept.sum(-1, keepdim=True)


def _min_p_absolute(probabilities: Tensor, min_p: float) -> Tensor:
    return _renormalised(probabilities, probabilities >= min_p)


def _min_p_batch_maximum(probabilities: Tensor, min_p: float) -> Tensor:
    return _renormalised(probabilities, probabilities >= min_p * probabilities.max())


def _min_p_not_normalised(probabilities: Tensor, min_p: float) -> Tensor:
    return probabilities * (probabilities >= min_p * probabilities.amax(-1, keepdim=True))


def _min_p_reversed(probabilities: Tensor, min_p: float) -> Tensor:
    return _renormalised(
        probabilities, probabilities < min_p * probabilities.amax(-1, keepdim=True)
    )


def _min_p_one_minus(probabilities: Tensor, min_p: float) -> Tensor:
    return _renormalised(
        probabilities, probabilities >= (1 - min_p) * probabilities.amax(-1, keepdim=True)
    )


def _min_p_in_logs(probabilities: Tensor, min_p: float) -> Tensor:
    logs = probabilities.log()
    low = logs < logs.max(dim=-1, keepdim=True).values + math.log(min_p)
    return torch.softmax(logs.masked_fill(low, -math.inf), dim=-1)


def _favourite_stays(got: Tensor, arguments: Arguments, call: Answer) -> str | None:
    probabilities, _ = arguments
    favourite = got.gather(-1, probabilities.argmax(-1, keepdim=True))
    if not bool((favourite > 0).all()):
        return "the most probable token of a row has been removed; it always stays"
    return None


MIN_P = Exercise(
    id="2.9",
    title="min-p",
    name="min_p_probabilities",
    signature="min_p_probabilities(probabilities: Tensor, min_p: float) -> Tensor",
    taught="Part 2, sampling",
    difficulty=2,
    minutes=10,
    make_inputs=_min_p_inputs,
    oracle=_min_p_oracle,
    statement="tokens of at least min_p times their row's largest probability, renormalised",
    properties=(
        Property("the most probable token stays", _favourite_stays),
        Property("the probabilities of a row sum to 1", sums_to_one),
    ),
    wrong_answers=(
        WrongAnswer(
            "an absolute threshold",
            _min_p_absolute,
            "Each token is compared with min_p itself, which can remove every token of a hesitant "
            "row. The threshold is min_p times the row's largest probability.",
        ),
        WrongAnswer(
            "the maximum of the batch",
            _min_p_batch_maximum,
            "The largest probability of the whole batch sets the threshold. Each row has its own "
            "maximum: amax(-1, keepdim=True).",
        ),
        WrongAnswer(
            "not renormalised",
            _min_p_not_normalised,
            "The right tokens are kept, and their probabilities do not sum to 1: divide by their "
            "sum.",
        ),
        WrongAnswer(
            "comparison the wrong way round",
            _min_p_reversed,
            "The comparison is the wrong way round: the improbable tokens are kept.",
        ),
        WrongAnswer(
            "one minus min_p",
            _min_p_one_minus,
            "The threshold is (1 - min_p) times the maximum. A larger min_p is stricter: min_p "
            "times the maximum.",
        ),
    ),
    alternatives=(_min_p_in_logs,),
    examples=((torch.tensor([[0.5, 0.3, 0.16, 0.04]], dtype=torch.float64), 0.5),),
)
