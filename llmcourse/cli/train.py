"""`llmcourse train`: one model, one corpus, every choice in one record."""

from __future__ import annotations

from collections.abc import Sequence

from llmcourse.options import read_options
from llmcourse.runs import TrainRun, perform


def run(argv: Sequence[str]) -> int:
    perform(read_options(TrainRun, argv, "train", config_file=True))
    return 0
