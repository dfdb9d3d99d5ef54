"""Where the course keeps things on this machine, and where the course itself is."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def home() -> Path:
    """The folder for downloads, progress and caches: made when needed, always writable.

    `LLMCOURSE_HOME` if it is set, else `llmcourse` in the user's cache folder. Where that cannot
    be written (a read-only home, a locked-down classroom machine) a folder in the system's
    temporary directory serves, so that nothing in the course ever fails for want of a home.

    Raises:
        ValueError: `LLMCOURSE_HOME` is set and cannot be written: a choice made by hand is
            never silently replaced.
    """
    chosen = os.environ.get("LLMCOURSE_HOME")
    if chosen:
        folder = Path(chosen).expanduser()
        if not _writable(folder):
            raise ValueError(f"LLMCOURSE_HOME={chosen} cannot be written; name another folder")
        return folder
    cache = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA")
    folder = Path(cache) if cache else Path("~/.cache").expanduser()
    if _writable(folder / "llmcourse"):
        return folder / "llmcourse"
    user = os.getuid() if hasattr(os, "getuid") else os.environ.get("USERNAME", "user")
    fallback = Path(tempfile.gettempdir()) / f"llmcourse-{user}"
    # The name can be guessed, so on a shared machine somebody else may already own it.
    return fallback if _writable(fallback) else Path(tempfile.mkdtemp(prefix=f"{fallback.name}-"))


def course_root() -> Path | None:
    """The checkout that holds `notebooks/`, or None when only the package is installed.

    The working directory and its parents are tried first (the learner's own copy), then the
    folder this package was imported from.
    """
    here = Path.cwd().resolve()
    package = Path(__file__).resolve().parent
    for folder in (here, *here.parents, package.parent):
        if (folder / "notebooks").is_dir() and (folder / "llmcourse" / "parts.py").is_file():
            return folder
    return None


def _writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False
