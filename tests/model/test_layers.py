"""Linear, Embedding, Dropout and the activations against torch.nn, plain loops and autograd."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from llmcourse.model.layers import (
    ACTIVATIONS,
    Dropout,
    Embedding,
    Linear,
    check_ids,
    drop,
    gelu,
    gelu_reference,
    gelu_tanh,
    gelu_tanh_reference,
    relu,
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def gradients(output, *tensors):
    """Of a weighting of the output that tells every element apart."""
    weights = torch.linspace(-1, 2, output.numel(), dtype=output.dtype).reshape(output.shape)
    return torch.autograd.grad((output * weights).sum(), tensors)


class TestLinear:
    @pytest.mark.parametrize("shape", [(5,), (1, 5), (3, 5), (1, 1, 5), (2, 7, 5), (2, 1, 3, 5)])
    @pytest.mark.parametrize("bias", [True, False])
    def test_equals_torch_gradients_included(self, shape, bias):
        ours = Linear(5, 3, bias, std=1.0, generator=seeded()).double()
        theirs = nn.Linear(5, 3, bias).double()
        if bias:
            ours.bias.data.copy_(torch.tensor([0.5, -1.0, 2.0]))
        theirs.load_state_dict(ours.state_dict())
        x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
        torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=1e-14)
        mine = gradients(ours(x), x, *ours.parameters())
        for a, b in zip(mine, gradients(theirs(x), x, *theirs.parameters()), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-13)

    def test_is_a_weighted_sum(self):
        layer = Linear(3, 2, std=1.0, generator=seeded())
        layer.bias.data.copy_(torch.tensor([10.0, 20.0]))
        x, w, b = [1.0, -2.0, 0.5], layer.weight.tolist(), layer.bias.tolist()
        wanted = [sum(w[o][i] * x[i] for i in range(3)) + b[o] for o in range(2)]
        assert layer(torch.tensor(x)).tolist() == pytest.approx(wanted, abs=1e-5)

    def test_starts_normal_with_the_width_asked_for_and_zero_biases(self):
        layer = Linear(300, 200, std=0.05, generator=seeded(1))
        assert layer.weight.std().item() == pytest.approx(0.05, rel=0.02)
        assert layer.weight.mean().item() == pytest.approx(0.0, abs=0.001)
        # A uniform distribution of the same width would never leave 1.74 standard deviations.
        assert (layer.weight.abs() > 0.1).float().mean().item() == pytest.approx(0.0455, abs=0.005)
        assert layer.bias.abs().max() == 0
        again = Linear(300, 200, std=0.05, generator=seeded(1))
        assert torch.equal(layer.weight, again.weight)

    def test_wrong_width_is_named(self):
        with pytest.raises(ValueError, match=r"inputs of width 5, got \(2, 4\)"):
            Linear(5, 3)(torch.zeros(2, 4))

    def test_repr(self):
        assert repr(Linear(5, 3, bias=False)) == "Linear(5 -> 3, bias=False)"


class TestEmbedding:
    @pytest.mark.parametrize("shape", [(1, 1), (2, 7), (6,), (2, 0)])
    def test_equals_torch_gradients_included(self, shape):
        ours = Embedding(11, 4, generator=seeded()).double()
        theirs = nn.Embedding.from_pretrained(ours.weight.detach().clone(), freeze=False)
        ids = torch.randint(11, shape, generator=seeded())
        assert torch.equal(ours(ids), theirs(ids))
        a, b = gradients(ours(ids), ours.weight), gradients(theirs(ids), theirs.weight)
        torch.testing.assert_close(a[0], b[0], rtol=0, atol=1e-14)

    def test_a_repeated_id_gathers_all_its_gradients(self):
        table = Embedding(4, 2, generator=seeded())
        table(torch.tensor([1, 3, 1, 1])).sum().backward()
        assert table.weight.grad.tolist() == [[0, 0], [3, 3], [0, 0], [1, 1]]

    def test_int32_ids(self):
        table = Embedding(4, 2)
        ids = torch.tensor([[1, 3]])
        assert torch.equal(table(ids.int()), table(ids))

    @pytest.mark.parametrize(
        ("ids", "message"),
        [
            ([[0, 1], [2, 11]], r"token id 11 at position \(1, 1\).*from 0 to 10"),
            ([[0, -1], [99, 0]], r"token id -1 at position \(0, 1\).*from 0 to 10"),
            ([-100], r"token id -100 at position \(0,\)"),
        ],
    )
    def test_an_id_outside_the_table_is_named_with_its_place(self, ids, message):
        with pytest.raises(ValueError, match=message):
            Embedding(11, 4)(torch.tensor(ids))

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bool, torch.uint8])
    def test_other_dtypes_are_refused(self, dtype):
        with pytest.raises(ValueError, match=rf"int64 or int32, got {dtype}; use \.long\(\)"):
            Embedding(11, 4)(torch.ones(1, 2).to(dtype))

    def test_check_ids_accepts_the_edges(self):
        check_ids(torch.tensor([[0, 10]]), 11)
        check_ids(torch.empty(1, 0, dtype=torch.int64), 11)


class TestDropout:
    def test_keeps_the_expected_value_and_drops_the_share_asked_for(self):
        x = torch.full((400, 500), 3.0)
        y = drop(x, 0.3, seeded())
        assert y.unique().tolist() == pytest.approx([0.0, 3.0 / 0.7])
        # 200,000 draws: five standard deviations are 0.005 for the share, 0.022 for the mean.
        assert (y == 0).float().mean().item() == pytest.approx(0.3, abs=0.005)
        assert y.mean().item() == pytest.approx(3.0, abs=0.022)

    def test_comes_from_the_generator(self):
        x = torch.ones(100)
        first, second = drop(x, 0.5, seeded(1)), drop(x, 0.5, seeded(1))
        assert torch.equal(first, second)
        assert not torch.equal(first, drop(x, 0.5, seeded(2)))
        generator = seeded(1)
        assert not torch.equal(drop(x, 0.5, generator), drop(x, 0.5, generator))
        before = torch.random.get_rng_state()
        drop(x, 0.5, generator)
        assert torch.equal(before, torch.random.get_rng_state()), "the global state was touched"

    def test_gradient_flows_through_what_was_kept_only(self):
        x = torch.ones(50, requires_grad=True)
        y = drop(x, 0.5, seeded())
        y.sum().backward()
        assert torch.equal(x.grad, y.detach())  # inputs are 1, so output and slope are equal

    def test_does_nothing_at_evaluation_or_at_zero(self):
        layer, x = Dropout(0.9, seeded()), torch.randn(5)
        assert layer.eval()(x) is x
        assert Dropout(0.0).train()(x) is x
        assert (layer.train()(torch.ones(1000)) == 0).float().mean() > 0.8

    def test_keeps_the_dtype(self):
        for dtype in (torch.float64, torch.bfloat16):
            assert drop(torch.ones(3, dtype=dtype), 0.5).dtype == dtype


class TestActivations:
    x = torch.linspace(-8, 8, 1601, dtype=torch.float64)

    def test_gelu_is_x_times_the_normal_distribution_function(self):
        wanted = [x * 0.5 * math.erfc(-x / math.sqrt(2)) for x in self.x.tolist()]
        wanted = torch.tensor(wanted, dtype=torch.float64)
        torch.testing.assert_close(gelu_reference(self.x), wanted, rtol=0, atol=1e-14)
        torch.testing.assert_close(gelu(self.x), wanted, rtol=0, atol=1e-14)

    def test_gelu_tanh_is_the_published_approximation(self):
        wanted = [
            0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)))
            for x in self.x.tolist()
        ]
        wanted = torch.tensor(wanted, dtype=torch.float64)
        torch.testing.assert_close(gelu_tanh_reference(self.x), wanted, rtol=0, atol=1e-14)
        torch.testing.assert_close(gelu_tanh(self.x), wanted, rtol=0, atol=1e-14)

    def test_the_approximation_is_as_good_as_its_docstring_says_and_no_better(self):
        worst = (gelu(self.x) - gelu_tanh(self.x)).abs().max().item()
        assert 4e-4 < worst < 5e-4

    def test_relu(self):
        assert relu(torch.tensor([-2.0, -0.0, 0.0, 3.5])).tolist() == [0, 0, 0, 3.5]

    @pytest.mark.parametrize(
        ("fast", "reference"), [(gelu, gelu_reference), (gelu_tanh, gelu_tanh_reference)]
    )
    def test_fast_and_reference_have_the_same_gradients(self, fast, reference):
        x = self.x.clone().requires_grad_()
        a = torch.autograd.grad(fast(x).sum(), x)[0]
        b = torch.autograd.grad(reference(x).sum(), x)[0]
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)
        some = torch.randn(7, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(fast, some)

    def test_relu_has_the_gradient_of_torch_away_from_zero(self):
        x = torch.tensor([-2.0, -1e-6, 1e-6, 3.0], requires_grad=True)
        assert torch.autograd.grad(relu(x).sum(), x)[0].tolist() == [0, 0, 1, 1]

    def test_the_config_offers_exactly_these(self):
        from llmcourse.model.config import CHOICES

        assert set(CHOICES["activation"]) == set(ACTIVATIONS)
