"""Mixture of experts: a feed-forward layer of many networks, of which each token uses a few.

Taught in Part 5. The layer has the parameters of E networks and the arithmetic of K: it can know
more without working more on each token. A `Router` decides which tokens an expert takes, dispatch
brings them there and back, and beside the routed experts there may be a network that all tokens
share. It stands where a dense block has its feed-forward network.

The expert networks are those of feed_forward.py, with the weights of all experts stacked in one
tensor per matrix: that is how they are initialised, saved, divided over machines and, on a GPU,
multiplied in one call.

Sources: Shazeer et al. 2017, arXiv 1701.06538, equation 1; Mixtral, arXiv 2401.04088, section 2.1;
shared experts, DeepSeekMoE, arXiv 2401.06066, equation 9; a dense branch beside a sparse one is
Snowflake Arctic's (2024).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from llmcourse.model.config import ModelConfig
from llmcourse.model.expert_dispatch import (
    DISPATCH,
    can_group_products,
    grouped_product,
    slices,
)
from llmcourse.model.feed_forward import make_feed_forward
from llmcourse.model.layers import ACTIVATIONS, Dropout
from llmcourse.model.products import Product, plain_product
from llmcourse.model.router import Router
from llmcourse.model.routing import SparseLayer


class ExpertStack(nn.Module):
    """E feed-forward networks, their weights stacked.

    up: (E, 2 F, C), the gate's rows above the other projection's; (E, F, C) for plain networks.
    down: (E, C, F). Biases, if the config has them: (E, 2 F) or (E, F), and (E, C).
    """

    def __init__(
        self, config: ModelConfig, out_std: float, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        e, c, f = config.experts.n_experts, config.d_model, config.expert_width
        self.gated = config.feed_forward == "gated"
        inner = 2 * f if self.gated else f
        self.activation = ACTIVATIONS[config.activation]
        self.product: Product = plain_product  # `products.set_products` may set another
        self.up = _normal((e, inner, c), config.init_std, generator)
        self.down = _normal((e, c, f), out_std, generator)
        bias = config.feed_forward_bias
        self.up_bias = nn.Parameter(torch.zeros(e, inner)) if bias else None
        self.down_bias = nn.Parameter(torch.zeros(e, c)) if bias else None

    def one(self, e: int, x: Tensor) -> Tensor:
        """Expert e's network: (n, C) -> (n, C)."""
        return self._network(x, *(p if p is None else p[e] for p in self._parts()))

    def forward(self, rows: Tensor, counts: Tensor) -> Tensor:
        """All experts' networks: rows (A, C) sorted by expert, counts (E,) of them each."""
        dtype = self.up.dtype
        if torch.is_autocast_enabled(rows.device.type):
            dtype = torch.get_autocast_dtype(rows.device.type)
            rows = rows.to(dtype)
        if self.up_bias is None and can_group_products(rows, dtype, self.up.shape[1]):
            hidden = self._activate(grouped_product(rows, self.up.to(dtype), counts))
            return grouped_product(hidden, self.down.to(dtype), counts)
        # Without a row at all, an empty result that still hangs on the weights.
        met = dict(slices(rows, counts)) or {0: rows}
        parts = (_each(p, list(met), dtype) for p in self._parts())
        pieces = zip(met.values(), *parts, strict=True)
        return torch.cat([self._network(piece, *weights) for piece, *weights in pieces])

    def _network(
        self, x: Tensor, up: Tensor, up_bias: Tensor | None, down: Tensor, down_bias: Tensor | None
    ) -> Tensor:
        return self.product(self._activate(self.product(x, up, up_bias)), down, down_bias)

    def _activate(self, hidden: Tensor) -> Tensor:
        return between_products(hidden, self.activation, self.gated)

    def _parts(self) -> tuple[Tensor | None, ...]:
        return self.up, self.up_bias, self.down, self.down_bias

    def extra_repr(self) -> str:
        e, c, f = self.down.shape
        return f"{e} experts, {c} -> {f} -> {c}, gated={self.gated}"


def between_products(hidden: Tensor, activation: Callable[[Tensor], Tensor], gated: bool) -> Tensor:
    """What an expert does between its two products: (n, 2 F) or, not gated, (n, F) -> (n, F)."""
    if not gated:
        return activation(hidden)
    gate, up = hidden.chunk(2, dim=-1)  # (n, 2 F) -> twice (n, F)
    return activation(gate) * up


def _each(
    stacked: Tensor | None, experts: list[int], dtype: torch.dtype
) -> Sequence[Tensor | None]:
    """(E, ...) -> a tensor for each of some experts, in `dtype`; Nones for biases there are not."""
    return [None] * len(experts) if stacked is None else _Each.apply(stacked, experts, dtype)


class _Each(torch.autograd.Function):
    """The parts of a stack, converted; backward, their gradients are laid into one of its size.

    Written plainly, every `stack[e]` would give a gradient of the size of all experts, and a stack
    that is converted first would be read for experts that have no row.
    """

    @staticmethod
    def forward(
        ctx: Any, stack: Tensor, experts: list[int], dtype: torch.dtype
    ) -> tuple[Tensor, ...]:
        ctx.experts = experts
        ctx.save_for_backward(stack)
        return tuple(stack[e].to(dtype) for e in experts)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None, None]:
        [stack] = ctx.saved_tensors
        total = torch.empty_like(stack)
        slope_of = dict(zip(ctx.experts, slopes, strict=True))
        for e, part in enumerate(total):
            part.copy_(slope_of[e]) if e in slope_of else part.zero_()
        return total, None, None


class MixtureOfExperts(SparseLayer):
    """x -> Σ over each token's experts of weight × expert(x), plus what all tokens share."""

    def __init__(
        self, config: ModelConfig, out_std: float, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        experts = config.experts
        self.router = Router(config.d_model, experts, config.init_std, generator)
        self.experts = ExpertStack(config, out_std, generator)
        shared = experts.n_shared * config.expert_width
        self.shared = make_feed_forward(config, out_std, generator, d_ff=shared) if shared else None
        self.dense = make_feed_forward(config, out_std, generator) if experts.dense_branch else None
        self.dispatch = DISPATCH[experts.dispatch]
        self.dropout = Dropout(config.dropout, generator)

    def forward(self, x: Tensor, real: Tensor | None = None) -> Tensor:
        """(B, T, C) -> (B, T, C).

        Args:
            x: what the layer reads.
            real: (B, T) bool, False for padding, which no expert takes; None means all are real.
        """
        rows = x.reshape(-1, x.shape[-1])  # (B, T, C) -> (N, C)
        routing = self.router(
            rows, (x.shape[0], x.shape[1]), self, None if real is None else real.reshape(-1)
        )
        if self.record is not None:
            self.record.append(routing)
        if torch.is_autocast_enabled(x.device.type):  # before rows are moved: half the bytes
            rows = rows.to(torch.get_autocast_dtype(x.device.type))
        y = self.dropout(self.dispatch(rows, routing, self.experts).view(x.shape))
        for beside in (self.shared, self.dense):
            if beside is not None:
                y = y + beside(x)
        return y


def _normal(shape: tuple[int, ...], std: float, generator: torch.Generator | None) -> nn.Parameter:
    return nn.Parameter(torch.empty(shape).normal_(0.0, std, generator=generator))
