"""Pictures and widgets, one visual language for all ten parts.

    from llmcourse import show
    show.plot_attention(weights, tokens); plt.show()

Everything is loaded when it is first asked for: importing this package costs nothing, plots pull in
matplotlib, widgets pull in ipywidgets.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmcourse.show.ablations import plot_ablation
    from llmcourse.show.attention import plot_attention
    from llmcourse.show.cache import plot_cache_memory
    from llmcourse.show.curves import plot_history
    from llmcourse.show.masks import plot_visibility
    from llmcourse.show.positions import plot_position_similarity, plot_positions
    from llmcourse.show.rotary import plot_frequencies, plot_relative_score, plot_rotation
    from llmcourse.show.running import plot_running_maximum
    from llmcourse.show.sampling import plot_distribution, plot_sampling
    from llmcourse.show.scaling import plot_scaling
    from llmcourse.show.style import applied, figure
    from llmcourse.show.tiles import plot_tiles
    from llmcourse.show.tokens import token_labels
    from llmcourse.show.widgets import (
        LiveCurve,
        attention_explorer,
        cache_calculator,
        flash_stepper,
        rotary_explorer,
        sampling_playground,
    )

__all__ = [
    "LiveCurve",
    "applied",
    "attention_explorer",
    "cache_calculator",
    "figure",
    "flash_stepper",
    "plot_ablation",
    "plot_attention",
    "plot_cache_memory",
    "plot_distribution",
    "plot_frequencies",
    "plot_history",
    "plot_position_similarity",
    "plot_positions",
    "plot_relative_score",
    "plot_rotation",
    "plot_running_maximum",
    "plot_sampling",
    "plot_scaling",
    "plot_tiles",
    "plot_visibility",
    "rotary_explorer",
    "sampling_playground",
    "token_labels",
]

_HOME = {
    "LiveCurve": "widgets",
    "applied": "style",
    "attention_explorer": "widgets",
    "cache_calculator": "widgets",
    "figure": "style",
    "flash_stepper": "widgets",
    "plot_ablation": "ablations",
    "plot_attention": "attention",
    "plot_cache_memory": "cache",
    "plot_distribution": "sampling",
    "plot_frequencies": "rotary",
    "plot_history": "curves",
    "plot_position_similarity": "positions",
    "plot_positions": "positions",
    "plot_relative_score": "rotary",
    "plot_rotation": "rotary",
    "plot_running_maximum": "running",
    "plot_sampling": "sampling",
    "plot_scaling": "scaling",
    "plot_tiles": "tiles",
    "plot_visibility": "masks",
    "rotary_explorer": "widgets",
    "sampling_playground": "widgets",
    "token_labels": "tokens",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
