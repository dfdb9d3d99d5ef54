"""What Part 5's evidence compares: the settings, the arms and the sections they stand in.

An arm is a model that is trained with every seed. Sections share arms: the mixture of `sizes` is
the yardstick of most of them, and is trained once.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from llmcourse.evidence import part05_world as world
from llmcourse.evidence.part05_runs import Setting
from llmcourse.model import ModelConfig
from llmcourse.model.summary import summary

SEEDS = (0, 1, 2)
CURES: dict[str, dict[str, Any]] = {
    "load-balancing loss": {"balance_weight": 0.03},
    "selection bias": {"selection_bias": True, "bias_rate": 0.003},
    "noisy top-k": {"noise": True, "importance_weight": 0.03, "balance_weight": 0.03},
}
# Even by construction, and no cure for a language model: it looks ahead, as its runs show.
EXPERT_CHOICE: dict[str, Any] = {"choice": "expert"}
UNBALANCED, BALANCED = "no balancing", "load-balancing loss"
WEIGHT = CURES[BALANCED]  # every mixture outside `balance` has this cure
DENSE = "dense, equal active"

# Rates were picked in pilot runs, for dense and sparse models together; `rates` tries others. The
# village's runs are long, since there it shows late what experts are worth.
SETTINGS = {
    "village": Setting(
        world=world.VILLAGE,
        steps=1200,
        training={
            "learning_rate": 1e-2,
            "min_learning_rate": 3e-4,
            "warmup_steps": 60,
            "weight_decay": 0.02,
            "beta2": 0.95,
        },
        width=32,
        model={"d_model": 32},
        experts={"n_experts": 16, "n_active": 2, "d_ff": 16, "balance_weight": 0.0},
    ),
    "texts": Setting(
        world=world.TEXTS,
        steps=450,
        training={
            "learning_rate": 6e-3,
            "min_learning_rate": 2e-4,
            "warmup_steps": 30,
            "weight_decay": 0.02,
            "beta2": 0.95,
        },
        width=64,
        model={"d_model": 64},
        experts={"n_experts": 16, "n_active": 2, "d_ff": 32, "balance_weight": 0.0},
    ),
}


RATES = {0.6: 1, 1.0: 3, 1.6: 3, 2.5: 1}  # times the setting's learning rate -> seeds


class Arm(NamedTuple):
    """A model that is trained with every seed."""

    setting: str
    experts: dict[str, Any] | None = None  # what differs in the experts; None: a dense model
    model: dict[str, Any] | None = None  # what differs in the model
    seeds: int = len(SEEDS)
    rate: float = 1.0  # times the setting's learning rate


def _mixture(model: dict[str, Any] | None = None, **experts: Any) -> Arm:
    return Arm("texts", WEIGHT | experts, model)


# Section -> its arms; the first of each is what the others are compared with.
SECTIONS: dict[str, dict[str, Arm]] = {
    "balance": {
        UNBALANCED: Arm("village", {}),
        **{name: Arm("village", cure) for name, cure in CURES.items()},
        "expert choice": Arm("village", EXPERT_CHOICE),
        DENSE: Arm("village"),
    },
    "sizes": {
        DENSE: Arm("texts"),
        "mixture": _mixture(),
        "dense, equal total": Arm("texts", None, {"d_ff": 16 * 32}),
    },
    "capacity": {
        "no limit": _mixture(),
        **{f"capacity {c}": _mixture(capacity=c)._replace(seeds=2) for c in (0.5, 1.0, 1.25, 2.0)},
        "capacity 1.0, no balancing": Arm("texts", {"capacity": 1.0}, None, 2),
    },
    "grain": {
        "16 choose 2": _mixture(),
        "32 choose 4, half as wide": _mixture(n_experts=32, n_active=4, d_ff=16),
        # One expert's weight, made to sum to 1, would always be 1 and teach the router nothing.
        "15 choose 1, 1 shared": _mixture(n_experts=15, n_active=1, n_shared=1, renormalise=False),
        "30 choose 2, 2 shared, half as wide": _mixture(
            n_experts=30, n_active=2, n_shared=2, d_ff=16
        ),
    },
    "stacks": {
        "all layers sparse": _mixture(),
        "first layer dense": _mixture(layers=(1, 2)),
        "every second layer": _mixture(layers=(1,)),
        "dense branch": _mixture({"d_ff": 32}, d_ff=16, dense_branch=True),
    },
    "z_loss": {
        "without": _mixture(),
        "z-loss 0.001": _mixture(z_weight=1e-3)._replace(seeds=2),
        "z-loss 0.01": _mixture(z_weight=1e-2)._replace(seeds=2),
    },
    "rates": {
        f"{name}, rate x {rate}": arm._replace(seeds=seeds, rate=rate)
        for name, arm in (("dense", Arm("texts")), ("mixture", _mixture()))
        for rate, seeds in RATES.items()
    },
}


def distinct_arms() -> dict[str, Arm]:
    """Every arm once: sections share their yardstick. By name of the first section that has it."""
    found: dict[str, Arm] = {}
    for section, arms in SECTIONS.items():
        for name, arm in arms.items():
            if not any(same(arm, other) for other in found.values()):
                found[f"{section}, {name}"] = arm
    return found


def same(one: Arm, other: Arm) -> bool:
    """Whether two arms are trained alike, be it with other numbers of seeds."""
    return one._replace(seeds=0) == other._replace(seeds=0)


def name_of(arm: Arm) -> str:
    """The name under which an arm's runs are kept, whichever section they were made for."""
    return next(name for name, other in distinct_arms().items() if same(arm, other))


def config_of(arm: Arm) -> ModelConfig:
    """The model of an arm."""
    return SETTINGS[arm.setting].config_of(arm.experts, arm.model)


def facts(arm: Arm) -> dict[str, Any]:
    """What an arm's model costs."""
    counted = summary(config_of(arm))
    return {
        "parameters": counted.total_parameters,
        "active_parameters": counted.active_parameters,
        "training_flops_per_token": counted.training_flops_per_token,
    }
