"""From token ids to batches for next-token prediction. Part 2.

A language model reads tokens and predicts, at each position, the one that comes next. So a batch is
one stretch of text twice, the second time shifted by one:

    tokens    T h e   c a t
    inputs    T h e   c a          targets[t] is what follows inputs[t]
    targets   h e   c a t

There are three ways to cut a text into such stretches:

- `sliding_window`: anywhere, at random, for ever. For training on one long text.
- `windows`: one after the other, once. For measuring a loss: every target counts exactly once.
- `document_aligned`: each row is one document from its first token on. For texts that have a
  beginning and an end, like stories: no row starts in the middle of one or runs into the next.

Where a row is shorter than its batch it is padded on the right: inputs with `PAD_ID`, targets with
`IGNORE_INDEX`, which the loss skips. With causal attention, padding on the right changes nothing to
its left, so no mask is needed.

Shapes: B batch, T time (tokens), N tokens in the whole text. All ids are int64.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import count
from typing import NamedTuple

import torch
from torch import Tensor

from llmcourse.data.checks import check_generator, check_sizes, token_row
from llmcourse.tokenizers import END_OF_TEXT, Tokenizer

IGNORE_INDEX = -100
"""The target that means "do not score this position"; the value torch's cross-entropy skips."""

PAD_ID = 0
"""What stands in the inputs where there is no text; any id would do, as nothing looks at it."""

POOL_BATCHES = 50
"""How many batches' worth of documents are sorted by length together; see `document_aligned`."""


class Batch(NamedTuple):
    """Inputs and targets, both (B, T) int64; targets[b, t] is the token after inputs[b, t]."""

    inputs: Tensor
    targets: Tensor


def encode_documents(
    texts: Iterable[str],
    tokenizer: Tokenizer,
    end_of_text: bool,
    *,
    start_of_text: bool = False,
) -> list[list[int]]:
    """The ids of each text.

    Args:
        texts: documents.
        tokenizer: needs the special token `END_OF_TEXT` for either of the next two.
        end_of_text: append it, so that the model learns where a document ends, and generation can
            stop.
        start_of_text: prepend it (one token serves for both, as in GPT-2), so that the document's
            own first token is predicted as well, rather than given.

    Raises:
        ValueError: a marker is asked for and the tokenizer has none, or it cannot encode a text.
    """
    if isinstance(texts, str):
        raise ValueError(
            "texts must be a sequence of documents, got a single str; put it in a list"
        )
    before = [tokenizer.special_id(END_OF_TEXT)] if start_of_text else []
    after = [tokenizer.special_id(END_OF_TEXT)] if end_of_text else []
    return [before + tokenizer.encode(text) + after for text in texts]


def sliding_window(
    tokens: Tensor | Sequence[int],
    context_length: int,
    batch_size: int,
    generator: torch.Generator,
) -> Iterator[Batch]:
    """Endless batches of windows that start at random places, all equally likely.

    Args:
        tokens: (N,) ids.
        context_length: T, tokens.
        batch_size: B, rows.
        generator: where the starts are drawn from; the same state gives the same batches.

    Yields:
        Batch of (B, T), never padded.

    Raises:
        ValueError: at the call, not at the first batch: fewer than T + 1 tokens, ids that are not
            one row of integers, or a size that is not positive.
    """
    ids = token_row(tokens)
    check_sizes(context_length=context_length, batch_size=batch_size)
    check_generator(generator)
    if len(ids) < context_length + 1:
        raise ValueError(
            f"{len(ids)} tokens are too few for context_length {context_length}: a window needs"
            f" {context_length + 1}, one more for the last target; give more text or a shorter"
            " context"
        )

    def batches() -> Iterator[Batch]:
        # Every window of T + 1 tokens, as a view: (N - T, T + 1). Nothing is copied yet.
        all_windows = ids.unfold(0, context_length + 1, 1)
        while True:
            starts = torch.randint(len(all_windows), (batch_size,), generator=generator)  # (B,)
            rows = all_windows[starts]  # (B, T + 1)
            yield Batch(rows[:, :-1].contiguous(), rows[:, 1:].contiguous())

    return batches()


