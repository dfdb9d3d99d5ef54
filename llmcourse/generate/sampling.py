"""From logits to one token: greedy, temperature, top-k, top-p, min-p, repetition penalty.

Taught in Part 2. Every rule is a function from logits to logits that sets what it forbids to -inf,
so rules compose and a softmax at the end gives proper probabilities again. They are applied in the
order of `next_token_probabilities`: penalty, temperature, top-k, top-p, min-p.

Sources: top-k, Fan et al. 2018, arXiv 1805.04833; top-p, Holtzman et al. 2020, arXiv 1904.09751;
min-p, Nguyen et al. 2024, arXiv 2407.01082; repetition penalty, Keskar et al. 2019,
arXiv 1909.05858, section 4.1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

LOWEST_TEMPERATURE = 1e-6  # what logits may be divided by


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn. The default is the model's own distribution, untouched.

    Raises:
        ValueError: a value outside its range.
    """

    temperature: float = 1.0  # divides the logits; 0 means greedy
    top_k: int | None = None  # tokens: keep the k likeliest
    top_p: float | None = None  # probability: keep the smallest set that holds this much
    min_p: float | None = None  # share of the likeliest token's probability that a token needs
    repetition_penalty: float = 1.0  # above 1 makes tokens that already occurred less likely
    vocabulary: int | None = None  # ids from here on are never drawn: rows that only pad a table

    def __post_init__(self) -> None:
        if not (self.temperature >= 0 and math.isfinite(self.temperature)):
            raise ValueError(f"temperature={self.temperature} must be a number of at least 0")
        if 0 < self.temperature < LOWEST_TEMPERATURE:
            raise ValueError(
                f"temperature={self.temperature} would overflow float32; use 0 for greedy, "
                f"or at least {LOWEST_TEMPERATURE}"
            )
        if self.top_k is not None and (not isinstance(self.top_k, int) or self.top_k < 1):
            raise ValueError(f"top_k={self.top_k} must be a whole number of at least 1, or None")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p={self.top_p} must be a probability in (0, 1], or None")
        if self.min_p is not None and not 0 <= self.min_p <= 1:
            raise ValueError(f"min_p={self.min_p} must be a share in [0, 1], or None")
        if self.vocabulary is not None and self.vocabulary < 1:
            raise ValueError(f"vocabulary={self.vocabulary} must be at least 1, or None")
        if not (self.repetition_penalty > 0 and math.isfinite(self.repetition_penalty)):
            raise ValueError(f"repetition_penalty={self.repetition_penalty} must be above 0")

    @classmethod
    def greedy(cls) -> Sampling:
        """Always the likeliest token."""
        return cls(temperature=0.0)


def scale_temperature(logits: Tensor, temperature: float) -> Tensor:
    """logits / temperature, (..., V): below 1 sharpens, above 1 flattens.

    Temperature 0 is the limit: everything but the likeliest token (the first, in a tie) is -inf.
    """
    if temperature == 0:
        best = torch.zeros_like(logits, dtype=torch.bool)
        best.scatter_(-1, logits.argmax(dim=-1, keepdim=True), True)
        return logits.masked_fill(~best, -math.inf)
    return logits / temperature


def keep_vocabulary(logits: Tensor, size: int) -> Tensor:
    """Forbid ids from `size` on, (..., V): the table has rows that stand for no token."""
    forbidden = torch.arange(logits.shape[-1], device=logits.device) >= size  # (V,)
    return logits.masked_fill(forbidden, -math.inf)


def keep_top_k(logits: Tensor, k: int) -> Tensor:
    """Forbid all but the k likeliest tokens, (..., V). Of equal logits the lower id wins."""
    if k >= logits.shape[-1]:
        return logits
    lowest = logits.topk(k, dim=-1).values[..., -1:]  # (..., 1): what a token must reach
    kept = logits >= lowest
    if (kept.sum(dim=-1) > k).any():  # equal logits at the edge: only ids can decide
        order = logits.argsort(dim=-1, descending=True, stable=True)  # ids, likeliest first
        ranks = torch.arange(logits.shape[-1], device=logits.device)
        return _keep_ranked(logits, order, ranks < k)
    return logits.masked_fill(~kept, -math.inf)


