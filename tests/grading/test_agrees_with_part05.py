"""Part 5's oracles and the library were written apart; where they mean the same they must say it.

5.10 and 5.12 meet whole layers of the library; 5.9, which has no twin there, judges the library's
own routers.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from llmcourse.grading.records import find
from llmcourse.grading.values import difference
from llmcourse.model import ModelConfig
from llmcourse.model.expert_dispatch import dispatch_grouped, dispatch_loop
from llmcourse.model.experts_config import Experts
from llmcourse.model.feed_forward import GatedFeedForward
from llmcourse.model.moe import MixtureOfExperts
from llmcourse.model.router import (
    Router,
    choose_by_experts,
    choose_top_k,
    scores_of,
    weigh,
    within_capacity,
)
from llmcourse.model.router_losses import bias_step, load_balancing_loss, router_z_loss
from llmcourse.model.routing import Routing
from llmcourse.model.summary import summary


def table(experts, values, n_experts):
    """(N, K) experts and values -> (N, E), zero elsewhere."""
    empty = torch.zeros(len(experts), n_experts, dtype=values.dtype)
    return empty.scatter(1, experts, values)


def gate(logits, k):
    scores = scores_of(logits, "softmax")
    experts = choose_top_k(scores, k)
    return table(experts, weigh(scores, experts), logits.shape[1])


def expert_choice(logits, room):
    scores = scores_of(logits, "softmax")
    tokens, experts = choose_by_experts(scores, room)
    return torch.zeros_like(scores).index_put((tokens, experts), scores[tokens, experts])


def balance_loss(logits, chosen):
    logits = logits.requires_grad_()
    load = torch.bincount(chosen.flatten(), minlength=logits.shape[1])
    loss = load_balancing_loss(scores_of(logits, "softmax"), load)
    loss.backward()
    return loss.detach(), logits.grad


def places(experts, n_experts, factor):
    config = Experts(n_experts, n_active=experts.shape[1], capacity=factor)
    return within_capacity(experts, n_experts, config.expert_capacity(len(experts)))


def biased_gate(logits, bias, k, rate):
    scores = scores_of(logits, "sigmoid")
    experts = choose_top_k(scores, k, bias=bias)
    load = torch.bincount(experts.flatten(), minlength=len(bias))
    return table(experts, weigh(scores, experts), len(bias)), bias_step(bias, load, rate)


def choose_in_groups(scores, n_groups, n_active, k):
    experts = choose_top_k(scores, k, n_groups=n_groups, n_active_groups=n_active)
    return table(experts, torch.ones_like(experts, dtype=torch.bool), scores.shape[1])


def routing(x, experts, weights, n_experts):
    n, k = experts.shape
    nothing = torch.zeros(n, n_experts, dtype=x.dtype)
    return Routing(
        logits=nothing,
        scores=nothing,
        tokens=torch.arange(n).repeat_interleave(k),
        experts=experts.flatten(),
        weights=weights.flatten(),
        dropped_tokens=torch.zeros(0, dtype=torch.int64),
        dropped_experts=torch.zeros(0, dtype=torch.int64),
        batch=(1, n),
        layer=nn.Identity(),
    )


class Bank:
    """An exercise's experts as the library calls them: one by one, or all on sorted rows."""

    def __init__(self, run):
        self.one = run

    def __call__(self, rows, counts):
        parts = rows.split(counts.tolist())
        return torch.cat([self.one(e, part) for e, part in enumerate(parts)])


def by_loop(x, experts, weights, n_experts, run):
    return dispatch_loop(x, routing(x, experts, weights, n_experts), Bank(run))


def grouped(x, experts, weights, n_experts, run):
    return dispatch_grouped(x, routing(x, experts, weights, n_experts), Bank(run))


def config_of(d_model, d_ff, experts=None, **others):
    return ModelConfig(
        vocab_size=5,
        context_length=16,
        n_heads=1,
        d_model=d_model,
        d_ff=d_ff,
        feed_forward="gated",
        activation="silu",
        feed_forward_bias=False,
        experts=experts,
        **({"n_layers": 1} | others),
    )


@torch.no_grad()
def filled(layer, weights):
    """The layer in float64 with these parameters, all of them."""
    layer = layer.double()
    names = dict(layer.named_parameters())
    assert names.keys() == weights.keys()
    for name, weight in weights.items():
        assert names[name].shape == weight.shape
        names[name].copy_(weight)
    return layer


