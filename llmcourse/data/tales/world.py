"""A world: which words, people, places and plots there are, and how long a story may be.

Taught in Part 2. `VILLAGE` is the course's corpus. `World.without(...)` holds names or objects
out (a test of generalisation); `World.hamlet()` is small enough that every story can be listed,
which is how the exactness of `log_probability` is proved.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from llmcourse.data.tales import vocabulary as v
from llmcourse.data.tales.grammar import Grammar
from llmcourse.data.tales.reader import Reader
from llmcourse.data.tales.templates import SENTENCES

PLOTS = ("lost", "gift", "quarrel", "hungry", "broken", "wish")


# How hard a story is to follow: its length, its cast, and how much pronouns leave to the reader.
DIFFICULTIES: dict[str, dict[str, Any]] = {
    "easy": {"max_people": 2, "max_sentences": 8, "pronoun_rate": 0.5},
    "village": {},
    "hard": {"min_sentences": 9, "max_sentences": 14, "pronoun_rate": 0.95},
}


@dataclass(frozen=True, eq=False)
class World:
    """The choices of a village. Every tuple is a uniform choice somewhere in a story."""

    people: tuple[v.Person, ...] = v.PEOPLE
    things: tuple[v.Thing, ...] = v.THINGS
    adjectives: tuple[str, ...] = v.ADJECTIVES
    places: tuple[v.Place, ...] = v.PLACES
    foods: tuple[v.Food, ...] = v.FOODS
    trades: tuple[str, ...] = v.TRADES
    weathers: tuple[str, ...] = tuple(v.WEATHERS)
    times: tuple[str, ...] = v.TIMES
    plots: tuple[str, ...] = PLOTS
    kinds: tuple[str, ...] | None = None  # event kinds allowed in the body; None: all
    words_per_class: int | None = None  # at most this many free words in a class; None: all
    templates_per_key: int | None = None  # at most this many paraphrases; None: all
    max_people: int = 3  # in one story
    pronoun_rate: float = 0.85  # probability of he, she, they where it is clear
    kind_rate: float = 0.6  # probability that a person has a kind heart (hidden)
    min_sentences: int = 6  # sentences, ending included
    max_sentences: int = 12  # sentences, ending included
    max_bytes: int = 511  # bytes of the whole story; one more fits an end-of-text token in 512
    name: str = field(default="village")

    def __post_init__(self) -> None:
        least = dict.fromkeys(("adjectives", "foods", "weathers", "times", "plots"), 1)
        least |= {"people": max(2, self.max_people), "trades": max(1, self.max_people - 1)}
        least |= {"places": 2, "things": 3}
        for attribute, n in least.items():
            found = getattr(self, attribute)
            if len(found) < n:
                raise ValueError(f"World.{attribute} has {len(found)} entries; needs {n} or more")
        unknown = set(self.plots) - set(PLOTS)
        if unknown:
            raise ValueError(f"World.plots has {sorted(unknown)}; known plots are {PLOTS}")
        for rate in ("pronoun_rate", "kind_rate"):
            if not 0.0 < getattr(self, rate) < 1.0:
                raise ValueError(f"World.{rate} is {getattr(self, rate)}; must lie in (0, 1)")
        if not 4 <= self.min_sentences <= self.max_sentences:
            raise ValueError(
                f"World.min_sentences {self.min_sentences} and max_sentences {self.max_sentences}: "
                "need 4 <= min <= max"
            )
        if self.grammar.longest_start + self.grammar.longest_end > self.max_bytes:
            raise ValueError(
                f"World.max_bytes is {self.max_bytes}; a beginning and an ending can take "
                f"{self.grammar.longest_start + self.grammar.longest_end}"
            )

    @cached_property
    def grammar(self) -> Grammar:
        """The compiled sentences of this world."""
        return Grammar(self)

    @cached_property
    def reader(self) -> Reader:
        """The same sentences, for reading."""
        return Reader(self.grammar)

    @cached_property
    def words(self) -> dict[str, tuple[str, ...]]:
        """Free word classes, cut to `words_per_class`."""
        return {key: words[: self.words_per_class] for key, words in v.WORDS.items()}

    @cached_property
    def sentences(self) -> dict[str, tuple[str, tuple[str, ...]]]:
        """Key -> (signature, templates), cut to `templates_per_key`."""
        return {k: (s, t[: self.templates_per_key]) for k, (s, t) in SENTENCES.items()}

    @cached_property
    def person(self) -> dict[str, v.Person]:
        return {p.name: p for p in self.people}

    @cached_property
    def thing(self) -> dict[str, v.Thing]:
        return {t.noun: t for t in self.things}

    @cached_property
    def place(self) -> dict[str, v.Place]:
        return {p.name: p for p in self.places}

    @cached_property
    def spot(self) -> dict[str, v.Spot]:
        return {s.noun: s for p in self.places for s in p.spots}

    @cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(self.person)

    @cached_property
    def names_of(self) -> dict[bool, tuple[str, ...]]:
        """Names of women (True) and of men (False)."""
        return {f: tuple(p.name for p in self.people if p.female == f) for f in (True, False)}

    @cached_property
    def nouns(self) -> tuple[str, ...]:
        return tuple(self.thing)

    @cached_property
    def breakables(self) -> tuple[str, ...]:
        return tuple(t.noun for t in self.things if t.breakable)

    @cached_property
    def place_names(self) -> tuple[str, ...]:
        return tuple(self.place)

    @cached_property
    def food_names(self) -> tuple[str, ...]:
        return tuple(f.noun for f in self.foods)

    @cached_property
    def foods_of(self) -> dict[str, tuple[str, ...]]:
        """Trade -> the foods of that trade."""
        return {t: tuple(f.noun for f in self.foods if f.trade == t) for t in self.trades}

    def without(self, names: Iterable[str] = (), things: Iterable[str] = ()) -> World:
        """The same world without some names or things: train here, test on `VILLAGE`.

        Raises ValueError for a name or thing that the world does not have.
        """
        names, things = set(names), set(things)
        for wanted, there in ((names, self.person), (things, self.thing)):
            if wanted - set(there):
                raise ValueError(f"not in this world: {sorted(wanted - set(there))}")
        return replace(
            self,
            people=tuple(p for p in self.people if p.name not in names),
            things=tuple(t for t in self.things if t.noun not in things),
            name=f"{self.name} without {', '.join(sorted(names | things))}",
        )

    @classmethod
    def of_difficulty(cls, level: str) -> World:
        """The village at one of the levels of `DIFFICULTIES`. Raises ValueError for another."""
        if level not in DIFFICULTIES:
            raise ValueError(f"difficulty {level!r} must be one of {', '.join(DIFFICULTIES)}")
        return cls(**DIFFICULTIES[level], name=f"{level} village")

    @classmethod
    def hamlet(cls, plot: str = "lost", max_sentences: int = 5, **changes: object) -> World:
        """A tiny world of one plot whose every story can be listed (`enumerate_stories`)."""
        people = tuple(p for p in v.PEOPLE if p.name in ("Mia", "Ada", "Tom"))
        settings: dict[str, object] = {
            "people": people,
            "things": tuple(t for t in v.THINGS if t.noun in ("kite", "drum", "book")),
            "adjectives": ("red",),
            "places": v.PLACES[:2],
            "foods": tuple(f for f in v.FOODS if f.noun in ("bread", "soup")),
            "trades": ("baker", "cook"),
            "weathers": ("sunny",),
            "times": ("day",),
            "max_people": 2,
            "plots": (plot,),
            "words_per_class": 1,
            "templates_per_key": 1,
            "min_sentences": 4,
            "max_sentences": max_sentences,
            "name": f"hamlet of {plot}",
        }
        return cls(**{**settings, **changes})

    def fingerprint(self) -> str:
        """First 16 hex digits of a hash over the vocabulary, the sentences and the settings.

        The weights of the rules are code; `RULES_VERSION` stands for them.
        """
        from llmcourse.data.tales.rules import RULES_VERSION

        facts = [
            RULES_VERSION,
            self.grammar.describe(),
            self.words,
            [p.name for p in self.people], self.nouns, self.adjectives, self.place_names,
            list(self.spot), self.food_names, self.trades, self.weathers, self.times, self.plots,
            self.kinds, self.max_people, self.pronoun_rate, self.kind_rate,
            self.min_sentences, self.max_sentences, self.max_bytes,
        ]  # fmt: skip
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


VILLAGE = World()
