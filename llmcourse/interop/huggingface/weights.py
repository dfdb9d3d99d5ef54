"""How published tensors become ours: pure renaming, stacking, turning and reordering.

Taught in Part 3. A `Rule` says which published tensors make one of our parameters. They are laid
one under another (queries, keys and values are three tensors there and one here), some are stored
transposed, and some have their rows in another order. Every rule works in both directions, and
no number is computed: a weight that is loaded and saved comes back bit by bit.

Part 5 adds experts: a stack of E matrices here, (E, rows, columns), and mostly E tensors there, one
expert's under the other's. Some folders hold the stack as it is; `Rule.held` takes that form.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Piece:
    """One published tensor and what it is in ours."""

    name: str  # its published name
    rows: int  # rows it has in our layout
    transpose: bool = False  # published as (in, out), as OpenAI's layers store it; ours (out, in)
    order: tuple[int, ...] | None = None  # our row i is its row order[i]; None: the same order
    stack: int | None = None  # published as (stack, rows / stack, columns): whole experts

    def ours(self, published: Tensor) -> Tensor:
        """Its rows as our parameter has them."""
        if self.stack is not None:
            return published.flatten(0, 1)
        rows = published.T if self.transpose else published
        return rows if self.order is None else rows[list(self.order)]

    def published(self, rows: Tensor) -> Tensor:
        """The inverse of `ours`."""
        if self.stack is not None:
            return rows.unflatten(0, (self.stack, -1)).contiguous()
        if self.order is not None:
            rows = rows[torch.tensor(self.order).argsort().to(rows.device)]
        return (rows.T if self.transpose else rows).contiguous()

    def shape(self, ours: tuple[int, ...]) -> tuple[int, ...]:
        """The published shape, from the shape of the whole parameter it is a piece of."""
        if self.stack is not None:
            return (self.stack, self.rows // self.stack, *ours[2:])
        shape = (self.rows, *(ours[2:] if len(ours) == 3 else ours[1:]))
        return shape[::-1] if self.transpose else shape


@dataclass(frozen=True)
class Rule:
    """One of our parameters, and the published tensors that lie in it one under another."""

    name: str
    pieces: tuple[Piece, ...]
    experts: int | None = None  # ours is a stack (experts, rows / experts, columns)
    whole: str | None = None  # the name under which some folders hold the stack as one tensor

    @property
    def rows(self) -> int:
        return sum(piece.rows for piece in self.pieces)

    def held(self, names: Collection[str]) -> Rule:
        """The rule for a folder with these tensors: the stack in one, or in pieces."""
        if self.whole is None or self.whole not in names:
            return self
        return replace(self, pieces=(Piece(self.whole, self.rows, stack=self.experts),))

    def blocks(self, parameter: Tensor) -> list[tuple[Piece, Tensor]]:
        """Each piece with its rows in our layout, which are views of `parameter`."""
        rows = parameter if self.experts is None else parameter.view(-1, parameter.shape[-1])
        blocks = rows.split([piece.rows for piece in self.pieces])
        return list(zip(self.pieces, blocks, strict=True))

    def fill(self, parameter: Tensor, read: Callable[[str], Tensor]) -> None:
        """Copy the pieces into `parameter`, one at a time, converting to its dtype."""
        for piece, block in self.blocks(parameter):
            block.copy_(piece.ours(read(piece.name)))

    def join(self, published: dict[str, Tensor]) -> Tensor:
        """The parameter from published tensors that are in memory.

        Raises:
            KeyError: one of them is missing.
        """
        rows = torch.cat([piece.ours(published[piece.name]) for piece in self.pieces])
        return rows if self.experts is None else rows.unflatten(0, (self.experts, -1))

    def split(self, parameter: Tensor) -> dict[str, Tensor]:
        """The published tensors of a parameter: the inverse of `join`."""
        return {p.name: p.published(block) for p, block in self.blocks(parameter)}


def one(name: str, published: str, rows: int, **options: object) -> Rule:
    """A parameter made of a single tensor."""
    return Rule(name, (Piece(published, rows, **options),))


def to_ours(rules: Iterable[Rule], published: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our state dict from a published one that is in memory.

    Raises:
        KeyError: a published tensor is missing.
    """
    return {rule.name: rule.join(published) for rule in rules}


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


def wide_names(model: nn.Module) -> set[str]:
    """Parameters that stay float32 in a model of any dtype, as their module says."""
    return {
        f"{path}.{name}"
        for path, module in model.named_modules()
        for name in getattr(module, "keeps_float32", ())
    }
