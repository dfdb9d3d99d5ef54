"""Batches that can be taken up again where a run stopped, whatever function cuts them. Part 4.

The functions of `llmcourse.data.batches` are plain generators and know nothing of saving. But all
of them draw from a `torch.Generator` that is passed in, so its state at the beginning and the
number of batches handed out say exactly where such a generator stands. To go on, the batches are
cut again from the beginning and those that were handed out are dropped: nothing to get wrong, for
the price of cutting them (about 20 microseconds each). Token shards have a loader that needs no
replay: `llmcourse.data.loader`.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from llmcourse.data.batches import Batch
from llmcourse.data.checks import check_generator


class Replayed:
    """An iterator over what `make` gives, with `state_dict` and `load_state_dict`.

        batches = Replayed(lambda g: sliding_window(ids, 256, 32, g), generator)

    Args:
        make: a generator -> batches; the same state must give the same batches.
        generator: where the draws begin. It is copied, and the caller's is left as it was: draws
            that others make from it do not reach the batches.

    Raises:
        ValueError: no generator, or whatever `make` refuses.
    """

    def __init__(
        self, make: Callable[[torch.Generator], Iterator[Batch]], generator: torch.Generator
    ) -> None:
        check_generator(generator)
        self._make = make
        self._device = generator.device
        self._begin(generator.get_state())

    def __iter__(self) -> Replayed:
        return self

    def __next__(self) -> Batch:
        batch = next(self._source)
        self.handed_out += 1
        # Now and not when it is asked for: whoever gets the batch might change it.
        self._last = _checksum(batch)
        return batch

    def state_dict(self) -> dict[str, Any]:
        """Where the batches stand, as values JSON can hold."""
        return {
            "generator": bytes(self._first.tolist()).hex(),
            "handed_out": self.handed_out,
            "last": self._last,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where the batches that gave `state` stood.

        Raises:
            ValueError: the state is damaged, or of other batches: of another text, tokenizer or
                size. These batches stay where they were then.
        """
        try:
            first = torch.tensor(list(bytes.fromhex(state["generator"])), dtype=torch.uint8)
            handed_out, last = int(state["handed_out"]), state["last"]
            other = Replayed(self._make, _generator(first, self._device))
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise ValueError(f"the state of these batches is damaged: {error!r}") from None
        if handed_out < 0 or (handed_out == 0) != (last is None):
            raise ValueError(f"the state of these batches is damaged: handed_out={handed_out}")
        for number in range(handed_out):
            batch = next(other._source, None)
            if batch is None:
                raise ValueError(
                    f"these batches end after {number}, but {handed_out} had been handed out; "
                    f"the text, the tokenizer or a size has changed"
                )
        if handed_out and _checksum(batch) != last:
            raise ValueError(
                f"batch {handed_out} is not the one that was handed out; the text, the tokenizer "
                f"or a size has changed"
            )
        self._first, self._source = other._first, other._source
        self.handed_out, self._last = handed_out, last

    def _begin(self, state: Tensor) -> None:
        self._first = state
        self._source = iter(self._make(_generator(state, self._device)))
        self.handed_out = 0  # batches
        self._last: str | None = None  # checksum of the last of them


def _generator(state: Tensor, device: torch.device) -> torch.Generator:
    generator = torch.Generator(device)
    generator.set_state(state)
    return generator


def _checksum(batch: Batch) -> str:
    """Against a mistake, not against an enemy: four bytes are enough, and quick to compute."""
    checksum = 0
    for tensor in batch:
        checksum = zlib.crc32(str((tensor.dtype, tuple(tensor.shape))).encode(), checksum)
        checksum = zlib.crc32(tensor.detach().cpu().contiguous().numpy(), checksum)
    return f"{checksum:08x}"


class Share:
    """One process's rows of batches that all processes cut alike.

    Each process cuts the whole batch and keeps its part. So the place in the text is the same on
    all of them, and a run can go on with another number of processes.

    Args:
        batches: of `size` times the rows of a share; with `state_dict` and `load_state_dict`.
        rank: which share, 0 to size - 1.
        size: how many shares there are.

    Raises:
        ValueError: a rank out of range; at a batch whose rows cannot be shared out evenly.
    """

    def __init__(self, batches: Replayed, rank: int, size: int) -> None:
        if not 0 <= rank < size:
            raise ValueError(f"rank={rank} must be 0 to {size - 1}")
        self.batches, self.rank, self.size = batches, rank, size

    def __iter__(self) -> Share:
        return self

    def __next__(self) -> Batch:
        batch = next(self.batches)
        rows, left = divmod(len(batch.inputs), self.size)
        if left:
            raise ValueError(
                f"a batch of {len(batch.inputs)} rows cannot be shared out among {self.size} "
                f"processes"
            )
        mine = slice(self.rank * rows, (self.rank + 1) * rows)
        return type(batch)(*(field[mine] for field in batch))

    def state_dict(self) -> dict[str, Any]:
        """Where the batches stand; the same on every process."""
        return self.batches.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there; refuses what `Replayed` refuses."""
        self.batches.load_state_dict(state)
