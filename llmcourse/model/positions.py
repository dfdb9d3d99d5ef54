"""Telling a token where it stands: sinusoidal and learned absolute positions.

Taught in Part 1. Attention alone is blind to order: permute the tokens and the outputs permute with
them. Both schemes here add a vector to each token's embedding that depends on its position only.
Rotary positions, which turn queries and keys instead, come in Part 3.

Source of the sinusoids: Vaswani et al. 2017, arXiv 1706.03762, section 3.5.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def sinusoidal_positions(context_length: int, d_model: int, base: float = 10_000.0) -> Tensor:
    """The table of sines and cosines, (T, C) float32.

    Channel pair i turns at the rate base^(-2i / C) radians per token:
    table[t, 2i] = sin(t rate_i), table[t, 2i + 1] = cos(t rate_i). A shift by k tokens turns every
    pair by a fixed angle, so relative distance is a linear function of the table's rows.

    Raises:
        ValueError: `d_model` is odd or a size is not positive.
    """
    if context_length < 1 or d_model < 1 or d_model % 2:
        raise ValueError(
            f"sinusoidal positions need context_length >= 1 and an even d_model >= 2, "
            f"got context_length={context_length}, d_model={d_model}"
        )
    position = torch.arange(context_length, dtype=torch.float64)  # (T,)
    pair = torch.arange(0, d_model, 2, dtype=torch.float64)  # (C/2,): 0, 2, 4, ...
    angle = position[:, None] * base ** (-pair / d_model)  # (T, C/2) radians
    table = torch.stack([angle.sin(), angle.cos()], dim=-1)  # (T, C/2, 2)
    # Computed in float64: in float32 the angle of position 5,000 is already off by 1e-4.
    return table.reshape(context_length, d_model).float()  # (T, C), sine and cosine interleaved


class SinusoidalPositions(nn.Module):
    """The fixed table as a module: nothing to learn, nothing to save."""

    def __init__(self, context_length: int, d_model: int) -> None:
        super().__init__()
        table = sinusoidal_positions(context_length, d_model)
        self.register_buffer("table", table, persistent=False)

    def forward(self, positions: Tensor) -> Tensor:  # (...) whole numbers -> (..., C)
        return self.table[positions]


class LearnedPositions(nn.Module):
    """One learned vector per position, as in GPT-2: flexible, and unable to go past the table."""

    def __init__(
        self,
        context_length: int,
        d_model: int,
        std: float = 0.02,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        table = torch.empty(context_length, d_model).normal_(0.0, std, generator=generator)
        self.weight = nn.Parameter(table)

    def forward(self, positions: Tensor) -> Tensor:  # (...) whole numbers -> (..., C)
        return nn.functional.embedding(positions, self.weight)
