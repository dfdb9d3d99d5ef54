"""The sentences of word problems. Part 4.

A word problem is an opening, then events, then what is asked. Each sentence says what it does to
the running total t with its numbers n and m, in the order of the text; r is a result in between.
The words are the village's own, so that a model that has read the tales knows who these people are.

Slots: P whom it is about, Q someone else, She/she/Her/her for P, things what is counted, at a
place, n and m numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

from llmcourse.data.tales.vocabulary import FOODS, PEOPLE, PLACES, THINGS


@dataclass(frozen=True)
class Sentence:
    """One template: what it says and what it means."""

    text: str
    effect: str  # assignments, with ";" between them: "r=n*m;t=t+r"

    @property
    def assignments(self) -> list[tuple[str, str]]:
        """Pairs like ("t", "t+r")."""
        return [tuple(part.split("=")) for part in self.effect.split(";") if part]

    @property
    def operations(self) -> int:
        """Calculations that it takes."""
        return sum(len(right) == 3 for _, right in self.assignments)

    def is_factor(self, slot: str) -> bool:
        """Whether this number multiplies: "n" in n*m (so many times m) and in t*n."""
        return f"{slot}*" in self.effect or f"t*{slot}" in self.effect


def _table(text: str) -> tuple[Sentence, ...]:
    rows = (line.split("|") for line in text.strip().splitlines())
    return tuple(Sentence(words.strip(), effect.strip()) for effect, words in rows)


OPENINGS = _table("""
t=n     | {P} has {n} {things}.
t=n     | {P} keeps {n} {things} {at}.
t=n     | {P} finds {n} {things} {at}.
t=n     | One morning {P} counts {n} {things} {at}, all of them {her} own.
t=n     | {P} comes home with {n} {things}.
t=n     | A cart brings {n} {things} to {P}.
t=n+m   | {P} has {n} {things} at home and {m} more {at}.
t=n+m   | {P} makes {n} {things} on Monday and {m} on Tuesday, and keeps them all.
t=n-m   | Of {n} {things} {at}, {m} belong to a miller and all the others to {P}.
t=n-m   | {P} had {n} {things}, but {m} of them are gone.
t=n*m   | {P} has {n} sacks with {m} {things} in each.
t=n*m   | {P} owns {n} crates {at}, and each of them holds {m} {things}.
""")

EVENTS = _table("""
t=t+n       | {Q} gives {her} {n} more.
t=t+n       | {She} buys {n} more {things} from {Q}.
t=t+n       | Then {she} finds {n} more {at}.
t=t+n       | {Her} grandmother sends {her} {n} {things}.
t=t+n       | For {her} birthday {she} gets another {n}.
t=t-n       | {She} gives {n} of them to {Q}.
t=t-n       | {She} loses {n} of them {at}.
t=t-n       | {Q} borrows {n} {things}.
t=t-n       | {She} sells {n} {things} and keeps the rest.
t=t-n       | A fox carries off {n} of them.
t=t*n       | A year later {she} has {n} times as many.
t=t*n       | By autumn {her} {things} are {n} times as many.
r=n*m;t=t+r | On each of the next {n} days {she} gets {m} more {things}.
r=n*m;t=t+r | {Q} brings {her} {n} boxes with {m} {things} in each.
r=n*m;t=t-r | To each of {n} friends {she} gives {m} {things}.
r=n*m;t=t-r | {She} fills {n} bags with {m} {things} each and sends them to {Q}.
""")

ASKS = _table("""
            | How many {things} does {P} have now?
            | How many {things} has {P} in the end?
            | What is the number of {P}'s {things} now?
            | So how many {things} are {P}'s own?
t=t+n       | {Her} sister has {n} {things}. How many {things} do they have together?
t=n-t       | {P} wants to have {n} {things}. How many are still missing?
r=t+n;t=t+r | {Her} sister has {n} more {things} than {she} has. How many have they both together?
r=t*n;t=t+r | {Her} sister has {n} times as many {things}. How many {things} do the two have in all?
""")

_FOODS_TO_COUNT = ("carrots", "nuts", "apples", "figs", "pears")


def plural(noun: str) -> str:
    """The plural of one of the village's things."""
    if noun.endswith("f"):
        return noun.removesuffix("f") + "ves"
    return noun + ("es" if noun.endswith(("s", "sh", "ch", "x")) else "s")


NAMES = {person.name: person.female for person in PEOPLE}
COUNTED = (
    *(plural(thing.noun) for thing in THINGS),
    *(food.noun for food in FOODS if food.noun in _FOODS_TO_COUNT),
)
WHERE = tuple(f"{place.preposition} the {place.name}" for place in PLACES)
