"""Merging one piece of text by rank: the rule of byte-pair encoding, twice. Part 4.

`merge` reads like the rule: of all neighbours join the two whose joined bytes have the lowest rank,
the leftmost of equals, until none have one. It looks at every pair for every merge, which is n
squared in all, and right for words. `merge_long` finds the next pair with a heap, in n log n; for
pieces like a thousand spaces, or a text in a script that puts none.

Source: Sennrich et al. 2015, arXiv 1508.07909, algorithm 1; the form by rank is tiktoken's.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from itertools import pairwise

NEVER = 1 << 62  # the rank of what is no token: later than all


def merge_once(parts: list[bytes], ranks: Mapping[bytes, int]) -> list[bytes] | None:
    """One step of the rule: `parts` with two neighbours joined; None when there is nothing to do.

    >>> merge_once([b"l", b"o", b"w"], {b"ow": 0, b"lo": 1})
    [b'l', b'ow']
    """
    scores = [ranks.get(left + right, NEVER) for left, right in pairwise(parts)]
    best = min(scores, default=NEVER)
    if best == NEVER:
        return None
    at = scores.index(best)
    return [*parts[:at], parts[at] + parts[at + 1], *parts[at + 2 :]]


def merge(piece: bytes, ranks: Mapping[bytes, int], below: int = NEVER) -> list[bytes]:
    """The tokens of a piece, left to right; with `below`, by the merges of lower rank only.

    The same as `merge_once` again and again, except that after a merge only the ranks of the two
    pairs it changed are looked up anew.
    """
    parts = [piece[place : place + 1] for place in range(len(piece))]
    scores = [ranks.get(left + right, NEVER) for left, right in pairwise(parts)]
    while scores:
        best = min(scores)
        if best >= below:
            break
        at = scores.index(best)
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
        del scores[at]
        if at < len(scores):
            scores[at] = ranks.get(parts[at] + parts[at + 1], NEVER)
        if at > 0:
            scores[at - 1] = ranks.get(parts[at - 1] + parts[at], NEVER)
    return parts


def merge_long(piece: bytes, ranks: Mapping[bytes, int]) -> list[bytes]:
    """The same tokens as `merge`, in n log n for a piece of n bytes."""
    length = len(piece)
    # A token lives where it starts: `end[start]` is where it ends, and the next one starts.
    # `previous` is the way back; -1 in `end` says that no token starts here any more.
    end = list(range(1, length + 1))
    previous = list(range(-1, length - 1))
    heap: list[tuple[int, int, int]] = []  # (rank, start, end of the right one): leftmost of equals

    def offer(start: int) -> None:
        middle = end[start]
        if middle < length:
            rank = ranks.get(piece[start : end[middle]])
            if rank is not None:
                heapq.heappush(heap, (rank, start, end[middle]))

    for start in range(length - 1):
        offer(start)
    while heap:
        _, start, stop = heapq.heappop(heap)
        middle = end[start]
        # Gone, or one of the two has grown since: then the entry is of a pair that is no more.
        if middle < 0 or middle >= length or end[middle] != stop:
            continue
        end[start], end[middle] = stop, -1
        if stop < length:
            previous[stop] = start
        offer(start)
        if previous[start] >= 0:
            offer(previous[start])
    parts = []
    start = 0
    while start < length:
        parts.append(piece[start : end[start]])
        start = end[start]
    return parts
