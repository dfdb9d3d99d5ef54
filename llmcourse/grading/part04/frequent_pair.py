"""Exercise 4.2 The pair that byte-pair encoding merges next."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

from llmcourse.grading.inputs import Draw
from llmcourse.grading.records import Answer, Arguments, Exercise, Property, WrongAnswer

Result = tuple[int, int, int]


def _pair_inputs(draw: Draw, size: int) -> Arguments:
    a, b, c, d = sorted(draw.distinct(4, 97, 122))
    k = draw.integer(3, 9)
    if size == 5:
        words = [[draw.pick([a, b, c, d]) for _ in range(draw.integer(1, 6))] for _ in range(9)]
        words += [[c, d, c, d], [d, d, d]]
        return words, [draw.integer(1, 9) for _ in words]
    return [
        ([[b, a]], [k]),
        ([[a, b], [c, b, d], [b, d]], [2, k, 1]),  # the frequent word is not the first
        ([[b, b, b], [a, c]], [k, k + 1]),  # a run holds the pair twice
        ([[a, d], [c, d], [a, c], [b, c]], [k, k, k, k]),  # a tie
        ([[a], [b, c], [c, b], [a, d]], [4 * k, k, k, k + 1]),  # a word of one byte, often
    ][size]


def _pair_oracle(words: list[list[int]], counts: list[int]) -> Result:
    best = (0, 0, 0)
    known = sorted({token for word in words for token in word})
    for left in known:
        for right in known:
            total = 0
            for word, count in zip(words, counts):
                for i in range(len(word) - 1):
                    if word[i] == left and word[i + 1] == right:
                        total += count
            if total > best[2]:  # equals come later and do not win
                best = (left, right, total)
    return best


def _counted(words: list[list[int]], counts: list[int]) -> Counter:
    pairs: Counter = Counter()
    for word, count in zip(words, counts):
        for pair in pairwise(word):
            pairs[pair] += count
    return pairs


def _smallest(pairs: Counter) -> Result:
    most = max(pairs.values())
    left, right = min(pair for pair, count in pairs.items() if count == most)
    return left, right, most


def _pair_words_once(words: list[list[int]], counts: list[int]) -> Result:
    return _smallest(_counted(words, [1] * len(words)))


def _pair_across_words(words: list[list[int]], counts: list[int]) -> Result:
    text = [token for word, count in zip(words, counts) for token in word * count]
    return _smallest(Counter(pairwise(text)))


def _pair_once_a_word(words: list[list[int]], counts: list[int]) -> Result:
    pairs: Counter = Counter()
    for word, count in zip(words, counts):
        for pair in set(pairwise(word)):
            pairs[pair] += count
    return _smallest(pairs)


def _pair_no_overlap(words: list[list[int]], counts: list[int]) -> Result:
    pairs: Counter = Counter()
    for word, count in zip(words, counts):
        for pair in set(pairwise(word)):
            i = 0
            while i < len(word) - 1:
                found = (word[i], word[i + 1]) == pair
                pairs[pair] += count if found else 0
                i += 2 if found else 1
    return _smallest(pairs)


def _pair_either_order(words: list[list[int]], counts: list[int]) -> Result:
    pairs: Counter = Counter()
    for pair, count in _counted(words, counts).items():
        pairs[min(pair), max(pair)] += count
    return _smallest(pairs)


def _pair_first_seen(words: list[list[int]], counts: list[int]) -> Result:
    (left, right), count = _counted(words, counts).most_common(1)[0]
    return left, right, count


def _pair_largest(words: list[list[int]], counts: list[int]) -> Result:
    count, (left, right) = max((count, pair) for pair, count in _counted(words, counts).items())
    return left, right, count


def _pair_rarest(words: list[list[int]], counts: list[int]) -> Result:
    count, (left, right) = min((count, pair) for pair, count in _counted(words, counts).items())
    return left, right, count


def _pair_by_sorting(words: list[list[int]], counts: list[int]) -> Result:
    # One sort key says it all: most frequent first, then the smaller ids.
    table: dict[tuple[int, int], int] = {}
    for number, word in enumerate(words):
        for i in range(1, len(word)):
            pair = word[i - 1], word[i]
            table[pair] = table.get(pair, 0) + counts[number]
    (left, right), count = sorted(table.items(), key=lambda item: (-item[1], item[0]))[0]
    return left, right, count


def _is_there(got: Result, arguments: Arguments, call: Answer) -> str | None:
    words, _ = arguments
    if not any((got[0], got[1]) in list(pairwise(word)) for word in words):
        return f"{got[0]} is followed by {got[1]} in none of the words"
    return None


def _in_proportion(got: Result, arguments: Arguments, call: Answer) -> str | None:
    words, counts = arguments
    if call(words, [10 * count for count in counts])[2] != 10 * got[2]:
        return "with every word ten times as often, every pair must be ten times as often"
    return None


FREQUENT_PAIR = Exercise(
    id="4.2",
    title="the most frequent pair",
    name="most_frequent_pair",
    signature=(
        "most_frequent_pair(words: list[list[int]], counts: list[int]) -> tuple[int, int, int]"
    ),
    taught="Part 4, byte-pair encoding",
    difficulty=2,
    minutes=15,
    make_inputs=_pair_inputs,
    oracle=_pair_oracle,
    tolerance=1e-12,  # whole numbers: any difference counts
    statement="left id, right id and count of the most frequent pair; of equals the smallest ids",
    properties=(
        Property("the pair stands in a word", _is_there),
        Property("a word counts as often as it occurs", _in_proportion),
    ),
    wrong_answers=(
        WrongAnswer(
            "each word once",
            _pair_words_once,
            "Each word is counted once, however often it occurs in the text. Its pairs count "
            "`count` times: that is why words are kept once with a count.",
        ),
        WrongAnswer(
            "pairs across words",
            _pair_across_words,
            "The words are strung together, and pairs across their borders count. A merge never "
            "crosses a word: count in each word by itself.",
        ),
        WrongAnswer(
            "once a word",
            _pair_once_a_word,
            "A pair that stands twice in a word is counted once for it. Every place counts.",
        ),
        WrongAnswer(
            "runs without overlap",
            _pair_no_overlap,
            "In a run like a a a the pair (a, a) is counted without overlap, once. The rule here "
            "counts every two neighbours: twice. (Only the merging goes without overlap.)",
        ),
        WrongAnswer(
            "either order",
            _pair_either_order,
            "(a, b) and (b, a) are counted as one pair. The order matters: 'th' is frequent, 'ht' "
            "is not.",
        ),
        WrongAnswer(
            "ties to the first seen",
            _pair_first_seen,
            "Ties go to the pair that was seen first, as max and most_common do it, so the "
            "tokenizer depends on the order of the words. Of equals take the smallest left id, "
            "then the smallest right id.",
        ),
        WrongAnswer(
            "ties to the largest ids",
            _pair_largest,
            "Ties go to the largest ids: max over (count, pair) compares the pairs too. Of equals "
            "the smallest ids win: minimise (-count, pair).",
        ),
        WrongAnswer(
            "the rarest pair",
            _pair_rarest,
            "This is the rarest pair: min over (count, pair). Asked for is the most frequent one: "
            "minimise (-count, pair).",
        ),
    ),
    alternatives=(_pair_by_sorting,),
    examples=(([[97, 98, 97, 98], [99, 98], [99, 97, 98]], [3, 7, 1]),),
)
