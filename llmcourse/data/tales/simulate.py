"""The simulator: event after event, each drawn from what the state allows.

Taught in Part 2. A sentence is chosen from the general to the particular: kind of event, case,
free arguments, paraphrase, pronoun or name, free words. The probability of the sentence is the
product of these choices (the chain rule), which `probability.py` computes from the text alone.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass

from llmcourse.data.tales.grammar import Event
from llmcourse.data.tales.menu import menu, update
from llmcourse.data.tales.rules import Free
from llmcourse.data.tales.score import score_events
from llmcourse.data.tales.state import State
from llmcourse.data.tales.world import VILLAGE, World


@dataclass(frozen=True)
class Story:
    """A whole story, or the beginning of one.

    log_probability: nats, of the text, hidden state summed out.
    hidden: the truth behind a sampled story; empty for a parsed one.
    joint_log_probability: nats, of text and hidden state together; None for a parsed one.
    """

    text: str
    sentences: tuple[str, ...]
    events: tuple[Event, ...]
    state: State
    log_probability: float
    hidden: dict
    joint_log_probability: float | None
    world: World


def _pick(rng: random.Random, weighted: list, total: float):
    target = rng.random() * total
    for item in weighted:
        target -= item[0]
        if target < 0.0:
            return item
    return weighted[-1]


def draw(state: State, rng: random.Random) -> tuple[Event, float]:
    """Draw the next event; returns it and its probability given the state (and its beliefs)."""
    entries = menu(state)
    total = sum(e[0] for e in entries)
    weight, _, cases = _pick(rng, entries, total)
    probability = weight / total
    total = sum(c[0] for c in cases)
    weight, key, args = _pick(rng, cases, total)
    probability *= weight / total
    chosen: tuple[str, ...] = ()
    for arg in args:
        if isinstance(arg, Free):
            options = arg.options(state, chosen)
            probability /= len(options)
            arg = options[int(rng.random() * len(options))]
        chosen += (arg,)
    world = state.world
    grammar = world.grammar
    templates = grammar.templates[key]
    template = templates[int(rng.random() * len(templates))]
    probability /= len(templates)
    pronouns = state.clear(template, chosen) if template.open else ()
    if pronouns:
        said = rng.random() < world.pronoun_rate
        probability *= world.pronoun_rate if said else 1.0 - world.pronoun_rate
        pronouns = pronouns if said else ()
    words = []
    for name in template.classes:
        options = grammar.words[name]
        probability /= len(options)
        words.append(options[int(rng.random() * len(options))])
    return Event(key, chosen, template.index, tuple(words), pronouns), probability


def fix_hidden(state: State, rng: random.Random, hidden: dict) -> float:
    """Draw the hidden variables that were just born; returns their log prior in nats."""
    log_prior = 0.0
    for variable in state.fresh:
        prior = state.belief[variable]
        (value, p) = rng.choices(list(prior.items()), weights=prior.values())[0]
        hidden[variable] = value
        log_prior += math.log(p)
        state.belief[variable] = {v: float(v == value) for v in prior}
    state.fresh.clear()
    return log_prior


def simulate(
    rng: random.Random, world: World = VILLAGE
) -> Iterator[tuple[Event, str, float, dict]]:
    """A story as it happens: (event, sentence, joint log-probability so far, hidden truth)."""
    state, hidden, total = State(world), {}, 0.0
    while not state.ended:
        event, probability = draw(state, rng)
        sentence = world.grammar.render(event)
        update(state, event, sentence)
        total += math.log(probability)
        if state.fresh:
            total += fix_hidden(state, rng, hidden)
        yield event, sentence, total, hidden


def sample_text(rng: random.Random, world: World = VILLAGE) -> str:
    """One story's text."""
    return " ".join(sentence for _, sentence, _, _ in simulate(rng, world))


def sample_story(seed: int, world: World = VILLAGE) -> Story:
    """The story of this seed, with its events, truth and exact log-probability."""
    steps = list(simulate(random.Random(f"tale {seed}"), world))
    events = tuple(step[0] for step in steps)
    sentences = tuple(step[1] for step in steps)
    log_probabilities, state = score_events(events, world)
    return Story(
        " ".join(sentences), sentences, events, state, math.fsum(log_probabilities),
        dict(steps[-1][3]), steps[-1][2], world,
    )  # fmt: skip


def sample_stories(n: int, seed: int = 0, world: World = VILLAGE) -> list[str]:
    """n story texts from one stream of random numbers; fast, since nothing is scored.

    Raises ValueError if n is negative.
    """
    if n < 0:
        raise ValueError(f"n is {n}; the number of stories cannot be negative")
    rng = random.Random(f"tales {seed}")
    return [sample_text(rng, world) for _ in range(n)]
