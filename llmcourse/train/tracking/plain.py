"""Configurations and numbers as every file format can hold them. Part 4."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Mapping
from typing import Any


def plain_config(config: object) -> dict[str, Any]:
    """A configuration as JSON can hold it: dataclasses as mappings, paths and the like as text.

    Raises:
        ValueError: it is neither a dataclass nor a mapping nor None.
    """
    if config is None:
        return {}
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        config = dataclasses.asdict(config)
    if not isinstance(config, Mapping):
        raise ValueError(
            f"config must be a dataclass or a mapping of names to values, got {config!r:.60}"
        )
    return {str(name): _plain(value) for name, value in config.items()}


def plain_values(values: Mapping[str, Any]) -> dict[str, float | int]:
    """Numbers as Python's own, from numbers and tensors of one element; None is left out.

    Raises:
        ValueError: no mapping, a name that is no str, a value that is no number.
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"values must be a mapping of names to numbers, got {values!r:.60}")
    numbers: dict[str, float | int] = {}
    for name, value in values.items():
        if not isinstance(name, str) or not name:
            raise ValueError(f"a value's name must be a str that is not empty, got {name!r:.60}")
        if value is None:
            continue
        try:
            # Tensors and NumPy's numbers know how to become Python's.
            number = value.item() if hasattr(value, "item") else value
        except (RuntimeError, ValueError):
            number = value
        if not isinstance(number, bool | int | float):
            raise ValueError(f"{name} must be one number, got {value!r:.60}; texts go to text()")
        numbers[name] = number if isinstance(number, float) else int(number)
    return numbers


def json_line(record: Mapping[str, Any]) -> bytes:
    """One line of valid JSON. JSON has no word for what is not finite: it is the str "nan", "inf"
    or "-inf", which float() reads back."""
    return (json.dumps(_finite(record), ensure_ascii=False, allow_nan=False) + "\n").encode(
        "utf-8", "backslashreplace"
    )


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        items = sorted(value, key=str) if isinstance(value, set | frozenset) else value
        return [_plain(item) for item in items]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return os.fspath(value) if isinstance(value, os.PathLike) else str(value)
