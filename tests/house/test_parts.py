"""The course map: ten parts, every target of a ready one there, and names that are found."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from llmcourse import parts
from llmcourse.papers import PAPERS
from llmcourse.parts import CONCEPTS, PARTS, SOURCES
from llmcourse.sources import cited, definitions

ROOT = Path(__file__).resolve().parents[2]
READY = [part for part in PARTS if part.ready]


def test_ten_parts_in_order():
    assert [part.number for part in PARTS] == list(range(1, 11))
    assert len({part.slug for part in PARTS}) == 10
    for part in PARTS:
        assert part.title
        assert part.question.endswith("?")
        assert part.topics
        assert part.papers


def test_the_first_parts_are_ready():
    assert [part.number for part in READY][:2] == [1, 2]


@pytest.mark.parametrize("part", READY, ids=str)
def test_every_target_of_a_ready_part_exists(part: parts.Part):
    assert (ROOT / part.notebook).is_file()
    assert (ROOT / part.exercises).is_file()
    assert (ROOT / part.solutions).is_file()
    assert part.modules
    for module in part.modules:
        assert importlib.util.find_spec(module) is not None, module


def test_no_chapter_is_missing_from_the_map():
    known = {part.notebook for part in PARTS}
    found = {f"notebooks/{path.name}" for path in (ROOT / "notebooks").glob("part*.ipynb")}
    assert found <= known
    assert found == {part.notebook for part in READY}


@pytest.mark.parametrize(
    ("name", "definition", "part"),
    [
        ("attend", "attend", 1),
        ("gelu", "gelu", 1),
        ("GELU", "gelu", 1),
        ("Transformer", "Transformer", 1),
        ("transformer", "Transformer", 1),
        ("layer_norm", "layer_norm", 1),
        ("layer norm", "LayerNorm", 1),
        ("attention", "attend", 1),
        ("positions", "sinusoidal_positions", 1),
        ("cross_entropy", "cross_entropy", 2),
        ("cross-entropy", "cross_entropy", 2),
        ("ByteTokenizer", "ByteTokenizer", 2),
        ("top-p", "keep_top_p", 2),
        ("TOP P", "keep_top_p", 2),
        ("sliding_window", "sliding_window", 2),
    ],
)
def test_where_finds(name: str, definition: str, part: int):
    first = parts.where(name)[0]
    assert first.name == definition
    assert first.part is not None
    assert first.part.number == part
    line = first.file.read_text(encoding="utf-8").splitlines()[first.line - 1]
    assert definition in line or first.kind == "module"


def test_where_gives_the_paper():
    assert parts.where("attend")[0].paper == PAPERS["1706.03762"]
    assert parts.where("gelu")[0].paper == PAPERS["1606.08415"]
    assert parts.where("LayerNorm")[0].paper == PAPERS["1607.06450"]
    assert parts.where("Linear")[0].paper is None  # its module cites another idea's paper


def test_where_of_a_stranger_is_empty_and_the_nearest_is_named():
    assert parts.where("zebra crossing") == []
    assert parts.nearest("atend")[0] == "attend"
    assert parts.nearest("cros_entropy")[0] == "cross_entropy"
    with pytest.raises(ValueError, match="empty"):
        parts.where("  ")


def test_a_topic_of_a_later_part_is_announced():
    planned = parts.planned("RoPE")
    assert planned is None or planned.number == 3
    assert parts.planned("attention") is None
    assert parts.planned("zebra crossing") is None


@pytest.mark.parametrize("alias", CONCEPTS)
def test_every_concept_leads_somewhere(alias: str):
    names = {definition.name for definition in definitions()}
    assert set(CONCEPTS[alias]) <= names
    assert parts.where(alias)


@pytest.mark.parametrize("topic", [topic for part in READY for topic in part.topics])
def test_the_topics_of_a_ready_part_are_found(topic: str):
    assert parts.where(topic)


def test_every_module_on_the_road_belongs_to_a_part():
    road = ("tokenizers", "data", "model", "generate", "train", "evaluate")
    for definition in definitions():
        package = definition.module.split(".")[1:2]
        if package and package[0] in road:
            assert parts.part_of(definition.module) is not None, definition.module


def test_every_cited_paper_is_in_the_list():
    missing = {
        f"{path.relative_to(ROOT)}: {number}"
        for path in (ROOT / "llmcourse").rglob("*.py")
        for number in cited(path.read_text(encoding="utf-8"))
        if number not in PAPERS
    }
    assert missing == set()


def test_papers_are_dated_as_their_numbers_say():
    for key, paper in PAPERS.items():
        if paper.arxiv:
            assert key == paper.arxiv
            assert 2000 + int(key[:2]) == paper.year


def test_overridden_sources_exist():
    names = {definition.name for definition in definitions()}
    for name, paper in SOURCES.items():
        assert name in names
        assert paper is None or paper in PAPERS


def test_the_map_needs_no_torch():
    program = "import sys, llmcourse.parts as p; p.where('attend'); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr


def test_the_readme_has_the_same_map():
    rows = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    for part in PARTS:
        (row,) = [row for row in rows if row.startswith(f"| {part.number} |")]
        assert part.title in row
        assert part.question in row
        assert (part.notebook in row) == part.ready
