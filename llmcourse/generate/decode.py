"""Writing text: one token at a time, each fed back in.

Taught in Parts 2 and 3. Part 2 runs the whole sequence through the model for every new token,
which is simple and right and does the same work over and over (`cache="none"`); Part 3 keeps the
keys and values of earlier tokens, so that each step runs one token only. Both write the same text.

`stream` is the one loop; everything else that writes text is made of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from llmcourse.generate.compiled import compiled_step, static_cache
from llmcourse.generate.request import (
    check_overflow,
    check_prompt,
    context_of,
    held_tokens,
    left_aligned,
    open_cache,
)
from llmcourse.generate.sampling import Sampling, next_token_probabilities, sample_token

if TYPE_CHECKING:
    from llmcourse.generate.cache import Cache
    from llmcourse.model import Transformer


def generate(
    model: Transformer,
    ids: Tensor,
    max_new_tokens: int,
    *,
    sampling: Sampling | None = None,
    stop: Sequence[int] = (),
    padding: Tensor | None = None,
    generator: torch.Generator | None = None,
    overflow: str = "error",
    cache: str | Cache = "dense",
    n_completions: int = 1,
    compile: bool = False,
) -> Tensor:
    """Continue each row of `ids`.

    Args:
        model: put into evaluation mode while it writes, and back afterwards.
        ids: (B, T) int64, T >= 1.
        max_new_tokens: the most tokens to add.
        sampling: how each token is drawn; None is the model's own distribution.
        stop: ids that end a row. The stop token itself is kept.
        padding: (B, T) bool, True for real tokens: prompts of unequal length, padded on the left or
            on the right. New tokens stand after column T either way.
        generator: source of the randomness.
        overflow: past the model's context, "error" refuses before anything is computed and
            "slide" forgets the oldest ones. A text that slides is computed anew at every step: its
            tokens' positions change, and with them every key that was kept.
        cache: where keys and values are kept: "dense", "rolling", "paged" or "none"; or a cache
            that is handed in, empty or holding the first tokens of `ids` already, of which then
            only the rest is run.
        n_completions: continuations of each prompt, N. The prompt is run once.
        compile: run each step through `torch.compile` with a cache of fixed shape: pays where many
            texts are written by one model, since compiling takes a while.

    Returns:
        (B * N, T + n) ids, n <= max_new_tokens: as many as the longest row needed; completions of
        one prompt side by side. A row that stopped is filled up with its stop token.

    Raises:
        ValueError: an empty prompt, a context overflow, a stop id outside the vocabulary, padding
            between real tokens, an unknown or unfitting cache.
    """
    new = stream(
        model, ids, max_new_tokens, sampling=sampling, stop=stop, padding=padding,
        generator=generator, overflow=overflow, cache=cache, n_completions=n_completions,
        compile=compile,
    )  # fmt: skip
    prompts = ids.repeat_interleave(n_completions, dim=0)  # (B, T) -> (B * N, T)
    return torch.cat([prompts, torch.stack(list(new), dim=1)], dim=1)  # (B * N, T + n)


def stream(
    model: Transformer,
    ids: Tensor,
    max_new_tokens: int,
    *,
    sampling: Sampling | None = None,
    stop: Sequence[int] = (),
    padding: Tensor | None = None,
    generator: torch.Generator | None = None,
    overflow: str = "error",
    cache: str | Cache = "dense",
    n_completions: int = 1,
    compile: bool = False,
) -> Iterator[Tensor]:
    """The tokens of `generate` as they are written: each step's (B * N,) int64.

    The arguments are those of `generate`, and they are checked here and now, not at the first
    token. The model stays in evaluation mode until the last token, or until the iterator is closed.
    """
    check_prompt(model, ids, max_new_tokens, stop)
    real_ids, real = left_aligned(ids, padding)  # (B, L), (B, L) or None
    b, t = real_ids.shape
    check_overflow(model, t, max_new_tokens, overflow)
    if n_completions < 1:
        raise ValueError(f"n_completions={n_completions} must be at least 1")
    total = t + max_new_tokens
    capacity = min(total, context_of(model) or total)
    if compile:
        kept, step = static_cache(cache, model, b, capacity), compiled_step()
    else:
        kept, step = open_cache(cache, model, b, capacity, n_completions), next_logits
    held = held_tokens(kept, t, min(total - 1, capacity), real)  # the last is never run
    text = torch.cat([real_ids, ids.new_zeros(b, max_new_tokens)], dim=1)  # (B, L + new)
    if real is not None:
        real = torch.cat([real, real.new_ones(b, max_new_tokens)], dim=1)  # as text
    stops = torch.tensor(list(stop), device=ids.device) if stop else None
    return _steps(
        model, text, t, real, sampling or Sampling(), stops, generator, kept, held,
        n_completions, step,
    )  # fmt: skip


def _steps(
    model: Transformer,
    text: Tensor,  # (B, T + new): the prompt, and room for what will be written
    end: int,  # columns of `text` that are written, T at first
    real: Tensor | None,  # bool as `text`: False for padding, which stands on the left
    sampling: Sampling,
    stops: Tensor | None,
    generator: torch.Generator | None,
    cache: Cache | None,
    held: int,  # columns of `text` that the cache holds
    n_completions: int,
    step: Callable[..., Tensor],  # `next_logits`, or the same compiled
) -> Iterator[Tensor]:
    context = context_of(model) or text.shape[1]
    was_training = model.training
    model.eval()
    try:
        if end > context:
            cache = None  # the text slides from the first token on
        if cache is None:
            logits = _anew(model, text, real, end, context)  # (B, V)
        else:
            logits = prefill(model, text[:, held:end], _columns(real, held, end), cache)
        if n_completions > 1:
            cache = None if cache is None else cache.fork(n_completions)
            text, logits = (x.repeat_interleave(n_completions, dim=0) for x in (text, logits))
            real = None if real is None else real.repeat_interleave(n_completions, dim=0)
        finished = None if stops is None else torch.zeros_like(text[:, 0], dtype=torch.bool)
        while True:
            token = _draw(logits, sampling, text, real, end, generator)  # (B,)
            if finished is not None:
                token = torch.where(finished, text[:, end - 1], token)
                finished |= torch.isin(token, stops)
            text[:, end] = token
            end += 1
            yield token
            if end == text.shape[1] or (finished is not None and finished.all()):
                return
            if cache is not None and end <= context:
                logits = step(model, token[:, None], None, cache)  # (B, V)
            else:
                logits = _anew(model, text, real, end, context)
    finally:
        model.train(was_training)


@torch.no_grad()
def next_logits(
    model: Transformer, ids: Tensor, padding: Tensor | None = None, cache: Cache | None = None
) -> Tensor:
    """Scores for the token after the last of `ids` (B, T): (B, V). No other position needs any."""
    return model.logits(model.hidden(ids, padding=padding, cache=cache)[:, -1])


@torch.no_grad()
def prefill(model: Transformer, ids: Tensor, padding: Tensor | None, cache: Cache) -> Tensor:
    """Run a prompt (B, T) into a cache, in chunks where the cache asks for them: (B, V)."""
    chunk = getattr(cache, "max_chunk", None) or ids.shape[1]
    for start in range(0, ids.shape[1] - chunk, chunk):
        part = slice(start, start + chunk)
        model.hidden(ids[:, part], padding=_columns(padding, start, start + chunk), cache=cache)
    start = (ids.shape[1] - 1) // chunk * chunk  # of the last chunk
    return next_logits(model, ids[:, start:], _columns(padding, start, ids.shape[1]), cache)


def _anew(
    model: Transformer, text: Tensor, real: Tensor | None, end: int, context: int
) -> Tensor:  # (B, V)
    start = max(0, end - context)
    return next_logits(model, text[:, start:end], _columns(real, start, end))


def _columns(padding: Tensor | None, start: int, end: int) -> Tensor | None:
    return None if padding is None else padding[:, start:end]


def _draw(
    logits: Tensor,  # (B, V)
    sampling: Sampling,
    text: Tensor,
    real: Tensor | None,
    end: int,
    generator: torch.Generator | None,
) -> Tensor:  # (B,)
    previous = None
    if sampling.repetition_penalty != 1.0:
        previous = text[:, :end]
        if real is not None:
            # Padding must not count as a repetition; the last column is always a real token.
            previous = torch.where(real[:, :end], previous, text[:, end - 1 : end])
    elif sampling.temperature == 0:
        # No rule can take the likeliest token away: spare the vocabulary its softmax and its sum.
        best, token = logits[:, : sampling.vocabulary].max(dim=-1)
        if best.isfinite().all():  # damaged logits take the long way, which says so
            return token
    return sample_token(next_token_probabilities(logits, sampling, previous), generator)
