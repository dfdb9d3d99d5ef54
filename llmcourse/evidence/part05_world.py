"""What the models of Part 5's evidence read: the village tales, or four kinds of text at once.

"village" is the tales alone, one token per word: its entropy is known. "texts" is stories, sums,
documentation and code in equal parts, in the base model's tokenizer: there experts have something
to divide, and what a model can hold decides more.

What is held out is cut into pieces that fit the context; a story or a sum is always whole, so that
the loss on stories can be held against their entropy. The pieces of all corpora take turns, so that
every batch holds all of them: an expert's places are given out within a batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from llmcourse import stages
from llmcourse.data import Corpus, load_corpus, tales
from llmcourse.data.batches import IGNORE_INDEX, PAD_ID
from llmcourse.data.mixture import Source, mixture
from llmcourse.data.packing import PackedBatch
from llmcourse.evaluate.token_classes import CLASSES, token_classes
from llmcourse.tokenizers import END_OF_TEXT, Tokenizer, WordTokenizer

PIECES_OF_ONE = 12  # pieces of one long document at most


class Piece(NamedTuple):
    """A stretch of held-out text."""

    ids: list[int]  # at most CONTEXT + 1; the first is only read, the last only predicted
    classes: Tensor  # (n,) class of each token
    corpus: int  # place in KINDS
    size: int  # bytes of what is predicted


class Rows(NamedTuple):
    """Held-out pieces side by side, padded on the right; (B, T) each but the last."""

    inputs: Tensor
    targets: Tensor
    classes: Tensor  # of the inputs
    corpora: Tensor  # (B,) int64

    @property
    def real(self) -> Tensor:
        return self.targets != IGNORE_INDEX


@dataclass(frozen=True)
class World:
    """Corpora in equal parts, and the tokenizer they are read with."""

    name: str
    options: tuple[tuple[str, tuple[tuple[str, Any], ...]], ...]  # of load_corpus, by corpus
    words: bool  # one token per word; otherwise the base model's tokenizer
    context: int  # tokens: the longest story has fewer
    batch_size: int  # rows
    held_out: int  # tokens of each corpus that are scored, about
    along: int  # of these, tokens that are scored along the way

    @property
    def kinds(self) -> tuple[str, ...]:
        """Names of the corpora."""
        return tuple(name for name, _ in self.options)

    def recipe(self) -> dict[str, Any]:
        return {
            "corpora": {name: dict(options) for name, options in self.options},
            "tokenizer": "words" if self.words else "base",
            "context": self.context,
            "batch_size": self.batch_size,
            "held_out": [self.held_out, self.along, PIECES_OF_ONE],
        }


def _options(**options: dict[str, Any]) -> tuple:
    return tuple((name, tuple(own.items())) for name, own in options.items())


VILLAGE = World(
    name="village",
    options=_options(tales={"n_stories": 9600, "n_validation": 300, "seed": 0}),
    words=True,
    context=128,
    batch_size=11,
    held_out=24_000,
    along=5_000,
)
TEXTS = World(
    name="texts",
    options=_options(
        tales={"n_stories": 4000, "n_validation": 120, "seed": 0},
        arithmetic={"n_problems": 4000, "n_validation": 200, "difficulty": (1, 4), "seed": 0},
        docs={},
        code={"max_bytes": 800_000},
    ),
    words=False,
    context=144,
    batch_size=10,
    held_out=6000,
    along=1500,
)


@cache
def corpora(world: World) -> dict[str, Corpus]:
    return {name: load_corpus(name, **dict(options)) for name, options in world.options}


@cache
def tokenizer(world: World) -> Tokenizer:
    if not world.words:
        return stages.load("base").tokenizer
    return WordTokenizer.train(corpora(world)["tales"].train, (END_OF_TEXT,))


def training_batches(world: World, seed: int) -> Iterator[PackedBatch]:
    """Endless batches; the same for models of every shape."""
    order = torch.Generator().manual_seed(1000 + seed)
    return mixture(_sources(world), world.context, world.batch_size, order)


@cache
def _sources(world: World) -> tuple[Source, ...]:
    coder = tokenizer(world)
    end = coder.special_id(END_OF_TEXT)
    return tuple(
        Source(name, [[end, *coder.encode(text), end] for text in corpus.train], 1.0)
        for name, corpus in corpora(world).items()
    )


@cache
def pieces(world: World, name: str) -> tuple[Piece, ...]:
    """The held-out pieces of a corpus."""
    coder, number = tokenizer(world), world.kinds.index(name)
    end, last = coder.special_id(END_OF_TEXT), CLASSES.index("text ends")
    found: list[Piece] = []
    count = 0
    for text in corpora(world)[name].validation:
        plain = coder.encode(text)
        ids = [end, *plain, end]
        classes = torch.full((len(ids),), last)
        classes[1:-1] = token_classes(text, plain, coder, name)
        if name in ("tales", "arithmetic") and len(ids) > world.context + 1:
            continue
        for place in range(0, min(len(ids) - 1, PIECES_OF_ONE * world.context), world.context):
            own = ids[place : place + world.context + 1]
            size = sum(len(coder.token_bytes(i)) for i in own[1:] if i != end)
            if len(own) > 1:
                found.append(Piece(own, classes[place : place + world.context + 1], number, size))
                count += len(own) - 1
        if count >= world.held_out:
            break
    return tuple(found)


@cache
def held_out(world: World, tokens: int) -> tuple[tuple[Rows, ...], tuple[int, ...]]:
    """Rows of about so many tokens of each corpus, and the bytes of each corpus in them."""
    chosen: list[list[Piece]] = []
    for name in world.kinds:
        some, count = [], 0
        for piece in pieces(world, name):
            if count >= tokens:
                break
            some.append(piece)
            count += len(piece.ids) - 1
        chosen.append(some)
    # In turns, in proportion to how many pieces each corpus has.
    places = sorted(
        (place / len(some), number, place)
        for number, some in enumerate(chosen)
        for place in range(len(some))
    )
    mixed = [chosen[number][place] for _, number, place in places]
    size = world.batch_size
    rows = tuple(_rows(mixed[i : i + size]) for i in range(0, len(mixed), size))
    return rows, tuple(sum(piece.size for piece in some) for some in chosen)


def _rows(some: list[Piece]) -> Rows:
    width = max(len(piece.ids) for piece in some) - 1
    inputs = torch.full((len(some), width), PAD_ID)
    targets = torch.full((len(some), width), IGNORE_INDEX)
    classes = torch.zeros(len(some), width, dtype=torch.int64)
    for row, piece in enumerate(some):
        n = len(piece.ids) - 1
        inputs[row, :n] = torch.tensor(piece.ids[:-1])
        targets[row, :n] = torch.tensor(piece.ids[1:])
        classes[row, :n] = piece.classes[:-1]
    return Rows(inputs, targets, classes, torch.tensor([piece.corpus for piece in some]))


def floor_of_tales(world: World) -> float:
    """Entropy of the held-out stories that are scored, in nats per byte."""
    coder = tokenizer(world)
    texts = [coder.decode(piece.ids[1:-1]) for piece in pieces(world, "tales")]
    return tales.entropy_floor(texts).nats_per_byte
