"""What a router decided, as data: which expert takes which token, and how much of it counts.

Taught in Part 5. A `Routing` is a list of assignments: a token, an expert, a weight.
That form says everything there is: each token's K experts, tokens that found an expert full, and
tokens that an expert-choice router left out or took five times. Dispatch runs it, the losses of
router_losses.py judge it, figures show it. Nothing is printed.

Shapes: N = B T tokens, E experts, A assignments (N K where nothing is dropped).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn


class SparseLayer(nn.Module):
    """What a layer that routes is to those who look on; the layer itself is in moe.py."""

    record: list[Routing] | None = None  # where its routings are noted; see `record_routing`
    seen: Tensor | None = None  # (E,) assignments since the selection bias was last moved


@dataclass(frozen=True)
class RoutingStatistics:
    """A routing in a few numbers."""

    load: Tensor  # (E,) share of all assignments that each expert takes; sums to 1
    entropy: float  # nats, of the average token's distribution over experts; at most ln E
    token_entropy: float  # nats, mean of the single tokens' entropies: 0 where all are sure
    confidence: float  # mean probability of a token's first expert, in [1/E, 1]
    dropped: float  # share of assignments that found their expert full
    n_tokens: int  # tokens that were counted


@dataclass(frozen=True)
class Routing:
    """Where one sparse layer sent the tokens of a batch."""

    logits: Tensor  # (N, E) float32, what the router said
    scores: Tensor  # (N, E) float32: softmax or sigmoid of the logits
    tokens: Tensor  # (A,) int64, the token of an assignment
    experts: Tensor  # (A,) int64, its expert
    weights: Tensor  # (A,) float32, by how much the expert's output counts
    dropped_tokens: Tensor  # (D,) int64, of the assignments whose expert was full: the token
    dropped_experts: Tensor  # (D,) int64, and the expert
    batch: tuple[int, int]  # (B, T); token n is the one at time n % T of sequence n // T
    layer: SparseLayer  # the layer that decided

    @property
    def n_experts(self) -> int:
        return self.logits.shape[1]

    @property
    def dropped(self) -> Tensor:
        """(E,) int64: assignments that each expert was too full for."""
        return torch.bincount(self.dropped_experts, minlength=self.n_experts)

    def gates(self) -> Tensor:
        """(N, E) weights as a table, zero where an expert was not chosen."""
        table = torch.zeros_like(self.scores)
        return table.index_put((self.tokens, self.experts), self.weights)

    def load(self, mask: Tensor | None = None) -> Tensor:
        """(E,) int64: assignments that each expert wanted to take, those it dropped included.

        Dropped ones count, since what is to be balanced is the demand.

        Args:
            mask: bool, N numbers in any shape, True for tokens that count; None means all do.
        """
        _, experts = self.wanted(mask)
        return torch.bincount(experts, minlength=self.n_experts)

    def wanted(self, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Tokens and experts of all assignments, the dropped included; of the mask's tokens."""
        tokens = torch.cat([self.tokens, self.dropped_tokens])
        experts = torch.cat([self.experts, self.dropped_experts])
        if mask is None:
            return tokens, experts
        counted = self.mask(mask)[tokens]
        return tokens[counted], experts[counted]

    def wanted_table(self) -> Tensor:
        """(N, E) bool: which experts wanted each token, the dropped assignments included."""
        table = torch.zeros_like(self.scores, dtype=torch.bool)
        table[self.wanted()] = True
        return table

    def probabilities(self) -> Tensor:
        """(N, E) scores that sum to 1 for each token: softmax scores as they are."""
        # Sigmoids of a token may all underflow to 0: then its probabilities are 0, not NaN.
        return self.scores / self.scores.sum(1, keepdim=True).clamp(min=1e-20)

    def mask(self, mask: Tensor) -> Tensor:
        """A mask of this routing's tokens as (N,).

        Raises:
            ValueError: not bool, or not one entry per token.
        """
        if mask.dtype != torch.bool or mask.numel() != self.logits.shape[0]:
            raise ValueError(
                f"a mask of {self.logits.shape[0]} tokens must hold so many bools, got "
                f"{tuple(mask.shape)} of {mask.dtype}"
            )
        return mask.reshape(-1)

    @torch.no_grad()
    def statistics(self, mask: Tensor | None = None) -> RoutingStatistics:
        """Load, entropy, confidence and drops, over the tokens of `mask` or over all."""
        p, load = self.probabilities().double(), self.load(mask).double()
        if mask is not None:
            p = p[self.mask(mask)]
        dropped = self.dropped_tokens
        if mask is not None:
            dropped = dropped[self.mask(mask)[dropped]]
        return RoutingStatistics(
            load=load / load.sum().clamp(min=1),
            entropy=float(_entropy(p.mean(0))),
            token_entropy=float(_entropy(p).mean()),
            confidence=float(p.amax(1).mean()),
            dropped=len(dropped) / max(int(load.sum()), 1),
            n_tokens=p.shape[0],
        )


def _entropy(p: Tensor) -> Tensor:
    """-Σ p ln p over the last dimension, in nats; 0 ln 0 is 0."""
    return -torch.special.xlogy(p, p).sum(-1)


@contextmanager
def record_routing(model: nn.Module) -> Iterator[list[Routing]]:
    """Inside, every sparse layer of `model` appends its `Routing` at each forward pass.

        with record_routing(model) as routings:
            model(ids)
        routings[0].statistics().load

    Routings come in the order in which layers run. They hold the graph of gradients, so that a loss
    of them can be trained on. A model without sparse layers gives an empty list. It can be nested.
    """
    found: list[Routing] = []
    layers = sparse_layers(model)
    before = {layer: layer.record for layer in layers}
    for layer in layers:
        layer.record = found
    try:
        yield found
    finally:
        for layer, record in before.items():
            layer.record = record
        for routing in found:  # whoever looks on from further out sees them as well
            if routing.layer.record is not None:
                routing.layer.record.append(routing)


def sparse_layers(model: nn.Module) -> list[SparseLayer]:
    """The mixtures of experts inside a module, first layer first."""
    return [module for module in model.modules() if isinstance(module, SparseLayer)]
