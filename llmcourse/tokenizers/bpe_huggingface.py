"""Hugging Face's `tokenizer.json`: written, and read where the ids are sure to be ours. Part 4.

The format describes a whole pipeline (normaliser, cuts, model, what is put around the text). A
byte-level BPE is one of many it can hold, and what else a file asks for is refused by name rather
than left out in silence. Source: the documentation of the package `tokenizers`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from llmcourse.files import atomic_write
from llmcourse.tokenizers.bpe_files import Pair, Path_, naming, pair_of, read_json, spell, tokens_of
from llmcourse.tokenizers.pretokenize import GPT2_PATTERN


def write(
    path: Path_,
    tokens: Sequence[bytes],
    merges: Sequence[tuple[int, int]],
    special_tokens: Sequence[str],
    pattern: str,
) -> None:
    """A `tokenizer.json` that `tokenizers` reads, with the same ids."""
    vocabulary = {spell(token): id for id, token in enumerate(tokens)}
    for name in special_tokens:
        if name in vocabulary:
            raise ValueError(
                f"the special token {name!r} is spelled like an ordinary token, and tokenizer.json"
                " would mix them up; give it another name"
            )
    spelled = [spell(token) for token in tokens]
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    cut = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    data = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": id, "content": name, **flags, "special": True}
            for id, name in enumerate(special_tokens, start=len(tokens))
        ],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [cut, {**level, "use_regex": False}],
        },
        "post_processor": None,
        "decoder": {**level, "use_regex": False},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            # A piece that is a token is that token, as with us and tiktoken.
            "ignore_merges": True,
            "vocab": vocabulary,
            "merges": [[spelled[left], spelled[right]] for left, right in merges],
        },
    }
    atomic_write(path, json.dumps(data, ensure_ascii=False, indent=1) + "\n")


@dataclass(frozen=True)
class Found:
    """What a `tokenizer.json` says."""

    tokens: tuple[bytes, ...]  # in order of id
    special_tokens: tuple[str, ...]  # their ids follow
    pattern: str  # the regular expression that cuts the text
    pairs: list[Pair]  # the merges in order
    whole_pieces: bool  # a piece that is a token is that token, whatever the merges say


def read(path: Path_) -> Found:
    """Reads a `tokenizer.json`.

    Raises:
        ValueError: damaged, or it asks for something whose ids could differ from ours.
    """
    data = read_json(path)
    model = data.get("model")
    if not isinstance(model, dict) or model.get("type", "BPE") != "BPE":
        kind = model.get("type") if isinstance(model, dict) else None
        raise ValueError(f"model.type must be 'BPE', got {kind!r}")
    fields = ("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix")
    for field in (*fields, "fuse_unk", "byte_fallback"):
        if model.get(field):
            raise ValueError(f"model.{field} is {model[field]!r}; only byte-level BPE without it")
    if data.get("normalizer") is not None:
        raise ValueError(f"normalizer is {data['normalizer']!r}; here text is left as it is")
    vocabulary, listed = model.get("vocab"), model.get("merges")
    if not isinstance(vocabulary, dict) or not isinstance(listed, list):
        raise ValueError("model.vocab must be an object and model.merges a list")
    pairs = []
    for place, entry in enumerate(listed):
        with naming(f"model.merges[{place}]"):
            pairs.append(pair_of(entry.split(" ") if isinstance(entry, str) else entry))
    vocabulary = dict(vocabulary)
    added = data.get("added_tokens") or []
    for token in added:
        if not isinstance(token, dict) or not isinstance(token.get("content"), str):
            raise ValueError(f"added_tokens holds {token!r}; each needs 'content' and 'id'")
        name = token["content"]
        if vocabulary.setdefault(name, token.get("id")) != token.get("id"):
            raise ValueError(f"special token {name!r} has two ids")
        for field in ("single_word", "lstrip", "rstrip"):
            if token.get(field):
                raise ValueError(f"special token {name!r} asks for {field}, which is not built")
    whole = bool(model.get("ignore_merges"))
    names = [token["content"] for token in added]
    tokens, special = tokens_of(vocabulary, pairs, names, whole)
    return Found(tokens, special, _pattern_of(data.get("pre_tokenizer")), pairs, whole)


def _pattern_of(pre_tokenizer: object) -> str:
    steps = pre_tokenizer if isinstance(pre_tokenizer, dict) else {}
    listed = steps.get("pretokenizers") if steps.get("type") == "Sequence" else [steps]
    kinds = [step.get("type") for step in listed] if isinstance(listed, list) else []
    if kinds in (["ByteLevel"], ["Split", "ByteLevel"]) and not listed[-1].get(
        "add_prefix_space", True
    ):
        own_cut = listed[-1].get("use_regex", True)
        if len(listed) == 1 and own_cut:
            return GPT2_PATTERN
        pattern = listed[0].get("pattern")
        wanted = listed[0].get("behavior") == "Isolated" and not listed[0].get("invert")
        expression = pattern.get("Regex") if isinstance(pattern, dict) else None
        if len(listed) == 2 and not own_cut and wanted and isinstance(expression, str):
            return expression
    raise ValueError(
        "pre_tokenizer must be ByteLevel without add_prefix_space, alone (GPT-2's cuts) or after"
        f" one Split by a Regex into isolated pieces; got {pre_tokenizer!r}"
    )
