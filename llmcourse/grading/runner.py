"""Grading whole notebooks: `grade("submitted/")` -> a report and a gradebook.

Each notebook runs in a fresh process on a copy in a temporary folder. A step that runs too long or
ends the process costs its own exercise and no more: the notebook is run again without it.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import nbformat

from llmcourse.grading.records import Exercise
from llmcourse.grading.report import Report, Row
from llmcourse.grading.session import answer_cell, exercises_of, plan

_STARTING = 180.0  # seconds for a fresh process to import what it needs, on a busy machine
_POLL = 0.05  # seconds between two looks at a process's results


def grade(
    paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    seed: int = 0,
    timeout: float = 60.0,
    jobs: int | None = None,
) -> Report:
    """Grade notebooks, or folders of them.

    Args:
        paths: files or folders; in a folder, every notebook below it is a submission of the
            subfolder it lies in.
        seed: which inputs to check with; everybody graded with one seed gets the same.
        timeout: seconds that one cell, or the check of one answer, may take.
        jobs: how many notebooks to run at a time; None means one a core, at most 4.

    Raises:
        ValueError: a path that does not exist, a folder without notebooks, an impossible limit.
    """
    if timeout <= 0:
        raise ValueError(f"timeout must be a positive number of seconds, got {timeout}")
    if jobs is not None and jobs < 1:
        raise ValueError(f"jobs must be a positive number of notebooks, got {jobs}")
    if isinstance(paths, str | os.PathLike):
        paths = [paths]
    found = _collect([Path(path) for path in paths])
    # Threads only wait here: each notebook has a process of its own.
    with ThreadPoolExecutor(jobs or min(4, os.cpu_count() or 1)) as pool:
        graded = pool.map(lambda one: _grade_notebook(one[0], one[1], seed, timeout), found)
        return Report(tuple(row for rows in graded for row in rows))


def _collect(paths: list[Path]) -> list[tuple[str, Path]]:
    found = []
    for path in paths:
        if path.is_file():
            found.append((path.stem, path))
        elif path.is_dir():
            notebooks = [
                notebook
                for notebook in sorted(path.rglob("*.ipynb"))
                if not any(piece.startswith(".") for piece in notebook.relative_to(path).parts)
            ]
            if not notebooks:
                raise ValueError(f"{path} holds no notebooks (*.ipynb)")
            for notebook in notebooks:
                folder = notebook.parent.relative_to(path).as_posix()
                found.append((path.resolve().name if folder == "." else folder, notebook))
        else:
            raise ValueError(f"{path} does not exist; name a notebook or a folder of notebooks")
    return found


def _grade_notebook(submission: str, path: Path, seed: int, timeout: float) -> list[Row]:
    def unreadable(reason: str) -> list[Row]:
        return [Row(submission, path.name, "", "(whole notebook)", "error", 0, 0, reason)]

    try:
        cells = nbformat.read(path, as_version=4).cells
    except Exception as error:  # nbformat raises many kinds, down to KeyError
        return unreadable(f"not a readable notebook: {type(error).__name__}")
    wanted = exercises_of(cells, path.name)
    if not wanted:
        return unreadable("no exercises in it: no cell calls check(...)")
    verdicts: dict[str, dict[str, Any]] = {}
    ended: dict[str, dict[str, Any]] = {}  # what ended a round outweighs what a later one finds
    skip: list[list[Any]] = []
    with tempfile.TemporaryDirectory(prefix="llmcourse-grade-") as folder:
        work = Path(folder)
        shutil.copy(path, work / path.name)
        # Every round but the last removes one step, so this ends.
        for _ in range(len(plan(cells, wanted)) + 1):
            guilty, reason = _round(work, path.name, seed, timeout, skip, verdicts)
            if guilty is None:
                break
            skip.append(guilty)
            for exercise in _concerned(guilty, cells, wanted):
                ended[exercise.id] = {"status": "error", "message": reason}
            if guilty[0] == "start":
                return unreadable(reason)
    verdicts.update(ended)
    return [_row(submission, path.name, exercise, verdicts) for exercise in wanted]


def _concerned(step: list[Any], cells: list[Any], wanted: list[Exercise]) -> list[Exercise]:
    kind, key = step
    if kind == "check":
        return [exercise for exercise in wanted if exercise.id == key]
    return [exercise for exercise in wanted if answer_cell(cells, exercise) == key]


def _row(
    submission: str, notebook: str, exercise: Exercise, verdicts: dict[str, dict[str, Any]]
) -> Row:
    verdict = verdicts.get(exercise.id, {"status": "error", "message": "it was never reached"})
    right = verdict["status"] == "passed"
    return Row(
        submission,
        notebook,
        exercise.id,
        exercise.title,
        verdict["status"],
        exercise.points if right else 0,
        exercise.points,
        "" if right else verdict["message"],
        verdict.get("misconception"),
    )


def _round(
    folder: Path,
    notebook: str,
    seed: int,
    timeout: float,
    skip: list[list[Any]],
    verdicts: dict[str, dict[str, Any]],
) -> tuple[list[Any] | None, str]:
    """Run the notebook once. Returns the step that ended it early and why, or (None, "")."""
    results = folder / "results.jsonl"
    results.write_text("")
    package = str(Path(__file__).resolve().parents[2])
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")])),
        "LLMCOURSE_PROGRESS": "off",
        "MPLBACKEND": "agg",
        "OMP_NUM_THREADS": "1",  # the inputs are small, and others are being graded beside it
        "IPYTHONDIR": str(folder / ".ipython"),
    }
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "llmcourse.grading.session"),
            *(str(folder / notebook), str(results), str(seed), json.dumps(skip)),
        ],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # so that whatever it starts can be ended with it
    )
    events: list[dict[str, Any]] = []
    heard = time.monotonic()
    try:
        while True:
            ended = process.poll() is not None
            fresh = _events(results)
            if len(fresh) > len(events):
                events, heard = fresh, time.monotonic()
            if ended or (events and events[-1]["event"] == "done"):
                break
            if time.monotonic() - heard > (timeout if events else _STARTING):
                break
            time.sleep(_POLL)
    finally:
        _end(process)
    for event in events:
        if event["event"] == "end" and event["step"][0] == "check":
            verdicts[event["step"][1]] = event
    if events and events[-1]["event"] == "done":
        return None, ""
    running = [event for event in events if event["event"] == "start"]
    if not running:
        return ["start", 0], "the grading process did not start"
    step = running[-1]["step"]
    where = "its check" if step[0] == "check" else "its answer cell"
    if ended:
        return step, f"the process ended (exit code {process.returncode}) during {where}"
    return step, f"no end after {timeout:g} seconds in {where}: an infinite loop?"


def _events(path: Path) -> list[dict[str, Any]]:
    events = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            events.append(json.loads(line))
        except ValueError:  # a line that is still being written
            break
    return events


def _end(process: subprocess.Popen[bytes]) -> None:
    try:
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        elif process.poll() is None:
            process.kill()
    except (ProcessLookupError, PermissionError):
        pass
    process.wait()
