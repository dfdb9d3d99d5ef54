"""Pictures and widgets, one visual language for all ten parts.

    from llmcourse import show
    show.plot_attention(weights, tokens); plt.show()

Everything is loaded when it is first asked for: importing this package costs nothing, plots pull in
matplotlib, widgets pull in ipywidgets.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmcourse.show.attention import plot_attention
    from llmcourse.show.curves import plot_history
    from llmcourse.show.positions import plot_position_similarity, plot_positions
    from llmcourse.show.sampling import plot_distribution, plot_sampling
    from llmcourse.show.style import applied, figure
    from llmcourse.show.tokens import token_labels
    from llmcourse.show.widgets import LiveCurve, attention_explorer, sampling_playground

__all__ = [
    "LiveCurve",
    "applied",
    "attention_explorer",
    "figure",
    "plot_attention",
    "plot_distribution",
    "plot_history",
    "plot_position_similarity",
    "plot_positions",
    "plot_sampling",
    "sampling_playground",
    "token_labels",
]

_HOME = {
    "LiveCurve": "widgets",
    "applied": "style",
    "attention_explorer": "widgets",
    "figure": "style",
    "plot_attention": "attention",
    "plot_distribution": "sampling",
    "plot_history": "curves",
    "plot_position_similarity": "positions",
    "plot_positions": "positions",
    "plot_sampling": "sampling",
    "sampling_playground": "widgets",
    "token_labels": "tokens",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
