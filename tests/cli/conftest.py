"""How the tests of the command line call it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from llmcourse.cli import main


@dataclass(frozen=True)
class Answer:
    code: int
    out: str
    err: str


@pytest.fixture
def llmcourse(capsys: pytest.CaptureFixture[str]) -> Callable[..., Answer]:
    """Call the command in this process: quick, and exceptions that escape fail the test."""

    def call(*arguments: object) -> Answer:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Answer(code, captured.out, captured.err)

    return call


@pytest.fixture
def mistake(llmcourse: Callable[..., Answer]) -> Callable[..., str]:
    """Call it wrongly: one line, exit code 2, nothing on stdout that pretends success."""

    def call(*arguments: object) -> str:
        answer = llmcourse(*arguments)
        assert answer.code == 2, answer
        assert answer.err.startswith("error: ")
        assert answer.err.count("\n") == 1, answer.err
        assert "Traceback" not in answer.err
        return answer.err

    return call


def python(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A fresh interpreter that finds the package under test."""
    root = str(Path(__file__).resolve().parents[2])
    return subprocess.run(
        [sys.executable, *arguments],
        env=os.environ | {"PYTHONPATH": root} | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.fixture(name="python")
def python_fixture() -> Callable[..., subprocess.CompletedProcess[str]]:
    return python
