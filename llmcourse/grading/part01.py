"""The exercises of Part 1: the pieces of a transformer, each checked against plain loops."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from llmcourse.grading.inputs import Draw
from llmcourse.grading.records import Answer, Exercise, Property, WrongAnswer

Arguments = tuple[Any, ...]

# 1.1 Sinusoidal positions ---------------------------------------------------------------------


def _positions_inputs(draw: Draw, size: int) -> Arguments:
    return [(1, 2), (2, 2), (3, 4), (draw.integer(3, 7), 6), (11, draw.pick([8, 10])), (19, 12)][
        size
    ]


def _positions_oracle(context_length: int, d_model: int) -> Tensor:
    table = [
        [
            (math.sin if c % 2 == 0 else math.cos)(t / 10_000 ** ((c - c % 2) / d_model))
            for c in range(d_model)
        ]
        for t in range(context_length)
    ]
    return torch.tensor(table, dtype=torch.float64)


def _angles(context_length: int, d_model: int, power: float = 1.0, start: int = 0) -> Tensor:
    pair = torch.arange(0, d_model, 2, dtype=torch.float64)
    position = torch.arange(start, start + context_length, dtype=torch.float64)
    return position[:, None] * 10_000 ** (-power * pair / d_model)


def _positions_halves(context_length: int, d_model: int) -> Tensor:
    angle = _angles(context_length, d_model)
    return torch.cat([angle.sin(), angle.cos()], dim=-1)


def _positions_swapped(context_length: int, d_model: int) -> Tensor:
    angle = _angles(context_length, d_model)
    return torch.stack([angle.cos(), angle.sin()], dim=-1).reshape(context_length, d_model)


def _positions_power(context_length: int, d_model: int) -> Tensor:
    angle = _angles(context_length, d_model, power=0.5)
    return torch.stack([angle.sin(), angle.cos()], dim=-1).reshape(context_length, d_model)


def _positions_from_one(context_length: int, d_model: int) -> Tensor:
    angle = _angles(context_length, d_model, start=1)
    return torch.stack([angle.sin(), angle.cos()], dim=-1).reshape(context_length, d_model)


def _positions_by_exp(context_length: int, d_model: int) -> Tensor:
    table = torch.zeros(context_length, d_model)
    rate = torch.exp(torch.arange(0, d_model, 2) * (-math.log(10_000.0) / d_model))
    position = torch.arange(context_length).unsqueeze(1)
    table[:, 0::2] = torch.sin(position * rate)
    table[:, 1::2] = torch.cos(position * rate)
    return table


def _starts_with_zero_one(got: Tensor, arguments: Arguments, call: Answer) -> str | None:
    first = got[0].double()
    if float((first - torch.tensor([0.0, 1.0]).repeat(got.shape[1] // 2)).abs().max()) > 1e-4:
        return "position 0 should read 0, 1, 0, 1, ...: sin 0 and cos 0 in turn"
    return None


POSITIONS = Exercise(
    id="1.1",
    title="sinusoidal positions",
    name="sinusoidal_positions",
    signature="sinusoidal_positions(context_length: int, d_model: int) -> Tensor",
    taught="Part 1, positions",
    difficulty=2,
    minutes=15,
    make_inputs=_positions_inputs,
    oracle=_positions_oracle,
    tolerance=1e-5,  # the angles of an honest float32 table are off by about 1e-6
    any_float=True,
    statement="table[t, 2i] = sin(t / 10000^(2i/C)) and table[t, 2i+1] is its cosine",
    properties=(Property("position 0 reads 0, 1, 0, 1, ...", _starts_with_zero_one),),
    forbidden=(),
    wrong_answers=(
        WrongAnswer(
            "sines and cosines in two halves",
            _positions_halves,
            "All sines stand before all cosines. In the paper they alternate: channel 2i is the "
            "sine and channel 2i + 1 the cosine of the same angle.",
        ),
        WrongAnswer(
            "sine and cosine swapped",
            _positions_swapped,
            "Sine and cosine are swapped: the even channels hold the sine.",
        ),
        WrongAnswer(
            "exponent i instead of 2i",
            _positions_power,
            "The exponent is half of what it should be: pair i turns at 10000^(-2i/C), with the "
            "channel number 2i above C, not the pair number i.",
        ),
        WrongAnswer(
            "positions counted from one",
            _positions_from_one,
            "Positions are counted from 1. The first token stands at position 0.",
        ),
    ),
    alternatives=(_positions_by_exp,),
    examples=((2, 4),),
)

# 1.2 Softmax ----------------------------------------------------------------------------------


def _softmax_inputs(draw: Draw, size: int) -> Arguments:
    if size == 0:
        return (draw.normal(1),)
    if size == 1:
        return (draw.normal(3),)
    if size == 2:
        return (draw.normal(2, 3),)
    if size == 3:  # rows far apart: each needs its own maximum
        return (draw.normal(2, 3) + torch.tensor([[1000.0], [-1000.0]], dtype=torch.float64),)
    if size == 4:  # masked scores, as attention makes them
        x = draw.normal(3, 4)
        x[0, 1:] = -math.inf
        x[1, 3] = -math.inf
        return (x,)
    return (draw.normal(2, draw.integer(1, 4), 5, scale=3.0),)


def _softmax_oracle(x: Tensor) -> Tensor:
    rows = []
    for row in x.reshape(-1, x.shape[-1]).tolist():
        top = max(row)
        powers = [math.exp(value - top) for value in row]
        total = math.fsum(powers)
        rows.append([power / total for power in powers])
    return torch.tensor(rows, dtype=torch.float64).reshape(x.shape)


def _softmax_unstable(x: Tensor) -> Tensor:
    powers = torch.exp(x)
    return powers / powers.sum(dim=-1, keepdim=True)


def _softmax_first_axis(x: Tensor) -> Tensor:
    powers = torch.exp(x - x.amax(dim=0, keepdim=True))
    return powers / powers.sum(dim=0, keepdim=True)


def _softmax_all(x: Tensor) -> Tensor:
    powers = torch.exp(x - x.max())
    return powers / powers.sum()


def _softmax_one_maximum(x: Tensor) -> Tensor:
    powers = torch.exp(x - x.max())
    return powers / powers.sum(dim=-1, keepdim=True)


def _softmax_no_keepdim(x: Tensor) -> Tensor:
    powers = torch.exp(x - x.max(dim=-1).values)
    return powers / powers.sum(dim=-1)


def _softmax_by_logarithm(x: Tensor) -> Tensor:
    return torch.exp(x - torch.logsumexp(x, dim=-1, keepdim=True))


def _rows_sum_to_one(got: Tensor, arguments: Arguments, call: Answer) -> str | None:
    total = got.sum(-1).reshape(-1)
    worst = total[(total - 1).abs().argmax()].item()
    return f"a row sums to {worst:.4g}" if abs(worst - 1) > 1e-6 else None


SOFTMAX = Exercise(
    id="1.2",
    title="a softmax that does not overflow",
    name="softmax",
    signature="softmax(x: Tensor) -> Tensor",
    taught="Part 1, attention from first principles",
    difficulty=2,
    minutes=10,
    make_inputs=_softmax_inputs,
    oracle=_softmax_oracle,
    statement="entry i of a row is exp(x_i) / sum_j exp(x_j)",
    properties=(Property("every row sums to 1", _rows_sum_to_one),),
    forbidden=(
        "torch.softmax",
        "torch.Tensor.softmax",
        "torch.nn.functional.softmax",
        "torch.nn.functional.softmin",
        "torch.special.softmax",
        "torch.log_softmax",
        "torch.Tensor.log_softmax",
        "torch.nn.functional.log_softmax",
        "torch.special.log_softmax",
        "torch.nn.functional.gumbel_softmax",
    ),
    wrong_answers=(
        WrongAnswer(
            "no maximum subtracted",
            _softmax_unstable,
            "exp overflows for large scores (and is 0 / 0 for very negative ones). Subtract each "
            "row's maximum first: the ratio stays the same and no exponent exceeds 0.",
        ),
        WrongAnswer(
            "over the first axis",
            _softmax_first_axis,
            "The softmax runs over the first axis (dim=0). It belongs on the last one, dim=-1.",
        ),
        WrongAnswer(
            "over all entries",
            _softmax_all,
            "You divide by the sum over the whole tensor, so only all rows together sum to 1. "
            "Each row needs a sum of its own: dim=-1, keepdim=True.",
        ),
        WrongAnswer(
            "one maximum for all rows",
            _softmax_one_maximum,
            "You subtract one maximum for the whole tensor. A row that lies far below it turns "
            "into 0 / 0: subtract each row's own maximum (dim=-1, keepdim=True).",
        ),
        WrongAnswer(
            "keepdim forgotten",
            _softmax_no_keepdim,
            "keepdim=True is missing: without it the rows' maxima and sums line up with the "
            "columns, which fails or silently mixes rows.",
        ),
    ),
    alternatives=(_softmax_by_logarithm,),
    examples=((torch.tensor([[0.0, 0.0], [0.0, math.log(3.0)]], dtype=torch.float64),),),
)

# 1.3 Scaled dot-product attention -------------------------------------------------------------


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


def _attention_loops(q: Tensor, k: Tensor, v: Tensor, sees: Any) -> list[list[float]]:
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
    return torch.tensor(_attention_loops(q, k, v, lambda t, s: True), dtype=torch.float64)


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

# 1.4 The causal mask --------------------------------------------------------------------------


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

# 1.5 Attention with masks ---------------------------------------------------------------------


def _masked_inputs(draw: Draw, size: int) -> Arguments:
    b, t, d = [(1, 1, 1), (1, 2, 1), (1, 3, 2), (2, 3, 1), (2, 5, 3), (3, 7, 2)][size]
    lengths = draw.integers(1, t, b)
    if size in (2, 4, 5):  # in these a row really is padded, and more than one token is real
        lengths[0] = draw.integer(2, t - 1)
    return draw.normal(b, t, d), draw.normal(b, t, d), draw.normal(b, t, d), lengths


def _masked_oracle(q: Tensor, k: Tensor, v: Tensor, lengths: Tensor) -> Tensor:
    rows = [
        _attention_loops(q[b], k[b], v[b], lambda t, s, n=length: s <= t and s < n)
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

# 1.6 and 1.7 Heads ----------------------------------------------------------------------------


def _split_inputs(draw: Draw, size: int) -> Arguments:
    b, t, h, d = [
        (1, 1, 1, 1),
        (1, 1, 2, 2),
        (1, 2, 2, 1),
        (1, 2, 2, 2),
        (2, 3, 2, 3),
        (2, 5, 3, 2),
    ][size]
    return draw.normal(b, t, h * d), h


def _split_oracle(x: Tensor, n_heads: int) -> Tensor:
    b, t, c = x.shape
    d, values = c // n_heads, x.tolist()
    heads = [
        [[values[i][j][h * d : (h + 1) * d] for j in range(t)] for h in range(n_heads)]
        for i in range(b)
    ]
    return torch.tensor(heads, dtype=torch.float64)


def _split_straight(x: Tensor, n_heads: int) -> Tensor:
    b, t, c = x.shape
    return x.reshape(b, n_heads, t, c // n_heads)


def _split_interleaved(x: Tensor, n_heads: int) -> Tensor:
    b, t, c = x.shape
    return x.reshape(b, t, c // n_heads, n_heads).permute(0, 3, 1, 2)


def _split_no_swap(x: Tensor, n_heads: int) -> Tensor:
    b, t, c = x.shape
    return x.reshape(b, t, n_heads, c // n_heads)


def _split_width_first(x: Tensor, n_heads: int) -> Tensor:
    b, t, c = x.shape
    return x.reshape(b, t, n_heads, c // n_heads).permute(0, 2, 3, 1)


def _split_by_chunks(x: Tensor, n_heads: int) -> Tensor:
    return torch.stack(x.chunk(n_heads, dim=-1), dim=1)


def _head_zero_is_first(got: Tensor, arguments: Arguments, call: Answer) -> str | None:
    x, n_heads = arguments
    d = x.shape[-1] // n_heads
    if not torch.equal(got[:, 0], x[:, :, :d]):
        return f"head 0 of every token should be its first {d} channel{'s' if d > 1 else ''}"
    return None


SPLIT_HEADS = Exercise(
    id="1.6",
    title="split the channels into heads",
    name="split_heads",
    signature="split_heads(x: Tensor, n_heads: int) -> Tensor",
    taught="Part 1, many heads",
    difficulty=2,
    minutes=10,
    make_inputs=_split_inputs,
    oracle=_split_oracle,
    statement="out[b, h, t] is x[b, t, h*D : (h+1)*D]",
    properties=(Property("head 0 holds the first D channels", _head_zero_is_first),),
    wrong_answers=(
        WrongAnswer(
            "reshaped straight to (B, H, T, D)",
            _split_straight,
            "A reshape straight to (B, H, T, D) has the right shape and the wrong contents: it "
            "hands parts of different tokens to one head. Reshape to (B, T, H, D), then swap T "
            "and H.",
        ),
        WrongAnswer(
            "heads interleaved",
            _split_interleaved,
            "The heads are interleaved: you split C as (D, H). Head h owns a block of D "
            "neighbouring channels, so C splits as (H, D).",
        ),
        WrongAnswer(
            "axes not swapped",
            _split_no_swap,
            "The split is right and the order of the axes is not: (B, T, H, D) came. Swap T and H "
            "with transpose(1, 2), so that each head can do its own matrix product.",
        ),
        WrongAnswer(
            "width before time",
            _split_width_first,
            "The last two axes are swapped: (B, H, D, T) came. Only the T and H axes change "
            "places.",
        ),
    ),
    alternatives=(_split_by_chunks,),
    examples=((torch.arange(1.0, 9.0, dtype=torch.float64).reshape(1, 2, 4), 2),),
)


def _merge_inputs(draw: Draw, size: int) -> Arguments:
    shapes = [(1, 1, 1, 1), (1, 2, 1, 2), (1, 2, 2, 1), (1, 2, 2, 2), (2, 2, 3, 3), (2, 3, 5, 2)]
    return (draw.normal(*shapes[size]),)


def _merge_oracle(x: Tensor) -> Tensor:
    b, h, t, _ = x.shape
    values = x.tolist()
    rows = [
        [[number for i in range(h) for number in values[n][i][j]] for j in range(t)]
        for n in range(b)
    ]
    return torch.tensor(rows, dtype=torch.float64)


def _merge_straight(x: Tensor) -> Tensor:
    b, h, t, d = x.shape
    return x.reshape(b, t, h * d)


def _merge_interleaved(x: Tensor) -> Tensor:
    b, h, t, d = x.shape
    return x.permute(0, 2, 3, 1).reshape(b, t, h * d)


def _merge_view(x: Tensor) -> Tensor:
    b, h, t, d = x.shape
    return x.transpose(1, 2).view(b, t, h * d)


def _merge_mean(x: Tensor) -> Tensor:
    return x.mean(dim=1)


def _merge_by_cat(x: Tensor) -> Tensor:
    return torch.cat([x[:, h] for h in range(x.shape[1])], dim=-1)


def _first_channels_are_head_zero(got: Tensor, arguments: Arguments, call: Answer) -> str | None:
    (x,) = arguments
    if not torch.equal(got[:, :, : x.shape[-1]], x[:, 0]):
        return "the first D channels of every token should be its head 0"
    return None


MERGE_HEADS = Exercise(
    id="1.7",
    title="merge the heads again",
    name="merge_heads",
    signature="merge_heads(x: Tensor) -> Tensor",
    taught="Part 1, many heads",
    difficulty=2,
    minutes=10,
    make_inputs=_merge_inputs,
    oracle=_merge_oracle,
    statement="out[b, t] is the D channels of head 0, then those of head 1, ...",
    properties=(Property("head 0 comes first", _first_channels_are_head_zero),),
    wrong_answers=(
        WrongAnswer(
            "reshaped without swapping",
            _merge_straight,
            "The reshape comes without swapping H and T first, so one token receives pieces of "
            "others. transpose(1, 2) first, then reshape.",
        ),
        WrongAnswer(
            "heads interleaved",
            _merge_interleaved,
            "The heads are interleaved: the channels come out as (D, H). Each head's D channels "
            "stay together: bring the axes to (B, T, H, D) before the reshape.",
        ),
        WrongAnswer(
            "view after transpose",
            _merge_view,
            "view needs the numbers side by side in memory, and after a transpose they are not. "
            "Use reshape, or .contiguous() before view.",
        ),
        WrongAnswer(
            "heads averaged",
            _merge_mean,
            "The heads are averaged, which throws their differences away. They are laid side by "
            "side: (B, T, H*D).",
        ),
    ),
    alternatives=(_merge_by_cat,),
    examples=((torch.tensor([[[[1.0, 2.0], [5.0, 6.0]], [[3.0, 4.0], [7.0, 8.0]]]]).double(),),),
)

# 1.8 LayerNorm --------------------------------------------------------------------------------


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

# 1.9 GELU -------------------------------------------------------------------------------------


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

# 1.10 The pre-norm block ----------------------------------------------------------------------


def _block_inputs(draw: Draw, size: int) -> Arguments:
    b, t, c = [(1, 1, 1), (1, 1, 2), (1, 2, 1), (2, 1, 3), (1, 3, 4), (2, 3, 5)][size]
    return draw.normal(b, t, c), draw.map(c), draw.map(c), draw.map(c), draw.map(c)


def _block_oracle(
    x: Tensor, attention: Answer, feed_forward: Answer, norm_1: Answer, norm_2: Answer
) -> Tensor:
    first = attention(norm_1(x)).numpy()
    middle = x.numpy() + first
    second = feed_forward(norm_2(torch.from_numpy(middle))).numpy()
    return torch.from_numpy(middle + second)


def _block_post_norm(x: Tensor, attention: Any, feed_forward: Any, norm_1: Any, norm_2: Any) -> Any:
    x = norm_1(x + attention(x))
    return norm_2(x + feed_forward(x))


def _block_no_residual(
    x: Tensor, attention: Any, feed_forward: Any, norm_1: Any, norm_2: Any
) -> Any:
    return feed_forward(norm_2(attention(norm_1(x))))


def _block_parallel(x: Tensor, attention: Any, feed_forward: Any, norm_1: Any, norm_2: Any) -> Any:
    return x + attention(norm_1(x)) + feed_forward(norm_2(x))


def _block_normed_stream(
    x: Tensor, attention: Any, feed_forward: Any, norm_1: Any, norm_2: Any
) -> Any:
    x = norm_1(x)
    x = x + attention(x)
    x = norm_2(x)
    return x + feed_forward(x)


def _block_one_residual(
    x: Tensor, attention: Any, feed_forward: Any, norm_1: Any, norm_2: Any
) -> Any:
    return x + feed_forward(norm_2(attention(norm_1(x))))


def _block_first_residual(
    x: Tensor, attention: Any, feed_forward: Any, norm_1: Any, norm_2: Any
) -> Any:
    return feed_forward(norm_2(x + attention(norm_1(x))))


def _block_one_norm(x: Tensor, attention: Any, feed_forward: Any, norm_1: Any, norm_2: Any) -> Any:
    x = x + attention(norm_1(x))
    return x + feed_forward(norm_1(x))


def _block_by_loop(x: Tensor, attention: Any, feed_forward: Any, norm_1: Any, norm_2: Any) -> Any:
    for norm, layer in ((norm_1, attention), (norm_2, feed_forward)):
        x = torch.add(layer(norm(x)), x)
    return x


def _silent_layers_pass_through(got: Tensor, arguments: Arguments, call: Answer) -> str | None:
    x, _, _, norm_1, norm_2 = arguments
    if float((call(x, torch.zeros_like, torch.zeros_like, norm_1, norm_2) - x).abs().max()) > 1e-9:
        return "with attention and feed-forward that return zeros, x must come out unchanged"
    return None


PRE_NORM_BLOCK = Exercise(
    id="1.10",
    title="the pre-norm block",
    name="pre_norm_block",
    signature="pre_norm_block(x: Tensor, attention, feed_forward, norm_1, norm_2) -> Tensor",
    taught="Part 1, the full block",
    difficulty=3,
    minutes=10,
    make_inputs=_block_inputs,
    oracle=_block_oracle,
    statement="x <- x + attention(norm_1(x)), then x <- x + feed_forward(norm_2(x))",
    properties=(
        Property("the residual stream passes through untouched", _silent_layers_pass_through),
    ),
    wrong_answers=(
        WrongAnswer(
            "post-norm",
            _block_post_norm,
            "This is post-norm, the order of the 2017 paper: the norms sit on the residual stream. "
            "Here each norm comes before its layer and the stream itself is never normalised.",
        ),
        WrongAnswer(
            "no residuals",
            _block_no_residual,
            "Both residual connections are missing: each layer's output is added to its input.",
        ),
        WrongAnswer(
            "in parallel",
            _block_parallel,
            "Both layers read the same x, side by side (as GPT-J does). Here the feed-forward "
            "layer reads what attention has already written: x + attention(norm_1(x)).",
        ),
        WrongAnswer(
            "the stream itself normalised",
            _block_normed_stream,
            "The stream is replaced by its norm before the addition. Add to the x from before the "
            "norm: x + layer(norm(x)).",
        ),
        WrongAnswer(
            "only one residual around both",
            _block_one_residual,
            "One residual connection spans both layers. Each of the two layers has its own.",
        ),
        WrongAnswer(
            "second residual forgotten",
            _block_first_residual,
            "The second residual connection is missing: the feed-forward layer's output replaces "
            "the stream instead of being added to it.",
        ),
        WrongAnswer(
            "norm_1 used twice",
            _block_one_norm,
            "norm_1 is used twice. The feed-forward layer has a norm of its own, norm_2.",
        ),
    ),
    alternatives=(_block_by_loop,),
    examples=(
        (
            torch.tensor([[[1.0, 2.0]]], dtype=torch.float64),
            torch.neg,
            torch.ones_like,
            torch.square,
            torch.exp,
        ),
    ),
)

# 1.11 Counting parameters ---------------------------------------------------------------------


def _count_inputs(draw: Draw, size: int) -> Arguments:
    if size == 0:
        return (2, 1, 1, 1)
    top = [0, 5, 9, 20, 60, 300][size]
    return (
        draw.integer(3, top),
        draw.integer(2, top),
        draw.integer(1, min(top, 12)),
        draw.integer(2, min(top, 48)),
    )


def _count_oracle(vocab_size: int, context_length: int, n_layers: int, d_model: int) -> int:
    c = d_model
    shapes = [(vocab_size, c), (context_length, c), (c,), (c,)]
    for _ in range(n_layers):
        shapes += [(c,), (c,), (c,), (c,)]  # two norms, weight and bias each
        shapes += [(c, c), (c,)] * 4  # query, key, value, output
        shapes += [(4 * c, c), (4 * c,), (c, 4 * c), (c,)]
    return sum(math.prod(shape) for shape in shapes)


def _count(v: int, t: int, n: int, c: int, per_layer: int, rest: int = 0) -> int:
    return v * c + t * c + 2 * c + n * per_layer + rest


def _count_untied(vocab_size: int, context_length: int, n_layers: int, d_model: int) -> int:
    c = d_model
    return _count(vocab_size, context_length, n_layers, c, 12 * c * c + 13 * c, vocab_size * c)


def _count_no_biases(vocab_size: int, context_length: int, n_layers: int, d_model: int) -> int:
    c = d_model
    return _count(vocab_size, context_length, n_layers, c, 12 * c * c + 4 * c)


def _count_no_final_norm(vocab_size: int, context_length: int, n_layers: int, d_model: int) -> int:
    c = d_model
    return _count(vocab_size, context_length, n_layers, c, 12 * c * c + 13 * c, -2 * c)


def _count_no_positions(vocab_size: int, context_length: int, n_layers: int, d_model: int) -> int:
    c = d_model
    return _count(vocab_size, 0, n_layers, c, 12 * c * c + 13 * c)


def _count_no_output(vocab_size: int, context_length: int, n_layers: int, d_model: int) -> int:
    c = d_model
    return _count(vocab_size, context_length, n_layers, c, 11 * c * c + 12 * c)


def _count_no_norms(vocab_size: int, context_length: int, n_layers: int, d_model: int) -> int:
    c = d_model
    return _count(vocab_size, context_length, n_layers, c, 12 * c * c + 9 * c, -2 * c)


def _count_by_building(vocab_size: int, context_length: int, n_layers: int, d_model: int) -> int:
    c = d_model
    with torch.device("meta"):  # shapes without memory
        layer = torch.nn.TransformerEncoderLayer(c, 1, 4 * c)  # the same pieces, other wiring
        tables = [torch.empty(vocab_size, c), torch.empty(context_length, c), torch.empty(2, c)]
    inner = sum(parameter.numel() for parameter in layer.parameters())
    return n_layers * inner + sum(table.numel() for table in tables)


def _affine_in_depth(got: int, arguments: Arguments, call: Answer) -> str | None:
    v, t, n, c = arguments
    one = call(v, t, n + 1, c) - got
    if one != 12 * c * c + 13 * c:
        return f"one more layer adds {one} parameters here; it should add {12 * c * c + 13 * c}"
    return None


PARAMETER_COUNT = Exercise(
    id="1.11",
    title="count a GPT's parameters",
    name="parameter_count",
    signature=(
        "parameter_count(vocab_size: int, context_length: int, n_layers: int, d_model: int) -> int"
    ),
    taught="Part 1, where the parameters are",
    difficulty=3,
    minutes=15,
    make_inputs=_count_inputs,
    oracle=_count_oracle,
    tolerance=1e-12,  # whole numbers: any difference counts
    statement="the number is that of GPT-2's layout, tied head included",
    properties=(Property("each layer has the right number", _affine_in_depth),),
    wrong_answers=(
        WrongAnswer(
            "head counted again",
            _count_untied,
            "The output head is counted as well. It is tied: the same matrix as the token "
            "embedding, counted once.",
        ),
        WrongAnswer(
            "no biases",
            _count_no_biases,
            "The biases of the linear layers are missing: four of width C in attention, 4C and C "
            "in the feed-forward layer.",
        ),
        WrongAnswer(
            "no final norm",
            _count_no_final_norm,
            "The LayerNorm after the last layer is missing: 2C more.",
        ),
        WrongAnswer(
            "no positions",
            _count_no_positions,
            "The learned positions are missing: one vector of width C for each place in the "
            "context.",
        ),
        WrongAnswer(
            "no output projection",
            _count_no_output,
            "Attention has four projections and you count three: query, key, value, and the output "
            "projection after the heads are merged.",
        ),
        WrongAnswer(
            "no norms",
            _count_no_norms,
            "The LayerNorms are missing: two per layer and one at the end, weight and bias each.",
        ),
    ),
    alternatives=(_count_by_building,),
    examples=((50_257, 1_024, 12, 768),),
)

EXERCISES = (
    POSITIONS,
    SOFTMAX,
    ATTENTION,
    CAUSAL_MASK,
    MASKED_ATTENTION,
    SPLIT_HEADS,
    MERGE_HEADS,
    LAYER_NORM,
    GELU,
    PRE_NORM_BLOCK,
    PARAMETER_COUNT,
)
