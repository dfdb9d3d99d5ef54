"""Train, say what happens, measure, save.

What is printed at the end can be compared with anybody's: nats and bits per byte of held-out text
and, on the village tales, the distance to the exact floor.
"""

from __future__ import annotations

import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch

from llmcourse.devices import describe_device, resolve_device
from llmcourse.evaluate.language import Score, score_documents, score_text
from llmcourse.evaluate.tales_report import tales_report
from llmcourse.model import Transformer
from llmcourse.runs.choices import TrainRun
from llmcourse.runs.prepare import Prepared, prepare
from llmcourse.runs.saving import Saving
from llmcourse.runs.text import ShardCorpus
from llmcourse.runs.tracking import open_tracker
from llmcourse.tokenizers import END_OF_TEXT
from llmcourse.train import StepRecord, TrainState, checkpoint, parallel, train, training_steps
from llmcourse.train.processes import Processes
from llmcourse.train.speed import matmul_peak

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


def perform(options: TrainRun, *, progress: bool = True) -> Result | None:
    """Train as `options` say, report on standard output, save a checkpoint.

    Under `torchrun` every process calls this; the main one reports and writes.

    Returns:
        What the run ended with; None if a signal ended it early, after it had been saved, and for
        processes that do not report.

    Raises:
        ValueError: an absent device, or choices that do not fit the corpus or one another.
        CourseError: the corpus cannot be had, the checkpoint to go on from is damaged or of another
            run, or another process was lost.
        FloatingPointError: the loss stopped being a number.
    """
    with _processes(options) as processes:
        return _perform(options, processes, progress and processes.main)


def steps_of(options: TrainRun) -> Iterator[StepRecord]:
    """The run's updates one by one, silent, nothing validated or saved: the same numbers."""
    with _processes(options) as processes:
        made = prepare(options, processes)
        yield from training_steps(made.model, made.batches, options.training, processes=processes)


def _processes(options: TrainRun) -> Processes:
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    return parallel.start(options.parallel, resolve_device(options.device))


def _perform(options: TrainRun, processes: Processes, progress: bool) -> Result | None:
    say = _say if processes.main else _silent
    many = f", {processes.world_size} processes" if processes.world_size > 1 else ""
    say("device", describe_device(processes.device) + many)
    made = prepare(options, processes)
    say("corpus", made.corpus.description)
    say("model", _describe(made.model))
    plan = options.training
    say("training", _plan(options, processes))
    state = TrainState(made.model, made.batches, plan, processes=processes)
    saving = Saving(options, made, state)
    history = saving.resume()
    if state.step:
        say("resumed", f"after {state.step:,} of {plan.steps:,} steps")
    if state.products != plan.products:
        say("products", f"{state.products}, the faster way to multiply on this machine")
    peak = None
    if progress:
        peak = matmul_peak(processes.device, plan.precision, state.products) * processes.world_size
    tracker = open_tracker(options, state) if processes.main else nullcontext()
    started = time.perf_counter()
    with tracker as running:
        history = train(
            made.model,
            made.batches,
            plan,
            evaluate=made.evaluate,
            sample=made.sample,
            state=state,
            history=history,
            checkpoints=saving.checkpoints,
            tracker=running,
            peak_flops=peak,
            progress=progress,
        )
    seconds = time.perf_counter() - started
    if not history.records:
        raise ValueError("stopped before the first step; nothing was saved")
    if saving.stopped:
        say("stopped", f"by a signal after {state.step:,} steps; go on with the flag --resume")
        return None
    whole = processes.whole(made.model)
    if not processes.main:
        return None
    if history.samples:
        say("sample", _block(printable(history.samples[-1][1])))
    score, floor = _measure(options, made, whole)
    memory = peak_memory()
    speed = f"{seconds:.0f} s, {history.tokens_per_second:,.0f} tokens/s"
    say("time", f"{speed}, peak memory {memory / 1e6:,.0f} MB{_gpu_memory(processes.device)}")
    notes = saving.notes | {
        "validation": {
            "nats_per_byte": score.nats_per_byte,
            "bits_per_byte": score.bits_per_byte,
            "bytes": score.bytes,
            "floor_nats_per_byte": floor,
        },
    }
    saved = checkpoint.save(
        options.out, whole, tokenizer=made.tokenizer, history=history, notes=notes
    )
    say("saved", _block(f'{saved}\ntry: llmcourse generate --checkpoint "{saved}"'))
    return Result(score, floor, made.corpus.validation, seconds, memory, Path(saved))


def _plan(options: TrainRun, processes: Processes) -> str:
    plan = options.training
    rows = options.batch_size * plan.accumulate * processes.data_size
    made_of = [f"{options.batch_size} a batch"] if rows != options.batch_size else []
    made_of += [f"{plan.accumulate} batches an update"] if plan.accumulate > 1 else []
    made_of += [f"{processes.data_size} shares"] if processes.data_size > 1 else []
    detail = f" ({', '.join(made_of)})" if made_of else ""
    return f"{plan.steps:,} steps of {rows} rows{detail}, {plan.optimizer}, {plan.precision}"


def _measure(options: TrainRun, made: Prepared, model: Transformer) -> tuple[Score, float | None]:
    """Score all held-out text and say so; on the tales, also hold the model against the truth."""
    corpus, tokenizer = made.corpus, made.tokenizer
    if options.corpus == "tales" and options.batching != "sliding" and _fit(model, made):
        sampler = torch.Generator(next(model.parameters()).device).manual_seed(options.seed)
        report = tales_report(
            model,
            tokenizer,
            corpus.validation,
            n_stories=options.judged_stories,
            generator=sampler,
        )
        _say("validation", str(report.score))
        _say("village", _block(str(report)))
        return report.score, report.floor_nats_per_byte
    whole = isinstance(corpus, ShardCorpus) and END_OF_TEXT in tokenizer.special_tokens
    if options.batching != "sliding" or whole:
        cut = options.batching != "documents"
        score = score_documents(model, tokenizer, corpus.validation, cut=cut)
    else:
        score = score_text(model, tokenizer, corpus.validation_text)
    _say("validation", str(score))
    return score, None


def _fit(model: Transformer, made: Prepared) -> bool:
    """Whether each held-out story fits into the context whole; cut ones have no exact floor."""
    longest = max(len(made.tokenizer.encode(story)) for story in made.corpus.validation)
    return longest < model.config.context_length  # and the tokens before and after it


def _describe(model: Transformer) -> str:
    config = model.config
    parameters = f"{model.n_parameters():,} parameters"
    if config.experts is not None:
        parameters += f", {model.summary().active_parameters:,} active"
    return (
        f"{parameters}: {config.n_layers} layers, {config.n_heads} heads, "
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


def _silent(what: str, text: str) -> None:
    """What all but the main process say."""


def _block(text: str) -> str:
    """Lines as they are, unfolded, below their label."""
    return "\n" + textwrap.indent(text.strip("\n"), INDENT)
