"""What a recipe must say: choices that differ from the defaults, so that a new one changes nothing.

A recipe's fingerprint tells a stale measurement from a good one. When a later part gives a config
one more field, every earlier run has that field's default without having said so; a recipe that
wrote all fields down would call its own measurements stale.
"""

from __future__ import annotations

import dataclasses
from typing import Any


def stated(values: dict[str, Any], *kinds: type) -> dict[str, Any]:
    """The entries of `values` that are neither None nor the default of a field of `kinds`.

    Args:
        values: options by name, as `dataclasses.asdict` gives them.
        kinds: the dataclasses they are for.
    """
    defaults = {field.name: field.default for kind in kinds for field in dataclasses.fields(kind)}
    return {
        name: value
        for name, value in values.items()
        if value is not None and (name not in defaults or value != defaults[name])
    }
