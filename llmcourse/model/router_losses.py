"""What keeps a router fair and calm: losses for its training, and a bias that needs no loss.

Taught in Part 5. Left to itself a router falls into a circle: an expert that is chosen learns, and
an expert that has learned is chosen. The load-balancing loss and the importance loss push against
it by gradients; the selection bias does by counting. The z-loss keeps the logits small, so that the
softmax stays soft and rounding harmless. All are pure functions.

Shapes: N tokens, E experts, A assignments.

Sources: load-balancing loss, Switch Transformer, arXiv 2101.03961, equations 4 to 6 (for one expert
per token; GShard, arXiv 2006.16668, section 2.2 before it); per sequence, DeepSeek-V3, arXiv
2412.19437, equations 17 to 20; z-loss, ST-MoE, arXiv 2202.08906, equation 5; importance loss,
Shazeer et al. 2017, arXiv 1701.06538, equation 7; selection bias, Wang et al. 2024, arXiv
2408.15664, algorithm 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from llmcourse.model.experts_config import Experts
from llmcourse.model.routing import Routing


def load_balancing_loss(probabilities: Tensor, load: Tensor) -> Tensor:
    """E Σ_e f_e P_e: f_e is expert e's share of the assignments, P_e its mean probability.

    Counting has no gradient, so f is a constant and the gradient lowers the probability of experts
    in proportion to their load. It is 1 where either is even, and up to E where all tokens are
    sure of one expert. (transformers divides f by the tokens, not by the assignments: K times it.)

    Args:
        probabilities: (..., N, E), each row summing to 1.
        load: (..., E) assignments of each expert.

    Returns:
        (...): one loss for each leading index.

    Raises:
        ValueError: the two speak of different numbers of experts.
    """
    if probabilities.shape[-1] != load.shape[-1]:
        raise ValueError(
            f"probabilities of {probabilities.shape[-1]} experts, but loads of {load.shape[-1]}"
        )
    load = load.to(probabilities.dtype)
    share = load / load.sum(-1, keepdim=True).clamp(min=1)
    return load.shape[-1] * (share * probabilities.mean(-2)).sum(-1)


def router_z_loss(logits: Tensor) -> Tensor:
    """Mean of (ln Σ_e exp logit)²: (N, E) -> scalar. Zero where the exponentials sum to 1."""
    return torch.logsumexp(logits, dim=-1).square().mean()


def importance_loss(gates: Tensor) -> Tensor:
    """The squared coefficient of variation of the experts' summed weights: (N, E) -> scalar.

    Variance over squared mean: 0 when all experts matter equally, E - 1 when only one does.
    """
    importance = gates.sum(0)  # (E,)
    return importance.var(unbiased=False) / importance.mean().square().clamp(min=1e-20)


def bias_step(bias: Tensor, load: Tensor, rate: float) -> Tensor:
    """The selection bias after an update: up for experts below the mean load, down above it.

    Only the sign counts, so a starving expert and one slightly behind rise at the same pace.

    Args:
        bias: (E,).
        load: (E,) assignments of the update's batches.
        rate: the step, in units of the scores.

    Returns:
        (E,), a new tensor.
    """
    # In the load's own numbers: whole ones stay exact, and equal loads move nothing.
    return bias + rate * torch.sign(load.sum() - len(load) * load).to(bias.dtype)


def routing_loss(
    routings: Sequence[Routing], experts: Experts, mask: Tensor | None = None
) -> Tensor:
    """All losses that the config gives a weight, added up: what a training step puts on top.

    Args:
        routings: of the sparse layers; losses are means over the layers.
        experts: the weights.
        mask: bool, one per token in any shape, True for tokens that count; None means all do.

    Raises:
        ValueError: no routing.
    """
    if not routings:
        raise ValueError("a routing loss needs the routing of at least one sparse layer")
    total = routings[0].logits.new_zeros(())
    if mask is not None and not mask.any():
        return total  # means over nothing
    if experts.balance_weight:
        total = total + experts.balance_weight * balance(routings, experts.balance_over, mask)
    for routing in routings:
        counted = slice(None) if mask is None else routing.mask(mask)
        if experts.z_weight:
            z = router_z_loss(routing.logits[counted])
            total = total + experts.z_weight * z / len(routings)
        if experts.importance_weight:
            importance = importance_loss(routing.gates()[counted])
            total = total + experts.importance_weight * importance / len(routings)
    return total


def balance(routings: Sequence[Routing], over: str, mask: Tensor | None = None) -> Tensor:
    """The load-balancing loss over what `Experts.balance_over` names.

    "batch": for each layer over all its tokens, and the layers' mean. "sequence": for each layer
    and each sequence, and their mean. "model": once, over the tokens of all layers together.
    """
    probabilities = [routing.probabilities() for routing in routings]
    if over == "model":
        counted = [
            p if mask is None else p[routing.mask(mask)]
            for p, routing in zip(probabilities, routings, strict=True)
        ]
        load = torch.stack([routing.load(mask) for routing in routings]).sum(0)
        return load_balancing_loss(torch.cat(counted), load)
    if over == "batch":
        losses = [
            load_balancing_loss(p if mask is None else p[routing.mask(mask)], routing.load(mask))
            for p, routing in zip(probabilities, routings, strict=True)
        ]
        return torch.stack(losses).mean()
    losses = [
        _by_sequence(p, routing, None if mask is None else routing.mask(mask))
        for p, routing in zip(probabilities, routings, strict=True)
    ]
    return torch.stack(losses).mean()


def _by_sequence(probabilities: Tensor, routing: Routing, mask: Tensor | None) -> Tensor:
    """Mean over sequences of their own balancing losses; a sequence without tokens is left out."""
    (b, t), e = routing.batch, routing.n_experts
    counts = torch.ones(b * t, device=probabilities.device, dtype=torch.bool)
    counts = counts if mask is None else mask
    tokens, experts = routing.wanted(counts)
    load = torch.bincount(tokens // t * e + experts, minlength=b * e).view(b, e)
    # Means over the tokens that count: masked ones are zero and divided away.
    real = counts.view(b, t, 1).to(probabilities.dtype)
    share_real = real.mean(1, keepdim=True).clamp(min=1 / t)
    weighted = probabilities.view(b, t, e) * real / share_real
    losses = load_balancing_loss(weighted, load)  # (B,)
    present = counts.view(b, t).any(1)
    return losses[present].mean()
