"""The probability of an event in a state, taken apart into the choices that make it.

Taught in Part 2: the chain rule. The probability of a sentence is that of its kind of event, times
that of the case within the kind, of its free arguments, of its paraphrase and of its free words.
Hidden variables enter through the beliefs of the state (see `state.py`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from llmcourse.data.tales.grammar import Event
from llmcourse.data.tales.menu import menu, update
from llmcourse.data.tales.rules import Free
from llmcourse.data.tales.state import State
from llmcourse.data.tales.world import VILLAGE, World


@dataclass(frozen=True)
class Factors:
    """Where the surprise of a sentence comes from; all in nats, as log-probabilities."""

    kind: float  # which kind of event
    case: float  # who, what and how it came out
    free: float  # new names, things, places
    paraphrase: float  # which template, and pronoun or name
    words: float  # free words

    @property
    def total(self) -> float:
        return self.kind + self.case + self.free + self.paraphrase + self.words


IMPOSSIBLE = Factors(-math.inf, 0.0, 0.0, 0.0, 0.0)


def _case_probability(state: State, args: tuple[str, ...], case: tuple) -> float:
    """Probability of these arguments given the case; 0 if they do not fit it."""
    p = 1.0
    for i, (value, choice) in enumerate(zip(args, case, strict=True)):
        if isinstance(choice, Free):
            options = choice.options(state, args[:i])
            if value not in options:
                return 0.0
            p /= len(options)
        elif value != choice:
            return 0.0
    return p


def factors(state: State, event: Event) -> Factors:
    """The log-probability of an event in this state, by where it comes from."""
    world = state.world
    template = world.grammar.templates[event.key][event.template]
    clear = state.clear(template, event.args) if template.open else ()
    if event.pronouns not in ((), clear):
        return IMPOSSIBLE
    entries = menu(state)
    kind = event.kind
    entry = next((e for e in entries if e.kind == kind), None)
    if entry is None:
        return IMPOSSIBLE
    for weight, key, args in entry.cases:
        if key == event.key and weight > 0.0:
            free = _case_probability(state, event.args, args)
            if free > 0.0:
                break
    else:
        return IMPOSSIBLE
    n_words = 1
    for name in template.classes:
        n_words *= len(world.grammar.words[name])
    said = 1.0 / len(world.grammar.templates[event.key])
    if clear:
        said *= world.pronoun_rate if event.pronouns else 1.0 - world.pronoun_rate
    return Factors(
        math.log(entry.weight / sum(e.weight for e in entries)),
        math.log(weight / sum(c[0] for c in entry.cases)),
        math.log(free),
        math.log(said),
        -math.log(n_words),
    )


def score_events(events: Iterable[Event], world: World = VILLAGE) -> tuple[list[float], State]:
    """Log-probability of each event in nats, and the reader's state after the last."""
    state, scores = State(world), []
    for event in events:
        scores.append(factors(state, event).total)
        update(state, event, world.grammar.render(event))
    return scores, state
