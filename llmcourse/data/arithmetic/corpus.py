"""The corpus "arithmetic": distinct problems, some calculations held out altogether. Part 4.

What is held out is the *calculation*, by its hash: if 47 + 85 is, then no training problem asks for
it, as a bare sum, turned round as 85 + 47, or told about whatever people and things. Remembering
cannot help. (The small steps on the way, such as 47 + 5 = 52, are what there is to learn; they
occur in both parts.)
"""

from __future__ import annotations

import random

from llmcourse.data.arithmetic.difficulty import LEVELS, as_difficulty
from llmcourse.data.arithmetic.problems import Problem, draw
from llmcourse.data.corpus import Corpus, held_out

HELD_OUT_SHARE = 0.1  # of the calculations
PATIENCE = 2_000  # draws in a row that bring nothing new before we say that there is no more


def is_held_out(problem: Problem) -> bool:
    """Whether a problem belongs to validation: decided by what is calculated and nothing else."""
    return held_out(f"arithmetic:{problem.key}", HELD_OUT_SHARE)


def arithmetic_corpus(
    *,
    n_problems: int = 10_000,
    difficulty: int | tuple[int, int] = (1, 4),
    seed: int = 0,
    n_validation: int | None = None,
) -> Corpus:
    """Problems with worked steps, each a document, no question twice.

    Args:
        n_problems: distinct problems to train on.
        difficulty: a level, or the lowest and highest of a mixture of equal parts.
        seed: another seed, other problems; what is held out is the same for all.
        n_validation: distinct problems held out; by default a tenth of `n_problems`, at least one.

    Raises:
        ValueError: a number of problems is not positive, there is no such level, or there are not
            so many distinct problems.
    """
    n_validation = max(1, n_problems // 10) if n_validation is None else n_validation
    for name, value in (("n_problems", n_problems), ("n_validation", n_validation)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    levels = _levels(difficulty)
    rng = random.Random(f"arithmetic corpus {seed}")
    wanted = {False: n_problems, True: n_validation}
    found: dict[bool, dict[str, str]] = {False: {}, True: {}}  # held out? -> question -> text
    keys: dict[bool, set[str]] = {False: set(), True: set()}
    idle = 0
    while any(len(found[side]) < wanted[side] for side in found):
        drawn = draw(rng, as_difficulty(rng.choice(levels)))
        side = is_held_out(drawn)
        if len(found[side]) < wanted[side] and drawn.question not in found[side]:
            found[side][drawn.question] = drawn.text
            keys[side].add(drawn.key)
            idle = 0
            continue
        idle += 1
        if idle > PATIENCE:
            raise ValueError(
                f"found only {len(found[False]):,} of {n_problems:,} distinct problems to train on"
                f" and {len(found[True]):,} of {n_validation:,} to hold out at difficulty"
                f" {difficulty}; ask for fewer or raise the difficulty"
            )
    source = (
        f"Sums and word problems of difficulty {difficulty}, seed {seed}: {len(keys[False]):,}"
        f" distinct calculations to train on, {len(keys[True]):,} others held out; made by this"
        " package, under its licence."
    )
    train, validation = (tuple(found[side].values()) for side in (False, True))
    return Corpus("arithmetic", train, validation, source)


def _levels(difficulty: int | tuple[int, int]) -> range:
    pair = difficulty if isinstance(difficulty, list | tuple) else (difficulty, difficulty)
    if len(pair) != 2 or not all(level in LEVELS for level in pair) or pair[0] > pair[1]:
        raise ValueError(
            f"difficulty must be a level from 1 to {max(LEVELS)}, or the lowest and highest of"
            f" several such as (1, 4), got {difficulty!r}"
        )
    return range(pair[0], pair[1] + 1)
