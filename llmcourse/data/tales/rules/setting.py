"""How a story opens: a day, a person, a problem, and where to turn; and who comes, goes and has."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmcourse.data.tales.rules.core import (
    ADJECTIVE,
    ANOTHER_PLACE,
    BREAKABLE,
    ELSEWHERE,
    FOOD,
    NAME,
    OTHER_FOOD,
    PLACE,
    THING,
    TIME,
    TRADE,
    WEATHER,
    EffectTable,
    Menu,
    RuleTable,
)  # fmt: skip
from llmcourse.data.tales.vocabulary import WEATHERS

if TYPE_CHECKING:
    from llmcourse.data.tales.state import State


def opening(state: State) -> Menu:
    return 1.0, [(1.0, "open", (NAME, PLACE, WEATHER, TIME))]


def after_open(state: State, args: tuple[str, ...]) -> None:
    hero, place, weather, time = args
    state.hero = hero
    state.enter(hero, place)
    state.weather = WEATHERS[weather]
    state.time = time
    state.phase = "plot"


def plot(state: State) -> Menu:
    hero = state.hero
    arguments = {
        "lost": (hero, ADJECTIVE, THING),
        "gift": (hero, NAME, ADJECTIVE, THING),
        "quarrel": (hero, NAME, ADJECTIVE, THING),
        "hungry": (hero, FOOD),
        "broken": (hero, ADJECTIVE, BREAKABLE),
        "wish": (hero, ADJECTIVE, THING),
    }
    weights = {"lost": 2.0}  # the plot with the deepest hidden state comes up twice as often
    return 1.0, [(weights.get(p, 1.0), f"plot.{p}", arguments[p]) for p in state.world.plots]


def _begin(state: State, plot: str, wanted: str) -> None:
    state.plot = plot
    state.wanted = wanted
    state.phase = "clue" if plot in ("lost", "gift") else "body"


def after_lost(state: State, args: tuple[str, ...]) -> None:
    hero, adjective, thing = args
    _begin(state, "lost", thing)
    state.own(thing, adjective, hero, held=False)
    state.feel(hero, "sad", "lost", thing)


def after_gift(state: State, args: tuple[str, ...]) -> None:
    hero, friend, adjective, thing = args
    _begin(state, "gift", thing)
    state.friend = friend
    state.own(thing, adjective, hero)
    state.people.append(friend)


def after_quarrel(state: State, args: tuple[str, ...]) -> None:
    hero, friend, adjective, thing = args
    _begin(state, "quarrel", thing)
    state.friend = friend
    state.own(thing, adjective, hero)
    state.enter(friend, state.place[hero])
    state.quarrel = True
    state.feel(hero, "cross", "quarrel", friend)
    state.feel(friend, "cross", "quarrel", hero)


def after_hungry(state: State, args: tuple[str, ...]) -> None:
    hero, food = args
    _begin(state, "hungry", food)
    state.feel(hero, "hungry", "hungry")


def after_broken(state: State, args: tuple[str, ...]) -> None:
    hero, adjective, thing = args
    _begin(state, "broken", thing)
    state.own(thing, adjective, hero)
    state.broken.add(thing)
    state.feel(hero, "sad", "broken", thing)


def after_wish(state: State, args: tuple[str, ...]) -> None:
    _, adjective, thing = args
    _begin(state, "wish", thing)
    state.adjective[thing] = adjective


def clue(state: State) -> Menu:
    if state.plot == "lost":
        return 1.0, [(1.0, "clue.lost", (PLACE, ANOTHER_PLACE))]
    return 1.0, [(1.0, "clue.gift", (state.friend, TRADE, ELSEWHERE))]


def after_clue_lost(state: State, args: tuple[str, ...]) -> None:
    from llmcourse.data.tales.state import WHERE

    world = state.world
    state.spots = tuple(s.noun for name in args for s in world.place[name].spots)
    state.hide(WHERE, dict.fromkeys(state.spots, 1.0 / len(state.spots)))
    state.phase = "body"


def after_clue_gift(state: State, args: tuple[str, ...]) -> None:
    friend, trade, place = args
    state.trade[friend] = trade
    state.place[friend] = place
    state.enter(friend, place)
    state.phase = "body"


def meet(state: State) -> Menu:
    if len(state.people) >= state.world.max_people or state.n > 6:
        return None
    alone = len(state.here()) == 1
    weight = (7.0 if state.plot not in ("gift", "lost") else 3.5) if alone else 0.15
    if state.plot == "quarrel":
        weight *= 0.3
    return weight, [(1.0, "meet", (NAME, TRADE))]


def after_meet(state: State, args: tuple[str, ...]) -> None:
    name, trade = args
    state.trade[name] = trade
    state.enter(name, state.place[state.hero])


def have(state: State) -> Menu:
    """A newcomer turns out to have something: often just what the story needs."""
    cases = []
    eager = 0.7
    for name in state.here():
        if name == state.hero or name in state.food or name in state.holder.values():
            continue
        if len(state.holder) < 3:
            if state.plot == "wish" and state.wanted not in state.holder:
                cases.append((2.0, "have.one", (name,)))
                eager = 4.0
            cases.append((0.6, "have.thing", (name, ADJECTIVE, THING)))
        trade = state.trade.get(name, "")
        craving = 3.0 if state.plot == "hungry" and not state.solved else 0.5
        if craving > 1.0:
            eager = 4.0
        there = state.food.values()
        own = [f for f in state.world.foods_of.get(trade, ()) if f not in there]
        cases.extend((craving * 0.3, "have.food", (name, food)) for food in own)
        if len(state.world.foods) > len(own) + len(there):
            cases.append((craving * 0.4, "have.food", (name, OTHER_FOOD)))
    return (eager, cases) if cases else None


def after_have_thing(state: State, args: tuple[str, ...]) -> None:
    name, adjective, thing = args
    state.own(thing, adjective, name)


def after_have_one(state: State, args: tuple[str, ...]) -> None:
    (name,) = args
    state.own(state.wanted, state.adjective[state.wanted], name)
    state.mention(state.wanted)


def after_have_food(state: State, args: tuple[str, ...]) -> None:
    name, food = args
    state.food[name] = food


def _goals(state: State) -> set[str]:
    """Places where the hero has something to do."""
    if state.solved:
        return set()
    if state.plot == "lost":
        world = state.world
        return {world.spot[s].place for s in state.spots if s not in state.searched}
    if state.plot == "gift":
        return {state.place[state.friend]}
    return set()


def _destinations(state: State) -> tuple[float, list[tuple[float, str]]] | None:
    here = state.place[state.hero]
    goals = _goals(state)
    away = goals - {here}
    if here in goals or state.promise or state.quarrel:
        weight = 0.1
    elif away:
        weight = 12.0
    else:
        weight = 0.6 if len(state.here()) == 1 else 0.15
    if state.last in ("move", "walk"):
        weight *= 0.3 if away and here not in goals else 0.05
    others = [p for p in state.world.place_names if p != here]
    return weight, [(8.0 if p in away else 0.06 if away else 1.0, p) for p in others]


def move(state: State) -> Menu:
    if state.companion:
        return None
    weight, places = _destinations(state)
    return weight, [(w, "move", (state.hero, p)) for w, p in places]


def walk(state: State) -> Menu:
    if not state.companion:
        return None
    weight, places = _destinations(state)
    return weight, [(w, "walk", (state.hero, state.companion, p)) for w, p in places]


def after_move(state: State, args: tuple[str, ...]) -> None:
    state.place[args[0]] = args[-1]


def after_walk(state: State, args: tuple[str, ...]) -> None:
    state.place[args[0]] = args[-1]
    state.place[args[1]] = args[-1]


RULES: RuleTable = {
    "open": opening, "plot": plot, "clue": clue, "meet": meet, "have": have, "move": move,
    "walk": walk,
}  # fmt: skip
EFFECTS: EffectTable = {
    "open": after_open,
    "plot.lost": after_lost,
    "plot.gift": after_gift,
    "plot.quarrel": after_quarrel,
    "plot.hungry": after_hungry,
    "plot.broken": after_broken,
    "plot.wish": after_wish,
    "clue.lost": after_clue_lost,
    "clue.gift": after_clue_gift,
    "meet": after_meet,
    "have.one": after_have_one,
    "have.thing": after_have_thing,
    "have.food": after_have_food,
    "move": after_move,
    "walk": after_walk,
}
