"""The course's own model after each stage of its life, made once and there for every later part.

    from llmcourse import stages

    base = stages.load("base")              # base.model, base.tokenizer, base.notes
    for record in stages.steps("base", 50): # the first updates of that very run, made again
        ...

Taught in Part 4. A stage comes with the course, so that any part opens without the ones before it;
`llmcourse stages build NAME` trains the learner's own, which then takes its place. Each stage
carries the fingerprint of the recipe that made it. When the recipe changes, the weights are refused
until they are made again, so that no notebook runs on a model that its text does not describe.
"""

from llmcourse.stages.making import build, report, start, steps
from llmcourse.stages.run import Run
from llmcourse.stages.store import (
    NAMES,
    Entry,
    Stage,
    StaleStage,
    fingerprint,
    load,
    overview,
    recipe,
)

__all__ = [
    "NAMES",
    "Entry",
    "Run",
    "Stage",
    "StaleStage",
    "build",
    "fingerprint",
    "load",
    "overview",
    "recipe",
    "report",
    "start",
    "steps",
]
