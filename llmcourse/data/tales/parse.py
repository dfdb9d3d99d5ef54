"""Text back to events, sentence by sentence, with the templates that wrote it.

Taught in Part 2. A sentence says what happened, and the story so far says who "she" is.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from llmcourse.data.tales.grammar import Event
from llmcourse.data.tales.menu import update
from llmcourse.data.tales.reader import FEMALE, Reading
from llmcourse.data.tales.score import IMPOSSIBLE, Factors, factors
from llmcourse.data.tales.simulate import Story
from llmcourse.data.tales.state import State
from llmcourse.data.tales.world import VILLAGE, World

# A sentence ends in . ! or ?, perhaps inside quotation marks, before a capital or a quotation mark.
_BOUNDARY = re.compile(r"""(?<=[.!?]) (?=[A-Z"])|(?<=[.!?]") (?=[A-Z"])""")


class ParseError(ValueError):
    """A sentence outside the grammar. `index` counts sentences from 0."""

    def __init__(self, index: int, sentence: str, reason: str) -> None:
        self.index, self.sentence, self.reason = index, sentence, reason
        super().__init__(f"sentence {index + 1}: {reason}: {sentence[:80]!r}")


class Step(NamedTuple):
    """One sentence read in its place. `reason` says why it cannot stand there, or is empty."""

    index: int
    sentence: str
    event: Event | None
    factors: Factors
    reason: str


def split_sentences(text: str) -> list[str]:
    """The sentences of a text; joining them with single spaces gives the text back."""
    return _BOUNDARY.split(text)


def resolve(state: State, reading: Reading) -> tuple[Event | None, str]:
    """The event that a sentence tells in this state, or why it tells none."""
    template, args, words, pronouns = reading
    filled = list(args)
    for at, pronoun in pronouns:
        if pronoun == "they":
            both = state.people if len(state.people) == 2 else state.pair
            meant = both[at] if both else None
        else:
            meant = state.refers.get(FEMALE.get(pronoun, pronoun))
        if not meant:
            return None, f"it is not clear who or what {pronoun!r} is"
        filled[at] = meant
    positions = tuple(at for at, _ in pronouns)
    return Event(template.key, tuple(filled), template.index, words, positions), ""


def read_sentence(state: State, sentence: str, index: int) -> Step:
    """Read one sentence in a state, without changing the state.

    Raises ParseError if the sentence is outside the grammar.
    """
    readings = state.world.reader.read(sentence)
    if not readings:
        raise ParseError(index, sentence, "not a sentence of this world")
    event, reason = resolve(state, readings[0])
    if event is None:
        return Step(index, sentence, None, IMPOSSIBLE, reason)
    found = factors(state, event)
    if found.total == -math.inf:
        reason = "the story is over" if state.ended else "this cannot happen at this point"
    return Step(index, sentence, event, found, reason)


def follow(text: str, state: State) -> Iterator[Step]:
    """Read a text from this state on, letting each possible event happen.

    An impossible event leaves the state as it was. Raises ParseError at the first sentence
    outside the grammar.
    """
    for index, sentence in enumerate(split_sentences(text)):
        step = read_sentence(state, sentence, index)
        if not step.reason:
            update(state, step.event, sentence)
        yield step


def parse(text: str, world: World = VILLAGE) -> Story:
    """The story a text tells: its events, the state it leads to, its log-probability in nats.

    The beginning of a story parses too; its log-probability is then that of the beginning.
    Raises ParseError for text outside the grammar, ValueError for a sentence that cannot follow
    those before it.
    """
    state = State(world)
    steps = []
    for step in follow(text, state):
        if step.reason:
            raise ValueError(f"sentence {step.index + 1}: {step.reason}: {step.sentence!r}")
        steps.append(step)
    return Story(
        text,
        tuple(s.sentence for s in steps),
        tuple(s.event for s in steps),
        state,
        math.fsum(s.factors.total for s in steps),
        {},
        None,
        world,
    )


def render(events: Iterable[Event], world: World = VILLAGE) -> str:
    """The text of some events."""
    return " ".join(world.grammar.render(event) for event in events)
