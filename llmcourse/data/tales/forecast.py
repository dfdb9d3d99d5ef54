"""What can come next, exactly: the distribution over the next sentence, and whole small worlds.

Taught in Part 10 (concept models predict sentences; here their true distribution is known).
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass

from llmcourse.data.tales.grammar import Event, Template
from llmcourse.data.tales.menu import menu, update
from llmcourse.data.tales.parse import follow, read_sentence
from llmcourse.data.tales.rules import Free
from llmcourse.data.tales.simulate import draw
from llmcourse.data.tales.state import State
from llmcourse.data.tales.world import VILLAGE, World


def read_state(text: str, world: World = VILLAGE) -> State:
    """The reader's state after this beginning of a story ("" for none yet).

    Raises ParseError for text outside the grammar, ValueError for an impossible beginning.
    """
    state = State(world)
    if not text:
        return state
    for step in follow(text, state):
        if step.reason:
            raise ValueError(f"{step.reason}: {step.sentence!r}")
    return state


def _arguments(state: State, case: tuple) -> Iterator[tuple[tuple[str, ...], float]]:
    """All fillings of a case's free arguments, with their probabilities."""
    partial: list[tuple[tuple[str, ...], float]] = [((), 1.0)]
    for choice in case:
        if isinstance(choice, Free):
            grown = []
            for args, p in partial:
                options = choice.options(state, args)
                grown.extend(((*args, o), p / len(options)) for o in options)
            partial = grown
        else:
            partial = [((*args, choice), p) for args, p in partial]
    yield from partial


def _groups(state: State) -> Iterator[tuple[tuple, Template, tuple, float, int]]:
    """What can come next, up to free words: (arguments, template, pronouns, probability of the
    whole group, number of word choices in it, all equally likely)."""
    entries = menu(state)
    grammar, rate = state.world.grammar, state.world.pronoun_rate
    total = sum(e.weight for e in entries)
    for weight, _, cases in entries:
        total_case = sum(c[0] for c in cases)
        for case_weight, key, case in cases:
            if case_weight <= 0.0:
                continue
            templates = grammar.templates[key]
            p_case = weight / total * case_weight / total_case / len(templates)
            for args, p_args in _arguments(state, case):
                for template in templates:
                    n = math.prod(len(grammar.words[c]) for c in template.classes)
                    p = p_case * p_args
                    clear = state.clear(template, args) if template.open else ()
                    if clear:
                        yield args, template, clear, p * rate, n
                        p *= 1.0 - rate
                    yield args, template, (), p, n


def next_events(state: State) -> Iterator[tuple[Event, float]]:
    """Every event that can come next, with its probability. Sums to 1 unless the story is over."""
    words = state.world.grammar.words
    for args, template, pronouns, p, n in _groups(state):
        for choice in itertools.product(*(words[c] for c in template.classes)):
            yield Event(template.key, args, template.index, choice, pronouns), p / n


@dataclass(frozen=True)
class Forecast:
    """The exact distribution over the next sentence, without listing it.

    There can be millions of next sentences; this answers about any of them.
    """

    state: State

    def log_probability(self, sentence: str) -> float:
        """Nats; "" stands for the end of the text. Raises ParseError outside the grammar."""
        if not sentence or self.state.ended:
            return 0.0 if self.state.ended and not sentence else -math.inf
        return read_sentence(self.state, sentence, self.state.n).factors.total

    def kinds(self) -> dict[str, float]:
        """Probability of each kind of event; {"": 1.0} after an ending."""
        entries = menu(self.state)
        total = sum(e.weight for e in entries)
        return {e.kind: e.weight / total for e in entries} if entries else {"": 1.0}

    def sample(self, rng: random.Random) -> str:
        """A next sentence; "" after an ending."""
        if self.state.ended:
            return ""
        return self.state.world.grammar.render(draw(self.state, rng)[0])

    def entropy(self) -> float:
        """Entropy in nats of the next sentence, exactly."""
        return math.fsum(-p * math.log(p / n) for _, _, _, p, n in _groups(self.state))

    def count(self) -> int:
        """How many sentences can come next."""
        return sum(n for _, _, _, _, n in _groups(self.state))


def forecast(prefix: str, world: World = VILLAGE) -> Forecast:
    """What can follow this beginning of a story ("" for none yet).

    Raises ParseError for text outside the grammar, ValueError for an impossible beginning.
    """
    return Forecast(read_state(prefix, world))


def next_kinds(prefix: str, world: World = VILLAGE) -> dict[str, float]:
    """Exact probability of each kind of event after this beginning; {"": 1.0} after an ending."""
    return forecast(prefix, world).kinds()


def next_sentences(prefix: str, world: World = VILLAGE, limit: int = 2_000_000) -> dict[str, float]:
    """Exact distribution over the next sentence after this beginning ("" for none yet).

    The end of the story is "", with probability 1 after an ending sentence and 0 before.
    Raises ValueError if more than `limit` sentences are possible (an opening has very many; see
    `forecast`), or if the beginning is impossible; ParseError if it is outside the grammar.
    """
    state = read_state(prefix, world)
    if state.ended:
        return {"": 1.0}
    count = Forecast(state).count()
    if count > limit:
        raise ValueError(f"{count} sentences can come next, more than the limit of {limit}")
    render = world.grammar.render
    table: dict[str, float] = {}
    for event, p in next_events(state):
        sentence = render(event)
        table[sentence] = table.get(sentence, 0.0) + p
    return table


def enumerate_stories(world: World) -> Iterator[tuple[str, tuple, float]]:
    """Every (text, hidden truth, probability) of a small world, by brute force.

    The oracle for `log_probability`: it never sums over beliefs. It tries each value of each
    hidden variable in turn and follows every choice, so it shares the rules but not the filter.
    """

    def unfold(
        state: State, text: str, hidden: tuple, p: float
    ) -> Iterator[tuple[str, tuple, float]]:
        if state.fresh:
            variable = state.fresh.pop()
            prior = state.belief[variable]
            for value, q in prior.items():
                certain = state.copy()
                certain.belief[variable] = {v: float(v == value) for v in prior}
                yield from unfold(certain, text, (*hidden, (variable, value)), p * q)
            return
        if state.ended:
            yield text, hidden, p
            return
        for event, q in next_events(state):
            after = state.copy()
            sentence = world.grammar.render(event)
            update(after, event, sentence)
            yield from unfold(after, f"{text} {sentence}" if text else sentence, hidden, p * q)

    yield from unfold(State(world), "", (), 1.0)
