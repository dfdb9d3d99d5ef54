"""What a tracker is: four calls, and a promise never to kill the run that it watches. Part 4.

    with Trackers(ConsoleTracker(), JsonlTracker("run.jsonl")).start(config) as tracker:
        for record in training_steps(...):
            tracker.log(record.step, {"loss": record.loss, "tokens/s": speed})

A tracker that cannot work (its package is missing, its disk is full) says so at the start, when
somebody is looking. If it fails later, hours of training must not be lost for a curve: it warns
once, is switched off, and the run goes on. A mistake of the caller's (a step that goes backwards, a
value that is no number) is an error at any time, the same for every tracker.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Mapping
from typing import Any, Self

from llmcourse.errors import TrackingError
from llmcourse.train.tracking.plain import plain_config, plain_values


class Tracker:
    """The interface, and the guard around what differs: `_start`, `_log`, `_text`, `_finish`."""

    name = "tracker"  # as messages call it

    def __init__(self) -> None:
        self._state = "new"  # then "running", perhaps "off" (it failed), at last "finished"
        self._step = 0  # of the last record

    def start(self, config: object = None, *, resume_step: int | None = None) -> Self:
        """Begins a run, or goes on with one.

        Args:
            config: what to remember of the run: a dataclass, a mapping or nothing.
            resume_step: the step of the checkpoint that the run goes on from; what was recorded
                after it has not happened and is dropped. None begins a new run.

        Raises:
            ValueError: the configuration is neither, or the step is negative.
            TrackingError: the tracker cannot work, or has been started before.
        """
        if self._state != "new":
            raise TrackingError(f"the {self.name} tracker has been started before; make a new one")
        plain = plain_config(config)
        if resume_step is not None:
            _check_step(resume_step)
        try:
            self._start(plain, resume_step)
        except ImportError as error:
            raise TrackingError(
                f"the {self.name} tracker needs a package that is not installed ({error});"
                " pip install 'llmcourse[tracking]', or track without it"
            ) from error
        except TrackingError:
            raise
        except Exception as error:
            raise TrackingError(f"the {self.name} tracker cannot start: {error}") from error
        self._step = resume_step or 0
        self._state = "running"
        return self

    def log(self, step: int, values: Mapping[str, Any]) -> None:
        """Records numbers after an update; None stands for "not measured" and is left out.

        Args:
            step: updates made; never less than the step before.
            values: name -> number, or tensor that holds one number.

        Raises:
            ValueError: a step that goes backwards, a name that is no str, a value that is no
                number.
            TrackingError: the tracker has not been started, or is finished.
        """
        numbers = plain_values(values)
        self._advance(step)
        if numbers:
            self._guard("log", self._log, step, numbers)

    def text(self, step: int, name: str, text: str) -> None:
        """Records a text, such as a sample that the model wrote.

        Raises:
            ValueError: as `log`; or the text is no str.
            TrackingError: as `log`.
        """
        if not isinstance(name, str) or not isinstance(text, str):
            raise ValueError(f"a text and its name must be str, got {name!r}: {text!r:.60}")
        self._advance(step)
        self._guard("text", self._text, step, name, text)

    def finish(self) -> None:
        """Ends the run and closes what is open. A second call does nothing."""
        if self._state == "running":
            self._guard("finish", self._finish)
        elif self._state == "off":
            # It has warned already; what it still holds open is given back if it can be.
            with contextlib.suppress(Exception):
                self._finish()
        if self._state != "new":
            self._state = "finished"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.finish()

    def _advance(self, step: int) -> None:
        if self._state in ("new", "finished"):
            how = "has not been started" if self._state == "new" else "is finished"
            raise TrackingError(f"the {self.name} tracker {how}; call start(config) before log")
        _check_step(step)
        if step < self._step:
            raise ValueError(
                f"step {step} comes after step {self._step}; steps never go backwards"
                " (start(config, resume_step=...) goes on from an earlier one)"
            )
        self._step = step

    def _guard(self, what: str, call: Any, *arguments: object) -> None:
        if self._state == "off":
            return
        try:
            call(*arguments)
        except Exception as error:  # whatever it is, it is not worth the run
            self._state = "off"
            warnings.warn(
                f"the {self.name} tracker failed in {what} at step {self._step} and is switched"
                f" off; training goes on: {error}",
                RuntimeWarning,
                stacklevel=3,  # whoever called log, text or finish
            )

    # What a tracker does; exceptions are the guard's business.

    def _start(self, config: dict[str, Any], resume_step: int | None) -> None:
        raise NotImplementedError

    def _log(self, step: int, values: dict[str, float | int]) -> None:
        raise NotImplementedError

    def _text(self, step: int, name: str, text: str) -> None:
        raise NotImplementedError

    def _finish(self) -> None:
        raise NotImplementedError


def _check_step(step: int) -> None:
    if not isinstance(step, int) or isinstance(step, bool) or step < 0:
        raise ValueError(f"a step must be a whole number of at least 0, got {step!r}")
