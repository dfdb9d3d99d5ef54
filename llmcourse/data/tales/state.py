"""The state of a story: who is where, who has what, how people feel and why, what is unknown.

Taught in Part 2. Everything a reader knows after some sentences, plus a belief about what no
sentence has said yet. The hidden variables are where the lost thing lies and whether a person
has a kind heart; each is revealed only through the outcome of an event (a search, an answer).

The simulator and the reader run the very same rules. The simulator knows the truth, so its
beliefs are certainties; the reader's beliefs are distributions, updated by Bayes' rule. An
outcome has probability sum over values of belief(value) * P(outcome | value), and since every
outcome depends on one hidden variable and these are independent a priori, keeping one belief
for each is an exact forward filter: hidden state is summed out, not estimated.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llmcourse.data.tales.grammar import Event, Template
    from llmcourse.data.tales.world import World

# P(yes | kind heart) and P(yes | unkind heart): how a hidden trait shows itself.
YES = {True: 0.9, False: 0.2}
WHERE = "where the lost thing lies"


class State:
    """What is true so far. Mutable; `copy` before trying something out."""

    __slots__ = (
        "adjective",
        "asked",
        "belief",
        "broken",
        "bytes",
        "companion",
        "counts",
        "ended",
        "food",
        "fresh",
        "friend",
        "hero",
        "holder",
        "last",
        "lying",
        "mood",
        "n",
        "owed",
        "owner",
        "pair",
        "pending",
        "people",
        "phase",
        "place",
        "plot",
        "promise",
        "quarrel",
        "refers",
        "searched",
        "solved",
        "spots",
        "time",
        "told",
        "trade",
        "wanted",
        "weather",
        "world",
    )  # fmt: skip

    def __init__(self, world: World) -> None:
        self.world = world
        self.n = 0  # sentences so far
        self.bytes = 0  # bytes so far, with a space after each sentence
        self.phase = "open"  # open, plot, clue, body
        self.pending: tuple | None = None  # a question that waits for its answer
        self.ended = False
        self.last = ""  # kind of the last event
        self.counts: dict[str, int] = {}  # kind -> times it has happened
        # the cast
        self.hero = ""
        self.friend = ""  # whom a gift or a quarrel is about
        self.people: list[str] = []
        self.place: dict[str, str] = {}
        self.trade: dict[str, str] = {}
        self.companion = ""  # who walks with the hero
        # feelings: name -> (mood, cause, what or who)
        self.mood: dict[str, tuple[str, str, tuple[str, ...]]] = {}
        self.told: set[str] = set()  # whose present mood has been told
        self.quarrel = False
        self.asked: set[str] = set()
        self.promise: tuple[str, str] | None = None  # (who promised, what: thing, food, mend)
        self.owed: tuple[str, str] | None = None  # (giver, receiver): thanks are due
        # things
        self.owner: dict[str, str] = {}
        self.adjective: dict[str, str] = {}
        self.holder: dict[str, str] = {}
        self.lying: dict[str, str] = {}  # thing -> spot where somebody put it
        self.broken: set[str] = set()
        self.food: dict[str, str] = {}  # who has which food
        self.wanted = ""  # the thing (or food) that the story is about
        # the plot
        self.plot = ""
        self.solved = False
        self.weather = ""
        self.time = ""
        self.spots: tuple[str, ...] = ()  # where the lost thing may be
        self.searched: set[str] = set()
        # what he, she and they would refer to in the next sentence
        self.refers: dict[object, str] = {}  # True: she, False: he, "it": it
        self.pair: tuple[str, ...] = ()
        # hidden variable -> value -> probability; and those just born
        self.belief: dict[str, dict] = {}
        self.fresh: list[str] = []

    def copy(self) -> State:
        """An independent copy."""
        new = State.__new__(State)
        for slot in State.__slots__:
            value = getattr(self, slot)
            if isinstance(value, (dict, set, list)):
                value = value.copy()
            setattr(new, slot, value)
        return new

    # -- looking -------------------------------------------------------------------------------
    def here(self) -> list[str]:
        """People at the hero's place, in order of appearance."""
        at = self.place[self.hero]
        place = self.place
        return [name for name in self.people if place.get(name) == at]

    def feeling(self, name: str) -> str:
        return self.mood[name][0] if name in self.mood else ""

    def chance(self, variable: str, likelihood: dict) -> float:
        """Probability of an outcome whose likelihood for each hidden value is given."""
        return sum(p * likelihood[value] for value, p in self.belief[variable].items())

    # -- changing ------------------------------------------------------------------------------
    def hide(self, variable: str, prior: dict) -> None:
        """A hidden variable is born; the simulator will fix its value."""
        self.belief[variable] = prior
        self.fresh.append(variable)

    def learn(self, variable: str, likelihood: dict) -> None:
        """Bayes' rule. An impossible observation leaves the belief as it was."""
        belief = self.belief.get(variable)
        if belief is None:
            return
        joint = {value: p * likelihood[value] for value, p in belief.items()}
        total = sum(joint.values())
        if total > 0:
            self.belief[variable] = {value: p / total for value, p in joint.items()}

    def feel(self, name: str, mood: str, cause: str, *about: str) -> None:
        self.mood[name] = (mood, cause, about)
        self.told.discard(name)

    def enter(self, name: str, place: str | None) -> None:
        """Somebody comes into the story, with a heart nobody knows yet."""
        if name not in self.place:
            self.people.append(name)
        if place:
            self.place[name] = place
        if name != self.hero and name not in self.belief:
            rate = self.world.kind_rate
            self.hide(name, {True: rate, False: 1.0 - rate})

    def own(self, noun: str, adjective: str, owner: str, held: bool = True) -> None:
        self.owner[noun] = owner
        self.adjective[noun] = adjective
        if held:
            self.hold(noun, owner)

    def hold(self, noun: str, holder: str) -> None:
        self.holder[noun] = holder
        self.lying.pop(noun, None)

    def clear(self, template: Template, args: tuple[str, ...]) -> tuple[int, ...]:
        """Positions of the arguments that a pronoun would make clear in the next sentence.

        She is the last woman mentioned, he the last man, it the last thing; they are the two
        people of the story, or of the last sentence that named two. Nobody is clear in a sentence
        about two people of one gender.
        """
        female = self.world.grammar.female
        if template.pair:
            both = len(self.people) == 2 or self.pair == args[:2]
            found = [0, 1] if both else []
        else:
            found = []
        genders = [female[arg] for arg in args if arg in female]
        crowded = len(genders) != len(set(genders))
        for at in template.open:
            arg = args[at]
            if arg in female:
                if not template.pair and not crowded and self.refers.get(female[arg]) == arg:
                    found.append(at)
            elif self.refers.get("it") == arg:
                found.append(at)
        return tuple(found)

    def mention(self, thing: str) -> None:
        """From now on, it is this thing."""
        self.refers["it"] = thing

    def advance(self, event: Event, sentence: str) -> None:
        """Bookkeeping that every event shares: length, counts, and what pronouns refer to."""
        self.n += 1
        self.bytes += len(sentence) + 1
        kind = event.key.partition(".")[0]
        self.last = kind
        self.counts[kind] = self.counts.get(kind, 0) + 1
        grammar = self.world.grammar
        named = []
        for arg, type_ in zip(event.args, grammar.types[event.key], strict=True):
            if type_ == "person":
                named.append(arg)
            elif type_ == "thing":
                self.mention(arg)
        for name in reversed(named):  # the subject is mentioned last, so to speak
            self.refers[grammar.female[name]] = name
        if len(named) == 2:
            self.pair = tuple(sorted(named, key=self.people.index))
