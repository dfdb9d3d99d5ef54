"""Activation checkpointing: a block's activations are thrown away and computed again when needed.

Taught in Part 4. The backward pass needs what the forward pass computed on its way; kept, that is
most of the memory of training, and grows with the number of blocks. Recomputed, only each block's
input is kept, and one block at a time runs forward a second time just before its gradients are
worked out: about a third more arithmetic (four passes of products for three) for memory that hardly
grows with depth. The arithmetic is the same, so loss and gradients are the same, bit for bit.

The bookkeeping is torch's (`torch.utils.checkpoint`). What it cannot know is that dropout draws
from a generator of ours: the second run must draw the same numbers as the first, and must leave the
generator where it found it.

Source: Chen et al. 2016, arXiv 1604.06174, section 3.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def recomputed(
    block: nn.Module,
    x: Tensor,
    *rest: object,
    draws: bool = False,
    generator: torch.Generator | None = None,
) -> Tensor:
    """`block(x, *rest)`, of which nothing but `x` and `rest` is kept for the backward pass.

    Args:
        block: gives a tensor; it must do the same when run twice, and change nothing outside.
        x: (B, T, C).
        draws: whether it draws random numbers, as dropout does while training.
        generator: what it draws them from; None means torch's global one.

    Returns:
        What the block returns, (B, T, C); its gradients are those of the block itself.
    """
    if draws and generator is not None:
        if not torch.compiler.is_compiling():
            return _recomputed_drawing(generator, block, x, *rest)
        # The compiler knows no checkpoint with a context: it compiles what comes before, the block,
        # and what comes after. Asked for here, since asking loads the whole compiler.
        alone = torch.compiler.disable(_recomputed_drawing, recursive=False)
        return alone(generator, block, x, *rest)
    # What torch's global generators draw it sees to itself.
    return checkpoint(block, x, *rest, use_reentrant=False, preserve_rng_state=draws)


def _recomputed_drawing(
    generator: torch.Generator, block: nn.Module, x: Tensor, *rest: object
) -> Tensor:
    def contexts():  # what surrounds the first run and what surrounds the second
        return nullcontext(), _drawing_again(generator, generator.get_state())

    return checkpoint(
        block, x, *rest, use_reentrant=False, preserve_rng_state=False, context_fn=contexts
    )


@contextmanager
def _drawing_again(generator: torch.Generator, state: Tensor) -> Iterator[None]:
    """Inside, the generator draws what it drew from `state` on; outside, nothing has happened."""
    now = generator.get_state()
    generator.set_state(state)
    try:
        yield
    finally:
        generator.set_state(now)
