"""Exercises that answer back: `check("1.3", attention)` says what is wrong, where, and why.

    from llmcourse.grading import check

One package per part holds the exercise records (`part01`, ...), one file an exercise. `core` checks
one answer, `runner` grades whole notebooks in fresh processes, `progress` remembers what a learner
has solved, and `build` generates `exercises/` from `solutions/`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmcourse.grading.core import check
    from llmcourse.grading.progress import Progress
    from llmcourse.grading.records import CheckFailed, Exercise, NotAttempted
    from llmcourse.grading.runner import Report, grade

__all__ = ["CheckFailed", "Exercise", "NotAttempted", "Progress", "Report", "check", "grade"]

_HOMES = {
    "check": "core",
    "CheckFailed": "records",
    "Exercise": "records",
    "NotAttempted": "records",
    "Progress": "progress",
    "Report": "runner",
    "grade": "runner",
}


def __getattr__(name: str) -> Any:
    # Loaded on demand: `llmcourse progress` should not pay for importing torch.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
