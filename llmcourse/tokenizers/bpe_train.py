"""Learning the merges of byte-pair encoding from text, fast. Part 4.

Byte-pair encoding (Sennrich et al. 2015, arXiv 1508.07909, algorithm 1) starts from single
symbols, here bytes as in GPT-2, and time after time joins the most frequent pair of neighbours into
a new symbol. The textbook loop counts all pairs anew for each merge: minutes for a few megabytes.
Here nothing is counted twice.

- Text is cut into words, and each *different* word is kept once, with its count.
- An index says for every pair which words have it; a merge visits only these, and changes only the
  counts of pairs beside the merged one.
- A heap gives the most frequent pair. A count in it may be out of date, but never too low: old
  pairs only become rarer, new ones are pushed when they arise. So a stale entry that comes to the
  top is put back with its true count (a *lazy* heap).

**Ties.** Of equally frequent pairs the one with the smallest ids wins: smallest left id, then
smallest right id. A run counts as often as neighbours meet in it: "aaa" holds (a, a) twice.

**Deviation that makes pure Python quick enough.** A word is a `str` whose characters *are* its
token ids, `chr(id)`: to merge a pair is then `str.replace`, which works from the left and without
overlap, as it must, and comparing two pairs as strings is comparing their ids. The limit is
1,114,112 ids, the number of characters Python has.
"""

from __future__ import annotations

import heapq
import itertools
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping

from llmcourse.tokenizers.base import utf8
from llmcourse.tokenizers.pretokenize import GPT4_PATTERN, split

BYTES = 256


def count_words(texts: Iterable[str], pattern: str = GPT4_PATTERN) -> Counter[str]:
    """How often each piece of the texts occurs (pieces as in `pretokenize.split`).

    Raises:
        ValueError: `texts` is a single str, or holds what is no text or has a lone surrogate.
    """
    if isinstance(texts, str):
        raise ValueError("texts must be several texts, got a single str; put it in a list")
    counts: Counter[str] = Counter()
    for text in texts:
        if not isinstance(text, str) or not text.isascii():
            utf8(text)
        counts.update(split(text, pattern))
    return counts


def learn_merges(
    words: Mapping[str, int] | Mapping[bytes, int],
    n_merges: int,
    *,
    min_count: int = 2,
    progress: bool = False,
) -> list[tuple[int, int]]:
    """The first `n_merges` merges, as pairs of ids; merge k makes the id 256 + k.

    Args:
        words: each different word and how often it occurs; ids 0 to 255 are bytes.
        n_merges: how many at most; fewer when the pairs run out.
        min_count: a pair that occurs more seldom is not merged.
        progress: show a bar.

    Raises:
        ValueError: `n_merges` is negative or too large, or `min_count` below 1.
    """
    if not 0 <= n_merges <= sys.maxunicode + 1 - BYTES:
        raise ValueError(
            f"n_merges={n_merges} must be between 0 and {sys.maxunicode + 1 - BYTES:,}"
        )
    if min_count < 1:
        raise ValueError(f"min_count={min_count} must be at least 1")
    from tqdm.auto import tqdm

    spelled = {_as_ids(word): count for word, count in words.items()}
    texts = [word for word in spelled if len(word) > 1]
    counts = [spelled[word] for word in texts]
    pairs, places = _pairs_and_places(texts, counts)
    heap = [(-count, pair) for pair, count in pairs.items() if count >= min_count]
    heapq.heapify(heap)
    merges: list[tuple[int, int]] = []
    with tqdm(total=n_merges, disable=not progress, unit="merge") as bar:
        while len(merges) < n_merges and heap:
            negative, pair = heapq.heappop(heap)
            count = pairs[pair]
            if count != -negative:
                if count >= min_count:
                    heapq.heappush(heap, (-count, pair))
                continue
            new = chr(BYTES + len(merges))
            merges.append((ord(pair[0]), ord(pair[1])))
            for arisen in _merge(pair, new, texts, counts, pairs, places):
                if pairs[arisen] >= min_count:
                    heapq.heappush(heap, (-pairs[arisen], arisen))
            bar.update()
    return merges


