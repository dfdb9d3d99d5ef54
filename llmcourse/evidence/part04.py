"""Evidence for Part 4: a scaling law from small runs, and a larger run that it foretold.

Taught in Part 4. Models of several widths read several amounts of the village tales, each story
once, and are scored on stories held out, in nats per byte. To these runs the law of
`llmcourse.evaluate.scaling_law` is fitted twice: with its floor E to be found, and with E held at
the entropy of the held-out stories, which for `tales` is known exactly. How far the free E lies
from the truth is a test of the method that no web text allows.

Then runs are foretold that are larger than any of these: both laws are frozen, their predictions
and intervals are written down, and only then are the runs made. `naive` is what one would say
without a law: as good as the best run so far.

N counts what is not embedding (Kaplan et al. 2020, arXiv 2001.08361, section 2.1). D counts the
targets trained on. Every run is its own, with a cosine of its own length and stories of its own.
Branches of one long run at a constant rate (the WSD schedule) would cost 40% less here, but share
one start and one order of stories: the bootstrap, which takes runs for independent, would be too
sure of itself. The learning rate follows one rule in N and D for all runs, the large ones too; it
was read off pilot runs, and at a few places the recipe tries half and double of it, so that anybody
can see whether the rule was good.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from multiprocessing import get_context
from typing import Any, NamedTuple

import torch

from llmcourse.data import document_aligned, encode_documents, tales
from llmcourse.evaluate import score_documents
from llmcourse.evaluate.scaling_law import (
    Run,
    ScalingLaw,
    fit,
    interval,
    predict,
    resampled,
    residuals,
)
from llmcourse.evidence.recipes import stated
from llmcourse.model import ModelConfig, Transformer
from llmcourse.tokenizers import END_OF_TEXT, WordTokenizer
from llmcourse.train import StepRecord, TrainConfig, training_steps

WIDTHS = (16, 24, 32, 48, 64, 96)  # d_model of the small runs
TOKENS = (240_000, 420_000, 740_000, 1_280_000)  # targets, about: whole stories
LIMIT = 2e11  # N D of a small run, at most
LARGE = ((128, 1_440_000), (96, 1_440_000), (128, 420_000))  # (width, tokens), all foretold
TWINS = (32, 240_000)  # one cell of the grid with more seeds: what luck alone does
TWIN_SEEDS = (1, 2, 3)
RATE_CHECKS = ((16, 240_000), (96, 240_000), (64, 740_000))
RATE_FACTORS = (0.5, 2.0)  # of the rule's rate

TOKENS_PER_STORY = 83.7  # on average, its end included
BATCH_SIZE = 4  # stories: small, so that the smallest runs have enough updates
HEAD_WIDTH = 8  # channels
MODEL = {
    "context_length": 128,
    "n_layers": 3,
    "positions": "rope",
    "norm": "rms",
    "feed_forward": "gated",
    "activation": "silu",
    "attention_bias": False,
    "feed_forward_bias": False,
    "init_std": 0.05,
}
# rate = value * (16 / width)^width_exponent * (240,000 / tokens)^tokens_exponent
RATE = {"value": 0.019, "width_exponent": 0.75, "tokens_exponent": 0.25}
FINAL_RATE = 0.03  # share of the peak that is left at the end
TRAINING = {"warmup_steps": 20, "weight_decay": 0.02, "beta2": 0.95}

VOCABULARY = {"n": 3000, "seed": 2}  # stories the words are taken from
HELD_OUT = {"n": 600, "seed": 1}  # stories
LEVEL = 0.9  # of the intervals
SAMPLES = 400  # resampled fits
CURVE_POINTS = 20  # of a training curve


class Job(NamedTuple):
    """One training run."""

    width: int  # d_model
    tokens: int  # D, about
    seed: int = 0
    factor: float = 1.0  # of the rule's learning rate


def recipe() -> dict[str, Any]:
    """Everything the numbers hang on, apart from the machine and the Python release."""
    training = dataclasses.asdict(training_config(Job(WIDTHS[0], TOKENS[0])))
    return {
        "widths": list(WIDTHS),
        "tokens": list(TOKENS),
        "limit": LIMIT,
        "large": [list(pair) for pair in LARGE],
        "twins": [list(TWINS), list(TWIN_SEEDS)],
        "rate_checks": [[list(pair) for pair in RATE_CHECKS], list(RATE_FACTORS)],
        "batch_size": BATCH_SIZE,
        "tokens_per_story": TOKENS_PER_STORY,
        "head_width": HEAD_WIDTH,
        "model": MODEL,
        "rate": [RATE, FINAL_RATE],
        "training": stated(training, TrainConfig),
        "vocabulary": VOCABULARY,
        "held_out": HELD_OUT,
        "intervals": [LEVEL, SAMPLES],
        "village": tales.fingerprint(),
    }


def small_jobs() -> list[Job]:
    """The runs that the laws are fitted to."""
    jobs = [Job(width, tokens) for width in WIDTHS for tokens in TOKENS]
    return [job for job in jobs if parameter_count(job.width) * job.tokens <= LIMIT]


def measure(say: Callable[[str], None]) -> dict[str, Any]:
    """Train small, fit, foretell, train large; about nine minutes on two cores."""
    floor = tales.entropy_floor(stories("held out"))
    small = small_jobs()
    twins = [Job(*TWINS, seed) for seed in TWIN_SEEDS]
    checks = [Job(*cell, 0, factor) for cell in RATE_CHECKS for factor in RATE_FACTORS]
    found = train_all([*small, *twins, *checks], say)
    runs = [found[job] for job in small]
    laws = fits(runs, floor.nats_per_byte)
    # Written down before the large runs begin.
    foretold = [foretell(runs, floor.nats_per_byte, width, tokens) for width, tokens in LARGE]
    for one in foretold:
        say(f"foretold, width {one['width']}, {one['tokens']:,} tokens: {_words(one)}")
    made = train_all([Job(width, tokens) for width, tokens in LARGE], say)
    large = [made[Job(width, tokens)] for width, tokens in LARGE]
    return {
        "scaling": {
            "floor": floor.nats_per_byte,
            "floor_expected": floor.expected,
            "floor_standard_error": floor.standard_error,
            "runs": runs,
            "twins": [found[Job(*TWINS)], *(found[job] for job in twins)],
            "rates": [found[job] for job in checks],
            "fits": laws,
            "foretold": foretold,
            "large": large,
            "verdicts": [verdict(a, b) for a, b in zip(foretold, large)],
        }
    }


def fits(runs: Sequence[dict[str, Any]], floor: float) -> dict[str, dict[str, Any]]:
    """Both laws, with the middle LEVEL of each number over resampled runs."""
    points = as_runs(runs)
    found = {}
    for name, held in (("free", None), ("fixed", floor)):
        law = fit(points, floor=held)
        laws = resampled(points, _generator(), SAMPLES, floor=held)
        found[name] = {
            "law": dataclasses.asdict(law),
            "intervals": {
                field.name: list(interval([getattr(one, field.name) for one in laws], LEVEL))
                for field in dataclasses.fields(ScalingLaw)
            },
            "typical_miss": statistics.median(map(abs, residuals(law, points))),
        }
    return found


def foretell(
    runs: Sequence[dict[str, Any]], floor: float, width: int, tokens: int
) -> dict[str, Any]:
    """What both laws and the naive guess say of a run that has not been made."""
    points = as_runs(runs)
    parameters = parameter_count(width)
    said: dict[str, Any] = {"width": width, "parameters": parameters, "tokens": tokens}
    for name, held in (("free", None), ("fixed", floor)):
        found = predict(
            points, parameters, tokens, _generator(), floor=held, level=LEVEL, samples=SAMPLES
        )
        said[name] = dataclasses.asdict(found)
    said["naive"] = min(run["nats_per_byte"] for run in runs)
    said["compute_factor"] = (
        parameters * tokens / max(run["parameters"] * run["tokens"] for run in runs)
    )
    return said


def verdict(foretold: dict[str, Any], made: dict[str, Any]) -> dict[str, Any]:
    """Whether a large run came as foretold, by each law."""
    loss = made["nats_per_byte"]
    found: dict[str, Any] = {"measured": loss, "naive_miss": loss - foretold["naive"]}
    for name in ("free", "fixed"):
        said = foretold[name]
        found[name] = {
            "held": said["low"] <= loss <= said["high"],
            "miss": loss - said["loss"],  # nats per byte
        }
    return found


def as_runs(runs: Sequence[dict[str, Any]]) -> list[Run]:
    """Recorded runs as the fit takes them."""
    return [Run(run["parameters"], run["tokens"], run["nats_per_byte"]) for run in runs]


def train_all(jobs: Sequence[Job], say: Callable[[str], None]) -> dict[Job, dict[str, Any]]:
    """Every job's result, two at a time with one thread each, the longest first."""
    # Models this small gain little from a second thread; two of them side by side gain nearly all.
    order = sorted(jobs, key=lambda job: job.tokens * (job.width + 40) ** 2, reverse=True)
    results = {}
    with ProcessPoolExecutor(2, get_context("spawn"), initializer=_one_thread) as workers:
        futures = {job: workers.submit(train_one, job) for job in order}
        for job, future in futures.items():
            results[job] = run = future.result()
            say(
                f"width {job.width:3}, {run['tokens']:9,} tokens, seed {job.seed}, "
                f"rate {run['learning_rate']:.4f}: {run['nats_per_byte']:.4f} nats per byte, "
                f"{run['seconds']} s"
            )
    return results


