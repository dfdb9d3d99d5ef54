"""Gemma 2 and Gemma 3 (text): norms around every sub-layer, windows that alternate with none.

Both scale the embedding by √C, store norm weights as their distance from 1, and choose their own
attention scale. Gemma 2 caps scores and logits; Gemma 3 normalises queries and keys instead, and
turns its windowed layers by rates of their own.

Sources: Gemma 2, arXiv 2408.00118; Gemma 3, arXiv 2503.19786.
"""

from __future__ import annotations

from typing import Any

from llmcourse.interop.huggingface.families.base import (
    Family,
    decoder_rules,
    read_body,
    read_heads,
    read_windows,
    write_body,
    write_windows,
)
from llmcourse.interop.huggingface.reader import Reader, dropout
from llmcourse.interop.huggingface.rope import published_parameters, read_rope, write_rope
from llmcourse.model.config import ModelConfig
from llmcourse.model.rotary import Rope


def _body(reader: Reader) -> dict[str, Any]:
    reader.expect("use_bidirectional_attention", False, None, why="a decoder looks back only")
    # Early configs name the activation twice; hidden_activation is the one that counts.
    reader.ignore("hidden_act")
    fields = read_body(reader, eps=1e-6, tied=True, act="hidden_activation")
    fields |= read_heads(reader, groups=4)
    return fields | {
        "d_head": fields["d_head"] or 256,
        "norm_offset": True,
        "norm_placement": "sandwich",
        "scale_embeddings": True,
        "attention_bias": reader.flag("attention_bias", False),
        "attention_scale": reader.number("query_pre_attn_scalar", 256) ** -0.5,
        "logit_softcap": reader.number("final_logit_softcapping", None),
        "dropout": dropout(reader, "attention_dropout"),
    }


def _write(config: ModelConfig) -> dict[str, Any]:
    scalar = config.score_scale**-2
    nearest = round(scalar)
    return write_body(config, act="hidden_activation") | {
        "head_dim": config.d_head,
        "attention_bias": config.attention_bias,
        # transformers wants a whole number; one that is not is refused when it is read back.
        "query_pre_attn_scalar": nearest,
        "final_logit_softcapping": config.logit_softcap,
        "attn_logit_softcapping": config.attention_softcap,
        **write_windows(config),
    }


def read_gemma2(reader: Reader) -> dict[str, Any]:
    reader.values = {"final_logit_softcapping": 30.0} | reader.values
    fields = _body(reader)
    cap = reader.number("attn_logit_softcapping", None)
    if "attn_logit_softcapping" not in reader.values:
        cap = 50.0
    rope = read_rope(published_parameters(reader, 10_000.0), fields["context_length"])
    windows = read_windows(reader, reader.whole("sliding_window", 4096), 2)
    return fields | windows | {"rope": rope, "attention_softcap": cap}


def read_gemma3(reader: Reader) -> dict[str, Any]:
    fields = _body(reader)
    # transformers reads this key and then does not apply it, so a value has no agreed meaning.
    reader.expect("attn_logit_softcapping", None, why="Gemma 3 normalises queries and keys instead")
    every = reader.whole("sliding_window_pattern", 6)
    reader.expect("_sliding_window_pattern", every, why="it contradicts sliding_window_pattern")
    windows = read_windows(reader, reader.whole("sliding_window", 4096), every)
    rope, local = _two_ropes(reader, fields["context_length"])
    if windows["window"] is None:
        local = None  # no layer would use it
    return fields | windows | {"rope": rope, "rope_local": local, "qk_norm": "head"}


def _two_ropes(reader: Reader, context: int) -> tuple[Rope, Rope]:
    """Rates for the full layers and for the windowed ones."""
    local_base = reader.take("rope_local_base_freq", None)
    nested = reader.values.get("rope_parameters")
    if isinstance(nested, dict) and {"full_attention", "sliding_attention"} & nested.keys():
        reader.ignore("rope_parameters", "rope_theta", "rope_scaling")
        unknown = sorted(nested.keys() - {"full_attention", "sliding_attention"})
        if unknown:
            raise ValueError(f"rope_parameters has unknown layer types: {', '.join(unknown)}")
        full, sliding = nested.get("full_attention"), nested.get("sliding_attention")
    else:
        # The old way: one set of keys for the full layers, one base for the windowed ones.
        full, sliding = published_parameters(reader, 1_000_000.0), None
    full = {"rope_theta": 1_000_000.0} | (full or {})
    sliding = {"rope_theta": local_base or 10_000.0} | (sliding or {})
    return read_rope(full, context), read_rope(sliding, context)


def write_gemma3(config: ModelConfig) -> dict[str, Any]:
    local = config.rope if config.rope_local is None else config.rope_local
    ropes = {"full_attention": write_rope(config.rope), "sliding_attention": write_rope(local)}
    return _write(config) | {"rope_parameters": ropes}


GEMMA2 = Family("gemma2", "Gemma2ForCausalLM", read_gemma2, _write, decoder_rules)
GEMMA3 = Family("gemma3_text", "Gemma3ForCausalLM", read_gemma3, write_gemma3, decoder_rules)
