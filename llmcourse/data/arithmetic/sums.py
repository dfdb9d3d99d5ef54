"""Bare calculations: writing "What is 12 * 3 + 47?" and reading it back. Part 4.

Reading is a grammar of its own (products before sums, left to right), so that the verifier can
solve any question of this form, whoever wrote it.
"""

from __future__ import annotations

import random
import re

from llmcourse.data.arithmetic.calculation import Calculation, Value
from llmcourse.data.arithmetic.difficulty import MAX_DIGITS, MAX_OPERATIONS, Difficulty

PHRASINGS = ("{} = ?", "What is {}?", "Work out {}.", "How much is {}?")
KINDS = ("sum", "difference", "product")

_NUMBER = rf"[1-9][0-9]{{0,{MAX_DIGITS - 1}}}"
_EXPRESSION = rf"{_NUMBER}(?: [-+*] {_NUMBER}){{1,{MAX_OPERATIONS}}}"
_QUESTIONS = [
    re.compile("({})".join(map(re.escape, phrasing.split("{}"))).format(_EXPRESSION))
    for phrasing in PHRASINGS
]


def draw_number(rng: random.Random, digits: int) -> int:
    """A number of exactly so many digits; never 0 or 1, which make steps that say nothing."""
    return rng.randint(max(2, 10 ** (digits - 1)), 10**digits - 1)


def draw_sum(rng: random.Random, kind: str, difficulty: Difficulty) -> str:
    """A question of one kind.

    "sum" only adds; "difference" subtracts at least once; "product" holds one product, anywhere,
    and adds or subtracts the rest.
    """
    operations = difficulty.operations
    signs = [rng.choice("+-") for _ in range(operations)]
    if kind == "sum":
        signs = ["+"] * operations
    elif kind == "difference" and "-" not in signs:
        signs[rng.randrange(operations)] = "-"
    elif kind == "product":
        signs[rng.randrange(operations)] = "*"
    words = [str(draw_number(rng, difficulty.digits))]
    for sign in signs:
        digits = difficulty.factor_digits if sign == "*" else difficulty.digits
        words += [sign, str(draw_number(rng, digits))]
    return rng.choice(PHRASINGS).format(" ".join(words))


def read_sum(question: str) -> Calculation | None:
    """The calculation that a bare question asks for; None if it is no such question."""
    found = next((m for p in _QUESTIONS if (m := p.fullmatch(question))), None)
    if found is None:
        return None
    calculation = Calculation()
    words = found[1].split(" ")
    values = [calculation.give(int(word)) for word in words[::2]]
    # Products first; what is left is a row of terms with plus and minus between them.
    terms: list[Value] = [values[0]]
    signs: list[str] = []
    for sign, value in zip(words[1::2], values[1:], strict=True):
        if sign == "*":
            terms[-1] = calculation.apply("*", terms[-1], value)
        else:
            terms.append(value)
            signs.append(sign)
    total = terms[0]
    for sign, term in zip(signs, terms[1:], strict=True):
        total = calculation.apply(sign, total, term)
    return calculation