def model_config(width: int) -> ModelConfig:
    heads = width // HEAD_WIDTH
    return ModelConfig(vocab_size=words().vocab_size, n_heads=heads, d_model=width, **MODEL)


def parameter_count(width: int) -> int:
    """N: all parameters but the embedding table, which is the output layer too."""
    with torch.device("meta"):
        model = Transformer(model_config(width))
    return model.n_parameters() - words().vocab_size * width


def learning_rate(job: Job) -> float:
    """The rule's rate for this run, times the job's own factor."""
    by_width = (16 / job.width) ** RATE["width_exponent"]
    by_tokens = (240_000 / job.tokens) ** RATE["tokens_exponent"]
    return job.factor * RATE["value"] * by_width * by_tokens


def training_config(job: Job) -> TrainConfig:
    rate = learning_rate(job)
    return TrainConfig(
        steps=n_stories(job) // BATCH_SIZE,
        learning_rate=rate,
        min_learning_rate=FINAL_RATE * rate,
        **TRAINING,
    )


def n_stories(job: Job) -> int:
    """Stories of a run: whole batches, about job.tokens targets."""
    return round(job.tokens / TOKENS_PER_STORY / BATCH_SIZE) * BATCH_SIZE


def training_run(job: Job) -> tuple[Transformer, Iterator[StepRecord]]:
    """The untrained model of a recorded run, and its training, one update per iteration."""
    # Another stream of stories for each run. They are drawn like the held-out ones, independently:
    # a short story may come in both, as often as chance has it.
    stream = stream_of(job)
    rows = encode_documents(
        tales.sample_stories(n_stories(job), seed=stream),
        words(),
        end_of_text=True,
        start_of_text=True,
    )
    model = Transformer(model_config(job.width), torch.Generator().manual_seed(stream))
    order = torch.Generator().manual_seed(stream + 1)
    width = MODEL["context_length"]
    batches = document_aligned(rows, width, BATCH_SIZE, order, width_multiple=16, epochs=1)
    return model, training_steps(model, batches, training_config(job))


