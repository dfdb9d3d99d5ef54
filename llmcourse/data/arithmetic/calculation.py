"""What is calculated, and how a calculation is worked out in small steps. Part 4.

A calculation is a list of operations, each on numbers that are given or have been worked out. An
operation on long numbers is too much for one step, so it is taken apart by decimal places: a small
step has one number with a single digit other than 0.

    47 + 85:   47 + 5 = 52,   52 + 80 = 132
    24 * 13:   24 * 3 = 72,   24 * 10 = 240,   72 + 40 = 112,   112 + 200 = 312

There is more than one way to do that; `derivations` lists those that the verifier accepts, the one
that our own solutions use first.
"""

from __future__ import annotations

from typing import NamedTuple

OPERATORS = "+-*"
COMMUTE = "+*"


class Step(NamedTuple):
    """One equation: left operator right = what comes out."""

    operator: str  # "+", "-" or "*"
    left: int
    right: int

    @property
    def result(self) -> int:
        if self.operator == "+":
            return self.left + self.right
        return self.left - self.right if self.operator == "-" else self.left * self.right

    @property
    def turned(self) -> Step:
        """The same with its numbers in order of size where their order does not matter."""
        if self.operator in COMMUTE and self.left > self.right:
            return Step(self.operator, self.right, self.left)
        return self

    def __str__(self) -> str:
        return f"{self.left} {self.operator} {self.right} = {self.result}"


class Value(NamedTuple):
    """A number and where it came from: a row of terms, in an order that does not depend on theirs.

    Sums in any order, with or without brackets, have the same terms, and products the same factors;
    so `key` is the same for 3 * 4 + 7 and 7 + 4 * 3.
    """

    number: int
    terms: tuple[str, ...]  # sorted; each begins with its sign: ("+3*4", "+7")

    @property
    def key(self) -> str:
        return "".join(self.terms).removeprefix("+")

    @property
    def factors(self) -> list[str]:
        """What a product with this value multiplies; more than one term needs brackets."""
        if len(self.terms) == 1 and self.terms[0][0] == "+" and "(" not in self.terms[0]:
            return self.key.split("*")
        return [f"({self.key})"]


class Calculation:
    """Operations in the order in which they are made; filled by whoever reads a question."""

    def __init__(self) -> None:
        self.operations: list[Step] = []
        self.value = Value(0, ())  # of the last operation
        self.given: list[int] = []  # the numbers of the question, in its order

    def give(self, number: int) -> Value:
        """A number from the question."""
        self.given.append(number)
        return Value(number, (f"+{number}",))

    def apply(self, operator: str, left: Value, right: Value) -> Value:
        """Adds an operation; returns what comes out."""
        step = Step(operator, left.number, right.number)
        self.operations.append(step)
        if operator == "*":
            terms = ("+" + "*".join(sorted(left.factors + right.factors)),)
        else:
            added = right.terms if operator == "+" else map(_negative, right.terms)
            terms = tuple(sorted([*left.terms, *added]))
        self.value = Value(step.result, terms)
        return self.value

    @property
    def answer(self) -> int:
        return self.value.number

    @property
    def key(self) -> str:
        """Names the calculation, whatever story it was dressed in."""
        return self.value.key

    @property
    def steps(self) -> tuple[Step, ...]:
        """All operations in small steps, in the way of our own solutions."""
        return tuple(step for operation in self.operations for step in derivations(operation)[0])


def _negative(term: str) -> str:
    return ("-" if term[0] == "+" else "+") + term[1:]


def parts(number: int) -> list[int]:
    """A positive number by decimal places, ones first, zeros left out: 205 is 5 and 200."""
    digits = str(number)[::-1]
    return [int(digit) * 10**place for place, digit in enumerate(digits) if digit != "0"]


def derivations(operation: Step) -> list[tuple[Step, ...]]:
    """The accepted ways to work out one operation: taken apart by the places of either number, from
    the ones upwards or downwards, or done in one go. The first is what our solutions do."""
    operator, left, right = operation
    pairs = [(left, right)]
    if operator in COMMUTE:
        # The number with fewer digits to take apart comes first: fewer steps.
        pairs = sorted([(left, right), (right, left)], key=lambda pair: len(parts(pair[1])))
    found: list[tuple[Step, ...]] = []
    for kept, split in pairs:
        upwards = parts(split)
        for places in (upwards, upwards[::-1]):
            if operator == "*":
                found += [_product(kept, places, small) for small in (True, False)]
            else:
                found.append(_chain(operator, kept, places))
    found.append((operation,))
    return list(dict.fromkeys(found))


def _chain(operator: str, start: int, numbers: list[int]) -> tuple[Step, ...]:
    steps, total = [], start
    for number in numbers:
        steps.append(Step(operator, total, number))
        total = steps[-1].result
    return tuple(steps)


def _product(kept: int, places: list[int], small: bool) -> tuple[Step, ...]:
    steps = [Step("*", kept, place) for place in places]
    total = steps[0].result
    for step in steps[1:]:
        addends = parts(step.result) if small else [step.result]
        chain = _chain("+", total, addends)
        steps = [*steps, *chain]
        total = chain[-1].result
    return tuple(steps)
