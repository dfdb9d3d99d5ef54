"""DeepSeek V2 and V3: latent attention, and after some dense layers experts.

Configs are read as transformers computes with them: V3's modules that predict the token after next
are left aside. The experts' keys are in deepseek_experts.py.

Sources: DeepSeek-V2, arXiv 2405.04434; DeepSeek-V3, arXiv 2412.19437.
"""

from __future__ import annotations

import math
from typing import Any

from llmcourse.interop.huggingface.families.base import (
    Family,
    linear_rules,
    norm_rules,
    outer_rules,
    read_body,
    write_body,
)
from llmcourse.interop.huggingface.families.deepseek_experts import KEYS as EXPERT_KEYS
from llmcourse.interop.huggingface.families.deepseek_experts import (
    read_v2_experts,
    read_v3_experts,
    write_v2_experts,
    write_v3_experts,
)
from llmcourse.interop.huggingface.families.experts import network_rules
from llmcourse.interop.huggingface.reader import Reader, dropout
from llmcourse.interop.huggingface.rope import magnitude, published_parameters, read_rope
from llmcourse.interop.huggingface.weights import Rule, neighbours_apart, one
from llmcourse.model.config import Latent, ModelConfig

# What training in another program, or the prediction of several tokens, uses.
_OTHERS = ("ep_size", "num_nextn_predict_layers", "num_mtp_layers", "output_router_logits")
_OTHERS += ("router_aux_loss_coef",)


def read_v2(reader: Reader) -> dict[str, Any]:
    bias = reader.flag("mlp_bias", False)
    fields = _read(reader, dense_default=0) | {"feed_forward_bias": bias}
    layers = fields.pop("sparse")
    if not layers:
        return fields
    if bias:
        raise ValueError("mlp_bias=True is not supported with experts, which have no biases there")
    return fields | {"experts": read_v2_experts(reader, layers, fields["n_layers"])}


def read_v3(reader: Reader) -> dict[str, Any]:
    reader.flag("rope_interleave", True)  # `rules` reads it: it orders rows
    fields = _read(reader, dense_default=3)
    layers = fields.pop("sparse")
    if not layers:
        return fields
    return fields | {"experts": read_v3_experts(reader, layers, fields["n_layers"])}


def _read(reader: Reader, dense_default: int) -> dict[str, Any]:
    fields = read_body(reader, eps=1e-6, tied=False)
    layers, heads = fields["n_layers"], fields["n_heads"]
    dense = reader.take("first_k_dense_replace", dense_default)
    if isinstance(dense, bool) or not isinstance(dense, int) or dense < 0:
        raise ValueError(f"first_k_dense_replace={dense!r} must be a whole number of at least 0")
    if dense >= layers:
        reader.ignore(*EXPERT_KEYS.split())
    reader.ignore(*_OTHERS)
    reader.expect("num_key_value_heads", heads, None, why="every head has keys of its own")
    if fields["norm_eps"] != 1e-6:
        raise ValueError(
            f"rms_norm_eps={fields['norm_eps']}: the norms of the latent vectors use 1e-06 "
            f"whatever the config says, and here all norms share one; only 1e-06 is supported"
        )
    latent = Latent(
        d_latent=reader.whole("kv_lora_rank", 512),
        d_query_latent=reader.whole("q_lora_rank", None)
        if "q_lora_rank" in reader.values
        else 1536,
        d_nope=reader.whole("qk_nope_head_dim", 128),
        d_rope=reader.whole("qk_rope_head_dim", 64),
        d_value=reader.whole("v_head_dim", 128),
    )
    reader.expect("head_dim", latent.d_rope, None, why="it repeats qk_rope_head_dim")
    both = latent.d_nope + latent.d_rope
    reader.expect("qk_head_dim", both, None, why="it is qk_nope_head_dim + qk_rope_head_dim")
    parameters = published_parameters(reader, 10_000.0)
    rope = read_rope(parameters, fields["context_length"])
    # Beside the size of cos and sin, DeepSeek raises the scores of an extended context as such.
    scale, weight = None, parameters.get("mscale_all_dim")
    if rope.scaling != "none" and weight:
        scale = both**-0.5 * magnitude(rope.factor, weight) ** 2
    return fields | {
        "latent": latent,
        "rope": rope,
        "attention_scale": scale,
        "attention_bias": reader.flag("attention_bias", False),
        "dropout": dropout(reader, "attention_dropout"),
        "sparse": list(range(dense, layers)),
    }


