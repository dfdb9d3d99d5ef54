"""Memory in blocks that several texts can share.

Taught in Part 3. A block holds the keys and values of `block_size` consecutive tokens, in every
layer, and counts who refers to it: a block with one owner may be written, one with more must be
copied first, one with none is free. Blocks that are full and belong to a prompt are known by the
prompt's ids up to their end, so that the next prompt that begins alike finds them.

Source: PagedAttention, Kwon et al. 2023, arXiv 2309.06180, sections 4.2 to 4.4.
"""

from __future__ import annotations

import heapq

import torch

from llmcourse.generate.cache.base import whole_number
from llmcourse.model.config import ModelConfig


class BlockPool:
    """All blocks of one or several paged caches of the same model.

    Args:
        config: of the model.
        n_blocks: blocks in all.
        block_size: tokens in a block.
        dtype: of keys and values.
        device: where they are kept.

    Raises:
        ValueError: a count or size below 1.
    """

    def __init__(
        self,
        config: ModelConfig,
        n_blocks: int,
        block_size: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        whole_number("n_blocks", n_blocks)
        whole_number("block_size", block_size)
        self.n_blocks, self.block_size = n_blocks, block_size
        self.widths, self.n_layers = config.cache_widths, config.n_layers
        self.dtype, self.device = dtype, device
        (g, d), (g_v, d_v) = self.widths
        slots, options = n_blocks * block_size, {"dtype": dtype, "device": device}
        # (G, slots, D): the tokens of a row, wherever its blocks lie, are one index away. Slots of
        # a block that is not full yet are multiplied by zero weights: they must be finite.
        with torch.inference_mode(False):
            self.keys = [torch.zeros(g, slots, d, **options) for _ in range(config.n_layers)]
            self.values = [torch.zeros(g_v, slots, d_v, **options) for _ in range(config.n_layers)]
        self.references = [0] * n_blocks
        self._free = list(range(n_blocks))  # a heap: the lowest first keeps a row's blocks together
        self._by_prefix: dict[tuple[int, ...], int] = {}
        self._prefix_of: dict[int, tuple[int, ...]] = {}

    @property
    def n_free(self) -> int:
        """Blocks that nobody refers to."""
        return len(self._free)

    @property
    def block_bytes(self) -> int:
        """Bytes of one block, all layers."""
        width = sum(g * d for g, d in self.widths)
        return self.block_size * width * self.n_layers * self.dtype.itemsize

    def take(self) -> int:
        """A free block, now with one owner. The caller has checked that there is one."""
        block = heapq.heappop(self._free)
        self.references[block] = 1
        return block

    def share(self, block: int) -> int:
        """One more owner."""
        self.references[block] += 1
        return block

    def release(self, block: int) -> None:
        """One owner less; without any the block is free and forgotten."""
        self.references[block] -= 1
        if self.references[block] == 0:
            self.forget(block)
            heapq.heappush(self._free, block)

    def copy(self, source: int) -> int:
        """A free block with the content of `source`, which loses the owner that now has the copy.

        Writing happens to the copy: that is copy on write.
        """
        block, size = self.take(), self.block_size
        old = slice(source * size, (source + 1) * size)
        new = slice(block * size, (block + 1) * size)
        for buffer in (*self.keys, *self.values):
            buffer[:, new] = buffer[:, old]
        self.release(source)
        return block

    def find(self, prefix: tuple[int, ...]) -> int | None:
        """The full block that ends the prompt beginning `prefix`, if it is in memory."""
        return self._by_prefix.get(prefix)

    def publish(self, prefix: tuple[int, ...], block: int) -> int:
        """Make a full block findable. Returns the block to use: one that held the same already."""
        known = self._by_prefix.setdefault(prefix, block)
        if known == block:
            self._prefix_of[block] = prefix
        return known

    def forget(self, block: int) -> None:
        """The block's content is about to change."""
        prefix = self._prefix_of.pop(block, None)
        if prefix is not None:
            del self._by_prefix[prefix]
