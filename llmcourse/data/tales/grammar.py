"""Sentences from templates, both ways: an event to its sentence, a sentence to its events.

Taught in Part 2. Each template of `templates.py` is compiled once. Writing fills it in; reading
walks a prefix tree of all templates (literal words, argument slots, word classes) and accepts a
reading only if writing it again gives the very same sentence, so the two can never disagree.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from llmcourse.data.tales.templates import LETTERS
from llmcourse.data.tales.vocabulary import WEATHERS

if TYPE_CHECKING:
    from llmcourse.data.tales.world import World

_PART = re.compile(r"(\{[a-z.]+\}|\[[a-z_]+\])")
_TOKEN = re.compile(r"[A-Za-z']+|[^\sA-Za-z']")
PRONOUNS = ("he", "she", "they")
ASKING = {"ask"}  # kinds that are always followed by a reply
# Forms that do not say which one is meant; reading them is checked by writing again.
AGREEING = {("person", "his"), ("person", "him"), ("person", "he"), ("spot", "pre")}
START = ("open", "plot", "clue")


class Event(NamedTuple):
    """One sentence as choices: what happened, to whom, and how it was said."""

    key: str  # event and outcome, such as "look.empty"
    args: tuple[str, ...]  # aligned with the signature of the key
    template: int  # which paraphrase
    words: tuple[str, ...]  # the free words, in order
    pronoun: bool  # subject said as he, she or they

    @property
    def kind(self) -> str:
        """The event kind: the key up to the dot."""
        return self.key.partition(".")[0]


class Template(NamedTuple):
    """A compiled template: `pattern % values` is the sentence, before the capital letter."""

    key: str
    index: int
    pattern: str
    getters: tuple  # (form table, argument position) or (None, free word position) or "subject"
    classes: tuple[str, ...]  # word class of each free word
    subject: str  # "one", "two" or "": may the subject be a pronoun?
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
        ("person", "he"): {p.name: "she" if p.female else "he" for p in people},
        ("person", "his"): {p.name: "her" if p.female else "his" for p in people},
        ("person", "him"): {p.name: "her" if p.female else "him" for p in people},
        ("thing", ""): {t.noun: t.noun for t in world.things},
        ("adjective", ""): {j: j for j in world.adjectives},
        ("adjective", "a"): {j: article(j) for j in world.adjectives},
        ("place", "the"): {p.name: f"the {p.name}" for p in places},
        ("place", "at"): {p.name: f"{p.preposition} the {p.name}" for p in places},
        ("spot", "in"): {s.noun: f"{s.preposition} the {s.noun}" for s in world.spot.values()},
        ("spot", ""): {s.noun: s.noun for s in world.spot.values()},
        ("spot", "pre"): {s.noun: s.preposition for s in world.spot.values()},
        ("food", ""): {f.noun: f.noun for f in world.foods},
        ("trade", ""): {t: t for t in world.trades},
        ("weather", ""): {w: w for w in WEATHERS if w in world.weathers},
        ("weather", "a"): {w: article(w) for w in world.weathers},
        ("time", ""): {t: t for t in world.times},
    }


class _Node:
    """A node of the prefix tree: where the words read so far can lead."""

    __slots__ = ("literal", "slots", "templates")

    def __init__(self) -> None:
        self.literal: dict[str, _Node] = {}
        self.slots: dict[str, tuple[dict[tuple[str, ...], str], tuple[int, ...], _Node]] = {}
        self.templates: list[Template] = []


class Grammar:
    """All sentences of a world."""

    def __init__(self, world: World) -> None:
        self.words = world.words
        self.forms = forms(world)
        self.female = {p.name: p.female for p in world.people}
        self.signatures = {key: signature for key, (signature, _) in world.sentences.items()}
        self.types = {k: tuple(LETTERS[x] for x in s) for k, s in self.signatures.items()}
        self.templates: dict[str, tuple[Template, ...]] = {
            key: tuple(self._compile(key, i, t) for i, t in enumerate(templates))
            for key, (_, templates) in world.sentences.items()
        }
        self.class_index = {c: {w: i for i, w in enumerate(ws)} for c, ws in self.words.items()}
        self._measure()
        self._root = _Node()
        for templates in self.templates.values():
            for template in templates:
                self._insert(template)

    # -- compiling -----------------------------------------------------------------------------
    def _compile(self, key: str, index: int, text: str) -> Template:
        signature = self.signatures[key]
        pattern, getters, classes, subject, longest = [], [], [], "", 0
        parts = tuple(part for part in _PART.split(text) if part)
        for part in parts:
            if part == "{ab}":
                subject = "two"
                pattern.append("%s")
                getters.append("pair")
                longest += 2 * max(map(len, self.forms["person", ""].values())) + len(" and ")
            elif part[0] == "{":
                letter, _, form = part[1:-1].partition(".")
                table = self.forms[LETTERS[letter], form]
                at = signature.index(letter)
                if at == 0 and LETTERS[letter] == "person" and not form:
                    subject = "one"
                    getters.append("subject")
                else:
                    getters.append((table, at))
                pattern.append("%s")
                longest += max(map(len, table.values()))
            elif part[0] == "[":
                getters.append((None, len(classes)))
                classes.append(part[1:-1])
                pattern.append("%s")
                longest += max(map(len, self.words[part[1:-1]]))
            else:
                pattern.append(part.replace("%", "%%"))
                longest += len(part)
        return Template(
            key, index, "".join(pattern), tuple(getters), tuple(classes), subject, parts, longest
        )

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
        return [[k, self.signatures[k], ["".join(t.parts) for t in ts]] for k, ts in self.templates.items()]

    # -- writing -------------------------------------------------------------------------------
    def render(self, event: Event) -> str:
        """The sentence of an event."""
        key, args, index, words, pronoun = event
        template = self.templates[key][index]
        values = []
        for getter in template.getters:
            if getter == "subject":
                if pronoun:
                    values.append("she" if self.female[args[0]] else "he")
                else:
                    values.append(args[0])
            elif getter == "pair":
                values.append("they" if pronoun else f"{args[0]} and {args[1]}")
            else:
                table, at = getter
                values.append(words[at] if table is None else table[args[at]])
        return capital(template.pattern % tuple(values))

    # -- reading -------------------------------------------------------------------------------
    def _insert(self, template: Template) -> None:
        node = self._root
        for i, part in enumerate(template.parts):
            if part == "{ab}":
                # a name, "and", a name; or "they" for both
                second = self._slot(self._literal(self._name(node, "a"), "and"), "{b}", "person", "name")
                node = node.slots.setdefault("they", ({("they",): "they"}, (1,), second))[2]
            elif part[0] == "{":
                letter, _, form = part[1:-1].partition(".")
                node = self._slot(node, "{" + letter + "}", LETTERS[letter], form)
            elif part[0] == "[":
                name = part[1:-1]
                table = {tuple(_TOKEN.findall(w)): w for w in self.words[name]}
                node = self._edge(node, f"[{name}]", table)
            else:
                # the capital of a sentence is put on last, and taken off first
                text = part[0].lower() + part[1:] if i == 0 else part
                for token in _TOKEN.findall(text):
                    node = self._literal(node, token)
        node.templates.append(template)

    def _literal(self, node: _Node, token: str) -> _Node:
        return node.literal.setdefault(token, _Node())

    def _edge(self, node: _Node, label: str, table: dict[tuple[str, ...], str]) -> _Node:
        if label not in node.slots:
            lengths = tuple(sorted({len(key) for key in table}))
            node.slots[label] = (table, lengths, _Node())
        return node.slots[label][2]

    def _name(self, node: _Node, letter: str) -> _Node:
        return self._slot(node, "{" + letter + "}", "person", "name")

    def _slot(self, node: _Node, letter: str, kind: str, form: str) -> _Node:
        forms_ = self.forms[kind, form]
        table = {tuple(_TOKEN.findall(text)): value for value, text in forms_.items()}
        if (kind, form) in AGREEING:
            table = {key: "" for key in table}
        elif kind == "person" and not form:
            table |= {(word,): word for word in PRONOUNS}
        return self._edge(node, f"{letter}{form}", table)

    @cached_property
    def vocabulary(self) -> frozenset[str]:
        """Every token of the language, as it is inside a sentence."""
        known: set[str] = set(PRONOUNS)
        nodes = [self._root]
        while nodes:
            node = nodes.pop()
            known.update(node.literal)
            nodes.extend(node.literal.values())
            for table, _, after in node.slots.values():
                known.update(token for key in table for token in key)
                nodes.append(after)
        return frozenset(known)

    @staticmethod
    def tokens(sentence: str) -> list[str]:
        return _TOKEN.findall(sentence)

    def _walk(self, node: _Node, tokens: list[str], at: int, found: list) -> Iterator:
        if at == len(tokens):
            for template in node.templates:
                yield template, found
            return
        token = tokens[at]
        after = node.literal.get(token)
        if after is not None:
            yield from self._walk(after, tokens, at + 1, found)
        for label, (table, lengths, after) in node.slots.items():
            for length in lengths:
                value = table.get(tuple(tokens[at : at + length]))
                if value is not None:
                    step = [*found, (label, value)]
                    yield from self._walk(after, tokens, at + length, step)

    def read(self, sentence: str) -> list[tuple[Template, tuple[str | None, ...], tuple[str, ...]]]:
        """All readings of a sentence: (template, arguments, free words).

        An argument is None, or the whole pair is, where a pronoun stands for it.
        """
        tokens = self.tokens(sentence)
        if not tokens:
            return []
        first = tokens[0]
        if first not in self.female and first[:-2] not in self.female:
            tokens[0] = first[0].lower() + first[1:]
        readings = []
        for template, found in self._walk(self._root, tokens, 0, []):
            args: dict[str, str] = {}
            words = []
            pronoun = ""
            for label, value in found:
                if label[0] == "[":
                    words.append(value)
                elif value in PRONOUNS:
                    pronoun = value
                elif value:
                    args.setdefault(label[1], value)
            signature = self.signatures[template.key]
            values = tuple(args.get(letter) for letter in signature)
            if pronoun and not self._pronoun_fits(template, pronoun, values):
                continue
            if self._says(sentence, template, values, tuple(words), pronoun):
                readings.append((template, values, tuple(words), pronoun))
        return readings

    @staticmethod
    def _pronoun_fits(template: Template, pronoun: str, values: tuple) -> bool:
        if pronoun == "they":
            return template.subject == "two" and values[:2] == (None, None)
        return template.subject == "one" and values[0] is None and None not in values[1:]

    def _says(self, sentence, template, values, words, pronoun) -> bool:
        """Does writing this reading give the sentence back?"""
        if not pronoun:
            if None in values or (template.subject == "two" and values[0] == values[1]):
                return False
            filled = values
        elif pronoun == "they":
            filled = (next(iter(self.female)), next(iter(self.female)), *values[2:])
        else:  # any name of that gender will do: the sentence does not say which
            name = next((n for n, f in self.female.items() if f == (pronoun == "she")), None)
            if name is None:
                return False
            filled = (name, *values[1:])
        return self.render(Event(template.key, filled, template.index, words, bool(pronoun))) == sentence

    def begins(self, fragment: str) -> bool:
        """Can some sentence begin like this? Tells a cut-off sentence from a wrong one."""
        tokens = self.tokens(fragment)
        if not tokens:
            return True
        first = tokens[0]
        starts = {first, first[0].lower() + first[1:]}
        return any(self._prefix(self._root, [s, *tokens[1:]], 0) for s in starts)

    def _prefix(self, node: _Node, tokens: list[str], at: int) -> bool:
        if at == len(tokens):
            return True
        last = at == len(tokens) - 1
        token = tokens[at]
        for text, after in node.literal.items():
            if text == token and self._prefix(after, tokens, at + 1):
                return True
            if last and text.startswith(token):
                return True
        for table, lengths, after in node.slots.values():
            for length in lengths:
                if at + length <= len(tokens) and tuple(tokens[at : at + length]) in table:
                    if self._prefix(after, tokens, at + length):
                        return True
            rest = tokens[at:]
            for key in table:
                n = len(rest)
                if n <= len(key) and list(key[: n - 1]) == rest[:-1] and key[n - 1].startswith(rest[-1]):
                    return True
        return False
