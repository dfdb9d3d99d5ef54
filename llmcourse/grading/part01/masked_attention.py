"""Exercise 1.5 Attention with masks."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from llmcourse.grading.inputs import Draw
from llmcourse.grading.part01.attention import attention_loops
from llmcourse.grading.records import Answer, Arguments, Exercise, Property, WrongAnswer


def _masked_inputs(draw: Draw, size: int) -> Arguments:
    b, t, d = [(1, 1, 1), (1, 2, 1), (1, 3, 2), (2, 3, 1), (2, 5, 3), (3, 7, 2)][size]
    lengths = draw.integers(1, t, b)
    if size in (2, 4, 5):  # in these a row really is padded, and more than one token is real
        lengths[0] = draw.integer(2, t - 1)
    return draw.normal(b, t, d), draw.normal(b, t, d), draw.normal(b, t, d), lengths


def _masked_oracle(q: Tensor, k: Tensor, v: Tensor, lengths: Tensor) -> Tensor:
    rows = [
        attention_loops(q[b], k[b], v[b], lambda t, s, n=length: s <= t and s < n)
        for b, length in enumerate(lengths.tolist())
    ]
    return torch.tensor(rows, dtype=torch.float64)


def _visible(q: Tensor, lengths: Tensor, causal: bool = True, padding: bool = True) -> Tensor:
    place = torch.arange(q.shape[1])
    earlier = place[None, :] <= place[:, None]
    real = place[None, :] < lengths[:, None]
    everything = torch.ones(q.shape[0], q.shape[1], q.shape[1], dtype=torch.bool)
    if causal:
        everything = everything & earlier
    if padding:
        everything = everything & real[:, None, :]
    return everything


def _masked_with(
    q: Tensor, k: Tensor, v: Tensor, visible: Tensor, fill: float = -math.inf
) -> Tensor:
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    return torch.softmax(scores.masked_fill(~visible, fill), dim=-1) @ v


def _masked_inverted(q: Tensor, k: Tensor, v: Tensor, lengths: Tensor) -> Tensor:
    return _masked_with(q, k, v, ~_visible(q, lengths))


def _masked_inverted_zero(q: Tensor, k: Tensor, v: Tensor, lengths: Tensor) -> Tensor:
    # As published, with torch's fused attention: a row that may see nothing comes out as zeros.
    return _masked_inverted(q, k, v, lengths).nan_to_num(0.0)


def _masked_inverted_finite(q: Tensor, k: Tensor, v: Tensor, lengths: Tensor) -> Tensor:
    return _masked_with(q, k, v, ~_visible(q, lengths), -1e9)


def _masked_inverted_causal(q: Tensor, k: Tensor, v: Tensor, lengths: Tensor) -> Tensor:
    return _masked_with(q, k, v, ~_visible(q, lengths, padding=False))


def _masked_causal_only(q: Tensor, k: Tensor, v: Tensor, lengths: Tensor) -> Tensor:
    return _masked_with(q, k, v, _visible(q, lengths, padding=False))


def _masked_padding_only(q: Tensor, k: Tensor, v: Tensor, lengths: Tensor) -> Tensor:
    return _masked_with(q, k, v, _visible(q, lengths, causal=False))


def _masked_afterwards(q: Tensor, k: Tensor, v: Tensor, lengths: Tensor) -> Tensor:
    weights = torch.softmax(q @ k.mT / math.sqrt(q.shape[-1]), dim=-1)
    return (weights * _visible(q, lengths)) @ v


def _masked_with_zero(q: Tensor, k: Tensor, v: Tensor, lengths: Tensor) -> Tensor:
    return _masked_with(q, k, v, _visible(q, lengths), 0.0)


def _masked_queries(q: Tensor, k: Tensor, v: Tensor, lengths: Tensor) -> Tensor:
    real = torch.arange(q.shape[1])[None, :] < lengths[:, None]
    visible = _visible(q, lengths, padding=False) & real[:, :, None]
    return _masked_with(q, k, v, visible)


def _masked_in_log_space(q: Tensor, k: Tensor, v: Tensor, lengths: Tensor) -> Tensor:
    n = q.shape[1]
    bias = torch.zeros(q.shape[0], n, n, dtype=q.dtype)
    bias = bias + torch.full((n, n), -math.inf, dtype=q.dtype).triu(1)
    for b, length in enumerate(lengths.tolist()):
        bias[b, :, length:] = -math.inf
    scores = torch.einsum("btd,bsd->bts", q, k) / math.sqrt(q.shape[-1]) + bias
    return (scores - scores.logsumexp(-1, keepdim=True)).exp() @ v


def _blind_to_future(got: Tensor, arguments: Arguments, call: Answer) -> str | None:
    q, k, v, lengths = arguments
    if q.shape[1] < 2:
        return None
    changed = v.clone()
    changed[:, -1] += 100.0
    if float((call(q, k, changed, lengths) - got)[:, :-1].abs().max()) > 1e-6:
        return "changing the value at the last position changed the outputs before it"
    return None


def _blind_to_padding(got: Tensor, arguments: Arguments, call: Answer) -> str | None:
    q, k, v, lengths = arguments
    padded = torch.arange(v.shape[1])[None, :] >= lengths[:, None]
    changed = torch.where(padded[:, :, None], v + 100.0, v)
    if float((call(q, k, changed, lengths) - got).abs().max()) > 1e-6:
        return "changing the values at padded positions changed the outputs"
    return None


INVERTED = (
    "The mask is inverted: each token attends only to what it must not see (the future and the "
    "padding), and rows with nothing left become NaN, zero or a plain average. masked_fill wants "
    "True where to hide, scaled_dot_product_attention True where to look."
)

MASKED_ATTENTION = Exercise(
    id="1.5",
    title="attention with causal and padding masks",
    name="masked_attention",
    signature="masked_attention(q: Tensor, k: Tensor, v: Tensor, lengths: Tensor) -> Tensor",
    taught="Part 1, masks",
    difficulty=4,
    minutes=20,
    make_inputs=_masked_inputs,
    oracle=_masked_oracle,
    statement="token t of row b averages the values s <= t with s < lengths[b]",
    properties=(
        Property("no token sees the future", _blind_to_future),
        Property("no token sees the padding", _blind_to_padding),
    ),
    forbidden=(
        "torch.nn.functional.scaled_dot_product_attention",
        "torch.nn.functional.multi_head_attention_forward",
    ),
    wrong_answers=(
        WrongAnswer("inverted mask", _masked_inverted, INVERTED),
        WrongAnswer("inverted mask, padding forgotten", _masked_inverted_causal, INVERTED),
        WrongAnswer("inverted mask, empty rows zero", _masked_inverted_zero, INVERTED),
        WrongAnswer("inverted mask, finite fill", _masked_inverted_finite, INVERTED),
        WrongAnswer(
            "padding forgotten",
            _masked_causal_only,
            "The causal mask is there and the padding mask is not: `lengths` changes nothing in "
            "your result. Hide keys s >= lengths[b] as well.",
        ),
        WrongAnswer(
            "causal forgotten",
            _masked_padding_only,
            "The padding is hidden and the future is not: token t must see no key s > t.",
        ),
        WrongAnswer(
            "masked after the softmax",
            _masked_afterwards,
            "The hidden weights are set to zero after the softmax, so what is left no longer sums "
            "to 1. Set the scores to -inf before it.",
        ),
        WrongAnswer(
            "scores filled with zero",
            _masked_with_zero,
            "The hidden scores are set to 0, and exp(0) is 1: hidden keys still get weight. Fill "
            "with -inf.",
        ),
        WrongAnswer(
            "queries masked instead of keys",
            _masked_queries,
            "The padding mask runs along the queries. It is the padded keys that must not be seen, "
            "the last axis of the scores: mask[:, None, :] rather than mask[:, :, None].",
        ),
    ),
    alternatives=(_masked_in_log_space,),
    examples=(
        (
            torch.zeros(1, 3, 2, dtype=torch.float64),
            torch.zeros(1, 3, 2, dtype=torch.float64),
            torch.tensor([[[2.0, 0.0], [4.0, 2.0], [9.0, 9.0]]], dtype=torch.float64),
            torch.tensor([2]),
        ),
    ),
)
