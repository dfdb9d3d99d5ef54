"""The rolling cache: bounded memory for a text without end.

Taught in Part 3. A layer with a window never looks further back than the window and the sinks, so
that is all it keeps: the first `sinks` tokens for ever, and a ring in which a new token takes the
place of the one that has just left the window (rolling buffer, Jiang et al. 2023, arXiv 2310.06825,
section 2; sinks, Xiao et al. 2023, arXiv 2309.17453). A token at position p has the slot

    p                                   if p < sinks
    sinks + (p - sinks) mod window      otherwise.

The first query of a chunk still needs tokens that the last ones push out. So a chunk attends over
the old buffer and itself side by side, and only then is the buffer brought up to date. A single
token pushes out exactly what it cannot see: it is written in place, and every slot is visible.

Deviation from Xiao et al.: positions keep counting from the start of the text, as the same model
without a cache counts them; they are not renumbered inside the buffer.

Layers without a window (`config.global_every`) need everything; theirs is a dense cache inside.
"""

from __future__ import annotations

import torch
from torch import Tensor

from llmcourse.errors import CacheError
from llmcourse.generate.cache.base import Cache, Step, hand_out, whole_number
from llmcourse.generate.cache.dense import DenseCache
from llmcourse.model.config import ModelConfig
from llmcourse.model.masks import NOWHERE, Visibility


