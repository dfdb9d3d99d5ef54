"""The growth of BPE training, as benchmarks/bpe.py wrote it: complete, and its powers follow."""

from __future__ import annotations

import json

import numpy as np
import pytest

from llmcourse.paths import course_root


@pytest.fixture(scope="module")
def measured():
    path = course_root() / "notebooks" / "evidence" / "part04_bpe.json"
    assert path.is_file(), f"make it with: python benchmarks/bpe.py --growth --out {path}"
    return json.loads(path.read_text(encoding="utf-8"))


def test_it_reaches_the_whole_library_and_a_full_vocabulary(measured):
    rows = measured["growth"]
    # A text of 30 MB; less where Python came with a smaller library.
    assert max(row["bytes"] for row in rows) > 15_000_000
    assert max(row["tokens"] for row in rows) == 32_000
    assert len({row["bytes"] for row in rows}) >= 5 and len({row["tokens"] for row in rows}) >= 5
    for row in rows:
        assert row["ours"] == pytest.approx(row["cutting"] + row["merging"])
        assert min(row[name] for name in ("cutting", "merging", "rust")) > 0


def test_more_text_has_more_words_but_ever_fewer_new_ones(measured):
    rows = [row for row in measured["growth"] if row["tokens"] == measured["vocab_size"]]
    rows.sort(key=lambda row: row["bytes"])
    words = [row["words"] for row in rows]
    assert words == sorted(words)
    density = [row["words"] / row["bytes"] for row in rows]
    assert density == sorted(density, reverse=True)


def test_the_powers_follow_from_the_rows(measured):
    rows = [row for row in measured["growth"] if row["tokens"] == measured["vocab_size"]]
    x = np.log([row["bytes"] for row in rows])
    for name in ("cutting", "merging", "ours", "rust"):
        y = np.log([row[name] for row in rows])
        slope = ((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum()
        assert measured["exponents"][f"{name} by bytes"] == pytest.approx(slope, abs=1e-3)


def test_the_textbook_and_the_peer_were_measured_in_the_same_run(measured):
    training = measured["training"]
    assert {"ours", "Rust (tokenizers)", "textbook, unique words"} <= set(training)
    assert measured["bytes"] == 2_000_000 and measured["vocab_size"] == 2048
    # Recorded, not timed here: what the chapter says of it must be what was recorded.
    assert training["textbook, unique words"] > 50 * training["ours"]
