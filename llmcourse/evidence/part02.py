"""Evidence for Part 2: the two-minute runs on `docs` and on `tales`, three seeds each."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from llmcourse.data import tales
from llmcourse.evaluate.tales_report import tales_report
from llmcourse.evidence.recipes import stated
from llmcourse.model import ModelConfig
from llmcourse.paths import course_root
from llmcourse.runs import TrainRun, perform, read_run, steps_of
from llmcourse.train import History, StepRecord, TrainConfig, checkpoint

SEEDS = (0, 1, 2)
CONFIGS = ("showcase", "tales")
KEEP_EVERY = 10  # steps: enough for a curve, and a file a tenth as large
REPORT_STORIES = 200  # sampled per run, for the grammatical and consistent shares


def recipe() -> dict[str, Any]:
    """Everything the numbers hang on, apart from the machine and the Python release."""
    runs = {}
    for name in CONFIGS:
        options = dataclasses.asdict(_options(name, seed=0))
        # Where it runs and what it prints along the way change nothing that is measured.
        for key in ("out", "device", "threads", "seed", "prompt", "sample_length"):
            options.pop(key)
        options["model"] = stated(options["model"], ModelConfig)
        options["training"] = stated(options["training"], TrainConfig)
        runs[name] = stated(options, TrainRun)
    return {
        "seeds": list(SEEDS),
        "runs": runs,
        "village": tales.fingerprint(),
        "report_stories": REPORT_STORIES,
    }


def measure(say: Callable[[str], None]) -> dict[str, Any]:
    """Train every config with every seed; about two minutes each on two cores."""
    results: dict[str, Any] = {}
    for name in CONFIGS:
        runs = []
        for seed in SEEDS:
            say(f"--- {name}, seed {seed}")
            # A process of its own: its peak memory and its speed are this run's alone.
            with ProcessPoolExecutor(1, get_context("spawn")) as fresh:
                runs.append(fresh.submit(_measure_run, name, seed).result())
        results[name] = {"runs": runs}
    return results


def remake(name: str, steps: int, seed: int = 0) -> Iterator[StepRecord]:
    """The first `steps` updates of a recorded run, made again: for comparing with the record."""
    for record in steps_of(_options(name, seed)):
        yield record
        if record.step == steps:
            return


def _measure_run(name: str, seed: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        options = dataclasses.replace(_options(name, seed), out=folder)
        result = perform(options)
        saved = checkpoint.load(folder)
    last = saved.history.records[-1]
    run = {
        "seed": seed,
        "corpus_fingerprint": saved.notes["corpus_fingerprint"],
        "nats_per_byte": round(result.score.nats_per_byte, 5),
        "bits_per_byte": round(result.score.bits_per_byte, 5),
        "scored_bytes": result.score.bytes,
        "scored_tokens": result.score.tokens,
        "seconds": round(last.seconds, 1),
        "tokens": last.tokens,
        "peak_memory_mb": round(result.peak_memory / 1e6),
        "history": _thin(saved.history),
    }
    if name == "tales":
        generator = torch.Generator().manual_seed(seed)
        report = tales_report(
            saved.model, saved.tokenizer, result.validation, REPORT_STORIES, generator
        )
        run |= {
            "floor": round(report.floor_nats_per_byte, 5),
            "relative_gap": round(report.relative_gap, 4),
            "grammatical_share": round(report.grammatical_share, 4),
            "consistent_share": round(report.consistent_share, 4),
            "stories": list(report.stories[:3]),
        }
    return run


def _thin(history: History) -> dict[str, Any]:
    """Every tenth record and every validation, timings left out and numbers rounded."""
    kept = [
        dataclasses.replace(
            record,
            loss=round(record.loss, 4),
            learning_rate=float(f"{record.learning_rate:.4g}"),
            gradient_norm=round(record.gradient_norm, 4),
            seconds=round(record.seconds, 2),
            validation_loss=_rounded(record.validation_loss),
        )
        for record in history.records
        if record.step == 1 or record.step % KEEP_EVERY == 0 or record.validation_loss is not None
    ]
    return json.loads(History(kept).to_json())


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 5)


def _options(name: str, seed: int) -> TrainRun:
    root = course_root() or Path()
    return dataclasses.replace(read_run(root / "configs" / f"{name}.yaml"), seed=seed)
