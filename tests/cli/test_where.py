"""`llmcourse where`."""

from __future__ import annotations

import pytest


def test_where_says_file_line_part_and_paper(llmcourse):
    answer = llmcourse("where", "attend")
    assert answer.code == 0
    first, part, paper = answer.out.splitlines()[:3]
    name, place, kind = first.split()
    assert (name, kind) == ("attend", "(function)")
    assert place.rpartition(":")[0].endswith("attention.py")
    assert int(place.rpartition(":")[2]) > 1
    assert part.strip().startswith("Part 1: ")
    assert "notebooks/part01_transformer_core.ipynb" in part
    assert "Vaswani et al. 2017" in paper
    assert "1706.03762" in paper


def test_a_concept_of_two_words_needs_no_quotes(llmcourse):
    assert llmcourse("where", "layer", "norm").out == llmcourse("where", "layer norm").out
    assert "LayerNorm" in llmcourse("where", "layer", "norm").out


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("atend", "nearest: attend"),
        ("zebra", "nothing is called 'zebra'"),
        ("grpo", "belongs to Part 9"),
    ],
)
def test_what_is_not_there(llmcourse, name, hint):
    answer = llmcourse("where", name)
    assert answer.code == 1
    assert hint in answer.out


def test_no_name(mistake):
    assert "name" in mistake("where")
    assert "name is empty" in mistake("where", " ")


def test_a_chapter_that_is_still_to_come_is_not_promised(llmcourse, monkeypatch):
    import dataclasses

    from llmcourse import parts

    first = dataclasses.replace(parts.PARTS[0], ready=False)
    monkeypatch.setattr(parts, "PARTS", (first, *parts.PARTS[1:]))
    out = llmcourse("where", "attend").out
    assert "(its chapter is to come)" in out and first.notebook not in out
