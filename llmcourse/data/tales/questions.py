"""Questions about a story, with true answers.

Taught in Part 6 (instruction data) and Part 8 (verifiable rewards). Every answer follows from the
text alone; where the text does not say, the answer is `UNKNOWN` and `answerable` is False.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from llmcourse.data.tales.grammar import article
from llmcourse.data.tales.parse import parse
from llmcourse.data.tales.simulate import Story
from llmcourse.data.tales.world import VILLAGE, World

UNKNOWN = "The story does not say."

# What a mood's cause is called; {0}, {1} are what the cause is about.
CAUSES = {
    "lost": "because the {0} was lost",
    "found": "because the {0} was found",
    "gift": "because {1} gave away the {0}",
    "refused": "because {0} said no",
    "quarrel": "because of the quarrel with {0}",
    "broken": "because the {0} was broken",
    "mended": "because the {0} was mended",
    "comforted": "because {0} was kind",
    "fed": "because of the {0}",
    "played": "because playing with the {0} was fun",
    "friends": "because of being friends with {0}",
    "hungry": "because there was nothing to eat",
}

# key -> (question about who did it, position of the doer)
DEEDS = {
    "give": ("Who gave the {2} to {1}?", 0),
    "look.found": ("Who found the {2}?", 0),
    "mend": ("Who mended the {1}?", 0),
    "share": ("Who shared the {2} with {1}?", 0),
    "comfort": ("Who comforted {1}?", 0),
    "thank": ("Who said thank you?", 0),
    "reply.no": ("Who said no?", 0),
    "reply.yes": ("Who said yes?", 0),
    "put": ("Who left the {1} behind?", 0),
    "have.food": ("Who brought {1}?", 0),
}


@dataclass(frozen=True)
class Question:
    """A question with its true answer."""

    kind: str  # where, who has, feeling, why, who, first, trade, thing, weather
    text: str
    answer: str
    answerable: bool
    hops: int  # facts to put together


def _known(kind: str, text: str, answer: str, hops: int = 1) -> Question:
    return Question(kind, text, answer, True, hops)


def _unknown(kind: str, text: str) -> Question:
    return Question(kind, text, UNKNOWN, False, 1)


def _people(story: Story) -> Iterator[Question]:
    state, at = story.state, story.world.grammar.forms["place", "at"]
    for name in state.people:
        if name in state.place:
            yield _known("where", f"Where was {name} last?", at[state.place[name]])
        else:
            yield _unknown("where", f"Where was {name} last?")
        if name in state.mood:
            mood, cause, about = state.mood[name]
            yield _known("feeling", f"How did {name} feel in the end?", mood)
            why = CAUSES[cause].format(*about)
            yield _known("why", f"Why did {name} feel {mood} in the end?", why)
        if name in state.trade:
            yield _known("trade", f"What was {name}'s trade?", state.trade[name])
        else:
            yield _unknown("trade", f"What was {name}'s trade?")
    if len(state.people) > 1:
        first, second = state.people[:2]
        # Asked in alphabetical order, so that the answer is not always the first name given.
        a, b = sorted((first, second))
        yield _known("first", f"Who came into the story first, {a} or {b}?", first)


def _things(story: Story) -> Iterator[Question]:
    state, forms = story.state, story.world.grammar.forms
    for noun, adjective in state.adjective.items():
        who, where = f"Who had the {noun} in the end?", f"Where was the {noun} in the end?"
        yield _known("thing", f"What kind of {noun} was it?", f"{article(adjective)} {noun}")
        if noun in state.holder:
            holder = state.holder[noun]
            yield _known("who has", who, holder)
            place = forms["place", "at"][state.place[holder]]
            yield _known("where", f"Where was the person who had the {noun} last?", place, 2)
            if holder in state.trade:
                question = f"What was the trade of the person who had the {noun}?"
                yield _known("trade", question, state.trade[holder], 2)
            if holder in state.mood:
                question = f"How did the person who had the {noun} feel in the end?"
                yield _known("feeling", question, state.mood[holder][0], 2)
        elif noun in state.lying:
            spot = state.lying[noun]
            yield _known("where", where, forms["spot", "in"][spot])
            place = forms["place", "at"][story.world.spot[spot].place]
            yield _known("where", f"At which place was the {noun} left?", place, 2)
        else:
            yield _unknown("where", where)
            yield _unknown("who has", who)
    for noun in state.searched:
        place = forms["place", "at"][story.world.spot[noun].place]
        yield _known("where", f"Where is the {noun} that was searched?", place, 2)


def _deeds(story: Story) -> Iterator[Question]:
    asked: dict[str, list[str]] = {}
    for event in story.events:
        key = event.key if event.key in DEEDS else event.kind
        if key in DEEDS:
            template, doer = DEEDS[key]
            asked.setdefault(template.format(*event.args), []).append(event.args[doer])
    for text, doers in asked.items():
        if len(set(doers)) == 1:  # a question with two true answers is not asked
            yield _known("who", text, doers[0])


def _order(story: Story) -> Iterator[Question]:
    told = [
        (i, s)
        for i, (s, e) in enumerate(zip(story.sentences, story.events, strict=True))
        if not e.pronouns and e.kind not in ("open", "plot", "clue", "end")
    ]
    told = [(i, s) for i, s in told if story.sentences.count(s) == 1]
    if len(told) > 1:
        first, second = told[0][1], told[-1][1]
        a, b = sorted((first, second))
        yield _known("first", f"Which came first: {a} Or: {b}", first)


def _not_in_story(story: Story) -> Iterator[Question]:
    """Questions about somebody and something that the story never mentions."""
    pick = zlib.crc32(story.text.encode())
    names = [n for n in story.world.names if n not in story.state.people]
    nouns = [n for n in story.world.nouns if n not in story.state.adjective]
    if names:
        yield _unknown("where", f"Where was {names[pick % len(names)]} last?")
    if nouns:
        yield _unknown("who has", f"Who had the {nouns[pick % len(nouns)]} in the end?")


def questions(text: str | Story, world: World = VILLAGE) -> list[Question]:
    """Questions with true answers about a story (its text, or the parsed story).

    Raises ParseError or ValueError for a text that is not a story of this world.
    """
    story = text if isinstance(text, Story) else parse(text, world)
    parts = (_people, _things, _deeds, _order, _not_in_story)
    found = [question for part in parts for question in part(story)]
    if story.state.weather:
        found.append(
            _known("weather", "What was the weather like in the end?", story.state.weather)
        )
    return found
