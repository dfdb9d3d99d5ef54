"""The trackers that a run asks for, as one."""

from __future__ import annotations

from pathlib import Path

from llmcourse.options import as_dict
from llmcourse.runs.choices import TrainRun
from llmcourse.train import TrainState
from llmcourse.train.tracking import (
    ConsoleTracker,
    JsonlTracker,
    TensorBoardTracker,
    Tracker,
    Trackers,
    WandbTracker,
)


def open_tracker(options: TrainRun, state: TrainState) -> Tracker:
    """Started, beside the run's checkpoint; a resumed run goes on where its state stands.

    Raises:
        TrackingError: one of them cannot work, or its files are another run's.
    """
    out, asked = Path(options.out), options.tracking
    trackers: list[Tracker] = []
    if asked.console_every:
        trackers.append(ConsoleTracker(every=asked.console_every))
    if asked.jsonl:
        trackers.append(JsonlTracker(out / "tracking.jsonl"))
    if asked.tensorboard:
        trackers.append(TensorBoardTracker(out / "tensorboard"))
    if asked.wandb:
        trackers.append(WandbTracker(out))
    resume_step = state.step if options.resume and state.step else None
    return Trackers(*trackers).start(as_dict(options), resume_step=resume_step)
