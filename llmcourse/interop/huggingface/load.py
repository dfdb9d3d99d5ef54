"""`load_huggingface`: a published model from a local folder, tensor by tensor.

Taught in Part 3. First everything is checked from the headers alone; then an empty model is made
and filled, one published tensor at a time. So a folder that does not fit costs nothing, nobody sees
a model that is half loaded, and the peak of memory is the model itself and one tensor.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from llmcourse.errors import CheckpointError
from llmcourse.interop.huggingface.config import read_config
from llmcourse.interop.huggingface.families import Family
from llmcourse.interop.huggingface.files import FLOATS, Entry, read_json, some, tensors_of
from llmcourse.interop.huggingface.weights import Rule
from llmcourse.model import ModelConfig, Transformer

HEAD, EMBEDDING = "lm_head.weight", "embedding.weight"


def load_huggingface(
    path: str | os.PathLike[str],
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    **overrides: Any,
) -> Transformer:
    """The model of a folder with `config.json` and safetensors weights, in evaluation mode.

    Args:
        path: a local folder, as `save_pretrained` of transformers or `save_huggingface` writes it.
        dtype: of the parameters: float64, float32, bfloat16 or float16. The file's own dtype may be
            another one.
        device: where the model is made.
        overrides: fields of `ModelConfig` to replace, for example `attention="flash"`.

    Raises:
        CheckpointError: a missing, damaged or truncated file; an architecture or a config value
            that is not supported; missing or extra tensors, a wrong shape, weights that are not
            floating-point numbers.
        ValueError: an override that is no field or an impossible value; a dtype that is no float.
    """
    if not isinstance(dtype, torch.dtype) or dtype not in FLOATS.values():
        raise ValueError(f"dtype={dtype} must be float64, float32, bfloat16 or float16")
    folder = Path(path)
    if not folder.is_dir():
        raise CheckpointError(f"no folder at {folder}: expected one that holds config.json")
    values = read_json(folder / "config.json")
    # The one override that decides whether a config can be read; the others come after it.
    first = {"dropout": overrides["dropout"]} if "dropout" in overrides else {}
    try:
        family, config = read_config(values, **first)
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{folder / 'config.json'}: {error}") from error
    if overrides:
        config = config.replace(**overrides)
    rules = family.rules(config, values)
    with torch.device("meta"):
        model = Transformer(config)  # shapes only: the numbers come from the files
    entries = _matched(folder, family, config, rules, model)
    _allocate(model, dtype, torch.device(device))
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for rule in rules:
            rule.fill(parameters[rule.name], lambda name: entries[name].read())
    return model.eval()


def _matched(
    folder: Path, family: Family, config: ModelConfig, rules: list[Rule], model: Transformer
) -> dict[str, Entry]:
    """The folder's tensors by the names the rules use, all of them as they should be."""
    ours = {name: tuple(p.shape) for name, p in model.named_parameters()}
    wanted = {piece.name: piece.shape(ours[rule.name]) for rule in rules for piece in rule.pieces}
    found: dict[str, Entry] = {}
    extra: list[str] = []
    for name, entry in tensors_of(folder).items():
        if name.endswith(family.computed):
            continue  # computed from the config, not learned: some old files hold it
        # A body that was saved without its head lacks the prefix.
        full = name if name in wanted or name == HEAD else family.prefix + name
        if full in found:
            raise CheckpointError(f"{folder} holds {full} twice, with and without its prefix")
        if full in wanted or full == HEAD:
            found[full] = entry
        else:
            extra.append(name)
    tied = found.pop(HEAD, None) if HEAD not in wanted else None
    problems = _problems(config, wanted, found, extra)
    if problems:
        raise CheckpointError(f"the weights in {folder} do not fit: {'; '.join(problems)}")
    if tied is not None:
        _check_tied(folder, tied, found[_source(rules, EMBEDDING)])
    return found


def _problems(
    config: ModelConfig,
    wanted: dict[str, tuple[int, ...]],
    found: dict[str, Entry],
    extra: list[str],
) -> list[str]:
    problems = []
    missing = sorted(wanted.keys() - found.keys())
    if missing:
        hint = " (is the embedding tied? the config says it is not)" if HEAD in missing else ""
        problems.append(f"missing {some(missing)}{hint}")
    if extra:
        bias = any(name.endswith(".bias") for name in extra) and not config.attention_bias
        hint = " (the config says there are no such biases)" if bias else ""
        problems.append(f"unexpected {some(sorted(extra))}{hint}")
    for name in sorted(wanted.keys() & found.keys()):
        entry = found[name]
        if entry.dtype not in FLOATS:
            problems.append(
                f"{name} is stored as {entry.dtype}; only {', '.join(FLOATS)} are read, "
                f"quantised weights are not"
            )
        elif entry.shape != wanted[name]:
            problems.append(f"{name} has shape {entry.shape}, expected {wanted[name]}")
    return problems[:8] + ([f"and {len(problems) - 8} more"] if len(problems) > 8 else [])


def _source(rules: list[Rule], name: str) -> str:
    return next(rule.pieces[0].name for rule in rules if rule.name == name)


def _check_tied(folder: Path, head: Entry, embedding: Entry) -> None:
    """A tied head may be stored as well, if it is what it should be."""
    same = head.shape == embedding.shape and head.dtype == embedding.dtype
    if not same or not torch.equal(head.read(), embedding.read()):
        raise CheckpointError(
            f"the weights in {folder} do not fit: the config ties the head to the embedding, "
            f"but {HEAD} is stored and differs from {embedding.name}"
        )


def _allocate(model: Transformer, dtype: torch.dtype, device: torch.device) -> None:
    """Give every parameter of a model on the meta device memory of its own, not yet filled."""
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                memory = torch.empty(parameter.shape, dtype=dtype, device=device)
                module._parameters[name] = nn.Parameter(memory)
