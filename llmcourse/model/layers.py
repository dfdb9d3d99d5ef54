"""The small parts every network is made of: Linear, Embedding, Dropout and the activations.

Taught in Part 1 (SiLU and ReLU² in Part 3). Each is a few lines of tensor arithmetic; `torch.nn`
has the same ones, and the tests compare outputs and gradients. Shapes: B batch, T time, C width,
V vocabulary; "..." is any number of leading dimensions.

Sources: GELU, Hendrycks and Gimpel 2016, arXiv 1606.08415 (equations 1 and 2); SiLU, the same
paper's section 4; ReLU², So et al. 2021, arXiv 2109.08668.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from llmcourse.model.products import Product, plain_product


class Linear(nn.Module):
    """y = x Wᵀ + b: every output is a weighted sum of all inputs.

    The weight is stored as (out, in), the convention of `torch.nn` and of published checkpoints.
    Weights start at a normal distribution of width `std`, biases at zero.

    Raises:
        ValueError: the last dimension of the input is not `d_in`.
    """

    def __init__(
        self,
        d_in: int,
        d_out: int,
        bias: bool = True,
        std: float = 0.02,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.d_in, self.d_out = d_in, d_out
        self.product: Product = plain_product  # `products.set_products` may set another
        self.weight = nn.Parameter(torch.empty(d_out, d_in).normal_(0.0, std, generator=generator))
        self.bias = nn.Parameter(torch.zeros(d_out)) if bias else None

    def forward(self, x: Tensor) -> Tensor:  # (..., d_in) -> (..., d_out)
        if x.shape[-1] != self.d_in:
            raise ValueError(f"Linear expects inputs of width {self.d_in}, got {tuple(x.shape)}")
        return self.product(x, self.weight, self.bias)  # x Wᵀ + b

    def extra_repr(self) -> str:
        return f"{self.d_in} -> {self.d_out}, bias={self.bias is not None}"


class Embedding(nn.Module):
    """A table with one row of numbers per token; looking up an id reads its row.

    Raises:
        ValueError: ids are not whole numbers, or one lies outside the table; the message names it.
    """

    def __init__(
        self, rows: int, width: int, std: float = 0.02, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(rows, width).normal_(0.0, std, generator=generator))

    def forward(self, ids: Tensor) -> Tensor:  # (...) whole numbers -> (..., C)
        check_ids(ids, self.weight.shape[0])
        # Same values as self.weight[ids], but its backward pass adds rows without sorting ids.
        return nn.functional.embedding(ids, self.weight)

    def extra_repr(self) -> str:
        return f"{self.weight.shape[0]} rows of {self.weight.shape[1]}"


def check_ids(ids: Tensor, vocab_size: int) -> None:
    """Refuse ids that no table of `vocab_size` rows could hold.

    Raises:
        ValueError: wrong dtype, or an id outside [0, vocab_size); its position is named.
    """
    if ids.dtype not in (torch.int64, torch.int32):
        raise ValueError(f"token ids must be int64 or int32, got {ids.dtype}; use .long()")
    if torch.compiler.is_compiling():
        return  # compiled code cannot look at values; an id out of range fails in the lookup
    outside = (ids < 0) | (ids >= vocab_size)
    if outside.any():
        where = tuple(outside.nonzero()[0].tolist())
        raise ValueError(
            f"token id {int(ids[where])} at position {where} is outside the vocabulary: "
            f"ids run from 0 to {vocab_size - 1}"
        )


class Dropout(nn.Module):
    """While training, zero each number with probability p and scale the rest by 1 / (1 - p).

    The scaling keeps the expected value, so that nothing changes at evaluation time, when the
    layer does nothing at all. Source: Srivastava et al. 2014.
    """

    def __init__(self, p: float, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.p, self.generator = p, generator

    def forward(self, x: Tensor) -> Tensor:
        return drop(x, self.p, self.generator) if self.training else x

    def extra_repr(self) -> str:
        return f"p={self.p}"


def drop(x: Tensor, p: float, generator: torch.Generator | None = None) -> Tensor:
    """Inverted dropout of a tensor of any shape; p = 0 returns it unchanged."""
    if p == 0.0:
        return x
    keep = torch.empty_like(x).bernoulli_(1.0 - p, generator=generator)
    return x * keep / (1.0 - p)


def relu(x: Tensor) -> Tensor:
    """max(0, x)."""
    return x.clamp(min=0)


def gelu_reference(x: Tensor) -> Tensor:
    """x Φ(x): each number is kept by as much as a standard normal lies below it.

    Φ is the normal distribution function, (1 + erf(x / √2)) / 2.
    """
    return 0.5 * x * (1.0 + torch.erf(x / math.sqrt(2.0)))


def gelu_tanh_reference(x: Tensor) -> Tensor:
    """GELU with Φ approximated through tanh, as GPT-2 computes it; off by less than 5e-4."""
    inner = math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)
    return 0.5 * x * (1.0 + torch.tanh(inner))


def gelu(x: Tensor) -> Tensor:
    """`gelu_reference` in one pass over memory: the equation above makes five temporaries."""
    return nn.functional.gelu(x)


def gelu_tanh(x: Tensor) -> Tensor:
    """`gelu_tanh_reference` in one pass over memory."""
    return nn.functional.gelu(x, approximate="tanh")


def silu_reference(x: Tensor) -> Tensor:
    """x σ(x): each number is kept by as much as the logistic function says. Also called swish."""
    return x / (1.0 + torch.exp(-x))


def silu(x: Tensor) -> Tensor:
    """`silu_reference` in one pass over memory."""
    return nn.functional.silu(x)


def relu2(x: Tensor) -> Tensor:
    """max(0, x)²: ReLU without the kink at zero."""
    return x.clamp(min=0).square()


ACTIVATIONS = {"relu": relu, "gelu": gelu, "gelu_tanh": gelu_tanh, "silu": silu, "relu2": relu2}
