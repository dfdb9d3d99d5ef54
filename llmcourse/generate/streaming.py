"""Text as it is written, piece by piece, and whole texts. Parts 2 and 3.

A token need not be a whole character: with byte tokens "é" is two of them, and what the first one
alone would show is a replacement mark. So bytes wait until the character they belong to is
complete. Joined, the pieces are what the tokenizer decodes from all ids at once.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from llmcourse.generate.decode import generate, stream
from llmcourse.generate.sampling import Sampling
from llmcourse.model import Transformer
from llmcourse.tokenizers import Tokenizer


class TextPieces:
    """Ids of one text in, the text that is certain so far out."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def add(self, id: int) -> str:
        """The characters that this id completes; often one, sometimes none."""
        return self._decoder.decode(self._tokenizer.token_bytes(id))

    def end(self) -> str:
        """What is left of a character that was never completed: a replacement mark, or nothing."""
        return self._decoder.decode(b"", final=True)


def stream_text(
    model: Transformer,
    tokenizer: Tokenizer,
    prompt: str,
    max_new_tokens: int,
    *,
    stop: Sequence[str] = (),
    **options: Any,
) -> Iterator[str]:
    """Continue a prompt, yielding each piece of new text as soon as it is certain.

    Args:
        prompt: a text; special tokens in it are read as such.
        stop: special tokens of the tokenizer that end the text; they are not part of it.
        options: what `stream` takes by these names: sampling, generator, overflow, cache, compile.

    Raises:
        ValueError: at once, for what `generate_text` refuses.
    """
    steps = stream_texts(model, tokenizer, [prompt], max_new_tokens, stop=stop, **options)
    return (piece for (piece,) in steps if piece)


def stream_texts(
    model: Transformer,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    max_new_tokens: int,
    *,
    stop: Sequence[str] = (),
    **options: Any,
) -> Iterator[list[str]]:
    """As `stream_text` for many prompts together: at each step the new piece of each, or ""."""
    ids, padding, stops = encode_prompts(model, tokenizer, prompts, stop)
    options = _within(tokenizer, model, options)
    tokens = stream(model, ids, max_new_tokens, padding=padding, stop=stops, **options)
    return _pieces(tokens, tokenizer, stops)


def _pieces(
    tokens: Iterator[Tensor], tokenizer: Tokenizer, stops: list[int]
) -> Iterator[list[str]]:
    rows: list[TextPieces | None] = []  # None: this text has ended
    for token in tokens:
        ids = token.tolist()
        rows = rows or [TextPieces(tokenizer) for _ in ids]
        pieces = []
        for n, id in enumerate(ids):
            row = rows[n]
            if row is None:
                pieces.append("")
            elif id in stops:
                pieces.append(row.end())
                rows[n] = None
            else:
                pieces.append(row.add(id))
        yield pieces
    yield ["" if row is None else row.end() for row in rows]


def generate_text(
    model: Transformer,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    max_new_tokens: int,
    *,
    stop: Sequence[str] = (),
    **options: Any,
) -> list[str]:
    """Continue each prompt; returns the new text only, without the stop token.

    Args:
        prompts: texts of any lengths; special tokens in them are read as such. All are continued
            together, padded on the left.
        stop: special tokens of the tokenizer that end a text.
        options: what `generate` takes by these names: sampling, generator, overflow, cache,
            n_completions, compile.

    Raises:
        ValueError: no prompt, an empty prompt, an unknown stop token, or what `generate` refuses.
    """
    ids, padding, stops = encode_prompts(model, tokenizer, prompts, stop)
    options = _within(tokenizer, model, options)
    written = generate(model, ids, max_new_tokens, padding=padding, stop=stops, **options)
    texts = []
    for row in written[:, ids.shape[1] :].tolist():
        end = next((i for i, token in enumerate(row) if token in stops), len(row))
        texts.append(tokenizer.decode(row[:end]))
    return texts


def encode_prompts(
    model: Transformer, tokenizer: Tokenizer, prompts: Sequence[str], stop: Sequence[str]
) -> tuple[Tensor, Tensor | None, list[int]]:
    """ids (B, T) padded on the left, padding (B, T) or None, and the ids of the stop tokens."""
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
    return ids, None if real.all() else real, stops


def _within(tokenizer: Tokenizer, model: Transformer, options: dict[str, Any]) -> dict[str, Any]:
    """The options, told of the vocabulary where the model's table has more rows than it."""
    if model.config.vocab_size <= tokenizer.vocab_size:
        return options
    sampling = options.get("sampling") or Sampling()
    return options | {"sampling": replace(sampling, vocabulary=tokenizer.vocab_size)}
