"""`llmcourse data`: prepare text for training, and check what was prepared."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llmcourse.cli.actions import choose_action
from llmcourse.options import read_options
from llmcourse.tokenizers import (
    END_OF_TEXT,
    BPETokenizer,
    ByteTokenizer,
    Tokenizer,
    load_tokenizer,
)

ACTIONS = {
    "prepare": "text files, JSONL, Parquet or a Hugging Face data set into token shards",
    "verify": "read every byte of a folder of shards, and compare it with its checksums",
}


@dataclass(frozen=True)
class Prepare:
    """Turn text into shards of tokens: llmcourse data prepare stories.jsonl --output shards

    INPUTS are files and folders (.txt .md .py: a document each; .jsonl, .jsonl.gz, .parquet), or
    hf:NAME for a Hugging Face data set. A preparation that was stopped goes on where it was when
    the same command is given again.
    """

    inputs: tuple[str, ...]  # files and folders, or hf:NAME
    output: str  # folder to write
    tokenizer: str = "bytes"  # bytes, or a JSON file with a saved tokenizer
    field: str = "text"  # key (JSONL) or column (Parquet, hf:) that holds the text
    split: str = "train"  # part of a Hugging Face data set
    subset: str | None = None  # configuration of a Hugging Face data set
    revision: str | None = None  # commit of a Hugging Face data set
    tokens_per_shard: int = 100_000_000  # tokens in a shard
    dtype: str = "auto"  # uint16, uint32, or auto: the narrower one that holds every id
    end_of_text: bool = True  # end each document with the end-of-text token
    workers: int = 0  # processes; 0 means one for each core


@dataclass(frozen=True)
class Verify:
    """Check shards against their index: llmcourse data verify shards"""

    folder: str  # with an index.json in it


def run(argv: Sequence[str]) -> int:
    action, rest = choose_action("data", ACTIONS, argv)
    if action == "prepare":
        return _prepare(read_options(Prepare, rest, "data prepare", positional="inputs"))
    return _verify(read_options(Verify, rest, "data verify", positional="folder"))


def _prepare(options: Prepare) -> int:
    from tqdm import tqdm

    from llmcourse.data.huggingface import HuggingFaceSource, open_source
    from llmcourse.data.prepare import PrepareConfig, Progress, prepare

    if options.workers < 0:
        raise ValueError(f"workers={options.workers} must be at least 0")
    of_hub = {"split": options.split, "subset": options.subset, "revision": options.revision}
    source = open_source(options.inputs, options.field, **of_hub)
    asked = [name for name, value in of_hub.items() if value != getattr(Prepare, name)]
    if asked and not isinstance(source, HuggingFaceSource):
        raise ValueError(f"{asked[0]} belongs to hf:NAME, and no such input was given")
    config = PrepareConfig(
        options.tokens_per_shard, options.dtype, options.end_of_text, options.workers or _cores()
    )
    tokenizer = read_tokenizer(options.tokenizer)
    with tqdm(unit=" tokens", unit_scale=True, disable=not sys.stderr.isatty()) as bar:

        def show(progress: Progress) -> None:
            if not bar.n:
                bar.initial = progress.tokens  # the speed is that of this run
            bar.update(progress.tokens - bar.n)
            bar.set_postfix(documents=progress.records, shards=progress.shards)

        shards = prepare(source, tokenizer, options.output, config, show)
    index = shards.index
    print(f"tokens     {index['tokens']:,} ({index['dtype']})")
    print(f"documents  {index['documents']:,}, and {index['empty_documents']:,} empty, left out")
    print(f"shards     {len(index['shards']):,} in {options.output}")
    return 0


def _verify(options: Verify) -> int:
    from llmcourse.data.shards import Shards

    shards = Shards(options.folder)
    for name in shards.verify():
        print(f"{name} ok")
    print(f"{shards.n_tokens:,} tokens of {shards.n_documents:,} documents are as written")
    return 0


def read_tokenizer(name: str) -> Tokenizer:
    """The byte tokenizer for the name bytes, or the one that a file holds.

    The file is what `BPETokenizer.save` wrote, or any tokenizer's `to_dict` as JSON.

    Raises:
        ValueError: no such file, or no saved tokenizer in it.
    """
    if name == "bytes":
        return ByteTokenizer((END_OF_TEXT,))
    path = Path(name).expanduser()
    if not path.is_file():
        raise ValueError(f"there is no tokenizer file {name}; give one, or the word bytes")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(data, dict) and "sha256" in data:  # as BPETokenizer.save seals it
            return BPETokenizer.load(path)
        return load_tokenizer(data)
    except ValueError as error:
        raise ValueError(f"{name} holds no tokenizer that can be read: {error}") from None


def _cores() -> int:
    """Cores this process may use, which in a container can be fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
