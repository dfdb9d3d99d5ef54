"""`llmcourse generate`: a trained model writes."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch

from llmcourse.devices import describe_device, resolve_device
from llmcourse.errors import CheckpointError
from llmcourse.generate import Sampling
from llmcourse.generate.streaming import stream_texts
from llmcourse.options import read_options
from llmcourse.runs.perform import printable
from llmcourse.tokenizers import END_OF_TEXT, Tokenizer
from llmcourse.train import checkpoint


@dataclass(frozen=True)
class Generate:
    """Continue a prompt: llmcourse generate --checkpoint runs/showcase --prompt "The value" """

    checkpoint: str  # a folder written by `llmcourse train`
    prompt: str = ""  # text to continue; nothing: the model starts by itself
    sampling: Sampling = field(default_factory=Sampling)  # how each token is drawn
    max_new_tokens: int = 200  # tokens to write at most
    samples: int = 1  # texts to write
    seed: int = 0  # another seed, other texts
    device: str = "auto"  # auto, cpu, cuda or mps

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "samples"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")


def run(argv: Sequence[str]) -> int:
    options = read_options(Generate, argv, "generate", config_file=True)
    device = resolve_device(options.device)
    steps = write(options, device)
    print(f"device {describe_device(device)}\n")
    # The first text appears as it is written; the others were written beside it and follow whole.
    texts = [options.prompt] * options.samples
    _show(options.prompt)
    for pieces in steps:
        _show(pieces[0])
        texts = [text + piece for text, piece in zip(texts, pieces, strict=True)]
    print()
    for text in texts[1:]:
        print("\n---\n")
        print(printable(text))
    return 0


def write(options: Generate, device: torch.device) -> Iterator[list[str]]:
    """At each step the new piece of each text; the prompts are not among them."""
    loaded = checkpoint.load(options.checkpoint, training=False)
    tokenizer = loaded.tokenizer
    if tokenizer is None:
        raise CheckpointError(
            f"{options.checkpoint} was saved without a tokenizer; it cannot write"
        )
    ends = _has_end_of_text(tokenizer)
    # A text starts after the end of another one, or at a new line where no token says so.
    start = END_OF_TEXT if ends else ("" if options.prompt else "\n")
    return stream_texts(
        loaded.model.to(device),
        tokenizer,
        [start + options.prompt],
        options.max_new_tokens,
        n_completions=options.samples,
        sampling=options.sampling,
        stop=(END_OF_TEXT,) if ends else (),
        generator=torch.Generator(device).manual_seed(options.seed),
        overflow="slide",
    )


def _show(piece: str) -> None:
    sys.stdout.write(printable(piece))
    sys.stdout.flush()


def _has_end_of_text(tokenizer: Tokenizer) -> bool:
    try:
        tokenizer.special_id(END_OF_TEXT)
    except (KeyError, ValueError):
        return False
    return True
