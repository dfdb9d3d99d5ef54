"""Number formats: how many bits say how large a number is, and how many how exactly.

Taught in: Part 4. A floating-point number of E exponent bits and M mantissa bits has M + 1 binary
digits wherever it is, reaches from 2^(2 - 2^(E-1)) to about 2^(2^(E-1)), and below that gives up
one digit after the other (*subnormal* numbers) until it is 0. bfloat16 spends its bits on reach,
float16 on digits.

Source: IEEE 754-2019, section 3.4, whose layout bfloat16 follows with other numbers of bits.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from llmcourse.show import style

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class NumberFormat:
    """A binary floating-point format, laid out as IEEE 754 has it."""

    name: str  # as torch calls it
    exponent_bits: int
    mantissa_bits: int

    @property
    def bits(self) -> int:
        """All bits, the sign's among them."""
        return 1 + self.exponent_bits + self.mantissa_bits

    @property
    def lowest_exponent(self) -> int:
        """Of the smallest number that still has all its digits, as a power of two."""
        return 2 - 2 ** (self.exponent_bits - 1)

    @property
    def smallest_normal(self) -> float:
        """The smallest number that still has all its digits."""
        return 2.0**self.lowest_exponent

    @property
    def smallest(self) -> float:
        """The smallest number above 0; half of it, and what is less, becomes 0."""
        return 2.0 ** (self.lowest_exponent - self.mantissa_bits)

    @property
    def largest(self) -> float:
        """The largest finite number."""
        return (2 - 2.0**-self.mantissa_bits) * 2.0 ** (2 ** (self.exponent_bits - 1) - 1)

    def spacing(self, magnitudes: Any) -> np.ndarray:
        """Distance from each magnitude to the next representable number above it.

        Args:
            magnitudes: any shape, between 0 and `largest`.
        """
        values = np.asarray(magnitudes, dtype=np.float64)
        # frexp gives x = m 2^e with m in [1/2, 1); the exponent as IEEE counts it is one less. Of 0
        # it gives e = 0, but 0 has the gap of the smallest numbers.
        exponent = np.where(values == 0, self.lowest_exponent, np.frexp(values)[1] - 1)
        exponent = np.maximum(exponent, self.lowest_exponent)
        return np.ldexp(1.0, exponent - self.mantissa_bits)

    def bit_string(self, value: float) -> str:
        """The bits of `value` after rounding to this format: sign, exponent, mantissa."""
        import torch

        width = {16: torch.int16, 32: torch.int32}[self.bits]
        stored = torch.tensor(value, dtype=getattr(torch, self.name)).view(width).item()
        return format(stored % 2**self.bits, f"0{self.bits}b")

    def rounded(self, value: float) -> float:
        """`value` as this format keeps it."""
        import torch

        return torch.tensor(value, dtype=getattr(torch, self.name)).item()


FORMATS = {
    form.name: form
    for form in (
        NumberFormat("float32", 8, 23),
        NumberFormat("bfloat16", 8, 7),
        NumberFormat("float16", 5, 10),
    )
}
FILLS = {"sign": "#ffffff", "exponent": style.ORANGE, "mantissa": "#b5d7ec"}


def chosen_formats(names: Iterable[str]) -> list[NumberFormat]:
    """Formats by name; ValueError for an unknown one, or none."""
    chosen = list(names)
    for name in chosen:
        if name not in FORMATS:
            raise ValueError(f"format {name!r} is unknown; choose of {', '.join(FORMATS)}")
    if not chosen:
        raise ValueError("there is nothing to draw: name at least one format")
    return [FORMATS[name] for name in chosen]


