"""FlexAttention: say in one line who may look at whom, and let a compiler write the kernel.

Taught in Part 3, as the answer to "must I write `flash_triton` myself?". torch's `flex_attention`
takes a function that says which pairs are visible and one that changes a score, and on a GPU
compiles them into a FlashAttention kernel. Here both are made from `Visibility` and the soft cap.
Source: Dong et al. 2024, arXiv 2412.05496.

On a CPU it runs as plain torch operations that hold all scores, forward only: torch has no backward
for it there. It is here to be compared with, and for GPUs; a CPU is better served by `sdpa`.

The compiled GPU path has not been run here; the rule it is given is tested as plain operations.

Shapes: B batch, H query heads, G key/value heads, T queries, S keys, D width of queries and keys,
Dv width of values.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import torch
from torch import Tensor
from torch.nn.attention import flex_attention as torchs

from llmcourse.model.attention_inputs import check_inputs
from llmcourse.model.masks import Visibility

GPUS = ("cuda", "xpu")
NARROWEST = 16  # channels: what torch's compiled kernel needs
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def flex_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    visibility: Visibility,
    *,
    scale: float,
    softcap: float | None = None,
) -> Tensor:
    """softmax(scale · q kᵀ) v over the keys that are visible, by torch's `flex_attention`.

    Args:
        q: (B, H, T, D), float64, float32, bfloat16 or float16.
        k: (B, G, S, D), G a divisor of H.
        v: (B, G, S, Dv).
        visibility: for T queries and S keys; a query that sees nothing gets 0.
        scale: factor on q · k, usually 1 / √D.
        softcap: scores become softcap · tanh(score / softcap).

    Returns:
        (B, H, T, Dv) in the dtype of q. Differentiable on a GPU only.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit; a gradient asked for outside a GPU.
    """
    check_inputs(q, k, v, visibility, softcap)
    if q.dtype not in DTYPES:
        raise ValueError(f'implementation="flex" knows {DTYPES}, got {q.dtype}')
    gpu = q.device.type in GPUS
    if gpu and min(q.shape[-1], v.shape[-1]) < NARROWEST:
        raise ValueError(
            f'implementation="flex" needs heads of at least {NARROWEST} channels on a GPU, got '
            f'{q.shape[-1]} and values of {v.shape[-1]}; use "flash", "sdpa" or "naive"'
        )
    if torch.is_grad_enabled():
        if not gpu and (q.requires_grad or k.requires_grad or v.requires_grad):
            raise ValueError(
                f'implementation="flex" has no backward pass on {q.device.type}; train with '
                '"flash", "sdpa" or "naive", or compute under torch.no_grad()'
            )
    else:
        # torch refuses tensors that ask for a gradient there even where none will be made.
        q, k, v = q.detach(), k.detach(), v.detach()
    seen = None if visibility.everything else _block_mask(visibility, q.device)
    score_mod = None if softcap is None else _cap(softcap)
    with warnings.catch_warnings():
        # "will use an unfused implementation": on a CPU that is meant, and said above.
        warnings.filterwarnings("ignore", "flex_attention called without", UserWarning)
        return _kernel(gpu)(
            q,
            k,
            v,
            score_mod=score_mod,
            block_mask=seen,
            scale=scale,
            enable_gqa=q.shape[1] != k.shape[1],
        )


def mask_mod(visibility: Visibility, device: torch.device) -> Callable[..., Tensor]:
    """The rule as torch wants it: of numbers (batch, head, query, key), whether query sees key."""
    q, k = (x.to(device) for x in visibility.positions(device))
    asks, answers = visibility.q_documents, visibility.k_documents
    rule = replace(visibility).rule  # of a copy: what is made here is kept with the original

    def of_positions(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return rule(q[i] if q.ndim == 1 else q[b, i], k[j] if k.ndim == 1 else k[b, j])

    if asks is None:
        return of_positions
    asks, answers = asks.to(device), answers.to(device)

    def of_documents(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return of_positions(b, h, i, j) & (asks[b, i] == answers[b, j])

    return of_documents


def _block_mask(visibility: Visibility, device: torch.device) -> torchs.BlockMask:
    """Which blocks of 128 × 128 hold a visible pair; made once for all layers."""
    # Kept with the visibility itself, as its table is, and gone when it goes.
    masks = vars(visibility).setdefault("_flex_masks", {})
    if device not in masks:
        tensors = (visibility.q_positions, visibility.k_positions, visibility.q_documents)
        rows = next((len(x) for x in tensors if x is not None and x.ndim == 2), None)
        rule = mask_mod(visibility, device)
        t, s = visibility.t, visibility.s
        masks[device] = torchs.create_block_mask(rule, rows, None, t, s, device)
    return masks[device]


def _cap(softcap: float) -> Callable[..., Tensor]:
    def score_mod(score: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return softcap * torch.tanh(score / softcap)

    return score_mod


@cache
def _kernel(gpu: bool) -> Callable[..., Tensor]:
    """torch's function: compiled where the compiler makes one kernel of it."""
    return torch.compile(torchs.flex_attention) if gpu else torchs.flex_attention