def write_v2(config: ModelConfig) -> dict[str, Any]:
    written = _write(config) | {"mlp_bias": config.feed_forward_bias}
    if config.experts is None:
        return written
    return written | write_v2_experts(config.experts, config.expert_width)


def write_v3(config: ModelConfig) -> dict[str, Any]:
    written = _write(config) | {"rope_interleave": True, "num_nextn_predict_layers": 0}
    if config.experts is None:
        return written
    return written | write_v3_experts(config.experts, config.expert_width)


def _write(config: ModelConfig) -> dict[str, Any]:
    latent = config.latent
    if latent is None:
        raise ValueError("it has no latent attention")
    sparse = config.sparse_layers
    written = write_body(config) | {
        "first_k_dense_replace": sparse[0] if sparse else config.n_layers,
        "kv_lora_rank": latent.d_latent,
        "q_lora_rank": latent.d_query_latent,
        "qk_nope_head_dim": latent.d_nope,
        "qk_rope_head_dim": latent.d_rope,
        "v_head_dim": latent.d_value,
        "attention_bias": config.attention_bias,
    }
    raised = math.sqrt(config.score_scale * math.sqrt(latent.d_nope + latent.d_rope))
    if config.rope.scaling == "yarn" and config.rope.factor > 1 and raised > 1:
        weight = (raised - 1) / (0.1 * math.log(config.rope.factor))
        # Said outright: with mscale_all_dim present, it would otherwise be derived from it.
        size = {"attention_factor": config.rope.magnitude, "mscale_all_dim": weight}
        written["rope_parameters"] |= size
    return written


def rules(config: ModelConfig, values: dict[str, Any]) -> list[Rule]:
    """Where the tensors go; rotary rows are reordered where they interleave."""
    latent, h = config.latent, config.n_heads
    interleaved = values["model_type"] == "deepseek_v2" or values.get("rope_interleave", True)
    width = h * (latent.d_nope + latent.d_rope)
    queries = keys = None
    if interleaved:
        queries = neighbours_apart(h, latent.d_nope, latent.d_rope)
        keys = neighbours_apart(1, latent.d_latent, latent.d_rope)
    kinds = ("weight", "bias") if config.attention_bias else ("weight",)
    found, network = outer_rules(config), network_rules()
    for i in range(config.n_layers):
        ours, theirs = f"blocks.{i}.attention.", f"model.layers.{i}.self_attn."
        if latent.d_query_latent is None:
            found.append(one(f"{ours}query.weight", f"{theirs}q_proj.weight", width, order=queries))
        else:
            rank = latent.d_query_latent
            found += linear_rules(
                f"{ours}query_down", f"{theirs}q_a_proj", rank, config.attention_bias
            )
            found.append(one(f"{ours}query_norm.weight", f"{theirs}q_a_layernorm.weight", rank))
            up = f"{theirs}q_b_proj.weight"
            found.append(one(f"{ours}query_up.weight", up, width, order=queries))
        for kind in kinds:
            down, rows = f"{theirs}kv_a_proj_with_mqa.{kind}", latent.d_latent + latent.d_rope
            found.append(one(f"{ours}down.{kind}", down, rows, order=keys))
        norm = f"{theirs}kv_a_layernorm.weight"
        found.append(one(f"{ours}latent_norm.weight", norm, latent.d_latent))
        rows = h * (latent.d_nope + latent.d_value)
        found.append(one(f"{ours}up.weight", f"{theirs}kv_b_proj.weight", rows))
        found += linear_rules(
            f"{ours}out", f"{theirs}o_proj", config.d_model, config.attention_out_bias
        )
        found += norm_rules(config, i) + network(config, i)
    return found


DEEPSEEK_V2 = Family("deepseek_v2", "DeepseekV2ForCausalLM", read_v2, write_v2, rules)
DEEPSEEK_V3 = Family("deepseek_v3", "DeepseekV3ForCausalLM", read_v3, write_v3, rules)
