"""Scaled dot-product attention: each token asks, every earlier token answers.

Taught in Part 1. Softmax(q kᵀ / √D) v, equation 1 of Vaswani et al. 2017, arXiv 1706.03762. `naive`
reads like the equation and holds the whole (T, S) table of weights in memory; `sdpa` is torch's
fused kernel, which never does. Both give the same numbers; `attend` chooses.

Shapes: B batch, H heads, T queries, S keys, D head width, C = H * D model width. The T queries are
always the *last* T of the S positions, so that one new token may look back at everything before it.
(torch's own `is_causal` flag aligns the first query with the first key instead, which is wrong as
soon as T and S differ.)
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from llmcourse.model.config import CHOICES, ModelConfig
from llmcourse.model.layers import Dropout, Linear, drop


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


def causal_mask(t: int, s: int | None = None, device: torch.device | None = None) -> Tensor:
    """(T, S) bool, True where a query may look: at its own position and before.

    Query i stands at position S - T + i.

    Raises:
        ValueError: more queries than positions.
    """
    s = t if s is None else s
    if t > s:
        raise ValueError(f"{t} queries cannot be the last of only {s} positions")
    return torch.ones(t, s, dtype=torch.bool, device=device).tril(diagonal=s - t)


def padding_mask(lengths: Tensor, t: int) -> Tensor:
    """(B, T) bool from (B,) lengths: True for the real tokens of right-padded rows."""
    return torch.arange(t, device=lengths.device)[None, :] < lengths[:, None]


def attention_weights(q: Tensor, k: Tensor, mask: Tensor | None = None) -> Tensor:
    """softmax(q kᵀ / √D) over the keys a query may see.

    Args:
        q: (B, H, T, D).
        k: (B, H, S, D).
        mask: bool, broadcastable to (B, H, T, S), True where a query may look; None means all.

    Returns:
        (B, H, T, S). Each row sums to 1, or is all zeros where a query may see nothing (a padding
        token before the first real one); a softmax over nothing would be NaN and poison gradients.
    """
    scores = (q * (1.0 / math.sqrt(q.shape[-1]))) @ k.transpose(-2, -1)  # (B, H, T, S)
    if mask is None:
        return scores.softmax(dim=-1)
    # The lowest finite number instead of -inf: exp of it is exactly 0 beside any real score.
    lowest = torch.finfo(scores.dtype).min
    weights = scores.masked_fill(~mask, lowest).softmax(dim=-1)
    empty = ~mask.any(dim=-1, keepdim=True)  # (..., T, 1)
    return weights.masked_fill(empty, 0.0) if empty.any() else weights


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool = True,
    padding: Tensor | None = None,
    implementation: str = "auto",
    dropout: float = 0.0,
    generator: torch.Generator | None = None,
    record: list[Tensor] | None = None,
) -> Tensor:
    """Scaled dot-product attention of many heads at once.

    Args:
        q: (B, H, T, D), any float dtype.
        k: (B, H, S, D), S >= T when causal.
        v: (B, H, S, D).
        causal: forbid looking at later positions; the queries are the last T of the S positions.
        padding: (B, S) bool, True for real keys; padding is never looked at.
        implementation: "naive", "sdpa", or "auto", the faster of the two here.
        dropout: probability of dropping a weight; 0 except while training.
        generator: source of the dropout's randomness.
        record: a list to which the weights (B, H, T, S) are appended, detached.

    Returns:
        (B, H, T, D) in the dtype of q.

    Raises:
        ValueError: shapes that do not fit, a mask that is not boolean, an unknown implementation.
    """
    _check(q, k, v, causal, padding, implementation)
    t, s = q.shape[-2], k.shape[-2]
    if implementation == "auto":
        implementation = choose(q, k)
    # The fused kernel keeps no weights, so asking to see or to drop them needs the plain one.
    if implementation == "sdpa" and record is None and dropout == 0.0:
        if padding is None and (not causal or t == s):
            return nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal)
        mask = visible(t, s, causal, padding, q.device)
        return nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    weights = attention_weights(q, k, visible(t, s, causal, padding, q.device))
    if record is not None:
        record.append(weights.detach())
    return drop(weights, dropout, generator).to(v.dtype) @ v


def visible(
    t: int, s: int, causal: bool, padding: Tensor | None, device: torch.device
) -> Tensor | None:
    """Which key each query may see: bool, broadcastable to (B, H, T, S); None means all."""
    mask = causal_mask(t, s, device) if causal else None  # (T, S)
    if padding is None:
        return mask
    real = padding[:, None, None, :]  # (B, S) -> (B, 1, 1, S)
    return real.expand(-1, 1, t, s) if mask is None else real & mask


def choose(q: Tensor, k: Tensor) -> str:
    """The faster implementation for these tensors, by measurement.

    On a CPU in bfloat16 the fused kernel converts tile by tile, and up to 256 keys two plain matrix
    products beat it; everywhere else the fused kernel wins.
    """
    short = q.device.type == "cpu" and q.dtype == torch.bfloat16 and k.shape[-2] <= 256
    return "naive" if short else "sdpa"


def split_heads(x: Tensor, n_heads: int) -> Tensor:
    """(B, T, C) -> (B, H, T, D): cut the width into H pieces, one per head."""
    b, t, c = x.shape
    return x.reshape(b, t, n_heads, c // n_heads).transpose(1, 2)  # (B, T, H, D) -> (B, H, T, D)


def merge_heads(x: Tensor) -> Tensor:
    """(B, H, T, D) -> (B, T, C): lay the heads side by side again, the inverse of `split_heads`."""
    b, h, t, d = x.shape
    return x.transpose(1, 2).reshape(b, t, h * d)  # (B, T, H, D) -> (B, T, C)


class SelfAttention(nn.Module):
    """Multi-head causal self-attention with one fused projection for queries, keys and values."""

    def __init__(
        self, config: ModelConfig, out_std: float, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        c, bias = config.d_model, config.attention_bias
        # One matrix product three times as wide is faster than three, and stores the same numbers.
        self.qkv = Linear(c, 3 * c, bias, config.init_std, generator)
        self.out = Linear(c, c, bias, out_std, generator)
        self.n_heads, self.implementation = config.n_heads, config.attention
        self.weight_dropout, self.generator = config.dropout, generator
        self.dropout = Dropout(config.dropout, generator)

    def forward(
        self, x: Tensor, padding: Tensor | None = None, record: list[Tensor] | None = None
    ) -> Tensor:  # (B, T, C) -> (B, T, C)
        q, k, v = (split_heads(part, self.n_heads) for part in self.qkv(x).chunk(3, dim=-1))
        heads = attend(
            q,
            k,
            v,
            padding=padding,
            implementation=self.implementation,
            dropout=self.weight_dropout if self.training else 0.0,
            generator=self.generator,
            record=record,
        )  # (B, H, T, D)
        return self.dropout(self.out(merge_heads(heads)))


def _check(
    q: Tensor, k: Tensor, v: Tensor, causal: bool, padding: Tensor | None, implementation: str
) -> None:
    if q.ndim != 4 or k.ndim != 4 or v.ndim != 4:
        shapes = ", ".join(str(tuple(x.shape)) for x in (q, k, v))
        raise ValueError(f"q, k and v must be (batch, heads, time, width), got {shapes}")
    b, h, t, d = q.shape
    s = k.shape[2]
    if k.shape != (b, h, s, d) or v.shape[:3] != (b, h, s):
        raise ValueError(
            f"k and v must be (B, H, S, D) with the batch, heads and width of q {tuple(q.shape)}, "
            f"got k {tuple(k.shape)} and v {tuple(v.shape)}"
        )
    if causal and t > s:
        raise ValueError(f"{t} queries cannot be the last of only {s} positions")
    if padding is not None and (padding.dtype != torch.bool or padding.shape != (b, s)):
        raise ValueError(
            f"padding must be bool of shape {(b, s)}, True for real tokens, "
            f"got {padding.dtype} of shape {tuple(padding.shape)}"
        )
    if implementation not in CHOICES["attention"]:
        raise ValueError(
            f"implementation={implementation!r} is unknown; choose one of {CHOICES['attention']}"
        )
