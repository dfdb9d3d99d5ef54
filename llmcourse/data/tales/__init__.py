"""Tales: a synthetic village whose stories have an exactly known probability.

Taught in Part 2; the course's laboratory from then on. A seeded simulator lets things happen one
by one, with probabilities that depend on what has happened, and tells each as a sentence. Every
sentence can be read back to its event. So the probability of a text is known exactly, and with it
the lowest loss that any language model can reach; and any text can be judged, sentence by sentence.

    vocabulary, templates   every word and every sentence
    world, state            what there is; what is true so far, and what is believed
    rules                   what can happen next, how likely it is, and what it changes
    grammar                 events to sentences and back
    menu, simulate, parse     what can come next, drawing it, and reading it back
    score                   the probability of an event, choice by choice
    probability, forecast   of whole texts; the entropy floor; the next sentence
    verify, questions       judging any text; questions with true answers
"""

from llmcourse.data.tales.forecast import (
    Forecast,
    enumerate_stories,
    forecast,
    next_events,
    next_kinds,
    next_sentences,
    read_state,
)
from llmcourse.data.tales.grammar import Event
from llmcourse.data.tales.parse import ParseError, parse, render, split_sentences
from llmcourse.data.tales.probability import (
    Floor,
    entropy_floor,
    log_probability,
    sentence_log_probabilities,
)
from llmcourse.data.tales.questions import UNKNOWN, Question, questions
from llmcourse.data.tales.score import Factors, factors, score_events
from llmcourse.data.tales.simulate import Story, sample_stories, sample_story
from llmcourse.data.tales.state import State
from llmcourse.data.tales.verify import SentenceVerdict, Verdict, verify
from llmcourse.data.tales.vocabulary import (
    ADJECTIVES,
    FOODS,
    MOODS,
    PEOPLE,
    PLACES,
    THINGS,
    TRADES,
    WORDS,
)
from llmcourse.data.tales.world import VILLAGE, World

NAMES = frozenset(person.name for person in PEOPLE)
OBJECTS = frozenset(thing.noun for thing in THINGS)
PLACE_NAMES = frozenset(place.name for place in PLACES)
SPOTS = frozenset(spot.noun for place in PLACES for spot in place.spots)
MOOD_WORDS = frozenset(word for mood in MOODS for word in WORDS[mood])
VERBS = frozenset(WORDS["went"] + WORDS["looked"] + WORDS["hummed"] + WORDS["sat"])


def fingerprint(world: World = VILLAGE) -> str:
    """Sixteen hex digits that change whenever the distribution over texts changes."""
    return world.fingerprint()


__all__ = [
    "ADJECTIVES",
    "FOODS",
    "MOODS",
    "MOOD_WORDS",
    "NAMES",
    "OBJECTS",
    "PEOPLE",
    "PLACES",
    "PLACE_NAMES",
    "SPOTS",
    "THINGS",
    "TRADES",
    "UNKNOWN",
    "VERBS",
    "VILLAGE",
    "WORDS",
    "Event",
    "Factors",
    "Floor",
    "Forecast",
    "ParseError",
    "Question",
    "SentenceVerdict",
    "State",
    "Story",
    "Verdict",
    "World",
    "entropy_floor",
    "enumerate_stories",
    "factors",
    "fingerprint",
    "forecast",
    "log_probability",
    "next_events",
    "next_kinds",
    "next_sentences",
    "parse",
    "questions",
    "read_state",
    "render",
    "sample_stories",
    "sample_story",
    "score_events",
    "sentence_log_probabilities",
    "split_sentences",
    "verify",
]
