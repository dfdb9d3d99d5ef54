"""Free choices, and helpers shared by the rules."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llmcourse.data.tales.state import State

Case = tuple[float, str, tuple]  # (weight, key, arguments)
Menu = tuple[float, list[Case]] | None  # (weight of the kind, its cases)
RuleTable = dict[str, Callable[["State"], Menu]]
EffectTable = dict[str, Callable[["State", tuple[str, ...]], None]]


class Free:
    """An argument chosen uniformly from `options(state, arguments so far)`."""

    __slots__ = ("name", "options")

    def __init__(
        self, name: str, options: Callable[[State, tuple[str, ...]], tuple[str, ...]]
    ) -> None:
        self.name = name
        self.options = options

    def __repr__(self) -> str:
        return f"Free({self.name})"


def _new_names(state: State, args: tuple[str, ...]) -> tuple[str, ...]:
    """The second person differs in gender from the first, so that he and she are clear."""
    people, female = state.people, state.world.grammar.female
    if len(people) == 1:
        return state.world.names_of[not female[people[0]]]
    return tuple(n for n in state.world.names if n not in people)


def _new_things(state: State, args: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(n for n in state.world.nouns if n not in state.adjective)


def _new_trades(state: State, args: tuple[str, ...]) -> tuple[str, ...]:
    taken = state.trade.values()
    return tuple(t for t in state.world.trades if t not in taken)


def _elsewhere(state: State, args: tuple[str, ...]) -> tuple[str, ...]:
    here = state.place[state.hero]
    return tuple(p for p in state.world.place_names if p != here)


def _another_place(state: State, args: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(p for p in state.world.place_names if p != args[0])


def _other_foods(state: State, args: tuple[str, ...]) -> tuple[str, ...]:
    """Foods that are neither there already nor of this person's own trade."""
    own = state.world.foods_of.get(state.trade.get(args[0], ""), ())
    return tuple(f for f in state.world.food_names if f not in own and f not in state.food.values())


NAME = Free("name", _new_names)
THING = Free("thing", _new_things)
BREAKABLE = Free("breakable thing", lambda state, args: state.world.breakables)
ADJECTIVE = Free("adjective", lambda state, args: state.world.adjectives)
TRADE = Free("trade", _new_trades)
PLACE = Free("place", lambda state, args: state.world.place_names)
ELSEWHERE = Free("place elsewhere", _elsewhere)
ANOTHER_PLACE = Free("another place", _another_place)
FOOD = Free("food", lambda state, args: state.world.food_names)
OTHER_FOOD = Free("food of another trade", _other_foods)
WEATHER = Free("weather", lambda state, args: state.world.weathers)
TIME = Free("time of day", lambda state, args: state.world.times)


def fading(state: State, kind: str, rate: float = 0.4) -> float:
    """A factor that makes a kind less likely each time it has happened; 0 right after it."""
    if state.last == kind:
        return 0.0
    return rate ** state.counts.get(kind, 0)
