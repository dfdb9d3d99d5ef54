"""What the training loop asks of the processes that train together; here: of one that trains alone.

Taught in Part 4. The loop is the same for one process and for many. Wherever many would differ (a
sum over all of them, when gradients are exchanged, the norm of a gradient that lies in pieces on
several machines), it asks this object. `llmcourse.train.parallel` has the one for many.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from llmcourse.train.optimizers import clip_gradient_norm

if TYPE_CHECKING:
    from llmcourse.train.config import TrainConfig

Model = TypeVar("Model", bound=nn.Module)


class Processes:
    """One process: every sum is its own, nothing is exchanged. A context manager, like the many."""

    rank: int = 0  # of this process, 0 to world_size - 1
    world_size: int = 1  # processes in all
    data_rank: int = 0  # which share of every global batch this process reads
    data_size: int = 1  # shares; processes that split a layer between them read the same share

    def __init__(self, device: torch.device) -> None:
        self.device = device

    @property
    def main(self) -> bool:
        """Whether this is the process that prints and writes."""
        return self.rank == 0

    @property
    def pieces(self) -> bool:
        """Whether parameters lie in pieces on several processes, once they are wrapped."""
        return False

    def check(self, config: TrainConfig) -> None:
        """Refuse choices of training that these processes cannot carry out.

        Raises:
            ValueError: names the choice.
        """

    def sum(self, value: float) -> float:
        """The sum of a number over the shares of the data."""
        return value

    def total(self, tensor: Tensor) -> Tensor:
        """The sum of a tensor, number by number, over the shares of the data: how many tokens each
        expert was given on all of them, for example. The tensor itself is left as it is."""
        return tensor

    def all(self, flag: bool) -> bool:
        """Whether the flag is true on every process: what one decides alone, the others miss."""
        return flag

    def any(self, flag: bool) -> bool:
        """Whether the flag is true on any process."""
        return not self.all(not flag)

    def wrap(self, objective: nn.Module) -> nn.Module:
        """The objective made ready for all processes; its parameters may have been replaced."""
        return objective

    def accumulating(self, objective: nn.Module, last: bool) -> AbstractContextManager[None]:
        """Around forward and backward of one micro-batch; gradients are exchanged in the last."""
        return contextlib.nullcontext()

    def evaluating(self, objective: nn.Module) -> AbstractContextManager[None]:
        """Around calls of the model itself, past the objective; all processes take part."""
        return contextlib.nullcontext()

    def clip_gradient_norm(self, parameters: Iterable[Tensor], max_norm: float) -> float:
        """`llmcourse.train.optimizers.clip_gradient_norm` over all pieces of all processes."""
        return clip_gradient_norm(parameters, max_norm)

    def whole(self, model: Model) -> Model:
        """The model with all its weights, as one process would have it; all take part."""
        return model

    def canonical(self, name: str, tensor: Tensor) -> Tensor:
        """A parameter, or something as large as it, laid out so that its shape says what it is.

        Plain tensors are whole; a `DTensor` has the parameter's own shape and order of rows,
        whatever the number of processes. This is what a sharded checkpoint holds.
        """
        return tensor.detach()

    def restored(self, name: str, tensor: Tensor, like: Tensor) -> Tensor:
        """The inverse of `canonical`: this process's piece, laid out as the parameter `like`."""
        return tensor

    def close(self) -> None:
        """Leave the others; nothing may be exchanged afterwards."""

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()
