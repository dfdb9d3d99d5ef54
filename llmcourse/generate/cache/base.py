"""What every key/value cache has in common: rows, steps, and what is refused.

Taught in Part 3. A token's key and value do not change once computed, because a causal model never
looks ahead; keeping them turns each new token's cost from a pass over the whole text into a pass
over one token (Shazeer 2019, arXiv 1911.02150, section 2.4.1). The three caches beside this file
differ in where they keep them and in what they forget.

A forward pass of T new tokens is one step: `begin` (positions of the queries, and every refusal),
then per layer `update`, with `visibility` saying who sees whom among the keys handed out, then
`commit`. Lengths advance only at `commit`, so a pass that fails half way has stored nothing.

Positions count real tokens per row. Rows may differ ("ragged"): by padding on the left or right of
any chunk, by `truncate` with one length per row. While they do not, no position is written down
anywhere and attention runs without a mask where it can.

Shapes: B rows, T new tokens, S keys handed out, G key/value heads, D head width.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from llmcourse.errors import CacheError
from llmcourse.model.config import ModelConfig
from llmcourse.model.masks import NOWHERE, Visibility, positions_of


@dataclass
class Step:
    """One forward pass under way."""

    t: int  # tokens: columns of the chunk, padding included
    positions: Tensor  # (T,) or, when rows differ, (B, T) int64, padding NOWHERE
    longest: int  # tokens in the longest row once this step is committed
    lengths: Tensor | None = None  # (B,) int64 tokens per row after this step; None: all alike
    updated: int = 0  # one bit per layer
    visibilities: dict[tuple[int | None, int], Visibility] = field(default_factory=dict)


class Cache(ABC):
    """Keys and values of the tokens so far; `model(ids, cache=cache)` adds to them.

    Args:
        config: of the model, as it is run (after `with_options`).
        batch_size: rows.
        dtype: of keys and values; what the model computes in.
        device: where they are kept; None is the CPU.
        layers: the layers kept here; None means all.

    Raises:
        ValueError: a batch size below 1, a dtype that is not a floating-point one.
    """

    def __init__(
        self,
        config: ModelConfig,
        batch_size: int,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
        layers: Sequence[int] | None = None,
    ) -> None:
        whole_number("batch_size", batch_size)
        if not dtype.is_floating_point:
            raise ValueError(f"dtype={dtype} cannot hold keys and values; choose a floating one")
        self.config, self.batch_size, self.dtype = config, batch_size, dtype
        self.device = torch.device("cpu" if device is None else device)
        self.layers = tuple(range(config.n_layers) if layers is None else layers)
        self.limit = None if config.endless else config.context_length  # tokens per row
        self._widths = config.cache_widths
        self._windows = {layer: config.layer_window(layer) for layer in self.layers}
        self._all_layers = sum(1 << layer for layer in self.layers)
        self._numbers = self._new(torch.arange, self.limit or 0)  # sliced, never made again
        self._longest = 0  # tokens in the longest row
        self._ragged: Tensor | None = None  # (B,) int64 tokens per row; None: all have `_longest`
        self._step: Step | None = None

    # What a forward pass calls -----------------------------------------------------------------

    def begin(self, b: int, t: int, padding: Tensor | None = None) -> Tensor:
        """Start a step of T tokens for each of B rows.

        Args:
            b: rows handed in.
            t: columns handed in.
            padding: (B, T) bool, True for real tokens; None means all are.

        Returns:
            The positions of the queries, (T,) int64 while all rows are alike, else (B, T) with
            NOWHERE for padding.

        Raises:
            CacheError: another batch size, padding of another shape, no room, nothing but padding.
                Nothing has changed then.
        """
        self._check(b, t, padding)
        if padding is not None and bool(padding.all()):
            padding = None
        if padding is None and self._ragged is None:
            longest = self._longest + t
            step = Step(t, self._range(self._longest, longest), longest)
        else:
            positions, lengths = self._ragged_positions(t, padding)
            longest = self._longest + t if padding is None else int(lengths.max())
            step = Step(t, positions, longest, lengths)
        if longest == 0:
            raise CacheError("the first step of the cache holds nothing but padding")
        if self.limit is not None and longest > self.limit:
            raise CacheError(
                f"{self._longest} tokens in the cache and {longest - self._longest} new ones "
                f"overflow the model's context of {self.limit}; truncate() or reset() the cache"
            )
        self._prepare(step)
        self._step = step
        return step.positions

    def visibility(self, window: int | None, sinks: int = 0) -> Visibility:
        """Who sees whom in the layers with this window: one object for all of them in this step.

        Raises:
            CacheError: outside a step, or a window that the cache's config does not have.
        """
        step = self._begun("visibility")
        sinks = sinks if window is not None else 0
        made = step.visibilities.get((window, sinks))
        if made is None:
            if window not in self._windows.values() or (window and sinks != self.config.sinks):
                known = sorted(map(str, set(self._windows.values())))
                raise CacheError(
                    f"window={window}, sinks={sinks} is not what this cache was made for (window "
                    f"{' or '.join(known)}, sinks={self.config.sinks}); make it from the config "
                    f"of the model that uses it"
                )
            made = step.visibilities[window, sinks] = self._visibility(step, window, sinks)
        return made

    @abstractmethod
    def update(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Keep one layer's new keys and values and hand out all that its queries may need.

        Args:
            layer: from 0.
            k: (B, G, T, Dk) in the cache's dtype.
            v: (B, G, T, Dv).

        Returns:
            (B, G, S, Dk) and (B, G, S, Dv), in the order of the visibility's key positions. They
            may be views that the next step overwrites.

        Raises:
            CacheError: outside a step, a layer too many or twice, another shape or dtype.
        """

    def commit(self) -> None:
        """The pass went through every layer: the new tokens now count.

        Raises:
            CacheError: outside a step, or a layer was left out.
        """
        step = self._begun("commit")
        if step.updated != self._all_layers:
            missing = [layer for layer in self.layers if not step.updated >> layer & 1]
            raise CacheError(
                f"layers {missing} of {len(self.layers)} were not updated in this step; is the "
                f"cache made from the model's own config?"
            )
        self._longest, self._ragged, self._step = step.longest, step.lengths, None

    # What a user calls -------------------------------------------------------------------------

    @property
    def longest(self) -> int:
        """Real tokens in the longest row."""
        return self._longest

    @property
    def lengths(self) -> Tensor:
        """(B,) int64: real tokens per row."""
        return self._row_lengths().clone()

    @property
    @abstractmethod
    def n_bytes(self) -> int:
        """Bytes allocated for keys and values (positions cost at most 8 bytes a slot more)."""

    @property
    @abstractmethod
    def used_bytes(self) -> int:
        """Bytes of those that hold something."""

    def reset(self) -> None:
        """Forget everything; the memory stays allocated."""
        self._longest, self._ragged, self._step = 0, None, None

    @torch.inference_mode(False)
    def truncate(self, length: int | Tensor) -> None:
        """Keep at most the first `length` tokens of each row; (B,) for a length of its own each.

        Raises:
            CacheError: a negative length, or a tensor that is not (B,) whole numbers.
        """
        old = self.lengths
        if isinstance(length, Tensor) and length.ndim > 0:
            if length.shape != (self.batch_size,) or length.dtype.is_floating_point:
                raise CacheError(
                    f"lengths must be ({self.batch_size},) whole numbers, "
                    f"got {length.dtype} of shape {tuple(length.shape)}"
                )
            wanted = length.to(self.device, torch.int64)
        else:
            wanted = torch.full_like(old, int(length))
        if bool((wanted < 0).any()):
            raise CacheError(f"cannot keep {int(wanted.min())} tokens; the least is 0")
        new = torch.minimum(old, wanted)
        self._step = None
        if bool((new < old).any()):
            self._shorten(old, new)

    def select(self, rows: Sequence[int] | Tensor) -> Cache:
        """Keep these rows, in this order; a row may come more than once. Returns the cache itself.

        Raises:
            CacheError: no row, or a row that is not there.
        """
        rows = torch.as_tensor(rows, dtype=torch.int64, device=self.device)
        if rows.ndim != 1 or rows.numel() == 0:
            raise CacheError(f"rows must be a list of at least one row, got {tuple(rows.shape)}")
        low, high = int(rows.min()), int(rows.max())
        if low < 0 or high >= self.batch_size:
            wrong = low if low < 0 else high
            raise CacheError(f"row {wrong} is not among the {self.batch_size} rows of the cache")
        self._step = None
        with torch.inference_mode(False):
            self._take_rows(rows)
        self.batch_size = rows.numel()
        return self

    def fork(self, n: int) -> Cache:
        """A new cache with every row n times in a row (0, 0, 1, 1, ...): n texts from one prompt.

        Raises:
            ValueError: n below 1.
        """
        whole_number("n", n)
        rows = torch.arange(self.batch_size, device=self.device).repeat_interleave(n)
        return self._twin().select(rows)

    # For the caches ----------------------------------------------------------------------------

    @abstractmethod
    def _prepare(self, step: Step) -> None:
        """Plan where the step's tokens go. Raises CacheError when there is no room."""

    @abstractmethod
    def _visibility(self, step: Step, window: int | None, sinks: int) -> Visibility: ...

    @abstractmethod
    def _shorten(self, old: Tensor, new: Tensor) -> None:
        """Rows of lengths `old` (B,) keep `new` (B,) tokens."""

    def _take_rows(self, rows: Tensor) -> None:
        if self._ragged is not None:
            self._ragged = self._ragged[rows]
            self._longest = int(self._ragged.max())

    def _twin(self) -> Cache:
        """A shallow copy, every buffer of which `_take_rows` replaces."""
        return copy.copy(self)

    def _set_lengths(self, lengths: Tensor) -> None:
        self._longest = int(lengths.max())
        self._ragged = None if bool((lengths == self._longest).all()) else lengths

    def _row_lengths(self) -> Tensor:
        if self._ragged is not None:
            return self._ragged
        return torch.full((self.batch_size,), self._longest, device=self.device)

    def _ragged_positions(self, t: int, padding: Tensor | None) -> tuple[Tensor, Tensor]:
        """Positions (B, T) of the chunk and lengths (B,) after it."""
        before = self._row_lengths()
        if padding is None:
            return before[:, None] + torch.arange(t, device=self.device), before + t
        padding = padding.to(self.device)
        positions = before[:, None] + positions_of(padding)
        return torch.where(padding, positions, NOWHERE), before + padding.sum(dim=1)

    def _range(self, start: int, stop: int) -> Tensor:
        """(stop - start,) int64, a view where the numbers are at hand."""
        if stop <= self._numbers.shape[0]:
            return self._numbers[start:stop]
        return torch.arange(start, stop, device=self.device)

    def _admit(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Refuse what does not fit, note the layer, and return k and v cut from any gradient."""
        step = self._begun("update")
        if layer not in self._windows:
            raise CacheError(
                f"layer {layer} is not among the layers 0 to {self.config.n_layers - 1} that this "
                f"cache keeps; make it from the config of the model that uses it"
            )
        if step.updated >> layer & 1:
            raise CacheError(f"layer {layer} was updated twice in one step")
        (g, d), (g_v, d_v) = self._widths
        b, t = self.batch_size, step.t
        if k.shape != (b, g, t, d) or v.shape != (b, g_v, t, d_v):
            raise CacheError(
                f"layer {layer}: keys and values must be {(b, g, t, d)} and {(b, g_v, t, d_v)}, "
                f"got {tuple(k.shape)} and {tuple(v.shape)}"
            )
        # A wider cache is welcome (see `kept_as`); a narrower one would round unasked.
        if not all(torch.promote_types(x.dtype, self.dtype) == self.dtype for x in (k, v)):
            raise CacheError(
                f"layer {layer}: the cache keeps {self.dtype}, got keys in {k.dtype} and values "
                f"in {v.dtype}; make the cache with dtype={k.dtype}"
            )
        step.updated |= 1 << layer
        k, v = (x if x.dtype == self.dtype else x.to(self.dtype) for x in (k, v))
        return (k.detach(), v.detach()) if k.requires_grad or v.requires_grad else (k, v)

    def _begun(self, what: str) -> Step:
        if self._step is None:
            raise CacheError(f"{what}() belongs to a step; call begin() first")
        return self._step

    def _check(self, b: int, t: int, padding: Tensor | None) -> None:
        if b != self.batch_size:
            raise CacheError(f"the cache has {self.batch_size} rows, got a batch of {b}")
        if t < 1:
            raise CacheError("a step needs at least one token, got none")
        if padding is not None and (padding.dtype != torch.bool or padding.shape != (b, t)):
            raise CacheError(
                f"padding must be bool of shape {(b, t)}, True for the real tokens of the new "
                f"chunk alone, got {padding.dtype} of shape {tuple(padding.shape)}"
            )

    def _new(self, make, *args, **kwargs) -> Tensor:
        """A tensor that may be written in place inside inference mode and outside of it."""
        with torch.inference_mode(False):
            return make(*args, **kwargs, device=self.device)

    def _token_bytes(self) -> int:
        """Bytes of one token's key and value in one layer."""
        return sum(g * d for g, d in self._widths) * self.dtype.itemsize


class _NoGradient(torch.autograd.Function):
    """What a cache hands out while gradients are recorded: usable, but never silently constant."""

    @staticmethod
    def forward(ctx, kept: Tensor, fresh: Tensor) -> Tensor:
        return kept.view_as(kept)

    @staticmethod
    def backward(ctx, slope: Tensor):
        raise CacheError("gradients do not pass through a cache; train without one")


def hand_out(kept: Tensor, fresh: Tensor) -> Tensor:
    """`kept`, which a backward pass that reaches it refuses when `fresh` needed a gradient."""
    return _NoGradient.apply(kept, fresh) if fresh.requires_grad else kept


def first_needed(window: int | None, sinks: int, t: int, s: int) -> int:
    """The first of S columns in order of position that the last T of them, as queries, may see."""
    return 0 if window is None or sinks else max(0, s - t - window + 1)


def whole_number(name: str, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name}={value!r} must be a whole number of at least 1")
