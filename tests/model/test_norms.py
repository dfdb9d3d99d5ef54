"""Layer normalisation against torch.nn, a plain loop and numerical derivatives."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from llmcourse.model.norms import (
    LayerNorm,
    layer_norm,
    layer_norm_reference,
    rms_norm,
    rms_norm_reference,
)


def by_hand(row, weight, bias, eps):
    mean = sum(row) / len(row)
    variance = sum((x - mean) ** 2 for x in row) / len(row)
    return [(x - mean) / math.sqrt(variance + eps) * w + b for x, w, b in zip(row, weight, bias)]


@pytest.mark.parametrize("shape", [(5,), (1, 1, 5), (2, 7, 5), (3, 1)])
def test_all_three_equal_the_loop_and_torch_gradients_included(shape):
    width = shape[-1]
    x = (torch.randn(shape, dtype=torch.float64) * 3 + 10).requires_grad_()
    weight = torch.randn(width, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(width, dtype=torch.float64, requires_grad=True)
    rows = x.reshape(-1, width).tolist()
    wanted = [by_hand(row, weight.tolist(), bias.tolist(), 1e-3) for row in rows]
    wanted = torch.tensor(wanted, dtype=torch.float64).reshape(shape)

    module = LayerNorm(width, eps=1e-3).double()
    theirs = nn.LayerNorm(width, eps=1e-3).double()
    for one in (module, theirs):
        one.weight.data.copy_(weight.data)
        one.bias.data.copy_(bias.data)
    outputs = [
        layer_norm(x, weight, bias, 1e-3),
        layer_norm_reference(x, weight, bias, 1e-3),
        module(x),
        theirs(x),
    ]
    scale = torch.linspace(-1, 1, x.numel(), dtype=torch.float64).reshape(shape)
    slopes = [
        torch.autograd.grad((output * scale).sum(), x, retain_graph=True)[0] for output in outputs
    ]
    for output, slope in zip(outputs, slopes):
        torch.testing.assert_close(output, wanted, rtol=0, atol=1e-12)
        torch.testing.assert_close(slope, slopes[-1], rtol=0, atol=1e-11)
    for ours, torchs in zip(
        torch.autograd.grad((outputs[1] * scale).sum(), (weight, bias)),
        torch.autograd.grad((outputs[3] * scale).sum(), theirs.parameters()),
    ):
        torch.testing.assert_close(ours, torchs, rtol=0, atol=1e-12)


def test_the_variance_is_the_biased_one():
    x = torch.tensor([1.0, 3.0], dtype=torch.float64)  # mean 2, biased variance 1, unbiased 2
    assert layer_norm(x, None, None, 0.0).tolist() == pytest.approx([-1.0, 1.0])
    assert layer_norm_reference(x, None, None, 0.0).tolist() == pytest.approx([-1.0, 1.0])


def test_eps_stands_inside_the_root():
    x = torch.tensor([0.0, 0.0, 6.0], dtype=torch.float64)  # mean 2, variance 8
    wanted = [-2 / 3, -2 / 3, 4 / 3]  # divided by sqrt(8 + 1); sqrt(8) + 1 would give -0.52
    assert layer_norm(x, None, None, 1.0).tolist() == pytest.approx(wanted)
    assert layer_norm_reference(x, None, None, 1.0).tolist() == pytest.approx(wanted)


def test_equal_numbers_give_the_bias_and_finite_gradients():
    x = torch.full((2, 4), 7.0, requires_grad=True)
    layer = LayerNorm(4)
    layer.bias.data.fill_(0.25)
    y = layer(x)
    assert torch.equal(y, torch.full((2, 4), 0.25))
    y.pow(3).sum().backward()
    assert x.grad.isfinite().all()


def test_the_output_has_mean_0_and_variance_1_whatever_comes_in():
    x = torch.randn(50, 64, dtype=torch.float64) * 100 - 1000
    y = layer_norm(x, None, None)
    assert y.mean(-1).abs().max() < 1e-10
    assert (y.var(-1, unbiased=False) - 1).abs().max() < 1e-6


def test_gradcheck():
    x = torch.randn(2, 5, dtype=torch.float64, requires_grad=True)
    w, b = (torch.randn(5, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(layer_norm, (x, w, b))
    assert torch.autograd.gradcheck(layer_norm_reference, (x, w, b))


def test_starts_as_the_plain_norm():
    x = torch.randn(3, 6)
    assert torch.equal(LayerNorm(6)(x), layer_norm(x, None, None))
    assert repr(LayerNorm(6)) == "LayerNorm(6, eps=1e-05)"


class TestRMSNormGradients:
    """The backward pass is written by hand, so every way into it is checked."""

    @pytest.mark.parametrize("shape", [(5,), (1, 1, 5), (2, 7, 5), (3, 1)])
    @pytest.mark.parametrize("weighted", [True, False])
    def test_equal_those_of_the_reference_and_numerical_ones(self, shape, weighted):
        x = (torch.randn(shape, dtype=torch.float64) * 3 + 1).requires_grad_()
        weight = torch.randn(shape[-1], dtype=torch.float64, requires_grad=True)
        inputs = (x, weight) if weighted else (x,)
        slope = torch.linspace(-1, 2, x.numel(), dtype=torch.float64).reshape(shape)
        found = []
        for norm in (rms_norm, rms_norm_reference):
            y = norm(x, weight if weighted else None, 1e-3)
            found.append([y, *torch.autograd.grad((y * slope).sum(), inputs)])
        for mine, wanted in zip(*found, strict=True):
            torch.testing.assert_close(mine, wanted, rtol=0, atol=1e-12)
        one = rms_norm if weighted else lambda x: rms_norm(x, None)
        assert torch.autograd.gradcheck(one, inputs)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_narrow_inputs_are_computed_in_float32(self, dtype):
        x = torch.randn(4, 64).to(dtype).requires_grad_()
        weight = torch.randn(64, requires_grad=True)
        slope = torch.randn(4, 64).to(dtype)
        y = rms_norm(x, weight)
        mine = torch.autograd.grad(y, (x, weight), slope)
        wide = x.detach().double().requires_grad_()
        wanted_y = rms_norm_reference(wide, weight.double())
        wanted = torch.autograd.grad(wanted_y, (wide, weight), slope.double())
        assert (y.dtype, mine[0].dtype, mine[1].dtype) == (dtype, dtype, torch.float32)
        eps = torch.finfo(dtype).eps
        torch.testing.assert_close(y.double(), wanted_y, rtol=eps, atol=eps)
        torch.testing.assert_close(mine[0].double(), wanted[0], rtol=eps, atol=2 * eps)
        torch.testing.assert_close(mine[1], wanted[1], rtol=1e-4, atol=1e-4)

    def test_with_and_without_gradients_the_result_is_the_same(self):
        x, weight = torch.randn(3, 48), torch.randn(48)
        with torch.no_grad():
            quiet = rms_norm(x, weight)
        torch.testing.assert_close(
            rms_norm(x.requires_grad_(), weight), quiet, rtol=1e-6, atol=1e-6
        )

    def test_a_row_of_zeros_has_finite_gradients(self):
        x = torch.zeros(2, 4, requires_grad=True)
        rms_norm(x, torch.ones(4)).sum().backward()
        torch.testing.assert_close(x.grad, torch.full((2, 4), 1e-5**-0.5))

    def test_second_derivatives_are_refused_rather_than_wrong(self):
        x = torch.randn(2, 4, requires_grad=True)
        (first,) = torch.autograd.grad(rms_norm(x, None).square().sum(), x, create_graph=True)
        with pytest.raises(RuntimeError, match="once_differentiable"):
            first.sum().backward()
