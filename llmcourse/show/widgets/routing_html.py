"""The routing viewer's three views as HTML: tokens with their experts, weights by layer, loads.

Taught in: Part 5. An expert is told by its number; its colour only helps to find it again. Weights
are bars and numbers, so that the page reads in grey as well.

Shapes: T tokens, E experts.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np

from llmcourse.show import style
from llmcourse.show.expert_load import FACTOR
from llmcourse.show.text_routing import LayerRouting
from llmcourse.show.widgets import chart, html

PER_TOKEN = 4  # experts drawn under a token
COLUMNS = 16  # experts in the table and among the loads
FILLS = (
    style.BLUE, style.ORANGE, "#4d4d4d", style.SKY, style.VERMILLION, style.GREEN, style.PURPLE,
    "#F0E442",
)  # fmt: skip
BAND = "rgba(0,158,115,.16)"


def experts_of(routing: LayerRouting, token: int) -> list[int]:
    """A token's experts, the heaviest first."""
    taken = np.flatnonzero(routing.taken[token])
    return taken[np.argsort(-routing.gates[token, taken], kind="stable")].tolist()


def token_chips(routing: LayerRouting, labels: Sequence[str], chosen: int) -> str:
    """The text; under each token its experts, with bars as wide as their weights."""
    widest = max(1.0, float(routing.gates.max()))
    chips = []
    for place, label in enumerate(labels):
        experts = experts_of(routing, place)
        told = ", ".join(f"expert {e}: {routing.gates[place, e]:.2f}" for e in experts)
        boxes = "".join(_box(e, routing.gates[place, e] / widest) for e in experts[:PER_TOKEN])
        if len(experts) > PER_TOKEN:
            boxes += f'<span style="font-size:10px">+{len(experts) - PER_TOKEN}</span>'
        if not experts:
            boxes = f'<span style="{html.MUTED};font-size:11px">none</span>'
        frame = f"outline:2px solid {style.QUERY};" if place == chosen else ""
        chips.append(
            f'<span data-token="{place}" data-experts="{",".join(map(str, experts))}" '
            f'title="position {place}: {told or "no expert"}" '
            f'style="display:inline-flex;flex-direction:column;align-items:center;gap:2px;'
            f'vertical-align:top;border-radius:3px;padding:1px 2px;margin:0 1px 5px 0;{frame}">'
            f'<span style="{html.MONO};font-size:13px">{escape(label)}</span>{boxes}</span>'
        )
        if label == "↵":
            chips.append("<br>")
    note = (
        "under each token its experts, the heaviest first; bars: weights (hover for numbers); "
        "framed: the chosen token"
    )
    return (
        f'<div style="{html.MUTED};font-size:12px">{note}</div>'
        f'<div style="padding:3px;margin:2px 0 8px;max-height:260px;overflow:auto">'
        f"{''.join(chips)}</div>"
    )


def weight_table(layers: Sequence[LayerRouting], layer: int, token: int, label: str) -> str:
    """One token's weights in every layer; few experts have a column each and their scores."""
    many = layers[0].gates.shape[1] > COLUMNS
    rows = []
    for one in layers:
        if many:
            listed = "&emsp;".join(
                f"{_badge(e)} {one.gates[token, e]:.2f}" for e in experts_of(one, token)
            )
            cells = f'<td style="white-space:nowrap">{listed or "none"}</td>'
        else:
            cells = "".join(
                _weight(float(weight), bool(taken))
                for weight, taken in zip(one.gates[token], one.taken[token], strict=True)
            )
        frame = f"outline:2px solid {style.QUERY};outline-offset:-1px" if one.layer == layer else ""
        rows.append(
            f'<tr data-layer="{one.layer}" style="{frame}"><td style="padding-right:8px;'
            f'white-space:nowrap">layer {one.layer}</td>{cells}</tr>'
        )
    if not many:
        chosen = next(one for one in layers if one.layer == layer)
        numbers = range(len(chosen.load))
        head = "".join(f'<th style="padding:0 3px">{_badge(e)}</th>' for e in numbers)
        rows.insert(0, f"<tr><th></th>{head}</tr>")
        scores = "".join(
            f'<td style="{html.MUTED};text-align:center;padding:0 4px">{score:.2f}</td>'
            for score in chosen.scores[token]
        )
        rows.append(
            f'<tr><td style="{html.MUTED};padding-right:8px;white-space:nowrap">scores, '
            f"layer {layer}</td>{scores}</tr>"
        )
    return (
        f'<div style="{html.MUTED};margin-bottom:3px">weights of <b>{escape(label)}</b> by layer '
        f'and expert</div><div style="overflow-x:auto"><table style="font-size:12px;border-collapse'
        f':collapse;font-variant-numeric:tabular-nums">{"".join(rows)}</table></div>'
    )


