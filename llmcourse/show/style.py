"""One visual language for every picture of the course.

Taught in: nowhere; it is the ruler and the ink of all ten parts.
Source: the colours are Okabe and Ito's (Color Universal Design, 2008), chosen to stay apart for the
common kinds of colour blindness. Colour is never the only sign: every series also has its own line
style and marker, and neighbouring series differ in lightness, so that a grey print still reads.

Deviation: the palette's yellow is left out for lines, since it vanishes on white paper.

Importing this module changes nothing in matplotlib; the settings hold only inside `applied()`, and
matplotlib itself is imported when the first picture is drawn.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

INK = "#222222"  # text and axes
MUTED = "#6b6b6b"  # secondary text
FAINT = "#dcdcdc"  # grid lines, empty tracks
PAPER = "#ffffff"

BLUE = "#0072B2"
ORANGE = "#E69F00"
VERMILLION = "#D55E00"
GREEN = "#009E73"
PURPLE = "#CC79A7"
SKY = "#56B4E9"

# What a colour means, wherever it appears.
KEPT = BLUE  # a token that may still be sampled
CUT = "#b8b8b8"  # a token that a filter removed
FLOOR = VERMILLION  # the entropy floor
QUERY = ORANGE  # the position that looks

TEXT_SIZE = 10.0  # points
SMALL_SIZE = 8.5  # points
DOTS_PER_INCH = 110


class Series(NamedTuple):
    """How one series is drawn: three signs, any one of which tells it from its neighbours."""

    color: str
    linestyle: str | tuple[int, tuple[int, ...]]
    marker: str


# Ordered so that neighbours are far apart in lightness (dark, light, black, middle, ...); green has
# no place in such an order and is kept for bands.
SERIES: tuple[Series, ...] = (
    Series(BLUE, "-", "o"),
    Series(ORANGE, (0, (5, 2)), "s"),
    Series("#000000", (0, (1, 1)), "^"),
    Series(PURPLE, (0, (6, 2, 1, 2)), "D"),
    Series(SKY, (0, (8, 2)), "P"),
    Series(VERMILLION, (0, (3, 1)), "v"),
)


def series(index: int) -> Series:
    """The drawing style of series number `index` (from 0); they repeat after six."""
    return SERIES[index % len(SERIES)]


def _settings() -> dict[str, Any]:
    from cycler import cycler

    return {
        "figure.dpi": DOTS_PER_INCH,
        "figure.facecolor": PAPER,
        "savefig.facecolor": PAPER,
        "font.family": "DejaVu Sans",  # ships inside matplotlib, so pictures agree between machines
        "font.size": TEXT_SIZE,
        "text.color": INK,
        "axes.facecolor": PAPER,
        "axes.edgecolor": MUTED,
        "axes.labelcolor": INK,
        "axes.labelsize": TEXT_SIZE,
        "axes.titlesize": TEXT_SIZE + 1,
        "axes.titlelocation": "left",
        "axes.titlepad": 8.0,
        "axes.linewidth": 0.8,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "axes.grid": False,
        "axes.prop_cycle": cycler(color=[s.color for s in SERIES])
        + cycler(linestyle=[s.linestyle for s in SERIES]),
        "grid.color": FAINT,
        "grid.linewidth": 0.6,
        "lines.linewidth": 1.8,
        "lines.markersize": 5.0,
        "xtick.color": INK,
        "ytick.color": INK,
        "xtick.labelsize": SMALL_SIZE,
        "ytick.labelsize": SMALL_SIZE,
        "legend.frameon": False,
        "legend.fontsize": SMALL_SIZE,
        "hatch.linewidth": 0.6,
    }


def applied() -> AbstractContextManager[None]:
    """A context in which matplotlib draws in the course's style; after it, all is as before."""
    import matplotlib

    return matplotlib.rc_context(_settings())


