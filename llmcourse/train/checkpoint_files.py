"""The files of a checkpoint: which belong to it, whether they are whole, and which are left over.

Used by `llmcourse.train.checkpoint`, which says what is in them. A folder is a checkpoint from the
moment `checkpoint.json`, the manifest, stands in it. It names every other file with its size and
SHA-256, and carries a checksum of itself, so that no flipped bit and no missing end goes unnoticed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from pathlib import Path
from typing import Any

from llmcourse.errors import CheckpointError
from llmcourse.files import sha256_of

MANIFEST = "checkpoint.json"
FORMAT = 1  # raised whenever an older reader would misunderstand a newer file
SEAL = "manifest_sha256"
KINDS = ("weights", "training")  # of safetensors files
# Before manifests were sealed they held exactly these.
UNSEALED = {"format", "llmcourse", "config", "weights", "tokenizer", "history", "notes"}
# Files of earlier checkpoints, and what a save that was killed had under temporary names.
ORPHANS = (
    *(f"{kind}-*.safetensors" for kind in KINDS),
    *(f".{kind}-*.tmp" for kind in KINDS),
    f".{MANIFEST}.*.tmp",
)


def entry_of(kind: str, data: bytes) -> dict[str, Any]:
    """What the manifest says about a file; its name is made from its contents."""
    checksum = hashlib.sha256(data).hexdigest()
    name = f"{kind}-{checksum[:16]}.safetensors"
    return {"file": name, "bytes": len(data), "sha256": checksum}


def sealed(manifest: dict[str, Any]) -> str:
    """The manifest as text, with a checksum of what it says.

    The checksum is of the values, not of the text: line ends that a version control system changes
    on the way to another machine do no harm.

    Raises:
        TypeError: something JSON cannot say.
    """
    plain = json.loads(json.dumps(manifest))  # numbers as keys become text, tuples lists
    plain.pop(SEAL, None)
    return json.dumps(plain | {SEAL: _checksum(plain)}, indent=1)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a checkpoint folder.

    Raises:
        CheckpointError: none there, damaged, changed, or of a format that cannot be read.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise CheckpointError(
            f"no checkpoint at {folder}: expected a folder that holds {MANIFEST}, "
            f"as written by llmcourse.train.checkpoint.save or `llmcourse train`"
        )
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged: it is not JSON ({error})") from error
    if not isinstance(manifest, dict) or not {"format", "config", "weights"} <= manifest.keys():
        raise CheckpointError(f"{path} is not a checkpoint: format, config or weights is missing")
    if manifest["format"] != FORMAT:
        raise CheckpointError(
            f"{path} has format {manifest['format']}; this version of llmcourse reads {FORMAT}"
        )
    seal = manifest.pop(SEAL, None)
    if seal is None and manifest.keys() <= UNSEALED:
        pass  # from before manifests were sealed
    elif seal != _checksum(manifest):
        raise CheckpointError(
            f"{path} is damaged or was changed by hand: its checksum is not the one that was saved"
        )
    if not _is_entry(manifest["weights"]):
        raise CheckpointError(f"{path} does not say which weights belong to it")
    training = manifest.get("training")
    if training is not None and not (
        _is_entry(training) and isinstance(training.get("facts"), dict)
    ):
        raise CheckpointError(f"{path} does not say which training state belongs to it")
    return manifest


def read_file(folder: Path, entry: dict[str, Any]) -> bytes:
    """The bytes of a file that a manifest names.

    Raises:
        CheckpointError: missing, truncated or damaged; names the file.
    """
    path = _path(folder, entry)
    _check_size(path, entry)
    data = path.read_bytes()
    _check_sum(path, entry, hashlib.sha256(data).hexdigest())
    return data


def verify(path: Path | str) -> None:
    """Read every byte of a checkpoint folder and compare it with what was saved; builds nothing.

    Raises:
        CheckpointError: no checkpoint there, or the file that is missing, truncated or damaged.
    """
    folder = Path(path)
    manifest = read_manifest(folder)
    for kind in KINDS:
        if entry := manifest.get(kind):
            file = _path(folder, entry)
            _check_size(file, entry)
            _check_sum(file, entry, sha256_of(file))


def clear_orphans(folder: Path) -> None:
    """Delete the files of ours that the manifest does not name; with a damaged one, delete none."""
    kept: set[str] = set()
    if (folder / MANIFEST).exists():
        try:
            manifest = read_manifest(folder)
        except (CheckpointError, OSError):
            return
        kept = {_path(folder, manifest[kind]).name for kind in KINDS if manifest.get(kind)}
    for pattern in ORPHANS:
        for orphan in folder.glob(pattern):
            if orphan.name not in kept:
                with contextlib.suppress(OSError):
                    orphan.unlink()


def _checksum(manifest: dict[str, Any]) -> str:
    text = json.dumps(manifest, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _is_entry(entry: Any) -> bool:
    wanted = {"file", "bytes", "sha256"}
    return isinstance(entry, dict) and wanted <= entry.keys() and isinstance(entry["bytes"], int)


def _path(folder: Path, entry: dict[str, Any]) -> Path:
    # A name with a folder in it could point anywhere on the disk.
    return folder / Path(str(entry["file"])).name


def _check_size(path: Path, entry: dict[str, Any]) -> None:
    if not path.is_file():
        raise CheckpointError(f"{path} is missing; the checkpoint is incomplete")
    size = path.stat().st_size
    if size != entry["bytes"]:
        how = "truncated" if size < entry["bytes"] else "too long"
        raise CheckpointError(
            f"{path} is {how}: {size:,} bytes of {entry['bytes']:,}; take it from a copy"
        )


def _check_sum(path: Path, entry: dict[str, Any], checksum: str) -> None:
    if checksum != entry["sha256"]:
        raise CheckpointError(f"{path} is damaged: its checksum is not the one that was saved")
