"""The base model of the course: stories, sums, documentation and code in one small decoder.

Taught in Part 4; all later parts start from it. The architecture is Part 3's (rotary positions,
RMS norm, gated SiLU, tied embeddings, no biases), the tokenizer and the mixture are Part 4's.
Everything that decides about the weights stands in the constants below, and `recipe` is what they
say. docs/base_model.md shows what it can do, and what was tried.

Two choices are particular to so small a model. Every digit is a token of its own, so that 47 + 85
is a matter of four symbols and not of remembering what token 1,203 and token 877 make. And the
tales have the largest share: their entropy floor is known, so they show how much of what there is
to learn has been learned.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable
from typing import Any

import torch

from llmcourse.data import Batch, Corpus, load_corpus, tales
from llmcourse.data.arithmetic import sample
from llmcourse.data.batches import document_aligned
from llmcourse.data.mixture import LOOK_AHEAD, Source, mixture
from llmcourse.evaluate.base_report import BaseReport, base_report
from llmcourse.evaluate.language import total_loss
from llmcourse.model import ModelConfig, Transformer
from llmcourse.stages.base_text import Documents, encode, encoded, first_bytes, problems, stories
from llmcourse.stages.run import Run
from llmcourse.tokenizers import COURSE_SPECIAL_TOKENS, BPETokenizer
from llmcourse.tokenizers.pretokenize import GPT4_PATTERN
from llmcourse.train import TrainConfig
from llmcourse.train.loop import training_steps

TITLE = "the base model: stories, sums, documentation and code"
PART = 4
BUILT_ON = None

SEED = 0  # of the first weights and of the order of the batches
# Stories and problems are drawn as they are needed, and none is seen twice but by chance; of these
# two corpora only the held-out part is loaded.
CORPORA: dict[str, dict[str, Any]] = {
    "tales": {"n_stories": 1, "n_validation": 500, "seed": 0},
    "arithmetic": {"n_problems": 1, "n_validation": 500, "difficulty": [1, 4], "seed": 0},
    "docs": {},
    "code": {"max_bytes": 2_000_000},
}
DRAWN = {
    "tales": "Stories from the village, drawn without end; made by this package.",
    "arithmetic": "Sums and word problems, drawn without end; made by this package.",
}
SHARES = {"tales": 0.63, "arithmetic": 0.19, "docs": 0.08, "code": 0.1}  # of the tokens
TOKENIZER = {
    "vocab_size": 2048,
    "pattern": GPT4_PATTERN.replace(r"\p{N}{1,3}", r"\p{N}"),  # each digit a token
    "bytes_of_each": 400_000,  # of text that it is learned from, per corpus
}
MODEL: dict[str, Any] = {
    "context_length": 256,
    "n_layers": 4,
    "n_heads": 5,
    "d_model": 160,
    "d_ff": 368,
    "positions": "rope",
    "norm": "rms",
    "feed_forward": "gated",
    "activation": "silu",
    "attention_bias": False,
    "feed_forward_bias": False,
    "init_std": 0.05,
}
BATCH_SIZE = 8  # rows of 256 tokens
TRAINING: dict[str, Any] = {
    "steps": 5_600,
    "optimizer": "muon",
    "learning_rate": 3.5e-3,
    "min_learning_rate": 1e-4,
    "muon_learning_rate": 0.015,
    "warmup_steps": 30,
    "weight_decay": 0.02,
    "beta2": 0.95,
    "evaluate_every": 200,
    "precision": "bfloat16",
    "loss_chunk": 1024,
}
VALIDATION_STORIES = 64  # scored along the way; the report scores all


def recipe() -> dict[str, Any]:
    """Everything the weights hang on, apart from the machine and the Python release."""
    return {
        "seed": SEED,
        "corpora": CORPORA,
        "shares": SHARES,
        "tokenizer": TOKENIZER | {"special_tokens": list(COURSE_SPECIAL_TOKENS)},
        "model": MODEL,
        "batch_size": BATCH_SIZE,
        "look_ahead": LOOK_AHEAD,
        "training": TRAINING,
        "validation_stories": VALIDATION_STORIES,
        "village": tales.fingerprint(),
        "sums": _fingerprint_of_sums(),
    }


def start() -> Run:
    """Corpora, tokenizer, untrained model and the updates that train it."""
    corpora = load_corpora()
    documents = training_documents(corpora)
    tokenizer = make_tokenizer(documents)
    generator = torch.Generator().manual_seed(SEED)
    model = Transformer(ModelConfig(vocab_size=tokenizer.vocab_size, **MODEL), generator=generator)
    sources = [
        Source(name, encoded(documents[name], tokenizer), share) for name, share in SHARES.items()
    ]
    length = MODEL["context_length"]
    batches = mixture(sources, length, BATCH_SIZE, generator)
    held_out = corpora["tales"].validation[:VALIDATION_STORIES]
    kept = list(document_aligned(encode(held_out, tokenizer), length, 16, shuffle=False, epochs=1))
    config = TrainConfig(**TRAINING)
    return Run(
        model=model,
        tokenizer=tokenizer,
        updates=training_steps(
            model, batches, config, evaluate=lambda model: nats_per_token(model, kept)
        ),
        n_updates=config.steps,
        facts={
            "parameters": model.n_parameters(),
            "corpora": {
                name: {"fingerprint": corpus.fingerprint, "source": DRAWN.get(name, corpus.source)}
                for name, corpus in corpora.items()
            },
            # The floor in the unit of the history's validation losses.
            "floor_nats_per_token": floor_per_token(held_out, kept),
        },
    )


def report(stage: Any) -> BaseReport:
    """What a base model, or one made from it, can do on this machine's corpora."""
    return base_report(stage.model, stage.tokenizer, load_corpora(), stage.notes.get("corpora"))


