"""The choices that make a decoder, in one frozen record.

Taught in Part 1. A `ModelConfig` says everything about a model except its weights: two models
with equal configs have the same parameters, the same shapes and the same arithmetic. Later parts
add fields (rotary positions, grouped heads, experts); they do not add a second config.

Sources: the Transformer (Vaswani et al. 2017, arXiv 1706.03762), GPT-2 (Radford et al. 2019) for
the pre-norm layout, the tied embedding and the scaled initialisation.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from llmcourse.model.config_checks import (
    check_choices,
    check_experts,
    check_heads,
    check_window,
    default_d_ff,
    nearest,
    record,
    resolve_widths,
    whole_number,
)
from llmcourse.model.experts_config import Experts
from llmcourse.model.presets import PRESETS
from llmcourse.model.rotary import PLAIN_ROPE, Rope

CHOICES = {
    "positions": ("learned", "sinusoidal", "rope", "none"),
    "norm": ("layer", "rms", "none"),
    "norm_placement": ("pre", "post", "sandwich", "output"),
    "feed_forward": ("plain", "gated"),
    "activation": ("gelu", "gelu_tanh", "relu", "silu", "relu2"),
    "qk_norm": ("none", "head", "width"),
    "attention": ("auto", "naive", "flash", "triton", "sdpa", "flex"),
}
# What changes neither a parameter nor its meaning: `Transformer.with_options` may change these.
FREE = (
    *("context_length", "window", "sinks", "global_every", "attention", "dropout", "rope"),
    "experts",  # of which only `experts_config.FREE` may change
)


@dataclass(frozen=True)
class Latent:
    """Multi-head latent attention: keys and values are rebuilt from one small vector per token.

    Source: DeepSeek-V2 2024, arXiv 2405.04434, section 2.1.

    Raises:
        ValueError: a width is not a whole number of at least 1.
    """

    d_latent: int  # numbers per token that the cache keeps for keys and values of all heads
    d_query_latent: int | None = None  # numbers the queries are rebuilt from; None: directly
    d_nope: int = 128  # channels of a head that carry no position
    d_rope: int = 64  # channels of a head that are turned; the key's are shared by all heads
    d_value: int = 128  # width of a head's value

    def __post_init__(self) -> None:
        for name in ("d_latent", "d_nope", "d_rope", "d_value"):
            whole_number(f"latent {name}", getattr(self, name))
        if self.d_query_latent is not None:
            whole_number("latent d_query_latent", self.d_query_latent)


# Fields that are records of their own.
RECORDS: dict[str, type] = {
    "rope": Rope,
    "rope_local": Rope,
    "latent": Latent,
    "experts": Experts,
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
    d_ff: int | None = None  # width inside the feed-forward network; None: 4 or 8/3 times d_model
    n_kv_heads: int | None = None  # heads of keys and values that queries share; None: n_heads
    d_head: int | None = None  # width of one head; None means d_model / n_heads
    positions: str = "learned"  # how a token knows where it stands
    rope: Rope = PLAIN_ROPE  # how rotary positions turn; only with positions="rope"
    rope_local: Rope | None = None  # the same for windowed layers; None: as rope
    norm: str = "layer"  # "rms" leaves the mean alone; "none" is for Part 1's experiment
    norm_offset: bool = False  # the norm's scale is 1 + weight, as Gemma stores it
    norm_placement: str = "pre"  # x + f(norm(x)); "post" norm(x + f(x)); "output" x + norm(f(x));
    # "sandwich" x + norm(f(norm(x)))
    residual: bool = True  # False is for Part 1's experiment
    feed_forward: str = "plain"  # "gated" multiplies two projections: SwiGLU with "silu"
    activation: str = "gelu"  # inside the feed-forward network; GPT-2 uses "gelu_tanh"
    attention_bias: bool = True  # biases of the query, key, value and output projections
    attention_out_bias: bool | None = None  # bias of the output projection; None: as the others
    feed_forward_bias: bool = True  # biases of the feed-forward network's two layers
    qk_norm: str = "none"  # normalise queries and keys: per "head", or over their whole "width"
    attention_softcap: float | None = None  # scores become cap tanh(score / cap); Gemma 2 uses 50
    logit_softcap: float | None = None  # the same for the logits; Gemma 2 uses 30
    attention_scale: float | None = None  # what q · k is multiplied by; None: 1 / √d_head
    window: int | None = None  # tokens a query sees, itself included; None means all
    sinks: int = 0  # first tokens that stay visible outside the window
    global_every: int | None = None  # every so many layers one without a window; None: no such
    latent: Latent | None = None  # multi-head latent attention in place of n_kv_heads
    experts: Experts | None = None  # mixture of experts in place of the feed-forward network
    tie_embeddings: bool = True  # the output layer is the embedding table, transposed
    scale_embeddings: bool | None = None  # times √d_model; None: only for sinusoidal positions
    dropout: float = 0.0  # probability of zeroing, in [0, 1)
    norm_eps: float = 1e-5  # added to the variance
    init_std: float = 0.02  # standard deviation of the initial weights
    attention: str = "auto"  # implementation of `attend`; the result is the same

    def __post_init__(self) -> None:
        for name in ("vocab_size", "context_length", "n_layers", "n_heads", "d_model"):
            whole_number(name, getattr(self, name))
        check_choices(self, CHOICES, RECORDS)
        resolve_widths(self)
        check_heads(self)
        check_window(self)
        check_experts(self)
        if self.positions == "sinusoidal" and self.d_model % 2:
            raise ValueError(
                f"d_model={self.d_model} is odd; sinusoidal positions pair a sine with a cosine "
                f"and need an even width, for example d_model={self.d_model + 1}"
            )
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"dropout={self.dropout} is not a probability in [0, 1)")
        for name in ("norm_eps", "init_std"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name}={getattr(self, name)} must be a number greater than 0")
        for name in ("attention_softcap", "logit_softcap", "attention_scale"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{name}={value} must be a number greater than 0, or None")

    @property
    def score_scale(self) -> float:
        """What q · k is multiplied by before the softmax."""
        if self.attention_scale is not None:
            return self.attention_scale
        if self.latent is not None:
            return 1.0 / math.sqrt(self.latent.d_nope + self.latent.d_rope)
        return 1.0 / math.sqrt(self.d_head)

    @property
    def cache_widths(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """What a cache keeps per token and layer: (heads, width) of the keys and of the values.

        With latent attention: one "head" that holds the latent vector and the shared turned key
        side by side, and no values, which are rebuilt from the same latent vector.
        """
        if self.latent is not None:
            return (1, self.latent.d_latent + self.latent.d_rope), (1, 0)
        return (self.n_kv_heads, self.d_head), (self.n_kv_heads, self.d_head)

    def layer_window(self, layer: int) -> int | None:
        """Tokens that a query of this layer sees; None means all. Layers count from 0."""
        if self.global_every is not None and (layer + 1) % self.global_every == 0:
            return None
        return self.window

    def is_sparse(self, layer: int) -> bool:
        """Whether this layer, counted from 0, is a mixture of experts."""
        return self.experts is not None and self.experts.is_sparse(layer)

    @property
    def sparse_layers(self) -> tuple[int, ...]:
        """The layers that are mixtures of experts."""
        return tuple(layer for layer in range(self.n_layers) if self.is_sparse(layer))

    @property
    def n_sparse_layers(self) -> int:
        """How many these are."""
        return len(self.sparse_layers)

    @property
    def expert_width(self) -> int:
        """Width inside one expert; without experts that of the feed-forward network."""
        return (self.experts and self.experts.d_ff) or self.d_ff

    @property
    def draws(self) -> bool:
        """Whether a training step draws random numbers: dropout, or noisy routers."""
        return self.dropout > 0 or (self.experts is not None and self.experts.noise)

    @property
    def windows(self) -> tuple[int | None, ...]:
        """`layer_window` of every layer."""
        return tuple(self.layer_window(layer) for layer in range(self.n_layers))

    @property
    def endless(self) -> bool:
        """No limit on the length of a text: every layer looks back a bounded way, by distance."""
        return self.positions in ("rope", "none") and None not in self.windows

    def replace(self, **changes: Any) -> ModelConfig:
        """A config with some fields changed; widths that followed from others follow again.

        Raises:
            ValueError: no field of that name, or an impossible value.
        """
        derived = {
            "d_ff": default_d_ff(self),
            "d_head": self.d_model // self.n_heads if self.latent is None else self.d_head,
            "n_kv_heads": self.n_heads,
            "attention_out_bias": self.attention_bias,
        }
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        for name, value in derived.items():
            if values[name] == value:
                values[name] = None
        return self.from_dict(values | changes)

    @classmethod
    def preset(cls, name: str, **overrides: Any) -> ModelConfig:
        """A named configuration with any field replaced: `ModelConfig.preset("gpt2", dropout=0.1)`.

        Raises:
            ValueError: no preset, or no field, of that name; the nearest one is named.
        """
        if name not in PRESETS:
            raise ValueError(f"unknown preset {name!r}; {nearest(name, PRESETS)}")
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
                raise ValueError(f"ModelConfig has no field {key!r}; {nearest(key, fields)}")
        required = [f.name for f in dataclasses.fields(cls) if f.default is dataclasses.MISSING]
        missing = [name for name in required if name not in values]
        if missing:
            raise ValueError(f"ModelConfig needs a value for {', '.join(missing)}")
        values = dict(values)
        for name, kind in RECORDS.items():
            if isinstance(values.get(name), dict):
                values[name] = record(kind, name, values[name])
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Plain values only, ready for JSON."""
        return dataclasses.asdict(self)
