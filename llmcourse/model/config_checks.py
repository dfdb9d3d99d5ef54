"""What a `ModelConfig` refuses, and what it fills in.

Every message names the field, its value and what would be allowed. Taught in no part: it is the
fence around the fields of config.py.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from typing import TYPE_CHECKING, Any

from llmcourse.model.experts_config import FREE as EXPERTS_FREE
from llmcourse.model.experts_config import Experts

if TYPE_CHECKING:
    from llmcourse.model.config import ModelConfig


def check_choices(
    config: ModelConfig, choices: dict[str, tuple[str, ...]], records: dict[str, type]
) -> None:
    """Fields with a list of choices, switches, and fields that are records themselves."""
    for name, allowed in choices.items():
        value = getattr(config, name)
        if value not in allowed:
            raise ValueError(f"{name}={value!r} is unknown; choose one of {list(allowed)}")
    for field in dataclasses.fields(config):
        value, optional = getattr(config, field.name), "None" in str(field.type)
        if "bool" in str(field.type) and not (
            isinstance(value, bool) or (optional and value is None)
        ):
            raise ValueError(f"{field.name}={value!r} must be True or False")
    for name, kind in records.items():
        value = getattr(config, name)
        if not isinstance(value, kind) and (value is not None or name == "rope"):
            raise ValueError(f"{name}={value!r} must be a {kind.__name__}(...)")


def default_d_ff(config: ModelConfig) -> int:
    """The width inside the feed-forward network when none is given."""
    if config.feed_forward == "plain":
        return 4 * config.d_model
    # Three matrices of 8/3 C hold as many numbers as two of 4 C; a multiple of 8 suits the machine.
    return math.ceil(8 * config.d_model / 3 / 8) * 8


def resolve_widths(config: ModelConfig) -> None:
    """Replace every None that follows from other fields."""

    def resolve(name: str, value: Any) -> None:
        if getattr(config, name) is None:
            object.__setattr__(config, name, value)

    resolve("d_ff", default_d_ff(config))
    whole_number("d_ff", config.d_ff)
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
    whole_number("d_head", config.d_head)
    resolve("n_kv_heads", config.n_heads)
    whole_number("n_kv_heads", config.n_kv_heads)


def check_heads(config: ModelConfig) -> None:
    """Heads that share, norms, rotary positions and latent attention must fit together."""
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


def check_window(config: ModelConfig) -> None:
    """A window and what means something only beside one."""
    if config.window is not None:
        whole_number("window", config.window)
    if isinstance(config.sinks, bool) or not isinstance(config.sinks, int) or config.sinks < 0:
        raise ValueError(f"sinks={config.sinks!r} must be a whole number of at least 0")
    for name in ("sinks", "global_every", "rope_local"):
        if getattr(config, name) and config.window is None:
            raise ValueError(f"{name}={getattr(config, name)} has no effect without a window")
    if config.global_every is not None:
        whole_number("global_every", config.global_every)


def check_experts(config: ModelConfig) -> None:
    """Sparse layers must be layers of the model."""
    layers = None if config.experts is None else config.experts.layers
    if layers is not None and layers[-1] >= config.n_layers:
        raise ValueError(
            f"experts layers={layers} names layer {layers[-1]}, but n_layers={config.n_layers}: "
            f"layers run from 0 to {config.n_layers - 1}"
        )


def check_same_experts(experts: Any, changes: dict[str, Any]) -> None:
    """Refuse other experts under trained weights, unless only free fields differ."""
    if "experts" not in changes:
        return
    other = changes["experts"]
    if isinstance(other, dict):
        other = record(Experts, "experts", other)
    same = experts is not None and isinstance(other, Experts) and experts.same_weights(other)
    if not same and not (experts is None and other is None):
        raise ValueError(
            f"experts cannot change under trained weights, apart from {list(EXPERTS_FREE)}"
        )


def record(kind: type, name: str, values: dict[str, Any]) -> Any:
    """A field's own dataclass from plain values; an unknown key is refused."""
    fields = [field.name for field in dataclasses.fields(kind)]
    for key in values:
        if key not in fields:
            raise ValueError(f"{name} has no field {key!r}; {nearest(key, fields)}")
    needed = [f.name for f in dataclasses.fields(kind) if f.default is dataclasses.MISSING]
    missing = [field for field in needed if field not in values]
    if missing:
        raise ValueError(f"{name} needs a value for {', '.join(missing)}")
    return kind(**values)


def whole_number(name: str, value: Any) -> None:
    """Refuse what is not a whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name}={value!r} must be a whole number of at least 1")


def nearest(name: str, known: Any) -> str:
    """Help for a name that is not known: the nearest one, or all of them."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"
