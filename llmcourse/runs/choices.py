"""Every choice of a training run: the flags, the keys of a config file and the defaults in one."""

from __future__ import annotations

import dataclasses
import os
import typing
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from llmcourse.data.arithmetic import LEVELS
from llmcourse.model import ModelConfig
from llmcourse.model.experts_config import Experts
from llmcourse.model.presets import PRESETS
from llmcourse.options import as_dict, read_options
from llmcourse.tokenizers import END_OF_TEXT
from llmcourse.train import TrainConfig
from llmcourse.train.parallel import ParallelConfig

TOKENIZERS = ("bytes", "characters", "words", "bpe", "shards")
BATCHINGS = ("sliding", "documents", "packed")
SHARDS = "shards:"  # what the name of a corpus in shards begins with
MOST_PADDING = 128  # rows of the table that stand for no token: up to a round number, no further


def _changes_of(config: type) -> list[tuple[str, typing.Any, typing.Any]]:
    """Every field of a config as an optional one, None for no change."""
    hints = typing.get_type_hints(config)
    return [(f.name, hints[f.name] | None, field(default=None)) for f in dataclasses.fields(config)]


def _expert_options() -> type:
    """Every field of `Experts` as an optional change to the preset's."""
    made = dataclasses.make_dataclass("ExpertOptions", _changes_of(Experts), frozen=True)
    made.comments_from = Experts
    made.__doc__ = "The experts of a mixture; a model whose preset has none needs n_experts."
    return made


ExpertOptions = _expert_options()


def _model_options() -> type:
    """A preset's name, and every field of `ModelConfig` as an optional change to it."""
    changes = [
        ("experts", ExpertOptions, field(default_factory=ExpertOptions)) if name == "experts"
        else (name, kind, default) for name, kind, default in _changes_of(ModelConfig)
    ]  # fmt: skip
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
    """What the corpus `tales` is made of."""

    n_stories: int = 10_000  # stories to train on
    n_validation: int = 500  # stories held out
    seed: int = 0  # another seed, other stories


@dataclass(frozen=True)
class ArithmeticOptions:
    """What the corpus `arithmetic` is made of."""

    n_problems: int = 10_000  # problems to train on
    n_validation: int = 500  # problems held out
    easiest: int = 1  # level of difficulty
    hardest: int = 4  # level of difficulty; equally many problems of each from easiest to hardest
    seed: int = 0  # another seed, other problems

    def __post_init__(self) -> None:
        if not min(LEVELS) <= self.easiest <= self.hardest <= max(LEVELS):
            raise ValueError(
                f"easiest={self.easiest} and hardest={self.hardest} must be levels from "
                f"{min(LEVELS)} to {max(LEVELS)}, the easiest first"
            )


@dataclass(frozen=True)
class CheckpointOptions:
    """When a run saves itself, beside its end; a resumed run goes on from the newest."""

    every: int = 0  # updates between two checkpoints; 0: none
    keep_last: int = 2  # how many of the newest are kept
    keep_best: bool = False  # also save, and keep, the one with the lowest validation loss
    on_signal: bool = True  # asked to end (SIGTERM, Ctrl-C), save and stop; only if resumable

    def __post_init__(self) -> None:
        if self.every < 0:
            raise ValueError(f"every={self.every} must be 0 or more updates")
        if self.keep_last < 1:
            raise ValueError(f"keep_last={self.keep_last} must be at least 1 checkpoint")


@dataclass(frozen=True)
class TrackingOptions:
    """Where a run writes what happens, beside its progress bar."""

    console_every: int = 0  # updates between two printed lines; 0: none
    jsonl: bool = False  # OUT/tracking.jsonl
    tensorboard: bool = False  # OUT/tensorboard
    wandb: bool = False  # OUT/wandb; offline unless WANDB_MODE says otherwise

    def __post_init__(self) -> None:
        if self.console_every < 0:
            raise ValueError(f"console_every={self.console_every} must be 0 or more updates")


