"""Speculation changes the time and never the distribution: proved by enumeration, seen by chance.

The oracle is the target's own law, from plain calls of the model without any cache.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter

import pytest
import torch

from llmcourse.generate import Sampling, generate, speculative_generate
from llmcourse.generate.sampling import next_token_probabilities
from llmcourse.generate.speculative import acceptance, expected_tokens, residual, verify
from llmcourse.model import ModelConfig, Transformer

ALMOST_1 = torch.tensor(1 - 2.0**-53, dtype=torch.float64)  # the largest number below 1

RULES = {
    "plain": Sampling(),
    "sharp": Sampling(temperature=0.6),
    "top-k": Sampling(top_k=2),
    "top-p": Sampling(top_p=0.7, temperature=1.4),
    "min-p": Sampling(min_p=0.3),
    "penalty": Sampling(repetition_penalty=1.7),
}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def make(seed, vocab_size=4, n_layers=1, **changes):
    changes = {"positions": "rope", "context_length": 32} | changes
    config = ModelConfig(
        vocab_size=vocab_size, n_layers=n_layers, n_heads=2, d_model=8, init_std=0.6, **changes
    )
    return Transformer(config, seeded(seed)).double().eval()


@torch.no_grad()
def law(model, text, sampling):
    """The next token's distribution, (V,) float64, from one plain call."""
    ids = torch.tensor([text])
    p = next_token_probabilities(model(ids)[:, -1], sampling, ids)[0].double()
    return p / p.sum()


def tables(seed, *shape):
    """Random distributions, some entries exactly 0 as rules leave them."""
    x = torch.rand(*shape, generator=seeded(seed), dtype=torch.float64)
    x = torch.where(x < 0.3, 0.0, x)
    x[..., 0] += 0.1
    return x / x.sum(dim=-1, keepdim=True)


class TestMaths:
    @pytest.mark.parametrize("seed", range(20))
    def test_one_draft_accepted_or_replaced_has_the_targets_law(self, seed):
        p, q = tables(seed, 6), tables(seed + 100, 6)
        kept = q * acceptance(p, q)
        refused = 1 - kept.sum()
        assert (kept + refused * residual(p, q) - p).abs().max() < 1e-15

    def test_acceptance_is_the_overlap(self):
        p, q = tables(1, 6), tables(2, 6)
        overlap = sum(min(a, b) for a, b in zip(p.tolist(), q.tolist()))
        assert (q * acceptance(p, q)).sum().item() == pytest.approx(overlap, abs=1e-15)

    def test_an_equal_draft_is_never_refused(self):
        p = tables(3, 3, 6)
        drafted = p[:2].argmax(dim=-1)
        kept, following = verify(p, p[:2], drafted, ALMOST_1.repeat(2))
        assert kept == 2 and torch.equal(following, p[2])
        assert torch.equal(residual(p[0], p[0]), p[0])

    def test_what_the_target_forbids_is_always_refused(self):
        p, q = torch.tensor([[0.0, 1.0], [1.0, 0.0]]), torch.tensor([[0.5, 0.5]])
        kept, following = verify(p, q, torch.tensor([0]), torch.zeros(1))
        assert kept == 0 and following.tolist() == [0.0, 1.0]

    def test_nothing_counts_behind_the_first_refusal(self):
        p = torch.tensor([[0.0, 1.0], [0.5, 0.5], [0.9, 0.1]])
        kept, following = verify(
            p, torch.full((2, 2), 0.5), torch.tensor([0, 0]), torch.tensor([0.5, 0.0])
        )
        assert kept == 0 and following.tolist() == [0.0, 1.0]

    def test_expected_tokens(self):
        assert expected_tokens(0.0, 4) == 1 and expected_tokens(1.0, 4) == 5
        assert expected_tokens(0.8, 3) == pytest.approx((1 - 0.8**4) / (1 - 0.8))