def stream_of(job: Job) -> int:
    """The seed of everything random in a run; no two runs of the recipe share one, except those
    that differ only in the learning rate: they are compared."""
    return (job.width * 10_000_000 + job.tokens) * 10 + job.seed


def train_one(job: Job) -> dict[str, Any]:
    """Train one model and score it on the held-out stories."""
    model, steps = training_run(job)
    history = list(steps)
    score = score_documents(model, words(), stories("held out"))
    return {
        "width": job.width,
        "parameters": parameter_count(job.width),
        "tokens": history[-1].tokens,
        "seed": job.seed,
        "learning_rate": learning_rate(job),
        "nats_per_byte": round(score.nats_per_byte, 5),
        "curve": curve([record.loss for record in history]),
        "seconds": round(history[-1].seconds, 1),
    }


def curve(values: Sequence[float]) -> list[float]:
    """The mean training loss of each of CURVE_POINTS equal parts of a run, nats per token."""
    ends = [round(i * len(values) / CURVE_POINTS) for i in range(CURVE_POINTS + 1)]
    return [round(statistics.fmean(values[a:b]), 3) for a, b in itertools.pairwise(ends)]


def spread(twins: Sequence[dict[str, Any]]) -> float:
    """Standard deviation of log loss between runs that differ in nothing but the seed."""
    return statistics.stdev(math.log(run["nats_per_byte"]) for run in twins)


@cache
def stories(kind: str) -> tuple[str, ...]:
    """The stories that are "held out", or those the "vocabulary" is taken from."""
    options = {"held out": HELD_OUT, "vocabulary": VOCABULARY}[kind]
    return tuple(tales.sample_stories(options["n"], seed=options["seed"]))


@cache
def words() -> WordTokenizer:
    return WordTokenizer.train(stories("vocabulary"), (END_OF_TEXT,))


def _generator() -> torch.Generator:
    """The same draws for every interval, so that a stored one can be made again."""
    return torch.Generator().manual_seed(0)


def _one_thread() -> None:
    torch.set_num_threads(1)


def _words(said: dict[str, Any]) -> str:
    parts = [
        f"{name} {said[name]['loss']:.4f} [{said[name]['low']:.4f}, {said[name]['high']:.4f}]"
        for name in ("free", "fixed")
    ]
    return ", ".join(parts) + f", naive {said['naive']:.4f}"
