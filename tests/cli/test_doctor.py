"""`llmcourse doctor`: each check passes here and fails where it should."""

from __future__ import annotations

import math
from importlib.metadata import PackageNotFoundError

import pytest

from llmcourse.cli import doctor
from llmcourse.cli.doctor import BAND, Sick


@pytest.mark.slow
def test_this_machine_is_well(llmcourse):
    answer = llmcourse("doctor", "--device", "cpu")
    assert answer.code == 0, answer.out
    assert answer.out.count("ok  ") == 7
    assert "FAIL" not in answer.out
    assert "Start with: llmcourse lab" in answer.out


def test_one_failure_is_told_and_the_others_still_run(llmcourse, monkeypatch):
    monkeypatch.setattr(doctor, "check_training", lambda name: "skipped")
    monkeypatch.setattr(doctor, "check_kernel", lambda: "skipped")

    def broken() -> str:
        raise RuntimeError("something\nunforeseen")

    monkeypatch.setattr(doctor, "check_offline", broken)
    answer = llmcourse("doctor", "--device", "cuda" if not _cuda() else "mps")
    assert answer.code == 1
    lines = answer.out.splitlines()
    assert [line[:4].strip() for line in lines[:7]] == [
        "ok",
        "ok",
        "FAIL",
        "FAIL",
        "ok",
        "ok",
        "ok",
    ]
    assert "--device auto" in lines[2]
    assert lines[3].endswith("RuntimeError: something unforeseen")
    assert "2 of 7 checks failed" in answer.out


@pytest.mark.parametrize("release", [(3, 10), (3, 14), (2, 7)])
def test_another_python_is_refused(release):
    with pytest.raises(Sick, match=r"3\.11, 3\.12 or 3\.13"):
        doctor.check_python(release)


def test_packages_are_held_against_the_pins(monkeypatch):
    pins = doctor.read_pins()
    assert pins["torch"].count(".") == 2
    assert "all as pinned" in doctor.check_packages(pins)
    assert "numpy" in doctor.check_packages(pins | {"numpy": "1.0"}).split("other than pinned")[1]
    assert "no pins here" in doctor.check_packages({})
    real = doctor.version

    def without_tiktoken(name: str) -> str:
        if name == "tiktoken":
            raise PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(doctor, "version", without_tiktoken)
    with pytest.raises(Sick, match=r"missing: tiktoken; .*make lab"):
        doctor.check_packages(pins)


def test_the_core_is_what_the_project_asks_for():
    import tomllib
    from pathlib import Path

    from packaging.requirements import Requirement

    root = Path(__file__).resolve().parents[2]
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert set(doctor.CORE) == {Requirement(text).name for text in project["dependencies"]}


def test_a_home_that_cannot_be_written(monkeypatch, tmp_path):
    monkeypatch.setenv("LLMCOURSE_HOME", str(tmp_path / "home"))
    assert str(tmp_path / "home") in doctor.check_home()
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LLMCOURSE_HOME", str(tmp_path / "file" / "home"))
    with pytest.raises(Sick, match="LLMCOURSE_HOME"):
        doctor.check_home()


def test_a_kernel_that_finds_another_course(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor.paths, "__file__", str(tmp_path / "paths.py"))
    with pytest.raises(Sick, match="another llmcourse"):
        doctor.check_kernel()


@pytest.mark.parametrize("end", [3.1, 5.5, 1.0, math.nan, math.inf])
def test_a_training_outside_the_band_is_seen(end):
    with pytest.raises(Sick, match="expected to end between"):
        doctor.judge([5.5] * 20 + [end] * 20, 9.0)


def test_a_training_inside_the_band_passes():
    middle = sum(BAND) / 2
    assert f"5.50 to {middle:.2f}" in doctor.judge([5.5] * 20 + [middle] * 20, 9.0)


def _cuda() -> bool:
    import torch

    return torch.cuda.is_available()
