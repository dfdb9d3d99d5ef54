"""`llmcourse grade` and `llmcourse progress`."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from llmcourse.grading.progress import Progress

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_grade_prints_and_writes_the_gradebook(llmcourse, tmp_path):
    book = tmp_path / "gradebook.csv"
    answer = llmcourse("grade", ROOT / "solutions/part01.ipynb", "--out", book)
    assert answer.code == 0, answer.err
    with book.open() as lines:
        header, row = list(csv.reader(lines))
    assert header[0] == "submission"
    assert header[-2:] == ["points", "of"]
    assert row[-2] == row[-1] != "0"
    assert f"{row[-2]} of {row[-1]} points" in answer.out


@pytest.mark.slow
def test_nobody_gets_points_for_nothing(llmcourse, tmp_path):
    file = tmp_path / "result.json"
    answer = llmcourse("grade", ROOT / "exercises/part01.ipynb", "--out", file)
    assert answer.code == 0, answer.err
    (total,) = json.loads(file.read_text())["totals"].values()
    assert total["points"] == 0
    assert total["of"] > 0
    assert "not attempted" in answer.out


def test_grade_mistakes(mistake, tmp_path):
    notebook = ROOT / "exercises/part01.ipynb"
    assert "paths" in mistake("grade")
    assert "no notebook or folder nowhere.ipynb" in mistake("grade", "nowhere.ipynb")
    assert "timeout=0" in mistake("grade", notebook, "--timeout", "0")
    assert "must end in .csv or .json" in mistake("grade", notebook, "--out", "grades.xls")
    assert "did you mean '--timeout'" in mistake("grade", notebook, "--timeot", "3")
    assert "no notebooks" in mistake("grade", tmp_path)


def test_progress_shows_what_is_remembered(llmcourse, tmp_path, monkeypatch):
    monkeypatch.setenv("LLMCOURSE_HOME", str(tmp_path))
    fresh = llmcourse("progress")
    assert fresh.code == 0
    assert "Next: 1.1" in fresh.out
    progress = Progress.load()
    progress.record("1.1", "passed", "")
    progress.save()
    later = llmcourse("progress").out
    assert later != fresh.out
    assert "Next: 1.1" not in later
    assert "[....................]  0 of" in fresh.out
    (tmp_path / "progress.json").write_text("{")
    assert "damaged" in llmcourse("progress").out
