"""Running one answer on one input, and saying which rule it breaks."""

from __future__ import annotations

import contextlib
import io
import linecache
import random
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from llmcourse.grading.guard import Guard, ShortcutUsed
from llmcourse.grading.records import Answer, Exercise, WrongAnswer
from llmcourse.grading.values import copy, difference, numbers, same

_PACKAGE = str(Path(__file__).resolve().parent.parent)
_STDLIB = sysconfig.get_path("stdlib")


@dataclass(frozen=True, eq=False)
class Case:
    """One input with its expected value."""

    arguments: tuple[Any, ...]
    expected: Any


@dataclass(frozen=True)
class Outcome:
    """What happened when an answer ran on one input."""

    value: Any = None
    error: BaseException | None = None
    place: str | None = None  # the line of the learner's code where the error arose
    printed: str = ""
    changed: str | None = None  # the name of an argument that was modified
    itself: str | None = None  # the name of an argument that came back as the result
    shortcut: str | None = None

    @property
    def stub(self) -> bool:
        """Whether nothing was attempted: NotImplementedError, None or an ellipsis."""
        if self.shortcut is not None:
            return False
        if self.error is not None:
            return isinstance(self.error, NotImplementedError)
        return self.value is None or self.value is ...


@dataclass(frozen=True)
class Problem:
    """A broken rule: `rule` in one line, `detail` with what came."""

    rule: str
    detail: str
    error: float  # relative to the expected magnitude; inf for a wrong kind, shape or dtype
    where: str = ""


def make_case(exercise: Exercise, arguments: tuple[Any, ...]) -> Case:
    """The input with what the oracle says about it; the oracle gets a copy of its own."""
    return Case(arguments, exercise.oracle(*copy(arguments)))


@lru_cache(maxsize=1024)
def drawn_case(exercise: Exercise, seed: int, size: int) -> Case:
    """The case of one seed and size; kept, since one answer is usually checked many times."""
    return make_case(exercise, exercise.inputs(seed, size))


@lru_cache(maxsize=1024)
def example_cases(exercise: Exercise) -> tuple[Case, ...]:
    """The worked examples of the task's text."""
    return tuple(make_case(exercise, example) for example in exercise.examples)


@lru_cache(maxsize=8192)
def known_outcome(exercise: Exercise, wrong: WrongAnswer, case: Case) -> Outcome:
    """What a known wrong answer does on a case."""
    return run(exercise, wrong.function, case)


def run(exercise: Exercise, answer: Answer, case: Case, guard: Guard | None = None) -> Outcome:
    """Run an answer on a copy of the input, under the guard if there is one."""
    given = copy(case.arguments)
    printed = io.StringIO()
    value: Any = None
    try:
        with contextlib.redirect_stdout(printed):
            if guard is None:
                value = answer(*given)
            else:
                with guard.watch():
                    value = answer(*given)
    except ShortcutUsed as refusal:
        return Outcome(shortcut=str(refusal))
    except Exception as error:
        shortcut = guard.used if guard else None
        return Outcome(
            error=error, place=_place(error), printed=printed.getvalue(), shortcut=shortcut
        )
    changed = itself = None
    for name, before, after in zip(exercise.arguments, case.arguments, given):
        if changed is None and not same(before, after):
            changed = name
        if value is after and isinstance(value, torch.Tensor | list | tuple):
            itself = name
    shortcut = guard.used if guard else None
    return Outcome(value, None, None, printed.getvalue(), changed, itself, shortcut)


def judge(exercise: Exercise, case: Case, outcome: Outcome, call: Answer) -> Problem | None:
    """The first rule that an outcome breaks, or None."""
    if outcome.shortcut:
        return Problem("the work is your own", _shortcut_text(outcome.shortcut), float("inf"))
    if outcome.error is not None:
        text = f"{type(outcome.error).__name__}: {_first_line(outcome.error)}"
        return Problem("the function runs without an error", text, float("inf"))
    if outcome.changed:
        detail = (
            f"`{outcome.changed}` is different after the call. Make a new tensor or list instead: "
            "+=, an assignment such as x[...] = y, and methods ending in _ write into their input"
        )
        return Problem("the arguments are left as they were", detail, float("inf"))
    found = difference(outcome.value, case.expected, exercise.any_float)
    if found.problem:
        rule = "the result has the right kind, shape and dtype"
        return Problem(rule, found.problem, float("inf"))
    if found.error <= exercise.tolerance:
        return None
    bad = [x for x in numbers(outcome.value) if x != x]
    if bad and not any(x != x for x in numbers(case.expected)):
        return Problem("the result holds no NaN", "NaN came", float("inf"), found.where)
    for rule in exercise.properties:
        text = _property_text(rule.problem, outcome.value, case.arguments, call)
        if text:
            return Problem(rule.name, text, found.error, found.where)
    return Problem(exercise.statement, "", found.error, found.where)


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Global generators in a known state within, and as they were afterwards."""
    before = torch.get_rng_state(), np.random.get_state(), random.getstate()
    torch.default_generator.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(before[0])
        np.random.set_state(before[1])
        random.setstate(before[2])


def _property_text(
    problem: Callable[..., str | None], got: Any, arguments: tuple[Any, ...], call: Answer
) -> str | None:
    # A property may call the answer on further inputs, where it may fail in any way at all.
    try:
        return problem(got, arguments, call)
    except Exception:
        return None


def _shortcut_text(name: str) -> str:
    if name.startswith("llmcourse"):
        return f"{name} from the course's own library did the work; write it yourself"
    return f"{name} does the whole exercise; write out what it does"


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:160] if lines else "(no message)"


def _place(error: BaseException) -> str | None:
    """The innermost line of the learner's own code in a traceback."""
    trace, place = error.__traceback__, None
    while trace is not None:
        filename = trace.tb_frame.f_code.co_filename
        foreign = filename.startswith((_PACKAGE, _STDLIB)) or "site-packages" in filename
        if not foreign and not filename.startswith("<frozen"):
            source = linecache.getline(filename, trace.tb_lineno).strip()
            function = trace.tb_frame.f_code.co_name
            place = f"line {trace.tb_lineno}, in {function}" + (f": {source}" if source else "")
        trace = trace.tb_next
    return place
