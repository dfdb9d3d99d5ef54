"""The arrows between the packages: one way only, and never in a circle."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# Imports may go to an earlier level, and inside a package; siblings on one level do not meet.
LEAVES = {"errors", "files", "paths", "devices", "options", "papers", "sources", "parts"}
ROAD = [
    {"tokenizers", "data"},
    {"model"},
    {"generate", "train"},
    {"finetune"},
    {"rl"},
    {"concepts"},
]
BESIDE = {"evaluate", "interop", "show", "stages", "sandbox", "runs"}
ENDS = {"grading", "evidence", "cli", "__main__"}
# Pairs on one level, or among the leaves, that do meet: a reason for each.
ALLOWED = {
    ("data", "tokenizers"),  # batches are made of ids
    ("parts", "papers"),  # the map cites
    ("parts", "sources"),  # and finds definitions
    ("runs", "evaluate"),  # a run ends with its score
    ("cli", "grading"),  # `llmcourse grade`
    ("cli", "evidence"),  # `llmcourse evidence`
    ("__main__", "cli"),
    ("stages", "evaluate"),  # a stage is measured when it is built
    ("show", "evaluate"),  # pictures of what was measured
}


def imports_of(path: Path, package: Path) -> set[str]:
    """The modules of the package that one file imports, dotted, wherever in the file it does."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_only = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test).endswith("TYPE_CHECKING")
        for statement in block.body
        for node in ast.walk(statement)
    }
    found: set[str] = set()
    here = (package.name, *path.relative_to(package).with_suffix("").parts)
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join([*here[: -node.level], *([node.module] if node.module else [])])
            found |= {f"{base}.{alias.name}" for alias in node.names} | {base}
    return {name for name in found if name.split(".")[0] == package.name}


def level(name: str) -> int:
    if name in LEAVES:
        return 0
    for n, names in enumerate(ROAD, start=1):
        if name in names:
            return n
    if name in BESIDE:
        return len(ROAD) + 1
    if name in ENDS:
        return len(ROAD) + 2
    raise AssertionError(f"llmcourse/{name} has no place on the road; give it one in this test")


def wrong_arrows(package: Path) -> list[str]:
    """Imports between the package's parts that do not go towards the start of the road."""
    wrong = []
    for path in sorted(package.rglob("*.py")):
        source = path.relative_to(package).with_suffix("").parts[0]
        if source == "__init__":
            source, places = "__init__", 0
        else:
            places = level(source)
        for name in sorted(imports_of(path, package)):
            target = [*name.split("."), ""][1]
            if not (package / target).is_dir() and not (package / f"{target}.py").is_file():
                continue  # `from llmcourse import __version__`
            if not target or target == source or (source, target) in ALLOWED:
                continue
            if source == "__init__" or level(target) >= places:
                wrong.append(f"{path.relative_to(package)} imports {name}")
    return wrong


def circles(package: Path) -> list[list[str]]:
    """Circles among the modules, each once, found by depth-first search."""
    files = {
        ".".join((package.name, *path.relative_to(package).with_suffix("").parts)).removesuffix(
            ".__init__"
        ): path
        for path in package.rglob("*.py")
    }
    arrows = {name: top_level_imports(path, package) & files.keys() for name, path in files.items()}
    found: list[list[str]] = []
    done: set[str] = set()

    def visit(name: str, trail: list[str]) -> None:
        if name in trail:
            found.append([*trail[trail.index(name) :], name])
            return
        if name in done:
            return
        for target in sorted(arrows[name] - {name}):
            visit(target, [*trail, name])
        done.add(name)

    for name in sorted(files):
        visit(name, [])
    return found


def top_level_imports(path: Path, package: Path) -> set[str]:
    """Exact modules imported; `from a.b import c` counts as a.b.c if that is a module, else a.b."""
    names = imports_of(path, package)
    modules = {name for name in names if _is_module(name, package)}
    # A parent that only came along with a more exact name is no arrow of its own.
    return {m for m in modules if not any(o.startswith(f"{m}.") for o in modules)}


def _is_module(name: str, package: Path) -> bool:
    path = package.parent.joinpath(*name.split("."))
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def test_every_import_goes_towards_the_start_of_the_road():
    assert wrong_arrows(ROOT / "llmcourse") == []


def test_no_module_imports_in_a_circle():
    assert circles(ROOT / "llmcourse") == []


def test_the_walk_sees_the_package():
    # A walk that finds nothing would pass both tests above.
    package = ROOT / "llmcourse"
    assert "llmcourse.model.config" in imports_of(package / "model/attention.py", package)
    assert "llmcourse.data.batches" in imports_of(package / "train/objective.py", package)
    assert "llmcourse.options" in imports_of(package / "cli/where.py", package)  # in a function


def made_up(tmp_path: Path, files: dict[str, str]) -> Path:
    package = tmp_path / "llmcourse"
    for name, text in files.items():
        path = package / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return package


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("model/a.py", "from llmcourse.train import loop"),
        ("model/a.py", "import llmcourse.show.style"),
        ("train/a.py", "from llmcourse.generate.decode import generate"),
        ("tokenizers/a.py", "from llmcourse.data import batches"),
        ("files.py", "import llmcourse.model.b"),
        ("train/a.py", "def f():\n    from llmcourse.cli import main"),
        ("train/a.py", "from ..show import style"),
        ("evaluate/a.py", "from llmcourse import grading"),
        ("__init__.py", "from llmcourse.model import b"),
    ],
)
def test_a_wrong_arrow_is_seen(tmp_path: Path, file: str, text: str):
    packages = ["train", "show", "generate", "data", "model", "cli", "grading", "tokenizers"]
    files = {f"{name}/__init__.py": "" for name in packages}
    files |= {"evaluate/__init__.py": "", "model/b.py": "", file: text}
    wrong = wrong_arrows(made_up(tmp_path, files))
    assert wrong
    assert all(arrow.startswith(file) for arrow in wrong)


def test_right_arrows_pass(tmp_path: Path):
    files = {
        "files.py": "",
        "tokenizers/__init__.py": "from llmcourse.files import atomic_write",
        "data/__init__.py": "from llmcourse import tokenizers\nimport torch",
        "model/__init__.py": "from .layers import Linear",
        "model/layers.py": "from llmcourse.data import x",
        "train/__init__.py": "from ..model.layers import Linear",
    }
    package = made_up(tmp_path, files)
    assert wrong_arrows(package) == []
    assert circles(package) == []


def test_a_circle_is_seen(tmp_path: Path):
    files = {
        "__init__.py": "",
        "model/__init__.py": "",
        "model/a.py": "from llmcourse.model.b import x",
        "model/b.py": "from llmcourse.model import c",
        "model/c.py": "def f():\n    import llmcourse.model.a",
    }
    found = circles(made_up(tmp_path, files))
    assert len(found) == 1
    assert {name.rpartition(".")[2] for name in found[0]} == {"a", "b", "c"}


def test_an_import_for_the_type_checker_is_no_arrow(tmp_path: Path):
    text = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from llmcourse.train import x"
    package = made_up(tmp_path, {"train/__init__.py": "", "model/a.py": text})
    assert wrong_arrows(package) == []


def test_a_new_package_needs_a_place(tmp_path: Path):
    package = made_up(tmp_path, {"surprise/a.py": "import llmcourse.files", "files.py": ""})
    with pytest.raises(AssertionError, match="surprise"):
        wrong_arrows(package)