def figure(
    width: float = 7.0,
    height: float = 3.2,
    rows: int = 1,
    columns: int = 1,
    *,
    attached: bool = True,
    layout: str = "constrained",
    **subplot_options: Any,
) -> tuple[Figure, np.ndarray]:
    """A new figure and its axes in the course's style.

    Args:
        width, height: inches.
        rows, columns: the grid of axes.
        attached: True registers the figure with pyplot, so that `plt.show()` shows it. False makes
            one that nobody else holds, for drawing to a file or a widget: nothing to close.
        layout: matplotlib's layout engine; "compressed" suits maps with square cells.
        subplot_options: passed to matplotlib's `subplots` (`sharex`, `width_ratios`, ...).

    Returns:
        (figure, axes), where axes is an array of shape (rows, columns), whatever the numbers.
    """
    if rows < 1 or columns < 1:
        raise ValueError(f"a figure needs at least one row and one column, not {rows} x {columns}")
    with applied():
        if attached:
            import matplotlib.pyplot as plt

            drawn = plt.figure(figsize=(width, height), layout=layout)
        else:
            from matplotlib.backends.backend_agg import FigureCanvasAgg
            from matplotlib.figure import Figure

            drawn = Figure(figsize=(width, height), layout=layout)
            FigureCanvasAgg(drawn)
        axes = drawn.subplots(rows, columns, squeeze=False, **subplot_options)
        for ax in axes.flat:
            # Ticks are made when the picture is drawn, long after the style's context has closed:
            # so their look is handed to the axes now.
            ax.tick_params(labelsize=SMALL_SIZE, colors=INK, color=MUTED, length=3, width=0.8)
    return drawn, axes


def discard(drawn: Figure) -> None:
    """Forget a figure that could not be finished, so that the next `plt.show()` passes it over."""
    import matplotlib.pyplot as plt

    plt.close(drawn)


def grid(ax: Axes, axis: str = "y") -> None:
    """Quiet grid lines behind the data."""
    ax.grid(True, axis=axis, color=FAINT, linewidth=0.6)
    ax.set_axisbelow(True)


def drawable(text: str, family: str = "DejaVu Sans") -> str:
    """`text` with a replacement sign for every character that the font cannot draw.

    A model may write anything, and matplotlib warns about each sign it lacks, on stderr.
    """
    from matplotlib.font_manager import findfont, get_font

    font = get_font(findfont(family))
    return "".join(c if c == "\n" or font.get_char_index(ord(c)) else "\ufffd" for c in text)


def drawable_label(text: str) -> str:
    """`drawable`, and a dollar sign stays a dollar sign instead of beginning a formula."""
    return drawable(text).replace("$", r"\$")


def weight_colormap() -> Colormap:
    """White to deep blue with falling lightness, for what is never negative (weights, shares)."""
    from matplotlib.colors import LinearSegmentedColormap

    stops = ["#ffffff", "#cfe3f1", "#86bbdd", "#2f86bd", "#0b5a94", "#08305c"]
    return LinearSegmentedColormap.from_list("course_weight", stops)


def signed_colormap() -> Colormap:
    """Dark blue to light yellow for signed values: lightness rises all the way, so that the sign
    survives a grey print (a red-white-blue map would show -1 and 1 as the same grey)."""
    import matplotlib

    return matplotlib.colormaps["cividis"]


def lightness(color: str) -> float:
    """CIE L* of an sRGB colour, from 0 (black) to 100 (white): what a grey print keeps of it."""
    from matplotlib.colors import to_rgb

    rgb = np.asarray(to_rgb(color))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    luminance = float(linear @ np.array([0.2126, 0.7152, 0.0722]))
    if luminance <= 216 / 24389:
        return luminance * 24389 / 27
    return 116 * luminance ** (1 / 3) - 16


def text_color_on(color: str | tuple[float, ...]) -> str:
    """Dark or white ink, whichever is easier to read on `color`."""
    from matplotlib.colors import to_hex

    return INK if lightness(to_hex(color)) > 60 else PAPER
