"""Problems with worked steps: drawing them from a seed, and writing them down. Part 4.

The text has a line for the question, one for each step and one for the answer:

    Question: Ada has 47 coins. Ben gives her 85 more. How many coins does Ada have now?
    Step: 47 + 5 = 52
    Step: 52 + 80 = 132
    Answer: 132

Whoever wants special tokens around the steps finds them in `steps`, without the word before them.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from llmcourse.data.arithmetic.calculation import Calculation
from llmcourse.data.arithmetic.difficulty import Difficulty, as_difficulty
from llmcourse.data.arithmetic.stories import draw_story, read_story
from llmcourse.data.arithmetic.sums import KINDS, draw_sum, read_sum

QUESTION, STEP, ANSWER = "Question: ", "Step: ", "Answer: "
WORD_SHARE = 0.5  # of the problems that are told in words


@dataclass(frozen=True)
class Problem:
    """A question with its worked steps and its answer."""

    question: str
    steps: tuple[str, ...]  # "47 + 5 = 52"
    answer: int  # at least 1; never one of the question's numbers
    kind: str  # "sum", "difference", "product" or "word"
    key: str  # the calculation: the same for all problems with these numbers used in this way

    @property
    def prompt(self) -> str:
        """What a model is given to go on from: the question's line and its end."""
        return f"{QUESTION}{self.question}\n"

    @property
    def text(self) -> str:
        """The whole problem, a line for the question, for each step and for the answer."""
        steps = "".join(f"{STEP}{step}\n" for step in self.steps)
        return f"{self.prompt}{steps}{ANSWER}{self.answer}"


def solve(question: str) -> Calculation | None:
    """The calculation that a question asks for; None if it is none of ours.

    A question whose numbers run below zero on the way is none of ours either: nobody can give away
    more than there is.
    """
    calculation = read_sum(question) or read_story(question)
    if calculation is None or any(step.result < 0 for step in calculation.operations):
        return None
    # A question may hold no operation at all ("Ada has 3 balls. How many ... now?").
    return calculation if calculation.operations else None


def problem(seed: int, difficulty: int | Difficulty = 1) -> Problem:
    """The problem of this seed.

    Raises:
        ValueError: `seed` is no whole number, or there is no such level.
    """
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise ValueError(f"seed must be a whole number, got {seed!r}")
    return draw(random.Random(f"arithmetic problem {seed}"), as_difficulty(difficulty))


def sample(n: int, difficulty: int | Difficulty, generator: random.Random) -> list[Problem]:
    """`n` independent problems; at low levels some may come twice.

    Raises:
        ValueError: a negative number, no such level, or no `random.Random`.
    """
    if not isinstance(n, int) or isinstance(n, bool) or n < 0:
        raise ValueError(f"n must be a whole number of at least 0, got {n!r}")
    if not isinstance(generator, random.Random):
        raise ValueError(
            f"generator must be a random.Random, such as random.Random(0), got {generator!r}"
        )
    difficulty = as_difficulty(difficulty)
    return [draw(generator, difficulty) for _ in range(n)]


def draw(rng: random.Random, difficulty: Difficulty) -> Problem:
    """One problem: of the bare calculations each kind is as likely as the others.

    Drawn again, numbers and words together, until nothing falls below 1 on the way, no number of
    the question is the answer, and so nothing is given away.
    """
    kind = "word" if rng.random() < WORD_SHARE else rng.choice(KINDS)
    while True:
        if kind == "word":
            question = draw_story(rng, difficulty)
            calculation = read_story(question)
        else:
            question = draw_sum(rng, kind, difficulty)
            calculation = read_sum(question)
        if any(step.result < 1 for step in calculation.operations):
            continue
        if calculation.answer in calculation.given:
            continue
        steps = tuple(map(str, calculation.steps))
        return Problem(question, steps, calculation.answer, kind, calculation.key)
