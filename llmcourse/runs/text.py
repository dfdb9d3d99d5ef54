"""What a run reads: a corpus in memory, or one in shards, and the tokenizer for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

from llmcourse.data import Corpus, load_corpus
from llmcourse.data.shards import Shards
from llmcourse.options import as_dict
from llmcourse.runs.choices import SHARDS, TrainRun
from llmcourse.tokenizers import (
    COURSE_SPECIAL_TOKENS,
    BPETokenizer,
    ByteTokenizer,
    CharacterTokenizer,
    Tokenizer,
    WordTokenizer,
)


@dataclass(frozen=True)
class ShardCorpus:
    """Shards to train on and shards held out, with the names that a `Corpus` has."""

    name: str
    shards: Shards
    held_out: Shards
    validation_tokens: int  # held-out tokens that are scored: shards can be larger than patience

    @property
    def fingerprint(self) -> str:
        return self.shards.fingerprint

    @property
    def description(self) -> str:
        return (
            f"{self.name}: {self.shards.n_documents:,} documents ({self.shards.n_tokens:,} tokens) "
            f"to train on, {self.held_out.n_documents:,} ({self.held_out.n_tokens:,} tokens) held "
            f"out. Fingerprint {self.fingerprint[:12]}."
        )

    @cached_property
    def validation(self) -> tuple[str, ...]:
        """The first held-out documents as text, about `validation_tokens` of them."""
        starts, tokenizer = self.held_out.document_starts, self.held_out.tokenizer
        special = {tokenizer.special_id(name) for name in tokenizer.special_tokens}
        texts: list[str] = []
        for first, after in pairwise(starts.tolist()):
            if first >= self.validation_tokens:
                break
            ids = self.held_out.tokens(first, after).tolist()
            texts.append(tokenizer.decode([i for i in ids if i not in special]))
        return tuple(texts)

    @property
    def validation_text(self) -> str:
        return "\n\n".join(self.validation)


def read_corpus(options: TrainRun) -> Corpus | ShardCorpus:
    """The text of a run.

    Raises:
        CorpusError: it is missing, damaged, or its shards and those held out have two tokenizers.
    """
    if not options.corpus.startswith(SHARDS):
        return load_corpus(options.corpus, **_corpus_options(options))
    shards = Shards(options.corpus.removeprefix(SHARDS))
    held_out = Shards(str(options.validation_corpus).removeprefix(SHARDS), shards.tokenizer)
    return ShardCorpus(options.corpus, shards, held_out, options.validation_tokens)


def make_tokenizer(options: TrainRun, corpus: Corpus | ShardCorpus) -> Tokenizer:
    """The tokenizer of a run; those that learn, learn from the training text."""
    if isinstance(corpus, ShardCorpus):
        return corpus.shards.tokenizer
    special: Sequence[str] = options.special_tokens
    if options.tokenizer == "bytes":
        return ByteTokenizer(special)
    if options.tokenizer == "words":
        return WordTokenizer.train(corpus.train, special)
    if options.tokenizer == "bpe":
        # All that later parts need: a model that is to learn chat or thoughts has tokens for them.
        return BPETokenizer.train(
            corpus.train, options.bpe_vocab_size, special_tokens=COURSE_SPECIAL_TOKENS
        )
    # Held-out text may hold a character that the training text lacks, and must be encodable; a
    # sample starts at a new line, which need not occur at all.
    return CharacterTokenizer.train([*corpus.train, *corpus.validation, "\n"], special)


def _corpus_options(options: TrainRun) -> dict[str, object]:
    if options.corpus == "tales":
        return as_dict(options.tales)
    if options.corpus == "arithmetic":
        sums = options.arithmetic
        return {
            "n_problems": sums.n_problems,
            "n_validation": sums.n_validation,
            "difficulty": (sums.easiest, sums.hardest),
            "seed": sums.seed,
        }
    return {}
