"""Normalisation: LayerNorm brings every token to mean 0 and variance 1, RMSNorm to mean square 1.

LayerNorm is taught in Part 1, RMSNorm in Part 3. In both `eps` stands inside the root, and
LayerNorm's variance is the biased one (divided by C, not C - 1).

Sources: Ba, Kiros and Hinton 2016, arXiv 1607.06450, equation 4; RMSNorm, Zhang and Sennrich 2019,
arXiv 1910.07467, equation 4.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


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


def rms_norm_reference(x: Tensor, weight: Tensor | None, eps: float = 1e-5) -> Tensor:
    """x / √(mean(x²) + eps), times the weight. x (..., C), weight (C,) or None -> (..., C)."""
    mean_square = (x**2).mean(dim=-1, keepdim=True)  # (..., 1); the mean itself is left alone
    y = x / torch.sqrt(mean_square + eps)
    return y if weight is None else y * weight


def rms_norm(x: Tensor, weight: Tensor | None, eps: float = 1e-5) -> Tensor:
    """`rms_norm_reference`, computed in float32 for narrower inputs and returned in x's dtype.

    A sum of squares needs more digits than bfloat16 has; published models compute it so too.
    """
    if torch.is_grad_enabled() and x.device.type == "cpu" and not torch.compiler.is_compiling():
        return _RMSNorm.apply(x, weight, eps)
    if x.dtype in (torch.bfloat16, torch.float16):
        wide = None if weight is None else weight.float()
        return nn.functional.rms_norm(x.float(), x.shape[-1:], wide, eps).to(x.dtype)
    return nn.functional.rms_norm(x, x.shape[-1:], weight, eps)


class _RMSNorm(torch.autograd.Function):
    """Forward and backward pass with fewer passes over memory than torch has for a CPU.

    With r = 1 / √(mean(x²) + eps), n = x r, and g the gradient of n:
    dx = r (g - n mean(g n)); the second term is what normalising takes out of the direction of x.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, eps: float) -> Tensor:
        wide = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
        size = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)  # (..., 1)
        rate = (size.square() / x.shape[-1] + eps).rsqrt()  # r, (..., 1)
        y = wide * rate
        ctx.save_for_backward(x, rate, weight)
        return (y if weight is None else y.mul_(weight)).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, Tensor | None, None]:
        x, rate, weight = ctx.saved_tensors
        n = x * rate  # (..., C), in float32 at least
        product, d_weight = slope * n, None  # (..., C)
        if weight is not None:
            d_weight = product.reshape(-1, x.shape[-1]).sum(dim=0).to(weight.dtype)  # (C,)
            slope, product = slope * weight, product.mul_(weight)
        mean = product.mean(dim=-1, keepdim=True)  # (..., 1)
        d_x = torch.addcmul(slope.to(n.dtype), n, mean, value=-1).mul_(rate)  # (..., C)
        return d_x.to(x.dtype), d_weight, None


class RMSNorm(nn.Module):
    """RMS normalisation over the last dimension, with a learned scale per channel and no shift.

    With `offset` the scale is 1 + weight, so that a weight of zero changes nothing (Gemma).
    """

    def __init__(self, width: int, eps: float = 1e-5, offset: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width) if offset else torch.ones(width))
        self.eps, self.offset = eps, offset

    def forward(self, x: Tensor) -> Tensor:  # (..., C) -> (..., C)
        return rms_norm(x, 1.0 + self.weight if self.offset else self.weight, self.eps)

    def extra_repr(self) -> str:
        return f"{self.weight.shape[0]}, eps={self.eps}, offset={self.offset}"
