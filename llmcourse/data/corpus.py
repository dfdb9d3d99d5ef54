"""A corpus: documents to train on, documents held out, and a fingerprint of both. Part 2.

What a model has learned is only visible on text it has not seen, so every corpus comes in two
parts. Three rules keep the second part honest, and every corpus here follows them:

1. Whole documents are held out, never sentences out of the middle of one.
2. *Which* ones is decided by a hash of the document's name (`held_out`): no random state, the same
   on every machine, and adding a document moves none of the others.
3. Text that occurs twice is kept once, since a copy in the training part gives the answer away.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from llmcourse.errors import CorpusError


class Sizes(NamedTuple):
    """Sizes of the two parts in bytes of UTF-8."""

    train: int
    validation: int


@dataclass(frozen=True, repr=False)
class Corpus:
    """Documents for training and for validation.

    Raises:
        CorpusError: one of the two parts is empty.
    """

    name: str
    train: tuple[str, ...]  # documents
    validation: tuple[str, ...]  # documents, none of them in train
    source: str  # where the text comes from, how it was split, and under which terms
    fingerprint: str = field(init=False)  # SHA-256 of all documents, hexadecimal

    def __post_init__(self) -> None:
        for part in ("train", "validation"):
            documents = tuple(getattr(self, part))
            object.__setattr__(self, part, documents)
            if not any(document.strip() for document in documents):
                raise CorpusError(
                    f"corpus {self.name!r} has no text in its {part} part;"
                    " it needs at least one document for training and one to hold out"
                )
        object.__setattr__(self, "fingerprint", _fingerprint(self.train, self.validation))

    @property
    def train_text(self) -> str:
        """The training documents, joined by a blank line."""
        return "\n\n".join(self.train)

    @property
    def validation_text(self) -> str:
        """The held-out documents, joined by a blank line."""
        return "\n\n".join(self.validation)

    @property
    def bytes(self) -> Sizes:
        """Bytes of UTF-8 in the documents of each part (without the blank lines that join them)."""
        return Sizes(count_bytes(self.train), count_bytes(self.validation))

    @property
    def description(self) -> str:
        """One line: documents, bytes, source, licence, and the start of the fingerprint."""
        size = self.bytes
        share = size.validation / sum(size)
        return (
            f"{self.name}: {len(self.train):,} documents ({size.train:,} bytes) to train on,"
            f" {len(self.validation):,} ({size.validation:,} bytes, {share:.1%}) held out."
            f" {self.source} Fingerprint {self.fingerprint[:12]}."
        )

    def __repr__(self) -> str:
        return f"<Corpus {self.description}>"


def count_bytes(documents: Iterable[str]) -> int:
    """Bytes of UTF-8 in some documents together."""
    return sum(len(document.encode("utf-8")) for document in documents)


def held_out(key: str, share: float) -> bool:
    """Whether the document with this key belongs to validation: true for about `share` of all keys.

    The first 8 bytes of SHA-256 are a number that looks uniform between 0 and 2^64; a key is held
    out when its number lies in the lowest `share` of that range.
    """
    return hash_position(key) < share


def hash_position(key: str) -> float:
    """Where a key's hash lies between 0 and 1: a shuffle that needs no random state."""
    return int.from_bytes(hashlib.sha256(key.encode("utf-8")).digest()[:8], "big") / 2**64


def _fingerprint(train: tuple[str, ...], validation: tuple[str, ...]) -> str:
    # Lengths go in as well as text: ["ab", "c"] and ["a", "bc"] are different corpora.
    digest = hashlib.sha256()
    for part in (train, validation):
        digest.update(f"{len(part)} documents\n".encode())
        for document in part:
            data = document.encode("utf-8")
            digest.update(f"{len(data)} bytes\n".encode())
            digest.update(data)
    return digest.hexdigest()
