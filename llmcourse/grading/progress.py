"""What a learner has solved: one small file, kept by `check`, shown by `llmcourse progress`.

Nothing is remembered under tests, in continuous integration, or with LLMCOURSE_PROGRESS=off. A
damaged file is set aside under another name and never stops a check.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from llmcourse import paths
from llmcourse.files import atomic_write

_BAR = 20  # characters


@dataclass(frozen=True)
class Entry:
    """One exercise's history."""

    attempts: int = 0  # checks of an attempted answer, until and including the first right one
    passed: str | None = None  # when it was first right, ISO 8601 in UTC
    message: str = ""  # the last feedback

    def __post_init__(self) -> None:
        right = isinstance(self.attempts, int) and isinstance(self.message, str)
        if not right or not (self.passed is None or isinstance(self.passed, str)):
            raise ValueError("an entry holds attempts (int), passed (text or null), message (text)")


@dataclass
class Progress:
    """All entries by exercise id. `str(progress)` is the table a learner sees."""

    entries: dict[str, Entry] = field(default_factory=dict)
    notice: str | None = None  # what was wrong with the file, if anything was

    @staticmethod
    def path() -> Path:
        return paths.home() / "progress.json"

    @classmethod
    def load(cls) -> Progress:
        """What is remembered; a damaged file is renamed and reported in `notice`."""
        path = cls.path()
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return cls()
        except UnicodeDecodeError:
            text = ""
        except OSError as error:
            return cls(notice=f"Progress cannot be read ({path}: {error.strerror}).")
        try:
            stored = json.loads(text)["exercises"]
            return cls({name: Entry(**entry) for name, entry in stored.items()})
        except (ValueError, KeyError, TypeError, AttributeError):
            aside = _free_name(path)
            try:
                os.replace(path, aside)
            except OSError as error:
                return cls(notice=f"Progress is damaged ({path}: {error.strerror}).")
            return cls(notice=f"The progress file was damaged; it now lies at {aside}.")

    def save(self) -> None:
        """Write everything, or leave the old file as it was.

        Raises:
            OSError: the disk refuses.
        """
        stored = {name: asdict(entry) for name, entry in sorted(self.entries.items(), key=_order)}
        text = json.dumps({"version": 1, "exercises": stored}, indent=1, ensure_ascii=False)
        atomic_write(self.path(), text + "\n")

    def record(self, exercise_id: str, status: str, message: str) -> None:
        """Note one check; the first time an answer is right is kept."""
        before = self.entries.get(exercise_id, Entry())
        passed = before.passed
        attempts = before.attempts + (status != "not attempted" and passed is None)
        if status == "passed" and passed is None:
            passed = datetime.now(UTC).isoformat(timespec="seconds")
        self.entries[exercise_id] = Entry(attempts, passed, message)

    def passed(self, exercise_id: str) -> bool:
        return self.entries.get(exercise_id, Entry()).passed is not None

    def __str__(self) -> str:
        from llmcourse.grading.records import PARTS, exercises

        lines = [self.notice] if self.notice else []
        following = None
        for part in PARTS:
            records = exercises(part)
            done = [record for record in records if self.passed(record.id)]
            filled = _BAR * len(done) // len(records)
            bar = "#" * filled + "." * (_BAR - filled)
            points, most = sum(r.points for r in done), sum(r.points for r in records)
            lines.append(
                f"Part {part:<2} [{bar}] {len(done):2} of {len(records)} exercises, "
                f"{points:2} of {most} points"
            )
            left = [record for record in records if record not in done]
            following = following or (left[0] if left else None)
        if following is None:
            lines.append("All exercises are solved. Well done.")
        else:
            tried = self.entries.get(following.id, Entry()).attempts
            again = f", {tried} {'try' if tried == 1 else 'tries'} so far" if tried else ""
            lines.append(
                f"Next: {following.id} {following.title} (about {following.minutes} minutes"
                f"{again}) in exercises/part{following.part:02d}.ipynb"
            )
        return "\n".join(lines)


def enabled() -> bool:
    """Whether this is a learner's session rather than a test, a build or a grader."""
    environment = os.environ
    if environment.get("LLMCOURSE_PROGRESS", "").lower() in {"off", "0", "no", "false"}:
        return False
    return "PYTEST_CURRENT_TEST" not in environment and not environment.get("CI")


def remember(exercise_id: str, status: str, message: str) -> str | None:
    """Note one check if this is a learner's session; returns a notice if something went wrong."""
    if not enabled():
        return None
    try:
        progress = Progress.load()
        progress.record(exercise_id, status, message)
        progress.save()
        return progress.notice
    except (OSError, ValueError) as error:
        # Feedback matters more than the record of it.
        return f"Progress could not be saved: {error}"


def _order(item: tuple[str, Any]) -> tuple[int, ...]:
    pieces = item[0].split(".")
    return tuple(int(piece) if piece.isdigit() else 0 for piece in pieces)


def _free_name(path: Path) -> Path:
    for number in range(1, 1000):
        candidate = path.with_name(f"{path.stem}.damaged-{number}{path.suffix}")
        if not candidate.exists():
            return candidate
    return path.with_name(f"{path.stem}.damaged{path.suffix}")
