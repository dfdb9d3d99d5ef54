"""Exercises 1.6 and 1.7 Heads."""

from __future__ import annotations

import torch
from torch import Tensor

from llmcourse.grading.inputs import Draw
from llmcourse.grading.records import Answer, Arguments, Exercise, Property, WrongAnswer


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