def law_of_speculation(target, draft, text, length, n_draft, sampling):
    """Every text of `length` tokens with its probability, over all drafts and all judgements.

    The judgements are the library's `verify`, driven through both of its answers for each draft by
    uniform numbers on either side of the acceptance.
    """
    if len(text) == length:
        return {tuple(text): 1.0}
    k = min(n_draft, length - len(text) - 1)
    vocabulary, out = range(target.config.vocab_size), Counter()
    none = torch.empty(0, len(vocabulary), dtype=torch.float64)
    for drafted in itertools.product(vocabulary, repeat=k):
        seen = [[*text, *drafted[:i]] for i in range(k + 1)]
        q = torch.stack([law(draft, s, sampling) for s in seen[:k]]) if k else none
        p = torch.stack([law(target, s, sampling) for s in seen])
        proposal = math.prod(q[i, x].item() for i, x in enumerate(drafted))
        if proposal == 0:
            continue
        chance = [min(1.0, (p[i, x] / q[i, x]).item()) for i, x in enumerate(drafted)]
        for refused in range(k + 1):  # the first refused place, or k for none
            judged = proposal * math.prod(chance[:refused])
            judged *= 1 - chance[refused] if refused < k else 1
            if judged == 0:
                continue
            # Just below the chance stays, the chance itself is refused.
            uniform = torch.tensor(chance, dtype=torch.float64)
            uniform[:refused] *= 1 - 1e-12
            kept, following = verify(p, q, torch.tensor(drafted, dtype=torch.int64), uniform)
            assert kept == refused
            for x in vocabulary:
                if following[x] > 0:
                    after = [*text, *drafted[:kept], x]
                    rest = law_of_speculation(target, draft, after, length, n_draft, sampling)
                    for end, probability in rest.items():
                        out[end] += judged * following[x].item() * probability
    return out


class TestLaw:
    @pytest.mark.parametrize("rules", RULES)
    @pytest.mark.parametrize("n_draft", [1, 2])
    def test_all_texts_have_exactly_the_targets_probability(self, rules, n_draft):
        target, draft = make(1, 3), make(2, 3)
        sampling = RULES[rules]
        got = law_of_speculation(target, draft, [1], 4, n_draft, sampling)
        total = 0.0
        for new in itertools.product(range(3), repeat=3):
            text, wanted = [1], 1.0
            for x in new:
                wanted *= law(target, text, sampling)[x].item()
                text.append(x)
            assert got.get(tuple(text), 0.0) == pytest.approx(wanted, abs=1e-12)
            total += wanted
        assert total == pytest.approx(1.0, abs=1e-12)
        assert sum(got.values()) == pytest.approx(1.0, abs=1e-12)
        own = law(draft, [1], sampling)
        assert (own - law(target, [1], sampling)).abs().max() > 0.02, "too good a draft to tell"

    @pytest.mark.parametrize("rules", ["plain", "top-p", "penalty"])
    def test_what_is_drawn_has_it_too(self, rules):
        target, draft, sampling = make(1), make(2), RULES[rules]
        n, generator = 400, seeded(7)
        counts = Counter(
            tuple(
                speculative_generate(
                    target, draft, torch.tensor([[1, 2]]), 3,
                    n_draft=2, sampling=sampling, generator=generator,
                ).ids[0, 2:].tolist()
            )
            for _ in range(n)
        )  # fmt: skip
        chi2, cells = 0.0, 0
        rare_seen, rare_expected = 0, 0.0
        for new in itertools.product(range(4), repeat=3):
            text, expected = [1, 2], float(n)
            for x in new:
                expected *= law(target, text, sampling)[x].item()
                text.append(x)
            if expected < 5:
                rare_seen, rare_expected = rare_seen + counts[new], rare_expected + expected
                assert expected > 0 or counts[new] == 0
            else:
                chi2, cells = chi2 + (counts[new] - expected) ** 2 / expected, cells + 1
        if rare_expected > 5:
            chi2 += (rare_seen - rare_expected) ** 2 / rare_expected
        # Wilson and Hilferty's cube root: one in a thousand is at 3.09 standard deviations.
        limit = cells * (1 - 2 / (9 * cells) + 3.09 * math.sqrt(2 / (9 * cells))) ** 3
        assert cells > 7 and chi2 < limit

    def test_the_accepted_share_is_the_overlap(self):
        target, draft = make(1), make(2)
        p, q = law(target, [1, 2], Sampling()), law(draft, [1, 2], Sampling())
        overlap = torch.minimum(p, q).sum().item()
        generator, n = seeded(3), 400
        runs = [
            speculative_generate(
                target, draft, torch.tensor([[1, 2]]), 2, n_draft=1, generator=generator
            )
            for _ in range(n)
        ]
        share = sum(run.accepted for run in runs) / n  # the first round drafts one token, the
        assert all(run.drafted == 1 for run in runs)  # second, if there is one, none
        assert abs(share - overlap) < 3.3 * math.sqrt(overlap * (1 - overlap) / n)
        assert 0.2 < overlap < 0.95


