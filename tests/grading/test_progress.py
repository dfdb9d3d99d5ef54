"""What is remembered of a learner's work, and what never stops a check."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from llmcourse.grading import Progress, check, progress
from llmcourse.grading.core import CheckFailed, NotAttempted
from llmcourse.grading.records import PARTS, exercises, find


@pytest.fixture
def learning(monkeypatch, tmp_path):
    """A learner's session: neither a test nor CI."""
    monkeypatch.setattr(progress, "enabled", lambda: True)
    monkeypatch.setenv("LLMCOURSE_HOME", str(tmp_path))
    return tmp_path / "progress.json"


def test_attempts_count_until_the_first_right_answer(learning, learner):
    solution = learner.solution(find("1.9"))
    with pytest.raises(NotAttempted):
        check("1.9", None)
    for _ in range(2):
        with pytest.raises(CheckFailed):
            check("1.9", lambda x: x)
    check("1.9", solution)
    first = Progress.load().entries["1.9"]
    assert first.attempts == 3
    assert first.passed is not None
    with pytest.raises(CheckFailed):
        check("1.9", lambda x: x)
    after = Progress.load().entries["1.9"]
    assert (after.attempts, after.passed) == (3, first.passed)
    assert after.message.startswith("1.9 GELU: not right yet")
    assert json.loads(learning.read_text())["version"] == 1


def test_the_table_says_what_comes_next(learning, learner):
    empty = str(Progress.load())
    assert f"Part 1  [....................]  0 of {len(exercises(1))} exercises" in empty
    assert "Next: 1.1 sinusoidal positions (about 15 minutes) in exercises/part01.ipynb" in empty
    check("1.1", learner.solution(find("1.1")))
    with pytest.raises(CheckFailed):
        check("1.2", lambda x: x)
    text = str(Progress.load())
    assert "Part 1  [#..................." in text
    assert "Next: 1.2 a softmax that does not overflow (about 10 minutes, 1 try so far)" in text
    done = Progress()
    for part in PARTS:
        for exercise in exercises(part):
            done.record(exercise.id, "passed", "")
    assert "All exercises are solved" in str(done)
    assert "[####################]" in str(done)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"exercises": []}',
        '{"exercises": {"1.1": 3}}',
        '{"exercises": {"1.1": {"attempts": "many"}}}',
        '{"exercises": {"1.1": {"unknown": 1}}}',
        "\xff\xfe".encode("latin-1"),
    ],
)
def test_a_damaged_file_is_set_aside_and_reported(learning, learner, capsys, text):
    learning.write_bytes(text if isinstance(text, bytes) else text.encode())
    before = learning.read_bytes()
    check("1.9", learner.solution(find("1.9")))
    out = capsys.readouterr().out
    assert "The progress file was damaged; it now lies at" in out
    assert out.endswith("1.9 GELU: right (1 point).\n")
    assert learning.with_name("progress.damaged-1.json").read_bytes() == before
    assert Progress.load().passed("1.9")
    learning.write_text("again")
    assert "damaged-2" in (Progress.load().notice or "")


def test_a_disk_that_refuses_does_not_stop_a_check(learning, learner, capsys, monkeypatch):
    def refuse(*arguments):
        raise OSError("no space left on the device")

    monkeypatch.setattr(progress, "atomic_write", refuse)
    check("1.9", learner.solution(find("1.9")))
    out = capsys.readouterr().out
    assert "Progress could not be saved: no space left" in out
    assert "right (1 point)" in out
    monkeypatch.setenv("LLMCOURSE_HOME", "/dev/null/home")
    check("1.9", learner.solution(find("1.9")))
    assert "could not be saved" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, True),
        ({"LLMCOURSE_PROGRESS": "off"}, False),
        ({"LLMCOURSE_PROGRESS": "OFF"}, False),
        ({"CI": "true"}, False),
        ({"PYTEST_CURRENT_TEST": "x"}, False),
        ({"LLMCOURSE_PROGRESS": "on"}, True),
    ],
)
def test_only_a_learners_session_is_remembered(variables, expected):
    names = ("LLMCOURSE_PROGRESS", "CI", "PYTEST_CURRENT_TEST")
    environment = {k: v for k, v in os.environ.items() if k not in names}
    code = "from llmcourse.grading import progress; import sys; print(progress.enabled());"
    code += "print('torch' in sys.modules)"
    out = subprocess.run(
        [sys.executable, "-c", code],
        env={**environment, **variables},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert out == [str(expected), "False"]  # and asking costs no import of torch


def test_nothing_is_written_by_this_test_run(learner, tmp_path, monkeypatch):
    monkeypatch.setenv("LLMCOURSE_HOME", str(tmp_path))
    check("1.9", learner.solution(find("1.9")))
    assert list(tmp_path.iterdir()) == []
