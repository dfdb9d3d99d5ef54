"""From the choices of a run to its pieces: corpus, tokenizer, model, batches, validation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch

from llmcourse.data import (
    Batch,
    Corpus,
    document_aligned,
    encode_documents,
    sliding_window,
    windows,
)
from llmcourse.data.loader import LoaderConfig, ShardLoader
from llmcourse.data.mixture import Source, mixture
from llmcourse.data.packing import packed_rows
from llmcourse.data.resumable import Replayed, Share
from llmcourse.evaluate.language import total_loss
from llmcourse.generate import generate_text
from llmcourse.model import Transformer
from llmcourse.runs.choices import TrainRun
from llmcourse.runs.text import ShardCorpus, make_tokenizer, read_corpus
from llmcourse.tokenizers import END_OF_TEXT, Tokenizer
from llmcourse.train.processes import Processes


@dataclass(frozen=True)
class Prepared:
    """Everything `llmcourse.train.train` takes, made but not yet used."""

    corpus: Corpus | ShardCorpus
    tokenizer: Tokenizer
    model: Transformer  # on its device, untrained
    batches: Iterator[Any]  # endless; says where it stands, so that a run can be resumed
    evaluate: Callable[[Transformer], float]  # nats per token on the start of the held-out text
    sample: Callable[[Transformer], str]


def prepare(options: TrainRun, processes: Processes) -> Prepared:
    """Load, build and cut; the seed decides the first weights, then the order of the batches.

    Every process makes the same model, and batches of its own share of the rows.

    Raises:
        ValueError: choices that do not fit the corpus, or one another.
        CourseError: the corpus cannot be had.
    """
    corpus = read_corpus(options)
    tokenizer = make_tokenizer(options, corpus)
    generator = torch.Generator().manual_seed(options.seed)
    config = options.model_config(tokenizer.vocab_size)
    model = Transformer(config, generator=generator).to(processes.device)
    return Prepared(
        corpus=corpus,
        tokenizer=tokenizer,
        model=model,
        batches=_batches(options, corpus, tokenizer, config.context_length, generator, processes),
        evaluate=_validation(options, corpus, tokenizer, config.context_length),
        sample=lambda model: _sample(options, tokenizer, model),
    )


def _rows(tokenizer: Tokenizer, documents: Sequence[str]) -> list[list[int]]:
    """Documents as ids between two end-of-text tokens: the first says that a text begins."""
    return encode_documents(documents, tokenizer, end_of_text=True, start_of_text=True)


def _batches(
    options: TrainRun,
    corpus: Corpus | ShardCorpus,
    tokenizer: Tokenizer,
    context_length: int,
    generator: torch.Generator,
    processes: Processes,
) -> Iterator[Any]:
    rank, size = processes.data_rank, processes.data_size
    if isinstance(corpus, ShardCorpus):
        packed = options.batching == "packed"
        config = LoaderConfig(context_length, options.batch_size, packed)
        return ShardLoader(corpus.shards, config, generator, rank=rank, world_size=size)
    if size > 1 and options.batching == "documents":
        raise ValueError(
            "batching='documents' makes batches of unequal size, which several processes cannot "
            "share; choose 'packed' or 'sliding'"
        )
    rows = options.batch_size * size  # of all processes together
    make: Callable[[torch.Generator], Iterator[Any]]
    if options.batching == "sliding":
        ids = torch.tensor(tokenizer.encode(corpus.train_text))

        def make(order: torch.Generator) -> Iterator[Any]:
            return sliding_window(ids, context_length, rows, order)
    else:
        documents = _rows(tokenizer, corpus.train)
        if options.batching == "documents":

            def make(order: torch.Generator) -> Iterator[Any]:
                return document_aligned(documents, context_length, rows, order, width_multiple=16)
        else:
            source = Source(options.corpus, documents, share=1.0)

            def make(order: torch.Generator) -> Iterator[Any]:
                return mixture([source], context_length, rows, order)

    batches = Replayed(make, generator)
    return batches if size == 1 else Share(batches, rank, size)


def _validation(
    options: TrainRun,
    corpus: Corpus | ShardCorpus,
    tokenizer: Tokenizer,
    context_length: int,
) -> Callable[[Transformer], float]:
    """model -> nats per token on the first `validation_tokens` of the held-out text."""
    size, wanted = options.batch_size, options.validation_tokens
    batches: Iterator[Any]
    if options.batching == "sliding":
        if isinstance(corpus, ShardCorpus):
            n_tokens = min(wanted + 1, corpus.held_out.n_tokens)
            ids = torch.from_numpy(corpus.held_out.tokens(0, n_tokens))
        else:
            ids = torch.tensor(tokenizer.encode(corpus.validation_text))
        batches = windows(ids[: wanted + 1], context_length, size)
    else:
        rows = _rows(tokenizer, corpus.validation)
        rows = rows[: sum(total < wanted for total in accumulate(map(len, rows))) + 1]
        if options.batching == "documents":
            batches = document_aligned(rows, context_length, size, shuffle=False, epochs=1)
        else:
            batches = packed_rows(rows, context_length, size)
    kept: list[Batch] = list(batches)  # cut once, scored many times

    def evaluate(model: Transformer) -> float:
        nats, count = total_loss(model, kept)
        return nats / count

    return evaluate


def _sample(options: TrainRun, tokenizer: Tokenizer, model: Transformer) -> str:
    documents = options.batching != "sliding"
    # A text starts after the end of another one, or at a new line where no token says so.
    start = END_OF_TEXT if documents else "" if options.prompt else "\n"
    generator = torch.Generator(next(model.parameters()).device).manual_seed(options.seed)
    (text,) = generate_text(
        model,
        tokenizer,
        [start + options.prompt],
        options.sample_length,
        stop=(END_OF_TEXT,) if documents else (),
        generator=generator,
        overflow="slide",
    )
    return options.prompt + text
