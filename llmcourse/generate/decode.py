"""Writing text: one token at a time, each fed back in.

Taught in Part 2. Every new token runs the whole sequence through the model again, which is simple
and right and does the same work over and over; Part 3 keeps it in a cache.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from llmcourse.generate.sampling import Sampling, next_token_probabilities, sample_token
from llmcourse.model import Transformer
from llmcourse.tokenizers import Tokenizer

OVERFLOWS = ("error", "slide")


@torch.no_grad()
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
) -> Tensor:
    """Continue each row of `ids`.

    Args:
        model: put into evaluation mode while it writes, and back afterwards.
        ids: (B, T) int64, T >= 1.
        max_new_tokens: the most tokens to add.
        sampling: how each token is drawn; None is the model's own distribution.
        stop: ids that end a row. The stop token itself is kept.
        padding: (B, T) bool, True for real tokens: prompts of unequal length, padded on the left.
        generator: source of the randomness.
        overflow: past the model's context, "error" refuses before anything is computed and
            "slide" forgets the oldest ones.

    Returns:
        (B, T + n) ids, n <= max_new_tokens: as many as the longest row needed. A row that stopped
        is filled up with its stop token.

    Raises:
        ValueError: an empty prompt, a context overflow, a stop id outside the vocabulary, padding
            after a real token.
    """
    _check(model, ids, max_new_tokens, stop, padding, overflow)
    sampling = sampling or Sampling()
    context, stops = model.config.context_length, torch.tensor(list(stop), device=ids.device)
    was_training = model.training
    model.eval()
    try:
        finished = torch.zeros(ids.shape[0], dtype=torch.bool, device=ids.device)  # (B,)
        for _ in range(max_new_tokens):
            seen = None if padding is None else padding[:, -context:]
            hidden = model.hidden(ids[:, -context:], padding=seen)  # (B, T, C)
            logits = model.logits(hidden[:, -1])  # (B, V); only the last position is needed
            # Padding must not count as a repetition of token 0; the last column is always real.
            previous = ids if padding is None else torch.where(padding, ids, ids[:, -1:])
            probabilities = next_token_probabilities(logits, sampling, previous)
            token = sample_token(probabilities, generator)  # (B,)
            token = torch.where(finished, ids[:, -1], token)
            ids = torch.cat([ids, token[:, None]], dim=1)  # (B, T) -> (B, T + 1)
            if padding is not None:
                padding = torch.cat([padding, torch.ones_like(padding[:, :1])], dim=1)
            finished |= torch.isin(token, stops)
            if finished.all():
                break
        return ids
    finally:
        model.train(was_training)


def generate_text(
    model: Transformer,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    max_new_tokens: int,
    *,
    sampling: Sampling | None = None,
    stop: Sequence[str] = (),
    generator: torch.Generator | None = None,
    overflow: str = "error",
) -> list[str]:
    """Continue each prompt; returns the new text only, without the stop token.

    Args:
        prompts: texts of any lengths; special tokens in them are read as such. All are continued
            together, padded on the left.
        stop: special tokens of the tokenizer that end a text.

    Raises:
        ValueError: no prompt, an empty prompt, an unknown stop token, or what `generate` refuses.
    """
    if isinstance(prompts, str):
        raise ValueError("prompts must be a sequence of texts, got one str; put it in a list")
    rows = [tokenizer.encode(prompt, allow_special=True) for prompt in prompts]
    if not rows or not all(rows):
        raise ValueError("every prompt needs at least one token to continue from")
    stops = [tokenizer.special_id(name) for name in stop]
    device = next(model.parameters()).device
    longest = max(map(len, rows))
    ids = torch.tensor([[0] * (longest - len(row)) + row for row in rows], device=device)
    real = torch.tensor(
        [[False] * (longest - len(row)) + [True] * len(row) for row in rows], device=device
    )
    written = generate(
        model,
        ids,
        max_new_tokens,
        sampling=sampling,
        stop=stops,
        padding=None if real.all() else real,
        generator=generator,
        overflow=overflow,
    )[:, longest:].tolist()
    texts = []
    for row in written:
        end = next((i for i, token in enumerate(row) if token in stops), len(row))
        texts.append(tokenizer.decode(row[:end]))
    return texts


def _check(
    model: Transformer,
    ids: Tensor,
    max_new_tokens: int,
    stop: Sequence[int],
    padding: Tensor | None,
    overflow: str,
) -> None:
    if ids.ndim != 2 or ids.shape[1] == 0:
        raise ValueError(
            f"ids must be (batch, time) with at least one token to continue from, "
            f"got shape {tuple(ids.shape)}"
        )
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens={max_new_tokens} must be at least 1")
    if overflow not in OVERFLOWS:
        raise ValueError(f"overflow={overflow!r} is unknown; choose one of {OVERFLOWS}")
    context, total = model.config.context_length, ids.shape[1] + max_new_tokens
    if overflow == "error" and total > context:
        raise ValueError(
            f"{ids.shape[1]} prompt tokens and {max_new_tokens} new ones overflow the context of "
            f"{context}; ask for at most {max(0, context - ids.shape[1])} new tokens, or pass "
            f'overflow="slide" to forget the oldest'
        )
    for token in stop:
        if not 0 <= token < model.config.vocab_size:
            raise ValueError(
                f"stop id {token} is outside the vocabulary of {model.config.vocab_size}"
            )
    if padding is not None:
        if padding.shape != ids.shape or padding.dtype != torch.bool:
            raise ValueError(f"padding must be bool of shape {tuple(ids.shape)}")
        if not padding[:, -1].all() or (padding[:, :-1] & ~padding[:, 1:]).any():
            raise ValueError("padding must stand on the left, before every real token")
