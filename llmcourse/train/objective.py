"""What is trained: a model and its loss as one module.

Taught in Part 4. To compile the loss together with the model, to copy both to several processes or
to cut them into pieces, torch wants one module whose `forward` is everything that happens. A loss
function that calls `model.hidden` behind a wrapper's back would slip past all three.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor, nn

from llmcourse.data.batches import IGNORE_INDEX, Batch
from llmcourse.model.routing import record_routing, sparse_layers
from llmcourse.train.balance import with_routing_loss
from llmcourse.train.chunked_loss import chunked_next_token_loss
from llmcourse.train.config import TrainConfig
from llmcourse.train.losses import cross_entropy

Loss = Callable[[nn.Module, Any], Tensor]
"""(model, batch) -> scalar: the mean over whatever the batch asks for."""


class Objective(nn.Module):
    """batch -> loss.

    Args:
        model: any module.
        loss: (model, batch) -> scalar.
    """

    def __init__(self, model: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.model = model
        self.loss = loss
        self.sparse = bool(sparse_layers(model))

    def forward(self, batch: Any) -> Tensor:
        if not (self.sparse and self.model.training):  # whoever trains sets the model's mode
            return self.loss(self.model, batch)
        # Whatever the loss is, routers are trained beside it: its gradient has theirs too.
        with record_routing(self.model) as routings:
            value = self.loss(self.model, batch)
        return with_routing_loss(value, routings, batch)


def next_token_loss(model: nn.Module, batch: Batch) -> Tensor:
    """Mean cross-entropy of the next token, in nats, over the targets that count."""
    documents = getattr(batch, "documents", None)  # packed rows say which document a token is of
    packed = {} if documents is None else {"documents": documents}
    return cross_entropy(model(batch.inputs, **packed), batch.targets)


def loss_of(config: TrainConfig) -> Loss:
    """The next-token loss as the config wants it computed: all logits at once, or in chunks."""
    if not config.loss_chunk:
        return next_token_loss
    return partial(chunked_next_token_loss, chunk_tokens=config.loss_chunk)


def n_targets(batch: Any) -> int:
    """How many targets of a batch count: its weight among others; 1 for a batch without targets."""
    targets = getattr(batch, "targets", None)
    return 1 if targets is None else int((targets != IGNORE_INDEX).sum())
