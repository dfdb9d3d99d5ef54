"""Scaled dot-product attention: each token asks, every earlier token answers.

Taught in Part 1; grouped heads, windows and the choice of implementation in Part 3.
Softmax(q kᵀ / √D) v, equation 1 of Vaswani et al. 2017, arXiv 1706.03762. Who may look at whom is
`masks.Visibility`; how it is computed has five answers that give the same numbers:

- `naive` reads like the equation and holds the whole (T, S) table of weights in memory,
- `flash` works tile by tile and never does (flash.py),
- `triton` is the same algorithm as a GPU kernel (flash_triton.py),
- `sdpa` and `flex` are torch's own fused kernel and kernel generator.

Shapes: B batch, H query heads, G key/value heads, T queries, S keys, D head width. The T queries
are always the *last* T of the S positions, so that one new token may look back at everything before
it. (torch's own `is_causal` flag aligns the first query with the first key instead, which is wrong
as soon as T and S differ.)
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from llmcourse.model.attention_inputs import check_shapes
from llmcourse.model.config import CHOICES
from llmcourse.model.layers import drop
from llmcourse.model.masks import NOWHERE, Visibility, positions_in_documents, positions_of

# Up to so many keys two plain matrix products beat the fused kernel on a CPU in bfloat16, forward
# and backward: at 512 keys, batch 6 and 6 heads of 64, 33 ms against 46; at 768, 50 against 46.
SHORT = 512
# Up to so many keys, squared, a table of soft-capped scores is held.
TABLE = 256
# From so many tokens on our own tiles beat the fused kernel on a CPU in float32.
LONG = 1024


def attend_numpy(q: np.ndarray, k: np.ndarray, v: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """One head in plain NumPy, for reading and for checking everything else by hand.

    Args:
        q: (T, D) queries.
        k: (S, D) keys.
        v: (S, D) values.
        mask: (T, S) bool, True where a query may look; every query needs at least one key.

    Returns:
        (T, D): for each query the average of the values, weighted by softmax(q · k / √D).
    """
    scores = q @ k.T / math.sqrt(q.shape[-1])  # (T, S)
    scores = np.where(mask, scores, -np.inf)
    # Subtracting the row's maximum changes nothing in the ratio and keeps exp from overflowing.
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)  # rows sum to 1
    return weights @ v


def attention_weights(
    q: Tensor,
    k: Tensor,
    mask: Tensor | None = None,
    *,
    scale: float | None = None,
    softcap: float | None = None,
) -> Tensor:
    """softmax(scale · q kᵀ) over the keys a query may see.

    Args:
        q: (B, H, T, D).
        k: (B, G, S, D); query head h asks key head h // (H / G).
        mask: bool, broadcastable to (B, H, T, S), True where a query may look; None means all.
        scale: what the products are multiplied by; None means 1 / √D.
        softcap: scores become softcap · tanh(score / softcap), which keeps them below it.

    Returns:
        (B, H, T, S). Each row sums to 1, or is all zeros where a query may see nothing (a padding
        token before the first real one); a softmax over nothing would be NaN and poison gradients.
    """
    scale = 1.0 / math.sqrt(q.shape[-1]) if scale is None else scale
    scores = grouped(q * scale, k.transpose(-2, -1))  # (B, H, T, S)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if mask is None:
        return scores.softmax(dim=-1)
    # Added to the scores, so that the backward pass has nothing to do; and a finite number instead
    # of -inf: exp of it is exactly 0 beside any real score. Half the lowest one cannot overflow.
    penalty = torch.zeros_like(mask, dtype=scores.dtype)
    penalty.masked_fill_(~mask, torch.finfo(scores.dtype).min / 2)
    weights = scores.add_(penalty).softmax(dim=-1)
    empty = ~mask.any(dim=-1, keepdim=True)  # (..., T, 1)
    if torch.compiler.is_compiling() or empty.any():  # compiled code cannot ask
        weights = weights.masked_fill(empty, 0.0)
    return weights


def grouped(x: Tensor, y: Tensor) -> Tensor:
    """x @ y where several heads of x share one of y: (B, H, T, M) @ (B, G, M, N) -> (B, H, T, N).

    The heads that share are stacked as rows of one product: nothing is repeated in memory.
    """
    b, h, t, m = x.shape
    g = y.shape[1]
    if h == g:
        return x @ y
    stacked = x.reshape(b, g, (h // g) * t, m)  # (B, H, T, M) -> (B, G, H/G * T, M)
    return (stacked @ y).reshape(b, h, t, y.shape[-1])  # (B, G, H/G * T, N) -> (B, H, T, N)


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool = True,
    window: int | None = None,
    sinks: int = 0,
    padding: Tensor | None = None,
    documents: Tensor | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    implementation: str = "auto",
    dropout: float = 0.0,
    generator: torch.Generator | None = None,
    record: list[Tensor] | None = None,
) -> Tensor:
    """Scaled dot-product attention of many heads at once.

    Args:
        q: (B, H, T, D), any float dtype.
        k: (B, G, S, D), G divides H: G = H is multi-head, 1 < G < H grouped-query and G = 1
            multi-query attention. S >= T when causal.
        v: (B, G, S, Dv).
        causal: forbid looking at later positions; the queries are the last T of the S positions.
        window: tokens a query sees, itself included; None means all.
        sinks: first tokens of the text that stay visible outside the window.
        padding: (B, S) bool, True for real keys; padding is never looked at and sees nothing.
        documents: (B, S) int64, which document a token belongs to when several are packed in a row
            one after another; a token sees only its own.
        scale: what the products are multiplied by; None means 1 / √D.
        softcap: scores become softcap · tanh(score / softcap).
        implementation: "naive", "flash", "triton", "sdpa", "flex", or "auto", the fastest here
            that can do what is asked; `choose` says which and why.
        dropout: probability of dropping a weight; 0 except while training.
        generator: source of the dropout's randomness.
        record: a list to which the weights (B, H, T, S) are appended, detached.

    Returns:
        (B, H, T, Dv) in the dtype of q.

    Raises:
        ValueError: shapes that do not fit, a mask that is not boolean, an unknown implementation,
            or something the named implementation cannot do.
    """
    check_shapes(q, k, v)
    t, s = q.shape[-2], k.shape[-2]
    _check_rows("padding", padding, torch.bool, q.shape[0], s)
    _check_rows("documents", documents, torch.int64, q.shape[0], s)
    positions = dict[str, Tensor]()
    if padding is not None or documents is not None:
        positions = _positions(t, s, padding, documents, q.device)
    visibility = Visibility(t, s, causal, window, sinks, **positions)
    return attend_visible(
        q,
        k,
        v,
        visibility,
        scale=scale,
        softcap=softcap,
        implementation=implementation,
        dropout=dropout,
        generator=generator,
        record=record,
    )


def attend_visible(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    visibility: Visibility,
    *,
    scale: float | None = None,
    softcap: float | None = None,
    implementation: str = "auto",
    dropout: float = 0.0,
    generator: torch.Generator | None = None,
    record: list[Tensor] | None = None,
) -> Tensor:
    """`attend` for a visibility that is made already, once for all layers of a model.

    Keys and values may be wider than the queries, as a float32 cache of a bfloat16 model is: then
    everything is computed in their dtype, and the result returned in that of the queries.
    """
    if q.dtype != k.dtype:
        out = attend_visible(
            q.to(k.dtype),
            k,
            v,
            visibility,
            scale=scale,
            softcap=softcap,
            implementation=implementation,
            dropout=dropout,
            generator=generator,
            record=record,
        )
        return out.to(q.dtype)
    if implementation == "auto":
        implementation = choose(q, k, v, visibility, softcap, dropout, record).implementation
    else:
        _refuse(implementation, q, softcap, dropout, record)
    scale = 1.0 / math.sqrt(q.shape[-1]) if scale is None else scale
    if implementation == "naive":
        mask = visibility.table(q.device)
        weights = attention_weights(q, k, mask, scale=scale, softcap=softcap)
        if record is not None:
            record.append(weights.detach())
        return grouped(drop(weights, dropout, generator).to(v.dtype), v)
    if implementation == "sdpa":
        return _sdpa(q, k, v, visibility, scale)
    # Imported here: the tiled kernels cost nothing to those who do not use them.
    if implementation == "flash":
        from llmcourse.model.flash import flash_attention as fast
    elif implementation == "triton":
        from llmcourse.model.flash_triton import triton_attention as fast
    else:
        from llmcourse.model.flex import flex_attention as fast
    return fast(q, k, v, visibility, scale=scale, softcap=softcap)


class Choice(NamedTuple):
    """What `attend` takes, and why."""

    implementation: str
    reason: str


def choose(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    visibility: Visibility,
    softcap: float | None = None,
    dropout: float = 0.0,
    record: list[Tensor] | None = None,
) -> Choice:
    """The fastest implementation for these tensors that can do what is asked, by measurement.

    `benchmarks/attention.py` prints the measurements behind each line.
    """
    t, s = visibility.t, visibility.s
    if record is not None or dropout:
        return Choice("naive", "only naive has the weights, to record or to drop them")
    if t == 1 and q.device.type == "cpu":
        few = q.shape[0] * q.shape[1] <= 48 and q.shape[1] == k.shape[1]
        if few and q.dtype == torch.float32 and softcap is None:
            return Choice("sdpa", "one query and few heads: one call is faster than five")
        return Choice("naive", "one query: the table is a single row and tiles save nothing")
    if softcap is not None:
        if t * s <= TABLE * TABLE:
            return Choice("naive", "soft-capped scores in a table small enough to hold")
        return Choice("flash", "soft-capped scores, which the fused kernel does not know")
    if q.device.type == "cpu" and q.dtype == torch.bfloat16 and s <= SHORT:
        return Choice(
            "naive", f"bfloat16 on a CPU up to {SHORT} keys: two plain products are faster"
        )
    long = min(t, s) >= LONG
    if long and visibility.plainly_causal and q.device.type == "cpu" and q.dtype == torch.float32:
        return Choice("flash", f"float32 on a CPU from {LONG} tokens on: its products are faster")
    if visibility.everything or visibility.plainly_causal:
        return Choice("sdpa", "plain causal attention is what the fused kernel is made for")
    if s <= LONG:
        return Choice("sdpa", "a mask small enough to hold")
    return Choice("flash", "a long text under a mask: tiles that nobody sees are skipped")


def _sdpa(q: Tensor, k: Tensor, v: Tensor, visibility: Visibility, scale: float) -> Tensor:
    """torch's fused kernel, with the mask it needs."""
    fused, grouped_heads = nn.functional.scaled_dot_product_attention, q.shape[1] != k.shape[1]
    if visibility.plainly_causal:
        return fused(q, k, v, is_causal=True, scale=scale, enable_gqa=grouped_heads)
    mask = visibility.table(q.device)
    return fused(q, k, v, attn_mask=mask, scale=scale, enable_gqa=grouped_heads)


