"""From masters to exercises."""

from __future__ import annotations

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from llmcourse.grading import build


def marks(name, **changes):
    base = {"grade": False, "grade_id": name, "locked": True, "schema_version": 3}
    return {"nbgrader": {**base, "solution": False, "task": False, **changes}}


def small_master():
    answer = (
        "def gelu(x):\n    ### BEGIN SOLUTION\n    half = x / 2\n"
        "    return half * (1 + torch.erf(x / 2**0.5))\n    ### END SOLUTION"
    )
    return new_notebook(
        cells=[
            new_markdown_cell("# A master"),
            new_code_cell("import torch\n\nfrom llmcourse.grading import check"),
            new_code_cell(answer, metadata=marks("answer-1-9", locked=False, solution=True)),
            new_code_cell('check("1.9", gelu)', metadata=marks("check-1-9", grade=True, points=1)),
        ]
    )


def test_solutions_become_stubs_at_their_indentation():
    source = (
        "def f(x):\n    y = 1\n    ### BEGIN SOLUTION\n    z = 2\n    ### END SOLUTION\n    # end"
    )
    assert build.strip_solution(source) == (
        'def f(x):\n    y = 1\n    raise NotImplementedError("your code here")\n    # end'
    )
    two = "### BEGIN SOLUTION\n1\n### END SOLUTION\nx\n### BEGIN SOLUTION\n2\n### END SOLUTION"
    assert build.strip_solution(two) == f"{build.STUB}\nx\n{build.STUB}"


@pytest.mark.parametrize(
    "source",
    [
        "### BEGIN SOLUTION",
        "### END SOLUTION",
        "### BEGIN SOLUTION\n### BEGIN SOLUTION\n### END SOLUTION",
    ],
)
def test_unpaired_markers_are_refused(source):
    with pytest.raises(ValueError, match="SOLUTION"):
        build.strip_solution(source)


def test_a_solution_outside_an_answer_cell_is_refused():
    master = small_master()
    master.cells[1].source += "\n### BEGIN SOLUTION\n### END SOLUTION"
    with pytest.raises(ValueError, match="not an answer cell"):
        build.exercise_notebook(master)
    master = small_master()
    master.cells[2].source = "def gelu(x):\n    return x"
    with pytest.raises(ValueError, match="answer-1-9 has no"):
        build.exercise_notebook(master)


@pytest.mark.slow
def test_build_and_check(tmp_path, capsys):
    (tmp_path / "solutions").mkdir()
    with pytest.raises(ValueError, match=r"no solutions/partNN\.ipynb"):
        build.build(tmp_path)
    master = small_master()
    nbformat.write(master, tmp_path / "solutions" / "part01.ipynb")
    assert build.main(["--root", str(tmp_path), "--check"]) == 1
    assert "exercises/part01.ipynb is missing" in capsys.readouterr().err
    assert build.main(["--root", str(tmp_path)]) == 0
    path = tmp_path / "exercises" / "part01.ipynb"
    first = path.read_bytes()
    made = nbformat.read(path, as_version=4)
    assert [c.execution_count for c in made.cells if c.cell_type == "code"] == [1, 2, 3]
    (output,) = made.cells[3].outputs
    assert (output.ename, output.evalue) == ("NotAttempted", "1.9 GELU: not attempted yet.")
    assert output.traceback == ["1.9 GELU: not attempted yet."]
    assert made.cells[3].metadata.tags == ["raises-exception"]
    assert build.main(["--root", str(tmp_path), "--check"]) == 0
    build.build(tmp_path)
    assert path.read_bytes() == first

    # Each way of being out of date is noticed.
    made.cells[2].source += "\n# a hint for a friend"
    nbformat.write(made, path)
    assert build.stale(tmp_path) == [
        "exercises/part01.ipynb differs from what solutions/part01.ipynb gives"
    ]
    path.write_bytes(first)
    made = nbformat.read(path, as_version=4)
    made.cells[1].execution_count = None
    nbformat.write(made, path)
    assert "not executed" in build.stale(tmp_path)[0]
    path.write_bytes(first)
    (tmp_path / "exercises" / "part09.ipynb").write_bytes(first)
    assert build.stale(tmp_path) == ["exercises/part09.ipynb has no master in solutions/"]
