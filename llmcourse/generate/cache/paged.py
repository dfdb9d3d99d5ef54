"""The paged cache: each row's tokens lie in blocks, listed in its block table.

Taught in Part 3. Rows take blocks from a common pool as they grow, so that memory goes by the
tokens there are and not by the longest text there might be, padding takes none, and rows that begin
alike share the blocks of what they have in common. A shared block is copied before a row writes to
it, and not earlier.

Source: PagedAttention, Kwon et al. 2023, arXiv 2309.06180, section 4. Deviation: their kernel reads
the blocks where they lie. Here a row's blocks are gathered side by side for attention in every
layer, which costs a copy, except for a single row whose blocks happen to be neighbours.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence

import torch
from torch import Tensor

from llmcourse.errors import CacheError
from llmcourse.generate.cache.base import Cache, Step, first_needed, hand_out, whole_number
from llmcourse.generate.cache.blocks import BlockPool
from llmcourse.model.config import ModelConfig
from llmcourse.model.masks import NOWHERE, Visibility


class PagedCache(Cache):
    """Block tables over a pool.

    Args:
        config, batch_size, dtype, device: as for `Cache`.
        block_size: tokens in a block.
        n_blocks: blocks in the pool; None: as many as fill the model's context in every row.
        pool: that of another cache of the same model, to share blocks with it, in place of
            block_size, n_blocks, dtype and device.

    Raises:
        ValueError: sizes below 1, a pool made for another model, and what `Cache` refuses.
    """

    def __init__(
        self,
        config: ModelConfig,
        batch_size: int,
        block_size: int = 16,
        n_blocks: int | None = None,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
        pool: BlockPool | None = None,
    ) -> None:
        if pool is not None:
            if (pool.widths, pool.n_layers) != (config.cache_widths, config.n_layers):
                raise ValueError(
                    f"the pool was made for {pool.n_layers} layers of (heads, width) {pool.widths}"
                    f", the model has {config.n_layers} of {config.cache_widths}"
                )
            dtype, device = pool.dtype, pool.device
        super().__init__(config, batch_size, dtype=dtype, device=device)
        if pool is None:
            whole_number("block_size", block_size)
            if n_blocks is None:
                n_blocks = batch_size * -(-config.context_length // block_size)
            pool = BlockPool(config, n_blocks, block_size, dtype, self.device)
        self.pool, self.block_size = pool, pool.block_size
        self._own([[] for _ in range(batch_size)])
        # What follows from the tables; made again when they change.
        self._blocks: Tensor  # (B, blocks) int64, the tables
        self._slots: Tensor  # (B, blocks · block_size) int64 slot of every position
        self._index: dict[tuple[int, int, int], Tensor]  # what _gather reads; see there
        self._run: int | None  # first slot of the only row, if its blocks are neighbours
        self._room: int  # tokens up to which every row has blocks that are its own
        self._changed()
        self._prompts: list[tuple[int, ...]] | None = None  # to publish when they are in
        # Of the step under way.
        self._write: tuple[Tensor, ...] = ()
        self._first: dict[int | None, int] = {}  # window -> first position handed out

    @property
    def tables(self) -> list[list[int]]:
        """Per row the numbers of its blocks, in the order of the text."""
        return [list(table) for table in self._tables]

    @property
    def n_bytes(self) -> int:
        return self.pool.n_blocks * self.pool.block_bytes

    @property
    def used_bytes(self) -> int:
        """Bytes of the blocks that this cache refers to; a shared one counts once."""
        return len({block for table in self._tables for block in table}) * self.pool.block_bytes

    def share_prefix(self, prompts: Sequence[Sequence[int]]) -> Tensor:
        """Take over the full blocks of these prompts that some cache on this pool holds already.

        The cache must be empty. Feed each row the rest of its prompt, from the number of tokens
        returned; at least one token is left to feed. Once they are in, blocks of the prompts are
        known to later calls, and rows of this batch that begin alike keep one copy of them.

        Args:
            prompts: the ids of every row, without padding.

        Returns:
            (B,) int64: tokens of each row that are already in the cache.

        Raises:
            CacheError: the cache holds tokens, or the number of prompts is not that of its rows.
        """
        if self.longest:
            raise CacheError(f"the cache holds {self.longest} tokens; reset() it first")
        if len(prompts) != self.batch_size:
            raise CacheError(f"{len(prompts)} prompts for the {self.batch_size} rows of the cache")
        self.reset()
        self._prompts = [tuple(int(token) for token in prompt) for prompt in prompts]
        size = self.block_size
        for prompt, table in zip(self._prompts, self._tables):
            for stop in range(size, len(prompt), size):
                block = self.pool.find(prompt[:stop])
                if block is None:
                    break
                table.append(self.pool.share(block))
        held = [len(table) * size for table in self._tables]
        self._set_lengths(torch.tensor(held, device=self.device))
        self._changed()
        return self.lengths

    def update(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        new_k, new_v = self._admit(layer, k, v)
        keys, values = self.pool.keys[layer], self.pool.values[layer]
        self._store(keys, new_k)
        self._store(values, new_v)
        window = self._windows[layer]
        return hand_out(self._gather(keys, window), k), hand_out(self._gather(values, window), v)

    def commit(self) -> None:
        super().commit()
        if self._prompts is not None:
            self._publish()

    def reset(self) -> None:
        super().reset()
        self._prompts = None
        for table in self._tables:
            self._release(table, 0)
        self._changed()

    def _prepare(self, step: Step) -> None:
        if step.longest > self._room:
            if step.lengths is None:
                before, after = [self._longest] * self.batch_size, [step.longest] * self.batch_size
            else:
                before, after = self.lengths.tolist(), step.lengths.tolist()
            self._reserve(before, after)
        if step.lengths is not None:
            real = step.positions != NOWHERE  # (B, T)
            rows, columns = real.nonzero(as_tuple=True)  # (N,) each
            slots = self._slots[rows, step.positions[rows, columns]]  # (N,)
            self._write = (slots, rows, columns)
        elif self._run is None:
            slots = self._slots[:, self._longest : step.longest]
            self._write = (slots.reshape(-1),)  # (B, T) -> (B T,)
        plain, sinks = step.lengths is None, self.config.sinks
        self._first = {
            window: first_needed(window, sinks, step.t, step.longest) if plain else 0
            for window in self._windows.values()
        }

    def _store(self, buffer: Tensor, new: Tensor) -> None:
        """Put a chunk (B, G, T, D) into its slots of a layer's buffer (G, slots, D)."""
        if self._step.lengths is not None:
            slots, rows, columns = self._write
            buffer.index_copy_(1, slots, new[rows, :, columns].transpose(0, 1))  # (G, N, D)
        elif self._run is not None:
            start = self._run + self._longest
            buffer[:, start : start + self._step.t] = new[0]
        else:
            n = self._write[0].numel()
            # (B, G, T, D) -> (G, B, T, D) -> (G, B T, D)
            flat = new.transpose(0, 1).reshape(buffer.shape[0], n, buffer.shape[2])
            buffer.index_copy_(1, self._write[0], flat)

    def _gather(self, buffer: Tensor, window: int | None) -> Tensor:
        """(G, slots, D) -> (B, G, S, D), each row's tokens in the order of its text."""
        first, stop = self._first[window], self._step.longest
        if self._run is not None and self._step.lengths is None:
            return buffer[None, :, self._run + first : self._run + stop]
        g, d, size, n_blocks = buffer.shape[0], buffer.shape[2], self.block_size, self.pool.n_blocks
        low, high = first // size, -(-stop // size)  # blocks of each row that are wanted
        index = self._index.get((g, low, high))
        if index is None:
            head = torch.arange(g, device=self.device).view(g, 1) * n_blocks
            # (B, 1, blocks) + (G, 1) -> (B, G, blocks): whole blocks of each head, one copy each
            index = (self._blocks[:, None, low:high] + head).reshape(-1)
            self._index[g, low, high] = index
        found = buffer.view(g * n_blocks, size * d).index_select(0, index)
        # (B G blocks, size D) -> (B, G, blocks size, D)
        found = found.view(self.batch_size, g, (high - low) * size, d)
        return found[:, :, first - low * size : stop - low * size]

    def _visibility(self, step: Step, window: int | None, sinks: int) -> Visibility:
        if step.lengths is None:
            s = step.longest - self._first[window]
            return Visibility(step.t, s, True, window, sinks)
        column = self._range(0, step.longest)
        seen = torch.where(column < step.lengths[:, None], column, NOWHERE)  # (B, S)
        return Visibility(step.t, step.longest, True, window, sinks, step.positions, seen)

    def _reserve(self, before: list[int], after: list[int]) -> None:
        """Blocks of its own for every token that a row is about to write, or a refusal."""
        size, pool = self.block_size, self.pool
        copies, fresh, owners = [], [], {}
        everyone = True
        for row, (start, stop) in enumerate(zip(before, after)):
            if start == stop:
                everyone = False
                continue
            table, last = self._tables[row], (stop - 1) // size
            for i in range(start // size, min(len(table), last + 1)):
                block = table[i]
                count = owners.get(block, pool.references[block])
                if count > 1:
                    copies.append((row, i))
                owners[block] = count - 1  # the last owner keeps the original
            fresh.append((row, max(0, last + 1 - len(table))))
        needed = len(copies) + sum(n for _, n in fresh)
        if needed > pool.n_free:
            raise CacheError(
                f"the step needs {needed} more blocks of {size} tokens, and {pool.n_free} of the "
                f"pool's {pool.n_blocks} are free; reset() or drop a cache, or make the pool with "
                f"n_blocks={pool.n_blocks + needed - pool.n_free}"
            )
        for row, i in copies:
            self._tables[row][i] = pool.copy(self._tables[row][i])
        for row, n in fresh:
            for block in self._tables[row][before[row] // size :]:
                pool.forget(block)  # its content is no longer that of a prompt
            self._tables[row].extend(pool.take() for _ in range(n))
        self._changed()
        # A row that wrote nothing has not been looked at.
        self._room = min(map(len, self._tables)) * size if everyone else 0

    def _changed(self) -> None:
        """The tables are others: work out again where every position lies."""
        size, widest = self.block_size, max(map(len, self._tables))
        # Short rows are filled up with any block; nobody looks there.
        filled = [table + [0] * (widest - len(table)) for table in self._tables]
        self._blocks = torch.tensor(filled, dtype=torch.int64, device=self.device)
        offset = torch.arange(size, device=self.device)
        slots = self._blocks[:, :, None] * size + offset  # (B, blocks, size)
        self._slots = slots.view(self.batch_size, widest * size)
        self._index = {}
        first, self._room = self._tables[0], 0
        neighbours = first and first == list(range(first[0], first[0] + len(first)))
        self._run = first[0] * size if self.batch_size == 1 and neighbours else None

    def _publish(self) -> None:
        """Make the full blocks of the prompts known, and keep one of those that are equal."""
        size, changed = self.block_size, False
        for prompt, table, n in zip(self._prompts, self._tables, self.lengths.tolist()):
            for i in range(min(len(prompt), n) // size):
                known = self.pool.publish(prompt[: (i + 1) * size], table[i])
                if known != table[i]:
                    self.pool.share(known)
                    self.pool.release(table[i])
                    table[i], changed = known, True
        if changed:
            self._changed()
        lengths = self.lengths.tolist()
        if all(n >= len(prompt) for n, prompt in zip(lengths, self._prompts)):
            self._prompts = None

    def _shorten(self, old: Tensor, new: Tensor) -> None:
        for table, n in zip(self._tables, new.tolist()):
            self._release(table, -(-n // self.block_size))
        self._prompts = None
        self._set_lengths(new)
        self._changed()

    def _take_rows(self, rows: Tensor) -> None:
        super()._take_rows(rows)
        chosen = [[self.pool.share(b) for b in self._tables[row]] for row in rows.tolist()]
        self.batch_size = rows.numel()
        if self._prompts is not None:
            self._prompts = [self._prompts[row] for row in rows.tolist()]
        for table in self._tables:
            self._release(table, 0)
        self._tables[:] = chosen
        self._changed()

    def _twin(self) -> PagedCache:
        twin = super()._twin()
        twin._own([[self.pool.share(block) for block in table] for table in self._tables])
        self._room = 0  # the last block of a row now has two owners
        return twin

    def _own(self, tables: list[list[int]]) -> None:
        """These tables' blocks go back to the pool when the cache is gone."""
        self._tables = tables
        weakref.finalize(self, _give_back, self.pool, tables).atexit = False

    def _release(self, table: list[int], keep: int) -> None:
        """Give back all but the first `keep` blocks of a row."""
        while len(table) > keep:
            self.pool.release(table.pop())


def _give_back(pool: BlockPool, tables: list[list[int]]) -> None:
    for table in tables:
        for block in table:
            pool.release(block)
