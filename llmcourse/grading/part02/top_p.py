"""Exercise 2.8 Top-p."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from llmcourse.grading.inputs import Draw
from llmcourse.grading.part02.top_k import sums_to_one
from llmcourse.grading.records import Answer, Arguments, Exercise, Property, WrongAnswer


def probability_rows(draw: Draw, b: int, v: int) -> Tensor:
    return torch.softmax(draw.normal(b, v, scale=1.5), dim=-1)


def _top_p_inputs(draw: Draw, size: int) -> Arguments:
    b, v = [(1, 2), (1, 3), (1, 4), (1, 5), (2, 6), (3, 9)][size]
    probabilities = probability_rows(draw, b, v)
    if size == 1:  # the favourite alone is more than p
        probabilities = torch.tensor([[0.2, 0.7, 0.1]], dtype=torch.float64)
        return probabilities[:, torch.tensor(draw.distinct(3, 0, 2))], 0.5
    return probabilities, draw.pick([0.35, 0.6, 0.8, 0.9])


def _top_p_oracle(probabilities: Tensor, p: float) -> Tensor:
    rows = []
    for row in probabilities.tolist():
        kept, total = [], 0.0
        for i in sorted(range(len(row)), key=lambda i: row[i], reverse=True):
            kept.append(i)
            total += row[i]
            if total >= p:
                break
        rows.append([row[i] / total if i in kept else 0.0 for i in range(len(row))])
    return torch.tensor(rows, dtype=torch.float64)


def _top_p_general(probabilities: Tensor, keep: Any, normalise: bool = True) -> Tensor:
    values, places = probabilities.sort(dim=-1, descending=True)
    values = values * keep(values)
    if normalise:
        values = values / values.sum(-1, keepdim=True)
    return torch.zeros_like(values).scatter(-1, places, values)


def _top_p_drops_crossing(probabilities: Tensor, p: float) -> Tensor:
    return _top_p_general(probabilities, lambda values: values.cumsum(-1) <= p)


def _top_p_one_more(probabilities: Tensor, p: float) -> Tensor:
    def keep(values: Tensor) -> Tensor:
        before = values.cumsum(-1) - values
        inside = before < p
        return inside | torch.cat([inside[:, :1], inside[:, :-1]], dim=-1)

    return _top_p_general(probabilities, keep)


def _top_p_not_normalised(probabilities: Tensor, p: float) -> Tensor:
    return _top_p_general(probabilities, lambda v: v.cumsum(-1) - v < p, normalise=False)


def _top_p_sorted(probabilities: Tensor, p: float) -> Tensor:
    values = probabilities.sort(dim=-1, descending=True).values
    values = values * (values.cumsum(-1) - values < p)
    return values / values.sum(-1, keepdim=True)


def _top_p_threshold(probabilities: Tensor, p: float) -> Tensor:
    kept = probabilities * (probabilities >= 1 - p)
    return kept / kept.sum(-1, keepdim=True)


def _top_p_ascending(probabilities: Tensor, p: float) -> Tensor:
    values, places = probabilities.sort(dim=-1)
    values = values * (values.cumsum(-1) - values < p)
    values = values / values.sum(-1, keepdim=True)
    return torch.zeros_like(values).scatter(-1, places, values)


def _top_p_unsorted(probabilities: Tensor, p: float) -> Tensor:
    kept = probabilities * (probabilities.cumsum(-1) - probabilities < p)
    return kept / kept.sum(-1, keepdim=True)


def _top_p_by_rank(probabilities: Tensor, p: float) -> Tensor:
    # mass of everything more probable than token i, without sorting
    above = probabilities[:, None, :] > probabilities[:, :, None]
    mass = (above * probabilities[:, None, :]).sum(-1)
    kept = torch.where(mass < p, probabilities, 0.0)
    return kept / kept.sum(-1, keepdim=True)


def _reaches_p(got: Tensor, arguments: Arguments, call: Answer) -> str | None:
    probabilities, p = arguments
    if not bool((got > 0).any(-1).all()):
        return "a row has no token left; the favourite always stays"
    mass = (probabilities * (got > 0)).sum(-1)
    least = float(mass.min())
    if least < p - 1e-9:
        return f"the kept tokens of a row have a probability of {least:.4g}, less than p = {p}"
    return None


def _no_more_than_needed(got: Tensor, arguments: Arguments, call: Answer) -> str | None:
    probabilities, p = arguments
    for row, kept in zip(probabilities, got > 0):
        mass, least = float(row[kept].sum()), float(row[kept].min())
        if mass - least >= p:
            return (
                f"without the kept token of probability {least:.4g} the rest would still reach "
                f"p = {p}"
            )
    return None


TOP_P = Exercise(
    id="2.8",
    title="top-p: the nucleus",
    name="top_p_probabilities",
    signature="top_p_probabilities(probabilities: Tensor, p: float) -> Tensor",
    taught="Part 2, sampling",
    difficulty=4,
    minutes=20,
    make_inputs=_top_p_inputs,
    oracle=_top_p_oracle,
    statement="the fewest most probable tokens that together reach p, renormalised",
    properties=(
        Property("the kept tokens reach p", _reaches_p),
        Property("the probabilities of a row sum to 1", sums_to_one),
        Property("no more tokens are kept than needed", _no_more_than_needed),
    ),
    wrong_answers=(
        WrongAnswer(
            "crossing token dropped",
            _top_p_drops_crossing,
            "The token that crosses p is dropped, so the kept ones stay below p, and when the "
            "favourite alone exceeds p nothing is left. Keep a token while the sum before it is "
            "below p.",
        ),
        WrongAnswer(
            "one token too many",
            _top_p_one_more,
            "One token too many is kept: the one after the token that crosses p. A shift by one "
            "is applied to a mask that did not need it.",
        ),
        WrongAnswer(
            "not renormalised",
            _top_p_not_normalised,
            "The right tokens are kept, and their probabilities do not sum to 1: divide by their "
            "sum.",
        ),
        WrongAnswer(
            "left in sorted order",
            _top_p_sorted,
            "The result is in sorted order: probabilities have lost their tokens. Put them back "
            "with scatter, or sort the mask back.",
        ),
        WrongAnswer(
            "a threshold on each token",
            _top_p_threshold,
            "Each token is compared with 1 - p. Top-p is about the sum of the most probable "
            "tokens, not about any one of them.",
        ),
        WrongAnswer(
            "sorted upwards",
            _top_p_ascending,
            "The sum starts from the least probable token. Sort in descending order.",
        ),
        WrongAnswer(
            "not sorted",
            _top_p_unsorted,
            "The sum runs in the order of the vocabulary. Sort by probability first, the most "
            "probable in front.",
        ),
    ),
    alternatives=(_top_p_by_rank,),
    examples=((torch.tensor([[0.25, 0.5, 0.125, 0.125]], dtype=torch.float64), 0.6),),
)
