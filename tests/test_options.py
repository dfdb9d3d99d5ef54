"""Flags, YAML and defaults from one dataclass."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from llmcourse.options import as_dict, build_parser, read_options


@dataclass(frozen=True)
class Inner:
    steps: int = 10  # updates; 100% of them
    rate: float = 0.5  # a rate
    shared: int = 1  # in both groups


@dataclass(frozen=True)
class Other:
    shared: int = 2  # in both groups


@dataclass(frozen=True)
class Options:
    """An example."""

    inner: Inner = field(default_factory=Inner)  # the inner one
    other: Other = field(default_factory=Other)  # the other one
    name: str = "x"  # a name
    limit: int | None = None  # a limit, or none
    batch_size: int = 4  # rows
    quiet: bool = False  # say less

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"batch_size={self.batch_size} must be at least 1")


@dataclass(frozen=True)
class Needy:
    """Needs a value."""

    paths: tuple[str, ...]  # files
    key: int  # required


def read(*argv: str, config_file: bool = True) -> Options:
    return read_options(Options, argv, "example", config_file=config_file)


def config(tmp_path: Path, text: str) -> str:
    path = tmp_path / "config.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_defaults_are_the_dataclass():
    assert read() == Options()


def test_flags_reach_every_field():
    got = read("--inner.steps", "3", "--inner.rate=0.25", "--limit", "7", "--quiet", "--name", "y")
    assert got == Options(inner=Inner(3, 0.25), limit=7, quiet=True, name="y")


def test_hyphens_and_short_names():
    assert read("--batch-size", "5").batch_size == 5
    assert read("--steps", "3").inner.steps == 3
    with pytest.raises(ValueError, match=r"could be any of --inner.shared, --other.shared"):
        read("--shared", "3")


def test_yaml_reaches_every_field_and_later_flags_win(tmp_path):
    path = config(tmp_path, "name: z\nquiet: true\ninner: {steps: 3, rate: 1.0e-3}\nlimit: null\n")
    assert read("--config", path) == Options(inner=Inner(3, 0.001), name="z", quiet=True)
    assert read("--config", path, "--steps", "9").inner == Inner(9, 0.001)
    assert read(f"--config={path}", "--name", "last").name == "last"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--nam", "y"], r"unknown option --nam; did you mean '--name'\?"),
        (["--inner.setps", "3"], r"unknown option --inner.setps; did you mean '--inner.steps'\?"),
        (["--zzzzzz"], r"unknown option --zzzzzz; --help lists the options"),
        (["--inner.steps", "x"], r"inner.steps must be a whole number, got 'x'"),
        (["--inner.steps", "1.5"], r"inner.steps must be a whole number, got '1.5'"),
        (["--limit", "x"], r"limit must be a whole number, or null, got 'x'"),
        (["--inner.rate", "fast"], r"inner.rate must be a number, got 'fast'"),
        (["--name"], r"--name: expected one argument"),
        (["stray"], r"stray"),
        (["--batch_size", "0"], r"batch_size=0 must be at least 1"),
    ],
)
def test_a_wrong_flag_is_refused(argv, message):
    with pytest.raises(ValueError, match=message):
        read(*argv)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nmae: y", r"config.yaml: unknown key 'nmae'; did you mean 'name'\?"),
        ("inner: {setps: 3}", r"unknown key 'inner.setps'; did you mean 'inner.steps'\?"),
        ("iner: {steps: 3}", r"unknown key 'iner'; did you mean 'inner'\?"),
        ("inner: {steps: x}", r"inner.steps must be a whole number, got 'x'"),
        ("help: 1", r"unknown key 'help'"),
        ("config: a.yaml", r"unknown key 'config'"),
        ("- a list", r"must hold keys and values"),
        ("", r"must hold keys and values"),
        ("a: [", r"is not YAML"),
    ],
)
def test_a_wrong_config_is_refused(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        read("--config", config(tmp_path, text))


def test_a_config_that_is_not_there():
    with pytest.raises(ValueError, match=r"there is no config file nowhere.yaml"):
        read("--config", "nowhere.yaml")


def test_a_command_without_config_files_says_so():
    with pytest.raises(ValueError, match="unknown option --config"):
        read("--config", "a.yaml", config_file=False)


def test_positional_words_and_required_keys():
    got = read_options(Needy, ["a", "b", "--key", "1"], "needy", positional="paths")
    assert got == Needy(("a", "b"), 1)
    with pytest.raises(ValueError, match="paths"):
        read_options(Needy, ["--key", "1"], "needy", positional="paths")
    with pytest.raises(ValueError, match="key"):
        read_options(Needy, ["a"], "needy", positional="paths")


def test_help_is_the_comment_behind_the_field():
    # However it was folded.
    text = " ".join(build_parser(Options, "example", config_file=True).format_help().split())
    assert "usage: llmcourse example [options]" in text
    assert "updates; 100% of them (type: int, default: 10)" in text
    assert "--quiet" in text
    assert "the inner one:" in text


def test_as_dict_is_what_yaml_would_hold(tmp_path):
    import yaml

    path = config(tmp_path, yaml.safe_dump(as_dict(Options(name="w", inner=Inner(5)))))
    assert read("--config", path) == Options(name="w", inner=Inner(5))
