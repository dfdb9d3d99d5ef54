"""Finished runs: found again, never under another recipe, never when old or broken."""

from __future__ import annotations

import os
import time

from llmcourse.evidence.resumable import OLDEST, Finished


def test_what_is_put_is_found_by_the_same_recipe_only(tmp_path):
    kept = Finished("part99", "abc", tmp_path)
    assert kept.get("arm 1, seed 0") is None
    kept.put("arm 1, seed 0", {"loss": 1.5})
    assert Finished("part99", "abc", tmp_path).get("arm 1, seed 0") == {"loss": 1.5}
    assert kept.get("arm 1, seed 1") is None
    assert Finished("part99", "abd", tmp_path).get("arm 1, seed 0") is None
    assert Finished("part98", "abc", tmp_path).get("arm 1, seed 0") is None


def test_no_name_leaves_the_folder(tmp_path):
    kept = Finished("part99", "abc", tmp_path)
    for number, name in enumerate(("a/b, seed 0", "../c", "capacity 1.0", "capacity 1,0")):
        kept.put(name, {"n": number})
    assert all(path.parent == kept.folder for path in kept.folder.iterdir())
    assert [kept.get(name)["n"] for name in ("a/b, seed 0", "../c", "capacity 1.0")] == [0, 1, 2]
    assert kept.get("capacity 1,0") == {"n": 3}


def test_old_and_broken_results_are_made_anew(tmp_path):
    kept = Finished("part99", "abc", tmp_path)
    kept.put("one", {"n": 1})
    [path] = kept.folder.iterdir()
    long_ago = time.time() - OLDEST - 60
    os.utime(path, (long_ago, long_ago))
    assert kept.get("one") is None
    kept.put("one", {"n": 2})
    assert kept.get("one") == {"n": 2}
    path.write_text('{"n": ')
    assert kept.get("one") is None


def test_complete_evidence_leaves_nothing_behind(tmp_path):
    kept = Finished("part99", "abc", tmp_path)
    kept.clear()  # nothing there yet
    kept.put("one", {"n": 1})
    kept.clear()
    assert list(tmp_path.iterdir()) == [] and kept.get("one") is None
