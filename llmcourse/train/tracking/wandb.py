"""Weights & Biases: runs to compare on a web page, kept on disk until there is a network. Part 4.

Offline is the default: nothing leaves the machine, and `wandb sync FOLDER` uploads the run later.
The mode is an argument, or the environment's WANDB_MODE. The library is told to be silent, since
what it prints would land in the output of a notebook's cell, and not to copy the console.
"""

from __future__ import annotations

import html
import os
from pathlib import Path
from typing import Any

from llmcourse.train.tracking.base import Tracker

MODES = ("online", "offline", "disabled")


class WandbTracker(Tracker):
    """Writes a run of Weights & Biases.

    Deviation: a resumed run needs the `run_id` of the first. Offline it is a folder of its own that
    the service joins to the first by that id; the service cannot take back what it was sent, so
    where the two overlap it keeps the first value of a step.

    Raises:
        ValueError: there is no such mode.
    """

    name = "Weights & Biases"

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        project: str = "llmcourse",
        run_id: str | None = None,
        mode: str | None = None,
    ) -> None:
        """
        Args:
            folder: the library makes a folder "wandb" in it.
            project: what the run is filed under.
            run_id: letters and digits that name the run for ever; made up if None.
            mode: "online", "offline" or "disabled"; None takes WANDB_MODE, else "offline".
        """
        super().__init__()
        mode = mode or os.environ.get("WANDB_MODE") or "offline"
        if mode not in MODES:
            raise ValueError(f"mode must be one of {', '.join(MODES)}, got {mode!r}")
        self.folder, self.project, self.run_id, self.mode = Path(folder), project, run_id, mode
        self.run: Any = None  # the library's own run, for what goes beyond this interface

    def _start(self, config: dict[str, Any], resume_step: int | None) -> None:
        import wandb

        self.folder.mkdir(parents=True, exist_ok=True)
        self.run = wandb.init(
            project=self.project,
            dir=str(self.folder),
            id=self.run_id,
            # Offline there is nobody to ask whether the run exists: the same id is enough.
            resume="allow" if resume_step is not None and self.mode == "online" else None,
            mode=self.mode,
            config={**config, "resumed_after": resume_step},
            settings=wandb.Settings(silent=True, console="off"),
        )
        self.run_id = self.run.id

    def _log(self, step: int, values: dict[str, float | int]) -> None:
        self.run.log(values, step=step)

    def _text(self, step: int, name: str, text: str) -> None:
        import wandb

        page = wandb.Html(f"<pre>{html.escape(text)}</pre>", inject=False)
        self.run.log({name: page}, step=step)

    def _finish(self) -> None:
        self.run.finish()
