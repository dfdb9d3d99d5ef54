"""Checkpoints: a folder of safetensors and JSON that is whole or not there.

Taught in Part 2; Part 4 adds the optimiser and exact resume. Nothing is ever unpickled: a
safetensors file holds numbers and names, and JSON holds the rest, so that opening a stranger's
checkpoint cannot run a stranger's code.

A save first writes the weights under a name made from their own checksum, and only then replaces
`checkpoint.json`, which says which file belongs to it. That one small rename is the moment the new
checkpoint begins to exist; a crash before it leaves the old one complete. Whenever it comes, a
crash leaves at most orphaned files, which the next save clears away.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors

from llmcourse import __version__
from llmcourse.errors import CheckpointError
from llmcourse.files import atomic_write
from llmcourse.model import ModelConfig, Transformer
from llmcourse.model.summary import summary
from llmcourse.tokenizers import Tokenizer, load_tokenizer
from llmcourse.train.history import History

MANIFEST = "checkpoint.json"
# Weights of earlier checkpoints, and what a save that was killed had under temporary names.
ORPHANS = ("weights-*.safetensors", ".weights-*.tmp", f".{MANIFEST}.*.tmp")
MOST_NUMBERS = 2**40  # parameters: 4 TB in float32
FORMAT = 1  # raised whenever an older reader would misunderstand a newer file


@dataclass(frozen=True)
class Checkpoint:
    """What `load` returns."""

    model: Transformer  # in evaluation mode, on the CPU, in the dtype it was saved in
    tokenizer: Tokenizer | None
    history: History | None
    notes: dict[str, Any] = field(default_factory=dict)  # whatever was worth keeping beside it


def save(
    path: str | os.PathLike[str],
    model: Transformer,
    *,
    tokenizer: Tokenizer | None = None,
    history: History | None = None,
    notes: dict[str, Any] | None = None,
) -> Path:
    """Write a checkpoint folder; an existing checkpoint there is replaced in one step.

    Returns:
        The folder.

    Raises:
        TypeError: `notes` holds something JSON cannot say.
        FileExistsError: `path` is a file.
        OSError: the disk refused; the old checkpoint is untouched.
    """
    folder = Path(path)
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder} is a file; a checkpoint is a folder")
    weights = save_safetensors(
        {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    )
    checksum = hashlib.sha256(weights).hexdigest()
    weights_name = f"weights-{checksum[:16]}.safetensors"
    manifest = {
        "format": FORMAT,
        "llmcourse": __version__,
        "config": model.config.to_dict(),
        "weights": {"file": weights_name, "bytes": len(weights), "sha256": checksum},
        "tokenizer": tokenizer.to_dict() if tokenizer is not None else None,
        "history": json.loads(history.to_json()) if history is not None else None,
        "notes": notes or {},
    }
    text = json.dumps(manifest, indent=1)  # before any file is touched: it may refuse
    atomic_write(folder / weights_name, weights)
    atomic_write(folder / MANIFEST, text)
    for pattern in ORPHANS:
        for orphan in folder.glob(pattern):
            if orphan.name != weights_name:
                with contextlib.suppress(OSError):
                    orphan.unlink()
    return folder


def load(path: str | os.PathLike[str]) -> Checkpoint:
    """Read a checkpoint folder written by `save`, verifying every byte of the weights.

    Raises:
        CheckpointError: nothing there, a damaged or truncated file, a format this version cannot
            read, or weights that do not fit the config; the message says which.
    """
    folder = Path(path)
    manifest = _read_manifest(folder)
    weights = _read_weights(folder, manifest["weights"])
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
        )
    except (ValueError, TypeError, KeyError) as error:
        raise CheckpointError(
            f"{folder / MANIFEST} holds a damaged tokenizer or history: {error}"
        ) from error


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    if not path.is_file():
        raise CheckpointError(
            f"no checkpoint at {folder}: expected a folder that holds {MANIFEST}, "
            f"as written by llmcourse.train.checkpoint.save or `llmcourse train`"
        )
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged: it is not JSON ({error})") from error
    if not isinstance(manifest, dict) or not {"format", "config", "weights"} <= manifest.keys():
        raise CheckpointError(f"{path} is not a checkpoint: format, config or weights is missing")
    if manifest["format"] != FORMAT:
        raise CheckpointError(
            f"{path} has format {manifest['format']}; this version of llmcourse reads {FORMAT}"
        )
    entry = manifest["weights"]
    if not isinstance(entry, dict) or not {"file", "bytes", "sha256"} <= entry.keys():
        raise CheckpointError(f"{path} does not say which weights belong to it")
    return manifest


def _read_weights(folder: Path, entry: dict[str, Any]) -> dict[str, torch.Tensor]:
    # A name with a folder in it could point anywhere on the disk.
    path = folder / Path(str(entry["file"])).name
    if not path.is_file():
        raise CheckpointError(f"{path} is missing; the checkpoint is incomplete")
    data = path.read_bytes()
    if len(data) != entry["bytes"]:
        raise CheckpointError(
            f"{path} is truncated: {len(data):,} bytes of {entry['bytes']:,}; take it from a copy"
        )
    if hashlib.sha256(data).hexdigest() != entry["sha256"]:
        raise CheckpointError(f"{path} is damaged: its checksum is not the one that was saved")
    try:
        return load_safetensors(data)
    except SafetensorError as error:
        raise CheckpointError(f"{path} is not a safetensors file: {error}") from error


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
