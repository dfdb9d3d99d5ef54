"""Checkpoints: a folder of safetensors and JSON that is whole or not there.

Taught in Part 2; Part 4 adds the training state and with it exact resume. Nothing is ever
unpickled: a safetensors file holds numbers and names, and JSON holds the rest, so that opening a
stranger's checkpoint cannot run a stranger's code.

A save first writes the weights, and the training state if there is one, under names made from their
own checksums, and only then replaces `checkpoint.json`, which says which files belong to it. That
one small rename is the moment the new checkpoint begins to exist; a crash before it leaves the old
one complete. Whenever it comes, a crash leaves at most orphaned files, which the next save clears
away.
"""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor

from llmcourse import __version__
from llmcourse.errors import CheckpointError
from llmcourse.files import atomic_write
from llmcourse.model import ModelConfig, Transformer
from llmcourse.model.summary import summary
from llmcourse.tokenizers import Tokenizer, load_tokenizer
from llmcourse.train.checkpoint_files import (
    FORMAT,
    MANIFEST,
    clear_orphans,
    entry_of,
    read_file,
    read_manifest,
    sealed,
    verify,
)
from llmcourse.train.history import History

if TYPE_CHECKING:
    from llmcourse.train.state import TrainState

__all__ = ["MANIFEST", "Checkpoint", "SavedTraining", "load", "save", "verify"]

MOST_NUMBERS = 2**40  # parameters: 4 TB in float32


@dataclass(frozen=True)
class SavedTraining:
    """What a run carries beside its weights, as `llmcourse.train.state.TrainState` gave it."""

    tensors: dict[str, Tensor]  # on the CPU
    facts: dict[str, Any]

    @property
    def step(self) -> int:
        """Updates the run had made."""
        return self.facts["step"]

    def restore(self, state: TrainState) -> None:
        """Put `state` where the run stood; the weights are `Checkpoint.restore`'s.

        Raises:
            CheckpointError: another config, optimiser or other data; nothing has been changed.
        """
        state.load(self.tensors, self.facts)


@dataclass(frozen=True)
class Checkpoint:
    """What `load` returns."""

    model: Transformer  # in evaluation mode, on the CPU, in the dtype it was saved in
    tokenizer: Tokenizer | None
    history: History | None
    notes: dict[str, Any] = field(default_factory=dict)  # whatever was worth keeping beside it
    training: SavedTraining | None = None  # what it takes to go on; None: not saved, or not read

    def restore(self, state: TrainState) -> None:
        """Put `state` and the weights of its model where the run stood; it goes on from there.

        Raises:
            CheckpointError: there is no training state, or it is that of another run: of another
                model, config, optimiser or of other data. Nothing has been changed then.
        """
        if self.training is None:
            raise CheckpointError(
                "this checkpoint holds a model but no training state: it can be used and tuned, "
                "but the run that made it cannot be resumed from it"
            )
        config = getattr(state.model, "config", None)
        if config != self.model.config:
            raise CheckpointError(
                f"cannot resume with another model: {_difference(self.model.config, config)}"
            )
        weights = self.model.state_dict()
        for name, tensor in state.model.state_dict().items():
            if tensor.dtype != weights[name].dtype:
                raise CheckpointError(
                    f"cannot resume with another model: {name} was {weights[name].dtype} and is "
                    f"{tensor.dtype}"
                )
        self.training.restore(state)  # refuses before it changes anything
        state.model.load_state_dict(weights)


def save(
    path: str | os.PathLike[str],
    model: Transformer,
    *,
    tokenizer: Tokenizer | None = None,
    history: History | None = None,
    notes: dict[str, Any] | None = None,
    state: TrainState | None = None,
) -> Path:
    """Write a checkpoint folder; an existing checkpoint there is replaced in one step.

    Args:
        path: the folder.
        model: its weights and its config.
        tokenizer, history, notes: kept beside it.
        state: what it takes to resume the run; None saves the model alone.

    Returns:
        The folder.

    Raises:
        TypeError: `notes` or the state's facts hold something JSON cannot say.
        ValueError: the state's batches cannot say where they stand.
        FileExistsError: `path` is a file.
        OSError: the disk refused (full, read-only); the old checkpoint is untouched.
    """
    folder = Path(path)
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder} is a file; a checkpoint is a folder")
    manifest: dict[str, Any] = {
        "format": FORMAT,
        "llmcourse": __version__,
        "config": model.config.to_dict(),
        "tokenizer": tokenizer.to_dict() if tokenizer is not None else None,
        "history": json.loads(history.to_json()) if history is not None else None,
        "notes": notes or {},
    }
    facts = state.facts() if state is not None else None
    json.dumps([manifest, facts])  # before any file is touched: it may refuse
    training = _bytes_of(state.tensors()) if state is not None else None
    is_new = not folder.exists()
    try:
        if training is not None:
            manifest["training"] = entry_of("training", training) | {"facts": facts}
            atomic_write(folder / manifest["training"]["file"], training)
            del training  # twice the size of the weights
        weights = _bytes_of(model.state_dict())
        manifest["weights"] = entry_of("weights", weights)
        atomic_write(folder / manifest["weights"]["file"], weights)
        atomic_write(folder / MANIFEST, sealed(manifest))
    except BaseException as error:
        # What was written already may be what fills the disk.
        clear_orphans(folder)
        if is_new:
            with contextlib.suppress(OSError):
                folder.rmdir()
        if isinstance(error, OSError) and error.errno is not None:
            raise OSError(
                error.errno, f"{error.strerror}: {folder} was not saved; {_what_is_left(folder)}"
            ) from error
        raise
    clear_orphans(folder)
    return folder