def windows(
    tokens: Tensor | Sequence[int],
    context_length: int,
    batch_size: int,
    stride: int | None = None,
) -> Iterator[Batch]:
    """One pass over a text, in order, with each of its N - 1 targets scored exactly once.

    With `stride` equal to the context length (the default) windows lie end to end, and the first
    positions of each have little to go by. A shorter stride lets windows overlap: each scores only
    the targets its predecessor has not, from more than T - stride tokens of context, for T / stride
    times the work.

    Args:
        tokens: (N,) ids, at least 2.
        context_length: T, tokens.
        batch_size: B, rows; the last batch may have fewer.
        stride: tokens from one window's start to the next, 1 to T.

    Yields:
        Batch of (B, T); the last window is padded to T.

    Raises:
        ValueError: at the call: fewer than 2 tokens, ids that are not one row of integers, or a
            size or stride out of range.
    """
    ids = token_row(tokens)
    stride = context_length if stride is None else stride
    check_sizes(context_length=context_length, batch_size=batch_size, stride=stride)
    if stride > context_length:
        raise ValueError(
            f"stride {stride} is longer than context_length {context_length}, so some tokens would"
            f" never be scored; it must be 1 to {context_length}"
        )
    if len(ids) < 2:
        raise ValueError("one token alone has nothing to predict; a pass needs at least 2")

    def batches() -> Iterator[Batch]:
        n_targets = len(ids) - 1
        # The last window is the first one that reaches the last target.
        n_windows = 1 + max(0, -(-(n_targets - context_length) // stride))
        for first in range(0, n_windows, batch_size):
            n_rows = min(batch_size, n_windows - first)
            inputs = torch.full((n_rows, context_length), PAD_ID)  # (B, T)
            targets = torch.full((n_rows, context_length), IGNORE_INDEX)  # (B, T)
            for row in range(n_rows):
                start = (first + row) * stride
                length = min(context_length, n_targets - start)
                # What the window before has scored already, this one only reads.
                scored = context_length - stride if start > 0 else 0
                inputs[row, :length] = ids[start : start + length]
                targets[row, scored:length] = ids[start + 1 + scored : start + 1 + length]
            yield Batch(inputs, targets)

    return batches()


def document_aligned(
    documents: Sequence[Sequence[int]],
    context_length: int,
    batch_size: int,
    generator: torch.Generator | None = None,
    shuffle: bool = True,
    epochs: int | None = None,
    *,
    truncate: bool = False,
    width_multiple: int = 1,
) -> Iterator[Batch]:
    """Batches in which each row is one document from its start, each document once an epoch.

    A batch is as wide as its longest row needs, rounded up a little, so documents of similar length
    should share one. With
    `shuffle`, the documents are mixed and cut into pools of 50 batches; each pool is sorted by
    length, cut into batches, and those are served in random order. Little is padded, and yet each
    epoch brings other batches. Without `shuffle`, all documents are sorted by length, shortest
    first: for evaluation.

    Args:
        documents: ids of each document, with the end-of-text token if it is to be learned.
        context_length: T at most; a document may have T + 1 tokens, as its last is only a target.
        batch_size: B, rows; the last batch of an epoch may have fewer.
        generator: needed to shuffle; the same state gives the same batches.
        shuffle: see above.
        epochs: passes over the documents; None goes on for ever.
        truncate: cut documents that are too long, instead of refusing them.
        width_multiple: widths are rounded up to a multiple of this. Matrix libraries prepare
            something for every new shape: with 16, few widths keep their memory small (half of it,
            on tales in bfloat16) and save more time than the padding costs. 1 rounds nothing.

    Yields:
        Batch of (B, T'), T' <= T; inputs padded with 0, targets with IGNORE_INDEX.

    Raises:
        ValueError: at the call: no documents, one of fewer than 2 tokens, one that is too long, ids
            that are not one row of integers, a size that is not positive, shuffling without a
            generator.
    """
    check_sizes(context_length=context_length, batch_size=batch_size, width_multiple=width_multiple)
    if epochs is not None:
        check_sizes(epochs=epochs)
    if shuffle:
        check_generator(generator)
    rows = _document_rows(documents, context_length, truncate)
    lengths = torch.tensor([len(row) for row in rows])
    pool_size = POOL_BATCHES * batch_size if shuffle else len(rows)

    def order(n: int) -> Tensor:
        """The numbers 0 to n - 1, mixed or as they are: (n,)."""
        return torch.randperm(n, generator=generator) if shuffle else torch.arange(n)

    def batches() -> Iterator[Batch]:
        for _ in count() if epochs is None else range(epochs):
            for pool in order(len(rows)).split(pool_size):
                by_length = pool[lengths[pool].argsort(stable=True)]
                groups = by_length.split(batch_size)  # one for each batch
                for index in order(len(groups)):
                    group = [rows[i] for i in groups[index]]
                    longest = max(map(len, group)) - 1
                    width = -(-longest // width_multiple) * width_multiple  # rounded up
                    yield _pad(group, min(width, context_length))

    return batches()


def padding_share(batch: Batch) -> float:
    """The share of a batch's positions that are not scored: the work done for nothing."""
    return (batch.targets == IGNORE_INDEX).float().mean().item()


def _pad(rows: list[Tensor], width: int) -> Batch:
    """Rows of tokens, each of at most `width` + 1, to one batch."""
    shape = (len(rows), width)
    inputs = torch.full(shape, PAD_ID)  # (B, T)
    targets = torch.full(shape, IGNORE_INDEX)  # (B, T)
    for place, row in enumerate(rows):
        inputs[place, : len(row) - 1] = row[:-1]
        targets[place, : len(row) - 1] = row[1:]
    return Batch(inputs, targets)


def _document_rows(
    documents: Sequence[Sequence[int]], context_length: int, truncate: bool
) -> list[Tensor]:
    if len(documents) == 0:
        raise ValueError("there are no documents to make batches of")
    rows = []
    for number, document in enumerate(documents):
        row = token_row(document, f"document {number}")
        if len(row) < 2:
            raise ValueError(
                f"document {number} is a single token, which leaves nothing to predict; each"
                " document needs at least 2"
            )
        if len(row) > context_length + 1 and not truncate:
            raise ValueError(
                f"document {number} has {len(row)} tokens, but context_length {context_length}"
                f" allows {context_length + 1} (the last is only a target); use a longer context,"
                " or truncate=True to cut documents"
            )
        rows.append(row[: context_length + 1])
    return rows
