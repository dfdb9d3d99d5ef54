"""Decay groups, clipping against torch's, and Muon against a singular value decomposition."""

from __future__ import annotations

import math

import pytest
import torch

from llmcourse.model import ModelConfig, Transformer
from llmcourse.model.experts_config import Experts
from llmcourse.train import TrainConfig
from llmcourse.train.muon import Muon, orthogonalise
from llmcourse.train.optimizers import (
    clip_gradient_norm,
    decay_groups,
    hidden_matrices,
    make_optimizers,
)


def make(**changes):
    config = ModelConfig(
        vocab_size=7, context_length=6, n_layers=2, n_heads=2, d_model=8, **changes
    )
    return Transformer(config, torch.Generator().manual_seed(0))


def names_of(model, parameters):
    known = {id(p): name for name, p in model.named_parameters()}
    return {known[id(p)] for p in parameters}


class TestGroups:
    def test_matrices_decay_and_vectors_do_not(self):
        model = make(tie_embeddings=False)
        decayed, spared = decay_groups(model.parameters(), 0.3)
        assert (decayed["weight_decay"], spared["weight_decay"]) == (0.3, 0.0)
        every = {name for name, _ in model.named_parameters()}
        spared_names = {n for n in every if "norm" in n or n.endswith("bias")}
        assert names_of(model, spared["params"]) == spared_names
        assert names_of(model, decayed["params"]) == every - spared_names
        assert len(decayed["params"]) + len(spared["params"]) == len(every), "one is there twice"

    def test_frozen_parameters_are_left_out(self):
        model = make()
        model.embedding.weight.requires_grad_(False)
        groups = decay_groups(model.parameters(), 0.1)
        assert "embedding.weight" not in names_of(model, [p for g in groups for p in g["params"]])

    def test_adamw_takes_everything(self):
        model = make()
        [optimizer] = make_optimizers(model, TrainConfig(steps=100, beta1=0.8, beta2=0.97))
        assert type(optimizer) is torch.optim.AdamW
        held = [p for group in optimizer.param_groups for p in group["params"]]
        assert names_of(model, held) == {name for name, _ in model.named_parameters()}
        assert all(group["betas"] == (0.8, 0.97) for group in optimizer.param_groups)

    def test_muon_takes_the_matrices_of_the_blocks_and_adamw_the_rest(self):
        model = make(tie_embeddings=False)
        config = TrainConfig(steps=100, optimizer="muon", muon_learning_rate=0.05)
        muon, adamw = make_optimizers(model, config)
        kinds = ("attention.qkv", "attention.out", "feed_forward.up", "feed_forward.down")
        wanted = {f"blocks.{layer}.{kind}.weight" for layer in (0, 1) for kind in kinds}
        assert names_of(model, muon.param_groups[0]["params"]) == wanted
        assert names_of(model, hidden_matrices(model)) == wanted
        rest = [p for group in adamw.param_groups for p in group["params"]]
        every = {name for name, _ in model.named_parameters()}
        assert names_of(model, rest) == every - wanted and len(rest) == len(every - wanted)
        assert muon.param_groups[0]["lr"] == 0.05 and adamw.param_groups[0]["lr"] == 1e-3

    SPARSE = Experts(4, 2, n_shared=1, noise=True, selection_bias=True, layers=(1,))

    def test_muon_takes_stacked_experts_and_no_router(self):
        model = make(experts=self.SPARSE)
        config = TrainConfig(steps=100, optimizer="muon")
        muon, adamw = make_optimizers(model, config)
        taken = names_of(model, muon.param_groups[0]["params"])
        inside = "blocks.1.feed_forward."
        assert {n for n in taken if n.startswith(inside)} == {
            f"{inside}{leaf}"
            for leaf in ("experts.up", "experts.down", "shared.up.weight", "shared.down.weight")
        }
        rest = names_of(model, [p for g in adamw.param_groups for p in g["params"]])
        assert {f"{inside}router.weight", f"{inside}router.noise_weight"} <= rest
        assert not taken & rest
        every = {name for name, p in model.named_parameters() if p.requires_grad}
        assert taken | rest == every

    @pytest.mark.parametrize("optimizer", ["adamw", "sgd", "muon"])
    def test_stacked_biases_are_vectors(self, optimizer):
        model = make(experts=self.SPARSE)
        config = TrainConfig(steps=100, optimizer=optimizer, weight_decay=0.3)
        optimizers = make_optimizers(model, config)
        groups = [group for o in optimizers for group in o.param_groups]
        spared = [p for group in groups if group["weight_decay"] == 0 for p in group["params"]]
        every = {name for name, p in model.named_parameters() if p.requires_grad}
        names = {n for n in every if "norm." in n or n.endswith("bias")}
        assert names_of(model, spared) == names
        assert {"blocks.1.feed_forward.experts.up_bias", "final_norm.weight"} <= names
        count = sum(len(group["params"]) for group in groups)
        assert count == len(every), "one is there twice, or nowhere"

    @pytest.mark.parametrize("optimizer", ["adamw", "sgd", "muon"])
    def test_no_optimiser_takes_the_selection_bias(self, optimizer):
        model = make(experts=self.SPARSE)
        config = TrainConfig(steps=100, optimizer=optimizer)
        held = [
            p for o in make_optimizers(model, config) for g in o.param_groups for p in g["params"]
        ]
        every = {name for name, _ in model.named_parameters()}
        assert every - names_of(model, held) == {"blocks.1.feed_forward.router.selection_bias"}


