"""The router's decisions against plain loops, and the router that puts them in order."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from llmcourse.model.experts_config import Experts
from llmcourse.model.router import (
    Router,
    choose_by_experts,
    choose_top_k,
    noisy_logits,
    scores_of,
    weigh,
    within_capacity,
)
from llmcourse.model.routing import SparseLayer

SIZES = [(1, 1, 1), (1, 5, 1), (7, 1, 1), (9, 4, 2), (6, 6, 6), (5, 17, 4), (5, 20, 5), (3, 64, 8)]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def random(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=seeded(seed))


def tied(n, e, seed=0, levels=3):
    """Scores of few different values: most rows have exact ties."""
    return torch.randint(levels, (n, e), generator=seeded(seed)).double() / levels


def best(row, k):
    """Numbers of the k largest entries, largest first, of equal ones the first."""
    return sorted(range(len(row)), key=lambda i: (-row[i], i))[:k]


class TestScores:
    def test_softmax_and_sigmoid(self):
        logits = 3 * random(5, 4)
        for row, soft, sig in zip(
            logits.tolist(),
            scores_of(logits, "softmax").tolist(),
            scores_of(logits, "sigmoid").tolist(),
        ):
            total = sum(math.exp(x) for x in row)
            assert soft == pytest.approx([math.exp(x) / total for x in row], abs=1e-14)
            assert sig == pytest.approx([1 / (1 + math.exp(-x)) for x in row], abs=1e-14)

    def test_huge_logits_stay_finite(self):
        logits = torch.tensor([[1e4, -1e4, 0.0]])
        assert scores_of(logits, "softmax").tolist() == [[1.0, 0.0, 0.0]]
        assert scores_of(logits, "sigmoid").tolist() == [[1.0, 0.0, 0.5]]


class TestNoise:
    def test_is_the_equation(self):
        logits, spread = random(6, 3), random(6, 3, seed=1)
        noise = torch.empty(6, 3, dtype=torch.float64).normal_(generator=seeded(7))
        wanted = logits + noise * torch.log1p(spread.exp())
        assert torch.allclose(noisy_logits(logits, spread, seeded(7)), wanted, atol=1e-14, rtol=0)

    def test_has_the_spread_it_says(self):
        logits, spread = torch.zeros(50_000, 2), torch.tensor([[0.0, 2.0]]).expand(50_000, 2)
        noisy = noisy_logits(logits, spread, seeded())
        assert noisy.mean(0).abs().max() < 0.05
        assert noisy.std(0).tolist() == pytest.approx([math.log(2), 2.1269], rel=0.02)

    def test_the_spread_learns(self):
        spread = random(4, 3).requires_grad_()
        noisy_logits(random(4, 3, seed=1), spread, seeded(7)).sum().backward()
        noise = torch.empty(4, 3, dtype=torch.float64).normal_(generator=seeded(7))
        assert torch.allclose(spread.grad, noise * torch.sigmoid(spread.detach()))


class TestTopK:
    @pytest.mark.parametrize(("n", "e", "k"), SIZES)
    @pytest.mark.parametrize("make", [random, tied])
    def test_equals_sorting(self, make, n, e, k):
        scores = make(n, e)
        chosen = choose_top_k(scores, k)
        assert chosen.dtype == torch.int64 and chosen.shape == (n, k)
        assert chosen.tolist() == [best(row, k) for row in scores.tolist()]

    @pytest.mark.parametrize(("n", "e", "k"), SIZES)
    def test_a_router_of_zeros_chooses_the_first(self, n, e, k):
        for dtype in (torch.float32, torch.float64, torch.bfloat16):
            chosen = choose_top_k(torch.zeros(n, e, dtype=dtype), k)
            assert chosen.tolist() == [list(range(k))] * n

    @pytest.mark.parametrize(("n", "e", "k"), SIZES)
    def test_the_bias_counts_in_choosing(self, n, e, k):
        scores, bias = random(n, e).sigmoid(), random(e, seed=3)
        chosen = choose_top_k(scores, k, bias=bias)
        assert chosen.tolist() == [best(row, k) for row in (scores + bias).tolist()]

    def test_no_tokens(self):
        assert choose_top_k(torch.zeros(0, 4), 2).shape == (0, 2)
        assert choose_top_k(torch.zeros(0, 4), 2, n_groups=2, n_active_groups=1).shape == (0, 2)

    def test_it_has_no_gradient_and_changes_nothing(self):
        scores = random(5, 4).requires_grad_()
        before = scores.detach().clone()
        assert not choose_top_k(scores, 3, bias=torch.ones(4)).requires_grad
        assert torch.equal(scores.detach(), before)

    @pytest.mark.parametrize("k", [0, -1, 5])
    def test_impossible_k(self, k):
        with pytest.raises(ValueError) as refused:
            choose_top_k(torch.zeros(3, 4), k)
        assert str(refused.value) == f"k={k} experts cannot be chosen among 4: choose 1 to 4"


class TestGroups:
    @staticmethod
    def by_hand(row, k, n_groups, n_active_groups, group_score):
        """Try every set of groups: the best is first in a list of groups ranked one by one."""
        size = len(row) // n_groups
        members = [range(g * size, (g + 1) * size) for g in range(n_groups)]
        count = 1 if group_score == "best" else 2
        ranks = [sum(sorted((row[i] for i in group), reverse=True)[:count]) for group in members]
        groups = best(ranks, n_active_groups)
        allowed = {i for g in groups for i in members[g]}
        return [i for i in best(row, len(row)) if i in allowed][:k]

    @pytest.mark.parametrize("group_score", ["two", "best"])
    @pytest.mark.parametrize("make", [random, tied])
    @pytest.mark.parametrize(
        ("e", "n_groups", "active", "k"),
        [(8, 4, 2, 3), (8, 4, 1, 2), (6, 6, 2, 2), (6, 2, 2, 5), (64, 8, 4, 8), (9, 3, 2, 6)],
    )
    def test_equals_brute_force(self, make, e, n_groups, active, k, group_score):
        scores = make(20, e)
        chosen = choose_top_k(
            scores, k, n_groups=n_groups, n_active_groups=active, group_score=group_score
        )
        wanted = [self.by_hand(r, k, n_groups, active, group_score) for r in scores.tolist()]
        assert chosen.tolist() == wanted

    def test_no_other_set_of_groups_has_a_higher_rank(self):
        """The choice by its purpose: of all pairs of groups the one with the largest sum."""
        scores = random(30, 12)
        chosen = choose_top_k(scores, 4, n_groups=4, n_active_groups=2)
        for row, experts in zip(scores.tolist(), chosen.tolist()):
            ranks = [sum(sorted(row[3 * g : 3 * g + 3])[-2:]) for g in range(4)]
            pairs = itertools.combinations(range(4), 2)
            pair = max(pairs, key=lambda p: ranks[p[0]] + ranks[p[1]])
            assert {e // 3 for e in experts} <= set(pair)

    def test_groups_are_ranked_with_the_bias(self):
        scores, bias = random(10, 8).sigmoid(), random(8, seed=3)
        chosen = choose_top_k(scores, 3, bias=bias, n_groups=4, n_active_groups=2)
        rows = (scores + bias).tolist()
        assert chosen.tolist() == [self.by_hand(row, 3, 4, 2, "two") for row in rows]

    def test_all_groups_are_no_limit(self):
        scores = random(10, 8)
        chosen = choose_top_k(scores, 3, n_groups=4, n_active_groups=4)
        assert torch.equal(chosen, choose_top_k(scores, 3))

    def test_negative_scores_stay_in_their_group(self):
        """With a bias scores may be negative; a group that is out must not win with zeros."""
        scores = -1 - random(20, 8).abs()
        chosen = choose_top_k(scores, 2, n_groups=4, n_active_groups=1)
        assert (chosen[:, 0] // 2 == chosen[:, 1] // 2).all()

    def test_equal_groups_first_ones_first(self):
        for n_groups in (2, 8, 16, 32):
            chosen = choose_top_k(torch.zeros(3, 64), 2, n_groups=n_groups, n_active_groups=1)
            assert chosen.tolist() == [[0, 1]] * 3


class TestWeigh:
    @pytest.mark.parametrize("renormalise", [True, False])
    @pytest.mark.parametrize("scale", [1.0, 2.5])
    def test_formula(self, renormalise, scale):
        scores = random(6, 5).sigmoid()
        experts = choose_top_k(scores, 3)
        weights = weigh(scores, experts, renormalise=renormalise, scale=scale)
        for row, chosen, found in zip(scores.tolist(), experts.tolist(), weights.tolist()):
            total = sum(row[e] for e in chosen) if renormalise else 1.0
            assert found == pytest.approx([scale * row[e] / total for e in chosen], abs=1e-14)

    def test_renormalised_softmax_is_the_softmax_of_the_chosen(self):
        logits = random(6, 5)
        experts = choose_top_k(logits, 2)
        weights = weigh(torch.softmax(logits, 1), experts)
        wanted = torch.softmax(logits.gather(1, experts), 1)  # as Mixtral writes it
        assert torch.allclose(weights, wanted, atol=1e-14, rtol=0)

    def test_gradient_by_hand(self):
        """d (s_i / Σs) / d s_j = δ_ij / Σs - s_i / (Σs)²; experts not chosen get none."""
        scores = random(1, 4).sigmoid().requires_grad_()
        experts = choose_top_k(scores, 2)
        i, j = experts[0].tolist()
        [slope] = torch.autograd.grad(weigh(scores, experts)[0, 0], scores)
        s = scores.detach()[0]
        wanted = torch.zeros(4, dtype=torch.float64)
        wanted[i] = s[j] / (s[i] + s[j]) ** 2
        wanted[j] = -s[i] / (s[i] + s[j]) ** 2
        assert torch.allclose(slope[0], wanted, atol=1e-14, rtol=0)

    def test_scores_that_vanish_give_weights_of_zero(self):
        scores = torch.zeros(2, 3, requires_grad=True)
        weights = weigh(scores, torch.tensor([[0, 1], [2, 0]]))
        assert (weights == 0).all()
        weights.sum().backward()
        assert scores.grad.isfinite().all()


class TestCapacity:
    @staticmethod
    def by_queue(experts, n_experts, capacity):
        """The rule told as it is: first choices are seated, then second ones; each in order."""
        left = [capacity] * n_experts
        kept = [[False] * len(row) for row in experts]
        for rank in range(len(experts[0])):
            for token, row in enumerate(experts):
                if left[row[rank]]:
                    left[row[rank]] -= 1
                    kept[token][rank] = True
        return kept

    @pytest.mark.parametrize(("n", "e", "k"), [*SIZES, (40, 3, 2), (100, 8, 3)])
    @pytest.mark.parametrize("capacity", [1, 2, 5, 1000])
    def test_equals_a_queue(self, n, e, k, capacity):
        experts = choose_top_k(random(n, e), k)
        kept = within_capacity(experts, e, capacity)
        assert kept.tolist() == self.by_queue(experts.tolist(), e, capacity)

    def test_first_choices_first_and_earlier_tokens_first(self):
        # Expert 0 is the second choice of tokens 0 and 1 and the first of tokens 2 and 3.
        experts = torch.tensor([[1, 0], [2, 0], [0, 1], [0, 2]])
        for capacity, seated in ((1, [2]), (2, [2, 3]), (3, [2, 3, 0]), (4, [2, 3, 0, 1])):
            kept = within_capacity(experts, 3, capacity)
            mine = (experts == 0) & kept
            assert mine.any(1).nonzero()[:, 0].tolist() == sorted(seated)

    def test_all_to_one_expert(self):
        kept = within_capacity(torch.zeros(10, 1, dtype=torch.int64), 4, 3)
        assert kept[:, 0].tolist() == [True] * 3 + [False] * 7

    def test_no_tokens(self):
        assert within_capacity(torch.zeros(0, 2, dtype=torch.int64), 4, 3).shape == (0, 2)

    @pytest.mark.parametrize("capacity", [0, -3])
    def test_impossible_capacity(self, capacity):
        with pytest.raises(ValueError) as refused:
            within_capacity(torch.zeros(3, 2, dtype=torch.int64), 4, capacity)
        assert str(refused.value) == (f"capacity={capacity} must be at least 1 token per expert")


class TestExpertChoice:
    @pytest.mark.parametrize("make", [random, tied])
    @pytest.mark.parametrize(("n", "e", "taken"), [(1, 1, 1), (7, 3, 2), (7, 3, 7), (5, 8, 1)])
    def test_each_takes_its_best_tokens(self, make, n, e, taken):
        scores = make(n, e)
        tokens, experts = choose_by_experts(scores, taken)
        wanted = [(t, i) for i in range(e) for t in best(scores[:, i].tolist(), taken)]
        assert list(zip(tokens.tolist(), experts.tolist())) == wanted

    def test_nothing_to_take(self):
        tokens, experts = choose_by_experts(torch.zeros(0, 3), 0)
        assert len(tokens) == len(experts) == 0


def route(experts, x, real=None, training=False, seed=0, weight=None):
    """A router of these experts over x (N, C), and its routing."""
    router = Router(x.shape[1], experts, 0.5, seeded(seed)).to(x.dtype).train(training)
    if weight is not None:
        router.weight.data.copy_(weight)
    return router, router(x, (1, len(x)), SparseLayer(), real)


class TestRouter:
    def test_parameters(self):
        router = Router(64, Experts(16, 2, noise=True, selection_bias=True), 0.02, seeded())
        assert router.weight.shape == router.noise_weight.shape == (16, 64)
        assert router.weight.std().item() == pytest.approx(0.02, rel=0.05)
        assert (router.noise_weight == 0).all() and (router.selection_bias == 0).all()
        assert router.noise_weight.requires_grad and not router.selection_bias.requires_grad
        plain = Router(64, Experts(16, 2), 0.02, seeded())
        assert [name for name, _ in plain.named_parameters()] == ["weight"]
        assert torch.equal(plain.weight, router.weight)

    @pytest.mark.parametrize(("n", "e", "k"), SIZES)
    @pytest.mark.parametrize("score", ["softmax", "sigmoid"])
    def test_tokens_choose(self, n, e, k, score):
        x = random(n, 6)
        router, routing = route(Experts(e, k, score=score, scale=2.0), x)
        logits = [
            [sum(a * b for a, b in zip(row, w)) for w in router.weight.tolist()]
            for row in x.tolist()
        ]
        assert routing.logits.flatten().tolist() == pytest.approx(
            [value for row in logits for value in row], abs=1e-12
        )
        wanted = []
        for token, row in enumerate(logits):
            s = [1 / (1 + math.exp(-z)) for z in row]
            if score == "softmax":
                total = sum(math.exp(z) for z in row)
                s = [math.exp(z) / total for z in row]
            chosen = best(s, k)
            wanted += [(token, i, 2.0 * s[i] / sum(s[j] for j in chosen)) for i in chosen]
        assert list(zip(routing.tokens.tolist(), routing.experts.tolist())) == (
            [(token, i) for token, i, _ in wanted]
        )
        assert routing.weights.tolist() == pytest.approx([w for *_, w in wanted], abs=1e-12)
        assert len(routing.dropped_tokens) == len(routing.dropped_experts) == 0
        assert routing.batch == (1, n)

    @pytest.mark.parametrize(
        ("given", "wanted"),
        [
            (torch.float64, torch.float64),
            (torch.float32, torch.float32),
            (torch.bfloat16, torch.float32),
            (torch.float16, torch.float32),
        ],
    )
    def test_scores_are_float32_or_more(self, given, wanted):
        x = random(5, 4).to(given)
        router, routing = route(Experts(3, 2, noise=True), x, training=True)
        assert router.weight.dtype == given
        for tensor in (routing.logits, routing.scores, routing.weights):
            assert tensor.dtype == wanted

    def test_autocast_does_not_reach_the_scores(self):
        x = random(50, 16).float()
        router, plain = route(Experts(4, 2), x)
        with torch.autocast("cpu", torch.bfloat16):
            inside = router(x, (1, 50), SparseLayer())
        assert torch.equal(inside.logits, plain.logits) and inside.logits.dtype == torch.float32
        assert torch.equal(inside.weights, plain.weights)

    def test_the_bias_changes_the_choice_and_no_weight(self):
        x = random(40, 6)
        experts = Experts(5, 2, score="sigmoid", renormalise=False, selection_bias=True)
        router, before = route(experts, x)
        router.selection_bias.data += torch.tensor([0.1, -0.2, 0.0, 0.25, -0.3])
        after = router(x, (1, 40), SparseLayer())
        ranked = (before.scores + router.selection_bias).tolist()
        assert after.experts.view(40, 2).tolist() == [best(row, 2) for row in ranked]
        assert not torch.equal(after.experts, before.experts)
        assert torch.equal(after.scores, before.scores)
        assert torch.equal(after.weights, before.scores[after.tokens, after.experts])
        (after.weights * random(80, seed=2)).sum().backward()
        assert router.selection_bias.grad is None and router.weight.grad.abs().sum() > 0

    def test_groups_reach_the_choice(self):
        experts = Experts(8, 2, n_groups=4, n_active_groups=1)
        for group_score in ("two", "best"):
            x = random(30, 6)
            _, routing = route(experts.replace(group_score=group_score), x)
            chosen = routing.experts.view(30, 2)
            wanted = [
                TestGroups.by_hand(row, 2, 4, 1, group_score) for row in routing.scores.tolist()
            ]
            assert chosen.tolist() == wanted

    def test_noise_in_training_only(self):
        x, experts = random(30, 6), Experts(4, 2, noise=True)
        router, quiet = route(experts, x)
        _, plain = route(Experts(4, 2), x)
        assert torch.equal(quiet.logits, plain.logits)
        router.generator.manual_seed(9)
        first = router.train()(x, (1, 30), SparseLayer())
        noise = torch.empty(30, 4, dtype=torch.float64).normal_(generator=seeded(9))
        assert torch.allclose(first.logits, plain.logits + noise * math.log(2))
        other = router(x, (1, 30), SparseLayer())
        assert not torch.equal(first.logits, other.logits)
        router.generator.manual_seed(9)
        assert torch.equal(first.logits, router(x, (1, 30), SparseLayer()).logits)

    def test_noise_leaves_the_global_state_alone(self):
        before = torch.random.get_rng_state()
        route(Experts(4, 2, noise=True), random(5, 6), training=True)
        assert torch.equal(before, torch.random.get_rng_state())

    @pytest.mark.parametrize("capacity", [0.01, 0.5, 1.0, 1.25, 100.0])
    def test_capacity(self, capacity):
        x = random(24, 6)
        _, routing = route(Experts(4, 2, capacity=capacity), x)
        _, free = route(Experts(4, 2), x)
        chosen = free.experts.view(24, 2)
        most = math.ceil(capacity * 24 * 2 / 4)
        kept = TestCapacity.by_queue(chosen.tolist(), 4, most)
        taken, left = [], []
        for token, row in enumerate(chosen.tolist()):
            for rank, expert in enumerate(row):
                (taken if kept[token][rank] else left).append((token, expert))
        assert list(zip(routing.tokens.tolist(), routing.experts.tolist())) == taken
        assert list(zip(routing.dropped_tokens.tolist(), routing.dropped_experts.tolist())) == left
        assert torch.bincount(routing.experts, minlength=4).max() <= most
        # Weights are those of the free routing: nobody gains from another's loss.
        whole = free.gates()
        assert torch.equal(routing.weights, whole[routing.tokens, routing.experts])
        assert torch.equal(routing.load(), free.load())

    def test_padding_goes_nowhere(self):
        x, real = random(12, 6), torch.rand(12, generator=seeded(3)) < 0.6
        _, routing = route(Experts(4, 2), x, real)
        _, alone = route(Experts(4, 2), x[real])
        assert torch.equal(routing.tokens, real.nonzero()[:, 0].repeat_interleave(2))
        assert torch.equal(routing.experts, alone.experts)
        assert torch.equal(routing.weights, alone.weights)
        assert routing.logits.shape == (12, 4)

    @pytest.mark.parametrize("choice", ["token", "expert"])
    def test_padding_takes_no_place(self, choice):
        """What is left over, and who finds a place, is decided as if the padding were not there."""
        x, real = random(30, 6), torch.rand(30, generator=seeded(3)) < 0.6
        experts = Experts(4, 2, choice=choice, capacity=0.75 if choice == "token" else None)
        _, routing = route(experts, x, real)
        _, alone = route(experts, x[real])
        number = real.nonzero()[:, 0]
        assert torch.equal(routing.tokens, number[alone.tokens])
        assert torch.equal(routing.dropped_tokens, number[alone.dropped_tokens])
        assert torch.equal(routing.experts, alone.experts)
        assert torch.equal(routing.dropped_experts, alone.dropped_experts)
        assert torch.equal(routing.weights, alone.weights)
        assert choice == "expert" or len(alone.dropped_tokens) > 0

    @pytest.mark.parametrize(
        ("choice", "capacity"), [("token", None), ("token", 1.0), ("expert", None)]
    )
    def test_nothing_but_padding(self, choice, capacity):
        experts = Experts(4, 2, choice=choice, capacity=capacity)
        none = torch.zeros(5, dtype=torch.bool)
        for x, real in ((random(5, 6), none), (random(0, 6), None)):
            _, routing = route(experts, x, real)
            for tensor in (routing.tokens, routing.experts, routing.weights):
                assert tensor.shape == (0,)
            assert routing.load().tolist() == routing.dropped.tolist() == [0] * 4

    @pytest.mark.parametrize(("n", "e", "k"), [(8, 4, 2), (7, 4, 2), (1, 4, 1), (5, 3, 3)])
    def test_experts_choose(self, n, e, k):
        x = random(n, 6)
        _, routing = route(Experts(e, k, choice="expert", scale=0.5), x)
        taken = min(math.ceil(n * k / e), n)
        wanted = [
            (t, i, 0.5 * routing.scores[t, i].item())
            for i in range(e)
            for t in best(routing.scores[:, i].tolist(), taken)
        ]
        found = zip(routing.tokens.tolist(), routing.experts.tolist(), routing.weights.tolist())
        assert list(found) == wanted
        assert routing.load().tolist() == [taken] * e, "not exactly even"

    def test_all_tokens_alike_and_a_router_of_zeros(self):
        for n, e, k in SIZES:
            _, routing = route(Experts(e, k), random(n, 3), weight=torch.zeros(e, 3))
            assert routing.experts.view(n, k).tolist() == [list(range(k))] * n
            assert routing.weights.tolist() == pytest.approx([1 / k] * (n * k))

    def test_what_it_prints(self):
        assert "6 -> 4 experts, 2 by token" in str(Router(6, Experts(4, 2)))
