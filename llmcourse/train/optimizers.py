"""Which parameters get which update, and how large a gradient may be.

Taught in Part 2. AdamW: Loshchilov and Hutter 2019, arXiv 1711.05101; clipping by the global norm:
Pascanu et al. 2013, arXiv 1211.5063. Muon has a file of its own, `llmcourse.train.muon`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from llmcourse.train.muon import Muon
from llmcourse.train.sgd import SGD

if TYPE_CHECKING:
    from llmcourse.train.config import TrainConfig


def make_optimizers(model: nn.Module, config: TrainConfig) -> list[torch.optim.Optimizer]:
    """The optimisers of a run: AdamW or SGD for everything, or Muon for the blocks beside AdamW.

    Muon is meant for matrices that map a hidden state to a hidden state. Tables that are looked up
    (embeddings, positions, the output head) and vectors stay with AdamW.
    """
    adam = {"betas": (config.beta1, config.beta2), "fused": True}
    if config.optimizer == "adamw":
        groups = decay_groups(model.parameters(), config.weight_decay, stacked_vectors(model))
        return [torch.optim.AdamW(groups, lr=config.learning_rate, **adam)]
    if config.optimizer == "sgd":
        groups = decay_groups(model.parameters(), config.weight_decay, stacked_vectors(model))
        return [SGD(groups, lr=config.learning_rate, momentum=config.beta1)]
    hidden = [p for p in hidden_matrices(model) if p.requires_grad]
    chosen = {id(p) for p in hidden}
    rest = [p for p in model.parameters() if id(p) not in chosen]
    groups = decay_groups(rest, config.weight_decay, stacked_vectors(model))
    half = torch.bfloat16 if config.precision == "bfloat16" else None
    return [
        Muon(hidden, config.muon_learning_rate, weight_decay=config.weight_decay, dtype=half),
        torch.optim.AdamW(groups, lr=config.learning_rate, **adam),
    ]


def hidden_matrices(model: nn.Module) -> list[Tensor]:
    """The matrices inside the blocks of a model, in order; those of experts are stacked.

    A router is an output head: it maps to experts, which have no direction to keep straight.
    """
    vectors = {id(p) for p in stacked_vectors(model)}
    return [
        p
        for name, p in model.named_parameters()
        if name.startswith("blocks.")
        and p.ndim in (2, 3)
        and ".router." not in name
        and id(p) not in vectors
    ]


def stacked_vectors(model: nn.Module) -> list[Tensor]:
    """The biases of experts: vectors, though those of all experts lie in one (E, width) tensor."""
    return [p for name, p in model.named_parameters() if name.endswith("_bias") and p.ndim == 2]


def decay_groups(
    parameters: Iterable[Tensor], weight_decay: float, vectors: Iterable[Tensor] = ()
) -> list[dict]:
    """Two parameter groups: matrices decay, vectors (biases, norm scales) do not.

    Decay pulls a weight towards zero. For a matrix that is a preference for simple functions; for a
    norm's scale or a bias it would only distort the size of what flows through.

    Args:
        parameters: frozen ones are left out.
        weight_decay: of the matrices.
        vectors: parameters that do not decay although they have two dimensions.
    """
    spared = {id(p) for p in vectors}
    trainable = [p for p in parameters if p.requires_grad]
    decayed = [p for p in trainable if p.ndim >= 2 and id(p) not in spared]
    rest = [p for p in trainable if p.ndim < 2 or id(p) in spared]
    return [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": rest, "weight_decay": 0.0},
    ]


@torch.no_grad()
def clip_gradient_norm(parameters: Iterable[Tensor], max_norm: float) -> float:
    """Scale all gradients by one factor so that their joint norm is at most `max_norm`.

    One factor for all keeps the direction of the step; clipping each number by itself would not.

    Args:
        parameters: those without a gradient are passed over.
        max_norm: the largest norm allowed; infinity only measures.

    Returns:
        The norm before clipping: the number to plot.

    Raises:
        ValueError: max_norm is not positive.
    """
    if not max_norm > 0:
        raise ValueError(f"max_norm={max_norm} must be greater than 0 (infinity never clips)")
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not gradients:
        return 0.0
    norms = torch.stack([gradient.norm() for gradient in gradients])  # (number of tensors,)
    total = float(norms.norm())
    if total > max_norm:
        for gradient in gradients:
            gradient.mul_(max_norm / total)
    return total
