"""The picture in the README: the ten parts as a road, and the tiny model on its way to the floor.

Taught in: nowhere. Made from a real run:

    python -m llmcourse.show.readme_figure history.json --floor 0.71 --output docs/images/road.png

where `history.json` is `History.to_json()` of the Part 2 run on `tales`, and the floor is the exact
entropy of that text in nats per byte.
"""

from __future__ import annotations

import argparse
import io
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from llmcourse.files import atomic_write
from llmcourse.parts import PARTS
from llmcourse.show import style
from llmcourse.show.curves import draw_history

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LARGEST = 150 * 1024  # bytes: the picture is in every clone


def road(x: Any) -> np.ndarray:
    """Height of the road at part x (1 to 10): two gentle bends."""
    return 0.22 * np.sin((np.asarray(x, dtype=np.float64) - 1) * 2 * np.pi / 4.5)


def _draw_road(ax: Axes, parts: Sequence[Any]) -> None:
    from matplotlib.patheffects import withStroke

    last = len(parts)
    x = np.linspace(0.45, last + 0.55, 400)
    ax.plot(x, road(x), color="#e9e4da", linewidth=22, solid_capstyle="round", zorder=1)
    ax.plot(x, road(x), color="#ffffff", linewidth=1.6, dashes=(5, 5), zorder=2)
    for part in parts:
        at, height = part.number, float(road(part.number))
        ax.plot(
            at, height, "o", markersize=25, zorder=3, markeredgewidth=2,
            markeredgecolor=style.BLUE,
            markerfacecolor=style.BLUE if part.ready else style.PAPER,
        )  # fmt: skip
        ax.text(
            at, height, str(part.number), ha="center", va="center_baseline", zorder=4,
            color=style.PAPER if part.ready else style.BLUE, fontsize=12, fontweight="bold",
        )  # fmt: skip
        # Titles stand on the outer side of the bend, where there is room.
        above = height >= 0
        ax.text(
            at, height + (0.30 if above else -0.30), textwrap.fill(part.title, 13),
            ha="center", va="bottom" if above else "top", fontsize=9, linespacing=1.15,
            color=style.INK, zorder=5, path_effects=[withStroke(linewidth=3, foreground="white")],
        )  # fmt: skip
    if not all(part.ready for part in parts):
        ax.text(
            last + 0.6, 0.95, "filled: in this edition", ha="right", va="top",
            fontsize=style.SMALL_SIZE, color=style.MUTED,
        )  # fmt: skip
    ax.set_xlim(0.3, last + 0.7)
    ax.set_ylim(-1.0, 1.0)
    ax.set_axis_off()


def _draw_samples(ax: Axes, samples: Sequence[tuple[int, str]]) -> None:
    """What the model wrote, early and late."""
    ax.set_axis_off()
    top = 0.96
    for (step, text), color in zip([samples[0], samples[-1]], (style.MUTED, style.INK)):
        lines = textwrap.wrap(" ".join(text.split()), 46)[:6]
        ax.text(0, top, f"after {step} step{'s' if step > 1 else ''} it writes",
                fontsize=9, color=style.BLUE, fontweight="bold", va="top")  # fmt: skip
        ax.text(
            0, top - 0.085, style.drawable("\n".join(lines), "DejaVu Sans Mono"), va="top",
            family="DejaVu Sans Mono", fontsize=8, color=color, linespacing=1.4, parse_math=False,
        )  # fmt: skip
        top -= 0.5
    ax.set_xlim(0, 1)
    ax.set_ylim(0, 1)


def draw(history: Any, floor: float, parts: Sequence[Any] = PARTS) -> Figure:
    """The whole picture, unknown to pyplot.

    Args:
        history: an `llmcourse.train.History`; its first and last sample are shown if it has any.
        floor: nats per byte.
        parts: the course map.
    """
    samples = list(getattr(history, "samples", ()))
    with style.applied():
        figure, axes = style.figure(11.4, 5.6, 2, 1, attached=False, height_ratios=[1, 1.55])
        _draw_road(axes[0, 0], parts)
        axes[1, 0].set_axis_off()
        grid = (
            axes[1, 0]
            .get_subplotspec()
            .subgridspec(1, 2 if samples else 1, width_ratios=[1.45, 1] if samples else None)
        )
        curve = figure.add_subplot(grid[0, 0])
        curve.tick_params(labelsize=style.SMALL_SIZE, colors=style.INK, color=style.MUTED)
        draw_history(curve, history, floor=floor)
        curve.set_title("Part 2: a model you train, against the best that any model could do")
        curve.set_xlabel("optimiser step")
        if samples:
            _draw_samples(figure.add_subplot(grid[0, 1]), samples)
    return figure


def to_png(figure: Figure) -> bytes:
    """A PNG with a palette of 128 colours: a third of the size, and no difference to see.

    Raises:
        ValueError: if it is still larger than the repository should carry.
    """
    from PIL import Image

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    picture = Image.open(buffer).convert("RGB").quantize(128, dither=Image.Dither.NONE)
    small = io.BytesIO()
    picture.save(small, "png", optimize=True)
    data = small.getvalue()
    if len(data) > LARGEST:
        raise ValueError(f"the picture has {len(data)} bytes; at most {LARGEST} are allowed")
    return data


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the history, write the picture."""
    from llmcourse.train import History

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("history", type=Path, help="JSON written by History.to_json()")
    parser.add_argument("--floor", type=float, required=True, help="entropy floor, nats per byte")
    parser.add_argument("--output", type=Path, default=Path("docs/images/road.png"))
    options = parser.parse_args(arguments)
    history = History.from_json(options.history.read_text(encoding="utf-8"))
    data = to_png(draw(history, options.floor))
    options.output.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(options.output, data)
    print(f"{options.output}: {len(data)} bytes")


if __name__ == "__main__":
    main()