def _merge(
    pair: str,
    new: str,
    words: list[str],
    counts: list[int],
    pairs: dict[str, int],
    places: dict[str, list[int]],
) -> set[str]:
    """Replaces `pair` by `new` in every word that has it; returns the pairs that arose.

    `words`, `pairs` (counts) and `places` (index) are changed. `pair` keeps a count of 0 or so:
    it is in no word any more, and no heap entry of it is left.
    """
    # Words by the symbol that stands beside the pair: the counts are then summed once a symbol.
    before: defaultdict[str, list[int]] = defaultdict(list)
    behind: defaultdict[str, list[int]] = defaultdict(list)
    arisen: set[str] = set()
    for index in places.pop(pair):
        word = words[index]
        at = word.find(pair)
        if at < 0:
            continue  # the index is lazy too: an earlier merge took the pair, or it is there twice
        words[index] = merged = word.replace(pair, new)
        if len(word) - len(merged) == 1:  # one occurrence: nine of ten words
            if at:
                before[word[at - 1]].append(index)
            if at + 2 < len(word):
                behind[word[at + 2]].append(index)
            continue
        count = counts[index]
        for left, right in itertools.pairwise(word):
            pairs[left + right] -= count
        for left, right in itertools.pairwise(merged):
            pairs[left + right] = pairs.get(left + right, 0) + count
            if new in (left, right):
                arisen.add(left + right)
                places.setdefault(left + right, []).append(index)
    count_of = counts.__getitem__
    changed = [(symbol + pair[0], symbol + new, found) for symbol, found in before.items()]
    changed += [(pair[1] + symbol, new + symbol, found) for symbol, found in behind.items()]
    for old, fresh, found in changed:
        count = sum(map(count_of, found))
        pairs[old] -= count
        pairs[fresh] = pairs.get(fresh, 0) + count
        arisen.add(fresh)
        if fresh in places:
            places[fresh] += found
        else:
            places[fresh] = found
    return arisen


def _pairs_and_places(
    words: list[str], counts: list[int]
) -> tuple[dict[str, int], dict[str, list[int]]]:
    """For each pair of bytes: how often it occurs, and the numbers of the words that have it."""
    import numpy as np  # here, so that who only encodes need not wait for it

    if not words:
        return {}, {}
    symbols = np.frombuffer("".join(words).encode("latin-1"), np.uint8)  # (bytes of all words,)
    lengths = np.fromiter(map(len, words), np.int64, len(words))
    owner = np.repeat(np.arange(len(words)), lengths)
    inside = owner[:-1] == owner[1:]  # not a pair: the end of one word and the start of the next
    keys = (symbols[:-1].astype(np.uint16) << 8 | symbols[1:])[inside]
    owner = owner[:-1][inside]
    # Sums in float64 are exact up to 2**53 occurrences.
    totals = np.bincount(keys, np.array(counts, np.float64)[owner], minlength=BYTES * BYTES)
    sizes = np.bincount(keys, minlength=BYTES * BYTES)
    ends = np.cumsum(sizes)
    by_pair = owner[np.argsort(keys, kind="stable")].tolist()
    pairs, places = {}, {}
    for key in np.flatnonzero(sizes).tolist():
        pair = chr(key >> 8) + chr(key & 255)
        pairs[pair] = int(totals[key])
        places[pair] = by_pair[ends[key] - sizes[key] : ends[key]]
    return pairs, places


def _as_ids(word: str | bytes) -> str:
    # Latin-1 is the encoding in which byte b is character b.
    if isinstance(word, str):
        return word if word.isascii() else utf8(word).decode("latin-1")
    return word.decode("latin-1")
