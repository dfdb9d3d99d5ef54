"""Llama 2 and 3, Mistral, Qwen2, Qwen3 and OLMo 2: one body with small differences.

Llama     RMSNorm, RoPE, SwiGLU, grouped heads    arXiv 2307.09288, 2407.21783
Mistral   + a window in every layer               arXiv 2310.06825
Qwen2     + biases of q, k, v                     arXiv 2407.10671
Qwen3     + norms of queries and keys, per head   arXiv 2505.09388
OLMo 2    + the same over the whole width, norms after the sub-layers   arXiv 2501.00656
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
from llmcourse.interop.huggingface.rope import published_parameters, read_rope
from llmcourse.model.config import ModelConfig


def _body(reader: Reader, eps: float = 1e-6, groups: int | None = None) -> dict[str, Any]:
    fields = read_body(reader, eps=eps, tied=False) | read_heads(reader, groups)
    rope = read_rope(published_parameters(reader, 10_000.0), fields["context_length"])
    return fields | {"rope": rope, "dropout": dropout(reader, "attention_dropout")}


def read_llama(reader: Reader) -> dict[str, Any]:
    return _body(reader) | {
        "attention_bias": reader.flag("attention_bias", False),
        "feed_forward_bias": reader.flag("mlp_bias", False),
    }


def write_llama(config: ModelConfig) -> dict[str, Any]:
    return write_body(config) | {
        "head_dim": config.d_head,
        "attention_bias": config.attention_bias,
        "mlp_bias": config.feed_forward_bias,
    }


def read_one_window(reader: Reader, window: int | None) -> dict[str, Any]:
    """The same window in every layer, or none."""
    kinds = reader.take("layer_types", None)
    every = "full_attention" if window is None else "sliding_attention"
    if kinds is not None and set(kinds) != {every}:
        raise ValueError(
            f"layer_types={kinds!r} contradicts sliding_window={window}: in a {reader.family} "
            f"model every layer has the window or none has"
        )
    return {"window": window}


def read_mistral(reader: Reader) -> dict[str, Any]:
    window = reader.whole("sliding_window", None) if "sliding_window" in reader.values else 4096
    fields = read_one_window(reader, window)
    return _body(reader, groups=8) | {"attention_bias": False} | fields


def write_mistral(config: ModelConfig) -> dict[str, Any]:
    return write_body(config) | {"head_dim": config.d_head, "sliding_window": config.window}


def _qwen_windows(reader: Reader) -> dict[str, Any]:
    """In Qwen the first `max_window_layers` layers are full and the others may slide."""
    slides = reader.flag("use_sliding_window", False)
    window, first = reader.take("sliding_window", 4096), reader.take("max_window_layers", 28)
    n_layers, kinds = reader.whole("num_hidden_layers"), reader.values.get("layer_types")
    if not slides or window is None:
        return read_windows(reader, None, None)
    window = reader.whole("sliding_window", 4096)
    if isinstance(first, bool) or not isinstance(first, int) or first < 0:
        raise ValueError(f"max_window_layers={first!r} must be a whole number of at least 0")
    if kinds is None and 0 < first < n_layers:
        raise ValueError(
            f"max_window_layers={first} of {n_layers} layers come before the sliding ones; only a "
            f"regular pattern (every layer, or a full one after every so many) is supported"
        )
    return read_windows(reader, window if kinds is not None or first == 0 else None, None)


def _write_qwen_windows(config: ModelConfig) -> dict[str, Any]:
    return write_windows(config) | {
        "use_sliding_window": config.window is not None,
        "max_window_layers": 0 if config.window is not None else config.n_layers,
    }


def read_qwen2(reader: Reader) -> dict[str, Any]:
    biases = {"attention_bias": True, "attention_out_bias": False}
    return _body(reader, groups=32) | biases | _qwen_windows(reader)


def write_qwen2(config: ModelConfig) -> dict[str, Any]:
    return write_body(config) | {"head_dim": config.d_head} | _write_qwen_windows(config)


def read_qwen3(reader: Reader) -> dict[str, Any]:
    fields = _body(reader, groups=32) | _qwen_windows(reader)
    # Qwen3's width of a head does not follow from the model's width.
    head = fields["d_head"] or 128
    bias = reader.flag("attention_bias", False)
    return fields | {"d_head": head, "attention_bias": bias, "qk_norm": "head"}


def write_qwen3(config: ModelConfig) -> dict[str, Any]:
    written = write_body(config) | _write_qwen_windows(config)
    return written | {"head_dim": config.d_head, "attention_bias": config.attention_bias}


def read_olmo2(reader: Reader) -> dict[str, Any]:
    return _body(reader, eps=1e-5) | {
        "attention_bias": reader.flag("attention_bias", False),
        "qk_norm": "width",
        "norm_placement": "output",
    }


def write_olmo2(config: ModelConfig) -> dict[str, Any]:
    written = write_body(config) | {"attention_bias": config.attention_bias}
    if config.d_head * config.n_heads != config.d_model:
        written["head_dim"] = config.d_head
    return written


LLAMA = Family("llama", "LlamaForCausalLM", read_llama, write_llama, decoder_rules)
MISTRAL = Family("mistral", "MistralForCausalLM", read_mistral, write_mistral, decoder_rules)
QWEN2 = Family("qwen2", "Qwen2ForCausalLM", read_qwen2, write_qwen2, decoder_rules)
QWEN3 = Family("qwen3", "Qwen3ForCausalLM", read_qwen3, write_qwen3, decoder_rules)
OLMO2 = Family("olmo2", "Olmo2ForCausalLM", read_olmo2, write_olmo2, decoder_rules)
