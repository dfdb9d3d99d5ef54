"""What the families with experts share: how many there are and who is chosen, and their tensors.

Taught in Part 5. Published folders hold one tensor per expert and projection; transformers can also
write all experts of a layer as one stack, with the gate's rows above the up projection's, which is
how they lie here. Both are read, and one tensor per expert is written.

The published weight of the load-balancing loss is of transformers' loss, which is K times the one
here (router_losses.py); so `balance_weight` is K times the published number. transformers adds its
loss only where `output_router_logits` says so; here training always does.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from llmcourse.interop.huggingface.families.base import feed_forward_rules
from llmcourse.interop.huggingface.reader import Reader
from llmcourse.interop.huggingface.weights import Piece, Rule, one
from llmcourse.model.config import ModelConfig
from llmcourse.model.experts_config import Experts

# The published names of an expert's gate, up and down projections.
USUAL = ("gate_proj", "up_proj", "down_proj")


def read_count(reader: Reader, *names: str, default: int) -> int:
    """A whole number that configs write under one of several names.

    Raises:
        ValueError: two of them are there and differ.
    """
    given = {name: reader.whole(name) for name in names if name in reader.values}
    if len(set(given.values())) > 1:
        shown = " contradicts ".join(f"{name}={value}" for name, value in given.items())
        raise ValueError(f"{shown}: they are two names of one number")
    return next(iter(given.values()), default)


def read_weight(reader: Reader, key: str, default: float) -> float:
    """The weight of a loss: a number of at least 0.

    Raises:
        ValueError: it is not.
    """
    value = reader.take(key, default)
    good = isinstance(value, int | float) and not isinstance(value, bool)
    if not good or not 0 <= value < math.inf:
        raise ValueError(f"{key}={value!r} must be a number of at least 0")
    return float(value)


def read_balance(reader: Reader, n_active: int, default: float) -> dict[str, Any]:
    """The load-balancing loss as transformers trains with it: over all layers together."""
    reader.flag("output_router_logits", False)
    weight = read_weight(reader, "router_aux_loss_coef", default)
    return {"balance_weight": n_active * weight, "balance_over": "model"}


def write_balance(experts: Experts) -> dict[str, Any]:
    """The inverse of `read_balance`; for `balance_over` there is no published key."""
    return {
        "router_aux_loss_coef": experts.balance_weight / experts.n_active,
        "output_router_logits": False,
    }


def experts_of(config: ModelConfig) -> Experts:
    """The config's experts.

    Raises:
        ValueError: it has none, and the family needs them.
    """
    if config.experts is None:
        raise ValueError("it has no experts")
    return config.experts


def sparse_or_none(layers: list[int], n_layers: int) -> tuple[int, ...] | None:
    """`Experts.layers` of a list of sparse layers: None where it holds all of them."""
    return None if len(layers) == n_layers else tuple(layers)


def network_rules(block: str = "mlp", names: tuple[str, str, str] = USUAL) -> Callable:
    """Rules of a layer's feed-forward network, sparse or dense.

    Args:
        block: what the sparse network is called in its layer.
        names: its gate, up and down projections.
    """

    def rules(config: ModelConfig, i: int) -> list[Rule]:
        if config.is_sparse(i):
            return _expert_rules(config, i, block, names)
        return feed_forward_rules(config, i)

    return rules


def _expert_rules(
    config: ModelConfig, i: int, block: str, names: tuple[str, str, str]
) -> list[Rule]:
    experts, c = experts_of(config), config.d_model
    ours, theirs = f"blocks.{i}.feed_forward.", f"model.layers.{i}.{block}."
    e, f = experts.n_experts, config.expert_width
    gate, up, down = names

    def stack(name: str, whole: str, parts: tuple[str, ...], rows: int) -> Rule:
        pieces = tuple(
            Piece(f"{theirs}experts.{j}.{part}.weight", rows) for j in range(e) for part in parts
        )
        return Rule(f"{ours}experts.{name}", pieces, e, f"{theirs}experts.{whole}")

    rules = [
        one(f"{ours}router.weight", f"{theirs}gate.weight", e),
        stack("up", "gate_up_proj", (gate, up), f),
        stack("down", "down_proj", (down,), c),
    ]
    if experts.selection_bias:
        bias = f"{theirs}gate.e_score_correction_bias"
        rules.append(one(f"{ours}router.selection_bias", bias, e))
    if experts.n_shared:
        shared, rows = f"{theirs}shared_experts.", experts.n_shared * f
        pieces = tuple(Piece(f"{shared}{name}.weight", rows) for name in (gate, up))
        rules.append(Rule(f"{ours}shared.gate_up.weight", pieces))
        rules.append(one(f"{ours}shared.down.weight", f"{shared}{down}.weight", c))
    return rules
