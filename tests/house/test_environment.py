"""The files around the package: what tests, style and CI are told."""

from __future__ import annotations

import configparser
import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

ROOT = Path(__file__).resolve().parents[2]
SANITIZE = ROOT / "tests/notebooks/sanitize.cfg"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def sanitize_rules() -> dict[str, tuple[str, str]]:
    """As nbval reads them."""
    parser = configparser.ConfigParser()
    assert parser.read(SANITIZE)
    return {
        name: (parser.get(name, "regex"), parser.get(name, "replace")) for name in parser.sections()
    }


def test_pytest_reads_its_options_from_pyproject():
    options = PROJECT["tool"]["pytest"]["ini_options"]
    assert "--nbval-current-env" in options["addopts"]
    assert f"--nbval-sanitize-with={SANITIZE.relative_to(ROOT).as_posix()}" in options["addopts"]
    assert "--nbval-lax" not in options["addopts"]
    assert set(options["testpaths"]) == {"tests", "notebooks", "solutions", "exercises"}
    # A second file would win over pyproject.toml in silence.
    assert not [name for name in ("pytest.ini", "tox.ini", "setup.cfg") if (ROOT / name).exists()]


def test_every_sanitizing_rule_replaces_by_something_visible():
    rules = sanitize_rules()
    assert rules
    for name, (regex, replace) in rules.items():
        assert replace.strip(), name
        re.compile(regex)


@pytest.mark.parametrize(
    ("rule", "before", "after"),
    [
        ("memory-address", "<object at 0x7f3a2b1c9d40>", "<object at ADDRESS>"),
        ("widget-model", f'"model_id": "{"0af3" * 8}"', '"model_id": "WIDGET"'),
    ],
)
def test_a_sanitizing_rule_does_its_work(rule: str, before: str, after: str):
    regex, replace = sanitize_rules()[rule]
    assert re.sub(regex, replace, before) == after
    assert re.sub(regex, replace, "loss 1.60 after 0x10 steps") == "loss 1.60 after 0x10 steps"


def test_ruff_looks_at_the_notebooks():
    ruff = PROJECT["tool"]["ruff"]
    assert ruff["line-length"] == 100
    assert set(ruff["lint"]["select"]) == {"E", "F", "I", "UP", "B", "SIM", "C4", "RUF"}
    assert not any("ipynb" in pattern for pattern in ruff.get("extend-exclude", []))


def test_ci_calls_the_test_command():
    script = ROOT / ".ci/run"
    assert os.access(script, os.X_OK)
    text = script.read_text(encoding="utf-8")
    assert text.startswith("#!/usr/bin/env bash")
    assert "set -euo pipefail" in text
    assert "LLMCOURSE_REQUIRE_BROWSER=1" in text
    assert text.strip().splitlines()[-1] == "make test"
    assert subprocess.run(["bash", "-n", str(script)]).returncode == 0


def test_no_file_names_a_machine():
    files = ["Makefile", ".ci/run", "pyproject.toml", "constraints.txt", "environment.yml"]
    for name in files:
        text = (ROOT / name).read_text(encoding="utf-8")
        assert not re.search(r"https?://|/home/|/root/|/opt/|file:", text), name
        assert str(ROOT) not in text, name


def test_tests_stay_offline_and_leave_no_progress():
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE"):
        assert os.environ[name] == "1"
    assert os.environ["WANDB_MODE"] == "offline"
    home = Path(os.environ["LLMCOURSE_HOME"])
    assert not home.is_relative_to(Path("~/.cache").expanduser())


def test_quick_tests_run_first_and_browsers_last(pytester: pytest.Pytester):
    pytester.makeconftest((ROOT / "conftest.py").read_text(encoding="utf-8"))
    folders = ["browser", "notebooks", "grading", "model", "house", "cli"]
    for folder in folders:
        path = pytester.mkdir(f"tests_{folder}") / f"test_{folder}.py"
        path.write_text("def test_it(): pass\n")
    # The names of the course's own folders, one level down as there.
    (pytester.path / "tests").mkdir()
    for folder in folders:
        (pytester.path / f"tests_{folder}").rename(pytester.path / "tests" / folder)
    found = pytester.runpytest_inprocess("--collect-only", "-q", "-p", "no:nbval")
    names = [line.split("/")[1] for line in found.outlines if line.startswith("tests/")]
    assert names == ["house", "cli", "model", "grading", "notebooks", "browser"]
