"""What a recipe states: a field that a config gains must leave every fingerprint as it is."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

from llmcourse.evidence.recipes import stated


@dataclass(frozen=True)
class Inner:
    width: int = 3


@dataclass(frozen=True)
class Outer:
    steps: int
    rate: float = 0.5
    name: str | None = None
    inner: Inner = field(default_factory=Inner)
    names: list = field(default_factory=list)


def test_defaults_go_unsaid_whatever_kind_they_are():
    assert stated(dataclasses.asdict(Outer(7)), Outer) == {"steps": 7}


def test_what_differs_is_said_whole():
    outer = Outer(7, rate=0.25, name="x", inner=Inner(4), names=["a"])
    said = {"steps": 7, "rate": 0.25, "name": "x", "inner": {"width": 4}, "names": ["a"]}
    assert stated(dataclasses.asdict(outer), Outer) == said


def test_what_is_of_no_kind_is_said():
    assert stated({"steps": 1, "other": 0, "none": None}, Outer) == {"steps": 1, "other": 0}