def load_corpora() -> dict[str, Corpus]:
    """The four corpora of the recipe, as they are on this Python release."""
    return {name: load_corpus(name, **options) for name, options in CORPORA.items()}


def training_documents(corpora: dict[str, Corpus]) -> dict[str, Documents]:
    """What is trained on, by corpus: texts, or a function that begins to draw them."""
    held_out = frozenset(corpora["tales"].validation)
    lowest, highest = CORPORA["arithmetic"]["difficulty"]
    levels = range(lowest, highest + 1)
    return {
        "tales": lambda: stories(held_out, SEED),
        "arithmetic": lambda: problems(levels, SEED),
        "docs": corpora["docs"].train,
        "code": corpora["code"].train,
    }


def make_tokenizer(documents: dict[str, Documents]) -> BPETokenizer:
    """The course's tokenizer, learned from as much of each corpus, or all of a smaller one."""
    texts = [
        text
        for some in documents.values()
        for text in first_bytes(some() if callable(some) else some, TOKENIZER["bytes_of_each"])
    ]
    return BPETokenizer.train(
        texts, TOKENIZER["vocab_size"], COURSE_SPECIAL_TOKENS, pattern=TOKENIZER["pattern"]
    )


def nats_per_token(model: Transformer, batches: list[Batch]) -> float:
    """The mean loss over some batches, each target weighing alike."""
    nats, count = total_loss(model, batches)
    return nats / count


def floor_per_token(stories: Iterable[str], batches: list[Batch]) -> float:
    """The entropy floor of the stories in nats, over the targets of the batches made of them."""
    targets = sum(int((batch.targets >= 0).sum()) for batch in batches)
    return tales.entropy_floor(list(stories)).nats / targets


def _fingerprint_of_sums() -> str:
    """Changes when the problems do: a hash of a few of each level."""
    rng = random.Random("fingerprint of the sums")
    texts = [problem.text for level in range(1, 5) for problem in sample(8, level, rng)]
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16]
