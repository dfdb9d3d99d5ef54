"""The product as a convolution against float64, and setting it for a model."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from llmcourse.model import ModelConfig, Transformer
from llmcourse.model import products as module
from llmcourse.model.experts_config import Experts
from llmcourse.model.layers import Linear
from llmcourse.model.products import (
    choose_products,
    convolution_product,
    measure,
    multiplying,
    plain_product,
    set_products,
    why_plain,
)

SHAPES = [((5,), 5, 3), ((4, 5), 5, 3), ((2, 7, 5), 5, 3), ((2, 1, 5), 5, 3), ((1, 1, 1), 1, 1)]
SHAPES += [((3, 7, 1), 1, 4), ((2, 3, 4, 6), 6, 1), ((2, 33, 48), 48, 80), ((1, 257, 64), 64, 17)]


def tensors(shape, c, o, bias=True):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator)
    weight = torch.randn((o, c), generator=generator)
    return x, weight, torch.randn(o, generator=generator) if bias else None


def with_gradients(product, x, weight, bias):
    """The product and the gradients of a weighting that tells every element apart."""
    inputs = [t.clone().requires_grad_() for t in (x, weight, bias) if t is not None]
    y = product(inputs[0], inputs[1], inputs[2] if bias is not None else None)
    slope = torch.linspace(-1, 2, y.numel(), dtype=y.dtype).reshape(y.shape)
    return [y.detach(), *torch.autograd.grad((y * slope).sum(), inputs)]


def in_float64(x, weight, bias):
    """x Wᵀ + b written out, in float64."""

    def product(x, weight, bias):
        y = torch.einsum("...c,oc->...o", x, weight)
        return y if bias is None else y + bias

    bias = None if bias is None else bias.double()
    return with_gradients(product, x.double(), weight.double(), bias)


@pytest.fixture
def model():
    config = ModelConfig(vocab_size=31, context_length=12, n_layers=2, n_heads=2, d_model=24)
    return Transformer(config, torch.Generator().manual_seed(0))


def uses_convolution(run) -> bool:
    """Whether torch was asked for a convolution while `run` ran."""
    with torch.profiler.profile() as profile:
        run()
    return any(event.key == "aten::conv2d" for event in profile.key_averages())


class TestProducts:
    @pytest.mark.parametrize("bias", [True, False])
    @pytest.mark.parametrize(("shape", "c", "o"), SHAPES)
    @pytest.mark.parametrize("product", [plain_product, convolution_product])
    def test_equal_float64_gradients_included(self, product, shape, c, o, bias):
        given = tensors(shape, c, o, bias)
        found, wanted = with_gradients(product, *given), in_float64(*given)
        assert len(found) == (4 if bias else 3)
        for mine, exact in zip(found, wanted, strict=True):
            assert mine.dtype == torch.float32 and mine.shape == exact.shape
            # Sums of up to 257 products of numbers around 1: rounding of 1e-7 each.
            torch.testing.assert_close(mine.double(), exact, rtol=1e-5, atol=1e-4)

    def test_the_convolution_is_really_taken(self):
        given = tensors((2, 7, 5), 5, 3)
        assert uses_convolution(lambda: convolution_product(*given))
        assert not uses_convolution(lambda: plain_product(*given))
        autocast = torch.autocast("cpu", torch.bfloat16)
        with autocast:
            assert not uses_convolution(lambda: convolution_product(*given))

    def test_memory_that_is_not_contiguous(self):
        x, weight, bias = tensors((6, 4, 5), 5, 3)
        for strided in (x.transpose(0, 1), x[::2], x[:, 1:3], x.expand(6, 4, 5)):
            given = strided, weight, bias
            for mine, exact in zip(with_gradients(convolution_product, *given), in_float64(*given)):
                torch.testing.assert_close(mine.double(), exact, rtol=1e-5, atol=1e-5)
        turned = torch.randn(5, 3).T  # a weight whose memory runs the other way
        mine = convolution_product(x, turned, None)
        torch.testing.assert_close(mine, plain_product(x, turned, None), rtol=1e-5, atol=1e-5)

    def test_a_gradient_that_is_not_contiguous(self):
        x, weight, _ = tensors((4, 5), 5, 3)
        x.requires_grad_()
        slope = torch.randn(3, 4).T
        mine = torch.autograd.grad(convolution_product(x, weight), x, slope)[0]
        torch.testing.assert_close(mine, slope @ weight, rtol=1e-5, atol=1e-5)

    def test_frozen_weights_and_inputs(self):
        x, weight, bias = tensors((2, 7, 5), 5, 3)
        weight.requires_grad_()
        y = convolution_product(x, weight, bias)
        wanted = torch.autograd.grad(plain_product(x, weight, bias).sum(), weight)[0]
        torch.testing.assert_close(torch.autograd.grad(y.sum(), weight)[0], wanted)


class TestWhyPlain:
    def test_float32_on_a_cpu_has_no_reason(self):
        assert why_plain(torch.ones(2, 3), torch.ones(4, 3)) is None

    @pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
    def test_other_dtypes_go_the_plain_way(self, dtype):
        x, weight, bias = (t.to(dtype) for t in tensors((2, 7, 5), 5, 3))
        assert f"{dtype} times {dtype}" in why_plain(x, weight)
        assert torch.equal(convolution_product(x, weight, bias), plain_product(x, weight, bias))

    def test_the_other_reasons(self, monkeypatch):
        x, weight = torch.ones(2, 3), torch.ones(4, 3)
        assert "meta" in why_plain(x.to("meta"), weight.to("meta"))
        with torch.autocast("cpu", torch.bfloat16):
            assert "autocast" in why_plain(x, weight)
        assert "nothing to multiply" in why_plain(torch.ones(0, 3), weight)
        assert convolution_product(torch.ones(2, 0, 3), weight).shape == (2, 0, 4)

        class Sharded(torch.Tensor):
            pass

        assert "type Sharded" in why_plain(x, weight.as_subclass(Sharded))
        assert why_plain(x, nn.Parameter(weight)) is None
        monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
        assert "without oneDNN" in why_plain(x, weight)

    def test_shapes_that_do_not_fit_get_the_usual_message(self):
        with pytest.raises(RuntimeError, match="cannot be multiplied"):
            convolution_product(torch.ones(2, 3), torch.ones(4, 5))
        layer = Linear(5, 3)
        layer.product = convolution_product
        with pytest.raises(ValueError, match=r"inputs of width 5, got \(2, 4\)"):
            layer(torch.zeros(2, 4))


class TestSetProducts:
    def test_every_linear_and_the_tied_head(self, model):
        linears = [m for m in model.modules() if isinstance(m, Linear)]
        assert set_products(model, "convolution") == "convolution"
        assert {id(m) for m in multiplying(model)} == {id(m) for m in [model, *linears]}
        assert all(m.product is convolution_product for m in multiplying(model))
        ids = torch.randint(31, (2, 12))
        with torch.profiler.profile() as profile:
            model(ids)
        counts = {event.key: event.count for event in profile.key_averages()}
        assert counts["aten::conv2d"] == len(linears) + 1
        assert "aten::linear" not in counts
        assert set_products(model, "plain") == "plain"
        assert all(m.product is plain_product for m in multiplying(model))

    @pytest.mark.parametrize(
        "changes",
        [
            {},
            {"tie_embeddings": False, "attention_bias": False},
            {"positions": "rope", "norm": "rms", "feed_forward": "gated", "n_kv_heads": 1},
        ],
    )
    def test_a_model_learns_the_same(self, changes):
        sizes = {"vocab_size": 31, "context_length": 12, "n_layers": 2, "n_heads": 2, "d_model": 24}
        model = Transformer(ModelConfig(**sizes, **changes), torch.Generator().manual_seed(0))
        ids = torch.randint(31, (3, 11), generator=torch.Generator().manual_seed(1))
        found = {}
        for choice in ("plain", "convolution"):
            set_products(model, choice)
            logits = model(ids)
            loss = nn.functional.cross_entropy(logits.flatten(0, 1), ids.flatten())
            found[choice] = [logits, *torch.autograd.grad(loss, list(model.parameters()))]
        for a, b in zip(*found.values(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)

    def test_a_copy_keeps_its_products(self, model):
        set_products(model, "convolution")
        other = model.with_options(dropout=0.1)
        assert all(m.product is convolution_product for m in multiplying(other))

    def sparse(self, **changes):
        sizes = {"vocab_size": 31, "context_length": 12, "n_layers": 2, "n_heads": 2, "d_model": 24}
        experts = Experts(**{"n_experts": 4, "n_active": 2} | changes)
        return Transformer(
            ModelConfig(**sizes, experts=experts, tie_embeddings=False),
            torch.Generator().manual_seed(0),
        )

    def test_experts_multiply_as_the_rest_does(self):
        model, ids = self.sparse(), torch.randint(31, (2, 12))
        stacks = [block.feed_forward.experts for block in model.blocks]
        assert all(stack in multiplying(model) for stack in stacks)
        found = {}
        for choice in ("plain", "convolution"):
            set_products(model, choice)
            assert len({stack.product for stack in stacks} | {model.product}) == 1
            logits = model(ids)
            loss = nn.functional.cross_entropy(logits.flatten(0, 1), ids.flatten())
            found[choice] = [logits, *torch.autograd.grad(loss, list(model.parameters()))]
        for a, b in zip(*found.values(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
        assert uses_convolution(
            lambda: model.blocks[0].feed_forward.experts.one(0, model(ids)[0, :, :24])
        )
        assert model.with_options(dropout=0.1).blocks[0].feed_forward.experts.product is (
            convolution_product
        )

    def test_auto_measures_a_shape_of_one_expert(self, monkeypatch):
        asked = []
        monkeypatch.setattr(
            module, "measure", lambda o, c: asked.append((o, c)) or {"plain": 1.0, "convolution": 9}
        )
        choose_products(self.sparse(d_ff=200))
        assert asked == [(200, 24)]

    def test_a_wrapped_model(self, model):
        wrapped = nn.ModuleDict({"model": model})
        set_products(wrapped, "convolution")
        assert model.blocks[0].feed_forward.up.product is convolution_product

    def test_auto_takes_what_was_measured_to_be_faster(self, model, monkeypatch):
        asked = []

        def measured(o, c):
            asked.append((o, c))
            return {"plain": 2.0, "convolution": convolution}

        monkeypatch.setattr(module, "measure", measured)
        for convolution, wanted in ((1.0, "convolution"), (1.9, "plain"), (3.0, "plain")):
            choice = choose_products(model)
            assert choice.product == set_products(model, "auto") == wanted
            assert f"convolution {1e3 * convolution:.1f} ms" in choice.reason
        # Up and down have the most multiplications; of equals the first is taken.
        assert set(asked) == {(96, 24)}

    def test_measuring_measures_both(self):
        seconds = measure(8, 8)
        assert set(seconds) == {"plain", "convolution"} and min(seconds.values()) > 0

    def test_auto_does_not_measure_where_nothing_can_be_gained(self, model, monkeypatch):
        monkeypatch.setattr(module, "measure", lambda *_: pytest.fail("measured"))
        assert choose_products(model.double()).product == "plain"
        assert "float64" in choose_products(model).reason
        assert choose_products(nn.ReLU()).product == "plain"
        assert set_products(model.to("meta"), "auto") == "plain"

    def test_unknown_choices_are_refused(self, model):
        with pytest.raises(ValueError, match=r"products='fast' is unknown; choose one of \['plain"):
            set_products(model, "fast")
        assert model.product is plain_product

    @pytest.mark.slow
    def test_a_compiled_model_is_one_graph(self, model):
        ids = torch.randint(31, (2, 12))
        wanted = model(ids)
        set_products(model, "convolution")
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(ids), wanted, rtol=1e-4, atol=1e-5)
