"""Several trackers as one. Part 4."""

from __future__ import annotations

from typing import Any

from llmcourse.train.tracking.base import Tracker


class Trackers(Tracker):
    """Passes every call on to each of its trackers. One that fails does not silence the others.

    With no tracker at all it does nothing: a loop need not ask whether it is tracked.

    Raises:
        ValueError: one of them is no tracker.
    """

    def __init__(self, *trackers: Tracker) -> None:
        super().__init__()
        for tracker in trackers:
            if not isinstance(tracker, Tracker):
                raise ValueError(
                    f"Trackers takes trackers such as ConsoleTracker(), got {tracker!r}"
                )
        self.trackers = trackers
        self.name = " and ".join(tracker.name for tracker in trackers) or "empty"

    def _start(self, config: dict[str, Any], resume_step: int | None) -> None:
        try:
            for tracker in self.trackers:
                tracker.start(config, resume_step=resume_step)
        except BaseException:
            # The run will not take place: what has been opened is closed again.
            self._finish()
            raise

    # Each tracker has a guard of its own, so nothing below can fail.

    def _log(self, step: int, values: dict[str, float | int]) -> None:
        for tracker in self.trackers:
            tracker.log(step, values)

    def _text(self, step: int, name: str, text: str) -> None:
        for tracker in self.trackers:
            tracker.text(step, name, text)

    def _finish(self) -> None:
        for tracker in self.trackers:
            tracker.finish()