class RollingCache(Cache):
    """sinks + window slots for every row and windowed layer.

    Args:
        config, batch_size, dtype, device: as for `Cache`; the config needs a window.
        max_chunk: the most tokens a step may bring, which bounds the memory of a step too; None
            means any number.
        capacity: columns for layers without a window; None means the model's context_length.

    Raises:
        ValueError: a config without a window, a max_chunk below 1, and what `Cache` refuses.
    """

    def __init__(
        self,
        config: ModelConfig,
        batch_size: int,
        max_chunk: int | None = None,
        *,
        capacity: int | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> None:
        windowed = [i for i in range(config.n_layers) if config.layer_window(i) is not None]
        if not windowed:
            raise ValueError(
                "a rolling cache forgets what has left the window and needs a model with one "
                "(config.window); use DenseCache or PagedCache"
            )
        if max_chunk is not None:
            whole_number("max_chunk", max_chunk)
        super().__init__(config, batch_size, dtype=dtype, device=device, layers=windowed)
        everywhere = [i for i in range(config.n_layers) if i not in windowed]
        self._global = (
            DenseCache(
                config, batch_size, capacity, dtype=dtype, device=device, layers=tuple(everywhere)
            )
            if everywhere
            else None
        )
        self.max_chunk, self.sinks = max_chunk, config.sinks
        self.window = min(config.window, self.limit or config.window)
        self.slots = self.sinks + self.window
        (g, d), (g_v, d_v) = config.cache_widths
        # Ragged rows leave slots unwritten; multiplied by zero weights they must be finite.
        keys, values = (batch_size, g, self.slots, d), (batch_size, g_v, self.slots, d_v)
        self._keys = {i: self._new(torch.zeros, keys, dtype=dtype) for i in windowed}
        self._values = {i: self._new(torch.zeros, values, dtype=dtype) for i in windowed}
        self._table: Tensor | None = None  # (B, slots) positions; only while rows differ
        self._plan: _Plan | _RaggedPlan | None = None

    def begin(self, b: int, t: int, padding: Tensor | None = None) -> Tensor:
        self._check(b, t, padding)
        self._refuse_half_done()
        if self.max_chunk is not None and t > self.max_chunk:
            raise CacheError(
                f"a chunk of {t} tokens is longer than max_chunk={self.max_chunk}; "
                f"hand it in in pieces"
            )
        if self._global is not None:
            self._global.begin(b, t, padding)
        return super().begin(b, t, padding)

    def update(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        if self._global is not None and layer in self._global.layers:
            return self._global.update(layer, k, v)
        new_k, new_v = self._admit(layer, k, v)
        keys = self._plan.through(self._keys[layer], new_k)
        values = self._plan.through(self._values[layer], new_v)
        return hand_out(keys, k), hand_out(values, v)

    def visibility(self, window: int | None, sinks: int = 0) -> Visibility:
        if window is None and self._global is not None:
            return self._global.visibility(None, 0)
        return super().visibility(window, sinks)

    def commit(self) -> None:
        super().commit()
        if self._ragged is not None:
            self._table = self._plan.table
        if self._global is not None:
            self._global.commit()

    def reset(self) -> None:
        super().reset()
        self._table = None
        if self._global is not None:
            self._global.reset()

    def truncate(self, length: int | Tensor) -> None:
        self._refuse_half_done()
        super().truncate(length)
        if self._global is not None:
            self._global.truncate(length)

    def select(self, rows) -> RollingCache:
        self._refuse_half_done()
        return super().select(rows)

    @property
    def n_bytes(self) -> int:
        own = self.batch_size * self.slots * len(self.layers) * self._token_bytes()
        return own + (0 if self._global is None else self._global.n_bytes)

    @property
    def used_bytes(self) -> int:
        held = int(self.lengths.clamp(max=self.slots).sum())  # tokens in all rows
        own = held * len(self.layers) * self._token_bytes()
        return own + (0 if self._global is None else self._global.used_bytes)

    def _prepare(self, step: Step) -> None:
        if step.lengths is None:
            self._plan = _Plan(self._longest, step.t, self.sinks, self.window)
        else:
            table = self._table if self._ragged is not None else self._plain_table()
            self._plan = _RaggedPlan(step, self.longest, table, self.sinks, self.window)

    def _visibility(self, step: Step, window: int | None, sinks: int) -> Visibility:
        plan, t = self._plan, step.t
        if step.lengths is not None:
            k = plan.k_positions
            return Visibility(t, k.shape[1], True, window, sinks, step.positions, k)
        if t == 1:
            return Visibility(1, plan.s)  # the slots hold exactly what this query sees
        if not plan.gap:
            return Visibility(t, plan.s, True, window, sinks)
        start = self._longest
        k = torch.cat(
            [self._range(0, sinks), self._range(start - self.window, start), step.positions]
        )  # (S,)
        return Visibility(t, plan.s, True, window, sinks, step.positions, k)

    def _plain_table(self) -> Tensor:
        """(B, slots): the position in each slot while all rows are alike."""
        n = self._longest
        slot = torch.arange(self.slots, device=self.device)
        laps = (n - 1 - slot).clamp(min=0) // self.window  # how often the ring has come round
        position = torch.where(slot < self.sinks, slot, slot + laps * self.window)
        return position.masked_fill(slot >= n, NOWHERE).repeat(self.batch_size, 1)

    def _shorten(self, old: Tensor, new: Tensor) -> None:
        if bool(((new < old) & (old > self.slots)).any()):
            raise CacheError(
                f"a row of {int(old.max())} tokens has lost all but the newest {self.window} and "
                f"{self.sinks} sinks and cannot be taken back; reset() the cache"
            )
        table = self._plain_table() if self._ragged is None else self._table
        self._table = table.masked_fill(table >= new[:, None], NOWHERE)
        self._set_lengths(new)

    def _take_rows(self, rows: Tensor) -> None:
        super()._take_rows(rows)
        self._keys = {i: buffer[rows] for i, buffer in self._keys.items()}
        self._values = {i: buffer[rows] for i, buffer in self._values.items()}
        if self._table is not None:
            self._table = self._table[rows] if self._ragged is not None else None
        if self._global is not None:
            self._global.select(rows)

    def _twin(self) -> RollingCache:
        twin = super()._twin()
        if self._global is not None:
            twin._global = self._global._twin()
        return twin

    def _refuse_half_done(self) -> None:
        step = self._step
        if step is not None and step.updated and self._plan.forgets:
            raise CacheError(
                "the last pass failed half way, after some layers had already let go of old "
                "tokens; reset() the cache"
            )


class _Plan:
    """One step of rows that are alike, in slices alone.

    Args:
        start: tokens held before the step.
        t: tokens of the step.
    """

    def __init__(self, start: int, t: int, sinks: int, window: int) -> None:
        slots, stop = sinks + window, start + t
        self.start, self.held, self.sinks = start, min(start, slots), sinks
        self.forgets = stop > slots and start > 0
        self.beside = stop > slots and t > 1  # old buffer and chunk side by side
        self.s = self.held + t if self.beside else min(stop, slots)
        # In the ring the oldest token is where the next one goes.
        self.oldest = sinks + (start - sinks) % window if start > slots else slots
        # Between the sinks and the oldest token of the ring, positions may be missing.
        self.gap = self.beside and sinks > 0 and start > slots
        self.writes = self._writes(start, stop, sinks, window)

    @staticmethod
    def _writes(start: int, stop: int, sinks: int, window: int) -> list[tuple[int, int, int]]:
        """(slot, column of the chunk, how many) for the tokens that stay."""
        writes = []
        if start < sinks:
            writes.append((start, 0, min(sinks, stop) - start))
        first = max(start, sinks, stop - window)  # position of the oldest that goes to the ring
        if first < stop:
            slot, n = sinks + (first - sinks) % window, stop - first
            head = min(n, sinks + window - slot)
            writes.append((slot, first - start, head))
            if n > head:
                writes.append((sinks, first - start + head, n - head))
        return writes

    def through(self, buffer: Tensor, new: Tensor) -> Tensor:
        """Bring the buffer (B, G, slots, D) up to date; returns what the chunk may look at."""
        seen = None
        if self.beside:
            # In order of position, so that tiles of keys can be skipped.
            old = buffer[:, :, : self.held]
            parts = [old[:, :, : self.sinks], old[:, :, self.oldest :]]
            parts += [old[:, :, self.sinks : self.oldest], new]
            seen = torch.cat(parts, dim=2) if self.held else new
        for slot, column, n in self.writes:
            buffer[:, :, slot : slot + n] = new[:, :, column : column + n]
        return buffer[:, :, : self.s] if seen is None else seen


class _RaggedPlan:
    """One step of rows that differ: every row has its own place in its ring."""

    def __init__(self, step: Step, longest: int, table: Tensor, sinks: int, window: int) -> None:
        slots, q = sinks + window, step.positions  # (B, T)
        self.forgets = step.longest > slots and longest > 0
        stay = (q != NOWHERE) & ((q < sinks) | (q >= step.lengths[:, None] - window))
        self.rows, self.columns = stay.nonzero(as_tuple=True)  # (N,) each
        q_stay = q[self.rows, self.columns]  # (N,)
        self.at = torch.where(q_stay < sinks, q_stay, sinks + (q_stay - sinks) % window)
        self.table = table.clone()  # (B, slots) after the step
        self.table[self.rows, self.at] = q_stay
        self.first = longest == 0 and q.shape[1] > 1
        self.beside = q.shape[1] > 1 and step.longest > slots
        self.s = min(step.longest, slots)  # slots in use
        if self.first:
            self.k_positions = q
        elif self.beside:
            self.k_positions = torch.cat([table, q], dim=1)  # (B, slots + T)
        else:
            self.k_positions = self.table[:, : self.s]

    def through(self, buffer: Tensor, new: Tensor) -> Tensor:
        """As `_Plan.through`."""
        seen = new if self.first else None
        if self.beside and not self.first:
            seen = torch.cat([buffer, new], dim=2)  # (B, G, slots + T, D)
        buffer[self.rows, :, self.at] = new[self.rows, :, self.columns]  # (N, G, D)
        return buffer[:, :, : self.s] if seen is None else seen
