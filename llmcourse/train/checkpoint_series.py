"""The checkpoints in a folder: which there are, which is newest and which is best.

Taught in Part 4. Nothing but the folders themselves says it, so there is no list that a crash could
leave wrong. `step-00000100` is the checkpoint after 100 updates if a manifest stands in it; without
one it is what a crash left, of a save or of a removal.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
from pathlib import Path

from llmcourse.errors import CheckpointError
from llmcourse.files import sync_folder
from llmcourse.train.checkpoint_files import MANIFEST, clear_orphans, read_manifest, verify

NAME = re.compile(r"step-(\d{8,})")


def folder_of(folder: Path, step: int) -> Path:
    """Where the checkpoint after `step` updates stands."""
    return folder / f"step-{step:08d}"


def steps(folder: str | os.PathLike[str]) -> dict[int, Path]:
    """The checkpoints in a folder, by the number of updates they were saved after, ascending.

    Their files have not been checked. What a crash left behind is not among them.
    """
    return {
        s: path for s, path in step_folders(Path(folder)).items() if (path / MANIFEST).is_file()
    }


def newest(folder: str | os.PathLike[str]) -> Path | None:
    """The checkpoint a run goes on from, every byte of it checked; None if there is none.

    Raises:
        CheckpointError: it is damaged. The message names the file, and the newest older checkpoint
            that is whole. That one is not taken silently: somebody should know that a disk
            loses data.
    """
    found = list(steps(folder).values())
    if not found:
        return None
    *older, last = found
    try:
        verify(last)
    except CheckpointError as error:
        whole = next((path for path in reversed(older) if _is_whole(path)), None)
        if whole is None:
            advice = "no older one is whole"
        else:
            advice = f"{whole} is whole: delete {last} to go on from there"
        raise CheckpointError(f"{error}; {advice}") from error
    return last


def best(folder: str | os.PathLike[str]) -> Path | None:
    """The checkpoint with the lowest validation loss, every byte of it checked; None if there is
    none that was validated.

    Raises:
        CheckpointError: it, or the manifest of one it is compared with, is damaged; names the file.
    """
    losses = validation_losses(folder)
    if not losses:
        return None
    path = folder_of(Path(folder), min(losses, key=losses.__getitem__))
    verify(path)
    return path


def step_folders(folder: Path) -> dict[int, Path]:
    """All `step-...` folders by their step, ascending, whole or not."""
    try:
        names = [path.name for path in folder.iterdir() if path.is_dir()]
    except (FileNotFoundError, NotADirectoryError):
        return {}
    found = sorted(int(match.group(1)) for name in names if (match := NAME.fullmatch(name)))
    paths = {step: folder_of(folder, step) for step in found}
    return {step: path for step, path in paths.items() if path.name in names}


def validation_losses(
    folder: str | os.PathLike[str], *, skip_damaged: bool = False
) -> dict[int, float]:
    """Step -> validation loss in nats per token, of every checkpoint that has one, ascending.

    Raises:
        CheckpointError: a manifest is damaged, unless those are to be skipped.
    """
    losses = {}
    for step, path in steps(folder).items():
        try:
            notes = read_manifest(path).get("notes") or {}
        except CheckpointError:
            if skip_damaged:
                continue
            raise
        loss = (notes.get("checkpoint") or {}).get("validation_loss")
        if loss is not None and loss < math.inf:  # false for a nan
            losses[step] = loss
    return losses


def remove(path: Path) -> None:
    """A checkpoint, or what is left of one; other people's files in it stay, and so does it."""
    with contextlib.suppress(OSError):
        (path / MANIFEST).unlink(missing_ok=True)
        sync_folder(path)
        clear_orphans(path)
        path.rmdir()


def _is_whole(path: Path) -> bool:
    try:
        verify(path)
    except CheckpointError:
        return False
    return True
