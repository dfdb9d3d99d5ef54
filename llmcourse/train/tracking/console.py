"""The console: a line now and then. Part 4."""

from __future__ import annotations

import sys
from typing import Any, TextIO

from llmcourse.train.tracking.base import Tracker


class ConsoleTracker(Tracker):
    """Prints values and texts, above a progress bar where there is one.

    Raises:
        ValueError: `every` is not positive.
    """

    name = "console"

    def __init__(self, *, every: int = 1, stream: TextIO | None = None) -> None:
        """
        Args:
            every: updates between two lines of values; texts are printed always.
            stream: where to; by default what sys.stdout is when something is printed.
        """
        super().__init__()
        if not isinstance(every, int) or isinstance(every, bool) or every < 1:
            raise ValueError(f"every must be a whole number of at least 1, got {every!r}")
        self.every = every
        self.stream = stream

    def _start(self, config: dict[str, Any], resume_step: int | None) -> None:
        if resume_step is not None:
            self._print(f"going on after step {resume_step}")

    def _log(self, step: int, values: dict[str, float | int]) -> None:
        if step % self.every == 0:
            row = "  ".join(f"{name} {_short(value)}" for name, value in values.items())
            self._print(f"step {step}  {row}")

    def _text(self, step: int, name: str, text: str) -> None:
        # Indented, so that it is plain where a sample of several lines ends.
        self._print(f"step {step}  {name}:\n" + "\n".join("    " + s for s in text.split("\n")))

    def _finish(self) -> None:
        (self.stream or sys.stdout).flush()

    def _print(self, line: str) -> None:
        from tqdm import tqdm

        tqdm.write(line, file=self.stream or sys.stdout)


def _short(value: float | int) -> str:
    """Four significant digits, thousands with commas: 2.345, 0.0003, 12,345."""
    if isinstance(value, int) or 1e3 <= abs(value) < 1e15:
        return f"{value:,.0f}"
    return f"{value:.4g}"
