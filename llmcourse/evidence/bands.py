"""Bands for "is my loss normal?": where the recorded runs are at which step. Part 2.

A band spans the recorded seeds, widened by a margin, of the training loss averaged over the steps
around: a single batch jumps about by more than what separates a good run from a bad one.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from llmcourse.train import History

MARGIN = (
    0.08  # relative; the seeds differ by less, other machines and Python releases by about this
)
AROUND = 25  # steps on each side that are averaged


def bands(
    runs: Sequence[dict[str, Any]], steps: Sequence[int], margin: float = MARGIN
) -> list[tuple[int, float, float]]:
    """(step, low, high) in nats per token.

    Args:
        runs: of one configuration, as they stand in an evidence file.
        steps: 1 is the untouched model, and is not averaged with its neighbours.
        margin: how far a band reaches beyond the lowest and the highest run, relative.

    Raises:
        ValueError: no runs, or a step that none of them recorded anything near.
    """
    if not runs:
        raise ValueError("bands need at least one run")
    histories = [History.from_json(json.dumps(run["history"])) for run in runs]
    found = []
    for step in steps:
        values = [_near(history, step) for history in histories]
        found.append((step, min(values) * (1 - margin), max(values) * (1 + margin)))
    return found


def table(runs: Sequence[dict[str, Any]], steps: Sequence[int]) -> str:
    """The bands as a table in Markdown."""
    rows = ["| step | usual training loss (nats per token) |", "|---:|---|"]
    rows += [f"| {step:,} | {low:.2f} to {high:.2f} |" for step, low, high in bands(runs, steps)]
    return "\n".join(rows)


def _near(history: History, step: int) -> float:
    around = 0 if step == 1 else AROUND
    near = [
        r.loss
        for r in history.records
        if abs(r.step - step) <= around and (r.step > 1) == (step > 1)
    ]
    if not near:
        raise ValueError(f"no loss was recorded near step {step}")
    return float(np.mean(near))
