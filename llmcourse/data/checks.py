"""What the batching functions accept, and what they say about the rest. Part 2."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def token_row(tokens: Tensor | Sequence[int], name: str = "tokens") -> Tensor:
    """Checks that these are (N,) integers with N > 0, and makes them int64."""
    try:
        ids = torch.as_tensor(tokens)
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"{name} must be one row of integer ids, got {tokens!r:.60}") from None
    if ids.numel() == 0:
        raise ValueError(f"{name}: empty; there must be at least 2 token ids")
    is_integer = not (ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool)
    if ids.dim() != 1 or not is_integer:
        raise ValueError(
            f"{name} must be one row of integer ids, got shape {tuple(ids.shape)} of {ids.dtype}"
        )
    return ids.long()


def check_sizes(**sizes: int) -> None:
    """Refuses sizes that are not whole numbers of at least 1; the keyword is the name to report."""
    for name, value in sizes.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")


def check_generator(generator: torch.Generator | None) -> None:
    """Refuses to draw from anything but an explicit generator."""
    if not isinstance(generator, torch.Generator):
        raise ValueError(
            "random batches need a torch.Generator, so that they can be had again:"
            f" pass torch.Generator().manual_seed(0); got {generator!r}"
        )
