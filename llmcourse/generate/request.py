"""What is asked of the decoder, checked and put in order before anything is computed.

Taught in Parts 2 and 3: the checks, prompts of unequal length moved to one side, and the cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from llmcourse.generate.cache import DenseCache, PagedCache, RollingCache

if TYPE_CHECKING:
    from llmcourse.generate.cache import Cache
    from llmcourse.model import Transformer

OVERFLOWS = ("error", "slide")
CACHES = ("dense", "rolling", "paged", "none")
BLOCK_SIZE = 16  # tokens a block of the paged cache holds


def check_prompt(model: Transformer, ids: Tensor, max_new_tokens: int, stop: Sequence[int]) -> None:
    """Refuses what no decoder could continue.

    Raises:
        ValueError: ids that are not (B, T) with T >= 1, max_new_tokens below 1, a stop id outside
            the vocabulary.
    """
    if ids.ndim != 2 or ids.shape[1] == 0:
        raise ValueError(
            f"ids must be (batch, time) with at least one token to continue from, "
            f"got shape {tuple(ids.shape)}"
        )
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens={max_new_tokens} must be at least 1")
    for token in stop:
        if not 0 <= token < model.config.vocab_size:
            raise ValueError(
                f"stop id {token} is outside the vocabulary of {model.config.vocab_size}"
            )


def check_overflow(model: Transformer, t: int, max_new_tokens: int, overflow: str) -> None:
    """Refuses t prompt tokens and the new ones past the model's context, if that is an error.

    Raises:
        ValueError: an unknown `overflow`, or too many tokens; the message says how many would fit.
    """
    if overflow not in OVERFLOWS:
        raise ValueError(f"overflow={overflow!r} is unknown; choose one of {OVERFLOWS}")
    if overflow == "error":
        advice = ', or pass overflow="slide" to forget the oldest'
        check_room(model, t, max_new_tokens, "the context", advice)


def check_room(
    model: Transformer, t: int, max_new_tokens: int, what: str, advice: str = ""
) -> None:
    """Refuses more tokens than fit into `what`, a name for this model's context.

    Raises:
        ValueError: too many; the message says how many new ones would fit, and the `advice`.
    """
    context = context_of(model)
    if context is not None and t + max_new_tokens > context:
        fits = context - t
        ask = f"ask for at most {fits} new tokens" if fits > 0 else "not one new token fits"
        raise ValueError(
            f"{t} prompt tokens and {max_new_tokens} new ones overflow {what} of {context}; "
            f"{ask}{advice}"
        )


def context_of(model: Transformer) -> int | None:
    """Tokens the model can look at; None where windows in every layer leave no limit."""
    return None if model.config.endless else model.config.context_length


def left_aligned(ids: Tensor, padding: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Rows moved so that each one's last real token stands in the last column.

    Args:
        ids: (B, T).
        padding: (B, T) bool, True for real tokens, which stand side by side in each row.

    Returns:
        ids (B, L) and padding (B, L) or None, L the length of the longest row.

    Raises:
        ValueError: padding of another shape or dtype, between real tokens, or a row without any.
    """
    if padding is None:
        return ids, None
    if padding.shape != ids.shape or padding.dtype != torch.bool:
        raise ValueError(f"padding must be bool of shape {tuple(ids.shape)}")
    lengths = padding.sum(dim=1)  # (B,)
    if not lengths.all():
        row = int(lengths.argmin())
        raise ValueError(f"row {row} is all padding; every row needs a token to continue from")
    column = torch.arange(ids.shape[1], device=ids.device)
    last = torch.where(padding, column, -1).max(dim=1, keepdim=True).values  # (B, 1)
    longest = int(lengths.max())
    source = column[-longest:] - (ids.shape[1] - 1 - last)  # (B, L): the column each one comes from
    real = column[-longest:] >= ids.shape[1] - lengths[:, None]  # (B, L)
    if not torch.gather(padding, 1, source.clamp(min=0))[real].all():
        raise ValueError(
            "padding must stand on the left or on the right of a row, never between real tokens"
        )
    ids = torch.gather(ids, 1, source.clamp(min=0))  # (B, T) -> (B, L)
    return ids, None if bool(real.all()) else real


def open_cache(
    cache: str | Cache, model: Transformer, rows: int, capacity: int, completions: int = 1
) -> Cache | None:
    """The cache that is asked for, empty, or the one that is handed in.

    Args:
        cache: one of `CACHES`, or a cache.
        rows: prompts, B.
        capacity: tokens a row will hold at most.
        completions: rows that each prompt is forked into.

    Raises:
        ValueError: an unknown name, or a cache for another number of rows.
    """
    if not isinstance(cache, str):
        if not hasattr(cache, "begin"):
            raise ValueError(f"cache must be one of {CACHES} or a cache, got {cache!r}")
        if len(cache.lengths) != rows:
            raise ValueError(f"the cache is for {len(cache.lengths)} rows and ids has {rows}")
        return cache
    if cache not in CACHES:
        raise ValueError(f"cache={cache!r} is unknown; choose one of {CACHES} or hand in a cache")
    if cache == "none":
        return None
    where = kept_as(model)
    if cache == "rolling":
        return RollingCache(model.config, rows, capacity=capacity, **where)
    if cache == "paged":
        blocks = rows * completions * -(-capacity // BLOCK_SIZE)  # rounded up
        return PagedCache(model.config, rows, block_size=BLOCK_SIZE, n_blocks=blocks, **where)
    return DenseCache(model.config, rows, capacity, **where)


def kept_as(model: Transformer) -> dict[str, torch.dtype | torch.device]:
    """The dtype and the device of a model's cache.

    On a CPU a model of half precision gets a cache of float32: attention of one query runs four to
    five times as fast in it, and the cache is small beside the weights.
    """
    weight = next(model.parameters())
    half = weight.dtype in (torch.bfloat16, torch.float16)
    dtype = torch.float32 if half and weight.device.type == "cpu" else weight.dtype
    return {"dtype": dtype, "device": weight.device}


def held_tokens(cache: Cache | None, t: int, needed: int, padding: Tensor | None) -> int:
    """How many of the prompt's first tokens a cache that is handed in holds already.

    Args:
        t: tokens of the prompt.
        needed: tokens that the cache will hold in the end.
        padding: beside the prompt.

    Raises:
        ValueError: too little room, rows of unequal length, padding beside earlier tokens, or
            nothing left to run.
    """
    if cache is None:
        return 0
    capacity = getattr(cache, "capacity", None)
    if capacity is not None and needed > capacity:
        raise ValueError(
            f"the cache has room for {capacity} tokens a row and this text needs {needed}; "
            f"make it with capacity={needed}"
        )
    held = cache.longest
    if held == 0:
        return 0
    lengths = cache.lengths.tolist()
    if min(lengths) != held or padding is not None:
        raise ValueError(
            f"a cache that holds earlier tokens is continued in rows of equal length, without "
            f"padding; it holds {lengths} tokens"
        )
    if held >= t:
        raise ValueError(
            f"the cache holds {held} tokens and the prompt has {t}: nothing is left to run; "
            f"hand in the whole text, and cache.truncate({t - 1}) first if it holds all of it"
        )
    return held
