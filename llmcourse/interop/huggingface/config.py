"""Published configs and ours: `config_from_huggingface` and `config_to_huggingface`.

Taught in Part 3. What is written is read back and compared before it is handed out: a config that
a family cannot express in full is refused, with the field that would be lost.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from llmcourse.interop.huggingface.families import FAMILIES, Family
from llmcourse.interop.huggingface.reader import Reader
from llmcourse.model.config import ModelConfig
from llmcourse.model.rotary import Rope

# Architectures a reader may well try, and why they are not here.
REFUSED = {
    "gemma3": "it also reads images; its text part has model_type 'gemma3_text'",
    "qwen2_moe": "its shared expert has a gate of its own",
    "gpt_oss": "its experts have biases and clipped activations, its attention learned sinks",
}
# Fields that do not enter the arithmetic of evaluation.
ASIDE = ("attention", "dropout", "init_std")
# The same of `Experts`: how its router is trained, and how tokens reach experts.
ASIDE_EXPERTS = (
    "bias_rate",
    "balance_weight",
    "balance_over",
    "z_weight",
    "importance_weight",
    "dispatch",
)
HIDDEN = 3  # fields, as which a family counts that fails before any can be compared
# Which of a rope's fields its scaling uses, beside base, fraction and scaling.
ROPE_FIELDS = {
    "linear": ("factor",),
    "ntk": ("factor",),
    "llama3": ("factor", "original_context", "low_frequency_factor", "high_frequency_factor"),
    "yarn": ("factor", "original_context", "beta_fast", "beta_slow", "truncate"),
}


def config_from_huggingface(values: dict[str, Any], **overrides: Any) -> ModelConfig:
    """The `ModelConfig` of a published `config.json`.

    Args:
        values: the parsed JSON, with `model_type` and the keys of that family, in the form
            transformers 5 writes or an earlier one.
        overrides: fields of `ModelConfig` to replace, for example `attention="flash"`.

    Raises:
        ValueError: an unsupported architecture; a value this library does not reproduce; a key that
            it does not know and that may change the arithmetic. The key and value are named.
    """
    return read_config(values, **overrides)[1]


def config_to_huggingface(config: ModelConfig, family: str | None = None) -> dict[str, Any]:
    """A `config.json` that transformers computes the same with.

    Args:
        config: any config that one of the families can express.
        family: a `model_type`; None takes the first family that fits.

    Raises:
        ValueError: an unknown family, or none can express the config; the fields are named.
    """
    if family is not None and family not in FAMILIES:
        raise ValueError(f"family {family!r} is unknown; known: {', '.join(FAMILIES)}")
    fewest, closest, nearest = math.inf, [], ""
    for candidate in FAMILIES.values() if family is None else (FAMILIES[family],):
        written, problems = _write(config, candidate)
        if not problems:
            return written
        # What could not be written at all hides what else would be lost.
        lost = len(problems) if written else HIDDEN
        if lost < fewest:
            fewest, closest, nearest = lost, problems, candidate.name
    raise ValueError(
        f"no published family can express this config; the nearest, {nearest}, fails: "
        f"{'; '.join(closest)}"
        if family is None
        else f"{family} cannot express this config: {'; '.join(closest)}"
    )


def read_config(values: dict[str, Any], **overrides: Any) -> tuple[Family, ModelConfig]:
    """`config_from_huggingface`, and the family it found."""
    if not isinstance(values, dict):
        raise ValueError(f"a config is a dictionary, got {type(values).__name__}")
    name = values.get("model_type")
    if name not in FAMILIES:
        reason = f": {REFUSED[name]}" if name in REFUSED else ""
        raise ValueError(
            f"model_type={name!r} is not supported{reason}; supported: {', '.join(FAMILIES)}"
        )
    family = FAMILIES[name]
    if "dropout" in overrides:
        # Whoever chooses one dropout need not be told that the config has several.
        several = ("attention_dropout", "attn_pdrop", "resid_pdrop", "embd_pdrop")
        values = {k: 0.0 if k in several else v for k, v in values.items()}
    reader = Reader(dict(values), name)
    fields = family.read(reader)
    reader.finish()
    config = ModelConfig.from_dict(fields)
    return family, config.replace(**overrides) if overrides else config


def _write(config: ModelConfig, family: Family) -> tuple[dict[str, Any], list[str]]:
    """The family's config of ours, and what it gets wrong (nothing, if it fits)."""
    try:
        written = {"model_type": family.name, "architectures": [family.architecture]}
        written |= family.write(config)
        again = config_from_huggingface(written)
    except (ValueError, TypeError, OverflowError) as error:
        return {}, [str(error)]
    ours, theirs = _meaning(config), _meaning(again)
    return written, [
        f"{key}={ours.get(key)!r} would become {theirs.get(key)!r}"
        for key in sorted(ours.keys() | theirs.keys())
        if not _equal(ours.get(key), theirs.get(key))
    ]


def _meaning(config: ModelConfig) -> dict[str, Any]:
    """A config reduced to what the model computes, so that two ways of saying it compare equal."""
    meaning = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
    apart = ("window", "global_every", "rope", "rope_local", "attention_scale", "experts")
    for name in (*ASIDE, *apart):
        del meaning[name]
    meaning |= _experts_meaning(config)
    if config.n_sparse_layers == config.n_layers and not config.experts.dense_branch:
        del meaning["d_ff"]  # no layer has a dense network
    meaning["score_scale"] = config.score_scale
    meaning["windows"] = config.windows
    if set(config.windows) == {None}:
        del meaning["sinks"]
    scaled = config.scale_embeddings
    meaning["scale_embeddings"] = config.positions == "sinusoidal" if scaled is None else scaled
    if config.positions == "rope":
        ropes = {None: config.rope}
        for window in config.windows:
            local = config.rope_local if window is not None else None
            ropes[window] = config.rope if local is None else local
        meaning["rope"] = {
            "full" if window is None else "windowed": _rope_meaning(rope)
            for window, rope in ropes.items()
            if window in config.windows
        }
    return meaning


def _experts_meaning(config: ModelConfig) -> dict[str, Any]:
    experts = config.experts
    if experts is None:
        return {"experts": None}
    meaning = {f.name: getattr(experts, f.name) for f in dataclasses.fields(experts)}
    for name in ASIDE_EXPERTS:
        del meaning[name]
    meaning |= {"layers": config.sparse_layers, "d_ff": config.expert_width}
    if experts.n_active_groups == experts.n_groups:  # no group is left out
        for name in ("n_groups", "n_active_groups", "group_score"):
            meaning.pop(name, None)
    return {f"experts {name}": value for name, value in meaning.items()}


def _rope_meaning(rope: Rope) -> dict[str, Any]:
    names = ("base", "fraction", "scaling", "magnitude", *ROPE_FIELDS.get(rope.scaling, ()))
    return {name: getattr(rope, name) for name in names}


def _equal(a: Any, b: Any) -> bool:
    """Equality up to the rounding of a number that was written as another one's square."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_equal(a[key], b[key]) for key in a)
    if isinstance(a, float) and isinstance(b, float):
        return math.isclose(a, b, rel_tol=1e-12)
    return a == b
