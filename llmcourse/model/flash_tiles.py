"""Which tiles of scores FlashAttention has to make, and which of them need a mask.

Taught in Part 3. A block of queries sees every key of some stretches, only part of others and
nothing of the rest. Cutting the keys where that changes leaves the rest out altogether (causal
block skipping, sliding windows, other documents, padding) and masks only what lies on an edge.
Works from positions and documents alone, so keys may stand in any order.

Source: Dao et al. 2022, arXiv 2205.14135, section 3.3 (block-sparse), and Dao 2023,
arXiv 2307.08691, section 3.1.1 (causal masking). Deviation: both cut at fixed places.
Shapes: B batch, T queries, S keys, N queries of one block, W keys of one tile.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from llmcourse.model.masks import NOWHERE, Visibility

MAX_RUNS = 8  # runs of keys per block; keys in a wilder order are masked instead of skipped


@dataclass(frozen=True)
class Tile:
    """One block of queries against keys `start` to `stop`."""

    start: int
    stop: int
    bias: Tensor | None  # (N, W) of 0 and -inf, to be added; None when every query sees every key


def blocks(
    visibility: Visibility, b: int, n: int, width: int, like: Tensor, sideways: bool = False
) -> Iterator[tuple[range, slice, list[Tile]]]:
    """Cut T queries into blocks of n, and what each block may see into tiles of at most `width`.

    Args:
        visibility: for T queries and S keys.
        b: rows of the batch.
        n: queries of a block; the last may have fewer.
        width: keys of the widest tile; longer runs are cut into equal parts.
        like: a tensor with the dtype and device that the biases shall have.
        sideways: store biases with the queries next to each other in memory instead of the keys.

    Yields:
        The rows of the batch it holds for (all B at once where they look alike), the block's
        queries, and its tiles; no tile where nothing is seen.
    """
    q, k = visibility.positions(like.device)
    if visibility.q_positions is None:
        q = q.clamp(min=0)  # without causality there may be more queries than positions
    alike = q.ndim == k.ndim == 1 and visibility.q_documents is None
    for batch in [range(b)] if alike else [range(i, i + 1) for i in range(b)]:
        one = [  # what concerns this row: (T,), (S,), (T,), (S,)
            x if x is None or x.ndim == 1 else x[batch.start]
            for x in (q, k, visibility.q_documents, visibility.k_documents)
        ]
        for start in range(0, visibility.t, n):
            block = slice(start, min(start + n, visibility.t))
            yield batch, block, _tiles(visibility, *one, block, width, like, sideways)


def _tiles(visibility, q, k, q_documents, k_documents, block, width, like, sideways) -> list[Tile]:
    """The tiles of one block, found from the range of its positions in O(S) steps."""
    q, documents = q[block], None if q_documents is None else q_documents[block]
    some, every = seen(visibility, q, k, documents, k_documents)
    codes, lengths = (some.long() + every.long()).unique_consecutive(return_counts=True)
    codes, lengths = codes.tolist(), lengths.tolist()  # 0 nobody sees the key, 1 some do, 2 all
    if len(codes) > MAX_RUNS:
        columns = some.nonzero()
        first, last = int(columns[0]), int(columns[-1])
        codes, lengths = [0, 1], [first, last + 1 - first]
    tiles, stop = [], 0
    for code, length in zip(codes, lengths):
        begin, stop = stop, stop + length
        pieces = math.ceil(length / width)
        for start in range(begin, stop, math.ceil(length / pieces)) if code else ():
            cut = slice(start, min(start + math.ceil(length / pieces), stop))
            bias = None
            if code == 1:
                table = visibility.rule(q[:, None], k[None, cut])  # (N, W)
                if documents is not None:
                    table &= documents[:, None] == k_documents[None, cut]
                # Adding -inf costs a third of filling by a mask.
                table = table.mT.contiguous().mT if sideways else table
                bias = torch.zeros_like(table, dtype=like.dtype).masked_fill_(~table, -math.inf)
            tiles.append(Tile(cut.start, cut.stop, bias))
    return tiles


def seen(
    visibility: Visibility,
    q: Tensor,
    k: Tensor,
    q_documents: Tensor | None = None,
    k_documents: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Which keys (S,) may be seen by some query of a block, and which are seen by every one.

    From the smallest and largest position q (N,) and document alone: "some" may say yes for a key
    that nobody sees (its tile is then masked for nothing), "every" never does.
    """
    real = q[q != NOWHERE]
    if len(real) == 0:
        nothing = torch.zeros_like(k, dtype=torch.bool)
        return nothing, nothing
    low, high = real.aminmax()
    some = k >= 0
    every = some & (len(real) == len(q))
    if visibility.causal:
        # All see the key at `low` too, but that one would lengthen a run by an awkward column.
        some, every = some & (k <= high), every & (k <= high) & ((k < low) | (low == high))
    if visibility.window is not None:
        some = some & ((low - k < visibility.window) | (k < visibility.sinks))
        every = every & ((high - k < visibility.window) | (k < visibility.sinks))
    if q_documents is not None:
        low, high = q_documents.aminmax()
        some = some & (low <= k_documents) & (k_documents <= high)
        every = every & (low == k_documents) & (k_documents == high)
    return some, every
