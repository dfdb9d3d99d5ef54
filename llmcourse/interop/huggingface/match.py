"""A folder's tensors held against what a model needs, before any is read.

Taught in Part 3; experts in Part 5. Names differ a little between folders (a prefix, experts that
are stacked or apart), and what then is missing, left over or of another shape is refused by name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import torch

from llmcourse.errors import CheckpointError
from llmcourse.interop.huggingface.families import Family
from llmcourse.interop.huggingface.files import FLOATS, Entry, TensorFiles, some, tensors_of
from llmcourse.interop.huggingface.weights import Rule
from llmcourse.model import ModelConfig, Transformer

HEAD, EMBEDDING = "lm_head.weight", "embedding.weight"
EXPERT = re.compile(r"layers\.(\d+)\..*\.experts\.(\d+)\.")
# DeepSeek-V3 publishes modules that predict the token after next as further layers: with this one.
PREDICTOR = re.compile(r"(?:.*\.)?layers\.(\d+)\.eh_proj\.weight")


def arrange(
    family: Family, rules: list[Rule], names: Iterable[str]
) -> tuple[list[Rule], dict[str, str]]:
    """The rules in the form in which these tensors lie, and what the rules call each name.

    A body that was saved without its head lacks the prefix; experts may be stacked or apart.
    """
    called = {}
    for name in names:
        called[name] = name
        for other, usual in family.aliases:
            called[name] = called[name].replace(other, usual)
    both = {*called.values(), *(family.prefix + name for name in called.values())}
    rules = [rule.held(both) for rule in rules]
    wanted = {piece.name for rule in rules for piece in rule.pieces} | {HEAD}
    for name, usual in called.items():
        if usual not in wanted and family.prefix + usual in wanted:
            called[name] = family.prefix + usual
    return rules, called


def matched(
    folder: Path, family: Family, config: ModelConfig, rules: list[Rule], model: Transformer
) -> tuple[list[Rule], dict[str, Entry]]:
    """The rules as this folder needs them, and its tensors, all as they should be.

    Args:
        folder: with safetensors, of which headers are read.
        family: the model's.
        config: of the model.
        rules: the family's for it.
        model: whose shapes the tensors must have; it may be on the meta device.

    Raises:
        CheckpointError: tensors are missing, unexpected, twice there, of another shape or format.
    """
    # Computed from the config, not learned: some old files hold it.
    entries = {n: e for n, e in tensors_of(folder).items() if not n.endswith(family.computed)}
    entries = _without_predictors(entries, config.n_layers)
    rules, called = arrange(family, rules, entries)
    ours = {name: tuple(p.shape) for name, p in model.named_parameters()}
    wanted = {piece.name: piece.shape(ours[rule.name]) for rule in rules for piece in rule.pieces}
    found: dict[str, Entry] = {}
    extra: list[str] = []
    for name, entry in entries.items():
        full = called[name]
        if full in found:
            raise CheckpointError(f"{folder} holds {full} twice, under two names")
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
    return rules, found


def _without_predictors(entries: dict[str, Entry], n_layers: int) -> dict[str, Entry]:
    """The tensors of the decoder alone: a model's logits need no module that looks further."""
    numbers = {match[1] for name in entries if (match := PREDICTOR.fullmatch(name))}
    beyond = [f"layers.{number}." for number in numbers if int(number) >= n_layers]
    if not beyond:
        return entries
    return {
        name: entry
        for name, entry in entries.items()
        if not name.removeprefix("model.").startswith(tuple(beyond))
    }


def _problems(
    config: ModelConfig,
    wanted: dict[str, tuple[int, ...]],
    found: dict[str, Entry],
    extra: list[str],
) -> list[str]:
    problems = _expert_problems(config, wanted, found, extra)
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
            held, asked = entry.shape, wanted[name]
            stacks = len(held) == len(asked) == 3 and held[0] != asked[0]
            hint = f" ({held[0]} experts, where the config says {asked[0]})" if stacks else ""
            problems.append(f"{name} has shape {held}, expected {asked}{hint}")
    return problems[:8] + ([f"and {len(problems) - 8} more"] if len(problems) > 8 else [])


def _expert_problems(
    config: ModelConfig,
    wanted: dict[str, tuple[int, ...]],
    found: dict[str, Entry],
    extra: list[str],
) -> list[str]:
    """Whole experts too many or too few, said once for all layers that lack or have the same."""
    if config.experts is None:
        return []
    held, asked = _experts_of([*found, *extra]), _experts_of(wanted)
    grouped: dict[str, list[int]] = {}
    for layer in sorted(held.keys() & asked.keys()):
        lacking, beyond = asked[layer] - held[layer], held[layer] - asked[layer]
        for numbers, said in ((lacking, "without"), (beyond, "with")):
            if numbers:
                which = some([str(number) for number in sorted(numbers)])
                grouped.setdefault(f"{said} expert {which}", []).append(layer)
    return [
        f"layer {some([str(layer) for layer in layers])} {said}, where the config says that there "
        f"are {config.experts.n_experts}, 0 to {config.experts.n_experts - 1}"
        for said, layers in grouped.items()
    ]


def _experts_of(names: Iterable[str]) -> dict[int, set[int]]:
    """layer -> numbers of the experts that have tensors of their own."""
    numbers: dict[int, set[int]] = {}
    for name in names:
        if match := EXPERT.search(name):
            numbers.setdefault(int(match[1]), set()).add(int(match[2]))
    return numbers


def _source(rules: list[Rule], name: str) -> str:
    return next(rule.pieces[0].name for rule in rules if rule.name == name)


def _check_tied(folder: Path, head: Entry, embedding: Entry) -> None:
    """A tied head may be stored as well, if it is what it should be."""
    same = head.shape == embedding.shape and head.dtype == embedding.dtype
    if not same or not torch.equal(TensorFiles().read(head), TensorFiles().read(embedding)):
        raise CheckpointError(
            f"the weights in {folder} do not fit: the config ties the head to the embedding, "
            f"but {HEAD} is stored and differs from {embedding.name}"
        )
