"""Reading the package's own sources: what is defined where, and which paper it cites.

Nothing is imported: a few patterns over the text find every public definition in some ten
milliseconds, and the answer cannot go stale. `llmcourse where` is built on this.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_DEFINITION = re.compile(r"^(?:async )?(def|class) ([A-Za-z]\w*)|^([A-Z][A-Z0-9_]+)\b[^=(]*= ?")
_ARXIV = re.compile(r"arXiv[ :]\s*(\d{4}\.\d{4,5})")
_KINDS = {"def": "function", "class": "class"}


@dataclass(frozen=True)
class Definition:
    """One public name of the package."""

    name: str
    module: str  # dotted
    file: Path
    line: int  # counted from 1
    kind: str  # "function", "class", "constant" or "module"
    cites: tuple[str, ...]  # arXiv numbers in its own text, in order
    header_cites: tuple[str, ...]  # arXiv numbers in the head of its module


@cache
def definitions() -> tuple[Definition, ...]:
    """Every public function, class, constant and module of the package."""
    package = Path(__file__).resolve().parent
    return tuple(
        definition for path in sorted(package.rglob("*.py")) for definition in _read(path, package)
    )


def cited(text: str) -> tuple[str, ...]:
    """The arXiv numbers that a text names, in order: "arXiv 1706.03762" gives "1706.03762"."""
    return tuple(dict.fromkeys(_ARXIV.findall(text)))


def _read(path: Path, package: Path) -> Iterator[Definition]:
    """What one file defines at its top level, and the module itself."""
    names = [package.name, *path.relative_to(package).with_suffix("").parts]
    if names[-1] == "__init__":
        names.pop()
    module = ".".join(names)
    lines = path.read_text(encoding="utf-8").splitlines()
    starts = [(n, match) for n, line in enumerate(lines) if (match := _DEFINITION.match(line))]
    bounds = [n for n, _ in starts] + [len(lines)]
    header = cited("\n".join(lines[: bounds[0]]))
    for (start, match), end in zip(starts, bounds[1:], strict=True):
        own = cited("\n".join(lines[start:end]))
        kind = _KINDS.get(match[1], "constant")
        yield Definition(match[2] or match[3], module, path, start + 1, kind, own, header)
    if len(names) > 1 and not names[-1].startswith("_"):
        yield Definition(names[-1], module, path, 1, "module", (), header)
