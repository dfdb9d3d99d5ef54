"""Bringing tokens to their experts and the results back, twice: as the definition says, and fast.

Taught in Part 5. `dispatch_loop` goes through the experts: who are your tokens, here is what you
make of them, added up with their weights. `dispatch_grouped` sorts the assignments by expert once,
so that each expert's tokens lie side by side: one gather, one product per expert and matrix, and
one weighted sum per token. Both do work only for experts that have tokens, and read only their
weights. Their results and gradients are the same up to rounding.

What costs time besides the products is moving rows, above all in the backward pass, where torch
adds rows one after another. `_Gather` and `_Combine` know that each other's backward pass is the
other one's forward pass: the sum over a token's few assignments is an embedding bag, which torch
computes in one parallel pass.

On a GPU that has a grouped product (`torch.nn.functional.grouped_mm`) all experts' products are one
kernel, and no count has to travel to the CPU.

Shapes: N tokens, A assignments, C width, E experts, F width inside an expert.

Source: MegaBlocks, arXiv 2211.15841, for sorting in place of padding to a capacity.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from llmcourse.model.routing import Routing


def dispatch_loop(x: Tensor, routing: Routing, experts: Any) -> Tensor:
    """The definition: y_n = Σ over n's experts e of weight × expert_e(x_n).

    Args:
        x: (N, C).
        routing: who goes where.
        experts: anything with `one(e, rows)`, expert e's network for (n, C) rows.

    Returns:
        (N, C), zero for tokens without an expert.
    """
    y = torch.zeros_like(x)
    for e in range(routing.n_experts):
        mine = routing.experts == e  # (A,)
        tokens = routing.tokens[mine]
        if len(tokens):
            weights = routing.weights[mine, None].to(x.dtype)
            y = y.index_add(0, tokens, (weights * experts.one(e, x[tokens])).to(x.dtype))
    return y


@dataclass(frozen=True)
class Groups:
    """A routing sorted by expert, and the way back."""

    order: Tensor  # (A,) assignment at each sorted place
    rows: Tensor  # (A,) token at each sorted place
    counts: Tensor  # (E,) places of each expert
    bag: Tensor  # (A,) sorted places, token by token
    offsets: Tensor  # (N,) where each token's places begin in `bag`


def group(routing: Routing) -> Groups:
    """Sort the assignments of a routing by expert."""
    order = routing.experts.argsort(stable=True)
    rows = routing.tokens[order]
    bag = rows.argsort(stable=True)
    n = routing.logits.shape[0]
    per_token = torch.bincount(routing.tokens, minlength=n)
    counts = torch.bincount(routing.experts, minlength=routing.n_experts)
    return Groups(order, rows, counts, bag, per_token.cumsum(0) - per_token)


def dispatch_grouped(x: Tensor, routing: Routing, experts: Any) -> Tensor:
    """`dispatch_loop` with one sort, one gather and one weighted sum.

    Args:
        x: (N, C).
        routing: who goes where.
        experts: (rows, counts) -> (A, C), the networks of all experts for (A, C) rows that are
            sorted by expert, counts (E,) of them for each. It is called even without a row: experts
            on other machines wait for every one of them.

    Returns:
        (N, C), zero for tokens without an expert.
    """
    if len(x) == 1:
        return _one_token(x, routing, experts)
    groups = group(routing)
    rows = _Gather.apply(x, groups.rows, groups.bag, groups.offsets)  # (N, C) -> (A, C)
    made = experts(rows, groups.counts)  # (A, C)
    weights = routing.weights[groups.order]  # (A,)
    combined = _Combine.apply(made, weights, groups.rows, groups.bag, groups.offsets)
    return combined.to(x.dtype)  # (N, C)


def _one_token(x: Tensor, routing: Routing, experts: Any) -> Tensor:
    """`dispatch_grouped` for a single token, as when decoding: there is nothing to gather."""
    order = routing.experts.argsort()  # (A,)
    counts = torch.bincount(routing.experts, minlength=routing.n_experts)
    made = experts(x.expand(len(order), -1), counts)  # (1, C) -> (A, C)
    return (routing.weights[order].to(made.dtype) @ made).to(x.dtype)[None]  # -> (1, C)


DISPATCH = {"loop": dispatch_loop, "grouped": dispatch_grouped}


def slices(rows: Tensor, counts: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Each expert that has rows, with its rows."""
    sizes = {e: n for e, n in enumerate(counts.tolist()) if n}
    return zip(sizes, rows.split(list(sizes.values())) if sizes else (), strict=True)


def can_group_products(rows: Tensor, dtype: torch.dtype, inner: int) -> bool:
    """Whether torch multiplies all groups in one kernel here: rows by weights of `dtype`, to width
    `inner` and back.

    On a CPU torch has the function as well, but it runs at a quarter of the speed of a product per
    expert (measured in bfloat16, 8 experts, 4,096 tokens, width 512).
    """
    aligned = rows.shape[-1] % 8 == 0 and inner % 8 == 0  # rows of 16 bytes
    return (
        hasattr(nn.functional, "grouped_mm")
        and rows.is_cuda
        and rows.dtype == dtype == torch.bfloat16
        and torch.cuda.get_device_capability(rows.device) >= (8, 0)
        and aligned
    )


def grouped_product(rows: Tensor, weight: Tensor, counts: Tensor) -> Tensor:
    """Each group of rows times its own expert's matrix, in one call.

    Args:
        rows: (A, C), sorted by expert.
        weight: (E, O, C).
        counts: (E,) rows per expert.

    Returns:
        (A, O).
    """
    ends = counts.cumsum(0).to(torch.int32)
    return nn.functional.grouped_mm(rows, weight.transpose(-2, -1), offs=ends)


class _Gather(torch.autograd.Function):
    """x (N, C) -> x[rows] (A, C); backward, each token adds up the gradients of its places."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: Tensor, bag: Tensor, offsets: Tensor) -> Tensor:
        ctx.save_for_backward(bag, offsets)
        return x.index_select(0, rows)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        bag, offsets = ctx.saved_tensors
        return _sum_by_token(slope, None, bag, offsets), None, None, None


class _Combine(torch.autograd.Function):
    """y_n = Σ over n's places of weight × made (A, C); backward, each place reads its token."""

    @staticmethod
    def forward(
        ctx: Any, made: Tensor, weights: Tensor, rows: Tensor, bag: Tensor, offsets: Tensor
    ) -> Tensor:
        ctx.save_for_backward(made, weights, rows)
        return _sum_by_token(made, weights, bag, offsets)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        made, weights, rows = ctx.saved_tensors
        per_place = slope.index_select(0, rows)  # (N, C) -> (A, C)
        to_weights = (per_place * made).sum(1, dtype=weights.dtype)
        return per_place.mul_(weights[:, None].to(slope.dtype)), to_weights, None, None, None


def _sum_by_token(values: Tensor, weights: Tensor | None, bag: Tensor, offsets: Tensor) -> Tensor:
    """(A, C) -> (N, C): the (weighted) sum of each token's places; zero where it has none."""
    if not len(bag):
        return values.new_zeros(len(offsets), values.shape[1])
    scale = None if weights is None else weights.to(values.dtype)[bag]
    return nn.functional.embedding_bag(
        bag, values.contiguous(), offsets, mode="sum", per_sample_weights=scale
    )
