"""Reading a sentence: which templates, filled how, could have written it?

Taught in Part 2. All templates of a grammar sit in one prefix tree of literal words, argument
slots and word classes. A reading counts only if writing it again gives the very same sentence, so
that reading and writing can never disagree.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cached_property
from typing import NamedTuple

from llmcourse.data.tales.grammar import Event, Grammar, Template
from llmcourse.data.tales.templates import LETTERS

_TOKEN = re.compile(r"[A-Za-z']+|[^\sA-Za-z']")
PRONOUNS = ("he", "she", "him", "her", "his", "it", "they")
FEMALE = {"he": False, "him": False, "his": False, "she": True, "her": True}


class Reading(NamedTuple):
    """One way to read a sentence. An argument said as a pronoun is None."""

    template: Template
    args: tuple[str | None, ...]
    words: tuple[str, ...]
    pronouns: tuple[tuple[int, str], ...]  # (position, pronoun), in order of position


class _Node:
    """A node of the prefix tree: where the words read so far can lead."""

    __slots__ = ("literal", "slots", "templates")

    def __init__(self) -> None:
        self.literal: dict[str, _Node] = {}
        self.slots: dict[str, tuple[dict[tuple[str, ...], str], tuple[int, ...], _Node]] = {}
        self.templates: list[Template] = []


class Reader:
    """Reads the sentences of a grammar."""

    def __init__(self, grammar: Grammar) -> None:
        self.grammar = grammar
        self._root = _Node()
        for templates in grammar.templates.values():
            for template in templates:
                self._insert(template)

    def _insert(self, template: Template) -> None:
        node = self._root
        for i, part in enumerate(template.parts):
            if part == "{ab}":
                # a name, "and", a name; or "they" for both
                second = self._slot(
                    self._literal(self._name(node, "a"), "and"), "{b}", "person", "name"
                )
                node = node.slots.setdefault("they", ({("they",): "they"}, (1,), second))[2]
            elif part[0] == "{":
                letter, _, form = part[1:-1].partition(".")
                node = self._slot(node, "{" + letter + "}", LETTERS[letter], form)
            elif part[0] == "[":
                name = part[1:-1]
                table = {tuple(_TOKEN.findall(w)): w for w in self.grammar.words[name]}
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
        grammar = self.grammar
        table = {tuple(_TOKEN.findall(x)): v for v, x in grammar.forms[kind, form].items()}
        if (kind, form) == ("person", "his"):
            # does not say whose; checked by writing again
            table = dict.fromkeys(table, "")
        for pronoun in grammar.pronouns.get((kind, form), {}).values():
            table[(pronoun,)] = pronoun
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
                if at + length > len(tokens):
                    break  # a slice cut short would match a shorter phrase
                value = table.get(tuple(tokens[at : at + length]))
                if value is not None:
                    step = [*found, (label, value)]
                    yield from self._walk(after, tokens, at + length, step)

    def read(self, sentence: str) -> list[Reading]:
        """All readings of a sentence; none if it is outside the grammar, else exactly one."""
        tokens = self.tokens(sentence)
        if not tokens:
            return []
        first = tokens[0]
        if first not in self.grammar.female and first[:-2] not in self.grammar.female:
            tokens[0] = first[0].lower() + first[1:]
        readings = []
        for template, found in self._walk(self._root, tokens, 0, []):
            reading = self._interpret(template, found)
            if reading and self._says(sentence, reading):
                readings.append(reading)
        return readings

    def _interpret(self, template: Template, found: list[tuple[str, str]]) -> Reading | None:
        """The arguments that a path through the tree stands for, if it gives them all once."""
        signature = self.grammar.signatures[template.key]
        args: dict[str, str | None] = {}
        words, pronouns = [], []
        for label, value in found:
            letter = label[1]
            if label[0] == "[":
                words.append(value)
            elif value == "they":
                pronouns += [(0, value), (1, value)]
                args |= {"a": None, "b": None}
            elif value in PRONOUNS:
                pronouns.append((signature.index(letter), value))
                args[letter] = None
            elif value:
                args.setdefault(letter, value)
        if set(args) != set(signature):
            return None
        values = tuple(args[letter] for letter in signature)
        return Reading(template, values, tuple(words), tuple(sorted(pronouns)))

    def _says(self, sentence: str, reading: Reading) -> bool:
        """Does writing this reading give the sentence back?"""
        template, args, words, pronouns = reading
        if template.pair and args[0] is not None and args[0] == args[1]:
            return False
        filled = list(args)
        for at, pronoun in pronouns:  # any that the pronoun fits: the sentence does not say which
            if pronoun in FEMALE:
                fitting = (n for n, f in self.grammar.female.items() if f == FEMALE[pronoun])
                filled[at] = next(fitting, None)
            elif pronoun == "it":
                filled[at] = next(iter(self.grammar.forms["thing", ""]))
            else:
                filled[at] = ""  # nothing of a pair is written
            if filled[at] is None:
                return False
        positions = tuple(at for at, _ in pronouns)
        event = Event(template.key, tuple(filled), template.index, words, positions)
        return self.grammar.render(event) == sentence

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
        rest, token = tokens[at:], tokens[at]
        n = len(rest)
        for text, after in node.literal.items():
            if text == token and self._prefix(after, tokens, at + 1):
                return True
            if n == 1 and text.startswith(token):
                return True
        for table, lengths, after in node.slots.values():
            for length in lengths:
                known = length <= n and tuple(rest[:length]) in table
                if known and self._prefix(after, tokens, at + length):
                    return True
            for key in table:
                if (
                    n <= len(key)
                    and list(key[: n - 1]) == rest[:-1]
                    and key[n - 1].startswith(rest[-1])
                ):
                    return True
        return False