class TestClip:
    def parameters(self, scale, seed=0):
        generator = torch.Generator().manual_seed(seed)
        out = []
        for shape in ((3, 4), (5,), (1,), (2, 2, 2)):
            p = torch.zeros(shape, dtype=torch.float64, requires_grad=True)
            p.grad = torch.randn(shape, dtype=torch.float64, generator=generator) * scale
            out.append(p)
        return [*out, torch.zeros(3, requires_grad=True)]  # the last has no gradient

    @pytest.mark.parametrize("scale", [1e-3, 1.0, 1e6])
    @pytest.mark.parametrize("max_norm", [0.5, 10.0, math.inf])
    def test_equals_torch(self, scale, max_norm):
        ours, theirs = self.parameters(scale), self.parameters(scale)
        norm = clip_gradient_norm(ours, max_norm)
        wanted = torch.nn.utils.clip_grad_norm_(theirs, max_norm).item()
        flat = torch.cat([p.grad.flatten() for p in self.parameters(scale)[:-1]])
        assert norm == pytest.approx(wanted) == pytest.approx(math.sqrt(flat.square().sum()))
        for a, b in zip(ours[:-1], theirs[:-1]):
            torch.testing.assert_close(a.grad, b.grad, rtol=3e-6, atol=0)
        after = math.sqrt(sum(p.grad.square().sum().item() for p in ours[:-1]))
        assert after == pytest.approx(min(norm, max_norm))

    def test_keeps_the_direction(self):
        before = torch.cat([p.grad.flatten() for p in self.parameters(5.0)[:-1]])
        clipped = self.parameters(5.0)
        clip_gradient_norm(clipped, 1.0)
        after = torch.cat([p.grad.flatten() for p in clipped[:-1]])
        assert torch.cosine_similarity(before, after, dim=0).item() == pytest.approx(1.0)

    def test_a_generator_of_parameters_will_do(self):
        parameters = self.parameters(3.0)
        assert clip_gradient_norm(iter(parameters), 1.0) > 1.0
        assert clip_gradient_norm(parameters, 1.0) == pytest.approx(1.0)

    def test_nothing_to_clip(self):
        assert clip_gradient_norm([torch.zeros(3, requires_grad=True)], 1.0) == 0.0
        assert clip_gradient_norm([], 1.0) == 0.0

    @pytest.mark.parametrize("max_norm", [0.0, -1.0, math.nan])
    def test_an_impossible_limit(self, max_norm):
        with pytest.raises(ValueError, match=f"max_norm={max_norm} must be greater than 0"):
            clip_gradient_norm([], max_norm)


