"""Looking for what is lost, and putting things where they can be found again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmcourse.data.tales.rules.core import EffectTable, Menu, RuleTable, fading
from llmcourse.data.tales.state import WHERE

if TYPE_CHECKING:
    from llmcourse.data.tales.state import State


def look(state: State) -> Menu:
    """The outcome of a look depends on the hidden place of the thing: Bayesian search."""
    if state.plot != "lost" or state.solved:
        return None
    world = state.world
    here = state.place[state.hero]
    spots = [s for s in state.spots if s not in state.searched and world.spot[s].place == here]
    if not spots:
        return None
    lookers = [state.hero]
    if state.companion and state.place[state.companion] == here:
        lookers.append(state.companion)
    cases = []
    belief = state.belief[WHERE]
    for who in lookers:
        for spot in spots:
            there = belief.get(spot, 0.0)
            if there > 0.0:
                cases.append((there, "look.found", (who, spot, state.wanted)))
            if there < 1.0:
                cases.append((1.0 - there, "look.empty", (who, spot)))
    return 14.0, cases


def after_empty(state: State, args: tuple[str, ...]) -> None:
    spot = args[1]
    state.searched.add(spot)
    state.learn(WHERE, {s: float(s != spot) for s in state.spots})


def after_found(state: State, args: tuple[str, ...]) -> None:
    who, spot, thing = args
    state.searched.add(spot)
    state.learn(WHERE, {s: float(s == spot) for s in state.spots})
    state.hold(thing, who)
    state.feel(state.hero, "happy", "found", thing)
    state.solved = True
    if who != state.hero:
        state.owed = (who, state.hero)


def put(state: State) -> Menu:
    if state.counts.get("put") or state.promise:
        return None
    here = state.here()
    spots = [s.noun for s in state.world.place[state.place[state.hero]].spots]
    at_stake = set() if state.solved else {state.wanted}
    cases = [
        (1.0, "put", (holder, thing, spot))
        for thing, holder in state.holder.items()
        if holder in here and thing not in at_stake and thing not in state.broken
        for spot in spots
        if spot not in state.lying.values() and (state.solved or spot not in state.spots)
    ]
    return (0.7, cases) if cases else None


def after_put(state: State, args: tuple[str, ...]) -> None:
    _, thing, spot = args
    state.holder.pop(thing, None)
    state.lying[thing] = spot


def play(state: State) -> Menu:
    if state.quarrel or state.promise:
        return None
    here = state.here()
    gift = state.wanted if state.plot == "gift" and not state.solved else ""
    cases = []
    for thing, holder in state.holder.items():
        if thing == gift:
            continue
        if holder in here and state.world.thing[thing].toy and thing not in state.broken:
            for other in here:
                if other != holder:
                    first, second = sorted((holder, other), key=state.people.index)
                    cases.append((1.0, "play", (first, second, thing)))
    return (2.5 * fading(state, "play", 0.3), cases) if cases else None


def after_play(state: State, args: tuple[str, ...]) -> None:
    first, second, thing = args
    state.feel(first, "happy", "played", thing)
    state.feel(second, "happy", "played", thing)


RULES: RuleTable = {"look": look, "put": put, "play": play}
EFFECTS: EffectTable = {
    "look.empty": after_empty,
    "look.found": after_found,
    "put": after_put,
    "play": after_play,
}
