"""FlashAttention-2 on a GPU: the tiles of `flash`, each worked by its own group of GPU threads.

Taught in Part 3. The arithmetic is in `triton_kernels`, what the kernels are told before they start
in `triton_launch`. Sources: Dao et al. 2022, arXiv 2205.14135; Dao 2023, arXiv 2307.08691.

Triton compiles for a GPU. On a CPU the same kernels run, slowly, in Triton's interpreter when the
environment variable TRITON_INTERPRET=1 is set before Python starts. That is how they are tested:
they compile for NVIDIA GPUs of compute capability 8.0, but have been run in the interpreter only.

Deviations from the papers: see the two modules named above. For one query and many keys the keys
are not divided among the processors of the GPU, so `sdpa` decodes faster.

Shapes: B batch, H query heads, G key/value heads, T queries, S keys, D width of queries and keys,
Dv width of values.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from llmcourse.model.attention_inputs import check_inputs
from llmcourse.model.masks import Visibility
from llmcourse.model.triton_launch import (
    choose_launch,
    make_plan,
    make_rule,
    power_of_two,
)

WIDEST = 256  # channels of a head: tiles of wider ones do not fit a GPU's shared memory
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def triton_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    visibility: Visibility,
    *,
    scale: float,
    softcap: float | None = None,
    tile: tuple[int, int] | None = None,
) -> Tensor:
    """softmax(scale · q kᵀ) v over the keys that are visible, differentiable once, by Triton.

    Args:
        q: (B, H, T, D), float64, float32, bfloat16 or float16; D at most 256.
        k: (B, G, S, D), G a divisor of H; query head h reads key head h // (H / G).
        v: (B, G, S, Dv), Dv at most 256.
        visibility: for T queries and S keys; a query that sees nothing gets 0 and passes back 0.
        scale: factor on q · k, usually 1 / √D.
        softcap: scores become softcap · tanh(score / softcap).
        tile: queries and keys of a tile, powers of two from 16 on; None means `choose_launch`.

    Returns:
        (B, H, T, Dv) in the dtype of q. Sums are float32, or float64 for float64 inputs; beside
        the output one number per query is kept for the backward pass.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit, a head wider than 256, tensors on a
            CPU outside Triton's interpreter.
        ImportError: Triton is not installed.
    """
    check_inputs(q, k, v, visibility, softcap)
    if q.dtype not in DTYPES:
        raise ValueError(f"the kernels know {', '.join(map(str, DTYPES))}, got {q.dtype}")
    if max(q.shape[-1], v.shape[-1]) > WIDEST:
        raise ValueError(
            f"heads of width {q.shape[-1]} and values of {v.shape[-1]} do not fit the kernels' "
            f'tiles, at most {WIDEST}; use implementation="flash", "sdpa" or "naive"'
        )
    if tile is not None and any(n < 16 or n != power_of_two(n) for n in tile):
        raise ValueError(f"tile={tile} must be two powers of two, each at least 16")
    kernels = load_kernels()
    if q.device.type == "cpu" and not interpreted(kernels):
        raise ValueError(
            'implementation="triton" runs on a GPU, and these tensors are on the CPU; use "flash", '
            '"sdpa" or "naive", or set TRITON_INTERPRET=1 before Python starts to run the kernels '
            "in Triton's interpreter"
        )
    # Along a row the kernels step one number at a time; the other axes may have any stride.
    q, k, v = (_rows_in_order(x) for x in (q, k, v))
    return _TritonAttention.apply(q, k, v, visibility, scale, softcap, tile, kernels)


def load_kernels() -> ModuleType:
    """The module of kernels; importing it imports Triton.

    Raises:
        ImportError: Triton is not installed; the message names what does without it.
    """
    try:
        from llmcourse.model import triton_kernels
    except ImportError as error:
        raise ImportError(
            'implementation="triton" needs the package triton, which exists for Linux only: '
            'pip install \'llmcourse[triton]\'; "flash", "sdpa", "flex" and "naive" do without'
        ) from error
    return triton_kernels


def interpreted(kernels: ModuleType) -> bool:
    """Whether the kernels run in Triton's interpreter, as was settled when they were imported."""
    from triton.runtime.interpreter import InterpretedFunction

    return isinstance(kernels.forward, InterpretedFunction)


class _TritonAttention(torch.autograd.Function):
    """Keeps q, k, v, the output and its log-sum-exp; weights are made again in the backward."""

    @staticmethod
    def forward(ctx, q, k, v, visibility, scale, softcap, tile, kernels):
        (b, h, t, d), s, dv = q.shape, k.shape[2], v.shape[-1]
        launch = choose_launch(t, s, power_of_two(max(d, dv)), q.dtype, q.device)
        if tile is not None:
            launch = launch._replace(block_q=tile[0], block_k=tile[1])
        rule = make_rule(kernels, q, k, v, visibility, launch, scale, softcap)
        plan = make_plan(kernels, visibility, launch, q.device)
        options = {"num_warps": launch.num_warps, "num_stages": launch.num_stages}
        out = q.new_empty(b, h, t, dv)
        sums = torch.float64 if q.dtype == torch.float64 else torch.float32
        log_sum_exp = q.new_empty(b, h, t, dtype=sums)
        with torch.cuda.device_of(q):  # Triton starts kernels on the current device
            kernels.forward[(-(-t // launch.block_q), h, b)](
                *_matrices(kernels, q, k, v, out),
                log_sum_exp,
                plan.q_places,
                plan.k_places,
                plan.for_queries,
                rule,
                **options,
            )
        ctx.save_for_backward(q, k, v, out, log_sum_exp)
        ctx.constant = (kernels, launch, rule, plan, options)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, d_out):
        q, k, v, out, log_sum_exp = ctx.saved_tensors
        kernels, launch, rule, plan, options = ctx.constant
        (b, h, t, _), (g, s) = q.shape, k.shape[1:3]
        d_out = _rows_in_order(d_out)
        # The kernels count on the order of storage; torch promises none for a sum of views.
        delta = (d_out.to(log_sum_exp.dtype) * out).sum(dim=-1).contiguous()  # (B, H, T)
        d_q, d_k, d_v = (x.new_empty(x.shape) for x in (q, k, v))
        given = (*_matrices(kernels, q, k, v, d_out), log_sum_exp, delta)
        places = (plan.q_places, plan.k_places)
        with torch.cuda.device_of(q):
            kernels.backward_keys[(-(-s // launch.block_k), g, b)](
                *given, *_matrices(kernels, d_k, d_v), *places, plan.for_keys, rule, **options
            )
            kernels.backward_queries[(-(-t // launch.block_q), h, b)](
                *given, *_matrices(kernels, d_q), *places, plan.for_queries, rule, **options
            )
        return d_q, d_k, d_v, None, None, None, None, None


def _rows_in_order(x: Tensor) -> Tensor:
    return x if x.stride(-1) == 1 else x.contiguous()


def _matrices(kernels: ModuleType, *tensors: Tensor) -> list[Any]:
    return [kernels.Matrix(x, *x.stride()[:3], x.shape[2]) for x in tensors]