def _positions(
    t: int, s: int, padding: Tensor | None, documents: Tensor | None, device: torch.device
) -> dict[str, Tensor]:
    """What `Visibility` needs for padded rows and packed documents."""
    if documents is None:
        keys = positions_of(padding)  # (B, S)
        return {"q_positions": keys[:, s - t :], "k_positions": keys}
    keys = positions_in_documents(documents)  # (B, S)
    if padding is not None:
        keys = keys.masked_fill(~padding, NOWHERE)
    return {
        "q_positions": keys[:, s - t :],
        "k_positions": keys,
        "q_documents": documents[:, s - t :],
        "k_documents": documents,
    }


def _refuse(
    implementation: str,
    q: Tensor,
    softcap: float | None,
    dropout: float,
    record: list[Tensor] | None,
) -> None:
    """Nothing asked for is ever ignored."""
    if implementation not in CHOICES["attention"]:
        raise ValueError(
            f"implementation={implementation!r} is unknown; choose one of {CHOICES['attention']}"
        )
    if implementation == "naive":
        return
    if record is not None:
        raise ValueError(
            f"implementation={implementation!r} never holds the weights and cannot record them; "
            f'use "naive" or "auto"'
        )
    if dropout:
        raise ValueError(
            f"implementation={implementation!r} cannot drop weights (dropout={dropout}); "
            f'use "naive" or "auto"'
        )
    if implementation == "sdpa" and softcap is not None:
        raise ValueError(
            f'implementation="sdpa" knows no soft-cap (softcap={softcap}); '
            f'use "naive", "flash", "triton", "flex" or "auto"'
        )


def _check_rows(name: str, value: Tensor | None, dtype: torch.dtype, b: int, s: int) -> None:
    if value is not None and (value.dtype != dtype or value.shape != (b, s)):
        raise ValueError(
            f"{name} must be {dtype} of shape {(b, s)}"
            + (", True for real tokens" if dtype == torch.bool else "")
            + f", got {value.dtype} of shape {tuple(value.shape)}"
        )
