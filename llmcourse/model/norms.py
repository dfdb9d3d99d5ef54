"""Layer normalisation: every token's numbers are brought to mean 0 and variance 1.

Taught in Part 1. Source: Ba, Kiros and Hinton 2016, arXiv 1607.06450 (equation 4). The variance is
the biased one (divided by C, not C - 1), and `eps` stands inside the root.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def layer_norm_reference(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float = 1e-5
) -> Tensor:
    """The equation, term by term. x (..., C); weight and bias (C,) or None; returns (..., C)."""
    mean = x.mean(dim=-1, keepdim=True)  # (..., 1)
    variance = ((x - mean) ** 2).mean(dim=-1, keepdim=True)  # (..., 1)
    y = (x - mean) / torch.sqrt(variance + eps)
    if weight is not None:
        y = y * weight
    return y if bias is None else y + bias


def layer_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float = 1e-5) -> Tensor:
    """`layer_norm_reference` in one pass over memory, which is most of what it costs."""
    return nn.functional.layer_norm(x, x.shape[-1:], weight, bias, eps)


class LayerNorm(nn.Module):
    """Layer normalisation over the last dimension, with a learned scale and shift per channel."""

    def __init__(self, width: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:  # (..., C) -> (..., C)
        return layer_norm(x, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        return f"{self.weight.shape[0]}, eps={self.eps}"
