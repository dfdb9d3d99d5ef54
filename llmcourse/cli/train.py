"""`llmcourse train`: one model, one corpus, every choice in one record.

`TrainRun` is the single definition: its fields are the flags, the keys of a config file and the
defaults. What it prints at the end is the number that can be compared with anybody's: nats and bits
per byte of held-out text and, on the village tales, the distance to the exact floor.
"""

from __future__ import annotations

import dataclasses
import sys
import textwrap
import time
import typing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from llmcourse.cli.options import as_dict, read_options
from llmcourse.data import (
    document_aligned,
    encode_documents,
    load_corpus,
    sliding_window,
    windows,
)
from llmcourse.devices import describe_device, resolve_device
from llmcourse.evaluate.language import Score, score_documents, score_text, total_loss
from llmcourse.generate import generate_text
from llmcourse.model import ModelConfig, Transformer
from llmcourse.tokenizers import END_OF_TEXT, ByteTokenizer, CharacterTokenizer
from llmcourse.train import TrainConfig, checkpoint, train

if TYPE_CHECKING:
    from llmcourse.data import Batch, Corpus
    from llmcourse.tokenizers import Tokenizer

TOKENIZERS = ("bytes", "characters")
BATCHINGS = ("sliding", "documents")


def _model_options() -> type:
    """A preset's name, and every field of `ModelConfig` as an optional change to it."""
    hints = typing.get_type_hints(ModelConfig)
    changes = [
        (f.name, hints[f.name] | None, field(default=None)) for f in dataclasses.fields(ModelConfig)
    ]
    made = dataclasses.make_dataclass(
        "ModelOptions", [("preset", str, field(default="showcase")), *changes], frozen=True
    )
    made.comments_from = ModelConfig
    made.comments = {"preset": "the named config to start from; the fields below change it"}
    made.__doc__ = "The model: a preset and what to change in it."
    return made


ModelOptions = _model_options()


@dataclass(frozen=True)
class TalesOptions:
    """What the corpus `tales` is made of; other corpora take no options."""

    n_stories: int = 10_000  # stories to train on
    n_validation: int = 500  # stories held out
    n_samples: int = 32  # stories the trained model writes, to be judged by the verifier
    seed: int = 0  # another seed, other stories


