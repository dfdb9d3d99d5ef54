"""Writing: an event to its sentence, through the compiled templates of a world.

Taught in Part 2. Each template of `templates.py` is compiled once and then only filled in. The
longest sentence that each kind of event can make is known here, which bounds a story's length.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from llmcourse.data.tales.templates import LETTERS
from llmcourse.data.tales.vocabulary import WEATHERS

if TYPE_CHECKING:
    from llmcourse.data.tales.world import World

PART = re.compile(r"(\{[a-z.]+\}|\[[a-z_]+\])")
ASKING = {"ask"}  # kinds that are always followed by a reply
START = ("open", "plot", "clue")


class Event(NamedTuple):
    """One sentence as choices: what happened, to whom, and how it was said."""

    key: str  # event and outcome, such as "look.empty"
    args: tuple[str, ...]  # aligned with the signature of the key
    template: int  # which paraphrase
    words: tuple[str, ...]  # the free words, in order
    pronouns: tuple[int, ...] = ()  # positions of the arguments said as pronouns

    @property
    def kind(self) -> str:
        """The event kind: the key up to the dot."""
        return self.key.partition(".")[0]


class Template(NamedTuple):
    """A compiled template: `pattern % values` is the sentence, before the capital letter."""

    key: str
    index: int
    pattern: str
    getters: tuple[tuple, ...]  # (what it is written as, position, pronouns or None)
    classes: tuple[str, ...]  # word class of each free word
    open: tuple[int, ...]  # positions of the arguments that may be pronouns
    pair: bool  # both people in one slot
    parts: tuple[str, ...]
    longest: int  # bytes of the longest sentence it can make


def article(word: str) -> str:
    """The word with "a" or "an" before it."""
    return ("an " if word[0] in "aeiou" else "a ") + word


def capital(sentence: str) -> str:
    return sentence[0].upper() + sentence[1:]


def forms(world: World) -> dict[tuple[str, str], dict[str, str]]:
    """(argument type, form) -> value -> how it is written."""
    people, places = world.people, world.places
    return {
        ("person", ""): {p.name: p.name for p in people},
        ("person", "name"): {p.name: p.name for p in people},
        ("person", "s"): {p.name: p.name + "'s" for p in people},
        ("person", "his"): {p.name: "her" if p.female else "his" for p in people},
        ("person", "him"): {p.name: p.name for p in people},
        ("thing", "the"): {t.noun: f"the {t.noun}" for t in world.things},
        ("thing", "my"): {t.noun: f"my {t.noun}" for t in world.things},
        ("thing", ""): {t.noun: t.noun for t in world.things},
        ("adjective", ""): {j: j for j in world.adjectives},
        ("adjective", "a"): {j: article(j) for j in world.adjectives},
        ("place", "the"): {p.name: f"the {p.name}" for p in places},
        ("place", "at"): {p.name: f"{p.preposition} the {p.name}" for p in places},
        ("spot", "in"): {s.noun: f"{s.preposition} the {s.noun}" for s in world.spot.values()},
        ("food", ""): {f.noun: f.noun for f in world.foods},
        ("trade", ""): {t: t for t in world.trades},
        ("weather", ""): {w: w for w in WEATHERS if w in world.weathers},
        ("weather", "a"): {w: article(w) for w in world.weathers},
        ("time", ""): {t: t for t in world.times},
    }


def pronoun_forms(world: World) -> dict[tuple[str, str], dict[str, str]]:
    """(argument type, form) -> value -> its pronoun, for the forms that have one."""
    female = {p.name: p.female for p in world.people}
    return {
        ("person", ""): {name: "she" if f else "he" for name, f in female.items()},
        ("person", "him"): {name: "her" if f else "him" for name, f in female.items()},
        ("person", "s"): {name: "her" if f else "his" for name, f in female.items()},
        ("thing", "the"): {t.noun: "it" for t in world.things},
        ("thing", "my"): {t.noun: "it" for t in world.things},
    }


class Grammar:
    """All sentences of a world."""

    def __init__(self, world: World) -> None:
        self.words = world.words
        self.forms = forms(world)
        self.pronouns = pronoun_forms(world)
        self.female = {p.name: p.female for p in world.people}
        self.signatures = {key: signature for key, (signature, _) in world.sentences.items()}
        self.types = {k: tuple(LETTERS[x] for x in s) for k, s in self.signatures.items()}
        self.templates: dict[str, tuple[Template, ...]] = {
            key: tuple(self._compile(key, i, t) for i, t in enumerate(templates))
            for key, (_, templates) in world.sentences.items()
        }
        self.class_index = {c: {w: i for i, w in enumerate(ws)} for c, ws in self.words.items()}
        self._measure()

    # -- compiling -----------------------------------------------------------------------------
    def _compile(self, key: str, index: int, text: str) -> Template:
        signature = self.signatures[key]
        pattern, getters, classes, positions, longest = [], [], [], [], 0
        parts = tuple(part for part in PART.split(text) if part)
        for part in parts:
            if part == "{ab}":
                positions += [0, 1]
                getters.append(("pair", 0, None))
                longest += 2 * max(map(len, self.forms["person", ""].values())) + len(" and ")
            elif part[0] == "{":
                letter, _, form = part[1:-1].partition(".")
                slot, at = (LETTERS[letter], form), signature.index(letter)
                if slot in self.pronouns:
                    positions.append(at)
                getters.append((self.forms[slot], at, self.pronouns.get(slot)))
                longest += max(map(len, self.forms[slot].values()))
            elif part[0] == "[":
                getters.append(("word", len(classes), None))
                classes.append(part[1:-1])
                longest += max(map(len, self.words[part[1:-1]]))
            else:
                longest += len(part)
            pattern.append("%s" if part[0] in "{[" else part)
        return Template(
            key, index, "".join(pattern), tuple(getters), tuple(classes),
            tuple(sorted(positions)), "{ab}" in parts, parts, longest,
        )  # fmt: skip

    def _measure(self) -> None:
        """Longest sentences in bytes: what the length bound of a story is built on."""
        by_kind: dict[str, int] = {}
        for key, templates in self.templates.items():
            kind = key.partition(".")[0]
            by_kind[kind] = max(by_kind.get(kind, 0), *(t.longest for t in templates))
        self.longest = by_kind
        self.longest_start = sum(by_kind[k] + 1 for k in START)
        self.longest_end = by_kind["end"]

    def describe(self) -> list:
        """Signatures and templates, for the fingerprint."""
        return [
            [k, self.signatures[k], ["".join(t.parts) for t in ts]]
            for k, ts in self.templates.items()
        ]

    # -- writing -------------------------------------------------------------------------------
    def render(self, event: Event) -> str:
        """The sentence of an event."""
        key, args, index, words, pronouns = event
        template = self.templates[key][index]
        values = []
        for table, at, pronoun in template.getters:
            if table == "word":
                values.append(words[at])
            elif table == "pair":
                values.append("they" if pronouns[:2] == (0, 1) else f"{args[0]} and {args[1]}")
            elif pronoun is not None and at in pronouns:
                values.append(pronoun[args[at]])
            else:
                values.append(table[args[at]])
        return capital(template.pattern % tuple(values))
