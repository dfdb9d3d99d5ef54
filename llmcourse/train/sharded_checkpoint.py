"""A training run's state written by many processes at once, and read by fewer or more. Part 4.

A model that is divided among processes is nowhere whole. Here each process writes what it has, and
torch's distributed checkpoint (`torch.distributed.checkpoint`) works out, when it is read, which
pieces of which file a process needs: two may save and one go on, or the other way round, with the
same bits.

    folder/sharded.json               what belongs to it, checksums, the run's facts
    folder/shards-STEP-N/*.safetensors    one file from each process

`sharded.json` is replaced in one step after everything else is on the disk; that is when the new
checkpoint begins to exist. All processes must see the same folder.

Nothing is unpickled from a file. torch's usual format keeps its table of contents as a pickle
(`.metadata`), so this uses the other one it has: safetensors whose headers say where each piece
belongs. While they run, torch's processes do send each other pickled plans; those come from the
processes that `torchrun` started and from no file.
"""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.api import CheckpointException

from llmcourse import __version__
from llmcourse.errors import CheckpointError
from llmcourse.files import atomic_write
from llmcourse.model import ModelConfig, Transformer
from llmcourse.train.sharded_files import (
    FORMAT,
    MANIFEST,
    check_files,
    describe_files,
    free_name,
    read_manifest,
)
from llmcourse.train.state import TrainState


def save(
    path: str | os.PathLike[str], state: TrainState, *, notes: Mapping[str, Any] | None = None
) -> Path:
    """Write the weights and the training state; every process must call it.

    Args:
        path: a folder that all processes see; a sharded checkpoint there is replaced in one step.
        state: of the run, between two updates.
        notes: whatever is worth keeping beside it, ready for JSON.

    Returns:
        The folder.

    Raises:
        CheckpointError: a process could not write; the old checkpoint is untouched.
        ValueError: the batches cannot say where they stand.
    """
    folder, processes = Path(path), state.processes
    config = getattr(state.model, "config", None)
    tensors, scalars = _tensors_of(state)
    manifest = {
        "format": FORMAT,
        "llmcourse": __version__,
        "processes": processes.world_size,
        "model": config.to_dict() if isinstance(config, ModelConfig) else None,
        "training": state.facts(),
        "scalars": scalars,
        "notes": dict(notes or {}),
        "folder": free_name(folder, state.step),
    }
    inside = folder / manifest["folder"]
    if processes.main:
        shutil.rmtree(inside, ignore_errors=True)  # of a save that was killed
    processes.all(True)  # nobody writes before that, nor looks for a free name after this
    error: BaseException | None = None
    try:
        with _plain_errors(f"{folder} cannot be saved"):
            writer = HuggingFaceStorageWriter(str(inside), save_distributed=True)
            dcp.save(tensors, storage_writer=writer, no_dist=processes.world_size == 1)
            if processes.main:
                manifest["files"] = describe_files(inside)
                atomic_write(folder / MANIFEST, json.dumps(manifest, indent=1))
    except (CheckpointError, TypeError) as caught:
        error = caught
    if not processes.all(error is None):
        if processes.main:
            shutil.rmtree(inside, ignore_errors=True)
        raise error or CheckpointError(f"{folder} cannot be saved: another process could not write")
    if processes.main:
        for old in folder.glob("shards-*"):
            if old != inside:
                shutil.rmtree(old, ignore_errors=True)
    return folder


def load(path: str | os.PathLike[str], state: TrainState) -> dict[str, Any]:
    """Go on where the run stood that `save` wrote; every process must call it.

    The number of processes, and how they share the work, may be others than they were.

    Args:
        state: of the same model, config and data; its weights and all else are overwritten.

    Returns:
        The notes.

    Raises:
        CheckpointError: nothing there, a damaged or missing file (named), another model, config or
            data. Nothing has been changed then.
    """
    folder, processes = Path(path), state.processes
    manifest = read_manifest(folder)
    inside = folder / manifest["folder"]
    _verify(inside, manifest["files"], state)
    owners = _owners(state)
    with _plain_errors(f"{folder} cannot be read"):
        reader = HuggingFaceStorageReader(str(inside))
        saved = reader.read_metadata().state_dict_metadata
        missing = [key for key in owners if key.startswith("model.") and key not in saved]
        if missing:
            raise CheckpointError(f"{folder} is of another model: it lacks {missing[0]}")
        # Laid out as in the file, whatever the layout in memory is.
        places: dict[str, Tensor] = {}
        for key, entry in saved.items():
            size, dtype = entry.size, entry.properties.dtype
            if key in manifest["scalars"] or key.startswith("random."):
                places[key] = torch.empty(size, dtype=dtype)
                continue
            owner = owners.get(_owner_of(key))
            if owner is None:
                raise CheckpointError(f"{folder} is of another model or run: it has {key}")
            places[key] = torch.empty_like(processes.canonical(*owner), dtype=dtype)
            if places[key].shape != size:
                raise CheckpointError(
                    f"{folder} is of another model: {key} has shape {tuple(size)}, here "
                    f"{tuple(places[key].shape)}"
                )
        dcp.load(places, storage_reader=reader, no_dist=processes.world_size == 1)
    for key, place in places.items():
        if key in manifest["scalars"]:
            places[key] = place.reshape(())
        elif not key.startswith("random."):
            name, parameter = owners[_owner_of(key)]
            places[key] = processes.restored(name, place, parameter)
    rest = {key: tensor for key, tensor in places.items() if not key.startswith("model.")}
    state.load(rest, manifest["training"])  # refuses before it changes anything
    with torch.no_grad():
        for key, (_, parameter) in owners.items():
            if key.startswith("model."):
                parameter.copy_(places[key])
    return manifest["notes"]


