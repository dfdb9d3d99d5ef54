"""Large collections of text, read one record at a time: text files, JSONL and Parquet.

Part 4. A *record* is what a source is made of before anyone looks inside: a file's path, a line of
JSONL, a row of a table. Finding records is quick and is done by one process, in one fixed order;
`text_of` opens them, which the processes of `llmcourse.data.prepare` share. Each record carries the
place it stands at, so that a mistake in the ten-millionth line is reported by file and line.

Nothing is read whole but a text file, which is one document: JSONL is read line by line, tables in
batches of rows. Parquet needs the package pyarrow, imported only when such a file is opened. Data
sets of Hugging Face are in `llmcourse.data.huggingface`.
"""

from __future__ import annotations

import gzip
import hashlib
import itertools
import json
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from llmcourse.errors import CorpusError

TEXT_SUFFIXES = (".txt", ".md", ".py")
JSONL_SUFFIXES = (".jsonl", ".ndjson", ".jsonl.gz")
PARQUET_SUFFIXES = (".parquet",)
ROWS_AT_ONCE = 1024  # rows of a table read together
EDGE = 1 << 16  # bytes at either end of a file that its fingerprint covers


class Record(NamedTuple):
    """One unopened piece of a source."""

    kind: str  # "file": the payload is a path; "json": a line; "text": the text itself
    place: str  # for messages: "tales.jsonl, line 12"
    payload: str | bytes
    size: int  # bytes or characters, roughly: to hand out work in even portions


class Source(Protocol):
    """What `prepare` reads: records in an order that is the same each time."""

    field: str  # the key or column that holds the text

    def records(self, skip: int = 0) -> Iterator[Record]:
        """All records but the first `skip`."""
        ...

    def describe(self) -> dict[str, Any]:
        """What the source is, for JSON; equal descriptions mean equal records."""
        ...


@dataclass(frozen=True)
class FileSource:
    """Text files (a document each), JSONL (.gz too) and Parquet, and folders of these.

    Files are read in the order given; those of a folder by name, hidden ones left out.

    Raises:
        CorpusError: nothing is there, or a folder holds no such file.
        ValueError: no path at all.
    """

    paths: tuple[str, ...]  # files and folders
    field: str = "text"  # key in JSONL, column in Parquet

    def __post_init__(self) -> None:
        object.__setattr__(self, "paths", tuple(map(str, self.paths)))
        if not self.paths:
            raise ValueError("no input was given; name at least one file or folder")
        self.files()

    def files(self) -> list[tuple[str, Path]]:
        """(name, path): the name is the path inside the folder given, and says nothing above it."""
        found: list[tuple[str, Path]] = []
        for given in self.paths:
            path = Path(given).expanduser()
            if path.is_dir():
                inside = _files_in(path)
                if not inside:
                    raise CorpusError(
                        f"the folder {given} holds none of the files that can be read:"
                        f" {', '.join(TEXT_SUFFIXES + JSONL_SUFFIXES + PARQUET_SUFFIXES)}"
                    )
                found += inside
            elif path.is_file():
                if path.name.endswith(".zst"):
                    raise CorpusError(f"{given} is compressed by zstd; unpack it first (unzstd)")
                found.append((path.name, path))
            else:
                raise CorpusError(f"there is no file or folder {given}")
        return found

    def describe(self) -> dict[str, Any]:
        files = describe_files(self.files())
        return {"kind": "files", "field": self.field, "files": files}

    def records(self, skip: int = 0) -> Iterator[Record]:
        every = itertools.chain.from_iterable(
            self._records_of(name, path) for name, path in self.files()
        )
        return itertools.islice(every, skip, None)

    def _records_of(self, name: str, path: Path) -> Iterator[Record]:
        if name.lower().endswith(JSONL_SUFFIXES):
            return _lines(name, path)
        if name.lower().endswith(PARQUET_SUFFIXES):
            return _rows(name, path, self.field)
        return iter([Record("file", name, str(path), path.stat().st_size)])


