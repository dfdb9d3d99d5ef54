"""Rotary positions in published configs: `rope_parameters` (since transformers 5), and before that
`rope_theta` with `rope_scaling`.

Taught in Part 3. Both say the same. Three kinds of scaling are read: linear, llama3 and yarn. The
dynamic kinds, whose rates depend on how long the text is, are refused: with a cache they turn early
keys by other rates than late queries.

Source of YaRN's magnitudes in DeepSeek ("mscale"): Peng et al. 2023, arXiv 2309.00071, equation 22,
and DeepSeek-V2 2024, arXiv 2405.04434, section 3.1.4.
"""

from __future__ import annotations

import math
from typing import Any

from llmcourse.interop.huggingface.reader import Reader
from llmcourse.model.rotary import Rope

# What each kind may hold beside rope_type and rope_theta.
KNOWN = {
    "default": set(),
    "linear": {"factor"},
    "llama3": {"factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"},
    "yarn": {
        "factor",
        "original_max_position_embeddings",
        "attention_factor",
        "beta_fast",
        "beta_slow",
        "mscale",
        "mscale_all_dim",
        "truncate",
    },
}


def published_parameters(reader: Reader, default_base: float) -> dict[str, Any]:
    """The one dictionary of rope parameters, whichever way the config writes it.

    Raises:
        ValueError: both ways at once that disagree, or something that is not a dictionary.
    """
    new, old = reader.take("rope_parameters", None), reader.take("rope_scaling", None)
    base = reader.take("rope_theta", None)
    for name, value in (("rope_parameters", new), ("rope_scaling", old)):
        if value is not None and not isinstance(value, dict):
            raise ValueError(f"{name}={value!r} must be a dictionary")
    if new is not None and old is not None and new != old:
        raise ValueError(f"rope_parameters={new!r} contradicts rope_scaling={old!r}")
    chosen = dict(new if new is not None else old or {})
    inner = chosen.setdefault("rope_theta", base if base is not None else default_base)
    if base is not None and base != inner:
        raise ValueError(f"rope_theta={base!r} contradicts rope_parameters' {inner!r}")
    return chosen


def read_rope(parameters: dict[str, Any], context: int) -> Rope:
    """A `Rope` from a dictionary of published parameters.

    Args:
        parameters: `rope_type` (or `type`), `rope_theta` and what the type needs.
        context: the config's `max_position_embeddings`, which stands in for what is missing.

    Raises:
        ValueError: a type, a key or a value that this library does not reproduce.
    """
    left = dict(parameters)
    kind = left.pop("rope_type", left.pop("type", None)) or "default"
    left.pop("type", None)
    base = _number("rope_theta", left.pop("rope_theta"))
    if left.pop("partial_rotary_factor", 1.0) not in (1, None):
        raise ValueError(
            f"partial_rotary_factor={parameters['partial_rotary_factor']!r} is not supported: this "
            f"family turns whole heads"
        )
    if kind not in KNOWN:
        raise ValueError(f"rope_type={kind!r} is not supported; supported: {', '.join(KNOWN)}")
    unknown = sorted(left.keys() - KNOWN[kind])
    if kind == "default":
        # transformers leaves the original context of an unscaled model in place.
        unknown = [key for key in unknown if key != "original_max_position_embeddings"]
    if unknown:
        shown = ", ".join(f"{key}={left[key]!r}" for key in unknown)
        raise ValueError(f"rope_type={kind!r} has no {shown}")
    if kind == "default":
        return Rope(base=base)
    original = left.get("original_max_position_embeddings") or context
    if left.get("factor") is None and kind == "yarn":
        left["factor"] = context / original
    factor = _number("factor", left.get("factor"))
    if kind == "linear":
        return Rope(base=base, scaling="linear", factor=factor)
    if kind == "llama3":
        return Rope(
            base=base,
            scaling="llama3",
            factor=factor,
            original_context=original,
            low_frequency_factor=_number("low_freq_factor", left.get("low_freq_factor")),
            high_frequency_factor=_number("high_freq_factor", left.get("high_freq_factor")),
        )
    return Rope(
        base=base,
        scaling="yarn",
        factor=factor,
        original_context=original,
        beta_fast=_number("beta_fast", left.get("beta_fast") or 32),
        beta_slow=_number("beta_slow", left.get("beta_slow") or 1),
        attention_factor=_attention_factor(left, factor),
        truncate=left.get("truncate", True) is not False,
    )


def write_rope(rope: Rope) -> dict[str, Any]:
    """Published rope parameters of a `Rope`.

    Raises:
        ValueError: what no published config can say: partial turning, NTK-aware scaling.
    """
    if rope.fraction != 1.0:
        raise ValueError(f"no family here turns a part of the head: rope fraction={rope.fraction}")
    written: dict[str, Any] = {"rope_type": "default", "rope_theta": rope.base}
    if rope.scaling == "none":
        return written
    if rope.scaling not in ("linear", "llama3", "yarn"):
        raise ValueError(f"rope scaling={rope.scaling!r} has no published equivalent")
    written |= {"rope_type": rope.scaling, "factor": rope.factor}
    if rope.scaling == "llama3":
        written["low_freq_factor"] = rope.low_frequency_factor
        written["high_freq_factor"] = rope.high_frequency_factor
    if rope.scaling == "yarn":
        written |= {"beta_fast": rope.beta_fast, "beta_slow": rope.beta_slow}
        if not rope.truncate:
            written["truncate"] = False
        if rope.attention_factor is not None:
            written["attention_factor"] = float(rope.attention_factor)
    if rope.scaling in ("llama3", "yarn"):
        written["original_max_position_embeddings"] = rope.original_context
    return written


def magnitude(factor: float, weight: float) -> float:
    """0.1 · weight · ln(factor) + 1, and 1 for no extension."""
    return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0


def _attention_factor(parameters: dict[str, Any], factor: float) -> float | None:
    given = parameters.get("attention_factor")
    if given is not None:
        return _number("attention_factor", given)
    every, all_dims = parameters.get("mscale"), parameters.get("mscale_all_dim")
    if every and all_dims:
        return magnitude(factor, every) / magnitude(factor, all_dims)
    return None  # 0.1 ln(factor) + 1


def _number(key: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise ValueError(f"rope parameter {key}={value!r} must be a number above 0")
    return float(value)
