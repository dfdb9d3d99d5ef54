"""The world around: animals, sounds, smells and the weather, which turns now and then."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmcourse.data.tales.rules.core import EffectTable, Menu, RuleTable, fading
from llmcourse.data.tales.rules.feelings import no_effect

if TYPE_CHECKING:
    from llmcourse.data.tales.state import State

# The weather comes from somewhere: which turns are possible, and how likely.
TURNS = {
    "sunny": (("windy", 2.0), ("rainy", 1.0)),
    "windy": (("rainy", 2.0), ("sunny", 1.0), ("snowy", 1.0)),
    "rainy": (("sunny", 2.0), ("windy", 1.0)),
    "snowy": (("sunny", 2.0), ("windy", 1.0)),
}


def watch(state: State) -> Menu:
    cases = [(1.0, "watch", (name,)) for name in state.here() if state.feeling(name) != "cross"]
    return (0.8 * fading(state, "watch", 0.2), cases) if cases else None


def scene(state: State) -> Menu:
    if state.last in ("turn", "watch"):
        return None
    cases = [
        (1.0, f"scene.{state.weather}", ()),
        (1.0, "scene.animal", ()),
        (1.0, "scene.smell", ()),
        (1.0, "scene.sound", ()),
    ]
    return 1.7 * fading(state, "scene", 0.3), cases


def turn(state: State) -> Menu:
    if state.counts.get("turn") or state.last == "scene":
        return None
    return 0.4, [(weight, f"turn.{to}", ()) for to, weight in TURNS[state.weather]]


def after_turn(weather: str) -> object:
    def effect(state: State, args: tuple[str, ...]) -> None:
        state.weather = weather

    return effect


RULES: RuleTable = {"watch": watch, "scene": scene, "turn": turn}
EFFECTS: EffectTable = {
    "watch": no_effect,
    **{f"scene.{s}": no_effect for s in ("animal", "smell", "sound", *TURNS)},
    **{f"turn.{weather}": after_turn(weather) for weather in TURNS},
}
