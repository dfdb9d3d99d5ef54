"""Drawing an exercise's inputs: every case has a name, and its name is its seed."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


class Draw:
    """A source of random arguments that never touches the global generators."""

    def __init__(self, name: str) -> None:
        self._random = random.Random(name)  # a string seeds through SHA-512: the same everywhere
        self._torch = torch.Generator().manual_seed(self._random.getrandbits(48))

    def normal(self, *shape: int, scale: float = 1.0) -> Tensor:
        """float64, mean 0, standard deviation `scale`."""
        return scale * torch.randn(*shape, generator=self._torch, dtype=torch.float64)

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        """float64 in [low, high)."""
        sample = torch.rand(*shape, generator=self._torch, dtype=torch.float64)
        return low + (high - low) * sample

    def integers(self, low: int, high: int, *shape: int) -> Tensor:
        """int64 from low to high, both included."""
        return torch.randint(low, high + 1, shape, generator=self._torch)

    def integer(self, low: int, high: int) -> int:
        return self._random.randint(low, high)

    def number(self, low: float, high: float) -> float:
        # Few digits, so that a message shows the number that was used.
        return round(self._random.uniform(low, high), 3)

    def pick(self, choices: Sequence[T]) -> T:
        return self._random.choice(choices)

    def distinct(self, count: int, low: int, high: int) -> list[int]:
        """`count` different whole numbers from low to high, both included, in random order."""
        return self._random.sample(range(low, high + 1), count)

    def map(self, width: int) -> Callable[[Tensor], Tensor]:
        """A fixed smooth function (..., width) -> (..., width), unlike any other drawn."""
        weight = self.normal(width, width)
        bias = self.normal(width)

        def function(x: Tensor) -> Tensor:
            return torch.tanh(x @ weight + bias)

        return function

    def rotation(self, width: int) -> Callable[[Tensor, Tensor], Tensor]:
        """Rotary positions of its own: x (T, width) and positions (T,) -> x turned (T, width)."""
        return rotation(self.uniform(0.3, 1.2, width // 2))

    def orders(self, n: int) -> Callable[[int], Tensor]:
        """A shuffle for each epoch: epoch -> 0 to n - 1 in an order of its own, (n,) int64."""
        first = self.integer(0, 10**6)

        def function(epoch: int) -> Tensor:
            return torch.randperm(n, generator=torch.Generator().manual_seed(first + epoch))

        return function

    def losses(self) -> Callable[[Tensor, Tensor], Tensor]:
        """A smooth loss for each row: weight (C,) and batch (N, C) -> (N,)."""
        steepness = self.number(0.5, 1.5)

        def function(weight: Tensor, batch: Tensor) -> Tensor:
            return torch.log1p(torch.exp(-steepness * (batch @ weight)))  # (N,)

        return function

    def scores(self, vocabulary: int) -> Callable[[Tensor], Tensor]:
        """A fixed stand-in for a language model: ids (B, T) -> logits (B, T, vocabulary).

        The logits at a position depend on all ids up to it and on no later one.
        """
        table = self.normal(vocabulary, vocabulary)
        turn = self.normal(vocabulary, vocabulary)

        def function(ids: Tensor) -> Tensor:
            state = torch.sin(3.0 * table[ids].cumsum(dim=1))  # (B, T, V)
            return state @ turn + 2.0 * turn[ids]  # (B, T, V)

        return function


class Watched(Tensor):
    """A tensor that refuses to become too much at once, as a small memory would.

    Whatever is computed from it raises MemoryError when `rule` finds fault with its shape.
    """

    rule: Callable[[tuple[int, ...]], str | None]
    # What comes of these is no table of scores any more; watching it on would only cost time.
    released = frozenset({"exp", "sum", "amax", "softmax", "logsumexp", "detach"})

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = super().__torch_function__(func, types, args, kwargs or {})
        if isinstance(result, cls):
            flat = [y for x in args for y in (x if isinstance(x, list | tuple) else [x])]
            rules = [x.rule for x in flat if isinstance(x, cls) and hasattr(x, "rule")]
            if not rules:
                return result.as_subclass(Tensor)
            result.rule = rules[0]
            fault = result.rule(tuple(result.shape))
            if fault:
                raise MemoryError(fault)
            if func.__name__ in cls.released:
                return result.as_subclass(Tensor)
        return result

    def __deepcopy__(self, memo: Any) -> Tensor:
        return self.clone()


def narrow(q: Tensor, keys: int) -> Tensor:
    """q, which must not be multiplied with as many keys at once."""
    if keys in q.shape:
        raise ValueError(f"q of shape {tuple(q.shape)} has an axis of length {keys} already")

    def rule(shape: tuple[int, ...]) -> str | None:
        if keys not in shape:
            return None
        return (
            f"scores of shape {shape}: there is no room for all {keys} keys at once, only for a "
            f"tile of them"
        )

    return _watched(q, rule)


def bounded(x: Tensor, most: int) -> Tensor:
    """x, of which nothing with more than `most` numbers may be made."""
    if x.numel() > most:
        raise ValueError(f"x of shape {tuple(x.shape)} has more than {most} numbers already")

    def rule(shape: tuple[int, ...]) -> str | None:
        if math.prod(shape) <= most:
            return None
        return f"a tensor of shape {shape}: there is no room for it, only for {most} numbers"

    return _watched(x, rule)


def _watched(x: Tensor, rule: Callable[[tuple[int, ...]], str | None]) -> Tensor:
    x = x.as_subclass(Watched)
    x.rule = rule
    return x


def rolled(n: int) -> Callable[[int], Tensor]:
    """An order for each epoch: that of epoch e begins with e and goes round, (n,) int64."""

    def function(epoch: int) -> Tensor:
        return torch.arange(n).roll(-epoch)

    return function


def rotation(rates: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """A function that turns channels i and i + D/2 by `rates[i]` radians per position."""

    def function(x: Tensor, positions: Tensor) -> Tensor:
        angles = positions[:, None] * rates  # (T, D/2)
        first, second = x.chunk(2, dim=-1)
        cos, sin = angles.cos(), angles.sin()
        return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)

    return function
