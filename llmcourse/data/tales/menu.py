"""What can come next, and what it changes: the two questions that drawing and scoring share.

Taught in Part 2. The menu lists every kind of event that the state allows, with its weight: the
simulator draws from it, and the score of a text asks what share of it an event had.
"""

from __future__ import annotations

from typing import NamedTuple

from llmcourse.data.tales.grammar import ASKING, Event
from llmcourse.data.tales.rules import BODY, EFFECTS, RULES
from llmcourse.data.tales.rules.ending import ending_cases
from llmcourse.data.tales.state import State


class Entry(NamedTuple):
    """One kind of event that can come next."""

    weight: float
    kind: str
    cases: list


def menu(state: State) -> list[Entry]:
    """The kinds of event that can come next, with weights and cases. Empty after an ending."""
    if state.ended:
        return []
    if state.pending:
        return [Entry(1.0, "reply", RULES["reply"](state)[1])]
    phase = state.phase
    if phase != "body":
        return [Entry(1.0, phase, RULES[phase](state)[1])]
    world = state.world
    grammar = world.grammar
    # Room for this event, its reply if it asks for one, and the longest ending: the bound on
    # the length of a story is a condition on the state like any other.
    room = world.max_bytes - state.bytes - grammar.longest_end - 1
    left = world.max_sentences - state.n - 1
    longest = grammar.longest
    entries = []
    if left > 0 and room > 0:
        kinds = world.kinds
        for kind in BODY:
            if kinds is not None and kind not in kinds:
                continue
            need, steps = longest[kind], 1
            if kind in ASKING:
                need, steps = need + longest["reply"] + 1, 2
            if need > room or steps > left:
                continue
            found = RULES[kind](state)
            if found is not None and found[0] > 0.0:
                entries.append(Entry(found[0], kind, found[1]))
    found = RULES["end"](state)
    if found is not None and found[0] > 0.0:
        entries.append(Entry(found[0], "end", found[1]))
    elif not entries:
        entries.append(Entry(1.0, "end", ending_cases(state)))
    return entries


def update(state: State, event: Event, sentence: str) -> None:
    """Let an event happen."""
    EFFECTS[event.key](state, event.args)
    state.advance(event, sentence)
