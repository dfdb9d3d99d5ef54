"""Where stages are kept: finding and loading them, and refusing stale ones. Part 4.

A stage lives in one of two places. `llmcourse/shipped/NAME` comes with the course;
`runs/stages/NAME` in the course's folder is the learner's own, and wins as long as its recipe is
today's. Both are checkpoint folders, weights in bfloat16, every byte checked when it is read.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import json
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from llmcourse.errors import CheckpointError, CourseError
from llmcourse.model import Transformer
from llmcourse.paths import course_root
from llmcourse.tokenizers import Tokenizer
from llmcourse.train import History, checkpoint

# One module of this package each, in the order of the course. A module has TITLE, PART and BUILT_ON
# (the stage it starts from, or None), and the functions recipe() -> dict, start() -> Run and
# report(stage) -> Report.
NAMES = ("base",)


class StaleStage(CourseError):
    """A stage is missing, or was made by another recipe than today's; says what mends it."""


@dataclass(frozen=True)
class Stage:
    """A model of the course, ready to use."""

    name: str
    model: Transformer  # on the CPU, in evaluation mode
    tokenizer: Tokenizer
    notes: dict[str, Any]  # recipe, corpora, versions, and the report made when it was built
    history: History  # its training: the first updates and a sample of the others
    folder: Path
    own: bool  # built by the learner rather than shipped
    report: Any = None  # what it could do when it was built just now; `report` measures it again


@dataclass(frozen=True)
class Entry:
    """A stage as a line in the list."""

    name: str
    title: str
    part: int
    parameters: int | None  # None if there is nothing to count
    bytes: int  # of the whole folder
    folder: Path | None
    own: bool
    state: str  # "current", "stale" (of another recipe), "damaged" or "missing"


def recipe(name: str) -> dict[str, Any]:
    """Everything a stage's weights hang on, apart from the machine and the Python release.

    Raises:
        ValueError: no stage of that name; the nearest is named.
    """
    module = module_of(name)
    built_on = {name: fingerprint(name) for name in [module.BUILT_ON] if name}
    return {**module.recipe(), "stage": name, "built_on": built_on}


def fingerprint(name: str) -> str:
    """Sixteen hex digits that change whenever the recipe does, or that of a stage below it."""
    text = json.dumps(recipe(name), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def module_of(name: str) -> ModuleType:
    """The module that says how a stage is made.

    Raises:
        ValueError: no stage of that name; the nearest is named.
    """
    if name not in NAMES:
        near = difflib.get_close_matches(str(name), NAMES, n=1)
        guess = f"did you mean {near[0]!r}?" if near else f"there is: {', '.join(NAMES)}"
        raise ValueError(f"there is no stage {name!r}; {guess}")
    return importlib.import_module(f"llmcourse.stages.{name}")


def load(name: str, dtype: torch.dtype = torch.float32) -> Stage:
    """The learner's own stage if today's recipe made it, and otherwise the shipped one.

    Args:
        name: one of `NAMES`.
        dtype: of the weights, which are kept in bfloat16.

    Raises:
        ValueError: no stage of that name.
        StaleStage: there is none, or only one of another recipe; says which command makes it.
        CheckpointError: it is damaged; says which file, and what mends it.
    """
    folder, own = _choose(name)
    return read(name, folder, own, dtype)


def read(name: str, folder: Path, own: bool, dtype: torch.dtype = torch.float32) -> Stage:
    """The stage in a folder, whatever recipe made it; errors as of `load`."""
    remedy = f"make it anew with: llmcourse stages build {name}"
    if own:
        remedy += f", or remove {folder} to use the one that comes with the course"
    try:
        saved = checkpoint.load(folder)
    except CheckpointError as error:
        raise CheckpointError(f"the stage {name!r} cannot be read: {error}; {remedy}") from error
    if saved.tokenizer is None or saved.history is None:
        raise CheckpointError(f"{folder} holds no tokenizer or no history; {remedy}")
    model = saved.model.to(dtype)
    return Stage(name, model, saved.tokenizer, saved.notes, saved.history, folder, own)


def overview() -> list[Entry]:
    """Every stage there is, with where it would come from."""
    return [_entry(name) for name in NAMES]


def state_of(name: str, folder: Path | None) -> str:
    """Of the stage in a folder: "current", "stale" (of another recipe), "damaged" or "missing".

    Only the manifest is looked at; `load` checks every byte.
    """
    manifest = _manifest(folder) if folder else None
    if manifest is None:
        return "missing"
    notes = manifest.get("notes")
    if not isinstance(notes, dict):
        return "damaged"
    return "current" if notes.get("recipe_fingerprint") == fingerprint(name) else "stale"


def own_folder(name: str) -> Path | None:
    """Where the learner's own stage is kept; None without the course's folder."""
    root = course_root()
    return root / "runs" / "stages" / name if root else None


def shipped_folder(name: str) -> Path:
    """Where the stage that comes with the course is kept."""
    return Path(__file__).resolve().parents[1] / "shipped" / name


def _choose(name: str) -> tuple[Path, bool]:
    """The folder to load from, and whether it is the learner's own.

    A damaged stage of one's own is chosen too, so that `load` says what is wrong with it: another
    model in its place would be a surprise that nobody notices.
    """
    module_of(name)
    own, shipped = own_folder(name), shipped_folder(name)
    if own and state_of(name, own) in ("current", "damaged"):
        return own, True
    state, mend = state_of(name, shipped), f"llmcourse stages build {name}"
    if state == "missing":
        raise StaleStage(f"there is no stage {name!r} in {shipped}; make it with: {mend}")
    if state == "stale":
        raise StaleStage(
            f"the stage {name!r} in {shipped} was made by another recipe than today's; make it"
            f" anew with: {mend}"
        )
    return shipped, False


def _entry(name: str) -> Entry:
    module = module_of(name)
    places = [(own_folder(name), True), (shipped_folder(name), False)]
    there = [(folder, own, state_of(name, folder)) for folder, own in places]
    there = [place for place in there if place[2] != "missing"]
    there.sort(key=lambda place: place[2] == "stale")  # stable: the learner's own stays first
    if not there:
        return Entry(name, module.TITLE, module.PART, None, 0, None, False, "missing")
    folder, own, state = there[0]
    notes = (_manifest(folder) or {}).get("notes") or {}
    size = sum(file.stat().st_size for file in folder.iterdir())
    return Entry(name, module.TITLE, module.PART, notes.get("parameters"), size, folder, own, state)


def _manifest(folder: Path) -> dict[str, Any] | None:
    """A checkpoint's manifest, unchecked; None if there is none, {} for one beyond reading."""
    try:
        manifest = json.loads((folder / checkpoint.MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return {}
    return manifest if isinstance(manifest, dict) else {}
