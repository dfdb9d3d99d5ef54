"""The command as a whole: help, mistakes, exit codes, and what it does not import."""

from __future__ import annotations

import pytest

import llmcourse as package
from llmcourse.cli import COMMANDS, main

HEAVY = {"torch", "numpy", "matplotlib", "jupyterlab", "transformers", "tensorflow"}


def test_help_names_every_command(llmcourse):
    for words in ([], ["--help"], ["-h"], ["help"]):
        answer = llmcourse(*words)
        assert answer.code == 0
        for name, what in COMMANDS.items():
            assert name in answer.out
            assert what in answer.out


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(llmcourse, name):
    with pytest.raises(SystemExit) as stop:
        main([name, "--help"])
    assert stop.value.code == 0


def test_version(llmcourse):
    assert llmcourse("--version").out == f"llmcourse {package.__version__}\n"


def test_an_unknown_command_names_the_nearest(mistake):
    assert "did you mean 'train'?" in mistake("trian")
    assert "commands: lab, doctor" in mistake("qqqq")


def test_traceback_shows_where_an_error_came_from():
    with pytest.raises(ValueError, match="no command"):
        main(["trian", "--traceback"])


@pytest.mark.parametrize(
    "arguments", [["--help"], ["where", "attend"], ["lab", "--port", "0"], ["whree"]]
)
def test_quick_commands_import_nothing_heavy(python, arguments):
    program = (
        "import sys\n"
        "from llmcourse.cli import main\n"
        f"main({arguments!r})\n"
        f"print('HEAVY', sorted({HEAVY} & set(sys.modules)))"
    )
    done = python("-c", program)
    assert done.stdout.splitlines()[-1] == "HEAVY []", done.stdout + done.stderr


def test_as_a_module(python):
    done = python("-m", "llmcourse", "where", "gelu")
    assert done.returncode == 0
    assert done.stdout.startswith("gelu ")
    done = python("-m", "llmcourse", "trian")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: there is no command 'trian'; did you mean 'train'?\n"


def test_evidence_names_the_nearest(mistake):
    assert "did you mean 'part02'?" in mistake("evidence", "part2")
    assert "name" in mistake("evidence")
