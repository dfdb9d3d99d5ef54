"""A file with one JSON object a line: the tracker that needs nothing and that every tool reads.

Taught in Part 4. The lines of a run:

    {"config": {"steps": 100}, "resumed_after": null}
    {"step": 1, "values": {"loss": 5.54, "learning_rate": 2e-05}}
    {"step": 50, "name": "sample", "text": "Once upon a sunny day"}

A line is written whole and at once, without a buffer, so a run that is killed leaves whole lines,
and at worst the beginning of one more. A resumed run goes on in the same file: first the half line
and all records after the checkpoint's step are taken out, in a new file that replaces the old one
at once; so no step is there twice.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from llmcourse.errors import TrackingError
from llmcourse.files import atomic_write
from llmcourse.train.tracking.base import Tracker
from llmcourse.train.tracking.plain import json_line


class JsonlTracker(Tracker):
    """Appends records to a file."""

    name = "JSONL"

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__()
        self.path = Path(path)
        self._file: Any = None

    def _start(self, config: dict[str, Any], resume_step: int | None) -> None:
        if resume_step is not None and self.path.exists():
            kept = [r for r in read_jsonl(self.path) if _step_of(r) <= resume_step]
            atomic_write(self.path, b"".join(map(json_line, kept)))
        elif self.path.is_file() and self.path.stat().st_size > 0:
            raise TrackingError(
                f"{self.path} holds the records of another run; choose another file, or go on with"
                " that run by start(config, resume_step=...)"
            )
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(self.path, "ab", buffering=0)  # noqa: SIM115 (open as long as the run)
        try:
            self._write({"config": config, "resumed_after": resume_step})
        except BaseException:
            self._file.close()
            raise

    def _log(self, step: int, values: dict[str, float | int]) -> None:
        self._write({"step": step, "values": values})

    def _text(self, step: int, name: str, text: str) -> None:
        self._write({"step": step, "name": name, "text": text})

    def _finish(self) -> None:
        try:
            os.fsync(self._file.fileno())
        finally:
            self._file.close()

    def _write(self, record: dict[str, Any]) -> None:
        line = json_line(record)
        written = self._file.write(line)
        if written != len(line):  # a disk that is nearly full takes a part and says so only here
            raise OSError(f"only {written} of {len(line)} bytes could be written to {self.path}")


def read_jsonl(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The records of a file, in order; the beginning of a line at its very end is left out.

    Raises:
        TrackingError: a line is no JSON object, or not one of ours.
        OSError: the file cannot be read.
    """
    records: list[dict[str, Any]] = []
    lines = Path(path).read_bytes().split(b"\n")
    # What follows the last line end is empty, or was being written when the run was killed.
    for number, line in enumerate(lines[:-1], start=1):
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if not isinstance(record, dict) or not (record.keys() & {"config", "step"}):
            raise TrackingError(f"{path}, line {number} is not a record of a run: {line[:60]!r}")
        records.append(record)
    return records


def _step_of(record: dict[str, Any]) -> int:
    """The step of a record; that of the line which begins or resumes a run is where it begins."""
    return record["step"] if "step" in record else record["resumed_after"] or 0
