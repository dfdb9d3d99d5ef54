"""The plain cache: one preallocated buffer per layer, filled from the left.

Taught in Part 3. A chunk's columns go behind those already there; what is handed out is a view of
the filled part, so that a step copies nothing but its own tokens. Padding takes columns too: it is
stored, has position NOWHERE, and is seen by no one. When the columns run out while rows have holes,
the holes are closed once; what counts in the end are the tokens of the longest row.

With `static=True` every step hands out the whole buffer and keeps its counters in tensors, so that
no shape and no Python number changes from step to step and `torch.compile` compiles once.
"""

from __future__ import annotations

import torch
from torch import Tensor

from llmcourse.errors import CacheError
from llmcourse.generate.cache.base import Cache, Step, first_needed, hand_out, whole_number
from llmcourse.model.config import ModelConfig
from llmcourse.model.masks import NOWHERE, Visibility


class DenseCache(Cache):
    """Room for `capacity` columns in every row and layer.

    Args:
        config, batch_size, dtype, device, layers: as for `Cache`.
        capacity: columns; None means the model's context_length.
        static: the same shapes in every step, for `torch.compile`. Inside compiled code the cache
            cannot look at its counters: the caller makes sure beforehand that the tokens fit.

    Raises:
        ValueError: a capacity below 1, and what `Cache` refuses.
    """

    def __init__(
        self,
        config: ModelConfig,
        batch_size: int,
        capacity: int | None = None,
        *,
        static: bool = False,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
        layers: tuple[int, ...] | None = None,
    ) -> None:
        super().__init__(config, batch_size, dtype=dtype, device=device, layers=layers)
        self.capacity = config.context_length if capacity is None else capacity
        whole_number("capacity", self.capacity)
        self.static = static
        # Unwritten slots of a static cache are multiplied by zero weights: they must be finite.
        make = torch.zeros if static else torch.empty
        (g, d), (g_v, d_v) = config.cache_widths
        rows = (batch_size, g, self.capacity, d), (batch_size, g_v, self.capacity, d_v)
        self._keys = {i: self._new(make, rows[0], dtype=dtype) for i in self.layers}
        self._values = {i: self._new(make, rows[1], dtype=dtype) for i in self.layers}
        self._numbers = self._new(torch.arange, max(self.capacity, self.limit or 0))
        self._columns = 0  # filled, padding included
        self._fill = self._new(torch.zeros, (), dtype=torch.int64)  # the same, when static
        # (B, capacity) position of every column; read only while rows differ
        self._table: Tensor | None = None
        self._start = self._stop = 0  # columns of the step under way
        self._first: dict[int | None, int] = {}  # window -> first column handed out
        self._slots: Tensor | None = None  # (T,) columns of the step, when static

    def begin(self, b: int, t: int, padding: Tensor | None = None) -> Tensor:
        if self.static:
            if torch.compiler.is_compiling():
                return self._begin_compiled(b, t, padding)
            self._longest, self._columns = self.longest, int(self._fill)
        return super().begin(b, t, padding)

    def update(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        new_k, new_v = self._admit(layer, k, v)
        keys, values = self._keys[layer], self._values[layer]
        if self.static:
            keys.index_copy_(2, self._slots, new_k)
            values.index_copy_(2, self._slots, new_v)
            return hand_out(keys, k), hand_out(values, v)
        start, stop, first = self._start, self._stop, self._first[self._windows[layer]]
        keys[:, :, start:stop] = new_k
        values[:, :, start:stop] = new_v
        return hand_out(keys[:, :, first:stop], k), hand_out(values[:, :, first:stop], v)

    def commit(self) -> None:
        if not self.static:
            super().commit()
            self._columns = self._stop
            return
        t, lengths = self._begun("commit").t, self._step.lengths
        if torch.compiler.is_compiling():
            self._ragged, self._step = lengths, None
        else:
            super().commit()
        self._fill.add_(t)

    @property
    def longest(self) -> int:
        if not self.static:
            return self._longest
        if torch.compiler.is_compiling():
            return 0  # a number read here would be compiled in; see `static`
        return int(self._fill if self._ragged is None else self._ragged.max())

    @property
    def n_bytes(self) -> int:
        return self.batch_size * self.capacity * len(self.layers) * self._token_bytes()

    @property
    def used_bytes(self) -> int:
        columns = int(self._fill) if self.static else self._columns
        return self.batch_size * columns * len(self.layers) * self._token_bytes()

    def reset(self) -> None:
        super().reset()
        self._set_columns(0)

    def _row_lengths(self) -> Tensor:
        if self.static and self._ragged is None:
            return self._fill.expand(self.batch_size)
        return super()._row_lengths()

    def _set_columns(self, columns: int) -> None:
        self._columns = columns
        self._fill.fill_(columns)

    def _begin_compiled(self, b: int, t: int, padding: Tensor | None) -> Tensor:
        self._check(b, t, padding)
        self._slots = self._fill + self._numbers[:t]  # (T,)
        if padding is None and self._ragged is None:
            self._step = Step(t, self._slots, 0)
        else:
            positions, lengths = self._ragged_positions(t, padding)
            self._step = Step(t, positions, 0, lengths)
            self._note_positions(positions)
        return self._step.positions

    def _prepare(self, step: Step) -> None:
        start, stop = self._columns, self._columns + step.t
        if stop > self.capacity and self._ragged is not None:
            self._close_holes()
            start, stop = self._columns, self._columns + step.t
        if stop > self.capacity:
            raise CacheError(
                f"{step.t} more columns overflow the cache: {start} of its {self.capacity} are "
                f"taken; truncate() or reset() it, or make it with capacity={stop}"
            )
        self._start, self._stop = start, stop
        plain = step.lengths is None
        self._first = {
            window: first_needed(window, self.config.sinks, step.t, stop) if plain else 0
            for window in self._windows.values()
        }
        if self.static:
            self._slots = self._numbers[start:stop]
        if not plain:
            self._note_positions(step.positions)

    def _note_positions(self, positions: Tensor) -> None:
        """Write the chunk's positions (B, T) into the table of all columns."""
        if self.static:
            table = self._plain_table(self._fill) if self._ragged is None else self._table
            wide = positions.expand(self.batch_size, -1)
            self._table = table.index_copy(1, self._slots, wide)
            # A pass that failed may have left positions behind the columns that count.
            after = self._numbers[: self.capacity] >= self._fill + positions.shape[1]
            self._table = self._table.masked_fill(after, NOWHERE)
            return
        if self._ragged is None:
            self._table = self._plain_table(self._columns)
        self._table[:, self._start : self._stop] = positions

    def _plain_table(self, columns: int | Tensor) -> Tensor:
        """(B, capacity): column = position while all rows are alike."""
        with torch.inference_mode(False):
            numbers = self._numbers[: self.capacity]
            row = torch.where(numbers < columns, numbers, NOWHERE)
            return row.repeat(self.batch_size, 1)

    def _visibility(self, step: Step, window: int | None, sinks: int) -> Visibility:
        plain = step.lengths is None
        if self.static:
            seen = self._numbers[: self.capacity] if plain else self._table
            return Visibility(step.t, self.capacity, True, window, sinks, step.positions, seen)
        if plain:
            # What no query can reach is not handed out; see update.
            return Visibility(step.t, self._stop - self._first[window], True, window, sinks)
        seen = self._table[:, : self._stop]  # (B, S)
        return Visibility(step.t, self._stop, True, window, sinks, step.positions, seen)

    def _shorten(self, old: Tensor, new: Tensor) -> None:
        if self._ragged is None:
            self._table = self._plain_table(self._fill if self.static else self._columns)
        self._table = self._table.masked_fill(self._table >= new[:, None], NOWHERE)
        self._set_lengths(new)
        used = (self._table != NOWHERE).any(dim=0).nonzero()
        columns = int(used.max()) + 1 if used.numel() else 0
        # Equal rows whose columns have holes stay ragged until the holes are closed.
        if self._ragged is None and columns > self._longest:
            self._ragged = new
        self._set_columns(columns)

    @torch.inference_mode(False)
    def _close_holes(self) -> None:
        """Move every row's tokens to its first columns; the padding in between is dropped."""
        holes = self._table[:, : self._columns] == NOWHERE  # (B, S)
        order = holes.to(torch.int8).argsort(dim=1, stable=True)[:, : self._longest]
        for buffers in (self._keys, self._values):
            for buffer in buffers.values():
                at = order[:, None, :, None].expand(-1, buffer.shape[1], -1, buffer.shape[3])
                buffer[:, :, : self._longest] = buffer.gather(2, at)
        numbers = self._numbers[: self.capacity]
        self._table = torch.where(numbers < self._ragged[:, None], numbers, NOWHERE)
        self._set_columns(self._longest)

    def _take_rows(self, rows: Tensor) -> None:
        super()._take_rows(rows)
        columns = int(self._fill) if self.static else self._columns
        make = torch.zeros if self.static else torch.empty
        self._keys, self._values = (
            {i: _rows_of(buffer, rows, columns, make) for i, buffer in buffers.items()}
            for buffers in (self._keys, self._values)
        )
        self._fill = self._fill.clone()
        if self._table is not None:
            self._table = self._table[rows] if self._ragged is not None else None


def _rows_of(buffer: Tensor, rows: Tensor, columns: int, make) -> Tensor:
    """The filled columns of some rows in a buffer of their own, as wide as the old one."""
    new = make((rows.numel(), *buffer.shape[1:]), dtype=buffer.dtype, device=buffer.device)
    new[:, :, :columns] = buffer[rows, :, :columns]
    return new
