"""Endless batches from token shards, made ahead of time, resumed exactly, shared by ranks. Part 4.

Every epoch has one global order of rows, drawn from the generator. Global batch k is its rows
k B W to (k + 1) B W, for batches of B rows on each of W ranks, and rank r takes the r-th B of them.
So W ranks together see exactly what one process with batches of B W would, and the state of the
loader is where it stands in that order: the epoch, the rows of it that were handed out, and the
generator's state when the epoch began. Rows left at the end of an epoch start the next batch.

A thread makes the next batches while the model computes. The state counts batches that were handed
out, not those made ahead: a resumed run misses none and sees none twice.

Two kinds of rows:

- windows: the tokens as one long text, cut every T tokens at an offset drawn for each epoch, in
  random order. Nothing is padded; a row runs across documents. For `model(inputs)`.
- packed: whole documents (`llmcourse.data.packing`). For `model(inputs, documents=documents)`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch

from llmcourse.data.batches import Batch
from llmcourse.data.checks import check_generator, check_sizes
from llmcourse.data.packing import PackedBatch, Piece, pack, packed_batch
from llmcourse.data.prefetch import Ahead
from llmcourse.data.shards import Shards


@dataclass(frozen=True)
class LoaderConfig:
    """What a batch is; all of it decides which rows come, `prefetch` apart."""

    context_length: int  # T, tokens
    batch_size: int  # B, rows for each rank
    packed: bool = False  # rows of whole documents, kept apart
    look_ahead: int = 1024  # documents a packed row is chosen from
    prefetch: int = 4  # batches made ahead by a thread; 0 makes each when it is asked for

    def __post_init__(self) -> None:
        check_sizes(
            context_length=self.context_length,
            batch_size=self.batch_size,
            look_ahead=self.look_ahead,
        )
        if not isinstance(self.prefetch, int) or self.prefetch < 0:
            raise ValueError(f"prefetch must be 0 or more batches, got {self.prefetch!r}")


class ShardLoader:
    """An endless iterator of `Batch`, or of `PackedBatch` with `packed`.

    Args:
        shards: what to read.
        config: sizes.
        generator: gives the order, so all ranks pass one in the same state; it is copied, and the
            caller's is left as it was.
        rank: which of the processes this is, 0 to world_size - 1.
        world_size: how many processes share the global order.

    Raises:
        ValueError: a size or rank out of range, no generator, too few tokens for one row.
    """

    def __init__(
        self,
        shards: Shards,
        config: LoaderConfig,
        generator: torch.Generator,
        *,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        check_sizes(world_size=world_size)
        check_generator(generator)
        if not isinstance(rank, int) or not 0 <= rank < world_size:
            raise ValueError(f"rank must be 0 to {world_size - 1} (world_size - 1), got {rank!r}")
        _check_enough(shards, config)
        self.shards, self.config = shards, config
        self.rank, self.world_size = rank, world_size
        self._place = _Place(0, 0, generator.get_state())
        self._source: Ahead | Iterator[tuple[Batch | PackedBatch, _Place]] | None = None

    def __iter__(self) -> ShardLoader:
        return self

    def __next__(self) -> Batch | PackedBatch:
        if self._source is None:
            made = _batches(self.shards, self.config, self.rank, self.world_size, self._place)
            self._source = Ahead(made, self.config.prefetch) if self.config.prefetch else made
        try:
            batch, self._place = next(self._source)
        except BaseException:
            self.close()  # whoever asks again gets this batch, or the same error
            raise
        return batch

    @property
    def epoch(self) -> int:
        """Passes over the data that are complete."""
        return self._place.epoch

    def state_dict(self) -> dict[str, Any]:
        """Where the loader stands, as values JSON can hold; the same on every rank."""
        return {
            "epoch": self._place.epoch,
            "row": self._place.row,
            "generator": bytes(self._place.generator.tolist()).hex(),
            **_identity(self.shards, self.config, self.world_size),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where the loader that gave `state` stood.

        Ranks may be more or fewer than they were, if the global batch stays the same.

        Raises:
            ValueError: the state is of other shards or another config (names the field), or is
                damaged.
        """
        for name, value in _identity(self.shards, self.config, self.world_size).items():
            if state.get(name) != value:
                raise ValueError(
                    f"this loader cannot go on from that state: {name} was {state.get(name)!r} and"
                    f" is {value!r}"
                )
        try:
            saved = torch.tensor(list(bytes.fromhex(state["generator"])), dtype=torch.uint8)
            torch.Generator().set_state(saved)
            place = _Place(int(state["epoch"]), int(state["row"]), saved)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise ValueError(f"the loader's state is damaged: {error}") from None
        if place.epoch < 0 or place.row < 0:
            raise ValueError("the loader's state is damaged: epoch and row must be at least 0")
        self.close()
        self._place = place

    def close(self) -> None:
        """Stop the thread; the next batch, if one is asked for, starts another."""
        if isinstance(self._source, Ahead):
            self._source.close()
        self._source = None

    def __enter__(self) -> ShardLoader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass(frozen=True)
