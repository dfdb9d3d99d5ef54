"""Families with experts: the router's logits and choices, and the load-balancing loss."""

from __future__ import annotations

import pytest
import torch

from llmcourse.model.router_losses import balance, routing_loss
from llmcourse.model.routing import record_routing

WITH_LOSS = ["mixtral", "mixtral-windowed", "qwen3-moe", "qwen3-moe-hybrid", "olmoe"]
WITHOUT = ["deepseek-v2-experts", "deepseek-v2-groups"]
WITHOUT += ["deepseek-v3-experts", "deepseek-v3-one-group"]


def run_theirs(pair, ids, padding):
    positions = (padding.long().cumsum(-1) - 1).clamp(min=0)
    options = {} if padding.all() else {"attention_mask": padding.long()}
    return pair.theirs64(ids, position_ids=positions, output_router_logits=True, **options)


def make_padding(left):
    padding = torch.ones(2, 15, dtype=torch.bool)
    padding[0, :left] = False
    return padding


@pytest.mark.parametrize("name", WITH_LOSS + WITHOUT)
def test_router_logits_and_weights(make_pair, float64, name):
    """What is decided, layer by layer: the logits, who is chosen, and how much each counts."""
    pair = make_pair(name)
    ids, padding = torch.randint(101, (2, 15)), make_padding(0)
    gates = []
    routers = [
        m for m in pair.theirs64.modules() if type(m).__name__.lower().endswith("topkrouter")
    ]

    def note(module, inputs, outputs):
        logits, weights, experts = outputs
        gates.append(torch.zeros_like(logits).scatter(1, experts, weights))

    hooks = [router.register_forward_hook(note) for router in routers]
    ours = pair.ours(dtype=torch.float64)
    with torch.no_grad(), float64():
        wanted = run_theirs(pair, ids, padding).router_logits
    for hook in hooks:
        hook.remove()
    with torch.no_grad(), record_routing(ours) as routings:
        ours(ids)
    assert len(routings) == len(wanted) == len(gates) == ours.config.n_sparse_layers > 0
    for routing, logits, table in zip(routings, wanted, gates, strict=True):
        torch.testing.assert_close(routing.logits, logits, rtol=0, atol=1e-10)
        torch.testing.assert_close(routing.gates(), table, rtol=0, atol=1e-10)


@pytest.mark.parametrize("left", [0, 6], ids=["whole", "padded"])
@pytest.mark.parametrize("name", WITH_LOSS)
def test_load_balancing_loss(make_pair, float64, name, left):
    """The value, and its gradient with respect to every weight; theirs is K times ours."""
    pair = make_pair(name)
    ids, padding = torch.randint(101, (2, 15)), make_padding(left)
    ours = pair.ours(dtype=torch.float64)
    experts = ours.config.experts
    with record_routing(ours) as routings:
        ours(ids, padding=padding)
    mine = experts.n_active * balance(routings, "model", padding)
    mine.backward()
    pair.theirs64.zero_grad()
    with float64():
        wanted = run_theirs(pair, ids, padding).aux_loss
        wanted.backward()
    assert mine.item() == pytest.approx(wanted.item(), rel=1e-12)
    assert mine.item() != pytest.approx(experts.n_active, rel=1e-4)  # as if all were even
    coefficient = pair.theirs64.config.router_aux_loss_coef
    added = routing_loss(routings, experts, padding)
    assert added.item() == pytest.approx(coefficient * wanted.item(), rel=1e-12)
    gradients = pair.mapped(
        {
            n: torch.zeros_like(p) if p.grad is None else p.grad
            for n, p in pair.theirs64.named_parameters()
        }
    )
    parameters = dict(ours.named_parameters())
    assert parameters.keys() == gradients.keys()
    for name_, parameter in parameters.items():
        grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        torch.testing.assert_close(grad, gradients[name_], rtol=0, atol=1e-12, msg=name_)
        if name_.endswith("router.weight"):
            assert grad.abs().max() > 1e-4, name_


@pytest.mark.parametrize("name", ["deepseek-v3-experts", "deepseek-v3-one-group"])
def test_the_selection_bias_chooses_and_does_not_weigh(make_pair, name):
    """Without it other experts are chosen; whoever is chosen either way keeps the plain scores."""
    pair = make_pair(name)
    ours, ids = pair.ours(), torch.randint(101, (2, 15))
    sparse = ours.blocks[-1].feed_forward
    router, x = sparse.router, torch.randn(40, 64)
    assert router.selection_bias.abs().min() > 0 and not router.selection_bias.requires_grad
    with torch.no_grad():
        before, wanted = ours(ids), router(x, (1, 40), sparse).gates()
        router.selection_bias.zero_()
        assert (ours(ids) - before).abs().max() > 1e-2
        plain = router(x, (1, 40), sparse)
        assert (plain.gates() != wanted).any()
        if not ours.config.experts.renormalise:
            chosen = wanted != 0
            scale = ours.config.experts.scale
            torch.testing.assert_close(wanted[chosen], scale * plain.scores[chosen])
