"""Sampling rules against plain loops over Python floats, and draws against their probabilities."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llmcourse.generate import Sampling
from llmcourse.generate.sampling import (
    keep_min_p,
    keep_top_k,
    keep_top_p,
    keep_vocabulary,
    next_token_probabilities,
    penalise_repetition,
    sample_token,
    scale_temperature,
)

quick = settings(max_examples=60, deadline=None, derandomize=True)
INF = math.inf
# Halves are exact in float32, so ties are ties and sums are exact enough for plain loops.
rows = st.lists(st.integers(-12, 12).map(lambda n: n / 2), min_size=1, max_size=9)


def softmax(row):
    total = sum(math.exp(x) for x in row)
    return [math.exp(x) / total for x in row]


def ranked(row):
    """Ids, likeliest first; of equals the lower id."""
    return sorted(range(len(row)), key=lambda i: (-row[i], i))


def only(row, kept):
    return [x if i in kept else -INF for i, x in enumerate(row)]


class TestRulesAgainstLoops:
    @quick
    @given(rows, st.integers(1, 12))
    def test_top_k(self, row, k):
        out = keep_top_k(torch.tensor([row]), k)[0].tolist()
        assert out == only(row, ranked(row)[:k])

    @quick
    @given(rows, st.floats(0.01, 1.0))
    def test_top_p(self, row, p):
        probabilities, kept, held = softmax(row), [], 0.0
        margin = min(
            abs(sum(probabilities[i] for i in ranked(row)[:n]) - p) for n in range(len(row) + 1)
        )
        if margin < 1e-9:
            return  # rounding decides
        for i in ranked(row):
            if held >= p:
                break
            kept.append(i)
            held += probabilities[i]
        assert keep_top_p(torch.tensor([row]), p)[0].tolist() == only(row, kept)
        # The definition: a set that holds p, and the smallest such set.
        assert held >= p - 1e-9 and held - probabilities[kept[-1]] < p

    @quick
    @given(rows, st.floats(0.0, 1.0))
    def test_min_p(self, row, min_p):
        p = softmax(row)
        if any(abs(x / max(p) - min_p) < 1e-6 for x in p):
            return
        kept = [i for i, x in enumerate(p) if x / max(p) >= min_p]
        assert keep_min_p(torch.tensor([row]), min_p)[0].tolist() == only(row, kept)

    @quick
    @given(rows, st.floats(0.2, 5.0), st.lists(st.integers(0, 8), min_size=1, max_size=6))
    def test_repetition_penalty(self, row, penalty, previous):
        previous = [i % len(row) for i in previous]
        wanted = [
            (x / penalty if x > 0 else x * penalty) if i in previous else x
            for i, x in enumerate(row)
        ]
        out = penalise_repetition(torch.tensor([row]), torch.tensor([previous]), penalty)
        assert out[0].tolist() == pytest.approx(wanted, rel=1e-6)

    @quick
    @given(rows, st.floats(0.05, 20.0))
    def test_temperature(self, row, temperature):
        out = scale_temperature(torch.tensor([row]), temperature)[0].tolist()
        assert out == pytest.approx([x / temperature for x in row], rel=1e-6)

    @quick
    @given(
        rows, st.floats(0.1, 3.0), st.none() | st.integers(1, 9), st.none() | st.floats(0.05, 0.95),
        st.none() | st.floats(0.01, 0.9),
    )  # fmt: skip
    def test_all_together_in_the_stated_order(self, row, temperature, k, p, m):
        sampling = Sampling(temperature=temperature, top_k=k, top_p=p, min_p=m)
        out = next_token_probabilities(torch.tensor([row]), sampling)[0]
        assert out.sum().item() == pytest.approx(1.0, abs=1e-6)
        logits = torch.tensor([row]) / temperature
        if k is not None:
            logits = keep_top_k(logits, k)
        if p is not None:
            logits = keep_top_p(logits, p)
        if m is not None:
            logits = keep_min_p(logits, m)
        assert out.tolist() == pytest.approx(logits.softmax(-1)[0].tolist(), abs=1e-6)
        assert out.argmax() == ranked(row)[0] or row[out.argmax()] == max(row)


class TestByHand:
    logits = torch.tensor([[0.4, 0.3, 0.2, 0.1]]).log()

    def kept(self, logits):
        return [i for i, x in enumerate(logits[0].tolist()) if x > -INF]

    def test_top_p_keeps_the_token_that_crosses(self):
        assert self.kept(keep_top_p(self.logits, 0.39)) == [0]
        assert self.kept(keep_top_p(self.logits, 0.41)) == [0, 1]  # 0.4 < 0.41 <= 0.7
        assert self.kept(keep_top_p(self.logits, 0.69)) == [0, 1]
        assert self.kept(keep_top_p(self.logits, 0.71)) == [0, 1, 2]
        assert self.kept(keep_top_p(self.logits, 1e-9)) == [0]

    def test_top_p_of_1_forbids_nothing_in_a_large_vocabulary(self):
        logits = torch.randn(2, 50_257) * 3
        assert torch.equal(keep_top_p(logits, 1.0), logits)
        kept = (keep_top_p(logits, 0.9) > -INF).sum(-1)
        held = logits.double().softmax(-1).sort(descending=True).values.cumsum(-1)
        for row in range(2):
            n = int(kept[row])
            assert held[row, n - 1] >= 0.9 - 1e-12 > held[row, n - 2] - 1e-12

    def test_min_p_is_relative_to_the_likeliest(self):
        assert self.kept(keep_min_p(self.logits, 0.7)) == [0, 1]  # 0.3 / 0.4 = 0.75
        assert self.kept(keep_min_p(self.logits, 0.8)) == [0]
        assert self.kept(keep_min_p(self.logits, 0.0)) == [0, 1, 2, 3]
        assert self.kept(keep_min_p(self.logits, 1.0)) == [0]
        assert self.kept(keep_min_p(torch.zeros(1, 3), 1.0)) == [0, 1, 2]

    def test_top_k_beyond_the_vocabulary_keeps_all(self):
        for k in (4, 5, 10**9):
            assert torch.equal(keep_top_k(self.logits, k), self.logits)

    def test_top_k_keeps_exactly_k_of_equals(self):
        assert self.kept(keep_top_k(torch.zeros(1, 5), 2)) == [0, 1]
        assert self.kept(keep_top_k(torch.tensor([[1.0, 2.0, 1.0, 2.0, 1.0]]), 3)) == [0, 1, 3]

    def test_the_penalty_lowers_negative_logits_too(self):
        """The trap: dividing a negative logit by 2 would make its token likelier."""
        logits = torch.tensor([[2.0, -2.0, 0.0, 1.0]])
        out = penalise_repetition(logits, torch.tensor([[0, 1, 1, 2]]), 2.0)
        assert out.tolist() == [[1.0, -4.0, 0.0, 1.0]]
        assert penalise_repetition(logits, torch.tensor([[3]]), 1.0).tolist() == logits.tolist()
        assert logits.tolist() == [[2.0, -2.0, 0.0, 1.0]], "the input was changed"

    def test_a_forbidden_token_stays_forbidden(self):
        logits = torch.tensor([[1.0, -INF, 0.0]])
        out = next_token_probabilities(
            logits,
            Sampling(temperature=2.0, top_k=3, top_p=0.999, min_p=0.01, repetition_penalty=1.5),
            torch.tensor([[1]]),
        )
        assert out[0, 1] == 0 and out.sum().item() == pytest.approx(1.0)

    def test_temperature_zero_is_the_first_of_the_likeliest(self):
        logits = torch.tensor([[1.0, 3.0, 3.0], [0.0, 0.0, 0.0]])
        out = next_token_probabilities(logits, Sampling.greedy())
        assert out.tolist() == [[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]
        assert Sampling.greedy() == Sampling(temperature=0)

    def test_temperature_reshapes_as_powers(self):
        out = next_token_probabilities(self.logits, Sampling(temperature=0.5))
        squares = [p * p for p in (0.4, 0.3, 0.2, 0.1)]
        assert out[0].tolist() == pytest.approx([s / sum(squares) for s in squares], abs=1e-6)
        hot = next_token_probabilities(self.logits, Sampling(temperature=1e6))
        assert hot[0].tolist() == pytest.approx([0.25] * 4, abs=1e-5)
        cold = next_token_probabilities(self.logits, Sampling(temperature=1e-6))
        assert cold[0].tolist() == [1.0, 0.0, 0.0, 0.0]

    def test_top_p_counts_after_temperature(self):
        # Flattened, the first two hold less than 0.65; untouched, they hold 0.7.
        assert (next_token_probabilities(self.logits, Sampling(top_p=0.65))[0] > 0).sum() == 2
        sampling = Sampling(temperature=3.0, top_p=0.65)
        assert (next_token_probabilities(self.logits, sampling)[0] > 0).sum() == 3

    def test_the_default_is_the_models_own_distribution(self):
        logits = torch.randn(3, 50)
        assert torch.equal(next_token_probabilities(logits, Sampling()), logits.softmax(-1))
        half = next_token_probabilities(logits.bfloat16(), Sampling())
        assert half.dtype == torch.float32

    def test_rows_are_independent(self):
        logits, previous = torch.randn(4, 20) * 3, torch.randint(20, (4, 6))
        sampling = Sampling(0.8, top_k=9, top_p=0.8, min_p=0.05, repetition_penalty=1.4)
        together = next_token_probabilities(logits, sampling, previous)
        for row in range(4):
            part = slice(row, row + 1)
            alone = next_token_probabilities(logits[part], sampling, previous[part])
            torch.testing.assert_close(together[part], alone, rtol=0, atol=1e-7)


class TestBadInput:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"temperature": -0.1}, r"temperature=-0.1 must be a number of at least 0"),
            ({"temperature": float("nan")}, r"temperature=nan must be"),
            ({"temperature": INF}, r"temperature=inf must be"),
            ({"temperature": 1e-30}, r"temperature=1e-30 would overflow.*use 0 for greedy"),
            ({"top_k": 0}, r"top_k=0 must be a whole number of at least 1, or None"),
            ({"top_k": 2.5}, r"top_k=2.5 must be a whole number"),
            ({"top_p": 0.0}, r"top_p=0.0 must be a probability in \(0, 1\]"),
            ({"top_p": 1.1}, r"top_p=1.1 must be a probability"),
            ({"min_p": -0.5}, r"min_p=-0.5 must be a share in \[0, 1\]"),
            ({"min_p": 1.5}, r"min_p=1.5 must be a share"),
            ({"repetition_penalty": 0.0}, r"repetition_penalty=0.0 must be above 0"),
            ({"repetition_penalty": INF}, r"repetition_penalty=inf must be above 0"),
        ],
    )
    def test_values_out_of_range_are_named(self, options, message):
        with pytest.raises(ValueError, match=message):
            Sampling(**options)

    def test_a_penalty_needs_what_was_said(self):
        with pytest.raises(ValueError, match="repetition penalty needs the previous ids"):
            next_token_probabilities(torch.zeros(1, 3), Sampling(repetition_penalty=2.0))

    @pytest.mark.parametrize(
        "row", [[0.0, float("nan")], [0.0, INF], [-INF, -INF]], ids=["nan", "inf", "no choice"]
    )
    @pytest.mark.parametrize("sampling", [Sampling(), Sampling.greedy()])
    def test_logits_that_are_no_numbers_are_refused(self, row, sampling):
        with pytest.raises(ValueError, match="logits contain NaN or infinity"):
            next_token_probabilities(torch.tensor([[1.0, 2.0], row]), sampling)


class TestSampleToken:
    def test_chi_square_against_the_probabilities(self):
        p = torch.tensor([0.5, 0.0, 0.2, 0.15, 0.1, 0.049, 0.001])
        n = 20_000
        draws = sample_token(p.expand(n, -1), torch.Generator().manual_seed(0))
        assert draws.shape == (n,) and draws.dtype == torch.int64
        counts = torch.bincount(draws, minlength=7)
        assert counts[1] == 0, "a token of probability 0 was drawn"
        live = p > 0
        expected = n * p[live]
        chi2 = ((counts[live] - expected) ** 2 / expected).sum().item()
        assert chi2 < 20.5  # 5 degrees of freedom: exceeded once in a thousand seeds

    def test_a_wrong_distribution_would_be_noticed(self):
        n = 20_000
        draws = sample_token(
            torch.tensor([0.52, 0.48]).expand(n, -1), torch.Generator().manual_seed(0)
        )
        counts = torch.bincount(draws, minlength=2)
        assert ((counts - n / 2) ** 2 / (n / 2)).sum() > 10.8

    def test_the_same_generator_state_draws_the_same(self):
        p = torch.rand(64, 30).softmax(-1)
        a, b, c = (sample_token(p, torch.Generator().manual_seed(s)) for s in (1, 1, 2))
        assert torch.equal(a, b) and not torch.equal(a, c)
        before = torch.random.get_rng_state()
        sample_token(p, torch.Generator().manual_seed(1))
        assert torch.equal(before, torch.random.get_rng_state())

    def test_certainty_is_certain_at_either_end_of_the_vocabulary(self):
        for token in (0, 3, 6):
            p = torch.zeros(500, 7)
            p[:, token] = 1.0
            assert (sample_token(p, torch.Generator().manual_seed(0)) == token).all()

    def test_one_uniform_number_per_row_whatever_the_vocabulary(self):
        """Unused tokens at the end change nothing: the draw inverts the running sum."""
        p = torch.rand(50, 10).softmax(-1)
        padded = torch.cat([p, torch.zeros(50, 90)], dim=-1)
        a, b = (sample_token(x, torch.Generator().manual_seed(5)) for x in (p, padded))
        assert torch.equal(a, b)
        points = torch.rand(50, 1, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
        for row in range(50):
            held, wanted = 0.0, None
            total = math.fsum(p[row].double().tolist())
            for token, share in enumerate(p[row].double().tolist()):
                held += share
                if wanted is None and held > points[row].item() * total:
                    wanted = token
            assert a[row] == wanted


class TestVocabulary:
    def test_ids_that_stand_for_nothing_are_never_drawn(self):
        logits = torch.tensor([[0.0, 1.0, 2.0, 9.0], [5.0, 0.0, 0.0, 5.0]])
        kept = keep_vocabulary(logits, 3)
        assert kept[:, :3].equal(logits[:, :3]) and (kept[:, 3] == -INF).all()
        probabilities = next_token_probabilities(logits, Sampling(vocabulary=3))
        torch.testing.assert_close(probabilities[:, :3], logits[:, :3].softmax(-1))
        assert (probabilities[:, 3] == 0).all()
        with pytest.raises(ValueError, match="vocabulary=0"):
            Sampling(vocabulary=0)