def keep_top_p(logits: Tensor, p: float) -> Tensor:
    """Forbid all but the smallest set of likeliest tokens that holds probability p, (..., V).

    The token that carries the sum across p belongs to the set, so at least one always stays.
    """
    if p == 1.0:
        return logits  # rounding must not decide whether the last token is part of everything
    order = logits.argsort(dim=-1, descending=True, stable=True)  # (..., V) ids, likeliest first
    probabilities = logits.double().softmax(dim=-1).gather(-1, order)  # falling
    before = probabilities.cumsum(dim=-1) - probabilities  # held by the tokens ahead of this one
    return _keep_ranked(logits, order, before < p)


def keep_min_p(logits: Tensor, min_p: float) -> Tensor:
    """Forbid tokens less than `min_p` times as likely as the likeliest one, (..., V)."""
    if min_p == 0:
        return logits
    # p / p_max >= min_p, in logarithms: the softmax's denominator cancels.
    threshold = logits.max(dim=-1, keepdim=True).values + math.log(min_p)
    return logits.masked_fill(logits < threshold, -math.inf)


def penalise_repetition(logits: Tensor, previous: Tensor, penalty: float) -> Tensor:
    """Make tokens that already occurred less likely.

    Args:
        logits: (B, V).
        previous: (B, T) ids so far.
        penalty: positive logits are divided by it, negative ones multiplied, so that both fall.
    """
    scores = logits.gather(-1, previous)  # (B, T)
    lowered = torch.where(scores > 0, scores / penalty, scores * penalty)
    return logits.scatter(-1, previous, lowered)


def next_token_probabilities(
    logits: Tensor, sampling: Sampling, previous: Tensor | None = None
) -> Tensor:
    """The exact distribution a token is drawn from.

    Args:
        logits: (B, V) scores at the last position.
        sampling: the rules.
        previous: (B, T) ids so far; needed only for the repetition penalty.

    Returns:
        (B, V) float32, rows sum to 1.

    Raises:
        ValueError: a repetition penalty without `previous`, or logits that are not numbers.
    """
    # -inf forbids a token and is a number here; +inf, NaN or a row without any choice are not.
    if not logits.max(dim=-1).values.isfinite().all():
        raise ValueError(
            "the logits contain NaN or infinity: the model's weights or its input are damaged"
        )
    logits = logits.float()
    if sampling.vocabulary is not None:
        logits = keep_vocabulary(logits, sampling.vocabulary)
    if sampling.repetition_penalty != 1.0:
        if previous is None:
            raise ValueError("a repetition penalty needs the previous ids")
        logits = penalise_repetition(logits, previous, sampling.repetition_penalty)
    logits = scale_temperature(logits, sampling.temperature)
    if sampling.top_k is not None:
        logits = keep_top_k(logits, sampling.top_k)
    if sampling.top_p is not None:
        logits = keep_top_p(logits, sampling.top_p)
    if sampling.min_p is not None:
        logits = keep_min_p(logits, sampling.min_p)
    return logits.softmax(dim=-1)


def sample_token(probabilities: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Draw one id per row: (B, V) -> (B,) int64.

    A uniform number is looked up in the running sum of the probabilities. One number per row, in
    order: the draw of a row does not depend on how many tokens the vocabulary has.
    """
    b, v = probabilities.shape
    # float64: in float32 the running sum of a large vocabulary ends visibly off 1.
    running = probabilities.double().cumsum(dim=-1)  # (B, V)
    point = torch.rand(b, 1, generator=generator, dtype=torch.float64, device=running.device)
    chosen = torch.searchsorted(running, point * running[:, -1:], right=True)[:, 0]  # (B,)
    return chosen.clamp(max=v - 1)


def _keep_ranked(logits: Tensor, order: Tensor, keep: Tensor) -> Tensor:
    # `keep` is by rank; put it back at the ids that hold those ranks.
    by_id = torch.zeros_like(logits, dtype=torch.bool).scatter(-1, order, keep.expand_as(order))
    return logits.masked_fill(~by_id, -math.inf)
