"""Exercise 1.4 The causal mask."""

from __future__ import annotations

import torch
from torch import Tensor

from llmcourse.grading.inputs import Draw
from llmcourse.grading.records import Answer, Arguments, Exercise, Property, WrongAnswer


def _mask_inputs(draw: Draw, size: int) -> Arguments:
    s = draw.integer(4, 8)
    return [(1, 1), (2, 2), (3, 3), (1, 3), (2, 5), (draw.integer(2, s - 1), s)][size]


def _mask_oracle(t: int, s: int) -> Tensor:
    # Query i stands at position s - t + i and sees every position up to its own.
    return torch.tensor([[j <= s - t + i for j in range(s)] for i in range(t)], dtype=torch.bool)


def _mask_upper_left(t: int, s: int) -> Tensor:
    return torch.ones(t, s, dtype=torch.bool).tril()


def _mask_inverted(t: int, s: int) -> Tensor:
    return torch.ones(t, s, dtype=torch.bool).triu(s - t + 1)


def _mask_strict(t: int, s: int) -> Tensor:
    return torch.ones(t, s, dtype=torch.bool).tril(s - t - 1)


def _mask_future(t: int, s: int) -> Tensor:
    return torch.ones(t, s, dtype=torch.bool).triu(s - t)


def _mask_additive(t: int, s: int) -> Tensor:
    return torch.zeros(t, s).masked_fill(torch.ones(t, s, dtype=torch.bool).triu(s - t + 1), -1e9)


def _mask_by_comparing(t: int, s: int) -> Tensor:
    return torch.arange(s)[None, :] <= torch.arange(s - t, s)[:, None]


def _last_sees_all(got: Tensor, arguments: Arguments, call: Answer) -> str | None:
    if not bool(got[-1].all()):
        return "the last query stands at the last position: every entry of its row must be True"
    return None


CAUSAL_MASK = Exercise(
    id="1.4",
    title="the causal mask",
    name="causal_mask",
    signature="causal_mask(t: int, s: int) -> Tensor",
    taught="Part 1, masks",
    difficulty=2,
    minutes=10,
    make_inputs=_mask_inputs,
    oracle=_mask_oracle,
    statement="entry (i, j) is True exactly when j <= s - t + i",
    properties=(Property("the last query sees every position", _last_sees_all),),
    forbidden=("torch.nn.Transformer.generate_square_subsequent_mask",),
    wrong_answers=(
        WrongAnswer(
            "aligned to the upper left",
            _mask_upper_left,
            "Right for t = s, but with fewer queries than positions the triangle sits in the upper "
            "left corner. The queries are the last t positions: shift the diagonal by s - t.",
        ),
        WrongAnswer(
            "True means forbidden",
            _mask_inverted,
            "The mask is inverted: here True means that the query may look, as in torch's scaled "
            "dot-product attention. (torch's nn.MultiheadAttention has it the other way round.)",
        ),
        WrongAnswer(
            "a token may not see itself",
            _mask_strict,
            "A token may look at itself too: the diagonal belongs to the True part. Otherwise the "
            "first token sees nothing at all.",
        ),
        WrongAnswer(
            "upper triangle",
            _mask_future,
            "This is the upper triangle: each token sees itself and the future. Queries are rows, "
            "keys are columns, so the past lies to the left: the lower triangle.",
        ),
        WrongAnswer(
            "numbers to add to the scores",
            _mask_additive,
            "This is an additive mask, numbers to add to the scores. Asked for is a bool mask: "
            "True where the query may look.",
        ),
    ),
    alternatives=(_mask_by_comparing,),
    examples=((2, 3),),
)
