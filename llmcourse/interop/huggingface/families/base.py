"""What a family of published models is: its config both ways, and where its tensors go.

`decoder_rules` covers every family here but GPT-2 and DeepSeek: since Llama they share their
tensors' names. What experts add is in experts.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from llmcourse.interop.huggingface.reader import (
    Reader,
    activation,
    layer_types,
    layer_windows,
    published_activation,
)
from llmcourse.interop.huggingface.rope import write_rope
from llmcourse.interop.huggingface.weights import Piece, Rule, one
from llmcourse.model.config import ModelConfig


@dataclass(frozen=True)
class Family:
    """One `model_type`."""

    name: str  # the config's model_type
    architecture: str  # the class in transformers that the weights belong to
    read: Callable[[Reader], dict[str, Any]]  # published config -> fields of ModelConfig
    write: Callable[[ModelConfig], dict[str, Any]]  # ModelConfig -> published config
    rules: Callable[[ModelConfig, dict[str, Any]], list[Rule]]  # and the published config
    prefix: str = "model."  # may be left out when the body was saved without its head
    computed: tuple[str, ...] = ("rotary_emb.inv_freq",)  # ends of names that hold no weights
    aliases: tuple[tuple[str, str], ...] = ()  # parts of names in some folders, and the usual ones


def read_body(reader: Reader, *, eps: float, tied: bool, act: str = "hidden_act") -> dict[str, Any]:
    """The fields that all families after GPT-2 share."""
    default = "gelu_pytorch_tanh" if act == "hidden_activation" else "silu"
    fields = {
        "vocab_size": reader.whole("vocab_size"),
        "context_length": reader.whole("max_position_embeddings"),
        "n_layers": reader.whole("num_hidden_layers"),
        "n_heads": reader.whole("num_attention_heads"),
        "d_model": reader.whole("hidden_size"),
        "d_ff": reader.whole("intermediate_size"),
        "positions": "rope",
        "norm": "rms",
        "norm_eps": reader.number("rms_norm_eps", eps),
        "feed_forward": "gated",
        "feed_forward_bias": False,
        "activation": activation(reader, act, default),
        "tie_embeddings": reader.flag("tie_word_embeddings", tied),
    }
    std = reader.values.get("initializer_range")
    return fields | ({"init_std": float(std)} if isinstance(std, int | float) and std > 0 else {})


def read_heads(reader: Reader, groups: int | None = None) -> dict[str, Any]:
    """Grouped heads; without a number every query head has its own key/value head."""
    return {
        "n_kv_heads": reader.whole("num_key_value_heads", groups),
        "d_head": reader.whole("head_dim", None),
    }


def read_windows(reader: Reader, window: int | None, every: int | None) -> dict[str, Any]:
    """Which layers have a window, from `layer_types` or else the family's own rule."""
    kinds, n_layers = reader.take("layer_types", None), reader.whole("num_hidden_layers")
    window, every = layer_windows(kinds, window, every, n_layers)
    return {"window": window, "global_every": every}


def write_body(config: ModelConfig, act: str = "hidden_act") -> dict[str, Any]:
    """The published keys that all families after GPT-2 share."""
    return {
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.context_length,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.n_kv_heads,
        "hidden_size": config.d_model,
        "intermediate_size": config.d_ff,
        "rms_norm_eps": config.norm_eps,
        act: published_activation(config.activation),
        "tie_word_embeddings": config.tie_embeddings,
        "initializer_range": config.init_std,
        "attention_dropout": config.dropout,
        "rope_parameters": write_rope(config.rope),
    }


def write_windows(config: ModelConfig) -> dict[str, Any]:
    return {"sliding_window": config.window, "layer_types": layer_types(config.windows)}


FeedForwardRules = Callable[[ModelConfig, int], list[Rule]]


def decoder_rules(
    config: ModelConfig, values: dict[str, Any], feed_forward: FeedForwardRules | None = None
) -> list[Rule]:
    """Where the tensors of a Llama-like model go; `feed_forward` says it for a layer's network."""
    del values
    feed_forward = feed_forward or feed_forward_rules
    c, h, g, d = config.d_model, config.n_heads, config.n_kv_heads, config.d_head
    rules = outer_rules(config)
    for i in range(config.n_layers):
        ours, theirs = f"blocks.{i}.attention.", f"model.layers.{i}.self_attn."
        kinds = ("weight", "bias") if config.attention_bias else ("weight",)
        for kind in kinds:
            pieces = (("q_proj", h * d), ("k_proj", g * d), ("v_proj", g * d))
            rules.append(
                Rule(
                    f"{ours}qkv.{kind}",
                    tuple(Piece(f"{theirs}{name}.{kind}", rows) for name, rows in pieces),
                )
            )
        rules += linear_rules(f"{ours}out", f"{theirs}o_proj", c, config.attention_out_bias)
        if config.qk_norm != "none":
            per_head = config.qk_norm == "head"
            for name, heads in (("q_norm", h), ("k_norm", g)):
                rows = d if per_head else heads * d
                rules.append(one(f"{ours}{name}.weight", f"{theirs}{name}.weight", rows))
        rules += norm_rules(config, i) + feed_forward(config, i)
    return rules


def outer_rules(config: ModelConfig) -> list[Rule]:
    """The embedding, the last norm and the head."""
    c, v = config.d_model, config.vocab_size
    rules = [one("embedding.weight", "model.embed_tokens.weight", v)]
    rules.append(one("final_norm.weight", "model.norm.weight", c))
    if not config.tie_embeddings:
        rules.append(one("head.weight", "lm_head.weight", v))
    return rules


def linear_rules(ours: str, theirs: str, rows: int, bias: bool) -> list[Rule]:
    """A projection's weight and, if it has one, its bias."""
    kinds = ("weight", "bias") if bias else ("weight",)
    return [one(f"{ours}.{kind}", f"{theirs}.{kind}", rows) for kind in kinds]


# Our norms and their published names. The name post_attention_layernorm stands for the norm
# before the feed-forward network in Llama, and for the one after attention where there is one.
NORMS = {
    "pre": {
        "attention_norm": "input_layernorm",
        "feed_forward_norm": "post_attention_layernorm",
    },
    "sandwich": {
        "attention_norm": "input_layernorm",
        "attention_output_norm": "post_attention_layernorm",
        "feed_forward_norm": "pre_feedforward_layernorm",
        "feed_forward_output_norm": "post_feedforward_layernorm",
    },
    "output": {
        "attention_output_norm": "post_attention_layernorm",
        "feed_forward_output_norm": "post_feedforward_layernorm",
    },
}


def norm_rules(config: ModelConfig, i: int) -> list[Rule]:
    return [
        one(f"blocks.{i}.{ours}.weight", f"model.layers.{i}.{theirs}.weight", config.d_model)
        for ours, theirs in NORMS[config.norm_placement].items()
    ]


def feed_forward_rules(config: ModelConfig, i: int) -> list[Rule]:
    """The gate above the up projection, and the projection back."""
    ours, theirs = f"blocks.{i}.feed_forward.", f"model.layers.{i}.mlp."
    kinds = ("weight", "bias") if config.feed_forward_bias else ("weight",)
    rules = [
        Rule(
            f"{ours}gate_up.{kind}",
            tuple(
                Piece(f"{theirs}{name}.{kind}", config.d_ff) for name in ("gate_proj", "up_proj")
            ),
        )
        for kind in kinds
    ]
    return rules + linear_rules(
        f"{ours}down", f"{theirs}down_proj", config.d_model, config.feed_forward_bias
    )
