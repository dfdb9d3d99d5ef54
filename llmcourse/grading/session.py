"""The process that runs one submitted notebook: `python -m llmcourse.grading.session`.

It runs the notebook's cells in order in one IPython shell, as Run All would, except for the check
cells: where those stand it runs `check` itself, on the function the notebook has defined by then.
Everything it finds goes line by line to a results file, so that whatever the submission does to
this process (an infinite loop, `os._exit`), the parent knows how far it got.
"""

from __future__ import annotations

import ast
import json
import re
import sys
from pathlib import Path
from typing import Any

import nbformat

from llmcourse.grading.core import assess
from llmcourse.grading.records import PARTS, Exercise, exercises

_CHECK = re.compile(r"""\bcheck\(\s*["'](\d+\.\d+)["']""")


def exercises_of(cells: list[Any], name: str) -> list[Exercise]:
    """The exercises a notebook is expected to answer: those of the parts it belongs to."""
    parts = {int(found) for found in re.findall(r"part0*(\d+)", name.lower())}
    if not parts & set(PARTS):
        ids = [match.group(1) for cell in cells for match in _CHECK.finditer(cell.source)]
        parts = {int(found.partition(".")[0]) for found in ids}
    return [exercise for part in PARTS if part in parts for exercise in exercises(part)]


def plan(cells: list[Any], wanted: list[Exercise]) -> list[tuple[str, Any]]:
    """Steps ("cell", index) and ("check", id): a check where its cell stands, else at the end."""
    steps: list[tuple[str, Any]] = []
    placed = set()
    for index, cell in enumerate(cells):
        if cell.cell_type != "code" or not cell.source.strip():
            continue
        found = _CHECK.search(cell.source)
        if found and _only_checks(cell):
            known = [e.id for e in wanted if e.id == found.group(1) and e.id not in placed]
            steps += [("check", one) for one in known]
            placed.update(known)
        else:
            steps.append(("cell", index))
    return steps + [("check", e.id) for e in wanted if e.id not in placed]


def _only_checks(cell: Any) -> bool:
    if cell.metadata.get("nbgrader", {}).get("grade"):
        return True
    try:
        body = ast.parse(cell.source).body
    except SyntaxError:
        return False
    return all(
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Call)
        and getattr(node.value.func, "id", "") == "check"
        for node in body
    )


def answer_cell(cells: list[Any], exercise: Exercise) -> int | None:
    """The index of the cell that answers an exercise: by its grade_id, else by its function."""
    wanted = f"answer-{exercise.part}-{exercise.number}"
    for index, cell in enumerate(cells):
        if cell.metadata.get("nbgrader", {}).get("grade_id") == wanted:
            return index
    definition = re.compile(rf"^\s*(def\s+{exercise.name}\b|{exercise.name}\s*=)", re.MULTILINE)
    for index, cell in enumerate(cells):
        if cell.cell_type == "code" and definition.search(cell.source):
            return index
    return None


def main(arguments: list[str]) -> int:
    notebook_path, results_path, seed, skipped = arguments
    notebook = nbformat.read(notebook_path, as_version=4)
    cells = notebook.cells
    wanted = exercises_of(cells, Path(notebook_path).name)
    by_id = {exercise.id: exercise for exercise in wanted}
    skip = {tuple(step) for step in json.loads(skipped)}
    shell = _shell()
    failures: dict[int, str] = {}
    with open(results_path, "a", encoding="utf-8") as results:

        def tell(**event: Any) -> None:
            results.write(json.dumps(event) + "\n")
            results.flush()

        tell(event="ready")
        for step in plan(cells, wanted):
            kind, key = step
            if step in skip:
                continue
            tell(event="start", step=step)
            if kind == "cell":
                failures[key] = _run(shell, cells[key].source)
                tell(event="end", step=step, failure=failures[key])
            else:
                exercise = by_id[key]
                home = answer_cell(cells, exercise)
                verdict = _grade(shell.user_ns, exercise, int(seed), failures.get(home or -1, ""))
                tell(event="end", step=step, **verdict)
        tell(event="done")
    return 0


def _shell() -> Any:
    from IPython.core.interactiveshell import InteractiveShell
    from traitlets.config import Config

    config = Config()
    config.HistoryManager.enabled = False
    return InteractiveShell.instance(config=config)


def _run(shell: Any, source: str) -> str:
    """Run one cell; returns what stopped it, or nothing."""
    result = shell.run_cell(source, store_history=False)
    error = result.error_before_exec or result.error_in_exec
    if error is None:
        return ""
    line = f" (line {error.lineno})" if isinstance(error, SyntaxError) and error.lineno else ""
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    return f"{type(error).__name__}{line}: {text}".strip().splitlines()[0]


def _grade(names: dict[str, Any], exercise: Exercise, seed: int, failure: str) -> dict[str, Any]:
    if exercise.name not in names:
        if failure:
            return {"status": "error", "message": f"the answer cell stops with {failure}"}
        message = f"no `{exercise.name}` is defined: the answer is deleted or renamed"
        return {"status": "missing", "message": message}
    # Other inputs than the ones a learner sees, the same for everybody graded with this seed.
    seeds = range(1_000 * (seed + 1), 1_000 * (seed + 1) + 4)
    verdict = assess(exercise, names[exercise.name], seeds)
    return {
        "status": verdict.status,
        "message": verdict.message,
        "broken": verdict.broken,
        "misconception": verdict.misconception,
    }


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
