"""Grading whole notebooks: honest ones, broken ones, and ones that take the process down."""

from __future__ import annotations

import csv
import io
import json

import nbformat
import pytest

from llmcourse.grading import grade
from llmcourse.grading.build import exercise_notebook
from llmcourse.grading.records import PARTS, exercises
from llmcourse.grading.report import Report, Row
from llmcourse.grading.session import exercises_of, plan

MOST = {part: sum(e.points for e in exercises(part)) for part in PARTS}


@pytest.fixture
def master(root):
    return lambda part: nbformat.read(root / f"solutions/part{part:02d}.ipynb", as_version=4)


def cell(notebook, name):
    return next(c for c in notebook.cells if c.metadata.get("nbgrader", {}).get("grade_id") == name)


def write(notebook, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, path)


def by_id(report, submission):
    return {row.exercise: row for row in report.rows if row.submission == submission}


@pytest.mark.slow
def test_a_class(tmp_path, master):
    """One folder, five submissions: each trouble costs its own exercise and no other."""
    write(master(1), tmp_path / "ada" / "part01.ipynb")
    write(exercise_notebook(master(1)), tmp_path / "ben" / "part01.ipynb")

    wrong = master(1)
    cell(
        wrong, "answer-1-3"
    ).source = (
        "def attention(q, k, v):\n    return torch.softmax(q @ k.T / q.shape[-1] ** 0.5, dim=0) @ v"
    )
    cell(wrong, "answer-1-2").source = "def softmax(x)\n    return x"  # a syntax error
    cell(wrong, "answer-1-9").source += "\nraise KeyError('afterwards')"
    cell(wrong, "answer-1-4").source = "def mask(t, s):\n    return None"  # another name
    wrong.cells.remove(cell(wrong, "answer-1-6"))
    wrong.cells.remove(cell(wrong, "check-1-7"))
    cell(wrong, "check-1-8").source = "print('1.8 LayerNorm: right (2 points).')"
    cell(wrong, "answer-1-8").source = "def layer_norm(x, weight, bias, eps):\n    return x"
    cell(wrong, "answer-1-11").source = "parameter_count = 124439808"
    write(wrong, tmp_path / "cleo" / "part01.ipynb")

    rough = master(1)
    cell(rough, "answer-1-2").source = "def softmax(x):\n    while True:\n        pass"
    cell(rough, "answer-1-3").source = "import os\nos._exit(3)"
    write(rough, tmp_path / "dan" / "part01.ipynb")

    (tmp_path / "eve").mkdir()
    (tmp_path / "eve" / "part01.ipynb").write_text('{"cells": [')
    (tmp_path / "eve" / ".ipynb_checkpoints").mkdir()
    (tmp_path / "eve" / ".ipynb_checkpoints" / "part01-checkpoint.ipynb").write_text("{}")

    report = grade(tmp_path, seed=4, timeout=10)
    totals = report.totals()
    assert totals["ada"] == (MOST[1], MOST[1])
    assert totals["ben"] == (0, MOST[1])
    assert {row.status for row in by_id(report, "ben").values()} == {"not attempted"}

    cleo = by_id(report, "cleo")
    assert cleo["1.3"].status == "failed"
    assert "query axis" in cleo["1.3"].misconception
    assert cleo["1.2"].status == "error"
    assert "SyntaxError (line 1)" in cleo["1.2"].message
    assert cleo["1.9"].status == "passed"  # what comes after the function does not matter
    assert cleo["1.4"].status == "missing"
    assert "no `causal_mask` is defined" in cleo["1.4"].message
    assert cleo["1.6"].status == "missing"
    assert cleo["1.7"].status == "passed"  # without its check cell
    assert cleo["1.8"].status == "failed"  # whatever it prints
    assert cleo["1.11"].status == "failed"
    assert cleo["1.10"].status == "passed"

    dan = by_id(report, "dan")
    assert dan["1.2"].status == "error"
    assert dan["1.2"].message == "no end after 10 seconds in its check: an infinite loop?"
    assert dan["1.3"].status == "error"
    assert "the process ended (exit code 3) during its answer cell" in dan["1.3"].message
    others = [row for name, row in dan.items() if name not in {"1.2", "1.3"}]
    assert all(row.status == "passed" for row in others)

    (eve,) = (row for row in report.rows if row.submission == "eve")
    assert eve.status == "error"
    assert "not a readable notebook" in eve.message

    lines = list(csv.DictReader(io.StringIO(report.gradebook())))
    assert [line["submission"] for line in lines] == ["ada", "ben", "cleo", "dan", "eve"]
    assert lines[0]["1.10"] == "3"
    assert lines[1]["points"] == "0"
    assert list(lines[0])[:3] == ["submission", "1.1", "1.2"]
    assert len(list(csv.DictReader(io.StringIO(report.to_csv())))) == len(report.rows)
    assert json.loads(report.to_json())["totals"]["ben"] == {"points": 0, "of": MOST[1]}
    assert "infinite loop" in str(report)
    assert report.misconceptions()[0][0] == "1.3"


def test_a_single_file_is_a_submission(tmp_path, master):
    notebook = master(2)
    notebook.cells = notebook.cells[:6]  # introduction, setup and the first exercise
    write(notebook, tmp_path / "part02.ipynb")
    before = (tmp_path / "part02.ipynb").read_bytes()
    report = grade(tmp_path / "part02.ipynb")
    rows = by_id(report, "part02")
    assert len(rows) == len(exercises(2))
    assert rows["2.1"].status == "passed"
    assert rows["2.2"].status == "missing"
    assert (tmp_path / "part02.ipynb").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["part02.ipynb"]


def test_bad_requests(tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        grade(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="holds no notebooks"):
        grade(tmp_path)
    with pytest.raises(ValueError, match="timeout must be a positive"):
        grade(tmp_path, timeout=0)
    with pytest.raises(ValueError, match="jobs must be a positive"):
        grade(tmp_path, jobs=0)
    empty = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1 + 1")])
    write(empty, tmp_path / "other.ipynb")
    (row,) = grade(tmp_path).rows
    assert row.status == "error"
    assert "no exercises in it" in row.message


def test_the_part_is_found_in_the_name_or_in_the_checks():
    check = nbformat.v4.new_code_cell('check("2.3", document_batch)')
    assert [e.part for e in exercises_of([], "part01_copy.ipynb")] == [1] * len(exercises(1))
    assert {e.part for e in exercises_of([check], "mine.ipynb")} == {2}
    assert exercises_of([], "mine.ipynb") == []


def test_each_check_stands_where_its_cell_stands():
    code = nbformat.v4.new_code_cell
    cells = [code("x = 1"), code('check("1.2", softmax)'), code("y = 2"), code("")]
    steps = plan(cells, list(exercises(1)[:3]))
    assert steps == [("cell", 0), ("check", "1.2"), ("cell", 2), ("check", "1.1"), ("check", "1.3")]


def test_a_row_has_a_known_status():
    with pytest.raises(ValueError, match="status must be one of"):
        Row("a", "b", "1.1", "t", "fine", 1, 1, "")
    assert str(Report(())) == "nothing was graded"
