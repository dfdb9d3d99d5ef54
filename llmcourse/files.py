"""Writing files so that a crash never leaves half of one.

A file is written beside its target under a temporary name, flushed to the disk, and only then
renamed over the target. The rename is atomic on every system we run on: a reader sees the old file
or the new one, never a mixture, and an interrupted write leaves the old one in place.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import tempfile
from pathlib import Path


def atomic_write(path: str | os.PathLike[str], data: bytes | str) -> None:
    """Write `data` to `path`, all of it or none of it.

    Text is encoded as UTF-8 with the line ends it has. Folders on the way are made; a file that
    is there keeps its mode.

    Raises:
        TypeError: `data` is neither `bytes` nor `str`.
        OSError: the disk refuses (full, read-only, no permission); the old file is untouched.
    """
    if isinstance(data, str):
        data = data.encode("utf-8")
    if not isinstance(data, bytes | bytearray | memoryview):
        raise TypeError(f"data must be bytes or str, got {type(data).__name__}")
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(
        # The name in part only: with all of it, a name near the system's limit would not fit.
        prefix=f".{target.name[:40]}.",
        suffix=".tmp",
        dir=target.parent,
    )
    try:
        with os.fdopen(descriptor, "wb") as handle:
            handle.write(data)
            handle.flush()
            os.fsync(handle.fileno())
        # mkstemp makes the file private to its owner; an ordinary write keeps the mode of a file
        # that is there (which may be private too) and gives a new one what the umask leaves.
        mode = stat.S_IMODE(target.stat().st_mode) if target.exists() else 0o666 & ~_umask()
        os.chmod(temporary, mode)
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    sync_folder(target.parent)


def sha256_of(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a file's bytes in hexadecimal, read in pieces of one megabyte."""
    digest = hashlib.sha256()
    with open(path, "rb") as handle:
        while block := handle.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _umask() -> int:
    # The mask can only be read by setting it; set it back at once.
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def sync_folder(folder: Path) -> None:
    """Write a folder's list of names to the disk, where the system has a way to.

    A rename is an entry in the folder: without this, a power cut could still lose it.
    """
    # Windows cannot open folders and does not need to.
    if os.name == "nt":
        return
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
