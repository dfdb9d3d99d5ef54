"""The bands of "is my loss normal?", against plain loops and against the page that prints them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llmcourse.evidence import load
from llmcourse.evidence.bands import bands, table
from llmcourse.train import History, StepRecord

PAGE = Path(__file__).resolve().parents[2] / "docs" / "is_my_loss_normal.md"


def run_of(losses: dict[int, float]) -> dict:
    records = [StepRecord(step, loss, 1e-3, 1.0, step, 1.0) for step, loss in losses.items()]
    return {"history": json.loads(History(records).to_json())}


def test_a_band_spans_the_runs_and_a_margin():
    runs = [
        run_of({1: 6.0, 10: 4.0, 20: 2.0, 60: 1.0}),
        run_of({1: 5.0, 10: 5.0, 20: 3.0, 60: 2.0}),
    ]
    found = bands(runs, [1, 20, 60], margin=0.1)
    # Step 1 stands alone; step 20 is averaged with step 10, and step 60 has no neighbour within 25.
    expected = [(1, 4.5, 6.6), (20, 2.7, 4.4), (60, 0.9, 2.2)]
    for got, wanted in zip(found, expected, strict=True):
        assert got == pytest.approx(wanted)
    assert "| 20 | 2.70 to 4.40 |" not in table(runs, [20]), "the table has the usual margin"


def test_nothing_recorded_is_said():
    with pytest.raises(ValueError, match="at least one run"):
        bands([], [1])
    with pytest.raises(ValueError, match="near step 500"):
        bands([run_of({1: 6.0})], [500])


def test_the_page_prints_what_was_recorded():
    page = PAGE.read_text(encoding="utf-8")
    for name in ("showcase", "tales"):
        runs = load("part02")[name]["runs"]
        last = History.from_json(json.dumps(runs[0]["history"])).steps[-1]
        steps = [1, 50, 100, 200, 300, last]
        rows = table(runs, steps).splitlines()[2:]
        for row in rows:
            assert row in page, f"docs/is_my_loss_normal.md lacks the row {row!r} of {name}"
