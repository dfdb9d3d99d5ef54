"""How a run saves itself on its way, and goes on from what it has saved."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from llmcourse.errors import CheckpointError
from llmcourse.model import Transformer
from llmcourse.options import as_dict
from llmcourse.runs.choices import TrainRun
from llmcourse.runs.prepare import Prepared
from llmcourse.train import History, StepRecord, TrainState, checkpoint
from llmcourse.train.checkpoints import MAY_CHANGE, Checkpoints, newest, refuse_changed_run
from llmcourse.train.state import refuse_changes

# What one may also change when a run is taken up again: where it runs, what is seen of it, and how
# processes share the work, as long as they read the same rows together.
RUN_MAY_CHANGE = (
    *(*MAY_CHANGE, "resume", "timeout", "batch_size", "data", "tensor"),
    "parallel.experts",  # over how many processes they are divided; `model.experts` stays
)


class Saving:
    """The checkpoints of a run on its way, in OUT/checkpoints.

    Args:
        options: every choice of the run.
        made: its pieces.
        state: how far it is.

    Raises:
        ValueError: the best checkpoint is to be kept of a model that lies in pieces.
    """

    def __init__(self, options: TrainRun, made: Prepared, state: TrainState) -> None:
        self.options, self.made, self.state = options, made, state
        self.folder = Path(options.out) / "checkpoints"
        self.notes: dict[str, Any] = {
            "run": as_dict(options),
            "corpus_fingerprint": made.corpus.fingerprint,
            "rows_per_batch": options.batch_size * state.processes.data_size,  # of all processes
        }
        asked = options.checkpoints
        in_pieces = state.processes.pieces
        if in_pieces and asked.keep_best:
            raise ValueError(
                "checkpoints.keep_best is for models that every process has whole; with "
                "parallel.data=fsdp, or parallel.tensor or parallel.experts above 1, only the newest "
                "checkpoint is kept"
            )
        self.checkpoints: Checkpoints | None = None
        if asked.every or asked.keep_best:
            self.checkpoints = (ShardedCheckpoints if in_pieces else Checkpoints)(
                self.folder,
                every=asked.every,
                keep_last=asked.keep_last,
                keep_best=asked.keep_best,
                on_signal=asked.on_signal,
                tokenizer=made.tokenizer,
                notes=self.notes,
            )

    @property
    def stopped(self) -> bool:
        """Whether a signal has ended the run before its last update."""
        ended = self.state.step == self.options.training.steps
        return self.checkpoints is not None and self.checkpoints.stopped and not ended

    def resume(self) -> History | None:
        """Go on from the newest checkpoint, if that is asked for and there is one.

        Returns:
            The history so far; None if the run begins.

        Raises:
            CheckpointError: the newest is damaged, or of a run with other choices, another corpus
                or another tokenizer. Nothing has been changed then.
        """
        if isinstance(self.checkpoints, ShardedCheckpoints):
            return self.checkpoints.resume(self.state, self._check, self.options.resume)
        path = newest(self.folder) if self.options.resume else None
        if path is None:
            return None
        saved = checkpoint.load(path)
        tokenizer = saved.tokenizer.to_dict() if saved.tokenizer else None
        self._check(path, saved.notes, tokenizer)
        saved.restore(self.state)
        return saved.history

    def _check(self, path: Path, notes: dict[str, Any], tokenizer: dict[str, Any] | None) -> None:
        """Whether what was saved is of this run."""
        refuse_changed_run(notes["run"], self.notes["run"], RUN_MAY_CHANGE)
        rows = {"batch_size of all processes": notes["rows_per_batch"]}
        refuse_changes(rows, dict.fromkeys(rows, self.notes["rows_per_batch"]), ())
        before, now = notes["corpus_fingerprint"], self.notes["corpus_fingerprint"]
        if before != now:
            raise CheckpointError(
                f"{path} was trained on another text: the corpus {self.options.corpus!r} had the "
                f"fingerprint {before[:12]} and has {now[:12]}"
            )
        if tokenizer != self.made.tokenizer.to_dict():
            raise CheckpointError(f"{path} was trained with another tokenizer than this run's")


class ShardedCheckpoints(Checkpoints):
    """The newest checkpoint of a run whose model lies in pieces on several processes.

    Each process writes its own pieces; `llmcourse.train.sharded_checkpoint` says how. A new one
    replaces the old one in one step.
    """

    @property
    def path(self) -> Path:
        return self.folder / "sharded"

    def save(
        self,
        model: Transformer,
        state: TrainState,
        record: StepRecord,
        history: History | None = None,
    ) -> Path:
        """Save now; every process must come here."""
        from llmcourse.train import sharded_checkpoint

        own = {
            "checkpoint": {"step": record.step, "validation_loss": record.validation_loss},
            "history": json.loads(history.to_json()) if history else None,
            "tokenizer": self.tokenizer.to_dict() if self.tokenizer else None,
        }
        return sharded_checkpoint.save(self.path, state, notes=self.notes | own)

    def resume(self, state: TrainState, check: Any, wanted: bool) -> History | None:
        """Go on from what is there; `check(path, notes, tokenizer)` refuses another run's.

        Raises:
            CheckpointError: as `Saving.resume`; or there is a checkpoint and none is wanted.
        """
        from llmcourse.train import sharded_checkpoint

        if not (self.path / sharded_checkpoint.MANIFEST).is_file():
            return None
        if not wanted:
            raise CheckpointError(
                f"{self.path} holds a checkpoint of another run; resume that run, name another "
                f"folder, or delete it"
            )
        notes = sharded_checkpoint.read_notes(self.path)
        check(self.path, notes, notes["tokenizer"])
        sharded_checkpoint.load(self.path, state)
        return History.from_json(json.dumps(notes["history"])) if notes["history"] else None
