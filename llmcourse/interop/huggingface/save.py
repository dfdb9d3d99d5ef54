"""`save_huggingface`: a folder that transformers loads, with the same logits.

Taught in Part 3. The folder is written beside its place under a temporary name and renamed when it
is complete: it is there whole or not at all.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from llmcourse.files import atomic_write
from llmcourse.interop.huggingface.config import config_to_huggingface
from llmcourse.interop.huggingface.families import FAMILIES
from llmcourse.interop.huggingface.files import FLOATS, INDEX, SINGLE
from llmcourse.interop.huggingface.weights import Piece, Rule, wide_names
from llmcourse.model import Transformer

SPECIAL = ("bos_token_id", "eos_token_id", "pad_token_id")


def save_huggingface(
    model: Transformer,
    path: str | os.PathLike[str],
    *,
    family: str | None = None,
    max_shard_bytes: int = 5_000_000_000,
    **token_ids: int | list[int] | None,
) -> Path:
    """Write `config.json`, `generation_config.json` and the weights in the model's own dtype.

    Args:
        model: any model whose config one of the families can express.
        path: a folder that does not exist yet, or is empty.
        family: a `model_type`; None takes the first family that fits.
        max_shard_bytes: weights beyond this are split into several files with an index; also the
            extra memory the writing needs.
        token_ids: bos_token_id, eos_token_id, pad_token_id; left out, there is none. (A config
            without them would get the family's usual numbers, and generation would stop there.)

    Returns:
        The folder.

    Raises:
        ValueError: no family can express the config; the field that would be lost is named.
        FileExistsError: there is something at `path` already.
        OSError: the disk refused; nothing is left behind.
    """
    folder = Path(path)
    unknown = sorted(token_ids.keys() - set(SPECIAL))
    if unknown:
        raise ValueError(f"unknown {', '.join(unknown)}; known: {', '.join(SPECIAL)}")
    if max_shard_bytes < 1:
        raise ValueError(f"max_shard_bytes={max_shard_bytes} must be at least 1")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} is not an empty folder; choose another or remove it")
    values = config_to_huggingface(model.config, family)
    dtypes = {p.dtype for name, p in model.named_parameters() if name not in wide_names(model)}
    if len(dtypes) != 1 or not dtypes <= set(FLOATS.values()):
        shown = ", ".join(sorted(map(str, dtypes)))
        raise ValueError(f"all parameters must share one floating dtype, got {shown}")
    special = {name: token_ids.get(name) for name in SPECIAL}
    values |= {"dtype": str(dtypes.pop()).removeprefix("torch."), "use_cache": True, **special}
    folder.parent.mkdir(parents=True, exist_ok=True)
    building = folder.parent / f".{folder.name[:40]}.{secrets.token_hex(8)}.tmp"
    building.mkdir()
    try:
        rules = FAMILIES[values["model_type"]].rules(model.config, values)
        _write_weights(building, model, rules, max_shard_bytes)
        generation = {name: number for name, number in special.items() if number is not None}
        _write_json(building / "generation_config.json", generation | {"use_cache": True})
        _write_json(building / "config.json", values)
        if folder.exists():
            folder.rmdir()  # it is empty; not every system renames onto an empty folder
        os.replace(building, folder)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise
    return folder


def _write_weights(folder: Path, model: Transformer, rules: list[Rule], most: int) -> None:
    parameters = dict(model.named_parameters())
    shards: list[list[tuple[Piece, Tensor]]] = [[]]
    filled = total = 0
    for rule in rules:
        for piece, rows in rule.blocks(parameters[rule.name].detach()):
            if shards[-1] and filled + rows.nbytes > most:
                shards.append([])
                filled = 0
            shards[-1].append((piece, rows))
            filled, total = filled + rows.nbytes, total + rows.nbytes
    placed: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        name = SINGLE
        if len(shards) > 1:
            name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        tensors = {piece.name: piece.published(rows.cpu()) for piece, rows in shard}
        # A piece that lies in the parameter as it is published is a view: it must own its memory.
        tensors = {key: tensor.clone() for key, tensor in tensors.items()}
        save_file(tensors, folder / name, metadata={"format": "pt"})
        placed |= dict.fromkeys(tensors, name)
    if len(shards) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(placed.items()))}
        _write_json(folder / INDEX, index)


def _write_json(path: Path, values: dict[str, Any]) -> None:
    atomic_write(path, json.dumps(values, indent=2, sort_keys=True) + "\n")
