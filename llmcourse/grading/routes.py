"""Experts and routers that exercises of Part 5 hand to an answer, as functions.

They stand apart from the library's: an answer may call these, and the oracles may trust them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

Route = Callable[[Tensor], Tensor]  # logits (T, E) -> weights (T, E), zero where not chosen


class WrongRows(Exception):
    """An expert was not called with exactly the tokens that chose it, all at once."""


class Bank:
    """Experts that are dear to call: `bank(e, rows)`, rows (n, C) -> (n, C), for all n at once.

    Args:
        functions: what each expert makes of rows (n, C), each row for itself.
        counts: how many tokens chose each expert; it takes so many in a call and no others.
    """

    def __init__(self, functions: list[Callable[[Tensor], Tensor]], counts: list[int]) -> None:
        self.functions, self.counts = functions, counts

    def __call__(self, expert: int, rows: Tensor) -> Tensor:
        wanted = self.counts[int(expert)]
        if len(rows) != wanted:
            raise WrongRows(
                f"expert {int(expert)} was called with {len(rows)} of the tokens; {wanted} chose "
                f"it, and they come in one call"
            )
        return self.functions[int(expert)](rows)


def times(counts: list[int]) -> Bank:
    """Experts that multiply: expert 0 by 1, expert 1 by 10, expert 2 by 100, ..."""
    return Bank([partial(torch.mul, other=10.0**expert) for expert in range(len(counts))], counts)


def tokens_choose(k: int, rounding: float = 0.0) -> Route:
    """Plain top-k: no token knows of another, but for `rounding`.

    Real kernels add up in another order for another number of tokens; `rounding` times that number
    plays their part.
    """

    def route(logits: Tensor) -> Tensor:
        best = logits.topk(k, dim=-1)
        weights = best.values.softmax(-1) * (1 + rounding * len(logits))
        return torch.zeros_like(logits).scatter(-1, best.indices, weights)

    return route


def experts_choose(room: int) -> Route:
    """Every expert takes its `room` best tokens."""

    def route(logits: Tensor) -> Tensor:
        scores = logits.softmax(-1)
        best = scores.topk(min(room, len(scores)), dim=0).indices
        return torch.zeros_like(scores).scatter(0, best, scores.gather(0, best))

    return route


def in_line(k: int, room: int | float) -> Route:
    """Top-k, first come first served; an int is an expert's places, a float a capacity factor."""

    def route(logits: Tensor) -> Tensor:
        weights = tokens_choose(k)(logits)
        t, e = logits.shape
        places = room if isinstance(room, int) else math.ceil(room * t * k / e)
        return torch.where((weights > 0).cumsum(0) <= places, weights, 0.0)

    return route


def first_choices_first(room: int) -> Route:
    """Top-2 with `room` places an expert; all second choices stand in line behind the first."""

    def route(logits: Tensor) -> Tensor:
        weights = tokens_choose(2)(logits)
        first = torch.zeros_like(weights).scatter(-1, weights.argmax(-1, keepdim=True), 1.0) > 0
        second = (weights > 0) & ~first
        ahead = first.sum(0)  # (E,) of every second choice
        kept = (first & (first.cumsum(0) <= room)) | (second & (ahead + second.cumsum(0) <= room))
        return torch.where(kept, weights, 0.0)

    return route


def over_tokens() -> Route:
    """A softmax over the wrong axis: tokens share out each expert among them."""

    def route(logits: Tensor) -> Tensor:
        return logits.softmax(0)

    return route
