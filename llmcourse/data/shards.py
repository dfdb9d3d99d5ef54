"""Token shards: a folder of flat files of ids that may be far larger than memory. Part 4.

    index.json                    what the rest is; written last, so a folder with one is whole
    shard-00000.bin               ids of whole documents, end to end: little-endian uint16 or uint32
    shard-00000.documents.bin     where each document of the shard ends, in tokens: uint64
    shard-00001.bin ...

A shard is mapped into memory, not read: the system fetches the pages that are touched, keeps those
it has room for, and every process of a machine shares them. Documents never straddle shards, so
each shard can be made, checked and made again by itself. The index holds a SHA-256 of each file,
the tokenizer, and its fingerprint: ids mean nothing without it, and the wrong one raises no error
by itself, only a loss that stays high.

`ShardWriter` (in `llmcourse.data.shard_writer`) makes such a folder; `Shards` reads it. Needs numpy
and no torch, so that the processes which prepare text start quickly.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from llmcourse.errors import CorpusError
from llmcourse.files import sha256_of
from llmcourse.tokenizers import Tokenizer, load_tokenizer

INDEX = "index.json"
PROGRESS = "progress.json"
ENTRY = {"file", "tokens", "sha256", "documents_file", "documents", "documents_sha256", "records"}
VERSION = 1  # raised whenever an older reader would misunderstand a newer folder
DTYPES = {"uint16": np.dtype("<u2"), "uint32": np.dtype("<u4")}
ENDS_DTYPE = np.dtype("<u8")


class Shards:
    """A folder of shards, open for reading.

    Args:
        folder: where `index.json` is.
        tokenizer: if given, it must be the one the shards were made with.

    Raises:
        CorpusError: no index, an unfinished one, another version, a file that is missing or of the
            wrong length (named), or another tokenizer. Contents are compared by `verify` only.
    """

    def __init__(self, folder: str | os.PathLike[str], tokenizer: Tokenizer | None = None) -> None:
        self.folder = Path(folder)
        self.index = read_index(self.folder)
        self.dtype = DTYPES[self.index["dtype"]]
        self.vocab_size: int = self.index["vocab_size"]
        self.tokenizer_fingerprint: str = self.index["tokenizer_fingerprint"]
        if tokenizer is not None:
            self.check_tokenizer(tokenizer)
        entries = self.index["shards"]
        for entry in entries:
            check_lengths(self.folder, entry, self.dtype)
        # Token number at which each shard begins, and document number likewise: (shards + 1,).
        self._starts = np.cumsum([0] + [entry["tokens"] for entry in entries])
        self._maps: dict[int, np.ndarray] = {}

    @property
    def n_tokens(self) -> int:
        """Tokens in all shards together."""
        return int(self._starts[-1])

    @property
    def n_documents(self) -> int:
        """Documents in all shards together."""
        return len(self.document_starts) - 1

    @cached_property
    def document_starts(self) -> np.ndarray:
        """(documents + 1,) int64: the token number each document starts at, and the end of all."""
        starts = [np.zeros(1, np.int64)]
        for entry, first in zip(self.index["shards"], self._starts):
            path = self.folder / entry["documents_file"]
            ends = np.fromfile(path, ENDS_DTYPE).astype(np.int64)
            # Cheap, and what follows would otherwise read across documents in silence.
            if ends[-1] != entry["tokens"] or (np.diff(ends, prepend=0) < 1).any():
                raise CorpusError(f"{path} is damaged: its documents do not fill the shard")
            starts.append(ends + first)
        return np.concatenate(starts)

    @property
    def document_lengths(self) -> np.ndarray:
        """(documents,) int64, in tokens."""
        return np.diff(self.document_starts)

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the checksums of the shards: equal for equal tokens in equal documents."""
        sums = [e[key] for e in self.index["shards"] for key in ("sha256", "documents_sha256")]
        return hashlib.sha256(" ".join([self.index["dtype"], *sums]).encode()).hexdigest()

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer the shards were made with."""
        return load_tokenizer(self.index["tokenizer"])

    def tokens(self, start: int, stop: int) -> np.ndarray:
        """The tokens from number `start` to before `stop`, across shards: (stop - start,) int64.

        Raises:
            ValueError: the stretch is not inside 0 to `n_tokens`.
        """
        if not 0 <= start <= stop <= self.n_tokens:
            raise ValueError(f"tokens {start} to {stop} are not inside 0 to {self.n_tokens}")
        found = np.empty(stop - start, np.int64)
        # The shard that holds `start`; the last one when start is the end of all.
        shard = int(np.searchsorted(self._starts, start, side="right")) - 1
        position = start
        while position < stop:
            first, after = int(self._starts[shard]), int(self._starts[shard + 1])
            end = min(stop, after)
            found[position - start : end - start] = self._map(shard)[position - first : end - first]
            position, shard = end, shard + 1
        return found

    def document(self, number: int) -> np.ndarray:
        """The tokens of one document: (length,) int64.

        Raises:
            ValueError: there is no such document.
        """
        if not 0 <= number < self.n_documents:
            raise ValueError(f"document {number} is not one of the {self.n_documents} there are")
        return self.tokens(int(self.document_starts[number]), int(self.document_starts[number + 1]))

    def check_tokenizer(self, tokenizer: Tokenizer) -> None:
        """Refuses any tokenizer but the one the shards were made with.

        Raises:
            CorpusError: another one; both fingerprints are named.
        """
        given = tokenizer_fingerprint(tokenizer)
        if given != self.tokenizer_fingerprint:
            kind = self.index["tokenizer"].get("kind")
            raise CorpusError(
                f"{self.folder} was made with another tokenizer: kind {kind!r},"
                f" {self.vocab_size} ids, fingerprint {self.tokenizer_fingerprint[:12]}; this one"
                f" has {tokenizer.vocab_size} ids and {given[:12]}. Use Shards(...).tokenizer, or"
                " prepare the text again"
            )

    def verify(self) -> Iterator[str]:
        """Reads every byte; yields the name of each shard that is as it was written.

        Raises:
            CorpusError: a file is missing, has another length or another checksum (named), or holds
                an id outside the vocabulary. Raised when the iteration gets there.
        """
        for number, entry in enumerate(self.index["shards"]):
            check_contents(self.folder, entry, self.dtype)
            highest = int(self._map(number).max())
            if highest >= self.vocab_size:
                raise CorpusError(
                    f"{self.folder / entry['file']} holds the id {highest}, but the tokenizer has"
                    f" {self.vocab_size} ids; prepare the text again"
                )
            yield entry["file"]

    def _map(self, shard: int) -> np.ndarray:
        if shard not in self._maps:
            path = self.folder / self.index["shards"][shard]["file"]
            self._maps[shard] = np.memmap(path, self.dtype, mode="r")
        return self._maps[shard]


def tokenizer_fingerprint(tokenizer: Tokenizer) -> str:
    """SHA-256 of all there is to know about a tokenizer, written as JSON in one fixed way."""
    text = json.dumps(tokenizer.to_dict(), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def dtype_for(vocab_size: int, dtype: str = "auto") -> str:
    """The name of the smallest dtype that holds every id, or `dtype` once it proves wide enough.

    Raises:
        ValueError: an unknown name, or ids that do not fit.
    """
    fits = [name for name, kind in DTYPES.items() if vocab_size - 1 <= np.iinfo(kind).max]
    if dtype not in ("auto", *DTYPES):
        raise ValueError(f"dtype={dtype!r} is unknown; choose auto, {', '.join(DTYPES)}")
    if not fits:
        raise ValueError(f"a vocabulary of {vocab_size} ids is too large for shards: uint32 is all")
    if dtype != "auto" and dtype not in fits:
        most = np.iinfo(DTYPES[dtype]).max + 1
        raise ValueError(
            f"a vocabulary of {vocab_size} ids is too large for {dtype}, which holds {most};"
            f" use dtype {fits[0]} or auto"
        )
    return fits[0] if dtype == "auto" else dtype


def read_index(folder: Path) -> dict[str, Any]:
    """The index of a finished folder.

    Raises:
        CorpusError: none, not finished, damaged, or of another version.
    """
    path = folder / INDEX
    if not path.is_file():
        if (folder / PROGRESS).is_file():
            raise CorpusError(
                f"{folder} is unfinished: the preparation was stopped. Run the same"
                " `llmcourse data prepare` again, and it goes on where it was"
            )
        raise CorpusError(f"{folder} holds no shards: there is no {INDEX} in it")
    return read_json(path)


def read_json(path: Path) -> dict[str, Any]:
    """An index or a progress file, its version and the fields that every reader needs checked."""
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, OSError) as error:
        raise CorpusError(f"{path} is damaged: {error}") from None
    if not isinstance(found, dict) or found.get("version") != VERSION:
        version = found.get("version") if isinstance(found, dict) else None
        raise CorpusError(f"{path} has format version {version!r}; this program reads {VERSION}")
    whole = found.get("dtype") in DTYPES and isinstance(found.get("shards"), list)
    whole = whole and all(isinstance(e, dict) and e.keys() >= ENTRY for e in found["shards"])
    if not whole or not {"vocab_size", "tokenizer_fingerprint"} <= found.keys():
        raise CorpusError(f"{path} is damaged: fields are missing; prepare the text again")
    return found


def check_lengths(folder: Path, entry: dict[str, Any], dtype: np.dtype) -> None:
    """Refuses a shard whose files are missing or of the wrong length."""
    expected = (
        (entry["file"], entry["tokens"] * dtype.itemsize),
        (entry["documents_file"], entry["documents"] * ENDS_DTYPE.itemsize),
    )
    for name, size in expected:
        path = folder / name
        if not path.is_file():
            raise CorpusError(f"{path} is missing; prepare the text again")
        found = path.stat().st_size
        if found != size:
            what = "truncated" if found < size else "too long"
            raise CorpusError(f"{path} is {what}: {found:,} bytes, where {size:,} were written")


def check_contents(folder: Path, entry: dict[str, Any], dtype: np.dtype) -> None:
    """Refuses a shard whose files are not, byte for byte, what was written."""
    check_lengths(folder, entry, dtype)
    for name, key in ((entry["file"], "sha256"), (entry["documents_file"], "documents_sha256")):
        if sha256_of(folder / name) != entry[key]:
            raise CorpusError(
                f"{folder / name} is corrupt: its SHA-256 is not the one it was written with;"
                " prepare the text again"
            )
