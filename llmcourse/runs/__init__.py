"""A whole training run from one record: what `llmcourse train`, the evidence and benchmarks share.

from llmcourse.runs import perform, read_run

result = perform(read_run("configs/showcase.yaml"))
"""

from llmcourse.runs.choices import ModelOptions, TalesOptions, TrainRun, read_run
from llmcourse.runs.perform import Result, perform, steps_of

__all__ = [
    "ModelOptions",
    "Result",
    "TalesOptions",
    "TrainRun",
    "perform",
    "read_run",
    "steps_of",
]
