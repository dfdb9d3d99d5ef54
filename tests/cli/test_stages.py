"""`llmcourse stages`: the list, the building and the report, with a stage that takes no time."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from llmcourse import stages
from llmcourse.cli import main
from llmcourse.errors import CheckpointError
from llmcourse.stages import Entry


class Measured:
    def __str__(self):
        return "the report"

    def markdown(self):
        return "| the | table |"


@pytest.fixture
def fake(monkeypatch):
    """A built stage; what was asked for is kept."""
    asked = []
    stage = SimpleNamespace(
        name="base",
        own=False,
        folder=Path("somewhere"),
        report=Measured(),
        model=SimpleNamespace(n_parameters=lambda: 1_234_567),
        notes={"seconds": 432.1, "versions": {"python": "3.11.7"}},
    )
    monkeypatch.setattr(stages, "build", lambda *a: asked.append(("build", *a)) or stage)
    monkeypatch.setattr(stages, "load", lambda *a: asked.append(("load", *a)) or stage)
    monkeypatch.setattr(stages, "report", lambda stage: Measured())
    return asked


def test_the_list_shows_every_stage(llmcourse):
    answer = llmcourse("stages", "list")
    assert answer.code == 0
    heading, *lines = answer.out.splitlines()
    assert heading.split() == ["name", "part", "parameters", "size", "state", "where"]
    for name in stages.NAMES:
        assert any(line.split()[0] == name for line in lines)
    assert llmcourse("stages").out == answer.out


def test_the_list_says_what_mends_a_stale_stage(llmcourse, monkeypatch):
    entries = [
        Entry("base", "a model", 4, 1_351_296, 2_900_000, Path("there/base"), True, "stale"),
        Entry("sft", "a model", 6, None, 0, None, False, "missing"),
    ]
    monkeypatch.setattr(stages, "overview", lambda: entries)
    lines = llmcourse("stages", "list").out.splitlines()
    assert lines[1].split("  ")[0] == "base"
    for word in ("1,351,296", "2.90 MB", "stale", "your own"):
        assert word in lines[1]
    assert lines[2].strip() == "make it anew with: llmcourse stages build base"
    assert "nowhere" in lines[3]
    assert lines[4].strip() == "make it anew with: llmcourse stages build sft"


def test_build_prints_the_report_of_what_was_saved(llmcourse, fake):
    answer = llmcourse("stages", "build", "base", "--out", "elsewhere")
    assert answer.code == 0
    assert fake == [("build", "base", "elsewhere")]
    assert "the report" in answer.out and "saved in somewhere" in answer.out
    llmcourse("stages", "build", "base")
    assert fake[-1] == ("build", "base", None)


def test_report_measures_the_stage_there_is(llmcourse, fake):
    out = llmcourse("stages", "report", "base").out
    assert fake == [("load", "base")]
    assert "1,234,567 parameters, comes with the course" in out
    assert "Python 3.11.7" in out
    assert out.endswith("the report\n")
    assert llmcourse("stages", "report", "base", "--markdown").out == "| the | table |\n"


def test_mistakes_are_one_line(mistake, monkeypatch):
    assert "there are: list, build, report" in mistake("stages", "lsit")
    assert "did you mean 'base'?" in mistake("stages", "build", "bsae")
    assert "did you mean 'base'?" in mistake("stages", "report", "bas")
    assert "name" in mistake("stages", "build")

    def damaged(name):
        raise CheckpointError("the stage 'base' cannot be read: x is damaged")

    monkeypatch.setattr(stages, "load", damaged)
    assert "x is damaged" in mistake("stages", "report", "base")


@pytest.mark.parametrize("action", ["list", "build", "report"])
def test_every_action_has_help(action):
    with pytest.raises(SystemExit) as stop:
        main(["stages", action, "--help"])
    assert stop.value.code == 0