def read_notes(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What was kept beside a checkpoint, without reading its weights.

    Raises:
        CheckpointError: nothing there, or a damaged manifest.
    """
    return read_manifest(Path(path))["notes"]


def load_model(path: str | os.PathLike[str]) -> Transformer:
    """The model alone, whole, in evaluation mode, on the CPU; for one process.

    Raises:
        CheckpointError: nothing there, damaged, or not of a `Transformer`.
    """
    folder = Path(path)
    manifest = read_manifest(folder)
    if manifest["model"] is None:
        raise CheckpointError(f"{folder} does not say which model it is of")
    inside = folder / manifest["folder"]
    check_files(inside, manifest["files"])
    model = Transformer(ModelConfig.from_dict(manifest["model"]), torch.Generator())
    places = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    with _plain_errors(f"{folder} cannot be read"):
        reader = HuggingFaceStorageReader(str(inside))
        dcp.load(places, storage_reader=reader, no_dist=True)
    return model.eval()


def _tensors_of(state: TrainState) -> tuple[dict[str, Tensor], list[str]]:
    """Everything to save by name, and which of the names hold a single number.

    What all processes have alike and is not of the model is given by the main one only.
    """
    processes = state.processes
    found = {
        f"model.{name}": processes.canonical(name, tensor)
        for name, tensor in state.model.state_dict().items()
    }
    scalars: dict[str, Tensor] = {}
    names = {id(p): name for name, p in state.model.named_parameters()}
    for number, optimizer in enumerate(state.optimizers):
        listed = [p for group in optimizer.param_groups for p in group["params"]]
        for index, p in enumerate(listed):
            for entry, value in optimizer.state.get(p, {}).items():
                key = f"optimizer.{number}.{index}.{entry}"
                if isinstance(value, Tensor) and value.ndim:
                    found[key] = processes.canonical(names[id(p)], value)
                else:
                    scalars[key] = torch.as_tensor(value).reshape(1)
    if processes.main:
        found |= scalars | state.random_tensors()
    return found, list(scalars)


def _owners(state: TrainState) -> dict[str, tuple[str, Tensor]]:
    """The parameter, with its name in the model, by what keys of the file begin with."""
    tensors = dict(state.model.named_parameters()) | dict(state.model.named_buffers())
    owners = {f"model.{name}": (name, tensors[name]) for name in state.model.state_dict()}
    names = {id(p): name for name, p in state.model.named_parameters()}
    for number, optimizer in enumerate(state.optimizers):
        listed = [p for group in optimizer.param_groups for p in group["params"]]
        for index, p in enumerate(listed):
            owners[f"optimizer.{number}.{index}"] = (names[id(p)], p)
    return owners


def _owner_of(key: str) -> str:
    """`optimizer.0.12.exp_avg` belongs to `optimizer.0.12`, and weights to themselves."""
    return key if key.startswith("model.") else key.rpartition(".")[0]


def _verify(inside: Path, files: Mapping[str, Any], state: TrainState) -> None:
    """Every byte, each process its share of the files; all of them refuse together."""
    processes = state.processes
    mine = list(files)[processes.rank :: processes.world_size]
    error: CheckpointError | None = None
    try:
        check_files(inside, {name: files[name] for name in mine}, set(files))
    except CheckpointError as caught:
        error = caught
    if not processes.all(error is None):
        raise error or CheckpointError(f"{inside} is damaged, as another process found")


@contextmanager
def _plain_errors(what: str) -> Iterator[None]:
    """torch's and safetensors' complaints as a `CheckpointError`."""
    try:
        with warnings.catch_warnings():
            # One process alone is meant, and need not be told so.
            warnings.filterwarnings("ignore", "torch.distributed is disabled")
            yield
    except CheckpointException as error:  # which is no Exception
        rank, (cause, _) = next(iter(error.failures.items()))
        raise CheckpointError(f"{what}: rank {rank}: {type(cause).__name__}: {cause}") from error
    except (SafetensorError, OSError, KeyError, AssertionError) as error:
        raise CheckpointError(f"{what}: {type(error).__name__}: {error}") from error
