"""`llmcourse evidence NAME`: make a chapter's recorded measurements anew."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llmcourse.options import read_options


@dataclass(frozen=True)
class Evidence:
    """Make the measurements that a notebook plots beside its live run. Takes minutes."""

    name: str  # part02


def run(argv: Sequence[str]) -> int:
    options = read_options(Evidence, argv, "evidence", positional="name")
    from llmcourse.evidence import make

    print(f"Written to {make(options.name)}")
    return 0
