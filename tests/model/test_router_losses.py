"""The routers' losses against their formulas, and their gradients against those by hand."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from llmcourse.model.experts_config import Experts
from llmcourse.model.router import Router
from llmcourse.model.router_losses import (
    balance,
    bias_step,
    importance_loss,
    load_balancing_loss,
    router_z_loss,
    routing_loss,
)
from llmcourse.model.routing import SparseLayer

B, T, C, E, K = 3, 5, 6, 4, 2
MASKS = {
    "none": None,
    "all": [[1] * T] * B,
    "some": [[1, 0, 1, 1, 0], [0, 0, 0, 0, 1], [1, 1, 1, 1, 1]],
    "a sequence of padding": [[1, 1, 1, 0, 0], [0] * T, [0, 1, 0, 1, 0]],
    "one token": [[0] * T, [0, 0, 1, 0, 0], [0] * T],
}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def random(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=seeded(seed))


def route(seed=0, **changes):
    """A routing of B T tokens in float64, whose logits want a gradient."""
    router = Router(C, Experts(**{"n_experts": E, "n_active": K} | changes), 0.7, seeded(seed))
    return router.double()(random(B * T, C, seed=seed + 10), (B, T), SparseLayer())


def as_mask(name):
    return None if MASKS[name] is None else torch.tensor(MASKS[name], dtype=torch.bool)


def formula(tokens, routings):
    """E Σ f P over (routing, token) pairs, counted one by one."""
    p = [r.probabilities()[t].tolist() for r, t in ((routings[i], t) for i, t in tokens)]
    load = [0] * E
    for i, t in tokens:
        r = routings[i]
        pairs = itertools.chain(
            zip(r.tokens.tolist(), r.experts.tolist()),
            zip(r.dropped_tokens.tolist(), r.dropped_experts.tolist()),
        )
        for token, expert in pairs:
            load[expert] += token == t
    total = sum(load)
    share = [n / total for n in load]
    mean = [sum(row[e] for row in p) / len(p) for e in range(E)]
    return E * sum(f * m for f, m in zip(share, mean))


class TestBalancing:
    def test_even_is_one_and_collapsed_is_e(self):
        for e in (1, 2, 7, 64):
            even = torch.full((5, e), 1 / e, dtype=torch.float64)
            some = torch.softmax(random(5, e), 1)
            assert load_balancing_loss(even, torch.ones(e)).item() == pytest.approx(1)
            # Even loads, or even probabilities: either is enough.
            assert load_balancing_loss(some, torch.full((e,), 3)).item() == pytest.approx(1)
            load = torch.arange(e) ** 2 + (e == 1)
            assert load_balancing_loss(even, load).item() == pytest.approx(1)
            sure = torch.zeros(5, e, dtype=torch.float64)
            sure[:, 0] = 1
            collapsed = torch.zeros(e)
            collapsed[0] = 5
            assert load_balancing_loss(sure, collapsed).item() == pytest.approx(e)
            # All on one expert by a hair: E f P = E 1 1/E.
            assert load_balancing_loss(even, collapsed).item() == pytest.approx(1)

    def test_it_is_the_formula(self):
        p, load = torch.softmax(random(6, E), 1), torch.tensor([5, 0, 3, 4])
        wanted = E * sum(
            load[e].item() / 12 * sum(p[n, e].item() for n in range(6)) / 6 for e in range(E)
        )
        assert load_balancing_loss(p, load).item() == pytest.approx(wanted, abs=1e-14)

    def test_leading_dimensions(self):
        p, load = torch.softmax(random(2, 3, 6, E), -1), torch.randint(9, (2, 3, E))
        found = load_balancing_loss(p, load)
        assert found.shape == (2, 3)
        for i, j in itertools.product(range(2), range(3)):
            assert found[i, j].item() == pytest.approx(
                load_balancing_loss(p[i, j], load[i, j]).item(), abs=1e-14
            )

    def test_gradient_by_hand(self):
        """d/dp[n, e] = E f_e / N; on to the logits, p_e E / N (f_e - Σ f p). No more: f counts."""
        logits = random(6, E).requires_grad_()
        load = torch.tensor([5, 0, 3, 4])
        p = torch.softmax(logits, 1)
        slope, by_logits = torch.autograd.grad(load_balancing_loss(p, load), (p, logits))
        f = load.double() / 12
        assert torch.allclose(slope, (E * f / 6).expand(6, E), atol=1e-15, rtol=0)
        p = p.detach()
        wanted = p * E / 6 * (f - (p * f).sum(1, keepdim=True))
        assert torch.allclose(by_logits, wanted, atol=1e-15, rtol=0)

    def test_nothing_taken_is_zero(self):
        assert load_balancing_loss(torch.full((2, E), 1 / E), torch.zeros(E)) == 0

    def test_different_numbers_of_experts(self):
        with pytest.raises(ValueError) as refused:
            load_balancing_loss(torch.ones(2, 4) / 4, torch.ones(3))
        assert str(refused.value) == "probabilities of 4 experts, but loads of 3"


class TestOver:
    """What is balanced together: a layer's batch, each sequence, or all layers."""

    ROUTINGS = (
        {"seed": 0},
        {"seed": 1, "score": "sigmoid"},
        {"seed": 2, "capacity": 0.5},
    )

    @pytest.fixture
    def routings(self):
        return [route(**changes) for changes in self.ROUTINGS]

    @staticmethod
    def counted(mask):
        table = [[1] * T] * B if mask is None else mask.tolist()
        return [b * T + t for b in range(B) for t in range(T) if table[b][t]]

    @pytest.mark.parametrize("name", MASKS)
    def test_batch(self, routings, name):
        mask = as_mask(name)
        wanted = [formula([(i, t) for t in self.counted(mask)], routings) for i in range(3)]
        found = balance(routings, "batch", mask).item()
        assert found == pytest.approx(sum(wanted) / 3, abs=1e-13)

    @pytest.mark.parametrize("name", MASKS)
    def test_sequence(self, routings, name):
        mask = as_mask(name)
        layers = []
        for i in range(3):
            rows = [[t for t in self.counted(mask) if t // T == b] for b in range(B)]
            losses = [formula([(i, t) for t in row], routings) for row in rows if row]
            layers.append(sum(losses) / len(losses))
        found = balance(routings, "sequence", mask).item()
        assert found == pytest.approx(sum(layers) / 3, abs=1e-13)

    @pytest.mark.parametrize("name", MASKS)
    def test_model(self, routings, name):
        mask = as_mask(name)
        pairs = [(i, t) for i in range(3) for t in self.counted(mask)]
        wanted = formula(pairs, routings)
        assert balance(routings, "model", mask).item() == pytest.approx(wanted, abs=1e-13)

    def test_the_three_differ(self, routings):
        found = {round(balance(routings, o).item(), 9) for o in ("batch", "sequence", "model")}
        assert len(found) == 3

    @pytest.mark.parametrize("over", ["batch", "sequence", "model"])
    def test_gradients_do_not_flow_through_counts(self, over):
        """Against the same sum with the loads as constants, by finite differences."""
        router = Router(C, Experts(E, K), 0.7, seeded()).double()
        x, mask = random(B * T, C), as_mask("some")
        routing = router(x, (B, T), SparseLayer())
        [slope] = torch.autograd.grad(balance([routing], over, mask), router.weight)
        direction, step = random(E, C, seed=4), 1e-5
        ends = []
        for sign in (1, -1):
            moved = Router(C, Experts(E, K), 0.7, seeded()).double()
            moved.weight.data += sign * step * direction
            again = moved(x, (B, T), SparseLayer())
            assert torch.equal(again.experts, routing.experts), "the step was too long"
            ends.append(balance([again], over, mask).item())
        wanted = (ends[0] - ends[1]) / (2 * step)
        assert (slope * direction).sum().item() == pytest.approx(wanted, rel=1e-6)
        assert slope.abs().max() > 1e-4

    @pytest.mark.parametrize("over", ["batch", "sequence", "model"])
    def test_masked_tokens_have_no_gradient(self, over):
        routing = route()
        mask = as_mask("a sequence of padding")
        [slope] = torch.autograd.grad(balance([routing], over, mask), routing.logits)
        assert (slope[~mask.reshape(-1)] == 0).all()
        assert (slope[mask.reshape(-1)].abs().amax(1) > 0).all()

    def test_expert_choice_is_even_whatever_is_learned(self):
        routing = route(choice="expert", n_active=2)
        loss = balance([routing], "batch")
        assert loss.item() == pytest.approx(1)
        [slope] = torch.autograd.grad(loss, routing.logits)
        assert slope.abs().max() < 1e-15


class TestZLoss:
    def test_formula(self):
        logits = 3 * random(7, E)
        wanted = sum(math.log(sum(math.exp(z) for z in row)) ** 2 for row in logits.tolist()) / 7
        assert router_z_loss(logits).item() == pytest.approx(wanted, rel=1e-13)

    def test_zero_where_the_exponentials_sum_to_one(self):
        assert router_z_loss(torch.log_softmax(random(7, E), 1)).item() == pytest.approx(0)
        assert router_z_loss(torch.zeros(3, E)).item() == pytest.approx(math.log(E) ** 2)

    def test_gradient_by_hand(self):
        logits = random(7, E).requires_grad_()
        [slope] = torch.autograd.grad(router_z_loss(logits), logits)
        z = logits.detach()
        wanted = 2 * torch.logsumexp(z, 1, keepdim=True) * torch.softmax(z, 1) / 7
        assert torch.allclose(slope, wanted, atol=1e-15, rtol=0)

    def test_huge_logits_stay_finite(self):
        assert router_z_loss(torch.tensor([[1e4, 0.0]])).item() == pytest.approx(1e8)


class TestImportance:
    def test_formula(self):
        gates = random(9, E).abs()
        total = [sum(column) for column in gates.T.tolist()]
        mean = sum(total) / E
        wanted = sum((x - mean) ** 2 for x in total) / E / mean**2
        assert importance_loss(gates).item() == pytest.approx(wanted, rel=1e-12)

    def test_extremes(self):
        assert importance_loss(torch.ones(5, E)) == 0
        one = torch.zeros(5, E)
        one[:, 2] = 0.5
        assert importance_loss(one).item() == pytest.approx(E - 1)
        assert importance_loss(torch.zeros(5, E)) == 0
        assert importance_loss(torch.ones(5, 1)) == 0

    def test_gradient_by_hand(self):
        """E Σ I² / (Σ I)² - 1, so d / dI = 2 E (I / S² - Σ I² / S³): for each token alike."""
        gates = random(9, E).abs().requires_grad_()
        [slope] = torch.autograd.grad(importance_loss(gates), gates)
        total = gates.detach().sum(0)
        s, squares = total.sum(), total.square().sum()
        wanted = 2 * E * (total / s**2 - squares / s**3)
        assert torch.allclose(slope, wanted.expand(9, E), atol=1e-14, rtol=0)


class TestBiasStep:
    def test_up_for_the_starving_and_down_for_the_crowded(self):
        bias = torch.tensor([0.5, -0.5, 0.0, 0.25])
        moved = bias_step(bias, torch.tensor([0, 5, 4, 7]), 0.125)  # the mean is 4
        assert moved.tolist() == [0.625, -0.625, 0.0, 0.125]
        assert bias.tolist() == [0.5, -0.5, 0.0, 0.25], "changed in place"

    @pytest.mark.parametrize("dtype", [torch.int64, torch.float32, torch.float64])
    def test_equal_loads_move_nothing(self, dtype):
        for n in (0, 1, 3, 16_777_217):  # the last is not a float32
            load = torch.full((7,), n, dtype=torch.int64).to(dtype)
            assert torch.equal(bias_step(torch.zeros(7), load, 0.1), torch.zeros(7)), n

    def test_one_token_of_millions_counts(self):
        load = torch.full((128,), 1_000_000_000)
        load[5] += 1
        moved = bias_step(torch.zeros(128), load, 1.0)
        assert moved[5] == -1 and (moved[:5] == 1).all() and (moved[6:] == 1).all()

    def test_dtype_and_rate_zero(self):
        bias = torch.ones(3, dtype=torch.float64)
        assert bias_step(bias, torch.tensor([1, 2, 3]), 0.1).dtype == torch.float64
        assert torch.equal(bias_step(bias, torch.tensor([1, 2, 3]), 0.0), bias)

    def test_it_balances(self):
        """An expert that scores lower for all tokens is taken as often after some steps."""
        scores = torch.rand(200, 4, generator=seeded()) + torch.tensor([0.3, 0.0, 0.0, -0.3])
        bias = torch.zeros(4)
        for _ in range(200):
            load = torch.bincount((scores + bias).argmax(1), minlength=4)
            bias = bias_step(bias, load, 0.005)
        assert load.min() >= 40 and load.max() <= 60


class TestTogether:
    @pytest.mark.parametrize("name", MASKS)
    @pytest.mark.parametrize("over", ["batch", "sequence", "model"])
    def test_weighted_sum(self, over, name):
        routings = [route(seed=seed) for seed in range(3)]
        mask = as_mask(name)
        counted = slice(None) if mask is None else mask.reshape(-1)
        experts = Experts(
            E, K, balance_weight=0.3, balance_over=over, z_weight=0.7, importance_weight=1.9
        )
        wanted = 0.3 * balance(routings, over, mask)
        for r in routings:
            wanted = wanted + 0.7 * router_z_loss(r.logits[counted]) / 3
            wanted = wanted + 1.9 * importance_loss(r.gates()[counted]) / 3
        found = routing_loss(routings, experts, mask)
        assert found.ndim == 0
        assert found.item() == pytest.approx(wanted.item(), abs=1e-13)

    @pytest.mark.parametrize(
        ("name", "loss"),
        [
            ("balance_weight", lambda r: balance([r], "batch")),
            ("z_weight", lambda r: router_z_loss(r.logits)),
            ("importance_weight", lambda r: importance_loss(r.gates())),
        ],
    )
    def test_each_alone(self, name, loss):
        zero = {"balance_weight": 0.0, "z_weight": 0.0, "importance_weight": 0.0}
        routing = route()
        found = routing_loss([routing], Experts(E, K, **zero | {name: 0.25}))
        assert found.item() == pytest.approx(0.25 * loss(routing).item(), abs=1e-14)
        assert routing_loss([routing], Experts(E, K, **zero)).item() == 0

    @pytest.mark.parametrize("over", ["batch", "sequence", "model"])
    def test_a_mask_without_a_token(self, over):
        routing = route()
        experts = Experts(E, K, balance_over=over, z_weight=1.0, importance_weight=1.0)
        none = torch.zeros(B, T, dtype=torch.bool)
        assert routing_loss([routing], experts, none).item() == 0

    def test_no_routing(self):
        with pytest.raises(ValueError) as refused:
            routing_loss([], Experts(E, K))
        assert str(refused.value) == (
            "a routing loss needs the routing of at least one sparse layer"
        )

    def test_a_mask_that_does_not_fit(self):
        with pytest.raises(ValueError, match=r"a mask of 15 tokens must hold so many bools"):
            routing_loss([route()], Experts(E, K), torch.ones(4, dtype=torch.bool))
