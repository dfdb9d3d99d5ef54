"""The one-token step through `torch.compile`, which needs tensors that never change their shape.

Taught in Part 3. A growing cache has another shape at every step, and a compiler that specialises
on shapes would compile every step anew. A static cache hands out its whole buffers from the first
token on, with the position of each slot (-1 where nothing is stored yet) deciding what is seen.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from llmcourse.generate.cache import DenseCache
from llmcourse.generate.prepare import PackedLinear
from llmcourse.generate.request import kept_as

if TYPE_CHECKING:
    from llmcourse.model import Transformer

ROUND_TO = 128  # tokens: capacities are rounded up, so that texts of similar length share a shape


def static_cache(kind: str | DenseCache, model: Transformer, rows: int, capacity: int):
    """A dense cache of fixed shape for `rows` texts of up to `capacity` tokens.

    Raises:
        ValueError: any other cache than "dense" or a static `DenseCache`; a model with packed
            weights, whose layout the compiler does not know.
    """
    if any(isinstance(module, PackedLinear) for module in model.modules()):
        raise ValueError(
            "compile=True cannot take a model with packed weights; give it the model that "
            "prepare_for_inference was given, or leave compile=False"
        )
    for table in model.rotary.values():
        table.grow(capacity)  # compiled code cannot see that a table has become too short
    if isinstance(kind, DenseCache) and kind.static:
        return kind
    if kind != "dense":
        raise ValueError(
            f'compile=True needs cache="dense" or a DenseCache(..., static=True), got {kind!r}: '
            f"the shapes of every other cache change from step to step"
        )
    capacity = -(-capacity // ROUND_TO) * ROUND_TO
    if not model.config.endless:
        capacity = min(capacity, model.config.context_length)
    return DenseCache(model.config, rows, capacity, static=True, **kept_as(model))


@cache
def compiled_step() -> Callable[..., Tensor]:
    """`next_logits`, compiled on first use for each model and batch size."""
    return torch.compile(_one_token, dynamic=False)


@torch.no_grad()
def _one_token(model: Transformer, ids: Tensor, padding: None, cache: DenseCache) -> Tensor:
    return model.logits(model.hidden(ids, padding=padding, cache=cache)[:, -1])  # (B, V)
