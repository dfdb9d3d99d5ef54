"""DeepSeek's experts in published configs: many narrow ones, beside shared ones all tokens take.

Taught in Part 5. V2 scores by softmax and may rank groups of experts by their best one; V3 scores
by sigmoid, ranks groups by their two best, and balances by a bias that is added for choosing only.
Keys are read as transformers computes with them.

Sources: DeepSeekMoE, arXiv 2401.06066; DeepSeek-V2, arXiv 2405.04434; DeepSeek-V3, arXiv
2412.19437.
"""

from __future__ import annotations

from typing import Any

from llmcourse.interop.huggingface.families.experts import (
    read_count,
    read_weight,
    sparse_or_none,
)
from llmcourse.interop.huggingface.reader import Reader
from llmcourse.model.experts_config import Experts

# What only layers with experts use: without them it says nothing.
KEYS = """
    aux_loss_alpha moe_intermediate_size moe_layer_freq n_group n_routed_experts n_shared_experts
    norm_topk_prob num_experts num_experts_per_tok num_local_experts routed_scaling_factor
    scoring_func seq_aux topk_group topk_method
"""
_GREEDY, _GROUPED = "greedy", "group_limited_greedy"  # V2's ways to choose


def read_v2_experts(reader: Reader, layers: list[int], n_layers: int) -> dict[str, Any]:
    """V2's experts in these layers."""
    reader.expect("scoring_func", "softmax", why="DeepSeek-V2 scores by softmax")
    reader.expect("norm_topk_prob", False, None, why="transformers does not renormalise here")
    method = reader.take("topk_method", _GREEDY)
    if method not in (_GREEDY, _GROUPED):
        raise ValueError(f"topk_method={method!r} is unknown; known: {_GREEDY}, {_GROUPED}")
    experts = _shared(
        reader, layers, n_layers, alias="num_experts", n_experts=64, n_shared=2, scale=1.0
    )
    experts |= {
        "n_active": reader.whole("num_experts_per_tok"),
        "d_ff": reader.whole("moe_intermediate_size", 1407),
        "renormalise": False,
    }
    if method == _GROUPED:
        experts |= {"n_groups": reader.whole("n_group"), "group_score": "best"}
        experts |= {"n_active_groups": reader.whole("topk_group")}
    reader.ignore("n_group", "topk_group")
    return experts


def read_v3_experts(reader: Reader, layers: list[int], n_layers: int) -> dict[str, Any]:
    """V3's experts in these layers."""
    reader.expect("scoring_func", "sigmoid", why="DeepSeek-V3 scores by sigmoid")
    reader.expect("topk_method", "noaux_tc", why="DeepSeek-V3 chooses with a bias")
    experts = _shared(
        reader, layers, n_layers, alias="num_local_experts", n_experts=256, n_shared=1, scale=2.5
    )
    experts |= {
        "n_active": reader.whole("num_experts_per_tok", 8),
        "d_ff": reader.whole("moe_intermediate_size", 2048),
        "score": "sigmoid",
        "selection_bias": True,
        # Missing it is true, and null it is false.
        "renormalise": reader.flag("norm_topk_prob", "norm_topk_prob" not in reader.values),
        "n_groups": reader.whole("n_group", 8),
        "n_active_groups": reader.whole("topk_group", 4),
    }
    if experts["n_experts"] < 2 * experts["n_groups"]:
        raise ValueError(
            f"n_group={experts['n_groups']} groups of {experts['n_experts']} experts: a group is "
            f"ranked by its two best and needs as many"
        )
    return experts


def _shared(
    reader: Reader,
    layers: list[int],
    n_layers: int,
    alias: str,
    n_experts: int,
    n_shared: int,
    scale: float,
) -> dict[str, Any]:
    """What V2 and V3 share, with their own defaults."""
    reader.expect("moe_layer_freq", 1, why="all layers after the dense ones have experts")
    whole_sequences = reader.flag("seq_aux", True)
    return {
        "n_experts": read_count(reader, "n_routed_experts", alias, default=n_experts),
        "n_shared": reader.whole("n_shared_experts", n_shared),
        "scale": reader.number("routed_scaling_factor", scale),
        "layers": sparse_or_none(layers, n_layers),
        "balance_weight": read_weight(reader, "aux_loss_alpha", 0.0),
        "balance_over": "sequence" if whole_sequences else "batch",
    }


def write_v2_experts(experts: Experts, width: int) -> dict[str, Any]:
    """The inverse of `read_v2_experts`; `width` is the one inside an expert."""
    grouped = experts.n_active_groups < experts.n_groups
    method = {"scoring_func": "softmax", "topk_method": _GROUPED if grouped else _GREEDY}
    return method | _write(experts, width)


def write_v3_experts(experts: Experts, width: int) -> dict[str, Any]:
    """The inverse of `read_v3_experts`."""
    return {"scoring_func": "sigmoid", "topk_method": "noaux_tc"} | _write(experts, width)


def _write(experts: Experts, width: int) -> dict[str, Any]:
    return {
        "n_routed_experts": experts.n_experts,
        "num_experts_per_tok": experts.n_active,
        "n_shared_experts": experts.n_shared,
        "moe_intermediate_size": width,
        "norm_topk_prob": experts.renormalise,
        "routed_scaling_factor": experts.scale,
        "n_group": experts.n_groups,
        "topk_group": experts.n_active_groups,
        "moe_layer_freq": 1,
        "aux_loss_alpha": experts.balance_weight,
        "seq_aux": experts.balance_over == "sequence",
    }
