"""When a run saves itself, what it keeps, and where a resumed run begins.

Taught in Part 4. Each checkpoint is a folder of its own, `step-00000100` for the one after 100
updates, whole or not there (`llmcourse.train.checkpoint`). One is saved

- every so many updates, of which the newest few are kept;
- whenever the validation loss is the lowest so far, and that one is kept until a lower one comes;
- when the machine asks the run to end (SIGTERM; SIGINT is Ctrl-C): after the update in progress.

The older ones go only when the newer one is safely on the disk, and of each the manifest goes
first, so that no crash leaves a checkpoint that looks whole and is not. What a crash does leave,
the next save clears away.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import threading
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

from llmcourse.errors import CheckpointError
from llmcourse.files import sync_folder
from llmcourse.model import Transformer
from llmcourse.tokenizers import Tokenizer
from llmcourse.train import checkpoint
from llmcourse.train.checkpoint_series import (
    best,
    folder_of,
    newest,
    remove,
    step_folders,
    steps,
    validation_losses,
)
from llmcourse.train.history import History, StepRecord
from llmcourse.train.state import MAY_CHANGE as OF_TRAINING
from llmcourse.train.state import TrainState, refuse_changes

__all__ = ["MAY_CHANGE", "Checkpoints", "best", "newest", "refuse_changed_run", "steps"]

SIGNALS = (signal.SIGTERM, signal.SIGINT)
# What changes where a run happens and what is seen of it, but not what it computes.
MAY_CHANGE = (
    *OF_TRAINING,
    "prompt",
    "sample_length",
    "judged_stories",
    "device",
    "threads",
    "out",
    "tracking",
    "checkpoints",
)


class Checkpoints:
    """The checkpoints of one run.

    Args:
        folder: where the `step-...` folders are; made when the first is saved.
        every: updates between two checkpoints; 0 saves none for this reason.
        keep_last: how many of the newest are kept.
        keep_best: save, and keep, the one with the lowest validation loss as well.
        on_signal: on SIGTERM and SIGINT finish the update, save and stop. A second signal does what
            it always does. Python lets only the main thread receive signals: elsewhere `watch`
            leaves them alone.
        tokenizer, notes: saved in each.

    Raises:
        ValueError: a number out of range.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        every: int = 0,
        keep_last: int = 2,
        keep_best: bool = True,
        on_signal: bool = True,
        tokenizer: Tokenizer | None = None,
        notes: dict[str, Any] | None = None,
    ) -> None:
        if not isinstance(every, int) or every < 0:
            raise ValueError(f"every={every!r} must be 0 or more updates")
        if not isinstance(keep_last, int) or keep_last < 1:
            raise ValueError(f"keep_last={keep_last!r} must be at least 1 checkpoint")
        self.folder = Path(folder)
        self.every, self.keep_last, self.keep_best = every, keep_last, keep_best
        self.on_signal = on_signal
        self.tokenizer, self.notes = tokenizer, notes or {}
        self.signal: int | None = None  # the signal that came
        self.stopped = False  # a signal came, the run is saved, and training ends

    @contextlib.contextmanager
    def watch(self, state: TrainState) -> Iterator[None]:
        """Around a run: clears what a crash left, receives signals, gives them back at the end.

        Raises:
            CheckpointError: the folder holds checkpoints beyond `state.step`, of another run.
            ValueError: the batches cannot say where they stand.
        """
        state.facts()  # refuses what could not be saved before any work is done
        self._refuse_the_future(state.step)
        if state.processes.main:
            self._remove_old()
        self.signal, self.stopped = None, False
        if not self.on_signal or threading.current_thread() is not threading.main_thread():
            yield
            return
        # None: a handler that is not Python's and could not be put back.
        before = {s: h for s in SIGNALS if (h := signal.getsignal(s)) is not None}

        def give_back() -> None:
            for number, handler in before.items():
                signal.signal(number, handler)

        def receive(number: int, frame: FrameType | None) -> None:
            self.signal = number
            give_back()  # whoever asks twice does not want to wait

        for number in before:
            signal.signal(number, receive)
        try:
            yield
        finally:
            give_back()

    def consider(
        self,
        model: Transformer,
        state: TrainState,
        record: StepRecord,
        history: History | None = None,
    ) -> Path | None:
        """After each update: save if it is time to. Sets `stopped` if a signal asks for the end.

        Args:
            model: as it is after the update.
            state: likewise.
            record: the update's.
            history: all records so far, saved along.

        Returns:
            The folder, or None if nothing was to be saved.

        Raises:
            OSError: the disk refused; the checkpoints that are there are untouched.
        """
        asked = self._asked_to_end(state)
        due = self.every > 0 and record.step % self.every == 0
        # The main process alone looks at the files, which it alone changes.
        best = record.validation_loss is not None and state.processes.any(
            state.processes.main and self._is_best(record)
        )
        if not (asked or due or best):
            return None
        saved = self.save(model, state, record, history)
        # One process alone need not do another update if the signal came during the save.
        self.stopped = asked or (state.processes.world_size == 1 and self.signal is not None)
        return saved

    def save(
        self,
        model: Transformer,
        state: TrainState,
        record: StepRecord,
        history: History | None = None,
    ) -> Path:
        """Save now, then remove what need not be kept; arguments are those of `consider`.

        Of several processes only the main one writes.
        """
        path = folder_of(self.folder, record.step)
        if not state.processes.main:
            return path
        self._refuse_the_future(record.step)
        own = {"step": record.step, "validation_loss": record.validation_loss}
        checkpoint.save(
            path,
            model,
            tokenizer=self.tokenizer,
            history=history,
            notes=self.notes | {"checkpoint": own},
            state=state,
        )
        sync_folder(self.folder)  # the new folder's own entry, before anything older goes
        self._remove_old()
        return path

    def _asked_to_end(self, state: TrainState) -> bool:
        came = self.signal is not None
        if state.processes.world_size == 1 or not self.on_signal:
            return came
        # All or none, at the same update: one that went on alone would wait for the others.
        return state.processes.any(came)

    def _is_best(self, record: StepRecord) -> bool:
        loss = record.validation_loss
        if not self.keep_best or loss is None:
            return False
        losses = validation_losses(self.folder, skip_damaged=True)
        return loss < min(losses.values(), default=math.inf)  # false for a nan

    def _remove_old(self) -> None:
        keep = set(sorted(steps(self.folder))[-self.keep_last :])
        if self.keep_best:
            losses = validation_losses(self.folder, skip_damaged=True)
            keep |= {min(losses, key=losses.__getitem__)} if losses else set()
        for step, path in step_folders(self.folder).items():
            if step not in keep:
                remove(path)

    def _refuse_the_future(self, step: int) -> None:
        beyond = [path.name for s, path in steps(self.folder).items() if s > step]
        if beyond:
            raise CheckpointError(
                f"{self.folder} holds checkpoints of another run, beyond step {step}: "
                f"{', '.join(beyond)}; resume that run, name another folder, or delete them"
            )


def refuse_changed_run(
    saved: Mapping[str, Any], now: Mapping[str, Any], may_change: Iterable[str] = MAY_CHANGE
) -> None:
    """Refuse to resume a run whose description has changed.

    Args:
        saved, now: descriptions as nested dictionaries, the saved one after a round trip through
            JSON or not.
        may_change: names, of a field or of a whole part, that may differ at any depth.

    Raises:
        CheckpointError: names the first field that differs, with its old and its new value.
    """
    before, after = _flat(saved, set(may_change)), _flat(now, set(may_change))
    refuse_changes(before, after, ())


def _flat(values: Mapping[str, Any], without: set[str], prefix: str = "") -> dict[str, Any]:
    """`{"a": {"b": 1}}` as `{"a.b": 1}`, with values as JSON would give them back.

    `without` names what is left out: "b" at any depth, "a.b" only there.
    """
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if name in without or f"{prefix}{name}" in without:
            continue
        if isinstance(value, Mapping) and value:
            flat |= _flat(value, without, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = json.loads(json.dumps(value))
    return flat
