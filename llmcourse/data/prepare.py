"""Text to token shards: in parallel, and able to go on after a kill. Part 4.

    records -> portions -> [open, encode] in several processes -> in order -> shards

One process finds the records and hands them out in portions of about a megabyte; the others open
and encode them; the first takes the results back in the order of the source and writes. So the
bytes do not depend on how many processes there are, nor on which was quicker, and the place to go
on from is one number: how many records are in finished shards.

Processes are spawned, not forked: a fork of a process with threads (numpy and torch have some) may
stop for ever. So a script that asks for several must start its work under
`if __name__ == "__main__":`, as each process reads the script anew.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from llmcourse.data.records import Record, Source, text_of
from llmcourse.data.shard_writer import ShardWriter
from llmcourse.data.shards import DTYPES, Shards, dtype_for, tokenizer_fingerprint
from llmcourse.errors import CorpusError
from llmcourse.tokenizers import END_OF_TEXT, Tokenizer, load_tokenizer

PORTION_SIZE = 1 << 20  # characters or bytes of records handed to a process at once
PORTION_RECORDS = 1024  # and records at most
PORTIONS_AHEAD = 3  # portions in flight for each process


@dataclass(frozen=True)
class PrepareConfig:
    """How text becomes shards."""

    tokens_per_shard: int = 100_000_000  # tokens; only a longer single document makes it longer
    dtype: str = "auto"  # uint16, uint32, or auto: the narrower one that holds every id
    end_of_text: bool = True  # append the end-of-text token to each document
    workers: int = 1  # processes that encode; 1 is this one alone

    def __post_init__(self) -> None:
        for name in ("tokens_per_shard", "workers"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name}={value!r} must be a whole number of at least 1")


@dataclass(frozen=True)
class Progress:
    """Where a preparation stands; `prepare` reports it after each portion."""

    tokens: int  # written or encoded so far, those of earlier runs included
    records: int  # of the source, likewise
    shards: int  # finished


def prepare(
    source: Source,
    tokenizer: Tokenizer,
    folder: str | os.PathLike[str],
    config: PrepareConfig | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Shards:
    """Turn a source into shards, or go on with it where an earlier call was stopped.

    The folder's bytes depend on the source, the tokenizer and the config without `workers`, and on
    nothing else. Empty documents are left out and counted in the index. A folder that is finished
    already is checked and returned as it is.

    Args:
        source: see `llmcourse.data.records`.
        tokenizer: must be one that `load_tokenizer` knows, as other processes build it anew.
        folder: where the shards go.
        config: sizes and processes.
        progress: called after each portion of records.

    Raises:
        ValueError: a vocabulary too large for the dtype, no end-of-text token where one is asked
            for, or a folder that holds another preparation (names what differs).
        CorpusError: nothing to read, a record that cannot be read (named by file and line), a disk
            that is full, or a process that was killed. What is written stays, to go on from.
    """
    config = config or PrepareConfig()
    try:
        end = tokenizer.special_id(END_OF_TEXT) if config.end_of_text else None
    except ValueError as error:
        raise ValueError(
            f"{error}; give a tokenizer that has it, or set end_of_text to false"
        ) from None
    header = {
        "dtype": dtype_for(tokenizer.vocab_size, config.dtype),
        "vocab_size": tokenizer.vocab_size,
        "end_of_text": end,
        "tokenizer": json.loads(json.dumps(tokenizer.to_dict())),
        "tokenizer_fingerprint": tokenizer_fingerprint(tokenizer),
        "source": source.describe(),
    }
    writer = ShardWriter(Path(folder), header, config.tokens_per_shard)
    if not writer.finished:
        encoder = _Encoder(tokenizer, end, source.field, header["dtype"])
        portions = portions_of(source.records(skip=writer.records))
        # Closed at once if writing fails, so that no process goes on encoding for nobody.
        with closing(_encoded(encoder, portions, config.workers)) as encoded:
            _write_all(writer, encoded, progress)
    return Shards(folder, tokenizer)


def portions_of(records: Iterable[Record]) -> Iterator[list[Record]]:
    """Records in lists of about `PORTION_SIZE`; their order is kept."""
    portion: list[Record] = []
    size = 0
    for record in records:
        portion.append(record)
        size += record.size
        if size >= PORTION_SIZE or len(portion) >= PORTION_RECORDS:
            yield portion
            portion, size = [], 0
    if portion:
        yield portion


@dataclass(frozen=True)
class _Encoder:
    """From a portion to its ids and the length of each of its documents (0: it was empty)."""

    tokenizer: Tokenizer
    end: int | None
    field: str
    dtype: str

    def __call__(self, portion: list[Record]) -> tuple[np.ndarray, list[int]]:
        after = [] if self.end is None else [self.end]
        pieces, lengths = [], []
        for record in portion:
            text = text_of(record, self.field)
            try:
                ids = self.tokenizer.encode(text) + after if text else []
            except ValueError as error:
                raise CorpusError(f"{record.place}: {error}") from None
            pieces.append(np.asarray(ids, DTYPES[self.dtype]))
            lengths.append(len(ids))
        return np.concatenate(pieces), lengths


def _write_all(
    writer: ShardWriter,
    encoded: Iterator[tuple[np.ndarray, list[int]]],
    progress: Callable[[Progress], None] | None,
) -> None:
    records = writer.records
    tokens = sum(entry["tokens"] for entry in writer.entries)
    for ids, lengths in encoded:
        start = 0
        for length in lengths:
            if length:
                writer.add(ids[start : start + length], records)
            start += length
            records += 1
        tokens += len(ids)
        if progress is not None:
            progress(Progress(tokens, records, len(writer.entries)))
    if not records:
        raise CorpusError("the source is empty: there is not a single document in it")
    writer.finish(records)


def _encoded(
    encoder: _Encoder, portions: Iterator[list[Record]], workers: int
) -> Generator[tuple[np.ndarray, list[int]], None, None]:
    """Every portion encoded, in order."""
    if workers == 1:
        yield from map(encoder, portions)
        return
    arguments = (encoder.tokenizer.to_dict(), encoder.end, encoder.field, encoder.dtype)
    pool = ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), initializer=_start, initargs=arguments
    )
    waiting: deque[Future] = deque()
    try:
        for portion in portions:
            waiting.append(pool.submit(_encode, portion))
            if len(waiting) >= workers * PORTIONS_AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool:
        raise CorpusError(
            "a process that encodes text was killed, or could not start; usually memory ran out:"
            " try fewer workers. Run the same preparation again, and it goes on where it was"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


_encoder: _Encoder | None = None  # of a worker process, which has one task all its life


def _start(tokenizer: dict, end: int | None, field: str, dtype: str) -> None:
    global _encoder
    _encoder = _Encoder(load_tokenizer(tokenizer), end, field, dtype)
    # Workers of a parent that was killed would wait for work for ever.
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _encode(portion: list[Record]) -> tuple[np.ndarray, list[int]]:
    assert _encoder is not None
    return _encoder(portion)