@dataclass(frozen=True)
class TrainRun:
    """Train a model and save it: llmcourse train --config configs/showcase.yaml

    On several processes: torchrun --nproc-per-node 2 -m llmcourse train --config ...
    """

    training: TrainConfig  # how to train
    model: ModelOptions = field(default_factory=ModelOptions)  # what to build
    tales: TalesOptions = field(default_factory=TalesOptions)  # only for --corpus tales
    arithmetic: ArithmeticOptions = field(default_factory=ArithmeticOptions)  # only for arithmetic
    corpus: str = "docs"  # docs, code, tales, arithmetic, shakespeare, file:PATH or shards:FOLDER
    validation_corpus: str | None = None  # shards:FOLDER held out; for a corpus in shards only
    tokenizer: str = "bytes"  # bytes, characters, words, bpe; shards: the one they were made with
    bpe_vocab_size: int = 2048  # tokens; only for --tokenizer bpe, which learns from the corpus
    batching: str = "sliding"  # sliding: windows from anywhere; documents: whole documents, each in
    # a row; packed: many in a row
    batch_size: int = 32  # rows per batch, and per process
    validation_tokens: int = 32_768  # tokens scored at each validation; the last scores all
    prompt: str = ""  # where the samples start; nothing: at the start of a text
    sample_length: int = 200  # tokens per sample
    judged_stories: int = 32  # stories the trained model writes for the verifier; only for tales
    seed: int = 0  # of the first weights, the batches and the samples
    device: str = "auto"  # auto, cpu, cuda or mps
    threads: int | None = None  # CPU threads; null leaves it to torch
    out: str = "runs/latest"  # the folder for the checkpoint
    resume: bool = False  # go on from the newest checkpoint in OUT, or begin if there is none
    checkpoints: CheckpointOptions = field(default_factory=CheckpointOptions)  # while it runs
    tracking: TrackingOptions = field(default_factory=TrackingOptions)  # where it is written down
    parallel: ParallelConfig = field(default_factory=ParallelConfig)  # only under torchrun

    def __post_init__(self) -> None:
        for name, allowed in (("tokenizer", TOKENIZERS), ("batching", BATCHINGS)):
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"{name}={getattr(self, name)!r} is unknown; choose one of {list(allowed)}"
                )
        for name in ("batch_size", "validation_tokens", "sample_length", "judged_stories"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        if self.threads is not None and self.threads < 1:
            raise ValueError(f"threads={self.threads} must be at least 1, or null")
        if Path(self.out).is_file():
            raise ValueError(f"out={self.out} is a file; name a folder")
        self._check_shards()
        if self.tokenizer == "bytes":  # whose vocabulary is known before any text is read
            self.model_config(256 + len(self.special_tokens))

    def _check_shards(self) -> None:
        sharded = self.corpus.startswith(SHARDS)
        held_out = self.validation_corpus or ""
        if sharded != (self.tokenizer == "shards"):
            raise ValueError(
                f"tokenizer={self.tokenizer!r} does not go with corpus={self.corpus!r}: shards "
                f"bring their own (tokenizer=shards), and only they do"
            )
        if sharded != held_out.startswith(SHARDS):
            raise ValueError(
                f"validation_corpus={self.validation_corpus!r} does not go with "
                f"corpus={self.corpus!r}: shards to train on need shards:FOLDER to be scored on, "
                f"and every other corpus holds out text of its own"
            )
        if sharded and self.batching == "documents":
            raise ValueError("batching='documents' is not for shards; choose 'packed' or 'sliding'")

    @property
    def special_tokens(self) -> tuple[str, ...]:
        """Whole documents have a beginning and an end, and a token that says so."""
        return () if self.batching == "sliding" else (END_OF_TEXT,)

    def model_config(self, vocab_size: int) -> ModelConfig:
        """The preset with its changes, and the vocabulary of the tokenizer.

        A vocabulary that is a little larger than the tokenizer's is taken as it is: tables of a
        round size are faster on some machines, and rows that stand for no token are never asked.

        Raises:
            ValueError: the vocabulary asked for does not hold the tokenizer's, or an impossible
                config.
        """
        changes = {k: v for k, v in as_dict(self.model).items() if v is not None}
        preset = changes.pop("preset")
        experts = {k: v for k, v in changes.pop("experts").items() if v is not None}
        if experts:
            plain = PRESETS.get(preset, {}).get("experts") or {}
            plain = dataclasses.asdict(plain) if dataclasses.is_dataclass(plain) else plain
            missing = {"n_experts", "n_active"} - plain.keys() - experts.keys()
            if missing:
                raise ValueError(
                    f"model.experts needs a value for {' and '.join(sorted(missing))} as well: "
                    f"preset {preset!r} is a dense model"
                )
            changes["experts"] = plain | experts
        asked = changes.setdefault("vocab_size", vocab_size)
        if not vocab_size <= asked < vocab_size + MOST_PADDING:
            raise ValueError(
                f"model.vocab_size={asked} is not the vocabulary of the tokenizer "
                f"{self.tokenizer!r} with batching {self.batching!r}, which has {vocab_size}"
            )
        return ModelConfig.preset(preset, **changes)


def read_run(path: str | os.PathLike[str], flags: Sequence[str] = ()) -> TrainRun:
    """The run that a config file describes, changed by `flags`: ["--training.steps", "500"].

    Raises:
        ValueError: no such file, an unknown key, or a value that is impossible.
    """
    return read_options(TrainRun, ["--config", str(path), *flags], "train", config_file=True)