def load_bars(routing: LayerRouting, reference: np.ndarray) -> str:
    """Each expert's share of the assignments, over this text and over a reference text.

    Args:
        routing: of the layer.
        reference: (E,) shares.
    """
    here, e = routing.load, len(reference)
    widest = 1.04 * max(float(here.max()), float(reference.max()), FACTOR / e)
    shown, more = list(range(e)), ""
    if e > COLUMNS:
        order = np.argsort(-reference, kind="stable")
        half = COLUMNS // 2
        shown = order[:half].tolist() + order[-half:].tolist()
        more = f"; the {half} busiest and the {half} idlest of {e}"
    low, uniform, high = (100 * share / e / widest for share in (1 / FACTOR, 1.0, FACTOR))
    rows = "".join(
        f'<div data-expert="{n}" data-load="{here[n]:.6f}" data-reference="{reference[n]:.6f}" '
        f'style="display:flex;align-items:center;gap:8px">{_badge(n)}'
        f'<span style="flex:1;position:relative;padding:2px 0;background:linear-gradient('
        f"90deg,transparent {low:.1f}%,{BAND} {low:.1f}%,{BAND} {high:.1f}%,"
        f'transparent {high:.1f}%)">{_bar(here[n] / widest, style.BLUE)}'
        f"{_bar(reference[n] / widest, html.HATCH_CSS, edge=True)}"
        f'<span style="position:absolute;top:0;bottom:0;left:{uniform:.1f}%;border-left:'
        f'1.5px dashed currentColor"></span></span>'
        f'<span style="width:92px;font-size:12px;font-variant-numeric:tabular-nums">'
        f"{100 * here[n]:.1f} / {100 * reference[n]:.1f}%</span></div>"
        for n in shown
    )
    legend = (
        chart.box_key(style.BLUE, "this text")
        + chart.box_key(html.HATCH_CSS, "reference text")
        + chart.key("currentColor", "uniform", dash="4 3")
        + chart.box_key(BAND, f"within a factor of {FACTOR:g}")
    )
    return (
        f'<div style="{html.MUTED};margin-bottom:3px">load of the experts of layer '
        f"{routing.layer}: share of the assignments{more}</div>{rows}"
        f'<div style="font-size:12px;margin-top:5px">{legend}</div>'
    )


def _badge(expert: int) -> str:
    """An expert's number on its colour."""
    fill = FILLS[expert % len(FILLS)]
    return (
        f'<span style="display:inline-block;min-width:18px;text-align:center;border-radius:2px;'
        f"font-size:11px;line-height:15px;background:{fill};color:{style.text_color_on(fill)};"
        f'font-weight:600">{expert}</span>'
    )


def _box(expert: int, share: float) -> str:
    """A badge over a bar whose width is the weight."""
    return (
        f'<span style="display:block;width:20px;text-align:center;line-height:1">{_badge(expert)}'
        f'<span style="display:block;height:3px;margin-top:1px;background:rgba(128,128,128,.25)">'
        f'<span style="display:block;height:3px;background:currentColor;'
        f'width:{100 * max(0.0, share):.0f}%"></span></span></span>'
    )


def _weight(weight: float, taken: bool) -> str:
    """A cell of the table: a weight to two digits on its tint, a dot where none was chosen."""
    look = html.tint(weight) if taken else html.MUTED
    return (
        f'<td data-weight="{weight:.6f}" style="text-align:center;padding:0 4px;min-width:26px;'
        f'{look}">{f"{weight:.2f}" if taken else "·"}</td>'
    )


def _bar(share: float, fill: str, *, edge: bool = False) -> str:
    border = "box-sizing:border-box;border:1px solid currentColor;" if edge else ""
    return (
        f'<span style="display:block;height:8px;margin:1px 0;{border}background:{fill};'
        f'width:{100 * share:.1f}%"></span>'
    )
