"""From the choices of a run to its pieces: corpus, tokenizer, model, batches, validation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch

from llmcourse.data import (
    Batch,
    Corpus,
    document_aligned,
    encode_documents,
    load_corpus,
    sliding_window,
    windows,
)
from llmcourse.evaluate.language import total_loss
from llmcourse.generate import generate_text
from llmcourse.model import Transformer
from llmcourse.options import as_dict
from llmcourse.runs.choices import TrainRun
from llmcourse.tokenizers import (
    END_OF_TEXT,
    ByteTokenizer,
    CharacterTokenizer,
    Tokenizer,
    WordTokenizer,
)


@dataclass(frozen=True)
class Prepared:
    """Everything `llmcourse.train.train` takes, made but not yet used."""

    corpus: Corpus
    tokenizer: Tokenizer
    model: Transformer  # on its device, untrained
    batches: Iterator[Batch]  # endless
    evaluate: Callable[[Transformer], float]  # nats per token on the start of the held-out text
    sample: Callable[[Transformer], str]


def prepare(options: TrainRun, device: torch.device) -> Prepared:
    """Load, build and cut; the seed decides the first weights, then the order of the batches."""
    corpus = load_corpus(options.corpus, **_corpus_options(options))
    tokenizer = _tokenizer(options, corpus)
    generator = torch.Generator().manual_seed(options.seed)
    config = options.model_config(tokenizer.vocab_size)
    model = Transformer(config, generator=generator).to(device)
    return Prepared(
        corpus=corpus,
        tokenizer=tokenizer,
        model=model,
        batches=_batches(options, corpus, tokenizer, config.context_length, generator),
        evaluate=_validation(options, corpus, tokenizer, config.context_length),
        sample=lambda model: _sample(options, tokenizer, model),
    )


def _corpus_options(options: TrainRun) -> dict[str, int]:
    return as_dict(options.tales) if options.corpus == "tales" else {}


def _tokenizer(options: TrainRun, corpus: Corpus) -> Tokenizer:
    if options.tokenizer == "bytes":
        return ByteTokenizer(options.special_tokens)
    if options.tokenizer == "words":
        return WordTokenizer.train(corpus.train, options.special_tokens)
    # Held-out text may hold a character that the training text lacks, and must be encodable; a
    # sample starts at a new line, which need not occur at all.
    texts = [*corpus.train, *corpus.validation, "\n"]
    return CharacterTokenizer.train(texts, options.special_tokens)


def _rows(tokenizer: Tokenizer, documents: Sequence[str]) -> list[list[int]]:
    """Documents as ids between two end-of-text tokens: the first says that a text begins."""
    return encode_documents(documents, tokenizer, end_of_text=True, start_of_text=True)


def _batches(
    options: TrainRun,
    corpus: Corpus,
    tokenizer: Tokenizer,
    context_length: int,
    generator: torch.Generator,
) -> Iterator[Batch]:
    if options.batching == "documents":
        rows = _rows(tokenizer, corpus.train)
        return document_aligned(
            rows, context_length, options.batch_size, generator, width_multiple=16
        )
    ids = torch.tensor(tokenizer.encode(corpus.train_text))
    return sliding_window(ids, context_length, options.batch_size, generator)


def _validation(
    options: TrainRun, corpus: Corpus, tokenizer: Tokenizer, context_length: int
) -> Callable[[Transformer], float]:
    """model -> nats per token on the first `validation_tokens` of the held-out text."""
    size, wanted = options.batch_size, options.validation_tokens
    if options.batching == "documents":
        rows = _rows(tokenizer, corpus.validation)
        enough = sum(total < wanted for total in accumulate(map(len, rows))) + 1
        batches = document_aligned(rows[:enough], context_length, size, shuffle=False, epochs=1)
    else:
        ids = torch.tensor(tokenizer.encode(corpus.validation_text))
        batches = windows(ids[: wanted + 1], context_length, size)
    kept = list(batches)  # cut once, scored many times

    def evaluate(model: Transformer) -> float:
        nats, count = total_loss(model, kept)
        return nats / count

    return evaluate


def _sample(options: TrainRun, tokenizer: Tokenizer, model: Transformer) -> str:
    documents = options.batching == "documents"
    # A text starts after the end of another one, or at a new line where no token says so.
    start = END_OF_TEXT if documents else "" if options.prompt else "\n"
    generator = torch.Generator(next(model.parameters()).device).manual_seed(options.seed)
    (text,) = generate_text(
        model,
        tokenizer,
        [start + options.prompt],
        options.sample_length,
        stop=options.special_tokens,
        generator=generator,
        overflow="slide",
    )
    return options.prompt + text
