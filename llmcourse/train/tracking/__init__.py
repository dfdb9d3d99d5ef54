"""Tracking: what happened at which step, on the console, in files, in other people's tools.

Taught in Part 4. One interface of four calls (`Tracker`: start, log, text, finish) and several
places to write to; `Trackers` makes one of several.

    base           the interface; what a tracker may and may not do to a run
    plain          configurations and numbers that any file can hold
    several        several at once
    console        printed lines
    jsonl          a file with one JSON object a line
    tensorboard    event files
    wandb          Weights & Biases, offline unless asked
"""

from llmcourse.errors import TrackingError
from llmcourse.train.tracking.base import Tracker
from llmcourse.train.tracking.console import ConsoleTracker
from llmcourse.train.tracking.jsonl import JsonlTracker, read_jsonl
from llmcourse.train.tracking.several import Trackers
from llmcourse.train.tracking.tensorboard import TensorBoardTracker
from llmcourse.train.tracking.wandb import WandbTracker

__all__ = [
    "ConsoleTracker",
    "JsonlTracker",
    "TensorBoardTracker",
    "Tracker",
    "Trackers",
    "TrackingError",
    "WandbTracker",
    "read_jsonl",
]
