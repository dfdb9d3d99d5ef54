"""FlashAttention: exact attention whose extra memory grows with T, not with T × S.

Taught in Part 3. The table of scores is never held: the queries are cut into blocks and the keys
into runs, one tile of scores is made at a time, and a softmax that can be corrected afterwards
("online") carries a running maximum and a running sum from tile to tile. The backward pass keeps
only the logarithm of each row's sum and makes every tile again from q, k and v.

Sources: Dao et al. 2022, arXiv 2205.14135, algorithms 1 to 4; Dao 2023, arXiv 2307.08691,
algorithms 1 and 2 (queries in the outer loop, one division at the end, the log-sum-exp saved).

Deviations from the papers: powers of two instead of e, because exp2 is the faster function (log₂ e
goes into q, whose scale has to be applied anyway); the backward pass loops over queries outside as
well, so that both passes walk the same tiles; the keys are cut where visibility changes instead of
at fixed places (`flash_tiles.py`).

Shapes: B batch, H query heads, G key/value heads, T queries, S keys, D and Dv widths of a key and
of a value. One tile has R·N rows, the R = H / G query heads that share keys times N queries, and W
columns, its keys; so keys and values are never repeated.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from llmcourse.model.attention_inputs import check_inputs
from llmcourse.model.flash_tiles import blocks
from llmcourse.model.masks import Visibility

# Measured with one and two threads at T = 4096: a tile of float32 scores fills 4 MB, near enough to
# the cores for the passes over it, and large enough that starting a product costs little.
ROWS, COLUMNS = 512, 2048
LOG2_E = math.log2(math.e)


def flash_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    visibility: Visibility,
    *,
    scale: float,
    softcap: float | None = None,
    tile: tuple[int, int] = (ROWS, COLUMNS),
) -> Tensor:
    """softmax(scale · q kᵀ) v over the keys that are visible, differentiable once.

    Args:
        q: (B, H, T, D), floating point; float16 and bfloat16 are computed in float32.
        k: (B, G, S, D), G a divisor of H; query head h reads key head h // (H / G).
        v: (B, G, S, Dv).
        visibility: for T queries and S keys; a query that sees nothing gets 0 and passes back 0.
        scale: factor on q · k, usually 1 / √D.
        softcap: scores become softcap · tanh(score / softcap) (Gemma 2, arXiv 2408.00118).
        tile: rows and columns of the largest tile.

    Returns:
        (B, H, T, Dv) in the dtype of q.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit; the message says which.
    """
    _check(q, k, v, visibility, softcap, tile)
    return _Flash.apply(q, k, v, visibility, scale, softcap, tile)


def flash_forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    visibility: Visibility,
    *,
    scale: float,
    softcap: float | None = None,
    tile: tuple[int, int] = (ROWS, COLUMNS),
) -> tuple[Tensor, Tensor]:
    """`flash_attention` without gradients, and what its backward pass needs.

    Returns:
        Output (B, H, T, Dv) in the dtype of q, and log Σ exp(score) (B, H, T) in float32, or
        float64 for float64; -inf for a query that sees nothing.
    """
    _check(q, k, v, visibility, softcap, tile)
    k, v = (_wide(x).contiguous() for x in (k, v))
    b, h, d_v = *q.shape[:2], v.shape[-1]
    q = q.unflatten(1, (k.shape[1], -1))  # (B, H, T, D) -> (B, G, R, T, D)
    out = q.new_empty(*q.shape[:-1], d_v)  # (B, G, R, T, Dv)
    log_sums = k.new_empty(q.shape[:-1])  # (B, G, R, T)
    n = _queries(h, k, tile, visibility)
    for batch, block, tiles in blocks(visibility, b, n, tile[1], k):
        for i in itertools.product(batch, range(k.shape[1])):  # (row, group)
            rows = _rows(q[i][:, block]).mul_(_factor(scale, softcap))  # (R·N, D)
            total = rows.new_zeros(len(rows), 1)
            # The lowest finite number: for a row that has seen nothing, -inf - -inf would be NaN.
            highest = torch.full_like(total, torch.finfo(total.dtype).min)
            mixed = rows.new_zeros(len(rows), d_v)
            for part in tiles:
                keys, values = k[i][part.start : part.stop], v[i][part.start : part.stop]
                scores = multiply(rows, keys.mT, tanh=softcap is not None)  # (R·N, W)
                if softcap is not None:
                    scores.mul_(softcap * LOG2_E)
                _mask(scores, part.bias)
                before, highest = highest, torch.maximum(highest, scores.amax(-1, keepdim=True))
                weights = scores.sub_(highest).exp2_()
                # What was summed so far was measured against a lower maximum.
                correction = before.sub_(highest).exp2_()
                total.mul_(correction).add_(weights.sum(-1, keepdim=True))
                mixed.mul_(correction).add_(multiply(weights, values))
            log_sum = highest.add_(total.log2()).div_(LOG2_E)  # log₂ 0 = -inf
            mixed.div_(total.masked_fill_(total == 0, 1.0))  # nothing seen: 0 / 1
            out[i][:, block] = mixed.view_as(out[i][:, block])
            log_sums[i][:, block] = log_sum.view_as(log_sums[i][:, block])
    return out.flatten(1, 2), log_sums.flatten(1, 2)  # (B, G, R, ...) -> (B, H, ...)


def flash_backward(
    slope: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    log_sums: Tensor,
    visibility: Visibility,
    *,
    scale: float,
    softcap: float | None = None,
    tile: tuple[int, int] = (ROWS, COLUMNS),
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v from the gradient `slope` (B, H, T, Dv) of the output.

    With P the weights and s the scores of a tile: dV = Pᵀ dO, dP = dO Vᵀ, ds = P (dP - δ), where
    δ = rowsum(dO · O) stands for rowsum(P · dP) without needing the whole row at once.
    """
    k, v = (_wide(x).contiguous() for x in (k, v))
    b, h = q.shape[:2]
    q, slope, out, log_sums = (
        x.unflatten(1, (k.shape[1], -1)) for x in (q, slope, out, log_sums)
    )  # (B, H, T, ...) -> (B, G, R, T, ...)
    k_t, factor = k.mT.contiguous(), _factor(scale, softcap)
    dq, dk, dv = torch.zeros_like(q), torch.zeros_like(k), torch.zeros_like(v)
    n = _queries(h, k, tile, visibility)
    for batch, block, tiles in blocks(visibility, b, n, tile[1], k, sideways=True):
        for i in itertools.product(batch, range(k.shape[1])):  # (row, group)
            rows, d_out = _rows(q[i][:, block]).mul_(factor), _rows(slope[i][:, block])  # (R·N, D)
            delta = (d_out * _rows(out[i][:, block])).sum(-1)  # (R·N,)
            log_sum = log_sums[i][:, block].flatten() * LOG2_E  # (R·N,)
            # exp2(score - inf) = 0: a query that saw nothing has no gradient.
            log_sum.masked_fill_(log_sum == -math.inf, math.inf)
            d_rows = torch.zeros_like(rows.mT)  # (D, R·N)
            for part in tiles:
                cut = slice(part.start, part.stop)
                # Tiles stand on their side here, (W, R·N): what is subtracted from a score belongs
                # to its column, and a product subtracts from columns for nothing.
                if softcap is None:
                    weights = multiply(k[i][cut], rows.mT, -log_sum)
                else:
                    capped = multiply(k[i][cut], rows.mT, tanh=True)
                    weights = (capped * (softcap * LOG2_E)).sub_(log_sum)
                _mask(weights.mT, part.bias).exp2_()
                dv[i][cut] += multiply(weights, d_out)
                d_scores = multiply(v[i][cut], d_out.mT, -delta).mul_(weights)
                if softcap is not None:
                    d_scores.mul_(capped.square_().neg_().add_(1.0))  # tanh' = 1 - tanh²
                dk[i][cut] += multiply(d_scores, rows)
                d_rows += multiply(k_t[i][:, cut], d_scores)
            dq[i][:, block] = d_rows.mT.mul_(scale).view_as(dq[i][:, block])
    dk.mul_(scale / factor)  # the rows carried the factor, the derivative has the scale
    return dq.flatten(1, 2), dk.to(q.dtype), dv.to(q.dtype)  # (B, G, R, T, D) -> (B, H, T, D)


