"""`llmcourse where NAME`: file, line, part and paper of a name or a concept."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llmcourse import parts


@dataclass(frozen=True)
class Where:
    """Find a function, a class, a module or a concept: attend, LayerNorm, "top-p", flops."""

    name: tuple[str, ...]  # a name as in the code, or a concept in plain words


def run(argv: Sequence[str]) -> int:
    from llmcourse.options import read_options

    name = " ".join(read_options(Where, argv, "where", positional="name").name)
    found = parts.where(name)
    if not found:
        _report_missing(name)
        return 1
    taught = [location for location in found if location.part is not None]
    for location in taught or found:
        print(_entry(location))
    return 0


def _entry(location: parts.Location) -> str:
    lines = [f"{location.name}  {_short(location.file)}:{location.line}  ({location.kind})"]
    if location.part is not None:
        chapter = location.part.notebook if location.part.ready else "its chapter is to come"
        lines.append(f"    {location.part} ({chapter})")
    if location.paper is not None:
        lines.append(f"    {location.paper}")
    return "\n".join(lines)


def _report_missing(name: str) -> None:
    planned = parts.planned(name)
    if planned is not None:
        print(f"{name} belongs to {planned}, which is not in this edition yet")
        return
    near = parts.nearest(name)
    hint = f"nearest: {', '.join(near)}" if near else "try attend, LayerNorm, top-p or perplexity"
    print(f"nothing is called {name!r}; {hint}")


def _short(path: Path) -> str:
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative
