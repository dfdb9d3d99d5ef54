"""Long evidence in pieces: each finished run is kept, so that a stopped measurement goes on.

The results wait in a folder outside the course, named after the recipe's fingerprint: a changed
recipe finds none of them. They are removed when the evidence is complete, so that making it anew
measures anew, and what is older than a day is not used.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from llmcourse.files import atomic_write

OLDEST = 24 * 3600  # seconds


class Finished:
    """Results of finished runs by name.

    Args:
        name: of the evidence.
        fingerprint: of its recipe.
        folder: where the results wait; None is the system's folder for temporary files.
    """

    def __init__(self, name: str, fingerprint: str, folder: Path | None = None) -> None:
        base = folder or Path(tempfile.gettempdir())
        self.folder = base / f"llmcourse_evidence_{name}_{fingerprint}"

    def get(self, run: str) -> dict[str, Any] | None:
        """A run's result, or None if it is not there, too old or unreadable."""
        path = self._path(run)
        try:
            if time.time() - path.stat().st_mtime > OLDEST:
                return None
            return json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None

    def put(self, run: str, result: dict[str, Any]) -> None:
        """Keep a run's result; whole or not at all."""
        atomic_write(self._path(run), json.dumps(result))

    def clear(self) -> None:
        """The evidence is complete: forget all of it."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, run: str) -> Path:
        safe = "".join(c if c.isalnum() or c in "._-" else "_" for c in run)
        return self.folder / f"{safe}.json"
