"""One definition for flags, YAML and defaults: a dataclass.

`read_options(TrainRun, argv, ...)` gives every field a flag (`--training.steps`), a key in the YAML
of `--config FILE`, its default, and its help, which is the comment behind the field. An unknown key
is refused, in a flag or in YAML, and the nearest valid one is named.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import inspect
import re
import typing
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")


def read_options(
    options: type[T],
    argv: Sequence[str],
    command: str,
    *,
    positional: str | None = None,
    config_file: bool = False,
) -> T:
    """Read `argv` into an instance of the dataclass `options`.

    Args:
        options: a dataclass; its docstring is the command's description.
        argv: the words behind the command's name.
        command: for the help text, "train".
        positional: a field that takes the words without a flag.
        config_file: whether `--config FILE` is understood.

    Raises:
        ValueError: an unknown key, a value of the wrong type, a missing one, or whatever the
            dataclass refuses.
    """
    parser = build_parser(options, command, positional=positional, config_file=config_file)
    words = _check_flags(parser, argv)
    for path in _config_files(words) if config_file else ():
        _check_config(parser, path)
    try:
        values = parser.parse_args(words)
    except argparse.ArgumentError as error:
        raise ValueError(_plain_words(parser, str(error))) from error
    return _instance(options, values)


def build_parser(
    options: type, command: str, *, positional: str | None = None, config_file: bool = False
) -> Any:
    """The parser for one command; raises rather than exits."""
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(
        prog=f"llmcourse {command}",
        description=inspect.getdoc(options),
        exit_on_error=False,
        formatter_class=_formatter(),
    )
    if config_file:
        parser.add_argument(
            "--config", action="config", help="a YAML file of these options; later flags win"
        )
    switches = {f.name for f in dataclasses.fields(options) if f.default is False}
    skip = switches | ({positional} if positional else set())
    if positional:
        kind = typing.get_type_hints(options)[positional]
        many = typing.get_origin(kind) in (list, tuple)
        parser.add_argument(positional, type=str, nargs="+" if many else None)
    parser.add_class_arguments(options, as_group=False, skip=skip)
    for name in sorted(switches):
        parser.add_argument(f"--{name.replace('_', '-')}", action="store_true")
    comments = dict(_comments(options))
    for action in parser._actions:
        if action.dest in comments:
            action.help = comments[action.dest]
    for name, group in parser.groups.items():
        group.title = comments.get(name, name)
    return parser


def as_dict(options: Any) -> dict[str, Any]:
    """A dataclass and the dataclasses in it as plain values, ready for JSON."""
    return dataclasses.asdict(options)


def _instance(options: type[T], values: Any) -> T:
    arguments = {}
    for field in dataclasses.fields(options):
        kind = typing.get_type_hints(options)[field.name]
        value = values[field.name]
        if dataclasses.is_dataclass(kind):
            value = _instance(kind, value)
        elif typing.get_origin(kind) is tuple:
            value = tuple(value)
        arguments[field.name] = value
    return options(**arguments)


def _formatter() -> type[argparse.HelpFormatter]:
    from jsonargparse import DefaultHelpFormatter

    class Formatter(DefaultHelpFormatter):
        def __init__(self, prog: str) -> None:
            super().__init__(prog, max_help_position=34, width=100)

        def add_usage(self, usage: Any, actions: Any, groups: Any, prefix: Any = None) -> None:
            # Forty flags in brackets help nobody; the list below has them all.
            positional = [a for a in actions if not a.option_strings]
            super().add_usage("%(prog)s " + self._words(positional), actions, groups, prefix)

        def _words(self, positional: list[argparse.Action]) -> str:
            return " ".join([*(a.dest.upper() for a in positional), "[options]"])

    return Formatter


def _comments(options: type, prefix: str = "") -> Iterator[tuple[str, str]]:
    """(dotted key, comment behind the field) for a dataclass and the dataclasses in it."""
    # A dataclass made from another's fields says where the comments are.
    source = inspect.getsource(getattr(options, "comments_from", options))
    behind = dict(re.findall(r"^    (\w+): [^#\n]*#\s*(.+)$", source, flags=re.MULTILINE))
    behind |= getattr(options, "comments", {})
    for field in dataclasses.fields(options):
        kind = typing.get_type_hints(options)[field.name]
        if field.name in behind:
            yield prefix + field.name, behind[field.name]
        if dataclasses.is_dataclass(kind):
            yield from _comments(kind, f"{prefix}{field.name}.")


def _check_flags(parser: Any, argv: Sequence[str]) -> list[str]:
    """The words of `argv` with every flag known and whole; hyphens count as underscores."""
    known = [flag for flag in parser._option_string_actions if flag.startswith("--")]
    words = list(argv)
    for n, word in enumerate(words):
        flag, equals, value = word.partition("=")
        if not flag.startswith("--") or flag in known:
            continue
        if word == "--":
            break
        name = flag[2:].replace("-", "_")
        # `--steps` for `--training.steps`, where only one option ends like that.
        meant = [k for k in known if k == f"--{name}"] or _outermost(
            [k for k in known if k.endswith(f".{name}")]
        )
        if len(meant) > 1:
            raise ValueError(f"{flag} could be any of {', '.join(meant)}; write it out")
        if not meant:
            raise ValueError(f"unknown option {flag}; {_nearest(flag, known)}")
        words[n] = meant[0] + equals + value
    return words


def _outermost(flags: list[str]) -> list[str]:
    """Those least deep inside other options: `--d_ff` is the model's, not its experts'."""
    depth = min((flag.count(".") for flag in flags), default=0)
    return [flag for flag in flags if flag.count(".") == depth]


_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


def _plain_words(parser: Any, message: str) -> str:
    """A parser's complaint about a value, in the words of the person who typed it."""
    key = re.search(r'Parser key "([^"]+)"', message)
    value = re.search(r"(?:Got|Given) value: (.*)", message)
    action = next((a for a in parser._actions if key and a.dest == key[1]), None)
    kind = getattr(action, "_typehint", None) or getattr(action, "type", None)
    kinds = [k for k in typing.get_args(kind) or (kind,) if k in _WORDS]
    if not (key and value and kinds):
        return message
    expected = " or ".join([_WORDS[k] for k in kinds])
    if type(None) in typing.get_args(kind):
        expected += ", or null"
    return f"{key[1]} must be {expected}, got {value[1].strip()!r}"


