"""The dial: how long the numbers are and how many calculations a problem asks for. Part 4.

| level | digits | operations | digits of a factor |
|-------|--------|------------|--------------------|
| 1     | 1      | 1          | 1                  |
| 2     | 2      | 1          | 1                  |
| 3     | 2      | 2          | 1                  |
| 4     | 3      | 2          | 1                  |
| 5     | 3      | 3          | 2                  |
| 6     | 4      | 3          | 2                  |
| 7     | 4      | 4          | 2                  |
| 8     | 5      | 4          | 2                  |

No entry ever falls from one level to the next. Both kinds of problem read the table alike: a sum
has one operand more than it has operations, and a word problem tells as much as takes that many
operations to answer.
"""

from __future__ import annotations

from dataclasses import dataclass

MAX_DIGITS = 9  # the longest number that a question may name
MAX_OPERATIONS = 12


@dataclass(frozen=True)
class Difficulty:
    """What the dial stands for.

    Raises:
        ValueError: a number outside its range, or a factor longer than the other numbers.
    """

    digits: int  # of every number in the question that is no factor; 1 to 9
    operations: int  # additions, subtractions and multiplications asked for; 1 to 12
    factor_digits: int = 1  # of the number that another is multiplied by

    def __post_init__(self) -> None:
        limits = {"digits": MAX_DIGITS, "operations": MAX_OPERATIONS, "factor_digits": self.digits}
        for name, highest in limits.items():
            value = getattr(self, name)
            whole = isinstance(value, int) and not isinstance(value, bool)
            if not whole or not 1 <= value <= highest:
                raise ValueError(
                    f"{name} must be a whole number between 1 and {highest}, got {value!r}"
                )


LEVELS: dict[int, Difficulty] = {
    1: Difficulty(1, 1, 1),
    2: Difficulty(2, 1, 1),
    3: Difficulty(2, 2, 1),
    4: Difficulty(3, 2, 1),
    5: Difficulty(3, 3, 2),
    6: Difficulty(4, 3, 2),
    7: Difficulty(4, 4, 2),
    8: Difficulty(5, 4, 2),
}


def as_difficulty(difficulty: int | Difficulty) -> Difficulty:
    """The difficulty of a level, or the difficulty itself.

    Raises:
        ValueError: there is no such level.
    """
    if isinstance(difficulty, Difficulty):
        return difficulty
    whole = isinstance(difficulty, int) and not isinstance(difficulty, bool)
    if not whole or difficulty not in LEVELS:
        raise ValueError(
            f"difficulty must be a level from 1 to {max(LEVELS)} or a Difficulty,"
            f" got {difficulty!r}"
        )
    return LEVELS[difficulty]
