"""Several corpora in one stream of batches, each with its share of the tokens. Part 4.

A model that is to tell stories, do sums and read code must see all three in every stretch of its
training: taught one after the other, the last would overwrite the first. The shares are a choice of
the recipe, not a property of the data. A source that is small beside its share comes round several
times (an *epoch* each), one that is large may not be seen to its end.

A source is a row of documents, mixed anew in each epoch, or a stream that draws them as they are
needed: what is made up has no end, need not repeat itself, and costs nothing before it is used.

Shares are kept by rule rather than by dice: the next piece comes from the source that is furthest
behind its share, so that at any moment each source is within one piece of where it should be. A
document longer than a row is cut, and each epoch cuts it elsewhere: otherwise the same tokens would
stand at the beginning of a row, with nothing before them, every time.

Rows are filled by `packing`, so documents share rows and see nothing of one another.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch

from llmcourse.data.checks import check_generator, check_sizes, token_row
from llmcourse.data.packing import PackedBatch, Piece, pack, packed_batch, pieces_of

LOOK_AHEAD = 256  # pieces that a row's filling is chosen among: some ten batches


Documents = Sequence[Sequence[int]] | Callable[[], Iterator[Sequence[int]]]


@dataclass(frozen=True)
class Source:
    """One corpus of a mixture.

    Raises:
        ValueError: no document that predicts anything, or a share that is not a positive number.
    """

    name: str
    # Token ids of each document, with end-of-text if it is to be learned; or a function that begins
    # a stream of such documents, the same ones each time, which is taken in its own order.
    documents: Documents
    share: float  # of the tokens, in any unit: shares of 3 and 1 mean three quarters and one

    def __post_init__(self) -> None:
        if not 0 < self.share < math.inf:
            raise ValueError(f"the share of {self.name!r} must be above 0, got {self.share!r}")
        if callable(self.documents):
            return
        rows = [self.row(number, document) for number, document in enumerate(self.documents)]
        if not any(len(row) > 1 for row in rows):
            raise ValueError(f"{self.name!r} has no document of at least 2 tokens to learn from")
        object.__setattr__(self, "documents", tuple(rows))

    def row(self, number: int, document: Sequence[int]) -> np.ndarray:
        """A document's ids, checked: (N,) int64."""
        return token_row(document, f"{self.name}, document {number}").numpy()


def mixture(
    sources: Sequence[Source],
    context_length: int,
    batch_size: int,
    generator: torch.Generator,
) -> Iterator[PackedBatch]:
    """Endless batches of packed rows, in which each source has its share of the tokens.

    Args:
        sources: at least one; names that differ.
        context_length: T, tokens.
        batch_size: B, rows.
        generator: mixes the documents and decides where long ones are cut; the same state gives the
            same batches.

    Yields:
        PackedBatch of (B, T).

    Raises:
        ValueError: at the call: no sources, a name twice, a size out of range, no generator.
    """
    check_sizes(context_length=context_length, batch_size=batch_size)
    check_generator(generator)
    names = [source.name for source in sources]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"a mixture needs sources with names that differ, got {names}")

    def batches() -> Iterator[PackedBatch]:
        row_tokens = context_length + 1
        waiting: dict[int, np.ndarray] = {}  # pieces on their way into a row, by number
        pieces = interleaved(sources, row_tokens, generator)

        def numbered() -> Iterator[tuple[int, int]]:
            for number, (_, ids) in enumerate(pieces):
                waiting[number] = ids
                yield number, len(ids)

        def tokens_of(piece: Piece) -> np.ndarray:
            return waiting.pop(piece.document)

        rows = pack(numbered(), row_tokens, LOOK_AHEAD)
        while True:
            yield packed_batch(list(islice(rows, batch_size)), tokens_of, context_length)

    return batches()


def interleaved(
    sources: Sequence[Source], row_tokens: int, generator: torch.Generator
) -> Iterator[tuple[str, np.ndarray]]:
    """(name, ids) of one piece after another, always from the source furthest behind its share."""
    streams = [_endless(source, row_tokens, generator) for source in sources]
    given = [0] * len(sources)  # tokens
    while True:
        place = min(range(len(sources)), key=lambda i: given[i] / sources[i].share)
        ids = next(streams[place])
        given[place] += len(ids)
        yield sources[place].name, ids


def _endless(source: Source, row_tokens: int, generator: torch.Generator) -> Iterator[np.ndarray]:
    """The pieces of a source, for ever."""
    if not callable(source.documents):
        while True:
            yield from _epoch(source.documents, row_tokens, generator)
    while True:
        empty = True
        for number, document in enumerate(source.documents()):
            for ids in _epoch([source.row(number, document)], row_tokens, generator):
                empty = False
                yield ids
        if empty:
            raise ValueError(f"the stream {source.name!r} holds nothing to learn from")


def _epoch(
    documents: Sequence[np.ndarray], row_tokens: int, generator: torch.Generator
) -> Iterator[np.ndarray]:
    """The pieces of some documents, mixed, each long document cut at a place of this epoch."""
    firsts = torch.randint(1, row_tokens, (len(documents),), generator=generator)
    pieces = [
        piece
        for number, (document, first) in enumerate(zip(documents, firsts.tolist()))
        for piece in pieces_of(number, len(document), row_tokens, first)
    ]
    for place in torch.randperm(len(pieces), generator=generator).tolist():
        number, start, stop = pieces[place]
        yield documents[number][start:stop]
