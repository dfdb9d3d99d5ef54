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
    from llmcourse.show.agreement import plot_accumulation, plot_agreement, plot_resume
    from llmcourse.show.attention import plot_attention
    from llmcourse.show.cache import plot_cache_memory
    from llmcourse.show.compression import plot_compression
    from llmcourse.show.curves import plot_history
    from llmcourse.show.dense_and_sparse import loss_at, plot_dense_and_sparse, plot_upcycling
    from llmcourse.show.dispatch import plot_dispatch
    from llmcourse.show.expert_capacity import dropped_by_position, plot_capacity
    from llmcourse.show.expert_classes import class_shares, plot_expert_classes
    from llmcourse.show.expert_load import plot_expert_load, plot_final_load
    from llmcourse.show.expert_speed import plot_expert_speed, speed_rows
    from llmcourse.show.gradient_range import plot_gradient_range
    from llmcourse.show.layer_stacks import plot_stacks
    from llmcourse.show.masks import plot_visibility
    from llmcourse.show.merges import plot_merges
    from llmcourse.show.packing import plot_packing
    from llmcourse.show.positions import plot_position_similarity, plot_positions
    from llmcourse.show.precision import plot_formats, plot_spacing
    from llmcourse.show.rotary import plot_frequencies, plot_relative_score, plot_rotation
    from llmcourse.show.routing import choice_of, plot_choice
    from llmcourse.show.running import plot_running_maximum
    from llmcourse.show.sampling import plot_distribution, plot_sampling
    from llmcourse.show.scaling import plot_scaling
    from llmcourse.show.scaling_laws import plot_bpe_growth, plot_scaling_law
    from llmcourse.show.schedules import plot_gradient_norm, plot_schedules
    from llmcourse.show.sparse_cost import plot_sparse_cost
    from llmcourse.show.style import applied, figure
    from llmcourse.show.text_routing import collect_routing, plot_text_routing
    from llmcourse.show.throughput import plot_ladder, plot_profile
    from llmcourse.show.tiles import plot_tiles
    from llmcourse.show.token_boxes import plot_tokenizations
    from llmcourse.show.tokens import token_labels
    from llmcourse.show.widgets import (
        LiveCurve,
        attention_explorer,
        bpe_stepper,
        cache_calculator,
        flash_stepper,
        rotary_explorer,
        routing_viewer,
        sampling_playground,
        schedule_designer,
    )

__all__ = [
    "LiveCurve",
    "applied",
    "attention_explorer",
    "bpe_stepper",
    "cache_calculator",
    "choice_of",
    "class_shares",
    "collect_routing",
    "dropped_by_position",
    "figure",
    "flash_stepper",
    "loss_at",
    "plot_ablation",
    "plot_accumulation",
    "plot_agreement",
    "plot_attention",
    "plot_bpe_growth",
    "plot_cache_memory",
    "plot_capacity",
    "plot_choice",
    "plot_compression",
    "plot_dense_and_sparse",
    "plot_dispatch",
    "plot_distribution",
    "plot_expert_classes",
    "plot_expert_load",
    "plot_expert_speed",
    "plot_final_load",
    "plot_formats",
    "plot_frequencies",
    "plot_gradient_norm",
    "plot_gradient_range",
    "plot_history",
    "plot_ladder",
    "plot_merges",
    "plot_packing",
    "plot_position_similarity",
    "plot_positions",
    "plot_profile",
    "plot_relative_score",
    "plot_resume",
    "plot_rotation",
    "plot_running_maximum",
    "plot_sampling",
    "plot_scaling",
    "plot_scaling_law",
    "plot_schedules",
    "plot_spacing",
    "plot_sparse_cost",
    "plot_stacks",
    "plot_text_routing",
    "plot_tiles",
    "plot_tokenizations",
    "plot_upcycling",
    "plot_visibility",
    "rotary_explorer",
    "routing_viewer",
    "sampling_playground",
    "schedule_designer",
    "speed_rows",
    "token_labels",
]

_HOME = {
    "LiveCurve": "widgets",
    "applied": "style",
    "attention_explorer": "widgets",
    "bpe_stepper": "widgets",
    "cache_calculator": "widgets",
    "choice_of": "routing",
    "class_shares": "expert_classes",
    "collect_routing": "text_routing",
    "dropped_by_position": "expert_capacity",
    "figure": "style",
    "flash_stepper": "widgets",
    "loss_at": "dense_and_sparse",
    "plot_ablation": "ablations",
    "plot_accumulation": "agreement",
    "plot_agreement": "agreement",
    "plot_attention": "attention",
    "plot_bpe_growth": "scaling_laws",
    "plot_cache_memory": "cache",
    "plot_capacity": "expert_capacity",
    "plot_choice": "routing",
    "plot_compression": "compression",
    "plot_dense_and_sparse": "dense_and_sparse",
    "plot_dispatch": "dispatch",
    "plot_distribution": "sampling",
    "plot_expert_classes": "expert_classes",
    "plot_expert_load": "expert_load",
    "plot_expert_speed": "expert_speed",
    "plot_final_load": "expert_load",
    "plot_formats": "precision",
    "plot_frequencies": "rotary",
    "plot_gradient_norm": "schedules",
    "plot_gradient_range": "gradient_range",
    "plot_history": "curves",
    "plot_ladder": "throughput",
    "plot_merges": "merges",
    "plot_packing": "packing",
    "plot_position_similarity": "positions",
    "plot_positions": "positions",
    "plot_profile": "throughput",
    "plot_relative_score": "rotary",
    "plot_resume": "agreement",
    "plot_rotation": "rotary",
    "plot_running_maximum": "running",
    "plot_sampling": "sampling",
    "plot_scaling": "scaling",
    "plot_scaling_law": "scaling_laws",
    "plot_schedules": "schedules",
    "plot_spacing": "precision",
    "plot_sparse_cost": "sparse_cost",
    "plot_stacks": "layer_stacks",
    "plot_text_routing": "text_routing",
    "plot_tiles": "tiles",
    "plot_tokenizations": "token_boxes",
    "plot_upcycling": "dense_and_sparse",
    "plot_visibility": "masks",
    "rotary_explorer": "widgets",
    "routing_viewer": "widgets",
    "sampling_playground": "widgets",
    "schedule_designer": "widgets",
    "speed_rows": "expert_speed",
    "token_labels": "tokens",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
