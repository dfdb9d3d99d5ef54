"""Asking, answering, giving, sharing, mending, thanking, comforting, making up.

Answers show the hidden trait: a kind heart says yes nine times in ten, another twice in ten.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmcourse.data.tales.rules.core import EffectTable, Menu, RuleTable, fading
from llmcourse.data.tales.state import YES

if TYPE_CHECKING:
    from llmcourse.data.tales.state import State

NO = {value: 1.0 - p for value, p in YES.items()}


def _asked(state: State) -> tuple[str, str, tuple[str, ...]] | None:
    """Whom the hero can ask, for what, and the arguments of the question.

    The question does not name who is asked: it is the first person here whom it makes sense to ask.
    """
    hero, wanted, plot = state.hero, state.wanted, state.plot
    for other in state.here():
        if other == hero:
            continue
        if state.quarrel and other == state.friend:
            return other, "sorry", (hero,)
        if other in state.asked:
            continue
        if plot == "lost" and not state.companion:
            return other, "lost", (hero, wanted)
        if plot == "broken" and wanted in state.broken:
            return other, "mend", (hero, wanted)
        if plot == "hungry" and other in state.food:
            return other, "food", (hero,)
        if plot == "wish" and state.holder.get(wanted) == other:
            return other, "thing", (hero, wanted)
    return None


def ask(state: State) -> Menu:
    if state.solved or state.promise:
        return None
    found = _asked(state)
    if not found:
        return None
    weight = 2.0 * 0.6 ** state.counts.get("ask", 0) if state.quarrel else 12.0
    return weight, [(1.0, f"ask.{found[1]}", found[2])]


def after_ask(state: State, args: tuple[str, ...]) -> None:
    found = _asked(state)
    if found:
        other, what, _ = found
        state.pending = (other, what)
        state.asked.add(other)


def reply(state: State) -> Menu:
    other, _ = state.pending
    yes = state.chance(other, YES) if other in state.belief else 1.0
    outcomes = ((yes, "reply.yes", (other,)), (1.0 - yes, "reply.no", (other,)))
    return 1.0, [outcome for outcome in outcomes if outcome[0] > 0.0]


def after_yes(state: State, args: tuple[str, ...]) -> None:
    (other,) = args
    what = state.pending[1] if state.pending else ""
    state.pending = None
    state.learn(other, YES)
    if what == "lost":
        state.companion = other
    elif what == "sorry":
        _make_up(state)
    elif what:
        state.promise = (other, what)


def after_no(state: State, args: tuple[str, ...]) -> None:
    (other,) = args
    state.pending = None
    state.learn(other, NO)
    state.feel(state.hero, "sad", "refused", other)


def _make_up(state: State) -> None:
    state.quarrel = False
    state.solved = True
    state.feel(state.hero, "happy", "friends", state.friend)
    state.feel(state.friend, "happy", "friends", state.hero)


def give(state: State) -> Menu:
    """A gift needs a reason: a birthday, a promise, a find, a peace offering, or a whim."""
    here, hero, cases = state.here(), state.hero, []
    for thing, holder in state.holder.items():
        if holder not in here or thing in state.broken:
            continue
        for other in here:
            if other == holder:
                continue
            if state.promise == (holder, "thing") and thing == state.wanted and other == hero:
                weight = 9.0
            elif state.plot == "gift" and thing == state.wanted:
                weight = 0.0 if state.solved or other != state.friend else 14.0
            elif state.plot == "lost" and thing == state.wanted:
                weight = 8.0 if other == hero else 0.0
            elif state.quarrel and {holder, other} == {hero, state.friend}:
                weight = 1.0 if holder == hero else 0.0
            elif state.plot == "wish" and thing == state.wanted:
                weight = 0.3 if other == hero else 0.0
            elif state.owner[thing] == holder and not state.counts.get("give"):
                weight = 0.15 if state.feeling(holder) in ("happy", "calm", "") else 0.0
            else:
                weight = 0.0
            if weight:
                cases.append((weight, "give", (holder, other, thing)))
    return (sum(c[0] for c in cases), cases) if cases else None


def after_give(state: State, args: tuple[str, ...]) -> None:
    giver, receiver, thing = args
    found = state.plot == "lost" and thing == state.wanted
    if not found:
        state.owner[thing] = receiver
    state.hold(thing, receiver)
    state.owed = (giver, receiver)
    state.promise = None
    if not found:
        state.feel(receiver, "happy", "gift", thing, giver)
    if state.quarrel and {giver, receiver} == {state.hero, state.friend}:
        state.quarrel = False
        state.solved = True
        state.feel(giver, "happy", "comforted", receiver)
    if (state.plot == "gift" and receiver == state.friend and thing == state.wanted) or (
        state.plot == "wish" and receiver == state.hero and thing == state.wanted
    ):
        state.solved = True


def share(state: State) -> Menu:
    here, cases = state.here(), []
    promised = state.promise
    for name, food in state.food.items():
        if name not in here or state.quarrel:
            continue
        for other in here:
            if other != name:
                if promised == (name, "food") and other == state.hero:
                    cases.append((9.0, "share", (name, other, food)))
                elif not promised:
                    cases.append((1.0, "share", (name, other, food)))
    return (sum(c[0] for c in cases), cases) if cases else None


def after_share(state: State, args: tuple[str, ...]) -> None:
    giver, receiver, food = args
    state.food.pop(giver, None)
    state.feel(giver, "happy", "fed", food)
    state.feel(receiver, "happy", "fed", food)
    state.owed = (giver, receiver)
    if state.promise and state.promise[1] == "food":
        state.promise = None
    if state.plot == "hungry" and receiver == state.hero:
        state.solved = True


def mend(state: State) -> Menu:
    here, cases = state.here(), []
    for thing in state.adjective:
        if thing in state.broken and state.owner[thing] in here:
            for name in here:
                if state.promise and state.promise[1] == "mend":
                    weight = 9.0 if state.promise[0] == name else 0.0
                else:
                    weight = 0.4 if name == state.hero or name in state.asked else 0.8
                if weight:
                    cases.append((weight, "mend", (name, thing)))
    return (sum(c[0] for c in cases), cases) if cases else None


def after_mend(state: State, args: tuple[str, ...]) -> None:
    who, thing = args
    owner = state.owner[thing]
    state.broken.discard(thing)
    state.feel(owner, "happy", "mended", thing)
    state.promise = None
    if owner != who:
        state.owed = (who, owner)
    if state.plot == "broken" and thing == state.wanted:
        state.solved = True


def thank(state: State) -> Menu:
    if not state.owed:
        return None
    giver, receiver = state.owed
    here = state.here()
    if giver not in here or receiver not in here:
        return None
    return 6.0, [(1.0, "thank", (receiver,))]


def after_thank(state: State, args: tuple[str, ...]) -> None:
    state.owed = None


def comfort(state: State) -> Menu:
    """The kind word: somebody who is not low themselves sees somebody who is."""
    if state.owed:
        return None
    here, cases = state.here(), []
    for low in here:
        if state.feeling(low) not in ("sad", "cross"):
            continue
        cause = state.mood[low]
        for other in here:
            if other == low or state.feeling(other) in ("sad", "cross") or other in cause[2]:
                continue
            cases.append((1.0, "comfort", (other, low)))
    return (1.5 * fading(state, "comfort"), cases) if cases else None


def after_comfort(state: State, args: tuple[str, ...]) -> None:
    other, low = args
    state.feel(low, "happy", "comforted", other)
    state.owed = (other, low)


RULES: RuleTable = {
    "ask": ask, "reply": reply, "give": give, "share": share, "mend": mend,
    "thank": thank, "comfort": comfort,
}  # fmt: skip
EFFECTS: EffectTable = {
    "ask.lost": after_ask,
    "ask.mend": after_ask,
    "ask.food": after_ask,
    "ask.thing": after_ask,
    "ask.sorry": after_ask,
    "reply.yes": after_yes,
    "reply.no": after_no,
    "give": after_give,
    "share": after_share,
    "mend": after_mend,
    "thank": after_thank,
    "comfort": after_comfort,
}
