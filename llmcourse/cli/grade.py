"""`llmcourse grade PATHS...`: grade notebooks, each in a process of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llmcourse.files import atomic_write
from llmcourse.options import read_options

FORMATS = (".csv", ".json")


@dataclass(frozen=True)
class Grade:
    """Grade exercise notebooks, or folders of them: llmcourse grade exercises/"""

    paths: tuple[str, ...]  # notebooks or folders
    out: str | None = None  # a file for the result: gradebook.csv, or .json with all feedback
    seed: int = 0  # of the inputs the answers are tried on
    timeout: float = 60.0  # seconds that one cell or one check may take

    def __post_init__(self) -> None:
        # Before anything runs: grading a class takes a while.
        if not self.timeout > 0:
            raise ValueError(f"timeout={self.timeout} must be more than 0 seconds")
        for path in self.paths:
            if not Path(path).exists():
                raise ValueError(f"there is no notebook or folder {path}")
        if self.out is not None and Path(self.out).suffix not in FORMATS:
            raise ValueError(f"out={self.out} must end in {' or '.join(FORMATS)}")


def run(argv: Sequence[str]) -> int:
    options = read_options(Grade, argv, "grade", positional="paths")
    from llmcourse.grading.runner import grade

    report = grade(options.paths, seed=options.seed, timeout=options.timeout)
    print(report)
    if options.out is not None:
        table = options.out.endswith(".csv")
        atomic_write(options.out, report.gradebook() if table else report.to_json())
        print(f"\nWritten to {options.out}")
    return 0