def text_of(record: Record, field: str) -> str:
    """Open a record: the document's text.

    Raises:
        CorpusError: not UTF-8, not JSON, no such field or no text in it; names the place.
    """
    if record.kind == "text":
        return record.payload if isinstance(record.payload, str) else record.payload.decode()
    if record.kind == "file":
        try:
            data = Path(str(record.payload)).read_bytes()
        except OSError as error:
            raise CorpusError(f"{record.place} cannot be read: {error.strerror}") from None
    else:
        data = record.payload if isinstance(record.payload, bytes) else record.payload.encode()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise CorpusError(
            f"{record.place}: not text in UTF-8 (byte {error.start} is 0x{byte:02x})"
        ) from None
    return text if record.kind == "file" else _field_of(text, field, record.place)


def describe_files(files: Iterable[tuple[str, Path]]) -> list[dict[str, Any]]:
    """Name, size and fingerprint of each file, from (name, path)."""
    return [
        {"name": name, "bytes": path.stat().st_size, "fingerprint": file_fingerprint(path)}
        for name, path in files
    ]


def file_fingerprint(path: Path) -> str:
    """SHA-256 of a file's size and of 64 KiB at each end: quick on any size, and enough to notice
    that a file was replaced or grew. A change of equal length in the middle goes unnoticed."""
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with open(path, "rb") as handle:
        digest.update(handle.read(EDGE))
        handle.seek(max(0, size - EDGE))
        digest.update(handle.read(EDGE))
    return digest.hexdigest()


def _files_in(folder: Path) -> list[tuple[str, Path]]:
    known = TEXT_SUFFIXES + JSONL_SUFFIXES + PARQUET_SUFFIXES
    found = [(path.relative_to(folder).as_posix(), path) for path in folder.rglob("*")]
    return sorted(
        (name, path)
        for name, path in found
        if path.is_file()
        and name.lower().endswith(known)
        and not any(part.startswith(".") for part in name.split("/"))
    )


def _lines(name: str, path: Path) -> Iterator[Record]:
    """The lines of a JSONL file that are not blank, unopened."""
    opener = gzip.open if name.lower().endswith(".gz") else open
    with opener(path, "rb") as handle:
        try:
            for number, line in enumerate(handle, start=1):
                if line.strip():
                    yield Record("json", f"{name}, line {number}", line, len(line))
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise CorpusError(f"{name} is damaged: {error}") from None


def _rows(name: str, path: Path, field: str) -> Iterator[Record]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise CorpusError(
            f"{name} is Parquet, which needs the package pyarrow: pip install pyarrow"
        ) from None
    try:
        with parquet.ParquetFile(path) as table:
            columns = table.schema_arrow.names
            if field not in columns:
                raise CorpusError(f"{name} has no column {field!r}; it has: {', '.join(columns)}")
            number = 0
            for batch in table.iter_batches(ROWS_AT_ONCE, columns=[field]):
                for text in batch.column(0).to_pylist():
                    number += 1
                    yield text_record(text, f"{name}, row {number}", field)
    except (pyarrow.ArrowException, OSError) as error:
        raise CorpusError(f"{name} is no Parquet file, or a damaged one: {error}") from None


def text_record(text: Any, place: str, field: str) -> Record:
    """The record of a table's row; anything but text is refused, a missing value too."""
    if not isinstance(text, str):
        raise CorpusError(f"{place}: {field!r} must be text, got {type(text).__name__}")
    return Record("text", place, text, len(text))


def _field_of(line: str, field: str, place: str) -> str:
    try:
        values = json.loads(line)
    except json.JSONDecodeError as error:
        raise CorpusError(f"{place}: not JSON ({error.msg}, column {error.colno})") from None
    if not isinstance(values, dict):
        raise CorpusError(f"{place}: must be a JSON object, got {type(values).__name__}")
    if field not in values:
        has = ", ".join(map(repr, values)) or "none"
        raise CorpusError(f"{place}: no field {field!r}; there are: {has}")
    text = values[field]
    if not isinstance(text, str):
        raise CorpusError(f"{place}: {field!r} must be text, got {type(text).__name__}")
    return text
