"""How every widget is laid out: an optional line, controls in columns, the view beneath them.

Taught in: nowhere. All controls are native ipywidgets, which the keyboard reaches with Tab and
moves with the arrow keys; the columns share the width of a page and fold no words.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ipywidgets

PAGE_WIDTH = 900  # pixels: as wide as the views
COLUMN_WIDTH = 440  # pixels: two columns and the space between them


def control(description_width: int = 120) -> dict[str, Any]:
    """Keyword arguments of a slider or a dropdown that stands in a column; width in pixels."""
    return {
        "style": {"description_width": f"{description_width}px"},
        "layout": ipywidgets.Layout(width="auto", max_width=f"{COLUMN_WIDTH}px"),
    }


def line(description_width: int = 120) -> dict[str, Any]:
    """Keyword arguments of a text field as wide as the page; it reports when typing has ended."""
    return {
        "style": {"description_width": f"{description_width}px"},
        "layout": ipywidgets.Layout(width="auto", max_width=f"{PAGE_WIDTH - 10}px"),
        "continuous_update": False,
    }


def arranged(
    *columns: Sequence[ipywidgets.Widget],
    view: ipywidgets.Widget,
    above: ipywidgets.Widget | None = None,
) -> list[ipywidgets.Widget]:
    """The children of a widget: `above` over the columns of controls, `view` under them."""
    side_by_side = ipywidgets.HBox(
        [ipywidgets.VBox(list(column), layout={"flex": "1 1 0"}) for column in columns],
        layout={"max_width": f"{PAGE_WIDTH}px"},
    )
    return [*([] if above is None else [above]), side_by_side, view]
