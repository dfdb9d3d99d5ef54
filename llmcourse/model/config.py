"""The choices that make a decoder, in one frozen record.

Taught in Part 1. A `ModelConfig` says everything about a model except its weights: two models
with equal configs have the same parameters, the same shapes and the same arithmetic. Later parts
add fields (rotary positions, grouped heads, experts); they do not add a second config.

Sources: the Transformer (Vaswani et al. 2017, arXiv 1706.03762), GPT-2 (Radford et al. 2019) for
the pre-norm layout, the tied embedding and the scaled initialisation.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from dataclasses import dataclass
from typing import Any

CHOICES = {
    "positions": ("learned", "sinusoidal", "none"),
    "norm": ("layer", "none"),
    "norm_placement": ("pre", "post"),
    "activation": ("gelu", "gelu_tanh", "relu"),
    "attention": ("auto", "naive", "sdpa"),
}


@dataclass(frozen=True)
class ModelConfig:
    """A decoder-only transformer.

    Raises:
        ValueError: a value is impossible; the message names the field, the value and the choice.
    """

    vocab_size: int  # tokens in the vocabulary
    context_length: int  # tokens: the longest sequence the model accepts
    n_layers: int  # blocks
    n_heads: int  # attention heads per block
    d_model: int  # width of the residual stream, numbers per token
    d_ff: int | None = None  # width inside the feed-forward network; None means 4 * d_model
    positions: str = "learned"  # how a token knows where it stands
    norm: str = "layer"  # "none" is for Part 1's experiment
    norm_placement: str = "pre"  # "pre": x + f(norm(x)), as GPT-2; "post": norm(x + f(x)), as 2017
    residual: bool = True  # False is for Part 1's experiment
    activation: str = "gelu"  # inside the feed-forward network; GPT-2 uses "gelu_tanh"
    attention_bias: bool = True  # biases of the query, key, value and output projections
    feed_forward_bias: bool = True  # biases of the feed-forward network's two layers
    tie_embeddings: bool = True  # the output layer is the embedding table, transposed
    dropout: float = 0.0  # probability of zeroing, in [0, 1)
    norm_eps: float = 1e-5  # added to the variance
    init_std: float = 0.02  # standard deviation of the initial weights
    attention: str = "auto"  # implementation of `attend`; the result is the same

    def __post_init__(self) -> None:
        for name in ("vocab_size", "context_length", "n_layers", "n_heads", "d_model"):
            _whole_number(name, getattr(self, name))
        if self.d_ff is None:
            object.__setattr__(self, "d_ff", 4 * self.d_model)
        _whole_number("d_ff", self.d_ff)
        if self.d_model % self.n_heads:
            fits = [h for h in range(1, self.d_model + 1) if self.d_model % h == 0]
            nearest = min(fits, key=lambda h: abs(h - self.n_heads))
            raise ValueError(
                f"n_heads={self.n_heads} does not divide d_model={self.d_model}; "
                f"every head needs the same whole width, for example n_heads={nearest}"
            )
        if self.positions == "sinusoidal" and self.d_model % 2:
            raise ValueError(
                f"d_model={self.d_model} is odd; sinusoidal positions pair a sine with a cosine "
                f"and need an even width, for example d_model={self.d_model + 1}"
            )
        for name, allowed in CHOICES.items():
            value = getattr(self, name)
            if value not in allowed:
                raise ValueError(f"{name}={value!r} is unknown; choose one of {list(allowed)}")
        for name in ("residual", "attention_bias", "feed_forward_bias", "tie_embeddings"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name}={getattr(self, name)!r} must be True or False")
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"dropout={self.dropout} is not a probability in [0, 1)")
        for name in ("norm_eps", "init_std"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name}={getattr(self, name)} must be a number greater than 0")

    @property
    def d_head(self) -> int:
        """Width of one head, numbers per token."""
        return self.d_model // self.n_heads

    @classmethod
    def preset(cls, name: str, **overrides: Any) -> ModelConfig:
        """A named configuration with any field replaced: `ModelConfig.preset("gpt2", dropout=0.1)`.

        Raises:
            ValueError: no preset, or no field, of that name; the nearest one is named.
        """
        if name not in PRESETS:
            raise ValueError(f"unknown preset {name!r}; {_nearest(name, PRESETS)}")
        return cls.from_dict(PRESETS[name] | overrides)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ModelConfig:
        """The inverse of `to_dict`.

        Raises:
            ValueError: an unknown field, and the nearest one is named; or a missing one.
        """
        fields = [field.name for field in dataclasses.fields(cls)]
        for key in values:
            if key not in fields:
                raise ValueError(f"ModelConfig has no field {key!r}; {_nearest(key, fields)}")
        required = [f.name for f in dataclasses.fields(cls) if f.default is dataclasses.MISSING]
        missing = [name for name in required if name not in values]
        if missing:
            raise ValueError(f"ModelConfig needs a value for {', '.join(missing)}")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Plain values only, ready for JSON."""
        return dataclasses.asdict(self)


def _gpt2(n_layers: int, n_heads: int, d_model: int) -> dict[str, Any]:
    return {
        "vocab_size": 50257,
        "context_length": 1024,
        "n_layers": n_layers,
        "n_heads": n_heads,
        "d_model": d_model,
        "activation": "gelu_tanh",
    }


PRESETS: dict[str, dict[str, Any]] = {
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


def _whole_number(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name}={value!r} must be a whole number of at least 1")


def _nearest(name: str, known: Any) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"
