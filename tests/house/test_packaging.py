"""The package: what it asks for, that the pins agree, and that a wheel stands on its own."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

LINUX = {"sys_platform": "linux", "platform_machine": "x86_64", "platform_system": "Linux"}
LINUX_ARM = {"sys_platform": "linux", "platform_machine": "aarch64", "platform_system": "Linux"}
WINDOWS = {"sys_platform": "win32", "platform_machine": "AMD64", "platform_system": "Windows"}
MAC = {"sys_platform": "darwin", "platform_machine": "arm64", "platform_system": "Darwin"}


def constraint_lines() -> list[str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if not line.startswith("#")]


def pins() -> dict[str, str]:
    return dict(line.split("==") for line in constraint_lines())


def project_requirements() -> list[Requirement]:
    extras = PROJECT["optional-dependencies"].values()
    texts = [*PROJECT["dependencies"], *(text for extra in extras for text in extra)]
    return [r for r in map(Requirement, texts) if r.name != "llmcourse"]


def conda_entries() -> list[str]:
    data = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    return next(entry["pip"] for entry in data["dependencies"] if isinstance(entry, dict))


def conda_requirements() -> list[Requirement]:
    return [Requirement(entry) for entry in conda_entries() if not entry.startswith("-")]


def chosen(requirements: list[Requirement], platform: dict[str, str]) -> set[str]:
    return {
        canonicalize_name(r.name)
        for r in requirements
        if r.marker is None or r.marker.evaluate(platform)
    }


def test_constraints_are_exact_sorted_and_name_no_place():
    lines = constraint_lines()
    for line in lines:
        assert re.fullmatch(r"[a-z0-9][a-z0-9-]*==[0-9][0-9a-z.]*", line), line
    assert lines == sorted(lines, key=lambda line: line.split("==")[0])
    assert len(pins()) == len(lines)


def test_every_requirement_is_pinned_within_its_range():
    for requirement in project_requirements():
        name = canonicalize_name(requirement.name)
        if name == "triton":
            assert name not in pins()  # a GPU build of torch pins its own
            continue
        assert Version(pins()[name]) in requirement.specifier, requirement


def test_torch_is_pinned_exactly_and_python_bounded():
    torch = next(r for r in project_requirements() if r.name == "torch")
    assert str(torch.specifier) == f"=={pins()['torch']}"
    allowed = SpecifierSet(PROJECT["requires-python"])
    releases = ["3.10.14", "3.11.0", "3.12.4", "3.13.9", "3.14.0"]
    assert [r in allowed for r in releases] == [False, True, True, True, False]


def test_the_core_stays_small():
    core = {Requirement(text).name for text in PROJECT["dependencies"]}
    heavy = {"tensorflow", "tensorflow-cpu", "transformers", "onnx", "wandb", "triton", "nbgrader"}
    assert not core & heavy
    assert len(core) <= 11  # regex is among them and comes with tiktoken anyway


def test_all_means_all():
    extras = PROJECT["optional-dependencies"]

    def names(extra: str) -> set[str]:
        found = set()
        for requirement in map(Requirement, extras[extra]):
            if requirement.name == "llmcourse":
                found |= requirement.extras.union(*(names(e) for e in requirement.extras))
        return found

    assert names("all") == set(extras) - {"all"}


@pytest.mark.parametrize(
    ("platform", "present", "absent"),
    [
        (LINUX, {"tensorflow-cpu", "triton"}, {"tensorflow"}),
        (LINUX_ARM, {"tensorflow", "triton"}, {"tensorflow-cpu"}),
        (WINDOWS, {"tensorflow-cpu"}, {"tensorflow", "triton"}),
        (MAC, {"tensorflow"}, {"tensorflow-cpu", "triton"}),
    ],
    ids=["linux", "linux-arm", "windows", "mac"],
)
def test_platform_markers(platform: dict[str, str], present: set[str], absent: set[str]):
    for requirements in (project_requirements(), conda_requirements()):
        names = chosen(requirements, platform)
        assert present <= names
        assert not absent & names


def test_conda_has_everything_at_the_pinned_versions():
    conda = {canonicalize_name(r.name): r for r in conda_requirements()}
    assert len(conda) == len(conda_requirements())
    wanted = {canonicalize_name(r.name) for r in project_requirements()}
    assert conda.keys() == wanted
    for name, requirement in conda.items():
        expected = "" if name == "triton" else f"=={pins()[name]}"
        assert str(requirement.specifier) == expected, requirement
    assert [entry for entry in conda_entries() if entry.startswith("-")] == ["-e ."]


def test_conda_asks_for_the_same_python():
    data = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    python = next(
        entry
        for entry in data["dependencies"]
        if isinstance(entry, str) and entry.startswith("python")
    )
    assert SpecifierSet(python.removeprefix("python")) == SpecifierSet(PROJECT["requires-python"])


def test_the_pip_section_is_installed_here():
    here = [r for r in conda_requirements() if r.marker is None or r.marker.evaluate()]
    assert len(here) >= 30
    wrong = {}
    for requirement in here:
        try:
            installed = version(requirement.name)
        except PackageNotFoundError:
            wrong[requirement.name] = "not installed"
            continue
        # A build tag ("2.13.0+cpu") is the same release.
        if Version(Version(installed).public) not in requirement.specifier:
            wrong[requirement.name] = installed
    assert wrong == {}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # From a copy, so that building leaves nothing behind in the checkout.
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "llmcourse", source / "llmcourse", ignore=ignore)
    # Decoys: nothing beside the package may slip into the wheel.
    for decoy in ("tests", "notebooks", "solutions"):
        (source / decoy).mkdir()
        (source / decoy / "__init__.py").write_text("")
    out = tmp_path_factory.mktemp("wheel")
    pip(["wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(out), str(source)])
    (built,) = out.glob("*.whl")
    return built


def pip(arguments: list[str]) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments, "--no-index"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"llmcourse"}
    modules = {n for n in names if n.endswith(".py")}
    expected = {p.relative_to(ROOT).as_posix() for p in (ROOT / "llmcourse").rglob("*.py")}
    assert modules == expected
    assert any(name.endswith("LICENSE") for name in names)


def test_the_wheel_installs_and_runs_on_its_own(wheel: Path, tmp_path: Path):
    target = tmp_path / "site"
    pip(["install", "--no-deps", "--target", str(target), str(wheel)])
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    environment = os.environ | {"PYTHONPATH": str(target), "LLMCOURSE_HOME": str(tmp_path / "home")}

    def run(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=elsewhere,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    file = run("-c", "import llmcourse.model, llmcourse.train; print(llmcourse.__file__)")
    assert Path(file.strip()).is_relative_to(target)
    assert "doctor" in run("-m", "llmcourse", "--help")
    assert "attention.py" in run("-m", "llmcourse", "where", "attend")
    # The command itself, as pip wrote it.
    script = target / "bin" / "llmcourse"
    if script.is_file():
        assert "doctor" in run(str(script), "--help")
