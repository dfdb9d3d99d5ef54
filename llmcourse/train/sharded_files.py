"""The files of a sharded checkpoint: which belong to it, and whether they are whole.

Used by `llmcourse.train.sharded_checkpoint`, which says what is in them. Part 4.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmcourse.errors import CheckpointError
from llmcourse.files import sha256_of

MANIFEST = "sharded.json"
FORMAT = 1  # raised whenever an older reader would misunderstand a newer file


def describe_files(inside: Path) -> dict[str, dict[str, Any]]:
    """Size and SHA-256 of every file of a folder, by name."""
    return {
        file.name: {"bytes": file.stat().st_size, "sha256": sha256_of(file)}
        for file in sorted(inside.iterdir())
    }


def read_manifest(folder: Path) -> dict[str, Any]:
    """What `sharded.json` says.

    Raises:
        CheckpointError: none there, damaged, or of a format that cannot be read.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"there is no sharded checkpoint in {folder}") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder / MANIFEST} cannot be read: {error}") from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise CheckpointError(
            f"{folder / MANIFEST} is not of the format {FORMAT} that this version reads"
        )
    kinds = {"folder": str, "files": dict, "training": dict, "scalars": list, "notes": dict}
    for name, kind in kinds.items():
        if not isinstance(manifest.get(name), kind):
            raise CheckpointError(f"{folder / MANIFEST} is damaged: it lacks {name!r}")
    for name in (manifest["folder"], *manifest["files"]):
        if not name or Path(name).name != name:  # nothing outside the checkpoint's folder is read
            raise CheckpointError(f"{folder / MANIFEST} is damaged: {name!r} is no file name")
    return manifest


def free_name(folder: Path, step: int) -> str:
    """The same on every process: a folder that the checkpoint which is there does not use."""
    name = f"shards-{step:08d}-0"
    try:
        used = json.loads((folder / MANIFEST).read_text(encoding="utf-8")).get("folder")
    except (OSError, ValueError, AttributeError):
        used = None
    return name if used != name else f"shards-{step:08d}-1"


def check_files(inside: Path, files: Mapping[str, Any], known: set[str] | None = None) -> None:
    """Compare every file with what the manifest says about it.

    Args:
        inside: the folder.
        files: those to read, as the manifest describes them.
        known: all that belong there; None means that `files` are all.

    Raises:
        CheckpointError: one is missing, damaged, or does not belong there; it is named.
    """
    for name, entry in files.items():
        file = inside / name
        if not file.is_file():
            raise CheckpointError(f"{file} is missing")
        if file.stat().st_size != entry["bytes"] or sha256_of(file) != entry["sha256"]:
            raise CheckpointError(f"{file} is damaged: its contents are not what was saved")
    # The reader takes every file of the folder for a part of the checkpoint.
    for file in inside.iterdir() if inside.is_dir() else ():
        if file.name not in (known or files):
            raise CheckpointError(f"{file} does not belong to this checkpoint; remove it")
