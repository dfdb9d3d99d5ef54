"""Generates `exercises/` from `solutions/`: `python -m llmcourse.grading.build [--check]`.

A solution notebook is the master. Its answer cells hold the solution between `### BEGIN SOLUTION`
and `### END SOLUTION`; here those lines become `raise NotImplementedError("your code here")`. The
cells that check an answer get the tag `raises-exception`, so that Run All goes on past what is not
attempted yet. The result is executed, so that a strict comparison of outputs has something to
compare. Cell metadata is nbgrader's (schema 3), so the same notebooks work in its workflow.
"""

from __future__ import annotations

import argparse
import copy
import os
import re
import sys
from pathlib import Path
from typing import Any

import nbformat

from llmcourse import paths
from llmcourse.files import atomic_write

STUB = 'raise NotImplementedError("your code here")'
BEGIN, END = "### BEGIN SOLUTION", "### END SOLUTION"
_METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"file_extension": ".py", "mimetype": "text/x-python", "name": "python"},
}


def strip_solution(source: str) -> str:
    """Replace each solution by the stub, at the indentation of its BEGIN line.

    Raises:
        ValueError: markers that do not pair up.
    """
    lines, kept, inside = source.splitlines(), [], False
    for line in lines:
        if line.strip() == BEGIN:
            if inside:
                raise ValueError(f"a second {BEGIN} before {END}")
            inside = True
            kept.append(line[: len(line) - len(line.lstrip())] + STUB)
        elif line.strip() == END:
            if not inside:
                raise ValueError(f"{END} without {BEGIN}")
            inside = False
        elif not inside:
            kept.append(line)
    if inside:
        raise ValueError(f"{BEGIN} without {END}")
    return "\n".join(kept)


def exercise_notebook(master: Any) -> Any:
    """The unsolved notebook, without outputs.

    Raises:
        ValueError: an answer cell without a solution to take out, or a solution elsewhere.
    """
    notebook = copy.deepcopy(master)
    notebook.metadata = nbformat.from_dict(_METADATA)
    for cell in notebook.cells:
        marks = cell.metadata.get("nbgrader", {})
        if marks.get("solution"):
            stripped = strip_solution(cell.source)
            if stripped == cell.source:
                raise ValueError(f"answer cell {marks.get('grade_id')} has no {BEGIN}")
            cell.source = stripped
        elif BEGIN in cell.source:
            raise ValueError(f"cell {cell.id} holds a solution and is not an answer cell")
        if marks.get("grade"):
            cell.metadata["tags"] = sorted({*cell.metadata.get("tags", []), "raises-exception"})
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    return notebook


def execute(notebook: Any, folder: Path) -> Any:
    """Run a notebook in a fresh kernel and keep what it says and nothing that varies."""
    from nbclient import NotebookClient

    before = os.environ.get("LLMCOURSE_PROGRESS")
    os.environ["LLMCOURSE_PROGRESS"] = "off"
    try:
        NotebookClient(
            notebook,
            timeout=120,
            kernel_name="python3",
            record_timing=False,
            coalesce_streams=True,
            resources={"metadata": {"path": str(folder)}},
        ).execute()
    finally:
        os.environ.pop("LLMCOURSE_PROGRESS")
        if before is not None:
            os.environ["LLMCOURSE_PROGRESS"] = before
    notebook.metadata = nbformat.from_dict(_METADATA)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        for output in cell.get("outputs", []):
            # An error's own lines are the message; the colours and frames of a kernel vary.
            if output.output_type == "error":
                output.traceback = [_plain(line) for line in output.traceback]
    return notebook


def _plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def write(notebook: Any, path: Path) -> None:
    nbformat.validate(notebook)
    atomic_write(path, nbformat.writes(notebook, version=4) + "\n")


def stale(root: Path) -> list[str]:
    """What is out of date in `exercises/`, one sentence each; empty when all is fresh."""
    problems = []
    names = {path.name for path in masters(root)}
    for extra in sorted((root / "exercises").glob("*.ipynb")):
        if extra.name not in names:
            problems.append(f"exercises/{extra.name} has no master in solutions/")
    for path in masters(root):
        target = root / "exercises" / path.name
        if not target.is_file():
            problems.append(f"exercises/{path.name} is missing")
            continue
        wanted = exercise_notebook(nbformat.read(path, as_version=4))
        found = nbformat.read(target, as_version=4)
        executed = all(c.execution_count for c in found.cells if c.cell_type == "code")
        if not executed:
            problems.append(f"exercises/{path.name} has cells that were not executed")
        if _sources(found) != _sources(wanted):
            problems.append(f"exercises/{path.name} differs from what solutions/{path.name} gives")
    return problems


def _sources(notebook: Any) -> list[Any]:
    cells = [(c.cell_type, c.id, c.source, dict(c.metadata)) for c in notebook.cells]
    return [dict(notebook.metadata), *cells]


def masters(root: Path) -> list[Path]:
    return sorted((root / "solutions").glob("part[0-9][0-9].ipynb"))


def build(root: Path) -> list[Path]:
    """Generate every exercise notebook; returns the files written.

    Raises:
        ValueError: there is no master, or one is malformed.
    """
    found = masters(root)
    if not found:
        raise ValueError(f"no solutions/partNN.ipynb under {root}")
    written = []
    for path in found:
        notebook = exercise_notebook(nbformat.read(path, as_version=4))
        target = root / "exercises" / path.name
        target.parent.mkdir(exist_ok=True)
        write(execute(notebook, target.parent), target)
        written.append(target)
    return written


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m llmcourse.grading.build", description=__doc__)
    parser.add_argument("--check", action="store_true", help="only say whether all is fresh")
    parser.add_argument("--root", type=Path, help="the checkout (default: the one around here)")
    options = parser.parse_args(arguments)
    root = options.root or paths.course_root()
    if root is None:
        print("no checkout with notebooks/ here; name it with --root", file=sys.stderr)
        return 2
    if options.check:
        problems = stale(root)
        for problem in problems:
            print(f"{problem}; run python -m llmcourse.grading.build", file=sys.stderr)
        return 1 if problems else 0
    for path in build(root):
        print(path.relative_to(root))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
