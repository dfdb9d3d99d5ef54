"""GPT-2: LayerNorm, learned positions, weights stored as (in, out).

Source: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners".
"""

from __future__ import annotations

from typing import Any

from llmcourse.interop.huggingface.families.base import Family
from llmcourse.interop.huggingface.reader import Reader, activation, dropout
from llmcourse.interop.huggingface.weights import Rule, one
from llmcourse.model.config import ModelConfig

# Our layer, its published name, and its rows as a multiple of (C, d_ff).
LINEAR = {
    "attention.qkv": ("attn.c_attn", 3, 0),
    "attention.out": ("attn.c_proj", 1, 0),
    "feed_forward.up": ("mlp.c_fc", 0, 1),
    "feed_forward.down": ("mlp.c_proj", 1, 0),
}


def read(reader: Reader) -> dict[str, Any]:
    """Fields of `ModelConfig` from a GPT-2 config."""
    context = reader.whole("n_positions")
    reader.expect("n_ctx", context, why="it is an old name of n_positions")
    reader.expect(
        "scale_attn_by_inverse_layer_idx", False, why="the scores are not divided by layer"
    )
    reader.expect("reorder_and_upcast_attn", False, why="scores are computed in the model's dtype")
    reader.ignore(*(key for key in reader.values if key.startswith("summary_")))
    unscaled = not reader.flag("scale_attn_weights", True)
    std = reader.values.get("initializer_range", 0.02)
    return {
        "vocab_size": reader.whole("vocab_size"),
        "context_length": context,
        "n_layers": reader.whole("n_layer"),
        "n_heads": reader.whole("n_head"),
        "d_model": reader.whole("n_embd"),
        "d_ff": reader.whole("n_inner", None),
        "activation": activation(reader, "activation_function", "gelu_new"),
        "attention_scale": 1.0 if unscaled else None,
        "tie_embeddings": reader.flag("tie_word_embeddings", True),
        "dropout": dropout(reader, "resid_pdrop", "embd_pdrop", "attn_pdrop", default=0.1),
        "norm_eps": reader.number("layer_norm_epsilon", 1e-5),
        "init_std": std,
    }


def write(config: ModelConfig) -> dict[str, Any]:
    """The published config of ours."""
    names = {"gelu_tanh": "gelu_new"}
    return {
        "vocab_size": config.vocab_size,
        "n_positions": config.context_length,
        "n_layer": config.n_layers,
        "n_head": config.n_heads,
        "n_embd": config.d_model,
        "n_inner": config.d_ff,
        "activation_function": names.get(config.activation, config.activation),
        "scale_attn_weights": config.attention_scale is None,
        "tie_word_embeddings": config.tie_embeddings,
        "resid_pdrop": config.dropout,
        "embd_pdrop": config.dropout,
        "attn_pdrop": config.dropout,
        "layer_norm_epsilon": config.norm_eps,
        "initializer_range": config.init_std,
    }


def rules(config: ModelConfig, values: dict[str, Any]) -> list[Rule]:
    """Where GPT-2's tensors go. The fused q, k, v projection is fused there too."""
    del values
    c = config.d_model
    found = [
        one("embedding.weight", "transformer.wte.weight", config.vocab_size),
        one("positions.weight", "transformer.wpe.weight", config.context_length),
    ]
    if not config.tie_embeddings:
        found.append(one("head.weight", "lm_head.weight", config.vocab_size))
    for i in range(config.n_layers):
        ours, theirs = f"blocks.{i}.", f"transformer.h.{i}."
        for name, (published, width, inner) in LINEAR.items():
            rows = width * c + inner * config.d_ff
            weight = f"{theirs}{published}.weight"
            found.append(one(f"{ours}{name}.weight", weight, rows, transpose=True))
            found.append(one(f"{ours}{name}.bias", f"{theirs}{published}.bias", rows))
        for name, published in (("attention_norm", "ln_1"), ("feed_forward_norm", "ln_2")):
            for kind in ("weight", "bias"):
                found.append(one(f"{ours}{name}.{kind}", f"{theirs}{published}.{kind}", c))
    for kind in ("weight", "bias"):
        found.append(one(f"final_norm.{kind}", f"transformer.ln_f.{kind}", c))
    return found


GPT2 = Family(
    name="gpt2",
    architecture="GPT2LMHeadModel",
    read=read,
    write=write,
    rules=rules,
    prefix="transformer.",
    # Old files also hold the causal mask, once per layer.
    computed=(".attn.bias", ".attn.masked_bias"),
)