class TestGenerate:
    @pytest.mark.parametrize("cache", ["dense", "paged", "none"])
    @pytest.mark.parametrize("n_draft", [1, 3, 7])
    @pytest.mark.parametrize("scheme", [{}, {"positions": "learned"}, {"window": 3, "sinks": 1}])
    def test_greedy_is_the_targets_greedy_text(self, cache, n_draft, scheme):
        target, draft = make(1, 11, 2, **scheme), make(2, 11)
        for prompt in ([3], [1, 2, 3, 4, 5]):
            ids = torch.tensor([prompt])
            out = speculative_generate(
                target, draft, ids, 20, n_draft=n_draft, sampling=Sampling.greedy(), cache=cache
            )
            wanted = generate(target, ids, 20, sampling=Sampling.greedy(), cache="none")
            assert torch.equal(out.ids, wanted) and out.new_tokens == 20

    def test_a_perfect_draft_needs_the_fewest_calls(self):
        target = make(1, 11, 2)
        out = speculative_generate(target, target, torch.tensor([[1, 2]]), 20, n_draft=4)
        assert out.accepted_share == 1.0 and out.accepted == 16
        assert out.target_calls == 4 and out.draft_calls == 16 and out.tokens_per_call == 5.0

    def test_an_opposite_draft_costs_time_only(self):
        target, draft = make(1, 11, 2), make(1, 11, 2)
        draft.final_norm.weight.data.neg_()
        draft.final_norm.bias.data.neg_()
        rules = Sampling(top_k=1)
        out = speculative_generate(target, draft, torch.tensor([[1, 2]]), 9, sampling=rules)
        assert out.accepted == 0 and out.accepted_share == 0.0 and out.target_calls == 9
        assert torch.equal(out.ids, generate(target, torch.tensor([[1, 2]]), 9, sampling=rules))

    @pytest.mark.parametrize("cache", ["dense", "paged"])
    def test_each_model_runs_only_what_it_has_not_seen(self, cache, monkeypatch):
        target, draft = make(1, 11, 2), make(2, 11)
        widths = {}
        for name, model in (("target", target), ("draft", draft)):

            def counting(ids, *args, _hidden=model.hidden, _name=name, **options):
                widths.setdefault(_name, []).append(ids.shape[1])
                return _hidden(ids, *args, **options)

            monkeypatch.setattr(model, "hidden", counting)
        ids = torch.tensor([[1, 2, 3, 4, 5, 6]])
        out = speculative_generate(
            target, draft, ids, 20, n_draft=3, cache=cache, generator=seeded(2),
            sampling=Sampling(temperature=3.0),
        )  # fmt: skip
        # One token that was written but not read, and the drafts: fewer of these towards the end.
        assert widths["target"][0] == 6 + 3 and set(widths["target"][1:]) <= {1, 2, 3, 4}
        assert sum(widths["target"]) == 6 + len(widths["target"]) - 1 + out.drafted
        assert widths["draft"][0] == 6 and set(widths["draft"][1:]) == {1, 2}
        assert 0 < out.accepted < out.drafted

    @pytest.mark.parametrize("seed", range(6))
    def test_a_stop_ends_it_wherever_it_stands(self, seed):
        target, draft = make(1), make(2)
        ids = torch.tensor([[0, 1]])
        out = speculative_generate(
            target, draft, ids, 25, n_draft=4, stop=[3, 2], generator=seeded(seed)
        )
        new = out.ids[0, 2:].tolist()
        assert out.new_tokens == len(new)
        assert not {2, 3} & set(new[:-1]) and (new[-1] in (2, 3) or len(new) == 25)

    def test_the_modes_are_put_back_and_a_seed_reproduces(self):
        target, draft = make(1, dropout=0.5), make(2, dropout=0.5)
        target.train()
        ids = torch.tensor([[0, 1]])
        a, b, c = (
            speculative_generate(target, draft, ids, 20, generator=seeded(s)).ids for s in (1, 1, 2)
        )
        assert torch.equal(a, b) and not torch.equal(a, c)
        assert target.training and not draft.training

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"ids": torch.ones(2, 3).long()}, "one row at a time, got 2"),
            ({"ids": torch.ones(1, 0).long()}, "at least one token to continue from"),
            ({"draft": make(2, 5)}, "draft's vocabulary has 5 tokens and the model's 4"),
            ({"n_draft": 0}, "n_draft=0 must be at least 1"),
            ({"max_new_tokens": 0}, "max_new_tokens=0"),
            (
                {"max_new_tokens": 31},
                "2 prompt tokens and 31 new ones overflow the model's context",
            ),
            ({"draft": make(2, context_length=8)}, "overflow the draft's context of 8; .* most 6"),
            ({"stop": [4]}, "stop id 4 is outside"),
            ({"cache": "rolling"}, "cache='rolling' cannot take refused tokens back"),
        ],
    )
    def test_bad_input_is_named(self, arguments, message):
        given = {
            "model": make(1), "draft": make(2), "ids": torch.tensor([[1, 2]]), "max_new_tokens": 10
        }  # fmt: skip
        with pytest.raises(ValueError, match=message):
            speculative_generate(**given | arguments)