def plot_formats(
    value: float = 0.1,
    formats: Iterable[str] = ("float32", "bfloat16", "float16"),
    *,
    title: str | None = None,
) -> Figure:
    """The bits of one number in several formats: sign, exponent, mantissa, and what they keep.

    Args:
        value: the number.
        formats: names, of `FORMATS`.
        title: over the figure.

    Returns:
        The figure, known to pyplot.

    Raises:
        ValueError: no formats, an unknown one, or a value that is not finite.
    """
    from matplotlib.patches import Patch, Rectangle

    chosen = chosen_formats(formats)
    if not math.isfinite(value):
        raise ValueError(f"value={value} must be a finite number")
    with style.applied():
        drawn, axes = style.figure(9.6, 0.62 * len(chosen) + 0.85)
        ax = axes[0, 0]
        for row, form in enumerate(chosen):
            kinds = ["sign"] + ["exponent"] * form.exponent_bits + ["mantissa"] * form.mantissa_bits
            for place, (bit, kind) in enumerate(zip(form.bit_string(value), kinds, strict=True)):
                ax.add_patch(
                    Rectangle(
                        (place, row), 1, 0.62, facecolor=FILLS[kind], edgecolor=style.MUTED,
                        linewidth=0.8, hatch=None,
                    )
                )  # fmt: skip
                ax.text(
                    place + 0.5, row + 0.33, bit, ha="center", va="center",
                    fontsize=style.SMALL_SIZE, color=style.INK,
                )  # fmt: skip
            kept = form.rounded(value)
            error = abs(kept - value) / abs(value) if value and math.isfinite(kept) else 0.0
            ax.text(
                form.bits + 0.5, row + 0.33,
                f"{value:g} is kept as {kept:.9g}" + (f"; error {error:.1g}" if error else ""),
                va="center", fontsize=style.SMALL_SIZE,
            )  # fmt: skip
            ax.text(
                0, row + 0.68,
                f"largest {form.largest:.2g}; all digits down to {form.smallest_normal:.2g}, "
                f"0 below {form.smallest / 2:.1g}; at 1 the next number is "
                f"{form.spacing(1.0):.1g} away",
                va="top", fontsize=7.5, color=style.MUTED,
            )  # fmt: skip
        widest = max(form.bits for form in chosen)
        ax.set_xlim(-0.2, max(widest + 15, 46))
        ax.set_ylim(len(chosen) - 0.02, -0.1)
        ax.set_yticks([row + 0.31 for row in range(len(chosen))], [form.name for form in chosen])
        ax.set_xticks([])
        ax.tick_params(length=0)
        for spine in ax.spines.values():
            spine.set_visible(False)
        drawn.legend(
            handles=[Patch(facecolor=f, edgecolor=style.MUTED, label=n) for n, f in FILLS.items()],
            loc="outside upper right", ncols=3,
        )  # fmt: skip
        if title:
            ax.set_title(title)
    return drawn


def gap_curve(form: NumberFormat) -> tuple[np.ndarray, np.ndarray]:
    """Powers of two from the smallest number to the largest, and the relative gap above each."""
    exponents = np.arange(round(math.log2(form.smallest)), math.floor(math.log2(form.largest)) + 1)
    magnitudes = np.ldexp(1.0, exponents)
    return magnitudes, form.spacing(magnitudes) / magnitudes


def plot_spacing(
    formats: Iterable[str] = ("float32", "bfloat16", "float16"), *, title: str | None = None
) -> Figure:
    """How far apart representable numbers are: as a share of their size, and in themselves.

    Left, over all magnitudes a format has: the gap to the next number at each power of two, divided
    by it. The flat part is its digits; where it rises to 1, small numbers lose theirs. Right: the
    gap itself around 1, which doubles at each power of two.

    Args:
        formats: names, of `FORMATS`.
        title: over the figure.

    Returns:
        The figure, known to pyplot.

    Raises:
        ValueError: no formats, or an unknown one.
    """
    chosen = chosen_formats(formats)
    near = np.geomspace(2.0**-4, 2.0**4, 2001)[:-1]  # at 16 itself the next step would begin
    with style.applied():
        drawn, axes = style.figure(9.6, 3.5, 1, 2, width_ratios=[1.5, 1])
        left, right = axes[0]
        for number, form in enumerate(chosen):
            look = style.series(number)
            line = {"color": look.color, "linestyle": look.linestyle}
            magnitudes, gaps = gap_curve(form)
            left.plot(magnitudes, gaps, label=form.name, **line)
            left.plot(
                [magnitudes[0], magnitudes[-1]], [gaps[0], gaps[-1]], color=look.color,
                marker=look.marker, linestyle="",
            )  # fmt: skip
            right.plot(near, form.spacing(near), **line)
        for ax in (left, right):
            ax.set_xscale("log", base=10 if ax is left else 2)
            ax.set_yscale("log")
            ax.set_xlabel("magnitude (logarithmic)")
            style.grid(ax)
        left.set_xticks([10.0**n for n in range(-40, 41, 10)])
        left.set_xticks([], minor=True)
        right.set_xticks([2.0**n for n in range(-4, 5, 2)], ["1/16", "1/4", "1", "4", "16"])
        right.set_xticks([], minor=True)
        left.set_ylabel("gap to the next number / magnitude")
        right.set_ylabel("gap to the next number")
        drawn.legend(loc="outside upper center", ncols=len(chosen))
        if title:
            drawn.suptitle(title, x=0.01, ha="left", fontsize=style.TEXT_SIZE + 2)
    return drawn
