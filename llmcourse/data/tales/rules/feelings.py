"""Moods told, sung and said; a told mood may name its cause."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmcourse.data.tales.rules.core import EffectTable, Menu, RuleTable, fading

if TYPE_CHECKING:
    from llmcourse.data.tales.state import State

# How each cause of a mood is told.
TELLING = {
    "lost": "why.blue", "broken": "why.blue", "found": "why.glad", "gift": "why.glad",
    "mended": "why.glad", "played": "why.glad", "quarrel": "why.cross",
    "refused": "why.hurt", "comforted": "why.warm", "friends": "why.warm",
}  # fmt: skip
LOW = ("sad", "cross")


def feel(state: State) -> Menu:
    cases = [
        (1.0, f"feel.{state.mood[name][0]}", (name,))
        for name in state.here()
        if state.feeling(name) not in ("", "hungry") and name not in state.told
    ]
    return (0.7 * fading(state, "feel", 0.5), cases) if cases else None


def why(state: State) -> Menu:
    cases = []
    for name in state.here():
        if name in state.mood and name not in state.told:
            _, cause, about = state.mood[name]
            if cause in TELLING:
                cases.append((1.0, TELLING[cause], (name, about[0])))
    return (1.3 * fading(state, "why", 0.6), cases) if cases else None


def after_telling(state: State, args: tuple[str, ...]) -> None:
    state.told.add(args[0])


def sing(state: State) -> Menu:
    cases = []
    for name in state.here():
        mood = state.feeling(name)
        if mood == "sad":
            cases.append((1.0, "sing.sad", (name,)))
        elif mood not in LOW:
            cases.append((1.0, "sing.happy", (name,)))
    return (0.7 * fading(state, "sing", 0.2), cases) if cases else None


def say(state: State) -> Menu:
    cases = []
    for name in state.here():
        mood = state.feeling(name)
        if mood == "happy":
            cases.append((1.0, "say.happy", (name,)))
        elif mood == "sad":
            cases.append((1.0, "say.sad", (name,)))
    if state.plot == "lost" and not state.solved:
        cases.append((1.0, "say.lost", (state.hero, state.wanted)))
    return (1.0 * fading(state, "say", 0.4), cases) if cases else None


def no_effect(state: State, args: tuple[str, ...]) -> None:
    """Nothing changes but the telling."""


RULES: RuleTable = {"feel": feel, "why": why, "sing": sing, "say": say}
EFFECTS: EffectTable = {
    **{f"feel.{mood}": after_telling for mood in ("happy", "sad", "cross")},
    **dict.fromkeys(TELLING.values(), after_telling),
    "sing.happy": no_effect, "sing.sad": no_effect, "say.happy": no_effect,
    "say.sad": no_effect, "say.lost": no_effect,
}  # fmt: skip
