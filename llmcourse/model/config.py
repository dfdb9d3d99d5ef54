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
FREE = ("context_length", "window", "sinks", "global_every", "attention", "dropout", "rope")


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
            _whole_number(f"latent {name}", getattr(self, name))
        if self.d_query_latent is not None:
            _whole_number("latent d_query_latent", self.d_query_latent)


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
    tie_embeddings: bool = True  # the output layer is the embedding table, transposed
    scale_embeddings: bool | None = None  # times √d_model; None: only for sinusoidal positions
    dropout: float = 0.0  # probability of zeroing, in [0, 1)
    norm_eps: float = 1e-5  # added to the variance
    init_std: float = 0.02  # standard deviation of the initial weights
    attention: str = "auto"  # implementation of `attend`; the result is the same

    def __post_init__(self) -> None:
        for name in ("vocab_size", "context_length", "n_layers", "n_heads", "d_model"):
            _whole_number(name, getattr(self, name))
        _check_choices(self)
        _resolve_widths(self)
        _check_heads(self)
        _check_window(self)
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
            "d_ff": _default_d_ff(self),
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
        values = dict(values)
        for name, kind in (("rope", Rope), ("rope_local", Rope), ("latent", Latent)):
            if isinstance(values.get(name), dict):
                values[name] = _record(kind, name, values[name])
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


def _check_choices(config: ModelConfig) -> None:
    for name, allowed in CHOICES.items():
        value = getattr(config, name)
        if value not in allowed:
            raise ValueError(f"{name}={value!r} is unknown; choose one of {list(allowed)}")
    for field in dataclasses.fields(config):
        value, optional = getattr(config, field.name), "None" in str(field.type)
        if "bool" in str(field.type) and not (
            isinstance(value, bool) or (optional and value is None)
        ):
            raise ValueError(f"{field.name}={value!r} must be True or False")
    for name, kind in (("rope", Rope), ("rope_local", Rope), ("latent", Latent)):
        value = getattr(config, name)
        if not isinstance(value, kind) and (value is not None or name == "rope"):
            raise ValueError(f"{name}={value!r} must be a {kind.__name__}(...)")


def _default_d_ff(config: ModelConfig) -> int:
    if config.feed_forward == "plain":
        return 4 * config.d_model
    # Three matrices of 8/3 C hold as many numbers as two of 4 C; a multiple of 8 suits the machine.
    return math.ceil(8 * config.d_model / 3 / 8) * 8


def _resolve_widths(config: ModelConfig) -> None:
    """Replace every None that follows from other fields."""

    def resolve(name: str, value: Any) -> None:
        if getattr(config, name) is None:
            object.__setattr__(config, name, value)

    resolve("d_ff", _default_d_ff(config))
    _whole_number("d_ff", config.d_ff)
    resolve("attention_out_bias", config.attention_bias)
    if config.latent is not None:
        resolve("d_head", config.latent.d_nope + config.latent.d_rope)
    if config.d_head is None and config.d_model % config.n_heads:
        fits = [h for h in range(1, config.d_model + 1) if config.d_model % h == 0]
        nearest = min(fits, key=lambda h: abs(h - config.n_heads))
        raise ValueError(
            f"n_heads={config.n_heads} does not divide d_model={config.d_model}; "
            f"every head needs the same whole width, for example n_heads={nearest}, "
            f"or say the width with d_head"
        )
    resolve("d_head", config.d_model // config.n_heads)
    _whole_number("d_head", config.d_head)
    resolve("n_kv_heads", config.n_heads)
    _whole_number("n_kv_heads", config.n_kv_heads)


def _check_heads(config: ModelConfig) -> None:
    if config.n_heads % config.n_kv_heads:
        fits = [g for g in range(1, config.n_heads + 1) if config.n_heads % g == 0]
        raise ValueError(
            f"n_kv_heads={config.n_kv_heads} does not divide n_heads={config.n_heads}; every "
            f"key/value head serves the same number of query heads: choose one of {fits}"
        )
    if config.norm == "none" and config.norm_placement in ("sandwich", "output"):
        raise ValueError(f'norm="none" leaves nothing for norm_placement={config.norm_placement!r}')
    if config.norm_offset and config.norm != "rms":
        raise ValueError(f'norm_offset=True goes with norm="rms", got norm={config.norm!r}')
    latent = config.latent
    if config.positions == "rope":
        for rope in (config.rope, config.rope_local or config.rope):
            rope.turned(config.d_head if latent is None else latent.d_rope)
    if latent is None:
        return
    if config.positions != "rope":
        raise ValueError(f'latent attention needs positions="rope", got {config.positions!r}')
    if config.n_kv_heads != config.n_heads:
        raise ValueError(
            f"n_kv_heads={config.n_kv_heads} has no meaning with latent attention, whose keys are "
            f"rebuilt for every head; leave it None"
        )
    if config.d_head != latent.d_nope + latent.d_rope:
        raise ValueError(
            f"d_head={config.d_head} contradicts latent d_nope + d_rope = "
            f"{latent.d_nope + latent.d_rope}; leave it None"
        )
    for name in ("qk_norm", "attention_softcap"):
        if getattr(config, name) not in ("none", None):
            raise ValueError(f"{name}={getattr(config, name)!r} is not built for latent attention")


def _check_window(config: ModelConfig) -> None:
    if config.window is not None:
        _whole_number("window", config.window)
    if isinstance(config.sinks, bool) or not isinstance(config.sinks, int) or config.sinks < 0:
        raise ValueError(f"sinks={config.sinks!r} must be a whole number of at least 0")
    for name in ("sinks", "global_every", "rope_local"):
        if getattr(config, name) and config.window is None:
            raise ValueError(f"{name}={getattr(config, name)} has no effect without a window")
    if config.global_every is not None:
        _whole_number("global_every", config.global_every)


def _record(kind: type, name: str, values: dict[str, Any]) -> Any:
    fields = [field.name for field in dataclasses.fields(kind)]
    for key in values:
        if key not in fields:
            raise ValueError(f"{name} has no field {key!r}; {_nearest(key, fields)}")
    return kind(**values)


def _whole_number(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name}={value!r} must be a whole number of at least 1")


def _nearest(name: str, known: Any) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"
