"""The named models, as plain values for `ModelConfig`: the course's own and the published ones.

The tests compare the published ones' parameter counts with the published ones and the built shapes
with transformers'. `rope`, `rope_local`, `latent` and `experts` are plain dictionaries, as in a
checkpoint's JSON.

Source of GPT-2's sizes: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners".
"""

from __future__ import annotations

from typing import Any

from llmcourse.model.published_dense import DENSE_PRESETS
from llmcourse.model.published_sparse import SPARSE_PRESETS


def _gpt2(n_layers: int, n_heads: int, d_model: int) -> dict[str, Any]:
    return {
        "vocab_size": 50257,
        "context_length": 1024,
        "n_layers": n_layers,
        "n_heads": n_heads,
        "d_model": d_model,
        "activation": "gelu_tanh",
    }


COURSE_PRESETS: dict[str, dict[str, Any]] = {
    # The published sizes: 124,439,808 / 354,823,168 / 774,030,080 / 1,557,611,200 parameters.
    "gpt2": _gpt2(12, 12, 768),
    "gpt2-medium": _gpt2(24, 16, 1024),
    "gpt2-large": _gpt2(36, 20, 1280),
    "gpt2-xl": _gpt2(48, 25, 1600),
    # Part 2 on real text: 856,832 parameters, one token per byte.
    "showcase": {
        "vocab_size": 256,
        "context_length": 256,
        "n_layers": 4,
        "n_heads": 8,
        "d_model": 128,
        "attention_bias": False,
    },
    # Part 2 on the village tales: one token per word, a whole story per row. The vocabulary is that
    # of the tokenizer it is used with; the village's words, the bytes and an end make about 900.
    "tales": {
        "vocab_size": 1024,
        "context_length": 160,
        "n_layers": 4,
        "n_heads": 4,
        "d_model": 128,
        "attention_bias": False,
        "init_std": 0.05,
    },
}

MODERN_PRESETS = DENSE_PRESETS | SPARSE_PRESETS
PRESETS = COURSE_PRESETS | MODERN_PRESETS