def _config_files(argv: Sequence[str]) -> Iterator[Path]:
    for word, following in pairwise([*argv, ""]):
        if word == "--config" and following:
            yield Path(following)
        elif word.startswith("--config="):
            yield Path(word.partition("=")[2])


def _check_config(parser: Any, path: Path) -> None:
    import yaml

    if not path.is_file():
        raise ValueError(f"there is no config file {path}")
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not YAML: {error}") from error
    if not isinstance(data, dict):
        raise ValueError(f"{path} must hold keys and values, such as 'corpus: docs'")
    actions = (a.dest for a in parser._actions if a.option_strings or a.dest != "help")
    leaves = {dest for dest in actions if dest not in ("help", "config", "print_config")}
    groups = {leaf.rpartition(".")[0] for leaf in leaves} - {""}
    for key in _flatten(data, groups):
        if key not in leaves | groups:
            # First among its neighbours: a slip of the finger rarely changes the group.
            inside = key.rpartition(".")[0]
            near = [leaf for leaf in sorted(leaves) if leaf.rpartition(".")[0] == inside]
            raise ValueError(
                f"{path}: unknown key {key!r}; {_nearest(key, near or sorted(leaves))}"
            )


def _flatten(data: dict[Any, Any], groups: set[str], prefix: str = "") -> Iterator[str]:
    for name, value in data.items():
        key = f"{prefix}{name}"
        if isinstance(value, dict) and key in groups:
            yield from _flatten(value, groups, f"{key}.")
        else:
            yield key


def _nearest(word: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    if close:
        return f"did you mean {close[0]!r}?"
    return "--help lists the options"
