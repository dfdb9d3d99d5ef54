"""Making stages: the whole run, its first updates, and the measuring. Part 4."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from llmcourse.devices import provenance
from llmcourse.stages import store
from llmcourse.stages.run import Run
from llmcourse.stages.store import Stage
from llmcourse.train import History, StepRecord, checkpoint

KEEP_FIRST = 64  # records of the first updates, all kept: a test makes them again
KEEP_EVERY = 20  # of the others: enough for a curve, in a small file


def start(name: str) -> Run:
    """The stage's training, set up and seeded: `run.updates` makes it, one update at a time."""
    return store.module_of(name).start()


def steps(name: str, n: int) -> Iterator[StepRecord]:
    """The first `n` updates of the run that makes the stage, made again, here and now.

    Raises:
        ValueError: no stage of that name, or `n` is below 1.
    """
    module = store.module_of(name)
    if n < 1:
        raise ValueError(f"n={n} must be at least 1 update")
    return islice(module.start().updates, n)


def report(stage: Stage) -> Any:
    """What the stage can do, measured now; printing it gives a page, `to_dict` the numbers."""
    return store.module_of(stage.name).report(stage)


def build(name: str, out: str | os.PathLike[str] | None = None, *, progress: bool = True) -> Stage:
    """Train a stage, save it, measure what was saved, and keep the numbers with it.

    Args:
        name: one of `NAMES`.
        out: the folder to write; by default `runs/stages/NAME` in the course's folder.
        progress: show a bar.

    Raises:
        ValueError: no stage of that name, or no course folder to write to.
        KeyboardInterrupt: stopped by hand; nothing is written, as half a stage is none.
        OSError: the disk refused.
    """
    from tqdm.auto import tqdm

    module = store.module_of(name)
    folder = Path(out) if out is not None else store.own_folder(name)
    if folder is None:
        raise ValueError(f"there is no course folder here to build {name!r} in; name one with out")
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; name a folder")
    started = time.perf_counter()
    made = module.start()
    records = []
    with tqdm(total=made.n_updates, disable=not progress, unit="update") as bar:
        for record in made.updates:
            records.append(record)
            speed = record.tokens / record.seconds
            bar.set_postfix_str(f"loss {record.loss:.3f}, {speed:,.0f} tokens/s", refresh=False)
            bar.update()
    notes = {
        "stage": name,
        "recipe": store.recipe(name),
        "recipe_fingerprint": store.fingerprint(name),
        **made.facts,
        **provenance(),
        "training_seconds": round(records[-1].seconds, 1),
    }
    history = thin(History(records))
    # Measured is what is saved: in bfloat16 a weight keeps 8 bits of its fraction.
    half = made.model.bfloat16()
    checkpoint.save(folder, half, tokenizer=made.tokenizer, history=history, notes=notes)
    stage = store.read(name, folder, own=out is None)
    measured = report(stage)
    notes["report"] = measured.to_dict()
    notes["seconds"] = round(time.perf_counter() - started, 1)  # corpora and report included
    checkpoint.save(folder, half, tokenizer=made.tokenizer, history=history, notes=notes)
    return dataclasses.replace(stage, notes=notes, report=measured)


def thin(history: History) -> History:
    """The first updates, a sample of the others and all that was validated, numbers rounded."""
    kept = [
        dataclasses.replace(
            record,
            loss=round(record.loss, 4),
            learning_rate=float(f"{record.learning_rate:.4g}"),
            gradient_norm=_rounded(record.gradient_norm),
            seconds=round(record.seconds, 2),
            validation_loss=_rounded(record.validation_loss),
        )
        for record in history.records
        if record.step <= KEEP_FIRST
        or record.step % KEEP_EVERY == 0
        or record.validation_loss is not None
    ]
    return History(kept)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 5)
