"""How much of the machine a training step uses: model FLOPs utilisation.

Taught in Part 4. Tokens per second compare two runs of one model; they say nothing about how good
either is. Model FLOPs utilisation (MFU) does: the operations that the model's equations ask for,
over those the machine could have done in the time,

    MFU = training FLOPs per token · tokens per second / peak FLOP/s.

Counted are the matrix products of one forward and one backward pass, and nothing that an
implementation does besides: a block that is computed again to save memory (`model.recompute`) makes
the step slower and the share smaller. What the hardware does, recomputation included, would be
hardware FLOPs utilisation, which a wasteful program can raise.

Source: Chowdhery et al. 2022, "PaLM", arXiv 2204.02311, section 4.1 and appendix B. There
6 N + 12 L H Q T operations per token; here the products of the model at hand (`model.summary`),
which leaves out the embedding table (it is looked up, not multiplied), knows windows, and like
PaLM's formula counts the half of the scores that causality hides.

Deviation: the peak is what large matrix products reach on this machine when measured, not the
figure of a data sheet, which for a CPU in a shared machine nobody knows.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from llmcourse.model import ModelConfig
from llmcourse.model.products import PRODUCTS
from llmcourse.model.summary import summary

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
SECONDS = 0.2  # of measuring a peak


def training_flops(config: ModelConfig, tokens: int) -> int:
    """Operations that training on so many tokens asks for, forward and backward.

    Args:
        config: the model; texts are taken to be as long as its context.
        tokens: at least 0; an update has batch size × context length of them.

    Raises:
        ValueError: a negative number of tokens.
    """
    if tokens < 0:
        raise ValueError(f"tokens={tokens} must be at least 0")
    return summary(config).training_flops_per_token * tokens


def utilisation(config: ModelConfig, tokens: int, seconds: float, peak: float) -> float:
    """MFU, a share of 1: `tokens` trained on in `seconds`, on a machine of `peak` FLOP/s.

    Above 1 only if the peak was measured too low: on a busy machine, or in another precision.

    Raises:
        ValueError: seconds or peak that are not above 0.
    """
    if not seconds > 0 or not peak > 0:
        raise ValueError(f"seconds={seconds} and peak={peak} must be above 0")
    return training_flops(config, tokens) / seconds / peak


def matmul_peak(
    device: torch.device | str,
    precision: str = "float32",
    products: str = "plain",
    size: int | None = None,
) -> float:
    """FLOP/s of large square matrix products on this device, measured in about 0.2 s.

    The median of many products: what can be kept up, on a machine that does other things besides.

    Args:
        device: where.
        precision: "float32", "bfloat16" or "float16", as in `TrainConfig`.
        products: "plain" or "convolution", as `set_products` returned it; matters for float32 on a
            CPU only.
        size: rows and columns; None means 1,024 on a CPU and 8,192 elsewhere.

    Raises:
        ValueError: an unknown precision or kind of product.
    """
    for name, value, known in (("precision", precision, DTYPES), ("products", products, PRODUCTS)):
        if value not in known:
            raise ValueError(f"{name}={value!r} is unknown; choose one of {list(known)}")
    device = torch.device(device)
    size = size or (1024 if device.type == "cpu" else 8192)
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(size, size, generator=generator) for _ in range(2))
    x, weight = (tensor.to(device, DTYPES[precision]) for tensor in (x, weight))
    with torch.inference_mode(), torch.autocast(device.type, enabled=False):
        seconds = _seconds(lambda: PRODUCTS[products](x, weight), device)
    return 2 * size**3 / seconds


def _seconds(run: Callable[[], Tensor], device: torch.device) -> float:
    """Median seconds of a run, over as many as fit into `SECONDS`, at least three."""
    for _ in range(2):  # the first compiles or loads kernels
        run()
    _wait(device)
    taken: list[float] = []
    while len(taken) < 3 or sum(taken) < SECONDS:
        start = time.perf_counter()
        run()
        _wait(device)
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def _wait(device: torch.device) -> None:
    """Until the device has done what it was asked to do; a CPU always has."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
