"""What an exercise is: inputs, an independent oracle, and the mistakes people really make.

A record knows nothing of notebooks; `core.check` turns it into feedback. The oracle is written in
plain loops or NumPy float64 and never calls what the exercise teaches, so a bug in the library
cannot hide in the grader too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from typing import Any

from llmcourse.errors import CourseError
from llmcourse.grading.inputs import Draw

Answer = Callable[..., Any]
Arguments = tuple[Any, ...]  # those of one call of an answer

PARTS = (1, 2, 3, 4, 5)  # the parts that have exercises; each is a package part01, part02, ...


class CheckFailed(CourseError):
    """An answer that is not right yet. The message is the whole feedback.

    Attributes:
        exercise: the exercise's id.
        broken: the property that broke, one line.
        misconception: the likely cause, or None when no known mistake fits.
    """

    def __init__(
        self, message: str, exercise: str = "", broken: str = "", misconception: str | None = None
    ) -> None:
        super().__init__(message)
        self.exercise = exercise
        self.broken = broken
        self.misconception = misconception

    def _render_traceback_(self) -> list[str]:
        # IPython shows these lines instead of a traceback: the checker's own frames help nobody.
        return [*str(self).splitlines()]


class NotAttempted(CourseError):
    """The answer is still the stub."""

    def _render_traceback_(self) -> list[str]:
        return [*str(self).splitlines()]


@dataclass(frozen=True, eq=False)
class WrongAnswer:
    """A mistake people really make, as a function, and the sentence that helps them out of it."""

    name: str
    function: Answer
    diagnosis: str


@dataclass(frozen=True)
class Property:
    """One thing every right answer does.

    `problem(got, args, call)` returns a sentence when it is broken, else None; `call(*args)` runs
    the answer on other inputs.
    """

    name: str
    problem: Callable[[Any, tuple[Any, ...], Answer], str | None]


@dataclass(frozen=True, eq=False)  # records are told apart by identity, and can be cache keys
class Exercise:
    """One graded exercise.

    Raises:
        ValueError: a field that the checker could not work with.
    """

    id: str  # "part.number", such as "1.3"
    title: str
    name: str  # the function the learner writes
    signature: str  # as in Python, with annotations
    taught: str  # where: the part and section's subject
    difficulty: int  # 1 (one line) to 5 (think first); also the points
    minutes: int  # minutes a first-time reader needs
    make_inputs: Callable[[Draw, int], tuple[Any, ...]]  # size 0 is the smallest
    oracle: Answer
    wrong_answers: tuple[WrongAnswer, ...]
    alternatives: tuple[Answer, ...]
    examples: tuple[tuple[Any, ...], ...]  # inputs worked out in the task's text
    properties: tuple[Property, ...] = ()
    forbidden: tuple[str, ...] = ()  # dotted names that would do the exercise by themselves
    sizes: int = 6
    tolerance: float = 1e-9  # of the largest expected magnitude, at least of 1
    any_float: bool = False  # the answer may be float32 or float64, whatever comes in
    statement: str = "the result equals the definition"  # what the oracle stands for
    arguments: tuple[str, ...] = field(init=False)  # names of the arguments, for messages

    def __post_init__(self) -> None:
        part, _, number = self.id.partition(".")
        if not (part.isdigit() and number.isdigit()):
            raise ValueError(f"id must look like 1.3, got {self.id!r}")
        if not 1 <= self.difficulty <= 5:
            raise ValueError(f"exercise {self.id}: difficulty is 1 to 5, got {self.difficulty}")
        if len(self.wrong_answers) < 3 or not self.alternatives or not self.examples:
            raise ValueError(
                f"exercise {self.id} needs three wrong answers, an alternative and an example"
            )
        inside = self.signature[self.signature.index("(") + 1 : self.signature.rindex(")")]
        names = tuple(_argument_names(inside))
        object.__setattr__(self, "arguments", names)

    @property
    def part(self) -> int:
        return int(self.id.partition(".")[0])

    @property
    def number(self) -> int:
        return int(self.id.partition(".")[2])

    @property
    def points(self) -> int:
        return self.difficulty

    def inputs(self, seed: int, size: int) -> tuple[Any, ...]:
        """The arguments of one case: the same for the same seed and size, for ever."""
        return self.make_inputs(Draw(f"{self.id}/{seed}/{size}"), size)


def _argument_names(inside: str) -> list[str]:
    names, depth, start = [], 0, 0
    for i, character in enumerate(inside + ","):
        depth += (character in "[(") - (character in "])")
        if character == "," and depth == 0:
            names.append(inside[start:i].partition(":")[0].partition("=")[0].strip())
            start = i + 1
    return [name for name in names if name.isidentifier()]


@cache
def exercises(part: int) -> tuple[Exercise, ...]:
    """All exercises of a part, in order.

    Raises:
        ValueError: the part has none.
    """
    if part not in PARTS:
        raise ValueError(f"part {part} has no exercises; parts with exercises: {list(PARTS)}")
    return import_module(f"llmcourse.grading.part{part:02d}").EXERCISES


def find(exercise_id: str) -> Exercise:
    """The record of one exercise.

    Raises:
        ValueError: there is no such exercise; the message lists those that exist.
    """
    known: Sequence[Exercise] = ()
    part, _, number = str(exercise_id).partition(".")
    if part.isdigit() and number.isdigit():
        parts = [int(part)] if int(part) in PARTS else list(PARTS)
        known = [exercise for p in parts for exercise in exercises(p)]
        for exercise in known:
            if exercise.id == exercise_id:
                return exercise
    names = ", ".join(e.id for e in known) or 'they look like "1.3"'
    raise ValueError(f"there is no exercise {exercise_id!r}; {names}")