class _Place:
    """A place in the endless order of rows."""

    epoch: int
    row: int  # rows of this epoch handed out, over all ranks
    generator: torch.Tensor  # state when the epoch began, (bytes,) uint8


def _identity(shards: Shards, config: LoaderConfig, world_size: int) -> dict[str, Any]:
    """What must be the same for a state to mean the same."""
    kept = {k: v for k, v in asdict(config).items() if k not in ("batch_size", "prefetch")}
    if not config.packed:
        del kept["look_ahead"]
    return kept | {
        "global_batch_size": config.batch_size * world_size,
        "shards": shards.fingerprint,
    }


def _check_enough(shards: Shards, config: LoaderConfig) -> None:
    if config.packed and shards.document_lengths.max() < 2:
        raise ValueError(
            f"{shards.folder} has no document of 2 tokens or more, so there is nothing to predict"
        )
    if not config.packed and shards.n_tokens < config.context_length + 1:
        raise ValueError(
            f"{shards.folder} has {shards.n_tokens} tokens, too few for a row of context_length"
            f" {config.context_length} and one more for the last target"
        )


def _rows(
    shards: Shards, config: LoaderConfig, generator: torch.Generator
) -> Iterator[list[Piece] | int]:
    """The rows of one epoch in order: pieces of documents, or the token a window starts at."""
    if config.packed:
        lengths = shards.document_lengths
        order = torch.randperm(len(lengths), generator=generator).numpy()
        documents = ((int(n), int(lengths[n])) for n in order)
        yield from pack(documents, config.context_length + 1, config.look_ahead)
        return
    t = config.context_length
    # Another offset each epoch: otherwise each token would stand at the same place every time.
    most = min(t, shards.n_tokens - t)  # offsets that leave at least one row
    offset = int(torch.randint(most, (), generator=generator))
    n_rows = (shards.n_tokens - 1 - offset) // t
    for number in torch.randperm(n_rows, generator=generator).numpy():
        yield offset + int(number) * t


def _batches(
    shards: Shards, config: LoaderConfig, rank: int, world_size: int, place: _Place
) -> Iterator[tuple[Batch | PackedBatch, _Place]]:
    """This rank's batches from `place` on, for ever, each with the place behind it."""
    generator = torch.Generator()
    global_batch = config.batch_size * world_size
    mine = slice(rank * config.batch_size, (rank + 1) * config.batch_size)
    epoch, done, began = place.epoch, place.row, place.generator
    generator.set_state(began)
    # Behind the rows that were handed out. Their lengths are gone through again, not their tokens.
    rows = islice(_rows(shards, config, generator), done, None)
    while True:
        batch: list[Any] = []
        while len(batch) < global_batch:
            new = list(islice(rows, global_batch - len(batch)))
            batch += new
            done += len(new)
            if len(batch) < global_batch:
                epoch, done, began = epoch + 1, 0, generator.get_state()
                rows = _rows(shards, config, generator)
        yield _read(shards, config, batch[mine]), _Place(epoch, done, began)


def _read(shards: Shards, config: LoaderConfig, rows: list[Any]) -> Batch | PackedBatch:
    t = config.context_length
    if config.packed:
        starts = shards.document_starts

        def tokens_of(piece: Piece) -> np.ndarray:
            first = int(starts[piece.document])
            return shards.tokens(first + piece.start, first + piece.stop)

        return packed_batch(rows, tokens_of, t)
    ids = torch.from_numpy(np.stack([shards.tokens(s, s + t + 1) for s in rows]))  # (B, T + 1)
    return Batch(ids[:, :-1].contiguous(), ids[:, 1:].contiguous())
