"""How a story ends: well, if its problem was solved; otherwise as such days do end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmcourse.data.tales.rules.core import EffectTable, Menu, RuleTable

if TYPE_CHECKING:
    from llmcourse.data.tales.state import State

# Weight of an ending by how many sentences the story has beyond the least number.
SOLVED = (1.0, 3.0, 6.0, 10.0, 15.0)
UNSOLVED = (0.0, 0.1, 0.4, 1.5, 4.0)

# plot -> (key when solved, key when not)
ENDINGS = {
    "lost": ("end.found", "end.lost"),
    "gift": ("end.given", "end.kept"),
    "quarrel": ("end.friends", "end.apart"),
    "hungry": ("end.full", "end.hungry"),
    "broken": ("end.mended", "end.broken"),
    "wish": ("end.granted", "end.dream"),
}


def _arguments(state: State, key: str) -> tuple[str, ...]:
    if key == "end.given":
        return (state.friend, state.wanted)
    if key in ("end.friends", "end.apart"):
        return (state.hero, state.friend)
    if key in ("end.full", "end.hungry"):
        return (state.hero,)
    return (state.hero, state.wanted)


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
    key = ENDINGS[state.plot][0 if state.solved else 1]
    cases = [(2.0, key, _arguments(state, key))]
    # A found or granted thing may since have been given away, put down or broken again.
    lost_again = key in ("end.found", "end.granted", "end.mended", "end.given") and (
        state.holder.get(state.wanted) != _arguments(state, key)[0] or state.wanted in state.broken
    )
    if lost_again:
        cases = []
    cases.append((1.0, "end.good" if state.solved else "end.bad", ()))
    return cases


def after_end(state: State, args: tuple[str, ...]) -> None:
    state.ended = True


RULES: RuleTable = {"end": ending}
EFFECTS: EffectTable = {
    key: after_end
    for key in ("end.good", "end.bad", *(k for pair in ENDINGS.values() for k in pair))
}
