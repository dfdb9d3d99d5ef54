"""Cross-entropy, and the three ways of quoting it: nats, perplexity, bits per byte.

Taught in Part 2. The loss of a language model is the negative log-probability of the token that
came next, averaged over the tokens that count. Shannon 1948: it is also the length, in nats, of the
shortest code for the text that the model's predictions allow.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from llmcourse.data.batches import IGNORE_INDEX


def cross_entropy_reference(
    logits: Tensor, targets: Tensor, ignore_index: int = IGNORE_INDEX
) -> Tensor:
    """The definition, step by step: mean of log Σ exp(logits) - logits[target], a scalar in nats.

    Args:
        logits: (..., V) scores, any float dtype.
        targets: (...) whole numbers in [0, V), or `ignore_index`.
    """
    counts = targets != ignore_index  # (...)
    kept, wanted = logits[counts], targets[counts]  # (N, V), (N,)
    highest = kept.max(dim=-1, keepdim=True).values  # (N, 1); subtracted so that exp stays finite
    log_total = (kept - highest).exp().sum(dim=-1).log() + highest[:, 0]  # (N,)
    score = kept.gather(-1, wanted[:, None])[:, 0]  # (N,)
    return (log_total - score).mean()


def cross_entropy(
    logits: Tensor,
    targets: Tensor,
    ignore_index: int = IGNORE_INDEX,
    reduction: str = "mean",
) -> Tensor:
    """`cross_entropy_reference` through torch's fused kernel, in float32 or better.

    Args:
        logits: (B, T, V) scores for the *next* token at each position.
        targets: (B, T) the token that did come next, or `ignore_index`.
        ignore_index: a target that does not count.
        reduction: "mean" over the targets that count, "sum", or "none" (B, T), 0 where ignored.

    Returns:
        Nats; a scalar, or (B, T) for "none".

    Raises:
        ValueError: shapes that do not fit, targets that are not whole numbers or outside the
            vocabulary, or nothing to learn from (every target ignored): its mean would be 0 / 0.
    """
    if logits.shape[:-1] != targets.shape:
        raise ValueError(
            f"logits (..., V) and targets (...) must agree, got {tuple(logits.shape)} "
            f"and {tuple(targets.shape)}"
        )
    vocab_size = logits.shape[-1]
    check_targets(targets, vocab_size, ignore_index, reduction)
    # bfloat16 has 8 bits of mantissa: a sum of 256 exponentials needs more.
    logits = logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits
    flat = logits.reshape(-1, vocab_size)  # (B, T, V) -> (B * T, V)
    losses = nn.functional.cross_entropy(
        flat, targets.reshape(-1).long(), ignore_index=ignore_index, reduction=reduction
    )
    return losses.reshape(targets.shape) if reduction == "none" else losses


def check_targets(targets: Tensor, vocab_size: int, ignore_index: int, reduction: str) -> Tensor:
    """Which targets count: bool, in the shape of `targets`.

    Raises:
        ValueError: not whole numbers, one outside the vocabulary, or none that counts in a mean.
    """
    if targets.is_floating_point() or targets.dtype == torch.bool:
        raise ValueError(f"targets must be whole numbers, got {targets.dtype}")
    counts = targets != ignore_index
    if torch.compiler.is_compiling():
        return counts  # compiled code cannot look at values and stay in one piece
    outside = counts & ((targets < 0) | (targets >= vocab_size))
    if outside.any():
        raise ValueError(
            f"target {int(targets[outside][0])} is neither in [0, {vocab_size}) "
            f"nor ignore_index={ignore_index}"
        )
    if reduction == "mean" and not counts.any():
        raise ValueError("every target is ignored, so there is no loss to average")
    return counts


def perplexity(loss: float) -> float:
    """exp(loss): the number of equally likely tokens that would be as hard to guess.

    Args:
        loss: mean nats per token.

    Returns:
        At least 1; infinity where exp would overflow.
    """
    return math.exp(loss) if loss < 700 else math.inf


def bits_per_byte(total_nats: float, n_bytes: int) -> float:
    """Total surprise in bits over the size of the text in UTF-8 bytes.

    The only one of the three that may be compared across tokenizers: a tokenizer with longer tokens
    has fewer, harder predictions, but the text stays as long as it is.

    Raises:
        ValueError: no bytes.
    """
    if n_bytes < 1:
        raise ValueError(f"n_bytes={n_bytes}: bits per byte need a text of at least one byte")
    return total_nats / math.log(2.0) / n_bytes