def moe_layer(x, router, up, down, shared_up, shared_down, k, scale):
    (e, c), width = router.shape, down.shape[2]
    experts = Experts(e, k, d_ff=width, n_shared=1, scale=scale)
    if shared_down.shape[1] % width == 0:
        experts = experts.replace(n_shared=shared_down.shape[1] // width)
        shared = None
    else:  # the library's shared expert is a multiple of the others' width
        shared = filled(
            GatedFeedForward(config_of(c, shared_down.shape[1]), out_std=0.02),
            {"gate_up.weight": shared_up, "down.weight": shared_down},
        )
        experts = experts.replace(n_shared=0)
    layer = MixtureOfExperts(config_of(c, width, experts), out_std=0.02)
    weights = {"router.weight": router, "experts.up": up, "experts.down": down}
    if shared is None:
        weights |= {"shared.gate_up.weight": shared_up, "shared.down.weight": shared_down}
    with torch.no_grad():
        return filled(layer, weights)(x) + (0 if shared is None else shared(x))


PLACES = ("feed-forward", "experts", "routers")  # of a summary, what 5.3 counts


def counted(config):
    report = summary(config)
    total = sum(report.parameters[place] for place in PLACES)
    return total, total - report.resting, sum(report.flops[place] for place in PLACES)


def count_parameters(n_layers, n_dense, d_model, d_ff, d_expert, n_experts, k, n_shared):
    sparse = tuple(range(n_dense, n_layers))
    experts = Experts(n_experts, k, d_ff=d_expert, n_shared=n_shared, layers=sparse)
    return counted(config_of(d_model, d_ff, experts, n_layers=n_layers))


LIBRARY = {
    "5.1": [gate],
    "5.2": [lambda logits, real: router_z_loss(logits[real])],
    "5.3": [count_parameters],
    "5.4": [expert_choice],
    "5.5": [balance_loss],
    "5.6": [places],
    "5.7": [biased_gate],
    "5.8": [choose_in_groups],
    "5.11": [by_loop, grouped],
    "5.12": [moe_layer],
}
PAIRS = [(name, function) for name, functions in LIBRARY.items() for function in functions]


@pytest.mark.parametrize(("exercise_id", "function"), PAIRS)
def test_oracle_and_library_agree(exercise_id, function, greatest_error):
    assert greatest_error(exercise_id, function) < 1e-9


def test_the_worked_example_is_mixtral():
    (example,) = find("5.3").examples
    config = ModelConfig.preset("mixtral-8x7b")
    assert counted(config) == find("5.3").oracle(*example)
    assert counted(config)[:2] == (45_098_205_184, 11_275_337_728)  # as the task's text says


def by_router(experts, e):
    """The library's router as 5.9 wants it: its logits are what comes in."""
    router = Router(e, experts).double()
    with torch.no_grad():
        router.weight.copy_(torch.eye(e))

    def route(logits):
        with torch.no_grad():
            return router(logits, (1, len(logits)), nn.Identity()).gates()

    return route


def test_the_librarys_routers_look_ahead_where_it_says_so():
    exercise = find("5.9")
    logits = torch.randn(12, 4, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    logits[:, 0] += 2.0  # an expert that most tokens want
    tokens = by_router(Experts(4, 2), 4)
    assert not exercise.oracle(tokens, logits).any()
    roomy = by_router(Experts(4, 2, capacity=4.0), 4)  # room for all
    assert not exercise.oracle(roomy, logits).any()
    tight = by_router(Experts(4, 2, capacity=0.75), 4)
    assert exercise.oracle(tight, logits).any()
    by_experts = by_router(Experts(4, 2, choice="expert"), 4)
    found = exercise.oracle(by_experts, logits)
    assert found.any()
    assert not found[-1]


def test_an_upcycled_network_says_the_same_in_the_library():
    exercise = find("5.10")
    for seed in range(3):
        for size in range(exercise.sizes):
            gate, up, down, rows, slices = exercise.inputs(seed, size)
            router, gates, ups, downs = exercise.oracle(gate, up, down, rows, slices)
            (f, c), e = gate.shape, len(router)
            dense = filled(
                GatedFeedForward(config_of(c, f), out_std=0.02),
                {"gate_up.weight": torch.cat([gate, up]), "down.weight": down},
            )
            config = config_of(c, f, Experts(e, slices, d_ff=f // slices))
            sparse = filled(
                MixtureOfExperts(config, out_std=0.02),
                {
                    "router.weight": router,
                    "experts.up": torch.cat([gates, ups], dim=1),
                    "experts.down": downs,
                },
            )
            x = torch.linspace(-3, 3, 4 * c, dtype=torch.float64).view(1, 4, c).sin()
            with torch.no_grad():
                assert difference(sparse(x), dense(x)).error < 1e-12


def test_perfect_balance_costs_one_and_collapse_costs_e():
    """What Part 5 says of the loss holds for the exercise's oracle too."""
    oracle = find("5.5").oracle
    even, _ = oracle(torch.zeros(4, 4), torch.arange(4)[:, None])
    assert math.isclose(even, 1.0)
    sure = torch.tensor([[50.0, 0.0, 0.0, 0.0]] * 3)
    collapsed, _ = oracle(sure, torch.zeros(3, 1, dtype=torch.int64))
    assert math.isclose(collapsed, 4.0)
