"""The commands: each does what `make help` says, once, and is quick when nothing changed."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TARGETS = ["help", "lab", "test", "test-fast", "lint", "notebooks", "pins", "clean"]

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def make(
    *arguments: str, folder: Path = ROOT, check: bool = True, **environment: str
) -> subprocess.CompletedProcess[str]:
    # This test itself runs under make: what that one was told is no business of the inner one.
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))}
    done = subprocess.run(
        ["make", *arguments],
        cwd=folder,
        env=clean | environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    if check:
        assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of what the Makefile needs, in a folder whose name has spaces, with a fake Python.

    The fake records each call and, asked for a virtual environment, makes one whose python is the
    fake again: so the Makefile's own logic runs whole, and nothing is installed.
    """
    folder = tmp_path / "my llm course"
    folder.mkdir()
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, folder / name)
    fake = folder / "python"
    fake.write_text(
        "#!/bin/sh\n"
        f'echo "$@" >> "{folder}/calls"\n'
        'if [ "$1 $2" = "-m venv" ]; then\n'
        f'  mkdir -p "$3/bin"; cp "{fake}" "$3/bin/python"\n'
        "fi\n"
        'if [ "$1" = --version ]; then echo Python 3.12.0; fi\n'
    )
    fake.chmod(fake.stat().st_mode | stat.S_IXUSR)
    return folder


def calls(folder: Path) -> list[str]:
    """What the fake was asked since last time."""
    record = folder / "calls"
    lines = record.read_text().splitlines() if record.exists() else []
    record.unlink(missing_ok=True)
    return lines


def test_help_is_the_default_and_lists_every_target():
    shown = make().stdout
    assert shown == make("help").stdout
    for target in TARGETS:
        assert f"  make {target} " in shown


def test_help_is_quick():
    started = time.perf_counter()
    make()
    assert time.perf_counter() - started < 1


def test_lab_installs_the_core_once(checkout: Path):
    python = f"PYTHON={checkout / 'python'}"
    make("lab", python, folder=checkout)
    first = calls(checkout)
    assert [c for c in first if c.startswith("-m venv")] == ["-m venv .venv"]
    (install,) = [c for c in first if c.startswith("-m pip install")]
    assert install.endswith("-c constraints.txt -e .")
    assert first[-1] == "-m llmcourse lab"
    # Again: nothing but the lab itself.
    started = time.perf_counter()
    make("lab", python, folder=checkout)
    assert time.perf_counter() - started < 1
    assert calls(checkout) == ["-m llmcourse lab"]


def test_test_adds_the_tools_and_runs_everything(checkout: Path):
    python = f"PYTHON={checkout / 'python'}"
    make("test", python, "PYTEST_ARGS=-x", folder=checkout)
    first = calls(checkout)
    (install,) = [c for c in first if c.startswith("-m pip install")]
    assert install.endswith("-c constraints.txt -e .[all]")
    assert first[-3:] == ["-m ruff check .", "-m ruff format --check .", "-m pytest --nbval -x"]
    # What `make lab` needs came with it.
    make("lab", python, folder=checkout)
    assert calls(checkout) == ["-m llmcourse lab"]


def test_a_changed_pin_installs_again(checkout: Path):
    python = f"PYTHON={checkout / 'python'}"
    make("lab", python, folder=checkout)
    calls(checkout)
    later = time.time() + 5
    os.utime(checkout / "constraints.txt", (later, later))
    make("lab", python, folder=checkout)
    again = calls(checkout)
    assert len([c for c in again if c.startswith("-m pip install")]) == 1
    assert not [c for c in again if c.startswith("-m venv")]


def test_a_failed_install_is_tried_again(checkout: Path):
    fake = checkout / "python"
    good = fake.read_text()
    fake.write_text(good + 'case "$*" in *"pip install"*) exit 1;; esac\n')
    assert make("lab", f"PYTHON={fake}", folder=checkout, check=False).returncode != 0
    assert "-m llmcourse lab" not in calls(checkout)
    (checkout / ".venv/bin/python").write_text(good)
    make("lab", f"PYTHON={fake}", folder=checkout)
    assert [c for c in calls(checkout) if "pip install" in c]


def test_pip_args_and_lab_args_go_through(checkout: Path):
    python = f"PYTHON={checkout / 'python'}"
    make("lab", python, "PIP_ARGS=--no-cache-dir", "LAB_ARGS=--port 9000", folder=checkout)
    made = calls(checkout)
    assert any("--no-cache-dir" in c for c in made if "pip install" in c)
    assert made[-1] == "-m llmcourse lab --port 9000"


def test_without_a_fitting_python_the_message_says_what_to_do(checkout: Path):
    done = make("lab", "PYTHON=/nowhere/python3.9", folder=checkout, check=False)
    assert done.returncode != 0
    assert "Python 3.11, 3.12 or 3.13" in done.stderr
    assert "make PYTHON=" in done.stderr
    assert not (checkout / ".venv").exists()


def test_an_old_python_is_passed_over(checkout: Path):
    # On the path: a python3 that is too old, and a python3.12 that fits.
    tools = checkout / "tools"
    tools.mkdir()
    for tool in ("make", "sh", "echo", "cp", "mkdir", "touch", "rm"):
        found = shutil.which(tool)
        if found:
            (tools / tool).symlink_to(found)
    (tools / "python3").write_text("#!/bin/sh\nexit 1\n")
    shutil.copy(checkout / "python", tools / "python3.12")
    (tools / "python3").chmod(0o755)
    shown = make("lab", folder=checkout, PATH=str(tools)).stdout
    assert "Python 3.12.0" in shown


@pytest.mark.parametrize("code", ["(3, 10, 9)", "(3, 14, 0)", "(2, 7, 18)"])
def test_the_version_test_refuses(code: str):
    line = next(
        line for line in (ROOT / "Makefile").read_text().splitlines() if line.startswith("suits=")
    )
    program = line.split("'")[1].replace("sys.version_info[:2]", f"{code}[:2]")
    assert subprocess.run([sys.executable, "-c", program]).returncode == 1
    real = line.split("'")[1]
    assert subprocess.run([sys.executable, "-c", real]).returncode == 0
