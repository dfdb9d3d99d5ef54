"""How published tensors become ours: pure renaming, stacking, turning and reordering.

Taught in Part 3. A `Rule` says which published tensors make one of our parameters. They are laid
one under another (queries, keys and values are three tensors there and one here), some are stored
transposed, and some have their rows in another order. Every rule works in both directions, and
no number is computed: a weight that is loaded and saved comes back bit by bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Piece:
    """One published tensor and what it is in ours."""

    name: str  # its published name
    rows: int  # rows it has in our layout
    transpose: bool = False  # published as (in, out), as OpenAI's layers store it; ours (out, in)
    order: tuple[int, ...] | None = None  # our row i is its row order[i]; None: the same order

    def ours(self, published: Tensor) -> Tensor:
        """Its rows as our parameter has them."""
        rows = published.T if self.transpose else published
        return rows if self.order is None else rows[list(self.order)]

    def published(self, rows: Tensor) -> Tensor:
        """The inverse of `ours`."""
        if self.order is not None:
            rows = rows[torch.tensor(self.order).argsort().to(rows.device)]
        return (rows.T if self.transpose else rows).contiguous()

    def shape(self, ours: tuple[int, ...]) -> tuple[int, ...]:
        """The published shape, from the shape of the whole parameter it is a piece of."""
        shape = (self.rows, *ours[1:])
        return shape[::-1] if self.transpose else shape


@dataclass(frozen=True)
class Rule:
    """One of our parameters, and the published tensors that lie in it one under another."""

    name: str
    pieces: tuple[Piece, ...]

    @property
    def rows(self) -> int:
        return sum(piece.rows for piece in self.pieces)

    def fill(self, parameter: Tensor, read: Callable[[str], Tensor]) -> None:
        """Copy the pieces into `parameter`, one at a time, converting to its dtype."""
        first = 0
        for piece in self.pieces:
            parameter[first : first + piece.rows].copy_(piece.ours(read(piece.name)))
            first += piece.rows

    def split(self, parameter: Tensor) -> dict[str, Tensor]:
        """The published tensors of a parameter: the inverse of `fill`."""
        blocks = parameter.split([piece.rows for piece in self.pieces])
        return {p.name: p.published(block) for p, block in zip(self.pieces, blocks, strict=True)}


def one(name: str, published: str, rows: int, **options: object) -> Rule:
    """A parameter made of a single tensor."""
    return Rule(name, (Piece(published, rows, **options),))


def to_ours(rules: Iterable[Rule], published: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our state dict from a published one that is in memory.

    Raises:
        KeyError: a published tensor is missing.
    """
    return {
        rule.name: torch.cat([piece.ours(published[piece.name]) for piece in rule.pieces])
        for rule in rules
    }


def to_published(rules: Iterable[Rule], ours: dict[str, Tensor]) -> dict[str, Tensor]:
    """The published state dict of ours: the inverse of `to_ours`."""
    published: dict[str, Tensor] = {}
    for rule in rules:
        published |= rule.split(ours[rule.name])
    return published


def neighbours_apart(heads: int, still: int, turned: int) -> tuple[int, ...]:
    """The order of rows that takes pairs of neighbours apart: all firsts, then all seconds.

    In DeepSeek's weights rotary channels 2i and 2i + 1 turn together; here channel i turns with
    channel i + turned/2. The order moves rows of the projections once, instead of channels of
    every query and key.

    Args:
        heads: how often the layout repeats.
        still: rows of a head that come first and are not turned.
        turned: rows of a head that are turned.

    Returns:
        heads * (still + turned) row numbers: our row i is the published row order[i].
    """
    order: list[int] = []
    for head in range(heads):
        start = head * (still + turned)
        pairs = range(start + still, start + still + turned)
        order += [*range(start, start + still), *pairs[0::2], *pairs[1::2]]
    return tuple(order)
