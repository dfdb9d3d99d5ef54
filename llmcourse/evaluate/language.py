"""How well a model predicts text: nats per token, nats and bits per byte, perplexity.

Taught in Part 2. Losses per token cannot be compared across tokenizers, losses per byte can; so
every score here knows both the tokens and the bytes it covers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from llmcourse.data.batches import IGNORE_INDEX, Batch, document_aligned, encode_documents, windows
from llmcourse.data.packing import PackedBatch, packed_rows
from llmcourse.model import Transformer
from llmcourse.tokenizers import Tokenizer
from llmcourse.train.losses import bits_per_byte, cross_entropy, perplexity


@dataclass(frozen=True)
class Score:
    """Total surprise over a text, and what it is spread over."""

    nats: float  # -log p of everything that was scored
    tokens: int  # targets scored
    bytes: int  # UTF-8 bytes of the text they stand for

    @property
    def nats_per_token(self) -> float:
        return self.nats / self.tokens

    @property
    def nats_per_byte(self) -> float:
        return self.nats / self.bytes

    @property
    def bits_per_byte(self) -> float:
        return bits_per_byte(self.nats, self.bytes)

    @property
    def perplexity(self) -> float:
        """Per token."""
        return perplexity(self.nats_per_token)

    def __str__(self) -> str:
        return (
            f"{self.nats_per_byte:.4f} nats per byte ({self.bits_per_byte:.4f} bits), "
            f"perplexity {self.perplexity:.2f} per token over {self.tokens:,} tokens"
        )


@torch.no_grad()
def total_loss(model: Transformer, batches: Iterable[Batch | PackedBatch]) -> tuple[float, int]:
    """(nats, targets) summed over batches, in evaluation mode.

    Summed and divided once at the end: a mean of batch means would weigh a short last batch as much
    as a full one.

    Raises:
        ValueError: no target to score.
    """
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    nats, count = 0.0, 0
    try:
        for batch in batches:
            targets = batch.targets.to(device)
            documents = getattr(batch, "documents", None)  # packed rows say what belongs together
            packed = {} if documents is None else {"documents": documents.to(device)}
            logits = model(batch.inputs.to(device), **packed)
            nats += float(cross_entropy(logits, targets, reduction="sum"))
            count += int((targets != IGNORE_INDEX).sum())
    finally:
        model.train(was_training)
    if count == 0:
        raise ValueError("there is nothing to score: the batches hold no target")
    return nats, count


def score_text(model: Transformer, tokenizer: Tokenizer, text: str, batch_size: int = 16) -> Score:
    """Score one long text in windows of the model's context, each token once.

    The first token of the text has nothing before it and is not scored, nor are its bytes counted.

    Raises:
        ValueError: fewer than two tokens.
    """
    ids = torch.tensor(tokenizer.encode(text))
    pieces = windows(ids, model.config.context_length, batch_size)
    nats, tokens = total_loss(model, pieces)
    first = len(tokenizer.token_bytes(int(ids[0])))
    return Score(nats, tokens, len(text.encode("utf-8")) - first)


def score_documents(
    model: Transformer,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    batch_size: int = 16,
    *,
    cut: bool = False,
) -> Score:
    """Score whole documents, each from a clean start, its end included.

    A document is begun by the end-of-text token when the tokenizer has one: it says "a new text
    starts", so that the first byte is predicted too and the total is -log p of the whole text.

    Args:
        cut: score a document that is longer than the context in pieces, each from a clean start.

    Raises:
        ValueError: no documents, a tokenizer without an end-of-text token, or a document longer
            than the context and not to be cut.
    """
    if not any(texts):
        raise ValueError("there are no documents to score, or all of them are empty")
    rows = encode_documents(texts, tokenizer, end_of_text=True, start_of_text=True)
    context = model.config.context_length
    batches: Iterable[Batch | PackedBatch]
    if cut:
        batches = packed_rows(rows, context, batch_size)
    else:
        batches = document_aligned(rows, context, batch_size, shuffle=False, epochs=1)
    nats, tokens = total_loss(model, batches)
    return Score(nats, tokens, sum(len(text.encode("utf-8")) for text in texts))
