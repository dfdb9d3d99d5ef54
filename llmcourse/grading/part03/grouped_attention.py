"""Exercise 3.5 Grouped-query attention."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from llmcourse.grading.inputs import Draw
from llmcourse.grading.part01.attention import attention_loops
from llmcourse.grading.records import Answer, Arguments, Exercise, Property, WrongAnswer


def _grouped_inputs(draw: Draw, size: int) -> Arguments:
    b, h, g, t, s, d = [
        (1, 1, 1, 1, 2, 2),
        (1, 4, 2, 1, 2, 1),
        (1, 4, 2, 1, 3, 3),
        (2, 3, 1, 2, 3, 2),  # one key head for all: multi-query attention
        (2, 6, 2, 3, 4, 3),
        (3, 6, 3, 2, 5, 4),
    ][size]
    return draw.normal(b, h, t, d), draw.normal(b, g, s, d), draw.normal(b, g, s, d)


def _grouped_oracle(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    heads, groups = q.shape[1], k.shape[1]
    rows = []
    for b in range(q.shape[0]):
        for h in range(heads):
            g = 0
            while (g + 1) * heads <= h * groups:  # h belongs to the g-th run of H/G heads
                g += 1
            rows.append(attention_loops(q[b, h], k[b, g], v[b, g], lambda t, s: True))
    return torch.tensor(rows, dtype=torch.float64).reshape(q.shape)


def _attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.softmax(q @ k.mT / math.sqrt(q.shape[-1]), dim=-1) @ v


def _grouped_tiled(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    times = q.shape[1] // k.shape[1]
    return _attend(q, k.repeat(1, times, 1, 1), v.repeat(1, times, 1, 1))


def _grouped_averaged(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return _attend(q, k.mean(dim=1, keepdim=True), v.mean(dim=1, keepdim=True))


def _grouped_first(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return _attend(q, k[:, :1], v[:, :1])


def _grouped_queries_averaged(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    b, h, t, d = q.shape
    g = k.shape[1]
    mean = q.reshape(b, g, h // g, t, d).mean(dim=2)  # (B, G, T, D)
    return _attend(mean, k, v).repeat_interleave(h // g, dim=1)


def _grouped_swapped_back(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    b, h, t, d = q.shape
    g = k.shape[1]
    grouped = q.reshape(b, g, h // g, t, d)
    out = _attend(grouped, k[:, :, None], v[:, :, None])  # (B, G, R, T, D)
    return out.transpose(1, 2).reshape(b, h, t, d)


def _grouped_not_at_all(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return _attend(q, k, v)


def _grouped_unscaled(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return _grouped_by_rows(q * math.sqrt(q.shape[-1]), k, v)


def _grouped_keys_only(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    times = q.shape[1] // k.shape[1]
    return _attend(q, k.repeat_interleave(times, dim=1), v.repeat(1, times, 1, 1))


def _grouped_by_rows(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    # The queries of a group as further rows of one matrix: keys are read once and never copied.
    b, h, t, d = q.shape
    g = k.shape[1]
    return _attend(q.reshape(b, g, h // g * t, d), k, v).reshape(b, h, t, d)


def _grouped_repeated(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    times = q.shape[1] // k.shape[1]
    return _attend(q, k.repeat_interleave(times, dim=1), v.repeat_interleave(times, dim=1))


def _group_of_each_head(got: Tensor, arguments: Arguments, call: Answer) -> str | None:
    q, k, v = arguments
    size = q.shape[1] // k.shape[1]
    marked = torch.arange(k.shape[1], dtype=v.dtype)[None, :, None, None].expand_as(v)
    source = call(q, k, marked.clone())[0, :, 0, 0]  # which key head each query head averaged
    for head, number in enumerate(source.tolist()):
        if abs(number - head // size) > 1e-6:
            fair = f"{number:.4g}" if abs(number - round(number)) < 1e-6 else "a mixture of them"
            return f"query head {head} must read key head {head // size}; it reads {fair}"
    return None


GROUPED_ATTENTION = Exercise(
    id="3.5",
    title="grouped-query attention",
    name="grouped_attention",
    signature="grouped_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor",
    taught="Part 3, grouped queries",
    difficulty=3,
    minutes=15,
    make_inputs=_grouped_inputs,
    oracle=_grouped_oracle,
    statement="query head h attends over key and value head h // (H / G)",
    properties=(Property("each query head reads its own group's keys", _group_of_each_head),),
    forbidden=(
        "torch.nn.functional.scaled_dot_product_attention",
        "torch.nn.functional.multi_head_attention_forward",
    ),
    wrong_answers=(
        WrongAnswer(
            "key heads tiled",
            _grouped_tiled,
            "The key heads are laid out 0 1 0 1 (repeat), so query head h reads h % G. Neighbours "
            "share a key head, 0 0 1 1: h // (H / G), which repeat_interleave or a reshape to "
            "(B, G, H/G, ...) gives.",
        ),
        WrongAnswer(
            "values tiled",
            _grouped_keys_only,
            "The keys are laid out 0 0 1 1 and the values 0 1 0 1: weights from one head meet the "
            "values of another. Lay out both alike.",
        ),
        WrongAnswer(
            "key heads averaged",
            _grouped_averaged,
            "Keys and values are averaged over their heads. Each group of query heads reads one "
            "key head, unmixed.",
        ),
        WrongAnswer(
            "first key head for all",
            _grouped_first,
            "All query heads read key head 0: that is multi-query attention, right only when "
            "G = 1.",
        ),
        WrongAnswer(
            "queries of a group averaged",
            _grouped_queries_averaged,
            "The queries of a group are averaged. They share keys, not questions: each query head "
            "still attends by itself.",
        ),
        WrongAnswer(
            "heads put back in another order",
            _grouped_swapped_back,
            "The grouping is right and the heads come back in another order: group and member are "
            "swapped before the last reshape. Head h = group * (H / G) + member.",
        ),
        WrongAnswer(
            "no grouping",
            _grouped_not_at_all,
            "H query heads cannot be multiplied with G key heads as they are, except when G is 1 "
            "or H. Give q a group axis, (B, G, H/G, T, D), or lay the key heads out for each query "
            "head.",
        ),
        WrongAnswer(
            "unscaled",
            _grouped_unscaled,
            "The scores are not divided by sqrt(D).",
        ),
    ),
    alternatives=(_grouped_by_rows, _grouped_repeated),
    examples=(
        (
            torch.zeros(1, 4, 1, 1, dtype=torch.float64),
            torch.zeros(1, 2, 2, 1, dtype=torch.float64),
            torch.tensor([[[[1.0], [3.0]], [[10.0], [30.0]]]], dtype=torch.float64),
        ),
    ),
)
