"""`llmcourse progress`: which exercises are solved, on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llmcourse.options import read_options


@dataclass(frozen=True)
class ProgressOptions:
    """Show which exercises you have solved."""


def run(argv: Sequence[str]) -> int:
    read_options(ProgressOptions, argv, "progress")
    from llmcourse.grading.progress import Progress

    print(Progress.load())
    return 0
