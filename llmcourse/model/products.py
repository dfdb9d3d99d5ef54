"""How a layer multiplies in float32: the same product by two libraries.

Taught in Part 4. Nearly all of a training step's arithmetic is the product of activations with
weights. torch hands a float32 matrix product on a CPU to the library it was built with (MKL on
x86-64), which on some processors leaves half the machine idle; a convolution it hands to oneDNN. A
1 × 1 convolution over an image of one row, N pixels wide and with C channels, is the matrix product
of (N, C) with (C, O): every pixel on its own, weighted sums over its channels. Written so, the
product and both products of its backward pass go through the other library, in the same float32
arithmetic with sums in another order.

Measured on an AMD processor with AVX-512 and two threads, 3,072 rows, 384 to 1,152 channels:
206 GFLOP/s forward and 204 backward as a product, 456 and 425 as a convolution. On Intel processors
expect little. So "auto" measures both at a shape of the model's own, and chooses.

Only float32 on a CPU gains: in bfloat16 plain products go through oneDNN already, on a GPU there is
nothing to gain, and a compiler writes code of its own. There `convolution_product` is
`plain_product`, and `why_plain` says why.

Shapes: N rows (all leading dimensions together), C inputs, O outputs of a layer.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

Product = Callable[..., Tensor]  # (x, weight, bias or None) -> x Wᵀ + b

ROWS = 1024  # of the products that are measured
OUTPUTS = 4096  # at most, of the products that are measured: an output head can be far larger
ROUNDS = 2  # of measuring at least, after one to warm up
SECONDS = 0.2  # of measuring at least
WORTH = 0.9  # share of the plain product's time below which the convolution is taken


def plain_product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x Wᵀ + b: x (..., C), weight (O, C), bias (O,) or None -> (..., O)."""
    return nn.functional.linear(x, weight, bias)


def convolution_product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`plain_product` as a convolution; where that cannot be or does not pay, the plain one."""
    if why_plain(x, weight) is not None:
        return plain_product(x, weight, bias)
    # (..., C) -> (1, 1, N, C): one image, one row, N pixels. Its channels lie side by side in
    # memory, which is the layout oneDNN wants; for torch they are still named second.
    image = x.reshape(1, 1, -1, x.shape[-1]).permute(0, 3, 1, 2)  # (1, C, 1, N)
    y = nn.functional.conv2d(image, weight[:, :, None, None], bias)  # (1, O, 1, N)
    return y.permute(0, 2, 3, 1).reshape(*x.shape[:-1], weight.shape[0])  # -> (..., O)


def why_plain(x: Tensor, weight: Tensor) -> str | None:
    """Why `convolution_product` takes the plain product for these tensors; None if it does not."""
    if x.device.type != "cpu":
        return f"tensors on {x.device.type}: convolutions gain nothing there"
    if torch.is_autocast_enabled("cpu"):
        return "autocast computes in half the bits, where plain products use oneDNN already"
    if x.dtype != torch.float32 or weight.dtype != torch.float32:
        return f"{x.dtype} times {weight.dtype}: only float32 gains"
    if torch.compiler.is_compiling():
        return "compiled code: the compiler chooses its products itself"
    if not torch.backends.mkldnn.is_available():
        return "this torch was built without oneDNN"
    if type(weight) not in (Tensor, nn.Parameter):
        return f"a weight of type {type(weight).__name__}, which is spread over processes"
    if x.numel() == 0 or x.shape[-1] != weight.shape[-1]:
        return "nothing to multiply, or shapes that do not fit"  # whose message should be the usual
    return None


PRODUCTS: dict[str, Product] = {"plain": plain_product, "convolution": convolution_product}


class ProductChoice(NamedTuple):
    """What "auto" takes for a model, and why."""

    product: str  # "plain" or "convolution"
    reason: str


def set_products(model: nn.Module, choice: str) -> str:
    """Say how every `Linear` of the model and its tied output layer multiply in float32.

    Args:
        model: a `Transformer`, or a module that holds one.
        choice: "plain", "convolution", or "auto", which measures both.

    Returns:
        "plain" or "convolution". A run that is to be repeated bit for bit must be given what
        "auto" returned, not "auto": the two round differently.

    Raises:
        ValueError: an unknown choice.
    """
    if choice == "auto":
        choice = choose_products(model).product
    if choice not in PRODUCTS:
        raise ValueError(f"products={choice!r} is unknown; choose one of {[*PRODUCTS, 'auto']}")
    for module in multiplying(model):
        module.product = PRODUCTS[choice]
    return choice


def multiplying(model: nn.Module) -> list[nn.Module]:
    """The modules whose way of multiplying can be set."""
    return [module for module in model.modules() if hasattr(module, "product")]


def choose_products(model: nn.Module) -> ProductChoice:
    """The faster product at the shape that most of this model's arithmetic has, in about 0.3 s."""
    weights = list(_weights(model))
    if not weights:
        return ProductChoice("plain", "a model that multiplies by no weights")
    reason = why_plain(weights[0], weights[0])
    if reason is not None:
        return ProductChoice("plain", reason)
    shapes = Counter((min(weight.shape[0], OUTPUTS), weight.shape[1]) for weight in weights)
    o, c = max(shapes, key=lambda shape: shapes[shape] * math.prod(shape))
    seconds = measure(o, c)
    text = ", ".join(f"{name} {1e3 * took:.1f} ms" for name, took in seconds.items())
    faster = seconds["convolution"] < WORTH * seconds["plain"]
    return ProductChoice(
        "convolution" if faster else "plain",
        f"measured on {ROWS:,} rows, {c:,} to {o:,} channels, forward and backward: {text}",
    )


def measure(o: int, c: int) -> dict[str, float]:
    """Seconds that a forward and backward pass of `ROWS` rows takes, by product.

    The two take turns, so that both meet the same load; and the fastest round of each counts, since
    other work on the machine can only make one slower.
    """
    generator = torch.Generator().manual_seed(0)
    sizes = (ROWS, c), (o, c), (ROWS, o)
    x, weight, slope = (torch.randn(size, generator=generator) for size in sizes)
    x, weight = x.requires_grad_(), weight.requires_grad_()
    taken: dict[str, list[float]] = {name: [] for name in PRODUCTS}
    begun = time.perf_counter()
    while len(taken["plain"]) < 1 + ROUNDS or time.perf_counter() - begun < SECONDS:
        for name, product in PRODUCTS.items():
            start = time.perf_counter()
            with torch.enable_grad():
                torch.autograd.grad(product(x, weight), (x, weight), slope)
            taken[name].append(time.perf_counter() - start)
    return {name: min(times[1:]) for name, times in taken.items()}  # the first was to warm up


def _weights(model: nn.Module) -> Iterator[Tensor]:
    for module in multiplying(model):
        if hasattr(module, "weight"):
            yield module.weight  # a Linear
        elif hasattr(module, "up"):
            # Experts: a token meets only a few, so a stack counts as often as one expert's.
            yield from (module.up[0], module.down[0])
        elif getattr(module, "head", None) is None:
            yield module.embedding.weight  # a Transformer whose output layer is its table
