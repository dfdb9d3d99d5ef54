"""Word problems: telling one, and reading any of them back to its calculation. Part 4.

Reading does not trust the teller: it takes the text alone, finds the sentences, checks that they
are about the same people and things, and follows what they do to the total.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from functools import cache

from llmcourse.data.arithmetic.calculation import Calculation, Value
from llmcourse.data.arithmetic.difficulty import MAX_DIGITS, MAX_OPERATIONS, Difficulty
from llmcourse.data.arithmetic.sums import draw_number
from llmcourse.data.arithmetic.templates import (
    ASKS,
    COUNTED,
    EVENTS,
    NAMES,
    OPENINGS,
    WHERE,
    Sentence,
)

_SLOT = re.compile(r"\{(\w+)\}")
_CAST = {"P": tuple(NAMES), "Q": tuple(NAMES), "things": COUNTED, "at": WHERE}


def draw_story(rng: random.Random, difficulty: Difficulty) -> str:
    """A question with exactly as many operations as the difficulty says."""
    sentences = _draw_sentences(rng, difficulty.operations)
    hero, other = rng.sample(sorted(NAMES), 2)
    words = {"P": hero, "Q": other, "things": rng.choice(COUNTED), "at": rng.choice(WHERE)}
    told = []
    for sentence in sentences:
        numbers = {
            slot: draw_number(
                rng,
                difficulty.factor_digits if sentence.is_factor(slot) else difficulty.digits,
            )
            for slot in ("n", "m")
        }
        told.append(_fill(sentence.text, words, numbers))
    return " ".join(told)


def read_story(question: str) -> Calculation | None:
    """The calculation that a word problem asks for; None if the text is no such problem."""
    return next(readings(question), None)


def readings(question: str) -> Iterator[Calculation]:
    """All ways to read a question; that there is never more than one is tested."""
    for opening, numbers, words, rest in _read_one(OPENINGS, question, {}):
        yield from _read_on([(opening, numbers)], words, rest)


def _draw_sentences(rng: random.Random, operations: int) -> list[Sentence]:
    while True:
        opening, ask = rng.choice(OPENINGS), rng.choice(ASKS)
        left = operations - opening.operations - ask.operations
        if left < 0:
            continue
        events: list[Sentence] = []
        while left > 0:
            # The same sentence twice in a row reads like a slip of the pen.
            choices = [e for e in EVENTS if e.operations <= left and e not in events[-1:]]
            events.append(rng.choice(choices))
            left -= events[-1].operations
        return [opening, *events, ask]


def _fill(text: str, words: dict[str, str], numbers: dict[str, int]) -> str:
    female = NAMES[words["P"]]

    def value(match: re.Match[str]) -> str:
        slot = match[1]
        if slot in ("n", "m"):
            return str(numbers[slot])
        return words[slot] if slot in words else _pronoun(slot, text, match.start(), female)

    return _SLOT.sub(value, text)


def _pronoun(slot: str, text: str, place: int, female: bool) -> str:
    """She, he, her, his or him. English has one word "her" for "his" and for "him": which of the
    two is meant shows in what comes next, a noun or something else."""
    if slot in ("She", "she"):
        return slot if female else {"She": "He", "she": "he"}[slot]
    if female:
        return slot
    following = text[place + len(slot) + 2 :]
    owned = re.match(r" (grandmother|sister|birthday|own|\{things\})", following)
    word = "his" if owned else "him"
    return word.capitalize() if slot == "Her" else word


@cache
def _pattern(sentence: Sentence, female: bool) -> re.Pattern[str]:
    """Matches a sentence at the start of a text; the same slot must be the same word again."""
    pieces, seen, end = [], set(), 0
    for match in _SLOT.finditer(sentence.text):
        pieces.append(re.escape(sentence.text[end : match.start()]))
        slot, end = match[1], match.end()
        if slot in seen:
            pieces.append(f"(?P={slot})")
        elif slot in ("n", "m"):
            pieces.append(rf"(?P<{slot}>[1-9][0-9]{{0,{MAX_DIGITS - 1}}})")
        elif slot in _CAST:
            pieces.append(f"(?P<{slot}>{'|'.join(map(re.escape, _CAST[slot]))})")
        else:
            pieces.append(_pronoun(slot, sentence.text, match.start(), female))
        if slot in ("n", "m", *_CAST):
            seen.add(slot)
    pieces.append(re.escape(sentence.text[end:]))
    return re.compile("".join(pieces) + r"(?: |\Z)")


_Found = tuple[Sentence, dict[str, int], dict[str, str], str]


def _read_one(kind: tuple[Sentence, ...], text: str, words: dict[str, str]) -> Iterator[_Found]:
    """Sentences of one kind that the text may begin with and that fit the words so far."""
    for sentence in kind:
        for female in (False, True):
            match = _pattern(sentence, female).match(text)
            if match is None:
                continue
            found = match.groupdict()
            numbers = {slot: int(found.pop(slot)) for slot in ("n", "m") if slot in found}
            merged = {**found, **words}
            same = all(merged[slot] == word for slot, word in found.items())
            if not same or merged.get("P") == merged.get("Q") or NAMES[merged["P"]] != female:
                continue
            yield sentence, numbers, merged, text[match.end() :]


def _read_on(
    told: list[tuple[Sentence, dict[str, int]]], words: dict[str, str], text: str
) -> Iterator[Calculation]:
    for ask, numbers, _, rest in _read_one(ASKS, text, words):
        if not rest:
            yield _follow([*told, (ask, numbers)])
    if len(told) <= MAX_OPERATIONS:
        for event, numbers, merged, rest in _read_one(EVENTS, text, words):
            yield from _read_on([*told, (event, numbers)], merged, rest)


def _follow(told: list[tuple[Sentence, dict[str, int]]]) -> Calculation:
    calculation = Calculation()
    values: dict[str, Value] = {}
    for sentence, numbers in told:
        values |= {slot: calculation.give(number) for slot, number in numbers.items()}
        for target, right in sentence.assignments:
            if len(right) == 1:
                values[target] = values[right]
            else:
                values[target] = calculation.apply(right[1], values[right[0]], values[right[2]])
    return calculation
