"""The small pieces of HTML and SVG that the widgets are made of.

Taught in: nowhere. Text is always escaped; colours come from `style`, text and borders from the
theme of the page (`currentColor`, JupyterLab's variables), so that dark themes read as well.
"""

from __future__ import annotations

import base64
import io
from html import escape

import numpy as np

from llmcourse.show import style

FONT = "font-family:var(--jp-ui-font-family,system-ui,sans-serif);font-size:13px;line-height:1.5"
MONO = "font-family:var(--jp-code-font-family,ui-monospace,monospace)"
INK = "color:var(--jp-ui-font-color1,#222)"
MUTED = "color:var(--jp-ui-font-color2,#6b6b6b)"
BORDER = "var(--jp-border-color2,#dcdcdc)"

# Two stripes of the page's own ink: "not allowed" on light and on dark pages.
HATCH_CSS = (
    "repeating-linear-gradient(135deg,rgba(128,128,128,.28) 0 1px,transparent 1px 5px)"
)  # fmt: skip
HATCH_SVG = (
    '<pattern id="llmcourse-hatch" width="5" height="5" patternUnits="userSpaceOnUse" '
    'patternTransform="rotate(45)"><line x1="0" y1="0" x2="0" y2="5" stroke="#8a8a8a" '
    'stroke-width="1.1"/></pattern>'
)


def page(*parts: str) -> str:
    """The widget's view: its parts one beneath the other."""
    return f'<div style="{FONT};{INK};max-width:900px;padding:4px 2px">{"".join(parts)}</div>'


def message(text: str) -> str:
    """A line in place of the view, when there is nothing to show."""
    return page(f'<p role="status" style="margin:8px 0">{escape(text)}</p>')


def summary(html: str) -> str:
    """The one sentence that says in words what the picture shows; `html` is already escaped."""
    return f'<p aria-live="polite" style="margin:2px 0 8px">{html}</p>'


def tint(weight: float) -> str:
    """Background and text colour of a token that gets `weight` (0 to 1) of the attention."""
    # Square root: a tenth of the attention must still be visible.
    alpha = min(1.0, float(weight)) ** 0.5
    text = "#fff" if alpha > 0.6 else "inherit"
    return f"background:rgba(0,114,178,{alpha:.2f});color:{text}"


def bar_row(label: str, share: float, note: str = "") -> str:
    """A labelled horizontal bar for a share of 1."""
    return (
        f'<div style="display:flex;align-items:center;gap:8px;margin:2px 0">'
        f'<span style="{MONO};min-width:64px;text-align:right">{escape(label)}'
        f'<span style="{MUTED};font-size:11px"> {escape(note)}</span></span>'
        f'<span style="flex:1;height:11px;border-radius:2px;background:rgba(128,128,128,.14)">'
        f'<span style="display:block;height:11px;border-radius:2px;background:{style.BLUE};'
        f'width:{100 * share:.1f}%"></span></span>'
        f'<span style="width:38px;{MUTED};font-variant-numeric:tabular-nums">{share:.2f}</span>'
        f"</div>"
    )


def png_uri(weights: np.ndarray) -> str:
    """(T, S) weights as a data address of a PNG with one pixel for each cell.

    Darkness follows the square root of the weight, as in `tint`: in a small picture the faint
    pattern of a head that looks everywhere would otherwise be white on white.
    """
    from PIL import Image

    shares = np.sqrt(np.clip(weights, 0, 1))
    pixels = (style.weight_colormap()(shares)[..., :3] * 255).round().astype(np.uint8)  # (T, S, 3)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def forbidden_path(allowed: np.ndarray) -> str:
    """SVG path (in cells) around what the mask (T, S) forbids, one piece for each run in a row."""
    pieces = []
    for row, line in enumerate(~np.asarray(allowed, dtype=bool)):
        edges = np.flatnonzero(np.diff(np.concatenate([[0], line.astype(np.int8), [0]])))
        for start, end in edges.reshape(-1, 2):  # each run: where it starts, where it ends
            pieces.append(f"M{start} {row}H{end}V{row + 1}H{start}Z")
    return "".join(pieces)


def heat_map(
    weights: np.ndarray,
    allowed: np.ndarray,
    side: int,
    *,
    query: int | None = None,
    selected: bool = False,
    name: str = "",
) -> str:
    """(T, S) weights as a small picture; forbidden cells hatched, the query's row framed."""
    time, source = weights.shape
    x, y = side / source, side / time  # pixels per cell
    frame = ""
    if query is not None:
        frame = (
            f'<rect x="1" y="{query * y:.2f}" width="{side - 2}" height="{max(y, 3):.2f}" '
            f'fill="none" stroke="{style.QUERY}" stroke-width="2"/>'
        )
    border = f"2px solid {style.QUERY}" if selected else f"1px solid {BORDER}"
    return (
        f'<svg role="img" aria-label="{escape(name)}" width="{side}" height="{side}" '
        f'viewBox="0 0 {side} {side}" style="border:{border};border-radius:3px;display:block">'
        f"<defs>{HATCH_SVG}</defs>"
        f'<image href="{png_uri(weights)}" width="{side}" height="{side}" '
        f'preserveAspectRatio="none" style="image-rendering:pixelated"/>'
        f'<g transform="scale({x:.4f} {y:.4f})"><path d="{forbidden_path(allowed)}" '
        f'fill="#f1f1f1"/></g>'
        f'<clipPath id="llmcourse-masked-{side}-{time}"><path d="{forbidden_path(allowed)}" '
        f'transform="scale({x:.4f} {y:.4f})"/></clipPath>'
        f'<rect width="{side}" height="{side}" fill="url(#llmcourse-hatch)" opacity=".55" '
        f'clip-path="url(#llmcourse-masked-{side}-{time})"/>{frame}</svg>'
    )
