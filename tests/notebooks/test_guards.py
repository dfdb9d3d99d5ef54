"""What strict nbval would let pass: cells never run, cells ignored without a reason, empty rules.

nbval compares what a cell prints with what is stored. A cell that was never executed has nothing
stored, so it compares with nothing and passes; a cell tagged to be ignored always passes; and a
sanitizing rule with an empty replacement is dropped without a word. Each guard here is also shown a
bad example, so that it is known to be able to fail.
"""

from __future__ import annotations

import configparser
import copy
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from llmcourse.parts import PARTS

ROOT = Path(__file__).resolve().parents[2]
READY = [part for part in PARTS if part.ready]
CHAPTERS = [part.notebook for part in READY]
MASTERS = [part.solutions for part in READY]
EXERCISES = [part.exercises for part in READY]
ALL = [*CHAPTERS, *MASTERS, *EXERCISES]
EACH = pytest.mark.parametrize("path", ALL)
IGNORING = {"nbval-ignore-output", "nbval-skip"}
MEGABYTE = 1_000_000
# An absolute path into a checkout or an environment, wherever those stand; not an address.
INSIDE = re.compile(r"(?<![\w.:/])/[\w.-]+/[\w./-]*(?:site-packages|llmcourse|notebooks)/")


def read(path: str) -> nbformat.NotebookNode:
    return nbformat.read(ROOT / path, as_version=4)


def code_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [c for c in notebook.cells if c.cell_type == "code" and c.source.strip()]


def never_executed(notebook: nbformat.NotebookNode) -> list[int]:
    return [n for n, cell in enumerate(code_cells(notebook)) if cell.execution_count is None]


def out_of_order(notebook: nbformat.NotebookNode) -> bool:
    counts = [cell.execution_count for cell in code_cells(notebook)]
    return counts != list(range(1, len(counts) + 1))


def ignored_without_reason(notebook: nbformat.NotebookNode) -> list[str]:
    return [
        cell.source
        for cell in code_cells(notebook)
        if ignored(cell) and len(cell.metadata.get("reason", "").split()) < 3
    ]


def ignored(cell: nbformat.NotebookNode) -> bool:
    return bool(IGNORING & set(cell.metadata.get("tags", []))) or "NBVAL_" in cell.source


def unexpected_errors(notebook: nbformat.NotebookNode) -> list[str]:
    return [
        output.ename
        for cell in code_cells(notebook)
        for output in cell.outputs
        if output.output_type == "error" and "raises-exception" not in cell.metadata.get("tags", [])
    ]


def stderr_of(notebook: nbformat.NotebookNode) -> list[str]:
    return [
        output.text
        for cell in code_cells(notebook)
        for output in cell.outputs
        if output.output_type == "stream" and output.name == "stderr"
    ]


@EACH
def test_every_cell_was_executed_in_order(path: str):
    assert never_executed(read(path)) == []
    assert not out_of_order(read(path))


@EACH
def test_nothing_failed_or_warned(path: str):
    assert unexpected_errors(read(path)) == []
    assert stderr_of(read(path)) == []


@EACH
def test_ignored_cells_are_few_and_say_why(path: str):
    notebook = read(path)
    assert ignored_without_reason(notebook) == []
    cells = code_cells(notebook)
    assert sum(map(ignored, cells)) <= 0.2 * len(cells)


def test_the_guards_can_fail():
    good = read(CHAPTERS[0])
    bad = copy.deepcopy(good)
    cell = code_cells(bad)[3]
    cell.execution_count, cell.outputs = None, []
    assert never_executed(bad) == [3] and out_of_order(bad)
    cell.metadata["tags"] = ["nbval-ignore-output"]
    assert ignored_without_reason(bad) == [cell.source]
    cell.outputs = [nbformat.v4.new_output("error", ename="ValueError", evalue="", traceback=[])]
    assert unexpected_errors(bad) == ["ValueError"]
    cell.outputs = [nbformat.v4.new_output("stream", name="stderr", text="a warning")]
    assert stderr_of(bad) == ["a warning"]
    assert INSIDE.search('File "/somewhere/course/llmcourse/model/layers.py"')
    assert not INSIDE.search("llmcourse/model/layers.py and https://example.org/a/llmcourse/")


def empty_rules(path: Path) -> list[str]:
    rules = configparser.RawConfigParser()
    rules.read(path, encoding="utf-8")
    return [
        name
        for name in rules.sections()
        if not rules.get(name, "regex", fallback="") or not rules.get(name, "replace", fallback="")
    ]


def test_no_sanitizing_rule_is_dropped(tmp_path: Path):
    path = ROOT / "tests" / "notebooks" / "sanitize.cfg"
    rules = configparser.RawConfigParser()
    rules.read(path, encoding="utf-8")
    assert rules.sections() and empty_rules(path) == []
    for name in rules.sections():
        re.compile(rules.get(name, "regex"))
    bad = tmp_path / "bad.cfg"
    bad.write_text("[seconds]\nregex: \\d+ s\nreplace:\n")
    assert empty_rules(bad) == ["seconds"]


def test_strict_nbval_sees_a_changed_number(tmp_path: Path):
    """The whole machinery, once: a notebook with a wrong stored output must fail."""
    notebook = nbformat.v4.new_notebook(
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    )
    for count, (source, stored) in enumerate([("print(1 + 1)", "2\n"), ("print(2 * 3)", "7\n")], 1):
        output = nbformat.v4.new_output("stream", name="stdout", text=stored)
        cell = nbformat.v4.new_code_cell(source, execution_count=count, outputs=[output])
        notebook.cells.append(cell)
    path = tmp_path / "wrong.ipynb"
    nbformat.write(notebook, path)
    options = ["--nbval", "--nbval-current-env", "-p", "no:cacheprovider", "-q", str(path)]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, "--rootdir", str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTEST_ADDOPTS": ""},
    )
    assert done.returncode == 1, done.stdout
    assert "1 failed, 1 passed" in done.stdout


@pytest.mark.parametrize("path", CHAPTERS)
def test_a_chapter_is_a_chapter(path: str):
    notebook = read(path)
    size = (ROOT / path).stat().st_size
    assert size <= MEGABYTE, f"{path} has {size:,} bytes"
    prose = " ".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    assert prose.count("Before you run this") >= 5, "the reader predicts before running"
    for word in ("question", "Time", "Papers", "Exercises"):
        assert word in prose
    assert max(len(cell.source.splitlines()) for cell in code_cells(notebook)) <= 30
    outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
    pictures = sum("image/png" in output.get("data", {}) for output in outputs)
    assert pictures >= 8
    widgets = [
        o for o in outputs if "application/vnd.jupyter.widget-view+json" in o.get("data", {})
    ]
    assert widgets, "at least one widget"


@EACH
def test_it_names_no_machine(path: str):
    text = (ROOT / path).read_text(encoding="utf-8")
    for trace in (r"/home/\w", r"/root/", r"/Users/\w", r"/tmp/", r"C:\\\\Users"):
        assert not re.search(trace, text), f"{path} holds a path of a machine: {trace}"
    assert str(ROOT) not in text and not INSIDE.search(text), f"{path} says where it was executed"
    metadata = json.loads(text)["metadata"]
    assert metadata["kernelspec"]["name"] == "python3"
