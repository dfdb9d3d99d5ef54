"""`llmcourse stages`: the models that later parts start from; list them, build one, measure one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llmcourse.cli.actions import choose_action
from llmcourse.options import read_options

ACTIONS = {
    "list": "what there is: size, where it comes from, whether it is of today's recipe",
    "build": "train one, save it, and measure what was saved; takes minutes",
    "report": "measure the one there is",
}


@dataclass(frozen=True)
class List:
    """List the course's models, and where each comes from."""


@dataclass(frozen=True)
class Build:
    """Train one of the course's models: llmcourse stages build base

    It takes the place of the one that comes with the course.
    """

    name: str  # base
    out: str | None = None  # the folder to write; null: runs/stages/NAME in the course's folder


@dataclass(frozen=True)
class Report:
    """Measure one of the course's models: llmcourse stages report base"""

    name: str  # base
    markdown: bool = False  # as tables, for a page of documentation


def run(argv: Sequence[str]) -> int:
    action, rest = choose_action("stages", ACTIONS, argv or ["list"])
    if action == "list":
        read_options(List, rest, "stages list")
        return _list()
    if action == "build":
        return _build(read_options(Build, rest, "stages build", positional="name"))
    return _report(read_options(Report, rest, "stages report", positional="name"))


def _list() -> int:
    from llmcourse import stages

    print(f"{'name':<10}{'part':<6}{'parameters':>11}{'size':>10}   {'state':<9}where")
    for entry in stages.overview():
        count = f"{entry.parameters:,}" if entry.parameters else "-"
        size = f"{entry.bytes / 1e6:.2f} MB" if entry.folder else "-"
        origin = "your own" if entry.own else "comes with the course"
        where = f"{origin}, {_short(entry.folder)}" if entry.folder else "nowhere"
        line = f"{entry.name:<10}{entry.part:<6}{count:>11}{size:>10}   {entry.state:<9}{where}"
        print(line)
        if entry.state != "current":
            print(f"{'':<10}make it anew with: llmcourse stages build {entry.name}")
    return 0


def _build(options: Build) -> int:
    from llmcourse import stages

    stage = stages.build(options.name, options.out)
    print(f"\n{stage.report}\n\nsaved in {stage.folder}")
    return 0


def _report(options: Report) -> int:
    from llmcourse import stages

    stage = stages.load(options.name)
    measured = stages.report(stage)
    if options.markdown:
        print(measured.markdown())
        return 0
    origin = "your own" if stage.own else "comes with the course"
    print(f"{stage.name}: {stage.model.n_parameters():,} parameters, {origin}")
    print(
        f"made in {stage.notes['seconds']:.0f} s from the corpora of Python "
        f"{stage.notes['versions']['python']}\n"
    )
    print(measured)
    return 0


def _short(folder: Path) -> Path:
    """Relative to where the reader is, where that is shorter."""
    here = Path.cwd()
    return folder.relative_to(here) if folder.is_relative_to(here) else folder
