"""Byte-pair encoding as the textbook has it: slow, and the measure of the fast trainer. Part 4.

Source: Sennrich et al. 2015, arXiv 1508.07909, algorithm 1. Every merge counts all pairs of all
words anew, so M merges of a text with W symbols cost about M W steps; `bpe_train` learns the same
merges without counting anything twice, and its tests and benchmark hold it against this.

Deviations: symbols are ids, bytes at first, and of equally frequent pairs the one with the smallest
ids wins (the paper leaves ties to Python's dictionary).
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping

from llmcourse.tokenizers.base import utf8

BYTES = 256


def textbook_merges(
    words: Mapping[str, int] | Mapping[bytes, int], n_merges: int, *, min_count: int = 2
) -> list[tuple[int, int]]:
    """The first `n_merges` merges, as pairs of ids; merge k makes the id 256 + k.

    Arguments are those of `bpe_train.learn_merges`, and so is the result.
    """
    spelled = [
        (list(utf8(word) if isinstance(word, str) else word), count)
        for word, count in words.items()
    ]
    merges: list[tuple[int, int]] = []
    while len(merges) < n_merges:
        best = textbook_step(spelled, BYTES + len(merges), min_count)
        if best is None:
            break
        merges.append(best)
    return merges


def textbook_step(
    words: list[tuple[list[int], int]], new: int, min_count: int = 2
) -> tuple[int, int] | None:
    """One merge: count every pair, join the most frequent one everywhere.

    Args:
        words: ids of each word and how often it occurs; changed in place.
        new: the id that the pair becomes.
        min_count: a pair that occurs more seldom is not merged.

    Returns:
        The pair; None if there is none to merge.
    """
    pairs: Counter[tuple[int, int]] = Counter()
    for ids, count in words:
        for pair in itertools.pairwise(ids):
            pairs[pair] += count
    if not pairs:
        return None
    best = min(pairs, key=lambda pair: (-pairs[pair], pair))
    if pairs[best] < min_count:
        return None
    for place, (ids, count) in enumerate(words):
        joined, at = [], 0
        while at < len(ids):
            if at + 1 < len(ids) and (ids[at], ids[at + 1]) == best:
                joined.append(new)
                at += 2
            else:
                joined.append(ids[at])
                at += 1
        words[place] = (joined, count)
    return best
