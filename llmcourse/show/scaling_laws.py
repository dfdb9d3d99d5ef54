"""Scaling: the law through small runs with the large ones it foretold, and how BPE training grows.

Taught in: Part 4. On logarithmic axes a power is a straight line. What is drawn upward is not the
loss but what it is above the entropy floor of the text: that is all a model can still gain.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from llmcourse.evaluate.scaling_law import ScalingLaw
from llmcourse.show import style
from llmcourse.show.scaling import time_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LAWS = {"fixed": "law, floor known", "free": "law, floor found"}


def count_text(number: float) -> str:
    """A count in two digits: 10k, 330k, 1.4M."""
    for factor, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= 0.9995 * factor:
            digits = 1 if number < 9.95 * factor else 0
            return f"{number / factor:.{digits}f}".removesuffix(".0") + unit
    return f"{number:.0f}"


def plot_scaling_law(
    scaling: Mapping[str, Any], law: str = "fixed", *, title: str | None = None
) -> Figure:
    """Left the runs and a law through the small ones; right what was foretold and what came.

    Args:
        scaling: the entry "scaling" of the evidence of Part 4.
        law: which fit is drawn on the left: "fixed" (the floor known) or "free".
        title: over the figure.

    Returns:
        The figure, known to pyplot.

    Raises:
        ValueError: another law, no runs, or a run that is not above the floor.
    """
    if law not in LAWS:
        raise ValueError(f"law={law!r} is unknown; choose one of {list(LAWS)}")
    if not scaling["runs"]:
        raise ValueError("there is nothing to draw: no runs")
    for run in (*scaling["runs"], *scaling["large"]):
        if not run["nats_per_byte"] > scaling["floor"]:
            raise ValueError(
                f"a run of {run['parameters']:,} parameters has {run['nats_per_byte']} nats per "
                f"byte, which is not above the floor {scaling['floor']}"
            )
    with style.applied():
        drawn, axes = style.figure(9.8, 3.9, 1, 2, width_ratios=(1.25, 1))
        _draw_runs(axes[0, 0], scaling, law)
        _draw_foretold(axes[0, 1], scaling)
        if title:
            drawn.suptitle(title, x=0.01, ha="left", fontsize=style.TEXT_SIZE + 2)
    return drawn


def _draw_runs(ax: Axes, scaling: Mapping[str, Any], law: str) -> None:
    floor, small, large = scaling["floor"], scaling["runs"], scaling["large"]
    found = ScalingLaw(**scaling["fits"][law]["law"])
    sizes = sorted({run["parameters"] for run in (*small, *large)})
    tokens = [run["tokens"] for run in (*small, *large)]
    across = np.geomspace(min(tokens), max(tokens), 60)
    shades = style.signed_colormap()(np.linspace(0.0, 0.85, len(sizes)))
    for place, (size, shade) in enumerate(zip(sizes, shades)):
        look = style.series(place)
        # A floor that was found may lie above a large model's true one: nothing is drawn there.
        height = np.array([found.loss(size, d) for d in across]) - floor
        ax.plot(across, np.where(height > 0, height, np.nan), "-", color=shade, linewidth=1.2)
        for runs, filled in ((small, True), (large, False)):
            own = [run for run in runs if run["parameters"] == size]
            ax.plot(
                [run["tokens"] for run in own],
                [run["nats_per_byte"] - floor for run in own],
                linestyle="", marker=look.marker if filled else "*", color=shade,
                markersize=5 if filled else 13, markeredgecolor=style.INK,
                markeredgewidth=0.6, zorder=3,
            )  # fmt: skip
        if height[-1] > 0:
            ax.annotate(
                count_text(size), (across[-1], height[-1]), (6, 0), va="center",
                textcoords="offset points", fontsize=style.SMALL_SIZE,
            )  # fmt: skip
    ax.annotate(
        "N (parameters)", (1.0, 1.0), (6, 0), xycoords="axes fraction", va="top",
        textcoords="offset points", fontsize=style.SMALL_SIZE, color=style.MUTED,
    )  # fmt: skip
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.xaxis.set_major_formatter(lambda value, _: count_text(value))
    ax.set_xticks(_round_ticks(across[0], across[-1]))
    ax.set_xticks([], minor=True)
    ax.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    ax.yaxis.set_minor_formatter(lambda value, _: f"{value:g}")
    ax.tick_params(axis="y", which="minor", labelsize=style.SMALL_SIZE)
    ax.set_xlabel("D (tokens, each read once, logarithmic)")
    ax.set_ylabel("loss above the floor\n(nats per byte, logarithmic)")
    ax.set_title(f"dots: small runs, lines: {LAWS[law]}, stars: foretold")
    style.grid(ax)


def _round_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten within the range."""
    powers = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    return [t * 10.0**p for p in powers for t in (1, 2, 5) if low <= t * 10.0**p <= high]


