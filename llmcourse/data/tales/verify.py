"""The verifier: is each sentence grammatical, and can it follow what has been told?

Taught in Part 2 (judging what a model writes) and used as a reward in Part 8. Works on any string:
a model's sample, one cut off in the middle, or noise. A sentence is grammatical if some story
could contain it, and consistent if it has positive probability given the story so far. A sentence
that is not both is left out of the story: what follows is judged as if it had not been said.
"""

from __future__ import annotations

from dataclasses import dataclass

from llmcourse.data.tales.grammar import Event
from llmcourse.data.tales.menu import update
from llmcourse.data.tales.parse import ParseError, read_sentence, split_sentences
from llmcourse.data.tales.state import State
from llmcourse.data.tales.world import VILLAGE, World


@dataclass(frozen=True)
class SentenceVerdict:
    """What the verifier says about one sentence. `reason` is empty if all is well."""

    text: str
    grammatical: bool
    consistent: bool
    unfinished: bool  # cut off: the beginning of a grammatical sentence
    reason: str


@dataclass(frozen=True)
class Verdict:
    """What the verifier says about a text.

    An unfinished last sentence is not counted among the sentences: a sample that reached its
    length limit is not blamed for it, but its story is not complete.
    """

    grammatical: bool  # there are sentences and all of them are grammatical
    consistent: bool  # and all of them possible, each given those before it
    complete: bool  # and the last is an ending
    sentences: tuple[SentenceVerdict, ...]  # an unfinished one included
    problems: tuple[str, ...]

    @property
    def n_sentences(self) -> int:
        """Finished sentences."""
        return sum(not s.unfinished for s in self.sentences)

    @property
    def grammatical_sentences(self) -> int:
        return sum(s.grammatical for s in self.sentences)

    @property
    def consistent_sentences(self) -> int:
        return sum(s.consistent for s in self.sentences)


def explain(state: State, event: Event) -> str:
    """Why an event cannot happen in this state, in words."""
    if state.ended:
        return "the story is over"
    kind = event.kind
    if state.phase != "body" and kind != state.phase:
        wanted = {"open": "an opening", "plot": "a problem", "clue": "a place to go"}[state.phase]
        return f"the story needs {wanted} first"
    if state.phase == "body" and kind in ("open", "plot", "clue"):
        return "the story has already begun"
    if state.pending and kind != "reply":
        return f"{state.pending[0]} has not answered yet"
    grammar = state.world.grammar
    template = grammar.templates[event.key][event.template]
    types = grammar.types[event.key]
    newcomers = kind in ("meet",)
    for value, type_ in zip(event.args, types, strict=True):
        if type_ == "person" and value not in state.people and not newcomers:
            return f"{value} is not in the story"
        if type_ == "person" and kind not in ("meet", "end") and state.phase == "body":
            here = state.place[state.hero]
            if state.place.get(value) != here:
                return f"{value} is not {grammar.forms['place', 'at'][here]}"
        if type_ == "thing" and value not in state.adjective and event.key != "have.thing":
            return f"there is no {value} in the story"
        if type_ == "food" and value not in state.food.values() and kind in ("share", "eat", "ask"):
            return f"nobody has any {value}"
        if type_ == "spot" and kind == "look" and value in state.searched:
            return f"the {value} has been searched before"
    if event.pronouns not in ((), state.clear(template, event.args)):
        return "what is clear is said partly by name and partly by pronoun"
    return "this cannot happen at this point"


def _ungrammatical(sentence: str, world: World) -> str:
    known = world.reader.vocabulary
    for token in world.reader.tokens(sentence):
        if token not in known and token[:1].lower() + token[1:] not in known:
            return f"unknown word {token!r}"
    return "not a sentence of this world"


def verify(text: str, world: World = VILLAGE) -> Verdict:
    """Judge any string. Surrounding white space is ignored; everything else counts.

    Raises TypeError if text is not a string.
    """
    if not isinstance(text, str):
        raise TypeError(f"verify needs a str, got {type(text).__name__}")
    state = State(world)
    found: list[SentenceVerdict] = []
    sentences = split_sentences(text.strip()) if text.strip() else []
    for index, sentence in enumerate(sentences):
        last = index == len(sentences) - 1
        try:
            step = read_sentence(state, sentence, index)
        except ParseError:
            if last and world.reader.begins(sentence):
                found.append(SentenceVerdict(sentence, False, False, True, "unfinished"))
            else:
                reason = _ungrammatical(sentence, world)
                found.append(SentenceVerdict(sentence, False, False, False, reason))
            continue
        if step.reason:
            reason = explain(state, step.event) if step.event else step.reason
            found.append(SentenceVerdict(sentence, True, False, False, reason))
            continue
        update(state, step.event, sentence)
        found.append(SentenceVerdict(sentence, True, True, False, ""))
    finished = [s for s in found if not s.unfinished]
    grammatical = bool(finished) and all(s.grammatical for s in finished)
    consistent = grammatical and all(s.consistent for s in finished)
    complete = consistent and state.ended and len(finished) == len(found)
    problems = [f"sentence {i + 1}: {s.reason}" for i, s in enumerate(found) if s.reason]
    if not found:
        problems.append("the text is empty")
    elif not state.ended:
        problems.append("the story has no ending")
    return Verdict(grammatical, consistent, complete, tuple(found), tuple(problems))
