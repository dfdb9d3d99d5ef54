"""The masters and the exercises as they are committed."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest

from llmcourse.grading import build
from llmcourse.grading.records import PARTS, exercises

ROOT = Path(__file__).resolve().parents[2]
EACH = pytest.mark.parametrize("part", PARTS)


def read(folder, part):
    return nbformat.read(ROOT / folder / f"part{part:02d}.ipynb", as_version=4)


def marked(notebook):
    found = {c.metadata.nbgrader.grade_id: c for c in notebook.cells if "nbgrader" in c.metadata}
    assert len(found) == len(notebook.cells)
    return found


def test_exercises_are_fresh():
    assert build.stale(ROOT) == []
    assert {path.name for path in build.masters(ROOT)} == {f"part{p:02d}.ipynb" for p in PARTS}


@EACH
def test_each_exercise_has_its_cells_in_order(part):
    cells = marked(read("solutions", part))
    wanted = [
        f"{kind}-{part}-{exercise.number}"
        for exercise in exercises(part)
        for kind in ("task", "hints", "answer", "check")
    ]
    assert list(cells) == ["intro", "setup", *wanted, "end"]
    for exercise in exercises(part):
        name = f"{part}-{exercise.number}"
        answer, check = cells[f"answer-{name}"], cells[f"check-{name}"]
        assert dict(answer.metadata.nbgrader) == {
            "grade": False,
            "grade_id": f"answer-{name}",
            "locked": False,
            "schema_version": 3,
            "solution": True,
            "task": False,
        }
        assert dict(check.metadata.nbgrader) == {
            "grade": True,
            "grade_id": f"check-{name}",
            "locked": True,
            "points": exercise.points,
            "schema_version": 3,
            "solution": False,
            "task": False,
        }
        assert check.source == f'check("{exercise.id}", {exercise.name})'
        assert answer.source.startswith(f"def {exercise.name}(")
        task = cells[f"task-{name}"].source
        assert f"`{exercise.signature}`" in task
        assert f"Difficulty {exercise.difficulty} of 5" in task
        assert f"about {exercise.minutes} minutes" in task
        assert exercise.taught in task
        hints = cells[f"hints-{name}"].source
        assert re.findall(r"<summary>Hint (\d): ([\w ]+)</summary>", hints) == [
            ("1", "the idea"),
            ("2", "the formula"),
            ("3", "nearly code"),
        ]
        assert hints.count("<details>") == hints.count("</details>") == 3


@EACH
def test_solutions_were_run_and_all_are_right(part):
    cells = marked(read("solutions", part))
    code = [cell for cell in cells.values() if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    for exercise in exercises(part):
        (output,) = cells[f"check-{part}-{exercise.number}"].outputs
        assert output.output_type == "stream"
        assert output.text.startswith(f"{exercise.id} {exercise.title}: right (")
        assert "raises-exception" not in cells[f"check-{part}-{exercise.number}"].metadata.get(
            "tags", []
        )


@EACH
def test_exercises_are_unsolved_and_were_run(part):
    notebook = read("exercises", part)
    cells = marked(notebook)
    code = [cell for cell in cells.values() if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    for exercise in exercises(part):
        answer = cells[f"answer-{part}-{exercise.number}"]
        assert answer.source.endswith(build.STUB)
        assert answer.outputs == []
        check = cells[f"check-{part}-{exercise.number}"]
        (output,) = check.outputs
        assert output.ename == "NotAttempted"
        assert output.evalue == f"{exercise.id} {exercise.title}: not attempted yet."
        assert check.metadata.tags == ["raises-exception"]
    assert "SOLUTION" not in (ROOT / "exercises" / f"part{part:02d}.ipynb").read_text()


@EACH
@pytest.mark.parametrize("folder", ["solutions", "exercises"])
def test_nbgrader_accepts_the_metadata(part, folder):
    formats = pytest.importorskip("nbgrader.nbgraderformat")
    path = ROOT / folder / f"part{part:02d}.ipynb"
    notebook = formats.read(str(path), as_version=4)
    formats.MetadataValidator().validate_nb(notebook)
    graded = [cell for cell in notebook.cells if cell.metadata.nbgrader.grade]
    assert sum(cell.metadata.nbgrader.points for cell in graded) == sum(
        exercise.points for exercise in exercises(part)
    )


@EACH
def test_nbgrader_takes_out_the_same_solutions(part):
    preprocessors = pytest.importorskip("nbgrader.preprocessors")
    cleared = preprocessors.ClearSolutions(code_stub={"python": build.STUB}, enforce_metadata=False)
    notebook, _ = cleared.preprocess(read("solutions", part), {})
    for theirs, ours in zip(notebook.cells, read("exercises", part).cells):
        assert theirs.source == ours.source


@EACH
def test_links_in_the_table_of_contents_have_targets(part):
    text = "\n".join(cell.source for cell in read("solutions", part).cells)
    wanted = re.findall(r"\]\(#([\w-]+)\)", text)
    assert len(wanted) == len(exercises(part))
    assert set(wanted) == set(re.findall(r'<a id="([\w-]+)">', text))
