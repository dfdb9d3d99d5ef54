"""Exercise 4.3 Encoding a word by the ranks of its merges."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

from llmcourse.grading.inputs import Draw
from llmcourse.grading.records import Answer, Arguments, Exercise, Property, WrongAnswer

Pair = tuple[int, int]
Merges = list[Pair]
Found = list[tuple[int, Pair]]
Choose = Callable[[list[int], Found], tuple[int, Pair]]
FIRST = 256  # the id that merge 0 makes


def _encode_inputs(draw: Draw, size: int) -> Arguments:
    a, b, c, d = sorted(draw.distinct(4, 97, 122))
    if size == 6:
        word = [draw.pick([a, b, c]) for _ in range(8)] + [a, b, c, d, d, d, a, b]
        return word, [(d, d), (b, c), (a, b), (c, 257), (257, a), (258, 258), (a, a), (258, 257)]
    return [
        ([a, b], [(a, b)]),
        ([a, b, c], [(b, c), (a, b)]),  # the lowest rank is not the leftmost pair
        ([c, a, b], [(c, a), (a, b)]),  # nor the one with the smallest ids
        ([a, a, a, b, a, a], [(c, d), (a, a), (257, b)]),
        ([a, b, c, b, c], [(a, b), (b, c), (257, 257)]),  # nor the most frequent one
        # `abc` is a token too, longer than `ab` and `cd`, and comes too late.
        ([a, b, c, d, a, b], [(c, d), (b, c), (a, 257), (a, b), (256, 259)]),
    ][size]


def _encode_oracle(word: list[int], merges: Merges) -> list[int]:
    # All at once and in order: a token that merge k makes can only go into later merges.
    text = "".join(chr(byte) for byte in word)
    for rank, (left, right) in enumerate(merges):
        text = text.replace(chr(left) + chr(right), chr(FIRST + rank))
    return [ord(character) for character in text]


def _join(ids: list[int], i: int, new_id: int) -> list[int]:
    return [*ids[:i], new_id, *ids[i + 2 :]]


def _encode_by(word: list[int], merges: Merges, choose: Choose) -> list[int]:
    ids = list(word)
    while True:
        found = [(i, pair) for i, pair in enumerate(pairwise(ids)) if pair in merges]
        if not found:
            return ids
        i, pair = choose(ids, found)
        ids = _join(ids, i, FIRST + merges.index(pair))


def _encode_leftmost(word: list[int], merges: Merges) -> list[int]:
    return _encode_by(word, merges, lambda ids, found: found[0])


def _encode_smallest_ids(word: list[int], merges: Merges) -> list[int]:
    return _encode_by(word, merges, lambda ids, found: min(found, key=lambda one: one[1]))


def _encode_last_rank(word: list[int], merges: Merges) -> list[int]:
    return _encode_by(
        word, merges, lambda ids, found: max(found, key=lambda one: merges.index(one[1]))
    )


def _encode_most_frequent(word: list[int], merges: Merges) -> list[int]:
    def choose(ids: list[int], found: Found) -> tuple[int, Pair]:
        return max(found, key=lambda one: sum(pair == one[1] for _, pair in found))

    return _encode_by(word, merges, choose)


def _encode_longest(word: list[int], merges: Merges) -> list[int]:
    spelled = {(byte,): byte for byte in range(FIRST)}
    known = {byte: (byte,) for byte in range(FIRST)}
    for rank, (left, right) in enumerate(merges):
        known[FIRST + rank] = known[left] + known[right]
        spelled[known[FIRST + rank]] = FIRST + rank
    ids, i = [], 0
    while i < len(word):
        length = max(n for n in range(1, len(word) - i + 1) if tuple(word[i : i + n]) in spelled)
        ids.append(spelled[tuple(word[i : i + length])])
        i += length
    return ids


def _encode_single_places(word: list[int], merges: Merges) -> list[int]:
    ids = list(word)
    for rank, pair in enumerate(merges):
        pairs = list(pairwise(ids))
        if pair in pairs:
            ids = _join(ids, pairs.index(pair), FIRST + rank)
    return ids


def _encode_one_merge(word: list[int], merges: Merges) -> list[int]:
    pairs = list(pairwise(word))
    for rank, pair in enumerate(merges):
        if pair in pairs:
            return _join(word, pairs.index(pair), FIRST + rank)
    return list(word)


def _encode_one_sweep(word: list[int], merges: Merges) -> list[int]:
    ids, i = [], 0
    while i < len(word):
        if tuple(word[i : i + 2]) in merges:
            ids.append(FIRST + merges.index((word[i], word[i + 1])))
            i += 2
        else:
            ids.append(word[i])
            i += 1
    return ids


def _encode_gives_up(word: list[int], merges: Merges) -> list[int]:
    ids = list(word)
    for rank, pair in enumerate(merges):
        if pair not in list(pairwise(ids)):
            break
        while pair in list(pairwise(ids)):
            ids = _join(ids, list(pairwise(ids)).index(pair), FIRST + rank)
    return ids


def _encode_rank_for_id(word: list[int], merges: Merges) -> list[int]:
    ids = _encode_by_lowest_rank(word, merges)
    return [i - FIRST if i >= FIRST else i for i in ids]


def _encode_by_lowest_rank(word: list[int], merges: Merges) -> list[int]:
    ranks = {pair: rank for rank, pair in enumerate(merges)}
    ids = list(word)
    while len(ids) > 1:
        best = min(pairwise(ids), key=lambda pair: ranks.get(pair, len(merges)))
        if best not in ranks:
            break
        ids = _join(ids, list(pairwise(ids)).index(best), FIRST + ranks[best])
    return ids


def _bytes_of(token: int, merges: Merges) -> list[int]:
    if token < FIRST:
        return [token]
    left, right = merges[token - FIRST]
    return _bytes_of(left, merges) + _bytes_of(right, merges)


def _spells_the_word(got: list[int], arguments: Arguments, call: Answer) -> str | None:
    word, merges = arguments
    wrong = [token for token in got if token < 0 or token >= FIRST + len(merges)]
    if wrong:
        return f"{wrong[0]} is no token: they go from 0 to {FIRST + len(merges) - 1}"
    spelled = [byte for token in got for byte in _bytes_of(token, merges)]
    if spelled != word:
        return f"the tokens spell the bytes {spelled}, the word is {word}"
    return None


def _nothing_left(got: list[int], arguments: Arguments, call: Answer) -> str | None:
    _, merges = arguments
    for left, right in pairwise(got):
        if (left, right) in merges:
            return f"{left}, {right} stand side by side and merge {merges.index((left, right))} "
    return None


ENCODE_WORD = Exercise(
    id="4.3",
    title="encode a word",
    name="encode_word",
    signature="encode_word(word: list[int], merges: list[tuple[int, int]]) -> list[int]",
    taught="Part 4, byte-pair encoding",
    difficulty=3,
    minutes=20,
    sizes=7,
    make_inputs=_encode_inputs,
    oracle=_encode_oracle,
    tolerance=1e-12,  # whole numbers: any difference counts
    statement="the pair of lowest rank is merged, again and again, until no neighbours are a pair",
    properties=(
        Property("the tokens spell the word", _spells_the_word),
        Property("no merge is left to do", _nothing_left),
    ),
    wrong_answers=(
        WrongAnswer(
            "left to right",
            _encode_leftmost,
            "The leftmost pair that is a merge goes first. The order is that of the ranks: the "
            "merge learned earliest goes first, wherever in the word it stands.",
        ),
        WrongAnswer(
            "smallest ids",
            _encode_smallest_ids,
            "The pair with the smallest ids goes first: min over the pairs themselves. Compare "
            "their places in `merges`.",
        ),
        WrongAnswer(
            "highest rank",
            _encode_last_rank,
            "The merge learned last goes first. Early merges were the frequent ones, and later "
            "ones are built on them: the lowest rank goes first.",
        ),
        WrongAnswer(
            "most frequent in the word",
            _encode_most_frequent,
            "The pair most frequent in this word goes first. That is the rule of training, over "
            "the whole corpus; encoding only follows the ranks that came of it.",
        ),
        WrongAnswer(
            "longest token",
            _encode_longest,
            "This takes the longest token that fits, from the left: WordPiece does so. BPE replays "
            "its merges in the order of their ranks, and the two do not always agree.",
        ),
        WrongAnswer(
            "one place each",
            _encode_single_places,
            "Each merge is done in one place only and then never again. It is done wherever its "
            "pair stands before the next one's turn.",
        ),
        WrongAnswer(
            "a single merge",
            _encode_one_merge,
            "Only one merge is done. Go on until no two neighbours are a merge.",
        ),
        WrongAnswer(
            "one sweep",
            _encode_one_sweep,
            "One sweep from left to right, merging what it meets: ranks do not matter to it, and "
            "tokens that it makes are never merged further.",
        ),
        WrongAnswer(
            "gives up early",
            _encode_gives_up,
            "It ends at the first merge that does not occur in the word; later ones may. Skip it "
            "and go on (continue, not break).",
        ),
        WrongAnswer(
            "rank for id",
            _encode_rank_for_id,
            "The merges' ranks are returned in place of token ids. Ids 0 to 255 are the bytes, so "
            "merge k makes the token 256 + k.",
        ),
    ),
    alternatives=(_encode_by_lowest_rank,),
    # "lower" with the merges er, lo, low: l, o, w, e, r
    examples=(([108, 111, 119, 101, 114], [(101, 114), (108, 111), (257, 119), (119, 101)]),),
)
