"""Tokens as boxes around the text they stand for, in lines, one tokenizer above the other.

Taught in: Part 4. Every byte has one cell of the line, so that boxes of several tokenizers over the
same text stand exactly one above the other. A character that is cut apart is shown as the bytes it
is made of. The longer the token, the darker its box.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

from llmcourse.show import style
from llmcourse.show.tokens import readable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# By length in bytes: one, two, three or four, more.
FILLS = ("#ffffff", "#e3f0f8", "#b5d7ec", "#7db8dd")
MONO = "DejaVu Sans Mono"


def fill_of(token: bytes) -> str:
    """The colour of a token's box: the longer the token, the darker."""
    return FILLS[0 if len(token) < 2 else 1 if len(token) < 3 else 2 if len(token) < 5 else 3]


class Box(NamedTuple):
    """A token, or what of it stands on one line."""

    number: int  # of the token in its row
    start: int  # cells from the left of the line
    part: bytes  # what stands on this line
    token: bytes  # the whole token


class Line(NamedTuple):
    """One line of one tokenizer."""

    name: str
    block: int  # lines of the same block hold the same bytes
    boxes: tuple[Box, ...]


def token_lines(rows: Mapping[str, Sequence[bytes]], columns: int) -> list[Line]:
    """The same text in several tokenisations, folded into lines at the same bytes.

    Lines are folded where every tokenizer has a cut; where there is none, through a token.

    Args:
        rows: by name, the bytes of each token; joined, all rows give the same bytes.
        columns: bytes on a line, at most.

    Raises:
        ValueError: no rows, an empty text, or rows of different texts.
    """
    if columns < 8:
        raise ValueError(f"columns={columns} must be at least 8 bytes")
    texts = {name: b"".join(tokens) for name, tokens in rows.items()}
    if not texts or not all(texts.values()):
        raise ValueError("there is nothing to draw: give at least one row with at least one token")
    first, whole = next(iter(texts.items()))
    for name, text in texts.items():
        if text != whole:
            raise ValueError(
                f"{name!r} holds another text than {first!r}: {len(text)} bytes against "
                f"{len(whole)}, or other ones; all rows must spell the same bytes"
            )
    cuts = set(range(len(whole) + 1))
    for tokens in rows.values():
        places, at = {0}, 0
        for token in tokens:
            at += len(token)
            places.add(at)
        cuts &= places
    folds, at = [0], 0
    while at < len(whole):
        near = [cut for cut in cuts if at + columns // 2 <= cut <= at + columns]
        at = len(whole) if len(whole) - at <= columns else max(near, default=at + columns)
        folds.append(at)
    lines = []
    for block, (start, stop) in enumerate(pairwise(folds)):
        for name, tokens in rows.items():
            boxes, at = [], 0
            for number, token in enumerate(tokens):
                low, high = max(at, start), min(at + len(token), stop)
                if low < high:
                    boxes.append(Box(number, low - start, token[low - at : high - at], token))
                at += len(token)
            lines.append(Line(name, block, tuple(boxes)))
    return lines


def spelled(part: bytes) -> list[tuple[str, int, int]]:
    """(sign, first cell, cells) of what a box shows: whole characters, else bytes in hex."""
    try:
        characters = part.decode("utf-8")
    except UnicodeDecodeError:
        return [(f"{byte:02X}", place, 1) for place, byte in enumerate(part)]
    found, place = [], 0
    for character in characters:
        width = len(character.encode("utf-8"))
        found.append((readable(character), place, width))
        place += width
    return found


def draw_token_lines(
    ax: Axes,
    lines: Sequence[Line],
    columns: int,
    *,
    marked: Collection[int] = (),
    groups: Sequence[Any] | None = None,
) -> None:
    """Draw lines of boxes; nothing else stands on these axes.

    Args:
        ax: the axes.
        lines: of `token_lines`.
        columns: the same as there.
        marked: numbers of tokens to frame.
        groups: for each token what belongs together; a heavy rule stands between groups.
    """
    from matplotlib.patches import Rectangle

    top, block = 0.0, 0
    heights = []
    for line in lines:
        if line.block != block:
            block = line.block
            top += 0.35 if len({one.name for one in lines}) > 1 else 0.0
        heights.append(top)
        for box in line.boxes:
            frame = box.number in marked
            ax.add_patch(
                Rectangle(
                    (box.start + 0.06, top + 0.08), len(box.part) - 0.12, 0.84,
                    facecolor=fill_of(box.token), zorder=3 if frame else 2,
                    edgecolor=style.VERMILLION if frame else style.MUTED,
                    linewidth=2.0 if frame else 0.7,
                )
            )  # fmt: skip
            for sign, place, width in spelled(box.part):
                ax.text(
                    box.start + place + width / 2, top + 0.53, style.drawable(sign, MONO),
                    ha="center", va="center", family=MONO, parse_math=False, zorder=4,
                    fontsize=style.SMALL_SIZE if len(sign) <= width else 5.5,
                    color=style.INK if len(sign) <= width else style.MUTED,
                )  # fmt: skip
            inside = groups is not None and box.start and box.number
            if inside and groups[box.number] != groups[box.number - 1]:
                ax.plot(
                    [box.start] * 2, [top + 0.02, top + 0.98], color=style.INK, linewidth=1.5,
                    linestyle="-", zorder=3.5,
                )  # fmt: skip
        top += 1.0
    ax.set_xlim(-0.3, columns + 0.3)
    ax.set_ylim(top + 0.1, -0.1)
    named = [(height + 0.5, line.name) for height, line in zip(heights, lines, strict=True)]
    ax.set_yticks([h for h, name in named if name], [name for _, name in named if name])
    ax.set_xticks([])
    ax.tick_params(length=0)
    for spine in ax.spines.values():
        spine.set_visible(False)


def plot_tokenizations(
    text: str,
    tokenizers: Mapping[str, Any],
    *,
    columns: int = 64,
    title: str | None = None,
) -> Figure:
    """A text as several tokenizers cut it, one above the other, byte under byte.

    Args:
        text: a few lines.
        tokenizers: by name; each has `encode` and `token_bytes`.
        columns: bytes on a line, at most.
        title: over the figure; None counts each tokenizer's tokens.

    Returns:
        The figure, known to pyplot.

    Raises:
        ValueError: no tokenizer, an empty text, or a tokenizer that does not give the text back.
    """
    rows = {
        name: [tokenizer.token_bytes(number) for number in tokenizer.encode(text)]
        for name, tokenizer in tokenizers.items()
    }
    lines = token_lines(rows, columns)
    if b"".join(next(iter(rows.values()))) != text.encode("utf-8"):
        raise ValueError(
            "the tokenizers do not give this text back, so their tokens cannot stand over it"
        )
    if title is None:
        counts = ", ".join(f"{len(tokens)} ({name})" for name, tokens in rows.items())
        title = f"{len(text.encode('utf-8'))} bytes; tokens: {counts}"
    blocks = lines[-1].block
    with style.applied():
        drawn, axes = style.figure(9.8, 0.3 * len(lines) + 0.1 * blocks + 0.55)
        draw_token_lines(axes[0, 0], lines, columns)
        axes[0, 0].set_title(style.drawable_label(title))
    return drawn
