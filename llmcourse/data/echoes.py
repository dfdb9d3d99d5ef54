"""The echo language: letters that follow by a table, and a mark that repeats the last letter.

Taught in Part 3, for the experiment on attention sinks. A text begins with a start token. A letter
comes after a letter with the chance that a fixed table says; now and then a mark "!" comes instead,
and after the mark stands, for certain, the letter before it: "ab!bc". So whoever has the last two
tokens knows all that can be known. A window of a few tokens forgets nothing, and if a model's loss
rises when it gets one, it must be for another reason. The exact surprise of every token is known.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

LETTERS = 26  # ids 0 to 25
MARK = 26  # "!": the next token is the letter before it
START = 27  # the first token of every text
VOCAB_SIZE = 28


@dataclass(frozen=True)
class Echoes:
    """One echo language.

    Raises:
        ValueError: a share outside (0, 1) or a sharpness below 0.
    """

    mark_share: float = 0.3  # chance that a mark comes after a letter
    sharpness: float = 4.0  # 0: all letters alike; larger: fewer letters follow each letter
    seed: int = 0  # of the table

    def __post_init__(self) -> None:
        if not 0 < self.mark_share < 1:
            raise ValueError(f"mark_share={self.mark_share} must lie between 0 and 1")
        if self.sharpness < 0:
            raise ValueError(f"sharpness={self.sharpness} must be at least 0")

    @cached_property
    def table(self) -> Tensor:
        """(26, 26) float64: the chance of each letter (column) after each letter (row)."""
        generator = torch.Generator().manual_seed(self.seed)
        scores = torch.randn(LETTERS, LETTERS, generator=generator, dtype=torch.float64)
        return (self.sharpness * scores).softmax(dim=-1)

    def sample(self, n: int, length: int, generator: torch.Generator) -> Tensor:
        """(n, length) int64: texts, the start token included. The first letter is any letter.

        Raises:
            ValueError: `n` or `length` below 1.
        """
        if n < 1 or length < 1:
            raise ValueError(f"n={n} texts of length={length} tokens: both must be at least 1")
        ids = torch.full((n, length), START)  # (n, length)
        letter = torch.randint(LETTERS, (n,), generator=generator)
        was_letter = torch.zeros(n, dtype=torch.bool)  # whether the token before is a letter
        for place in range(1, length):
            marked = was_letter & (torch.rand(n, generator=generator) < self.mark_share)
            following = torch.multinomial(self.table[letter], 1, generator=generator)[:, 0]
            # After the start or a mark the letter is given; after a letter the table chooses.
            letter = torch.where(was_letter & ~marked, following, letter)
            ids[:, place] = torch.where(marked, MARK, letter)
            was_letter = ~marked
        return ids

    def surprise(self, ids: Tensor) -> Tensor:
        """(n, length - 1) float64: exact -log p in nats of each token after the start.

        Args:
            ids: (n, length) texts that this language can produce, from the start token on.

        Raises:
            ValueError: a text that does not begin with the start token.
        """
        if not (ids[:, 0] == START).all():
            raise ValueError("a text of the echo language begins with the start token")
        before, token = ids[:, :-1], ids[:, 1:]
        chance = self.table[before.clamp(max=LETTERS - 1), token.clamp(max=LETTERS - 1)]
        after_letter = torch.where(
            token == MARK, self.mark_share, (1 - self.mark_share) * chance
        ).log()
        certain = torch.zeros_like(after_letter)
        first = torch.full_like(after_letter, -math.log(LETTERS))
        start = torch.where(before == START, first, after_letter)
        return -torch.where(before == MARK, certain, start)


def text_of(ids: Tensor) -> str:
    """Letters a to z, "!" for the mark, "^" for the start."""
    return "".join("^" if i == START else "!" if i == MARK else chr(97 + i) for i in ids.tolist())
