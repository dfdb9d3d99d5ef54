"""Answers as a learner would have them: the same functions in a module that is not the course's."""

from __future__ import annotations

import importlib
import inspect
import re
import types
from pathlib import Path

import nbformat
import pytest

from llmcourse.grading.records import find
from llmcourse.grading.values import copy, difference

ROOT = Path(__file__).resolve().parents[2]


class Learner:
    """`learner(function)` is the same function as somebody outside the package wrote it."""

    def __init__(self) -> None:
        self._modules: dict[str, types.ModuleType] = {}

    def __call__(self, function):
        module = self._modules.get(function.__module__)
        if module is None:
            source = inspect.getsource(importlib.import_module(function.__module__))
            module = types.ModuleType("learner")
            exec(compile(source, "<learner>", "exec"), module.__dict__)
            self._modules[function.__module__] = module
        return getattr(module, function.__name__)

    def solution(self, exercise):
        """The function that the answer cell of the master notebook defines."""
        key = f"solutions/part{exercise.part:02d}.ipynb"
        if key not in self._modules:
            module = types.ModuleType("learner")
            for cell in nbformat.read(ROOT / key, as_version=4).cells:
                if cell.cell_type == "code" and not re.match(r"check\(", cell.source):
                    exec(compile(cell.source, f"<{cell.id}>", "exec"), module.__dict__)
            self._modules[key] = module
        return getattr(self._modules[key], exercise.name)


@pytest.fixture(scope="session")
def learner():
    return Learner()


@pytest.fixture(scope="session")
def root():
    return ROOT


@pytest.fixture
def greatest_error():
    """How far a function of the library is from an exercise's oracle, over seeds and sizes."""

    def measure(exercise_id, function):
        exercise, errors = find(exercise_id), []
        for seed in range(3):
            for size in range(exercise.sizes):
                arguments = exercise.inputs(seed, size)
                got, expected = function(*copy(arguments)), exercise.oracle(*copy(arguments))
                errors.append(difference(got, expected, any_float=True).error)
        return max(errors)

    return measure
