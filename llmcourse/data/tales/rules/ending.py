"""How a story ends: well, if its problem was solved; otherwise as such days do end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmcourse.data.tales.rules.core import EffectTable, Menu, RuleTable

if TYPE_CHECKING:
    from llmcourse.data.tales.state import State

# Weight of an ending by how many sentences the story has beyond the least number.
SOLVED = (1.0, 3.0, 6.0, 10.0, 15.0)
UNSOLVED = (0.0, 0.1, 0.4, 1.5, 4.0)

# plot -> (key when solved, key when not); "" leaves only the general endings.
ENDINGS = {
    "lost": ("end.home", "end.without"),
    "gift": ("end.home", ""),
    "quarrel": ("end.friends", ""),
    "hungry": ("", ""),
    "broken": ("end.home", ""),
    "wish": ("end.home", "end.without"),
}


def _arguments(state: State, key: str) -> tuple[str, ...]:
    if key == "end.friends":
        return (state.hero, state.friend)
    return (state.friend if state.plot == "gift" else state.hero, state.wanted)


def ending(state: State) -> Menu:
    """Solved stories stop soon; unsolved ones linger. Thanks due and promises hold an end back."""
    steps = state.n + 1 - state.world.min_sentences
    if steps < 0:
        return None
    weight = SOLVED[min(steps, 4)] if state.solved else UNSOLVED[min(steps, 4)]
    if state.owed or state.promise:
        weight *= 0.2
    return weight, ending_cases(state)


def ending_cases(state: State) -> list:
    """An ending of this plot, and the general ones."""
    cases = [(1.0, "end.good" if state.solved else "end.bad", ())]
    key = ENDINGS[state.plot][0 if state.solved else 1]
    if key:
        args = _arguments(state, key)
        # A found or granted thing may since have been given away or put down.
        if key != "end.home" or state.holder.get(state.wanted) == args[0]:
            cases.append((2.0, key, args))
    return cases


def after_end(state: State, args: tuple[str, ...]) -> None:
    state.ended = True


RULES: RuleTable = {"end": ending}
EFFECTS: EffectTable = {
    f"end.{key}": after_end for key in ("home", "without", "friends", "good", "bad")
}
