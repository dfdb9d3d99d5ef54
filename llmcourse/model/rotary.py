"""Rotary positions: queries and keys are turned, and only how far apart they stand remains.

Taught in Part 3. Channels are taken in pairs, and the pair with rate r is turned by r · p radians
at position p. The product of a turned query and a turned key depends on the two positions only
through their difference: (R_p q) · (R_j k) = q · (R_{j-p} k). Nothing is learned or stored.

Channel i is paired with channel i + D/2 ("half split", as Llama's published weights have it); the
paper pairs neighbours, which is the same up to a fixed reordering of the channels.

Sources: Su et al. 2021, arXiv 2104.09864, equations 14 and 15; linear interpolation, Chen et al.
2023, arXiv 2306.15595; NTK-aware and YaRN, Peng et al. 2023, arXiv 2309.00071, sections 3.1 to 3.4;
Llama 3's scaling, Grattafiori et al. 2024, arXiv 2407.21783.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

SCALINGS = ("none", "linear", "ntk", "yarn", "llama3")


@dataclass(frozen=True)
class Rope:
    """How fast each pair of channels turns, and how a longer context slows it down.

    Raises:
        ValueError: a value is impossible; the message names the field and what would do.
    """

    base: float = 10_000.0  # pair i of a head turns base^(-2i / D) radians per token
    fraction: float = 1.0  # share of the head's channels that turn; the rest carry no position
    scaling: str = "none"  # how the rates are slowed for contexts beyond the trained one
    factor: float = 1.0  # how many times longer than the original context
    original_context: int | None = None  # tokens trained on before scaling; yarn and llama3 need it
    low_frequency_factor: float = 1.0  # llama3: pairs with fewer turns than this are slowed fully
    high_frequency_factor: float = 4.0  # llama3: pairs with more turns than this are left alone
    beta_fast: float = 32.0  # yarn: pairs with more turns than this are left alone
    beta_slow: float = 1.0  # yarn: pairs with fewer turns than this are slowed fully
    attention_factor: float | None = None  # yarn: size of cos and sin; None: 0.1 ln(factor) + 1
    truncate: bool = True  # yarn: round the blend's two ends to whole pairs, as most models do

    def __post_init__(self) -> None:
        if self.scaling not in SCALINGS:
            raise ValueError(f"rope scaling={self.scaling!r} is unknown; choose one of {SCALINGS}")
        if not self.base > 1 or not math.isfinite(self.base):
            raise ValueError(f"rope base={self.base} must be a number above 1")
        if not 0 < self.fraction <= 1:
            raise ValueError(f"rope fraction={self.fraction} must be a share in (0, 1]")
        if not self.factor >= 1 or not math.isfinite(self.factor):
            raise ValueError(f"rope factor={self.factor} must be at least 1")
        if self.scaling == "none" and self.factor != 1:
            raise ValueError(
                f"rope factor={self.factor} has no effect without a scaling; "
                f"choose one of {list(SCALINGS[1:])}"
            )
        if self.scaling in ("yarn", "llama3"):
            context = self.original_context
            if isinstance(context, bool) or not isinstance(context, int) or context < 1:
                raise ValueError(
                    f"rope scaling={self.scaling!r} needs original_context, the tokens of the "
                    f"first training, got {context!r}"
                )
        if not 0 < self.low_frequency_factor < self.high_frequency_factor:
            raise ValueError(
                f"low_frequency_factor={self.low_frequency_factor} must be above 0 and below "
                f"high_frequency_factor={self.high_frequency_factor}"
            )
        if not 0 < self.beta_slow < self.beta_fast:
            raise ValueError(
                f"beta_slow={self.beta_slow} must be above 0 and below beta_fast={self.beta_fast}"
            )
        if self.attention_factor is not None and not self.attention_factor > 0:
            raise ValueError(f"attention_factor={self.attention_factor} must be above 0, or None")

    def turned(self, d_head: int) -> int:
        """How many of a head's channels turn.

        Raises:
            ValueError: the number is odd or zero: pairs are needed.
        """
        channels = int(d_head * self.fraction)
        if channels < 2 or channels % 2:
            raise ValueError(
                f"rotary positions turn pairs of channels: d_head={d_head} with "
                f"fraction={self.fraction} gives {channels}, which must be even and at least 2"
            )
        return channels

    @property
    def magnitude(self) -> float:
        """What cos and sin are multiplied by: above 1 only under YaRN, which sharpens attention."""
        if self.scaling != "yarn":
            return 1.0
        if self.attention_factor is not None:
            return self.attention_factor
        return 0.1 * math.log(self.factor) + 1.0  # equation 22 of the YaRN paper


PLAIN_ROPE = Rope()  # base 10,000, every channel, no scaling


def rotary_frequencies(rope: Rope, d_head: int) -> Tensor:
    """Radians per token for each pair, (D_turned / 2,) float64, fastest first."""
    d = rope.turned(d_head)
    pair = torch.arange(0, d, 2, dtype=torch.float64)  # 0, 2, 4, ...
    base = rope.base
    if rope.scaling == "ntk":
        # Raising the base slows the slowest pair by exactly `factor` and leaves the fastest alone.
        base = base * rope.factor ** (d / max(d - 2, 1))
    rates = base ** (-pair / d)
    if rope.scaling == "linear":
        return rates / rope.factor
    if rope.scaling == "llama3":
        return _llama3(rates, rope)
    if rope.scaling == "yarn":
        return _yarn(rates, rope, d)
    return rates


def rotary_table(
    rope: Rope, d_head: int, positions: Tensor, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """Cosines and sines for whole-number positions (...): two tensors (..., D_turned / 2).

    Angles are formed in float64: in float32 the angle of position 20,000 is off by 1e-3 radians.
    """
    rates = rotary_frequencies(rope, d_head).to(positions.device)
    angles = positions.double()[..., None] * rates  # (..., D/2) radians
    size = rope.magnitude
    return (angles.cos() * size).to(dtype), (angles.sin() * size).to(dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the first 2R channels of x, pair by pair; the rest pass unchanged.

    Args:
        x: (..., T, D) queries or keys.
        cos: broadcastable to (..., T, R): the cosine of each pair's angle.
        sin: the same shape.

    Returns:
        (..., T, D) in the dtype of x.
    """
    if torch.is_grad_enabled() and x.requires_grad and not torch.compiler.is_compiling():
        return _Rotation.apply(x, cos, sin)
    return _turned(x, cos, sin)


