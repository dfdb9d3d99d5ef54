"""What training a mixture of experts adds to a step: routers' losses, and biases for choosing.

Taught in Part 5. The losses of `llmcourse.model.router_losses` steer the gradient of a step, but
they are no part of how well the model predicts; so they are added to the gradient and not to the
value, and the loss that is reported stays comparable with a dense model's. Whatever the loss (next
token, fine-tuning, rewards), it needs to know nothing of this.

The selection bias moves by counts: how many tokens each expert was asked to take in all batches of
an update, on all processes.

Sources of the bias: Wang et al. 2024, arXiv 2408.15664; DeepSeek-V3, arXiv 2412.19437, section
2.1.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from llmcourse.data.batches import IGNORE_INDEX
from llmcourse.model.router_losses import bias_step, routing_loss
from llmcourse.model.routing import Routing, sparse_layers
from llmcourse.train.processes import Processes


def with_routing_loss(loss: Tensor, routings: Sequence[Routing], batch: Any) -> Tensor:
    """`loss` in value; in its gradient also the routers' losses.

    Args:
        loss: scalar.
        routings: of the forward passes that made it; none for a dense model.
        batch: its targets say which tokens are text and which are filling.
    """
    if not routings:
        return loss
    mask = _mask(batch, routings)
    extra = routing_loss(routings, routings[0].layer.router.config, mask)
    for routing in routings:
        count(routing, mask)
    return loss + (extra - extra.detach())


@torch.no_grad()
def count(routing: Routing, mask: Tensor | None = None) -> None:
    """Note what each expert was asked to take, for the next step of its selection bias."""
    layer = routing.layer
    if layer.router.selection_bias is not None:
        load = routing.load(mask)
        layer.seen = load if layer.seen is None else layer.seen + load


@torch.no_grad()
def move_selection_biases(model: nn.Module, processes: Processes) -> None:
    """After an update: every selection bias one step towards even loads; counting starts anew."""
    layers = [layer for layer in sparse_layers(model) if layer.seen is not None]
    if not layers:
        return
    loads = processes.total(torch.stack([layer.seen for layer in layers]))
    for layer, load in zip(layers, loads, strict=True):
        bias = layer.router.selection_bias
        bias.copy_(bias_step(bias, load, layer.router.config.bias_rate))
        layer.seen = None


def forget_loads(model: nn.Module) -> None:
    """Count anew: for batches whose update was not made."""
    for layer in sparse_layers(model):
        layer.seen = None


def _mask(batch: Any, routings: Sequence[Routing]) -> Tensor | None:
    """Tokens that have a target, if the batch says so for exactly the tokens that were routed."""
    targets = getattr(batch, "targets", None)
    if targets is None or any(targets.numel() != len(r.logits) for r in routings):
        return None
    return targets != IGNORE_INDEX
