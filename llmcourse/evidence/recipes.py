"""What a recipe must say: choices that differ from the defaults, so that a new one changes nothing.

A recipe's fingerprint tells a stale measurement from a good one. When a later part gives a config
one more field, every earlier run has that field's default without having said so; a recipe that
wrote all fields down would call its own measurements stale.
"""

from __future__ import annotations

import dataclasses
from typing import Any


def stated(values: dict[str, Any], *kinds: type) -> dict[str, Any]:
    """The entries of `values` that say something and are not the default of a field of `kinds`.

    None says nothing, and neither does a record of changes in which every one is None.

    Args:
        values: options by name, as `dataclasses.asdict` gives them.
        kinds: the dataclasses they are for.
    """
    defaults = {f.name: _default(f) for kind in kinds for f in dataclasses.fields(kind)}
    return {
        name: value
        for name, value in values.items()
        if _says(value) and (name not in defaults or value != defaults[name])
    }


def _says(value: Any) -> bool:
    if isinstance(value, dict) and value:
        return any(map(_says, value.values()))
    return value is not None


def _default(field: dataclasses.Field) -> Any:
    """As `dataclasses.asdict` would give it; a record that is made anew each time is one too."""
    if field.default_factory is dataclasses.MISSING:
        return field.default
    made = field.default_factory()
    return dataclasses.asdict(made) if dataclasses.is_dataclass(made) else made
