"""Several documents in a row, without cross-talk. Part 4.

Rows as long as the context, filled with whole documents, waste little on padding. Three things keep
the documents apart, and all three are needed:

- attention: `documents` numbers each token's document, and `model(ids, documents=...)` lets it look
  at its own only;
- positions: the same argument restarts them with each document;
- targets: the last token of a document must not predict the first of the next, so that target is
  `IGNORE_INDEX`.

Then a packed row computes what its documents would compute each in a row of its own.

Filling rows is bin packing, which has no quick exact solution. *Best fit* puts into the space left
the longest document that fits; here it chooses among the next `look_ahead` ones, so memory stays
bounded and batches remain mixed (best fit over everything would sort the corpus by length). The
idea for language models: Ding et al. 2024, arXiv 2404.10830. It
differs here: the choice is bounded, and the oldest document waiting starts each row, so none waits
for ever.

Shapes: B batch, T time (tokens). A row takes T + 1 tokens, as the last is only a target.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from llmcourse.data.batches import IGNORE_INDEX, PAD_ID, Batch
from llmcourse.data.checks import check_sizes, token_row


class PackedBatch(NamedTuple):
    """A batch of packed rows, all (B, T) int64; `documents` is what the model takes by that name.

    In each row documents are numbered 0, 1, 2 ...; padding counts as one more document.
    """

    inputs: Tensor
    targets: Tensor
    documents: Tensor

    @property
    def batch(self) -> Batch:
        """Inputs and targets alone."""
        return Batch(self.inputs, self.targets)


class Piece(NamedTuple):
    """Part of a document, nearly always all of it: its tokens `start` to before `stop`."""

    document: int
    start: int
    stop: int

    @property
    def length(self) -> int:
        """In tokens."""
        return self.stop - self.start


def pieces_of(
    document: int, length: int, row_tokens: int, first: int | None = None
) -> Iterator[Piece]:
    """The document whole, or cut where it is longer than a row.

    A cut document's pieces share one token, the last target of one and the first input of the next,
    so that each of its targets is scored once. A single token predicts nothing and is no piece.

    Args:
        document: its number.
        length: of it, in tokens.
        row_tokens: T + 1, the longest piece.
        first: targets in the first piece of a document that is cut, 1 to T; None fills a row.
    """
    start = 0
    if first is not None and length > row_tokens:
        yield Piece(document, 0, first + 1)
        start = first
    for place in range(start, length - 1, row_tokens - 1):
        yield Piece(document, place, min(place + row_tokens, length))


def pack(
    documents: Iterable[tuple[int, int]], row_tokens: int, look_ahead: int = 1024
) -> Iterator[list[Piece]]:
    """Documents into rows, lazily.

    Args:
        documents: (number, length in tokens), in the order they are to be seen, more or less.
        row_tokens: T + 1, at least 2.
        look_ahead: how many pieces a choice is made among; 1 keeps the order exactly.

    Yields:
        The pieces of each row, together at most `row_tokens` long. The same input gives the same
        rows.

    Raises:
        ValueError: at the call: a size out of range.
    """
    check_sizes(look_ahead=look_ahead)
    if not isinstance(row_tokens, int) or row_tokens < 2:
        raise ValueError(
            f"row_tokens must be a whole number of at least 2, one input and one target, got"
            f" {row_tokens!r}"
        )

    def rows() -> Iterator[list[Piece]]:
        coming = (
            piece for number, length in documents for piece in pieces_of(number, length, row_tokens)
        )
        # Pieces that wait, by arrival (negative: among equal lengths the oldest sorts last).
        waiting: dict[int, Piece] = {}
        by_length: list[tuple[int, int]] = []
        by_age: deque[int] = deque()

        def refill() -> None:
            nonlocal arrival
            while len(waiting) < look_ahead:
                piece = next(coming, None)
                if piece is None:
                    return
                arrival -= 1
                waiting[arrival] = piece
                by_age.append(arrival)
                insort(by_length, (piece.length, arrival))

        arrival = 0
        while True:
            refill()
            while by_age and by_age[0] not in waiting:
                by_age.popleft()
            if not by_age:
                return
            # The oldest starts the row; after it, the longest that fits, the oldest among equals.
            chosen = by_age[0]
            place = bisect_right(by_length, (waiting[chosen].length, chosen)) - 1
            row, space = [], row_tokens
            while place >= 0:
                length, chosen = by_length.pop(place)
                row.append(waiting.pop(chosen))
                space -= length
                refill()
                place = bisect_right(by_length, (space, 0)) - 1
            yield row

    return rows()


def packed_rows(
    documents: Sequence[Sequence[int]], context_length: int, batch_size: int
) -> Iterator[PackedBatch]:
    """One pass over some documents, packed: for measuring a loss, each target exactly once.

    Args:
        documents: ids of each; those of fewer than 2 tokens predict nothing and are passed over.
        context_length: T, tokens.
        batch_size: B, rows; the last batch may have fewer.

    Raises:
        ValueError: at the call: nothing to predict, ids that are not one row of integers, or a size
            out of range.
    """
    check_sizes(context_length=context_length, batch_size=batch_size)
    ids = [token_row(document, f"document {n}") for n, document in enumerate(documents)]
    if not any(len(row) > 1 for row in ids):
        raise ValueError("there is no document of at least 2 tokens, so nothing to predict")
    # Longest first: best fit then leaves the least padding.
    order = sorted(range(len(ids)), key=lambda n: -len(ids[n]))

    def batches() -> Iterator[PackedBatch]:
        rows = pack(((n, len(ids[n])) for n in order), context_length + 1)
        while group := list(islice(rows, batch_size)):
            yield packed_batch(
                group, lambda piece: ids[piece.document][piece.start : piece.stop], context_length
            )

    return batches()


def padding_of(rows: Sequence[Sequence[Piece]], row_tokens: int) -> float:
    """The share of the rows' tokens that are padding, 0 to 1."""
    if not rows:
        raise ValueError("there are no rows to measure")
    return 1 - sum(piece.length for row in rows for piece in row) / (len(rows) * row_tokens)