@dataclass(frozen=True)
class TrainRun:
    """Train a model and save it: llmcourse train --config configs/showcase.yaml"""

    training: TrainConfig  # how to train
    model: ModelOptions = field(default_factory=ModelOptions)  # what to build
    tales: TalesOptions = field(default_factory=TalesOptions)  # only for --corpus tales
    corpus: str = "docs"  # docs, code, tales, shakespeare or file:PATH
    tokenizer: str = "bytes"  # bytes or characters
    batching: str = "sliding"  # sliding: windows from anywhere; documents: whole documents
    batch_size: int = 32  # rows per update
    validation_tokens: int = 32_768  # tokens scored at each validation; the last scores all
    prompt: str = ""  # where the samples start; nothing: at the start of a text
    sample_length: int = 200  # tokens per sample
    seed: int = 0  # of the first weights, the batches and the samples
    device: str = "auto"  # auto, cpu, cuda or mps
    threads: int | None = None  # CPU threads; null leaves it to torch
    out: str = "runs/latest"  # the folder for the checkpoint

    def __post_init__(self) -> None:
        for name, allowed in (("tokenizer", TOKENIZERS), ("batching", BATCHINGS)):
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"{name}={getattr(self, name)!r} is unknown; choose one of {list(allowed)}"
                )
        for name in ("batch_size", "validation_tokens", "sample_length"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        if self.threads is not None and self.threads < 1:
            raise ValueError(f"threads={self.threads} must be at least 1, or null")
        if Path(self.out).is_file():
            raise ValueError(f"out={self.out} is a file; name a folder")
        if self.tokenizer == "bytes":  # whose vocabulary is known before any text is read
            self.model_config(_byte_tokenizer(self.batching).vocab_size)

    def model_config(self, vocab_size: int) -> ModelConfig:
        """The preset with its changes, and the vocabulary of the tokenizer.

        Raises:
            ValueError: the vocabulary asked for is not the tokenizer's, or an impossible config.
        """
        changes = {k: v for k, v in as_dict(self.model).items() if v is not None}
        preset = changes.pop("preset")
        if changes.setdefault("vocab_size", vocab_size) != vocab_size:
            raise ValueError(
                f"model.vocab_size={changes['vocab_size']} is not the vocabulary of the tokenizer "
                f"{self.tokenizer!r} with batching {self.batching!r}, which has {vocab_size}"
            )
        return ModelConfig.preset(preset, **changes)


def run(argv: Sequence[str]) -> int:
    perform(read_options(TrainRun, argv, "train", config_file=True))
    return 0


@dataclass(frozen=True)
class Result:
    """What a run ends with."""

    score: Score  # on all held-out text
    floor: float | None  # nats per byte, where it is known exactly
    out: Path  # the checkpoint's folder


def perform(options: TrainRun, *, progress: bool = True) -> Result:
    """Train as `options` say, report, save."""
    device = resolve_device(options.device)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    _say("device", describe_device(device))
    corpus = _corpus(options)
    _say("corpus", corpus.description)
    tokenizer = _tokenizer(options, corpus)
    generator = torch.Generator().manual_seed(options.seed)
    config = options.model_config(tokenizer.vocab_size)
    model = Transformer(config, generator=generator).to(device)
    _say("model", _describe(model))
    plan = options.training
    _say("training", f"{plan.steps:,} steps of {options.batch_size} rows, {plan.precision}")

    started = time.perf_counter()
    history = train(
        model,
        _batches(options, corpus, tokenizer, config.context_length, generator),
        plan,
        evaluate=_validation(options, corpus, tokenizer, config.context_length),
        sample=partial(_sample, options, tokenizer),
        progress=progress,
    )
    seconds = time.perf_counter() - started
    if not history.records:
        raise ValueError("stopped before the first step; nothing was saved")
    if history.samples:
        _say("sample", _block(history.samples[-1][1]))
    score, floor = _measure(options, corpus, tokenizer, model)
    _say("time", f"{seconds:.0f} s, {history.tokens_per_second:,.0f} tokens/s, {_peak_memory()}")
    notes = {
        "run": as_dict(options),
        "corpus_fingerprint": corpus.fingerprint,
        "validation": {
            "nats_per_byte": score.nats_per_byte,
            "bits_per_byte": score.bits_per_byte,
            "bytes": score.bytes,
            "floor_nats_per_byte": floor,
        },
    }
    saved = checkpoint.save(options.out, model, tokenizer=tokenizer, history=history, notes=notes)
    _say("saved", f'{saved}; try: llmcourse generate --checkpoint "{saved}"')
    return Result(score, floor, Path(saved))


def _corpus(options: TrainRun) -> Corpus:
    if options.corpus != "tales":
        return load_corpus(options.corpus)
    made = options.tales
    return load_corpus(
        "tales", n_stories=made.n_stories, n_validation=made.n_validation, seed=made.seed
    )


def _tokenizer(options: TrainRun, corpus: Corpus) -> Tokenizer:
    if options.tokenizer == "bytes":
        return _byte_tokenizer(options.batching)
    # Held-out text may hold a character that the training text lacks, and must be encodable.
    texts = [*corpus.train, *corpus.validation, "\n"]
    return CharacterTokenizer.train(texts, _special_tokens(options.batching))


def _byte_tokenizer(batching: str) -> ByteTokenizer:
    return ByteTokenizer(_special_tokens(batching))


def _special_tokens(batching: str) -> tuple[str, ...]:
    # Whole documents have a beginning and an end, and a token that says so.
    return (END_OF_TEXT,) if batching == "documents" else ()


def _batches(
    options: TrainRun,
    corpus: Corpus,
    tokenizer: Tokenizer,
    context_length: int,
    generator: torch.Generator,
) -> Iterator[Batch]:
    if options.batching == "documents":
        rows = _rows(tokenizer, corpus.train)
        return document_aligned(rows, context_length, options.batch_size, generator)
    ids = torch.tensor(tokenizer.encode(corpus.train_text))
    return sliding_window(ids, context_length, options.batch_size, generator)


def _rows(tokenizer: Tokenizer, documents: Sequence[str]) -> list[list[int]]:
    """Documents as ids between two end-of-text tokens: the first says that a text begins."""
    return encode_documents(documents, tokenizer, end_of_text=True, start_of_text=True)


def _validation(
    options: TrainRun, corpus: Corpus, tokenizer: Tokenizer, context_length: int
) -> typing.Callable[[Transformer], float]:
    """model -> nats per token on the first `validation_tokens` of the held-out text."""
    size = options.batch_size
    if options.batching == "documents":
        rows, count = [], 0
        for row in _rows(tokenizer, corpus.validation):
            rows.append(row)
            count += len(row)
            if count >= options.validation_tokens:
                break
        batches = list(document_aligned(rows, context_length, size, shuffle=False, epochs=1))
    else:
        ids = torch.tensor(tokenizer.encode(corpus.validation_text))
        batches = list(windows(ids[: options.validation_tokens + 1], context_length, size))

    def evaluate(model: Transformer) -> float:
        nats, count = total_loss(model, batches)
        return nats / count

    return evaluate


def _sample(options: TrainRun, tokenizer: Tokenizer, model: Transformer) -> str:
    documents = options.batching == "documents"
    start = END_OF_TEXT if documents else "\n"
    prompt = (start if documents else "") + options.prompt or start
    generator = torch.Generator(next(model.parameters()).device).manual_seed(options.seed)
    (text,) = generate_text(
        model,
        tokenizer,
        [prompt],
        options.sample_length,
        stop=(END_OF_TEXT,) if documents else (),
        generator=generator,
        overflow="slide",
    )
    return options.prompt + text


def _measure(
    options: TrainRun,
    corpus: Corpus,
    tokenizer: Tokenizer,
    model: Transformer,
) -> tuple[Score, float | None]:
    """Score all held-out text and say so; on the tales, also hold the model against the truth."""
    if options.batching == "sliding":
        score = score_text(model, tokenizer, corpus.validation_text)
        _say("validation", str(score))
        return score, None
    if options.corpus != "tales":
        score = score_documents(model, tokenizer, corpus.validation)
        _say("validation", str(score))
        return score, None
    from llmcourse.evaluate.tales_report import tales_report

    sampler = torch.Generator(next(model.parameters()).device).manual_seed(options.seed)
    report = tales_report(
        model, tokenizer, corpus.validation, n_stories=options.tales.n_samples, generator=sampler
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


def _peak_memory() -> str:
    """The most memory this process has held, as the operating system counts it."""
    try:
        import resource
    except ImportError:  # Windows
        import psutil

        peak = psutil.Process().memory_info().peak_wset
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        peak *= 1 if sys.platform == "darwin" else 1024  # bytes on macOS, kilobytes elsewhere
    text = f"peak memory {peak / 1e6:,.0f} MB"
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        text += f" and {torch.cuda.max_memory_allocated() / 1e6:,.0f} MB on the GPU"
    return text


INDENT = " " * 12


def _say(what: str, text: str) -> None:
    """A label and its text, folded to the width of a page."""
    if not text.startswith("\n"):
        text = textwrap.fill(text, 100, initial_indent=INDENT, subsequent_indent=INDENT).lstrip()
    print(f"{what:<12}{text}".rstrip(), flush=True)


def _block(text: str) -> str:
    """Several lines as they are, below their label."""
    return "\n" + textwrap.indent(text.strip("\n"), INDENT)
