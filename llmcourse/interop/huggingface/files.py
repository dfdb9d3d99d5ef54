"""A folder of safetensors files: one, or shards with an index. Read without loading.

Taught in Part 3. Names, shapes and number formats stand in each file's header, so that everything
can be checked before the first number is read. Tensors are then read one at a time. The pages of an
open file that were read count as this program's memory, so a file is opened anew after a few
megabytes; not after every tensor, because opening parses the whole header, and a model with experts
has thousands of small tensors in it.

Nothing is unpickled: a safetensors file holds numbers and names and cannot run code.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from llmcourse.errors import CheckpointError

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
# Number formats that are read, by their name in a header.
FLOATS = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}


KEPT_BYTES = 8_000_000  # read before a file is opened anew


@dataclass(frozen=True)
class Entry:
    """One tensor in a folder."""

    file: Path
    name: str  # as the file has it
    shape: tuple[int, ...]
    dtype: str  # as the header writes it: F32, BF16, I8 ...


class TensorFiles:
    """Reads tensors; holds one file open at a time, and not for long."""

    def __init__(self) -> None:
        self.file: Path | None = None
        self.handle: Any = None
        self.n_bytes = 0  # read since it was opened

    def read(self, entry: Entry) -> torch.Tensor:
        """The numbers, as a view of the mapped file: copy them and let go."""
        if entry.file != self.file or self.n_bytes > KEPT_BYTES:
            self.handle = None  # the old one's pages first
            self.handle = safe_open(entry.file, framework="pt")
            self.file, self.n_bytes = entry.file, 0
        tensor = self.handle.get_tensor(entry.name)
        self.n_bytes += tensor.nbytes
        return tensor


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        CheckpointError: missing, damaged, or not an object.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} is missing")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged: it is not JSON ({error})") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} is damaged: it should hold an object")
    return values


def tensors_of(folder: Path) -> dict[str, Entry]:
    """Every tensor of a folder by its published name; only headers are read.

    Raises:
        CheckpointError: no weights, a missing shard, a damaged or truncated file, an index that
            disagrees with its shards; the file is named.
    """
    if (folder / SINGLE).is_file():
        return _header(folder / SINGLE)
    if not (folder / INDEX).is_file():
        pickled = sorted(p.name for p in folder.glob("*.bin")) + sorted(
            p.name for p in folder.glob("*.pth")
        )
        other = (
            f"; {', '.join(pickled)} could run code when opened and is not read, convert it"
            if pickled
            else ""
        )
        raise CheckpointError(f"{folder} holds neither {SINGLE} nor {INDEX}{other}")
    index = read_json(folder / INDEX)
    placed = index.get("weight_map")
    if not isinstance(placed, dict) or not placed:
        raise CheckpointError(f"{folder / INDEX} is damaged: it has no weight_map")
    found: dict[str, Entry] = {}
    for shard in sorted(set(map(str, placed.values()))):
        if Path(shard).name != shard:  # a name with a folder in it could point anywhere
            raise CheckpointError(f"{folder / INDEX} names {shard!r}, which is not a plain file")
        if not (folder / shard).is_file():
            count = sum(1 for place in placed.values() if place == shard)
            raise CheckpointError(
                f"the shard {folder / shard} is missing; {count} tensors should be in it"
            )
        for name, entry in _header(folder / shard).items():
            if placed.get(name) != shard:
                raise CheckpointError(
                    f"{folder / shard} holds {name!r}, which {INDEX} places in "
                    f"{placed.get(name, 'no shard')}"
                )
            found[name] = entry
    absent = sorted(placed.keys() - found.keys())
    if absent:
        raise CheckpointError(
            f"{INDEX} places {some(absent)} in {placed[absent[0]]}, which does not hold it"
        )
    return found


def some(names: list[str], shown: int = 4) -> str:
    """A list of names that may be long, for a message."""
    rest = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + rest


def _header(path: Path) -> dict[str, Entry]:
    try:
        with safe_open(path, framework="pt") as handle:
            found = {}
            for name in handle.keys():  # noqa: SIM118 (it is no dictionary)
                part = handle.get_slice(name)
                found[name] = Entry(path, name, tuple(part.get_shape()), str(part.get_dtype()))
            return found
    except (SafetensorError, OSError, ValueError) as error:
        size = path.stat().st_size
        raise CheckpointError(
            f"{path} ({size:,} bytes) is damaged or truncated: {error}; take it from a copy"
        ) from error
