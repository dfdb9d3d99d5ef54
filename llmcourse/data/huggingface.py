"""Data sets of Hugging Face as records: streamed from the hub, or from a local folder. Part 4.

A stream reads what it is asked for and stores nothing, so a data set may be larger than the disk.
Needs the package datasets, imported only when a source is opened.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmcourse.data.records import FileSource, Record, Source, describe_files, text_record
from llmcourse.errors import CorpusError


@dataclass(frozen=True)
class HuggingFaceSource:
    """A data set by its name on the hub, streamed, or a local folder: saved by `save_to_disk`,
    or of files that `load_dataset` understands.

    Raises:
        CorpusError: the package datasets is missing (when opened).
    """

    name: str  # "HuggingFaceFW/fineweb-edu", or a folder
    field: str = "text"  # column
    split: str = "train"  # part of the data set
    subset: str | None = None  # configuration, where a data set has several
    revision: str | None = None  # commit on the hub; None is the newest, which may change

    def describe(self) -> dict[str, Any]:
        found: dict[str, Any] = {"kind": "huggingface", "field": self.field, "split": self.split}
        folder = Path(self.name).expanduser()
        if folder.is_dir():
            files = sorted(
                (path.relative_to(folder).as_posix(), path)
                for path in folder.rglob("*")
                if path.is_file()
            )
            return found | {"subset": self.subset, "files": describe_files(files)}
        return found | {"name": self.name, "subset": self.subset, "revision": self.revision}

    def records(self, skip: int = 0) -> Iterator[Record]:
        rows = self._open()
        columns = rows.column_names
        if columns is not None and self.field not in columns:
            raise CorpusError(
                f"hf:{self.name} has no column {self.field!r}; it has: {', '.join(columns)}"
            )
        for number, row in enumerate(rows.skip(skip), start=skip + 1):
            yield text_record(row.get(self.field), f"hf:{self.name}, row {number}", self.field)

    def _open(self) -> Any:
        try:
            import datasets
        except ImportError:
            raise CorpusError(
                "Hugging Face's data sets need the package datasets: pip install datasets"
            ) from None
        folder = Path(self.name).expanduser()
        try:
            if not any((folder / mark).is_file() for mark in ("state.json", "dataset_dict.json")):
                name = str(folder) if folder.is_dir() else self.name
                return datasets.load_dataset(
                    name, self.subset, split=self.split, streaming=True, revision=self.revision
                )
            rows = datasets.load_from_disk(str(folder))
        except (OSError, ValueError) as error:
            # A network that is not there, a name that is not, a split that is not: all come so.
            raise CorpusError(f"hf:{self.name} cannot be opened: {error}") from error
        if isinstance(rows, datasets.DatasetDict):
            if self.split not in rows:
                raise CorpusError(
                    f"hf:{self.name} has no split {self.split!r}; it has: {', '.join(rows)}"
                )
            rows = rows[self.split]
        return rows


def open_source(inputs: Sequence[str], field: str = "text", **options: Any) -> Source:
    """`hf:NAME` or files and folders; the options are those of `HuggingFaceSource`.

    Raises:
        ValueError: nothing given, or hf:NAME among other inputs.
        CorpusError: as the source chosen.
    """
    names = [name for name in inputs if name.startswith("hf:")]
    if not names:
        return FileSource(tuple(inputs), field)
    if len(inputs) > 1:
        raise ValueError(f"{names[0]} must be the only input; prepare others into other folders")
    if names == ["hf:"]:
        raise ValueError("hf: needs a name or a folder behind it, as in hf:my_dataset")
    return HuggingFaceSource(names[0].removeprefix("hf:"), field, **options)
