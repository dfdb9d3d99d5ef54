"""Writing token shards one after another, so that a kill at any moment loses one shard at most.

Part 4; the format is in `llmcourse.data.shards`. Every file is written under a temporary name and
renamed. A shard counts from the moment `progress.json` names it, which is after both its files are
there; the next run of the same preparation reads that file, checks the shards it names against
their checksums, and goes on behind the last good one. What a kill left behind it is written again,
with the same bytes. `index.json` comes last, and `progress.json` goes.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from llmcourse.data.shards import (
    DTYPES,
    ENDS_DTYPE,
    INDEX,
    PROGRESS,
    VERSION,
    check_contents,
    read_json,
)
from llmcourse.errors import CorpusError
from llmcourse.files import atomic_write

# What writes that were killed leave under temporary names.
ORPHANS = (".shard-*.tmp", f".{INDEX}.*.tmp", f".{PROGRESS}.*.tmp")


class ShardWriter:
    """Appends documents to the shards of one folder, from wherever an earlier run stopped.

    Args:
        folder: made if need be; other files in it are left alone.
        header: what the index says beside the shards: dtype, tokenizer and source. An earlier run
            must have had the same, tokenizer (known by its fingerprint) apart.
        tokens_per_shard: a shard is closed before the document that would make it longer; only a
            single document that is longer by itself makes a longer shard.

    Raises:
        ValueError: the folder holds another preparation, finished or not; names the field.
        CorpusError: its progress file is damaged.
    """

    def __init__(self, folder: Path, header: dict[str, Any], tokens_per_shard: int) -> None:
        self.folder = folder
        self._header = {"version": VERSION, **header, "tokens_per_shard": tokens_per_shard}
        self._limit = tokens_per_shard
        self._dtype = DTYPES[header["dtype"]]
        self.entries: list[dict[str, Any]] = []
        self._documents: list[np.ndarray] = []
        self._n_tokens = 0
        self.finished = False
        folder.mkdir(parents=True, exist_ok=True)
        self._resume()

    @property
    def records(self) -> int:
        """How many records of the source are in shards that are safely written."""
        return self.entries[-1]["records"] if self.entries else 0

    def add(self, document: np.ndarray, records: int) -> bool:
        """Append a document; returns whether that closed a shard.

        Args:
            document: (N,) ids, N > 0.
            records: how many records of the source lie before this one.

        Raises:
            CorpusError: a shard could not be written; those before it are whole.
        """
        full = self._n_tokens > 0 and self._n_tokens + len(document) > self._limit
        if full:
            self._close_shard(records)
        self._documents.append(document)
        self._n_tokens += len(document)
        return full

    def finish(self, records: int) -> None:
        """Close the last shard and write the index; `records` is how many the source had.

        Raises:
            CorpusError: nothing was ever added, or the disk refused.
        """
        if self._documents:
            self._close_shard(records)
        if not self.entries:
            (self.folder / PROGRESS).unlink(missing_ok=True)
            raise CorpusError("there is no text in the source: every document in it is empty")
        documents = sum(entry["documents"] for entry in self.entries)
        index = self._header | {
            "records": records,
            "documents": documents,
            "empty_documents": records - documents,
            "tokens": sum(entry["tokens"] for entry in self.entries),
            "shards": self.entries,
        }
        self._write(INDEX, _json(index))
        (self.folder / PROGRESS).unlink(missing_ok=True)
        self.finished = True

    def _close_shard(self, records: int) -> None:
        name = f"shard-{len(self.entries):05d}"
        ids = np.concatenate(self._documents).astype(self._dtype, copy=False)
        ends = np.cumsum([len(d) for d in self._documents]).astype(ENDS_DTYPE)
        # Views of the arrays: a shard may be hundreds of megabytes, and is not copied again.
        data, boundaries = memoryview(ids).cast("B"), memoryview(ends).cast("B")
        self._write(f"{name}.bin", data)
        self._write(f"{name}.documents.bin", boundaries)
        entry = {
            "file": f"{name}.bin",
            "tokens": len(ids),
            "sha256": hashlib.sha256(data).hexdigest(),
            "documents_file": f"{name}.documents.bin",
            "documents": len(ends),
            "documents_sha256": hashlib.sha256(boundaries).hexdigest(),
            "records": records,
        }
        self._write_progress([*self.entries, entry])
        self.entries.append(entry)  # only now: a shard counts once the progress file names it
        self._documents, self._n_tokens = [], 0

    def _write_progress(self, entries: list[dict[str, Any]]) -> None:
        progress = {key: value for key, value in self._header.items() if key != "tokenizer"}
        self._write(PROGRESS, _json(progress | {"shards": entries}))

    def _write(self, name: str, data: bytes | memoryview) -> None:
        try:
            atomic_write(self.folder / name, data)
        except OSError as error:
            why = "the disk is full" if error.errno == errno.ENOSPC else (error.strerror or error)
            raise CorpusError(
                f"{self.folder / name} cannot be written: {why}. {len(self.entries)} shards are"
                " whole; make room and run the same preparation again, and it goes on from there"
            ) from error

    def _resume(self) -> None:
        for pattern in ORPHANS:
            for path in self.folder.glob(pattern):
                path.unlink(missing_ok=True)
        for name in (INDEX, PROGRESS):
            path = self.folder / name
            if not path.is_file():
                continue
            found = read_json(path)
            self._check_same(found)
            self.entries = self._whole(found["shards"])
            self.finished = name == INDEX and len(self.entries) == len(found["shards"])
            if self.finished:
                (self.folder / PROGRESS).unlink(missing_ok=True)
            elif name == INDEX:
                # A shard was damaged since: no longer a finished folder, whatever comes next.
                self._write_progress(self.entries)
                path.unlink()
            return

    def _check_same(self, found: dict[str, Any]) -> None:
        """The folder's preparation must be this one; what tells them apart is named."""
        for key, value in self._header.items():
            # The dict of the tokenizer is large, and its fingerprint says as much.
            if key == "tokenizer" or found.get(key) == value:
                continue
            was, now = (_short(x) for x in (found.get(key), value))
            raise ValueError(
                f"{self.folder} holds another preparation: its {key} is {was}, this one's is {now};"
                " choose another folder, or empty that one"
            )

    def _whole(self, entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The shards up to the first that is damaged or missing."""
        whole = []
        with contextlib.suppress(CorpusError):
            for entry in entries:
                check_contents(self.folder, entry, self._dtype)
                whole.append(entry)
        return whole


def _json(values: dict[str, Any]) -> bytes:
    return (json.dumps(values, indent=1, sort_keys=True) + "\n").encode()


def _short(value: Any) -> str:
    text = json.dumps(value, sort_keys=True)
    if len(text) <= 120:
        return text
    return f"{text[:100]}... (SHA-256 {hashlib.sha256(text.encode()).hexdigest()[:12]})"