def packed_batch(
    rows: Sequence[Sequence[Piece]],
    tokens_of: Callable[[Piece], np.ndarray | Tensor | Sequence[int]],
    context_length: int,
) -> PackedBatch:
    """Rows of pieces as tensors.

    Args:
        rows: B of them, each at most T + 1 tokens long.
        tokens_of: the ids of a piece.
        context_length: T, tokens.

    Raises:
        ValueError: a row is empty or too long, or a piece has another length than it says.
    """
    check_sizes(context_length=context_length, rows=len(rows))
    shape = (len(rows), context_length)
    # NumPy writes small stretches several times as quickly as torch; the memory is the tensors'.
    inputs, targets, documents = (np.full(shape, x) for x in (PAD_ID, IGNORE_INDEX, 0))  # (B, T)
    for place, row in enumerate(rows):
        total = sum(piece.length for piece in row)
        if not 2 <= total <= context_length + 1:
            raise ValueError(
                f"row {place} has {total} tokens; context_length {context_length} takes 2 to"
                f" {context_length + 1}"
            )
        first = 0
        for number, piece in enumerate(row):
            ids = np.asarray(tokens_of(piece))
            if ids.shape != (piece.length,):
                raise ValueError(f"{piece} has {piece.length} tokens, got shape {ids.shape}")
            after = min(first + piece.length, context_length)
            inputs[place, first:after] = ids[: after - first]
            targets[place, first : first + piece.length - 1] = ids[1:]
            documents[place, first:after] = number
            first = after
        documents[place, first:] = len(row)  # padding looks at padding, and nothing at it
    return PackedBatch(*(torch.from_numpy(x) for x in (inputs, targets, documents)))