class TestMuon:
    @pytest.mark.parametrize("shape", [(8, 8), (5, 12), (12, 5), (1, 6), (6, 1), (40, 33)])
    def test_orthogonalise_keeps_the_directions_and_levels_the_sizes(self, shape):
        matrix = torch.randn(shape, dtype=torch.float64)
        out = orthogonalise(matrix)
        u, s, vt = torch.linalg.svd(matrix, full_matrices=False)
        keep = s > 0.02 * s[0]  # five iterations lift what is not vanishingly small
        turned = u.T @ out @ vt.T  # U and V of the input make the output diagonal
        off = turned - torch.diag(turned.diagonal())
        assert off.abs().max() < 1e-10
        values = turned.diagonal()[keep]
        assert values.min() > 0.6 and values.max() < 1.3

    def test_the_polynomial_acts_on_each_singular_value_alone(self):
        matrix = torch.randn(6, 9, dtype=torch.float64)
        u, s, vt = torch.linalg.svd(matrix, full_matrices=False)
        x = s / (s.square().sum().sqrt() + 1e-7)
        for _ in range(5):
            x = 3.4445 * x - 4.7750 * x**3 + 2.0315 * x**5
        torch.testing.assert_close(orthogonalise(matrix), u @ torch.diag(x) @ vt)

    def test_zero_stays_zero(self):
        assert torch.equal(orthogonalise(torch.zeros(3, 4)), torch.zeros(3, 4))

    def test_only_matrices(self):
        with pytest.raises(ValueError, match=r"only matrices.*\(3,\)"):
            orthogonalise(torch.zeros(3))
        with pytest.raises(
            ValueError, match=r"Muon takes matrices and stacks of them, got .*\(5,\)"
        ):
            Muon([torch.zeros(5, requires_grad=True)])

    @pytest.mark.parametrize("shape", [(4, 7), (9, 3)])
    def test_steps_equal_the_recipe(self, shape):
        generator = torch.Generator().manual_seed(1)
        start = torch.randn(shape, dtype=torch.float64, generator=generator)
        parameter = start.clone().requires_grad_()
        untouched = torch.ones(2, 2, requires_grad=True)
        optimizer = Muon([parameter, untouched], lr=0.1, momentum=0.9, weight_decay=0.5)
        wanted, mean = start.clone(), torch.zeros(shape, dtype=torch.float64)
        for _ in range(4):
            gradient = torch.randn(shape, dtype=torch.float64, generator=generator)
            parameter.grad = gradient.clone()
            optimizer.step()
            mean = 0.9 * mean + 0.1 * gradient
            look_ahead = 0.9 * mean + 0.1 * gradient
            wanted = wanted * (1 - 0.1 * 0.5)
            wanted -= 0.1 * max(1, shape[0] / shape[1]) ** 0.5 * orthogonalise(look_ahead)
            torch.testing.assert_close(parameter.data, wanted)
            assert torch.equal(parameter.grad, gradient), "the gradient was changed"
        assert torch.equal(untouched.data, torch.ones(2, 2))

    @pytest.mark.parametrize("shape", [(3, 4, 7), (1, 9, 3), (5, 6, 6), (2, 1, 4), (2, 4, 1)])
    @pytest.mark.parametrize("n", [1, 2])
    @pytest.mark.parametrize("dtype", [None, torch.bfloat16])
    def test_a_stack_is_updated_as_each_matrix_would_be(self, shape, n, dtype):
        generator = torch.Generator().manual_seed(1)
        start = torch.randn(n, *shape, dtype=torch.float64, generator=generator)
        options = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.5, "dtype": dtype}
        stacks = [piece.clone().requires_grad_() for piece in start]
        alone = [m.clone().requires_grad_() for piece in start for m in piece]
        together = Muon(stacks, **options)
        each = [Muon([matrix], **options) for matrix in alone]
        for _ in range(3):
            gradient = torch.randn(n, *shape, dtype=torch.float64, generator=generator)
            gradient[0, 0] *= 1e3  # one matrix's size is nothing to another
            for stack, slope in zip(stacks, gradient):
                stack.grad = slope.clone()
            for matrix, slope in zip(alone, gradient.flatten(0, 1)):
                matrix.grad = slope.clone()
            together.step()
            for one in each:
                one.step()
        found = torch.cat([stack.detach() for stack in stacks])
        tolerance = 1e-12 if dtype is None else 2e-2
        torch.testing.assert_close(
            found, torch.stack([m.detach() for m in alone]), rtol=0, atol=tolerance
        )
        assert not torch.allclose(found, start.flatten(0, 1), atol=0.05)

    def test_a_matrix_of_a_stack_without_gradient_is_only_decayed(self):
        """An expert without tokens: no direction, so no step; the decay goes on."""
        stack = torch.ones(2, 3, 4, dtype=torch.float64, requires_grad=True)
        stack.grad = torch.zeros_like(stack)
        stack.grad[1] = torch.randn(3, 4, dtype=torch.float64)
        Muon([stack], lr=0.1, weight_decay=0.5).step()
        torch.testing.assert_close(stack[0].detach(), torch.full((3, 4), 0.95).double())
        assert (stack[1] - 0.95).abs().max() > 0.01

    def test_four_dimensions_are_too_many(self):
        with pytest.raises(ValueError, match=r"got a parameter of shape \(2, 2, 2, 2\)"):
            Muon([torch.zeros(2, 2, 2, 2, requires_grad=True)])

    @pytest.mark.parametrize(
        "options", [{"lr": -1.0}, {"momentum": 1.0}, {"momentum": -0.1}, {"weight_decay": -0.1}]
    )
    def test_impossible_settings_are_named(self, options):
        [(name, value)] = options.items()
        with pytest.raises(ValueError, match=rf"{name}={value}"):
            Muon([torch.zeros(2, 2, requires_grad=True)], **options)
