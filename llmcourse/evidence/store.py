"""Reading and writing evidence files, and refusing stale ones."""

from __future__ import annotations

import difflib
import hashlib
import importlib
import json
from pathlib import Path
from types import ModuleType
from typing import Any

from llmcourse.devices import provenance
from llmcourse.errors import CourseError
from llmcourse.files import atomic_write
from llmcourse.paths import course_root

# One module of this package each: recipe() -> dict and measure(say) -> dict.
NAMES = ("part02", "part03", "part04", "part05")


class StaleEvidence(CourseError):
    """An evidence file is missing, damaged, or was made by another recipe than today's."""


def path_of(name: str) -> Path:
    """notebooks/evidence/NAME.json in the course's checkout.

    Raises:
        ValueError: no evidence of that name; the nearest is named.
        StaleEvidence: there is no checkout, only the installed package.
    """
    _module(name)
    root = course_root()
    if root is None:
        raise StaleEvidence("evidence lives in the course's checkout; run this inside it")
    return root / "notebooks" / "evidence" / f"{name}.json"


def recipe_fingerprint(name: str) -> str:
    """Sixteen hex digits that change whenever the recipe of `name` does."""
    text = json.dumps(_module(name).recipe(), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def make(name: str) -> Path:
    """Measure all that `name` stands for and write its file. Takes minutes; prints as it goes."""
    path = path_of(name)
    results = _module(name).measure(lambda text: print(text, flush=True))
    record = {
        "recipe": _module(name).recipe(),
        "recipe_fingerprint": recipe_fingerprint(name),
        **provenance(),
        **results,
    }
    atomic_write(path, json.dumps(record, indent=1) + "\n")
    return path


def load(name: str) -> dict[str, Any]:
    """The evidence, if it was made by the recipe as it is now.

    Raises:
        ValueError: no evidence of that name.
        StaleEvidence: missing, damaged or made by another recipe; says which command makes it anew.
    """
    path = path_of(name)
    remedy = f"make it anew with: llmcourse evidence {name}"
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise StaleEvidence(f"{path} is missing; {remedy}") from error
    except ValueError as error:
        raise StaleEvidence(f"{path} is damaged ({error}); {remedy}") from error
    if record.get("recipe_fingerprint") != recipe_fingerprint(name):
        raise StaleEvidence(f"{path} was made by another recipe than today's; {remedy}")
    return record


def _module(name: str) -> ModuleType:
    if name not in NAMES:
        near = difflib.get_close_matches(name, NAMES, n=1)
        guess = f"did you mean {near[0]!r}?" if near else f"there is: {', '.join(NAMES)}"
        raise ValueError(f"there is no evidence {name!r}; {guess}")
    return importlib.import_module(f"llmcourse.evidence.{name}")
