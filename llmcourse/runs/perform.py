"""Train, say what happens, measure, save.

What is printed at the end can be compared with anybody's: nats and bits per byte of held-out text
and, on the village tales, the distance to the exact floor.
"""

from __future__ import annotations

import sys
import textwrap
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from llmcourse.devices import describe_device, resolve_device
from llmcourse.evaluate.language import Score, score_documents, score_text
from llmcourse.evaluate.tales_report import tales_report
from llmcourse.model import Transformer
from llmcourse.options import as_dict
from llmcourse.runs.choices import TrainRun
from llmcourse.runs.prepare import Prepared, prepare
from llmcourse.train import StepRecord, checkpoint, train, training_steps

INDENT = " " * 12  # of everything that stands beside a label


@dataclass(frozen=True)
class Result:
    """What a run ends with."""

    score: Score  # on all held-out text
    floor: float | None  # nats per byte, where it is known exactly
    validation: tuple[str, ...]  # the held-out documents
    seconds: float  # from the first step to the last, validation and samples included
    peak_memory: int  # bytes this process has held at most
    out: Path  # the checkpoint's folder


def perform(options: TrainRun, *, progress: bool = True) -> Result:
    """Train as `options` say, report on standard output, save a checkpoint.

    Raises:
        ValueError: an absent device, or choices that do not fit the corpus.
        CourseError: the corpus cannot be had.
        FloatingPointError: the loss stopped being a number.
    """
    device = _device(options)
    _say("device", describe_device(device))
    made = prepare(options, device)
    _say("corpus", made.corpus.description)
    _say("model", _describe(made.model))
    plan = options.training
    _say(
        "training",
        f"{plan.steps:,} steps of {options.batch_size} rows, {plan.optimizer}, {plan.precision}",
    )
    started = time.perf_counter()
    history = train(
        made.model,
        made.batches,
        plan,
        evaluate=made.evaluate,
        sample=made.sample,
        progress=progress,
    )
    seconds = time.perf_counter() - started
    if not history.records:
        raise ValueError("stopped before the first step; nothing was saved")
    if history.samples:
        _say("sample", _block(printable(history.samples[-1][1])))
    score, floor = _measure(options, made)
    memory = peak_memory()
    speed = f"{seconds:.0f} s, {history.tokens_per_second:,.0f} tokens/s"
    _say("time", f"{speed}, peak memory {memory / 1e6:,.0f} MB{_gpu_memory(device)}")
    notes = {
        "run": as_dict(options),
        "corpus_fingerprint": made.corpus.fingerprint,
        "validation": {
            "nats_per_byte": score.nats_per_byte,
            "bits_per_byte": score.bits_per_byte,
            "bytes": score.bytes,
            "floor_nats_per_byte": floor,
        },
    }
    saved = checkpoint.save(
        options.out, made.model, tokenizer=made.tokenizer, history=history, notes=notes
    )
    _say("saved", _block(f'{saved}\ntry: llmcourse generate --checkpoint "{saved}"'))
    return Result(score, floor, made.corpus.validation, seconds, memory, Path(saved))


def steps_of(options: TrainRun) -> Iterator[StepRecord]:
    """The run's updates one by one, silent, nothing validated or saved: the same numbers."""
    made = prepare(options, _device(options))
    yield from training_steps(made.model, made.batches, options.training)


def _device(options: TrainRun) -> torch.device:
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    return resolve_device(options.device)


def _measure(options: TrainRun, made: Prepared) -> tuple[Score, float | None]:
    """Score all held-out text and say so; on the tales, also hold the model against the truth."""
    if options.batching == "sliding":
        score = score_text(made.model, made.tokenizer, made.corpus.validation_text)
        _say("validation", str(score))
        return score, None
    if options.corpus != "tales":
        score = score_documents(made.model, made.tokenizer, made.corpus.validation)
        _say("validation", str(score))
        return score, None
    sampler = torch.Generator(next(made.model.parameters()).device).manual_seed(options.seed)
    report = tales_report(
        made.model,
        made.tokenizer,
        made.corpus.validation,
        n_stories=options.judged_stories,
        generator=sampler,
    )
    _say("validation", str(report.score))
    _say("village", _block(str(report)))
    return report.score, report.floor_nats_per_byte


def _describe(model: Transformer) -> str:
    config = model.config
    parameters = sum(p.numel() for p in model.parameters())
    return (
        f"{parameters:,} parameters: {config.n_layers} layers, {config.n_heads} heads, "
        f"width {config.d_model}, context {config.context_length}, vocabulary {config.vocab_size}"
    )


def peak_memory() -> int:
    """The most memory this process has held, in bytes, as the operating system counts it."""
    try:
        import resource
    except ImportError:  # Windows
        import psutil

        return psutil.Process().memory_info().peak_wset
    unit = 1 if sys.platform == "darwin" else 1024  # bytes on macOS, kilobytes elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _gpu_memory(device: torch.device) -> str:
    if device.type != "cuda":
        return ""
    return f" and {torch.cuda.max_memory_allocated(device) / 1e6:,.0f} MB on the GPU"


def printable(text: str) -> str:
    """Text without control characters: a young model writes bytes that would upset a terminal."""
    return "".join(
        c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text
    )


def _say(what: str, text: str) -> None:
    """A label and its text, folded to the width of a page."""
    if not text.startswith("\n"):
        text = textwrap.fill(INDENT + text, 100, subsequent_indent=INDENT).lstrip()
    print(f"{what:<12}{text}".rstrip(), flush=True)


def _block(text: str) -> str:
    """Lines as they are, unfolded, below their label."""
    return "\n" + textwrap.indent(text.strip("\n"), INDENT)