def _turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    r = cos.shape[-1]
    cos, sin = cos.to(x.dtype), sin.to(x.dtype)
    first, second = x[..., :r], x[..., r : 2 * r]
    # (first cos - second sin, second cos + first sin), over whole rows and in place: a forward pass
    # through memory for each product would cost more than the products.
    across = torch.cat((second, first), dim=-1).mul_(torch.cat((-sin, sin), dim=-1))
    turned = across.addcmul_(x[..., : 2 * r], torch.cat((cos, cos), dim=-1))
    return turned if x.shape[-1] == 2 * r else torch.cat((turned, x[..., 2 * r :]), dim=-1)


class _Rotation(torch.autograd.Function):
    """Turning; its gradient is turned back: the transpose of a rotation is the inverse one."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _turned(x, cos, sin)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return rotate(slope, cos, -sin), None, None


def rotate_reference(x: Tensor, position: int, rope: Rope) -> Tensor:
    """One token's channels (D,), each pair multiplied by its 2 × 2 rotation matrix. For reading."""
    y = x.clone()
    rates = rotary_frequencies(rope, x.shape[-1])
    half = len(rates)
    for i, rate in enumerate(rates.tolist()):
        angle = rate * position
        c, s = math.cos(angle) * rope.magnitude, math.sin(angle) * rope.magnitude
        matrix = torch.tensor([[c, -s], [s, c]], dtype=x.dtype)
        y[[i, i + half]] = matrix @ x[[i, i + half]]
    return y


class RotaryTable:
    """The table of cosines and sines, made when first asked for and grown for longer texts.

    Not a module: there is nothing to learn, to save or to move. One table a device and precision,
    float64 for float64 models and float32 for all others, whatever the model is cast to. Positions
    from `limit` on, which only an endless stream reaches, are computed each time: the table of a
    stream must not grow with it.
    """

    def __init__(self, rope: Rope, d_head: int, limit: int) -> None:
        rope.turned(d_head)  # refuse now what could not be turned later
        self.rope, self.d_head, self.limit, self.rows = rope, d_head, limit, min(limit, 256)
        self.beyond = False  # whether the text under way is longer than the limit
        self.tables: dict[tuple[torch.device, torch.dtype], tuple[Tensor, Tensor]] = {}

    def grow(self, rows: int) -> None:
        """Make room for positions below `rows`."""
        self.beyond = rows > self.limit
        if rows > self.rows and not self.beyond:
            # Doubling, so that a text that grows token by token rebuilds it rarely.
            self.rows = min(max(rows, 2 * self.rows), self.limit)
            self.tables.clear()

    def at(self, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Rows for positions (T,): (T, R) each; for (B, T): (B, 1, T, R), ready for heads."""
        key = (positions.device, torch.float64 if dtype == torch.float64 else torch.float32)
        if self.beyond:
            cos, sin = rotary_table(self.rope, self.d_head, positions, key[1])
        else:
            if key not in self.tables:
                every = torch.arange(self.rows, device=positions.device)
                self.tables[key] = rotary_table(self.rope, self.d_head, every, key[1])
            cos, sin = (table[positions] for table in self.tables[key])
        return (cos, sin) if positions.ndim == 1 else (cos[:, None], sin[:, None])


def _llama3(rates: Tensor, rope: Rope) -> Tensor:
    # How often each pair turns within the original context decides what happens to it.
    turns = rope.original_context * rates / (2 * math.pi)
    low, high = rope.low_frequency_factor, rope.high_frequency_factor
    keep = ((turns - low) / (high - low)).clamp(0, 1)  # 1: unchanged, 0: slowed by `factor`
    return keep * rates + (1 - keep) * rates / rope.factor


def _yarn(rates: Tensor, rope: Rope, d: int) -> Tensor:
    def pair_with(turns: float) -> float:
        """The (fractional) pair that turns so often within the original context."""
        wavelength = rope.original_context / (turns * 2 * math.pi)
        return d * math.log(wavelength) / (2 * math.log(rope.base))

    first, last = pair_with(rope.beta_fast), pair_with(rope.beta_slow)
    if rope.truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, d - 1)
    if first == last:
        last += 1e-3  # a step instead of a ramp
    pair = torch.arange(d // 2, dtype=torch.float64)
    slowed = ((pair - first) / (last - first)).clamp(0, 1)  # 0: unchanged, 1: slowed by `factor`
    return slowed * rates / rope.factor + (1 - slowed) * rates
