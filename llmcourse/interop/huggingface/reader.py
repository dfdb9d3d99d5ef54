"""Reading a published `config.json` so that nothing in it is overlooked.

Taught in Part 3. A config of another program is a contract: a key that is not understood may change
the arithmetic, and a model that ignores it is a different model with the right weights. So every
key is taken, expected to have one value, or known to say nothing about the arithmetic; what is left
over at the end is refused.
"""

from __future__ import annotations

from typing import Any

REQUIRED = object()

# Keys that say nothing about what the model computes from ids to logits in evaluation.
_SILENT = """
    _attn_implementation _attn_implementation_autoset _commit_hash _name_or_path architectures
    attn_implementation auto_map bad_words_ids begin_suppress_tokens bos_token_id
    cache_implementation chunk_size_feed_forward cross_attention_hidden_size
    decoder_start_token_id diversity_penalty do_sample dtype early_stopping
    encoder_no_repeat_ngram_size eos_token_id exponential_decay_length_penalty finetuning_task
    forced_bos_token_id forced_eos_token_id gradient_checkpointing id2label initializer_range
    keys_to_ignore_at_inference label2id length_penalty max_length min_length model_type
    no_repeat_ngram_size num_beam_groups num_beams num_labels num_return_sequences
    output_attentions output_hidden_states output_scores pad_token_id prefix pretraining_tp
    problem_type remove_invalid_values repetition_penalty return_dict return_dict_in_generate
    sep_token_id suppress_tokens task_specific_params temperature tf_legacy_loss tokenizer_class
    top_k top_p torch_dtype torchscript transformers_version typical_p unsloth_fixed
    unsloth_version use_bfloat16 use_cache
"""
SILENT = frozenset(_SILENT.split())
# Keys of every config that change the arithmetic unless they have the value here.
INERT = {
    "add_cross_attention": False,
    "is_decoder": None,
    "is_encoder_decoder": False,
    "pruned_heads": None,
    "tie_encoder_decoder": False,
}


class Reader:
    """A config whose keys are ticked off one by one.

    Raises:
        ValueError: (from every method) a value this library does not reproduce; the key, the value
            and what would be possible are named.
    """

    def __init__(self, values: dict[str, Any], family: str) -> None:
        self.values, self.family = values, family
        self.seen: set[str] = set()

    def take(self, key: str, default: Any = REQUIRED) -> Any:
        """The value of a key; a missing one has the family's default, if it has one."""
        self.seen.add(key)
        if key in self.values:
            return self.values[key]
        if default is REQUIRED:
            raise ValueError(f"the {self.family} config has no {key!r}, which it needs")
        return default

    def whole(self, key: str, default: Any = REQUIRED) -> Any:
        """A whole number of at least 1, or the default None."""
        value = self.take(key, default)
        if value is None and default is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{key}={value!r} must be a whole number of at least 1")
        return value

    def number(self, key: str, default: Any = REQUIRED) -> Any:
        """A number above 0, or the default None."""
        value = self.take(key, default)
        if value is None and default is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
            raise ValueError(f"{key}={value!r} must be a number above 0")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        """True or False; null is the default."""
        value = self.take(key, default)
        value = default if value is None else value
        if not isinstance(value, bool):
            raise ValueError(f"{key}={value!r} must be true or false")
        return value

    def expect(self, key: str, *allowed: Any, why: str) -> None:
        """A key that may be missing, but whose only values known here are `allowed`."""
        value = self.take(key, allowed[0])
        if not any(type(value) is type(a) and value == a for a in allowed):
            shown = " or ".join(repr(a) for a in allowed)
            raise ValueError(f"{key}={value!r} is not supported: {why}; only {shown} is")

    def ignore(self, *keys: str) -> None:
        """Keys that say nothing here, for a reason given where this is called."""
        self.seen.update(keys)

    def finish(self) -> None:
        """Refuse every key that nobody asked for.

        Raises:
            ValueError: such a key, with its value.
        """
        if self.values.get("quantization_config") is not None:
            method = self.values["quantization_config"]
            method = method.get("quant_method", method) if isinstance(method, dict) else method
            raise ValueError(
                f"quantization_config={method!r}: quantised weights are not supported; "
                f"take the checkpoint in bfloat16, float16 or float32"
            )
        self.ignore("quantization_config")
        for key, inert in INERT.items():
            if self.values.get(key) not in (inert, None, {}, False):
                raise ValueError(f"{key}={self.values[key]!r} is not supported by {self.family}")
        left = sorted(self.values.keys() - self.seen - SILENT - INERT.keys())
        if left:
            shown = ", ".join(f"{key}={self.values[key]!r}" for key in left)
            raise ValueError(
                f"the {self.family} config has keys that this library does not know and that may "
                f"change what the model computes: {shown}; remove them if they do not"
            )


ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "relu2": "relu2",
}


def activation(reader: Reader, key: str, default: str) -> str:
    """Our name of an activation function.

    Raises:
        ValueError: one that this library does not have.
    """
    name = reader.take(key, default)
    if name not in ACTIVATIONS:
        raise ValueError(f"{key}={name!r} is unknown; known: {', '.join(sorted(ACTIVATIONS))}")
    return ACTIVATIONS[name]


def published_activation(name: str) -> str:
    """The published name of one of our activation functions."""
    return {"gelu_tanh": "gelu_pytorch_tanh"}.get(name, name)


def dropout(reader: Reader, *keys: str, default: float = 0.0) -> float:
    """One dropout for all keys, as this library has one.

    Raises:
        ValueError: the keys differ.
    """
    values = {key: float(reader.take(key, default) or 0.0) for key in keys}
    if len(set(values.values())) > 1:
        shown = ", ".join(f"{key}={value}" for key, value in values.items())
        raise ValueError(
            f"different dropouts are not supported: {shown}; in evaluation none is active, so for "
            f"inference pass dropout=0.0 as an override"
        )
    return next(iter(values.values()))


def layer_windows(
    kinds: list[str] | None, window: int | None, every: int | None, n_layers: int
) -> tuple[int | None, int | None]:
    """(window, global_every) from a published list of layer types.

    Args:
        kinds: "full_attention" or "sliding_attention" per layer; None for the family's rule.
        window: tokens the sliding layers see.
        every: the family's rule: every so many layers one is full; None means all slide.
        n_layers: how many layers there are.

    Raises:
        ValueError: an unknown kind, a list of another length, sliding layers without a window, or
            full layers that do not stand at regular distances ending each group.
    """
    if kinds is None:
        return (window, every) if window is not None else (None, None)
    unknown = sorted(set(kinds) - {"full_attention", "sliding_attention"})
    if unknown or len(kinds) != n_layers:
        raise ValueError(
            f"layer_types must hold 'full_attention' or 'sliding_attention' for each of "
            f"{n_layers} layers, got {kinds!r}"
        )
    full = [i for i, kind in enumerate(kinds) if kind == "full_attention"]
    if len(full) == n_layers:
        return None, None
    if window is None:
        raise ValueError("layer_types has sliding layers, but sliding_window is null")
    if not full:
        return window, None
    every = full[0] + 1
    if full != list(range(every - 1, n_layers, every)):
        raise ValueError(
            f"layer_types={kinds!r} is not a regular pattern: only a full layer after every so "
            f"many sliding ones is supported"
        )
    return window, every


def layer_types(windows: tuple[int | None, ...]) -> list[str]:
    """The published list of layer types from our window per layer."""
    return ["full_attention" if w is None else "sliding_attention" for w in windows]
