"""Every choice of a training run: the flags, the keys of a config file and the defaults in one."""

from __future__ import annotations

import dataclasses
import os
import typing
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from llmcourse.model import ModelConfig
from llmcourse.options import as_dict, read_options
from llmcourse.tokenizers import END_OF_TEXT
from llmcourse.train import TrainConfig

TOKENIZERS = ("bytes", "characters", "words")
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
    seed: int = 0  # another seed, other stories


@dataclass(frozen=True)
class TrainRun:
    """Train a model and save it: llmcourse train --config configs/showcase.yaml"""

    training: TrainConfig  # how to train
    model: ModelOptions = field(default_factory=ModelOptions)  # what to build
    tales: TalesOptions = field(default_factory=TalesOptions)  # only for --corpus tales
    corpus: str = "docs"  # docs, code, tales, arithmetic, shakespeare or file:PATH
    tokenizer: str = "bytes"  # bytes, characters or words
    batching: str = "sliding"  # sliding: windows from anywhere; documents: whole documents
    batch_size: int = 32  # rows per update
    validation_tokens: int = 32_768  # tokens scored at each validation; the last scores all
    prompt: str = ""  # where the samples start; nothing: at the start of a text
    sample_length: int = 200  # tokens per sample
    judged_stories: int = 32  # stories the trained model writes for the verifier; only for tales
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
        for name in ("batch_size", "validation_tokens", "sample_length", "judged_stories"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        if self.threads is not None and self.threads < 1:
            raise ValueError(f"threads={self.threads} must be at least 1, or null")
        if Path(self.out).is_file():
            raise ValueError(f"out={self.out} is a file; name a folder")
        if self.tokenizer == "bytes":  # whose vocabulary is known before any text is read
            self.model_config(256 + len(self.special_tokens))

    @property
    def special_tokens(self) -> tuple[str, ...]:
        """Whole documents have a beginning and an end, and a token that says so."""
        return (END_OF_TEXT,) if self.batching == "documents" else ()

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


def read_run(path: str | os.PathLike[str], flags: Sequence[str] = ()) -> TrainRun:
    """The run that a config file describes, changed by `flags`: ["--training.steps", "500"].

    Raises:
        ValueError: no such file, an unknown key, or a value that is impossible.
    """
    return read_options(TrainRun, ["--config", str(path), *flags], "train", config_file=True)