class _Flash(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, k, v, visibility, scale, softcap, tile):
        options = {"scale": scale, "softcap": softcap, "tile": tile}
        out, log_sums = flash_forward(q, k, v, visibility, **options)
        ctx.save_for_backward(q, k, v, out, log_sums)
        ctx.visibility, ctx.options = visibility, options
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, slope):
        slopes = flash_backward(slope, *ctx.saved_tensors, ctx.visibility, **ctx.options)
        return *slopes, None, None, None, None


def multiply(a: Tensor, b: Tensor, bias: Tensor | None = None, tanh: bool = False) -> Tensor:
    """a (M, K) @ b (K, N) + bias (N,), or tanh of it, through oneDNN where that is faster.

    For float32 on a CPU torch asks MKL, which reaches half of what some processors can do. oneDNN
    reaches the rest and is a part of torch, but only a private operation leads to it, so that we
    must be able to do without. Starting it costs more: small products stay with MKL.
    """
    big = a.numel() * b.shape[1] > 2_000_000
    if big and _LINEAR is not None and a.dtype == torch.float32 and a.device.type == "cpu":
        return _LINEAR(a, b.mT, bias, "tanh" if tanh else "none", [], "")
    product = a @ b if bias is None else torch.addmm(bias, a, b)
    return product.tanh_() if tanh else product


def _find_linear():
    try:
        return torch.ops.mkldnn._linear_pointwise.default
    except (AttributeError, RuntimeError):
        return None


_LINEAR = _find_linear()


def _wide(x: Tensor) -> Tensor:
    """Half precisions as float32: sums of thousands of weights need the digits."""
    return x if x.dtype == torch.float64 else x.float()


def _rows(x: Tensor) -> Tensor:
    """(R, N, D) -> a new (R·N, D): the heads that share keys, one under another."""
    return _wide(x).clone(memory_format=torch.contiguous_format).flatten(0, 1)


def _queries(h: int, k: Tensor, tile: tuple[int, int], visibility: Visibility) -> int:
    """Queries per block: R = H / G heads share the rows of a tile."""
    n = max(1, tile[0] * k.shape[1] // h)
    # Under a short window a long block is mostly mask; below 256 starting the products costs more.
    return n if visibility.window is None else min(n, max(256, visibility.window))


def _factor(scale: float, softcap: float | None) -> float:
    """What q is multiplied with, so that a tile is ready for exp2, or for tanh."""
    return scale * LOG2_E if softcap is None else scale / softcap


def _mask(scores: Tensor, bias: Tensor | None) -> Tensor:
    """Add the bias of a tile (N, W) to its scores (R·N, W), in place."""
    if bias is not None:
        scores.unflatten(0, (-1, len(bias))).add_(bias)  # (R·N, W) -> (R, N, W)
    return scores


def _check(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    visibility: Visibility,
    softcap: float | None,
    tile: tuple[int, int],
) -> None:
    check_inputs(q, k, v, visibility, softcap)
    if min(tile) < 1:
        raise ValueError(f"tile={tile} needs at least one row and one column")
