"""Mixtral, Qwen3-MoE and OLMoE: Llama-like layers whose feed-forward network is many.

Mixtral     all layers sparse, 2 of 8 experts, weights that sum to 1    arXiv 2401.04088
Qwen3-MoE   128 narrow experts, some layers may stay dense              arXiv 2505.09388
OLMoE       64 experts, norms of queries and keys over the whole width  arXiv 2409.02060
"""

from __future__ import annotations

from functools import partial
from typing import Any

from llmcourse.interop.huggingface.families.base import (
    Family,
    decoder_rules,
    read_body,
    read_heads,
    write_body,
)
from llmcourse.interop.huggingface.families.experts import (
    experts_of,
    network_rules,
    read_balance,
    read_count,
    sparse_or_none,
    write_balance,
)
from llmcourse.interop.huggingface.families.llama import read_one_window
from llmcourse.interop.huggingface.reader import Reader, dropout
from llmcourse.interop.huggingface.rope import published_parameters, read_rope
from llmcourse.model.config import ModelConfig


def _body(reader: Reader, eps: float, base: float) -> dict[str, Any]:
    fields = read_body(reader, eps=eps, tied=False)
    rope = read_rope(published_parameters(reader, base), fields["context_length"])
    return fields | {"rope": rope, "dropout": dropout(reader, "attention_dropout")}


def _write(config: ModelConfig) -> dict[str, Any]:
    experts = experts_of(config)
    counts = {"num_experts_per_tok": experts.n_active}
    return write_body(config) | counts | write_balance(experts)


def read_mixtral(reader: Reader) -> dict[str, Any]:
    reader.expect(
        "router_jitter_noise", 0.0, 0, None, why="inputs of the router are not shaken in training"
    )
    n_active = reader.whole("num_experts_per_tok", 2)
    experts = {
        "n_experts": read_count(reader, "num_local_experts", "num_experts", default=8),
        "n_active": n_active,
        **read_balance(reader, n_active, 0.001),
    }
    window = reader.whole("sliding_window", None)
    fields = _body(reader, 1e-5, 1_000_000.0) | read_heads(reader, groups=8)
    return fields | read_one_window(reader, window) | {"experts": experts, "attention_bias": False}


def write_mixtral(config: ModelConfig) -> dict[str, Any]:
    experts = experts_of(config)
    return _write(config) | {
        "num_local_experts": experts.n_experts,
        # All layers are sparse: the one width is the experts'.
        "intermediate_size": config.expert_width,
        "router_jitter_noise": 0.0,
        "head_dim": config.d_head,
        "sliding_window": config.window,
    }


def read_qwen3_moe(reader: Reader) -> dict[str, Any]:
    # Without head_dim it is the model's width over the heads: not 128, as in the dense Qwen3.
    fields = _body(reader, 1e-6, 10_000.0) | read_heads(reader, groups=4)
    slides = reader.flag("use_sliding_window", False)
    window = reader.whole("sliding_window", None) if "sliding_window" in reader.values else 4096
    first = reader.take("max_window_layers", 0)
    if slides and window is not None and first not in (0, None):
        raise ValueError(
            f"max_window_layers={first!r} with use_sliding_window=True has no agreed meaning: Qwen "
            f"leaves so many layers without a window, transformers gives one to all; only 0 is "
            f"supported"
        )
    fields |= read_one_window(reader, window if slides else None)
    fields |= {"attention_bias": reader.flag("attention_bias", False), "qk_norm": "head"}
    return fields | {"experts": _qwen_experts(reader, fields["n_layers"])}


def _qwen_experts(reader: Reader, n_layers: int) -> dict[str, Any] | None:
    n_active = reader.whole("num_experts_per_tok", 8)
    experts = {
        "n_experts": read_count(reader, "num_experts", "num_local_experts", default=128),
        "n_active": n_active,
        "d_ff": reader.whole("moe_intermediate_size", 768),
        "renormalise": reader.flag("norm_topk_prob", False),
        **read_balance(reader, n_active, 0.001),
    }
    step, dense = reader.whole("decoder_sparse_step", 1), reader.take("mlp_only_layers", None)
    dense = [] if dense is None else dense
    known = isinstance(dense, list) and all(type(i) is int and 0 <= i < n_layers for i in dense)
    if not known:
        raise ValueError(
            f"mlp_only_layers={dense!r} must be a list of layers, 0 to {n_layers - 1}: those that "
            f"have no experts"
        )
    sparse = [i for i in range(n_layers) if i not in dense and (i + 1) % step == 0]
    return experts | {"layers": sparse_or_none(sparse, n_layers)} if sparse else None


def write_qwen3_moe(config: ModelConfig) -> dict[str, Any]:
    experts = experts_of(config)
    sparse = config.sparse_layers
    return _write(config) | {
        "num_experts": experts.n_experts,
        "moe_intermediate_size": config.expert_width,
        "norm_topk_prob": experts.renormalise,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [i for i in range(config.n_layers) if i not in sparse],
        "head_dim": config.d_head,
        "attention_bias": config.attention_bias,
        "sliding_window": config.window,
        "use_sliding_window": config.window is not None,
    }


def read_olmoe(reader: Reader) -> dict[str, Any]:
    reader.expect("clip_qkv", None, why="queries, keys and values are not clipped")
    fields = _body(reader, 1e-5, 10_000.0)
    width = fields["d_model"] // fields["n_heads"]
    reader.expect("head_dim", width, why="the norms of queries and keys are as wide as the model")
    n_active = reader.whole("num_experts_per_tok", 8)
    experts = {
        "n_experts": read_count(reader, "num_experts", "num_local_experts", default=64),
        "n_active": n_active,
        "renormalise": reader.flag("norm_topk_prob", False),
        **read_balance(reader, n_active, 0.01),
    }
    return fields | {
        "n_kv_heads": reader.whole("num_key_value_heads", None),
        "attention_bias": reader.flag("attention_bias", False),
        "qk_norm": "width",
        "experts": experts,
    }


def write_olmoe(config: ModelConfig) -> dict[str, Any]:
    experts = experts_of(config)
    return _write(config) | {
        "num_experts": experts.n_experts,
        "intermediate_size": config.expert_width,
        "norm_topk_prob": experts.renormalise,
        "attention_bias": config.attention_bias,
    }


# Mixtral's own names; folders with stacked experts call the network as everybody else does.
_MIXTRAL_RULES = network_rules("block_sparse_moe", ("w1", "w3", "w2"))
MIXTRAL = Family(
    "mixtral",
    "MixtralForCausalLM",
    read_mixtral,
    write_mixtral,
    partial(decoder_rules, feed_forward=_MIXTRAL_RULES),
    aliases=((".mlp.", ".block_sparse_moe."),),
)
_RULES = partial(decoder_rules, feed_forward=network_rules())
QWEN3_MOE = Family("qwen3_moe", "Qwen3MoeForCausalLM", read_qwen3_moe, write_qwen3_moe, _RULES)
OLMOE = Family("olmoe", "OlmoeForCausalLM", read_olmoe, write_olmoe, _RULES)