def load(path: str | os.PathLike[str], *, training: bool = True) -> Checkpoint:
    """Read a checkpoint folder written by `save`, verifying every byte that is read.

    Args:
        path: the folder.
        training: read the training state as well, if there is one. It is about twice the size of
            the weights, and only a run that resumes needs it.

    Raises:
        CheckpointError: nothing there, a damaged or truncated file, a format this version cannot
            read, or weights that do not fit the config; the message says which.
    """
    folder = Path(path)
    manifest = read_manifest(folder)
    weights = _tensors(folder, manifest["weights"])
    try:
        config = ModelConfig.from_dict(manifest["config"])
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{folder / MANIFEST} holds an impossible config: {error}") from error
    # A damaged or hostile config may ask for more than any machine holds: look before building.
    if config.n_layers > len(weights) or summary(config).total_parameters > MOST_NUMBERS:
        raise CheckpointError(
            f"the weights in {folder} do not fit: {len(weights)} tensors are too few for "
            f"{config.n_layers:,} layers of width {config.d_model:,}"
        )
    with torch.device("meta"):
        model = Transformer(config)  # shapes only: the numbers come from the file
    _check_names(folder, model, weights)
    # Positions that are computed rather than learned are not in the file, so build them for real,
    # and without taking random numbers from whoever loads.
    with torch.random.fork_rng(devices=[]):
        model = Transformer(config)
    model.to(weights["embedding.weight"].dtype).load_state_dict(weights)
    tokenizer, history = manifest.get("tokenizer"), manifest.get("history")
    try:
        return Checkpoint(
            model=model.eval(),
            tokenizer=load_tokenizer(tokenizer) if tokenizer else None,
            history=History.from_json(json.dumps(history)) if history else None,
            notes=manifest.get("notes") or {},
            training=_training(folder, manifest.get("training")) if training else None,
        )
    except (ValueError, TypeError, KeyError) as error:
        raise CheckpointError(
            f"{folder / MANIFEST} holds a damaged tokenizer or history: {error}"
        ) from error


def _bytes_of(tensors: dict[str, Tensor]) -> bytes:
    return save_safetensors({n: t.detach().cpu().contiguous() for n, t in tensors.items()})


def _tensors(folder: Path, entry: dict[str, Any]) -> dict[str, Tensor]:
    data = read_file(folder, entry)
    try:
        return load_safetensors(data)
    except SafetensorError as error:
        raise CheckpointError(
            f"{folder / Path(str(entry['file'])).name} is not a safetensors file: {error}"
        ) from error


def _training(folder: Path, entry: dict[str, Any] | None) -> SavedTraining | None:
    return None if entry is None else SavedTraining(_tensors(folder, entry), entry["facts"])


def _what_is_left(folder: Path) -> str:
    if (folder / MANIFEST).exists():
        return "the checkpoint that was there is untouched"
    return "there was no checkpoint there before"


def _difference(old: ModelConfig, new: Any) -> str:
    """The first field in which two model configs differ, in words."""
    if not isinstance(new, ModelConfig):
        return f"it was a Transformer, this one has the config {new!r}"
    before, now = old.to_dict(), new.to_dict()
    name = next(name for name in {**before, **now} if before.get(name) != now.get(name))
    return f"{name} was {before.get(name)!r} and is {now.get(name)!r}"


def _check_names(folder: Path, model: Transformer, weights: dict[str, torch.Tensor]) -> None:
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    missing, extra = expected.keys() - found.keys(), found.keys() - expected.keys()
    wrong = [n for n in expected.keys() & found.keys() if expected[n] != found[n]]
    if missing or extra or wrong:
        problems = [f"missing {sorted(missing)}"] if missing else []
        problems += [f"unexpected {sorted(extra)}"] if extra else []
        problems += [f"{n} has shape {found[n]}, expected {expected[n]}" for n in sorted(wrong)]
        raise CheckpointError(f"the weights in {folder} do not fit: {'; '.join(problems)}")