def _draw_foretold(ax: Axes, scaling: Mapping[str, Any]) -> None:
    """One group of rows for each large run: both intervals, the naive guess, what came."""
    labels = []
    for place, (said, made) in enumerate(zip(scaling["foretold"], scaling["large"], strict=True)):
        for row, name in enumerate(LAWS):
            y, look = place + 0.26 * (row - 0.5), style.series(row)
            one = said[name]
            ax.plot(
                [one["low"], one["high"]], [y, y], color=look.color, linewidth=4, alpha=0.55,
                linestyle=("-", (0, (1.5, 0.7)))[row], solid_capstyle="butt",
            )  # fmt: skip
            ax.plot(
                one["loss"], y, linestyle="", marker=look.marker, color=look.color, markersize=6,
                label=LAWS[name] if place == 0 else None,
            )  # fmt: skip
        ax.plot(
            said["naive"], place, linestyle="", marker="x", color=style.MUTED, markersize=7,
            label="best small run" if place == 0 else None,
        )  # fmt: skip
        ax.plot(
            made["nats_per_byte"], place, linestyle="", marker="*", color="#000000", markersize=12,
            label="came" if place == 0 else None, zorder=4,
        )  # fmt: skip
        labels.append(f"N {count_text(made['parameters'])}\nD {count_text(made['tokens'])}")
    ax.axvline(scaling["floor"], color=style.FLOOR, linewidth=1.2)
    ax.annotate(
        "entropy floor", (scaling["floor"], 1.0), (3, -2), xycoords=ax.get_xaxis_transform(),
        textcoords="offset points", va="top", fontsize=style.SMALL_SIZE, color=style.FLOOR,
    )  # fmt: skip
    ax.set_yticks(range(len(labels)), labels)
    ax.set_ylim(len(labels) + 0.6, -0.75)  # the legend has the place beneath
    level = scaling["foretold"][0]["fixed"]["level"] if labels else 0
    ax.set_xlabel(f"loss (nats per byte); bars: {level:.0%} intervals")
    ax.legend(loc="lower right")
    ax.set_title("foretold, then made")
    style.grid(ax, "x")


def plot_bpe_growth(
    rows: Sequence[Mapping[str, float]],
    exponents: Mapping[str, float] | None = None,
    *,
    title: str | None = None,
) -> Figure:
    """How long training a tokenizer takes, by bytes of text and by tokens of vocabulary.

    Args:
        rows: with "bytes", "tokens", and seconds as "ours", "rust", "cutting" and "merging". Those
            with the most common number of tokens make the left panel, those with the most bytes
            the right one.
        exponents: powers of growth by "ours by bytes" and the like, named in the legend.
        title: over the figure.

    Returns:
        The figure, known to pyplot.

    Raises:
        ValueError: no rows, or fewer than two for a panel.
    """
    rows = list(rows)
    if not rows:
        raise ValueError("there is nothing to draw: no rows")
    counts = [row["tokens"] for row in rows]
    usual = max(set(counts), key=counts.count)
    largest = max(row["bytes"] for row in rows)
    by_size = sorted((r for r in rows if r["tokens"] == usual), key=lambda r: r["bytes"])
    by_vocab = sorted((r for r in rows if r["bytes"] == largest), key=lambda r: r["tokens"])
    for panel, name in ((by_size, f"of {usual:,} tokens"), (by_vocab, f"of {largest:,} bytes")):
        if len(panel) < 2:
            raise ValueError(f"a line needs two rows or more; there is {len(panel)} {name}")
    names = {"ours": "this package", "rust": "tokenizers (Rust)", "cutting": "ours: cutting"}
    names["merging"] = "ours: merging"
    with style.applied():
        drawn, axes = style.figure(9.6, 3.8, 1, 2, sharey=True)
        panels = (
            (axes[0, 0], by_size, "bytes", "by bytes", f"{usual:,} tokens", "text (bytes"),
            (
                axes[0, 1], by_vocab, "tokens", "by merges", f"{count_text(largest)} bytes of text",
                "vocabulary (tokens",
            ),
        )  # fmt: skip
        for ax, panel, key, kind, fixed, label in panels:
            for place, (name, text) in enumerate(names.items()):
                look = style.series(place)
                power = (exponents or {}).get(f"{name} {kind}")
                ax.plot(
                    [row[key] for row in panel], [row[name] for row in panel], color=look.color,
                    linestyle=look.linestyle, marker=look.marker,
                    linewidth=1.8 if place < 2 else 1.1,
                    label=text if power is None else f"{text}, power {power:.2f}",
                )  # fmt: skip
            ax.set_xscale("log")
            ax.set_yscale("log")
            ax.xaxis.set_major_formatter(lambda value, _: count_text(value))
            ax.set_xticks(_round_ticks(panel[0][key], panel[-1][key]))
            ax.set_xticks([], minor=True)
            ax.yaxis.set_major_formatter(lambda value, _: time_text(value))
            ax.set_xlabel(f"{label}, logarithmic)")
            ax.set_title(fixed)
            ax.legend(loc="upper left" if key == "bytes" else "lower right")
            style.grid(ax)
        axes[0, 0].set_ylabel("training time (logarithmic)")
        if title:
            drawn.suptitle(title, x=0.01, ha="left", fontsize=style.TEXT_SIZE + 2)
    return drawn
