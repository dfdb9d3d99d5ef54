"""A prepared model is the same model: equal logits, its own memory, nothing left to train."""

from __future__ import annotations

import pytest
import torch

from llmcourse.generate import Sampling, generate
from llmcourse.generate.prepare import (
    PackedExperts,
    PackedLinear,
    can_pack,
    prepare_for_inference,
)
from llmcourse.model import ModelConfig, Transformer
from llmcourse.model.config import Latent
from llmcourse.model.experts_config import Experts
from llmcourse.model.moe import ExpertStack
from llmcourse.model.routing import record_routing

SIZES = {"vocab_size": 53, "context_length": 24, "n_layers": 2, "n_heads": 4, "d_model": 24}
MODELS = {
    "gpt2": {"activation": "gelu_tanh"},
    "llama": {
        "positions": "rope", "norm": "rms", "feed_forward": "gated", "activation": "silu",
        "n_kv_heads": 2, "attention_bias": False, "tie_embeddings": False,
    },
    "latent": {"positions": "rope", "norm": "rms", "latent": Latent(10, 12, 6, 4, 5)},
    "experts": {"experts": Experts(6, 2, d_ff=20)},  # plain networks with biases
    "deepseek": {
        "positions": "rope", "norm": "rms", "feed_forward": "gated", "activation": "silu",
        "feed_forward_bias": False, "experts": Experts(
            8, 3, d_ff=20, n_shared=1, score="sigmoid", scale=2.5, selection_bias=True, layers=(1,)
        ),
    },
}  # fmt: skip
CPU = torch.device("cpu")


def model_of(name):
    config = ModelConfig(**SIZES | MODELS[name] | {"init_std": 0.2, "dropout": 0.1})
    model = Transformer(config, torch.Generator().manual_seed(0))
    for parameter in model.parameters():
        if parameter.ndim == 1 or parameter.requires_grad is False:  # biases: no longer all zero
            parameter.data += 0.1 * torch.randn(
                parameter.shape, generator=torch.Generator().manual_seed(2)
            )
    return model


def ids_of(b=2, t=9):
    return torch.randint(53, (b, t), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", MODELS)
def test_logits_and_text_are_those_of_the_model(name):
    model = model_of(name)
    ready = prepare_for_inference(model)
    model.eval()
    with torch.no_grad():
        torch.testing.assert_close(ready(ids_of()), model(ids_of()), rtol=0, atol=1e-5)
    text = generate(model, ids_of(), 12, sampling=Sampling.greedy())
    assert torch.equal(generate(ready, ids_of(), 12, sampling=Sampling.greedy()), text)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_another_precision(name, dtype):
    model = model_of(name).eval()
    ready = prepare_for_inference(model, dtype)
    with torch.no_grad():
        wanted = model.double()(ids_of())
        out = ready(ids_of())
    assert out.dtype == dtype
    close = 0.02 * wanted.abs().max().item() if dtype == torch.bfloat16 else 1e-5
    torch.testing.assert_close(out.double(), wanted, rtol=0, atol=close)


def test_the_model_it_was_made_of_is_left_alone():
    model = model_of("gpt2").train()
    before = {name: p.clone() for name, p in model.named_parameters()}
    ready = prepare_for_inference(model, torch.bfloat16)
    assert model.training and not ready.training and ready.config.dropout == 0.0
    for name, p in model.named_parameters():
        assert torch.equal(p, before[name]) and p.dtype == torch.float32 and p.requires_grad, name
    wanted = ready(ids_of())
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
    assert torch.equal(ready(ids_of()), wanted), "the two share memory"
    assert not any(p.requires_grad for p in ready.parameters())


@pytest.mark.skipif(not can_pack(CPU, torch.float32), reason="this torch cannot pack weights")
def test_every_product_with_a_weight_is_packed():
    ready = prepare_for_inference(model_of("llama"))
    kinds = [type(m).__name__ for m in ready.modules()]
    assert "Linear" not in kinds and kinds.count("PackedLinear") == 2 * 4 + 1
    assert isinstance(prepare_for_inference(model_of("gpt2")).head, PackedLinear)
    with pytest.raises(ValueError, match=r"Linear expects inputs of width 24, got \(1, 5\)"):
        ready.blocks[0].attention.qkv(torch.zeros(1, 5))


@pytest.mark.skipif(not can_pack(CPU, torch.float32), reason="this torch cannot pack weights")
def test_compiling_packed_weights_is_refused():
    ready = prepare_for_inference(model_of("gpt2"))
    with pytest.raises(ValueError, match="compile=True cannot take a model with packed weights"):
        generate(ready, ids_of(), 3, compile=True)


def test_where_packing_is_not_to_be_had_weights_are_only_converted(monkeypatch):
    monkeypatch.setattr("llmcourse.generate.prepare.can_pack", lambda device, dtype: False)
    model = model_of("gpt2").eval()
    ready = prepare_for_inference(model)
    assert not any(isinstance(m, PackedLinear) for m in ready.modules()) and ready.head is None
    torch.testing.assert_close(ready(ids_of()), model(ids_of()).detach(), rtol=0, atol=1e-6)


def test_a_dtype_that_is_not_floating_point_is_refused():
    with pytest.raises(ValueError, match=r"dtype=torch.int8 must be one of floating-point"):
        prepare_for_inference(model_of("gpt2"), torch.int8)


def experts_of(ready):
    return [m for m in ready.modules() if isinstance(m, PackedExperts | ExpertStack)]


@pytest.mark.skipif(not can_pack(CPU, torch.float32), reason="this torch cannot pack weights")
@pytest.mark.parametrize("name", ["experts", "deepseek"])
def test_experts_are_packed_one_by_one(name):
    ready = prepare_for_inference(model_of(name))
    assert not any(
        isinstance(m, ExpertStack) or type(m).__name__ == "Linear" for m in ready.modules()
    )
    n_layers = len(experts_of(ready))
    assert n_layers == (2 if name == "experts" else 1)
    for stack in experts_of(ready):
        packed = [m for m in stack.modules() if isinstance(m, PackedLinear)]
        assert len(packed) == 2 * ready.config.experts.n_experts


class Unread(torch.nn.Module):
    """A matrix that nobody may look at."""

    def forward(self, x):
        raise AssertionError("the weights of an expert were read that no token chose")


@pytest.mark.skipif(not can_pack(CPU, torch.float32), reason="this torch cannot pack weights")
def test_decoding_a_token_reads_its_own_experts_only():
    ready = prepare_for_inference(model_of("experts"))
    ids = ids_of(1, 1)
    with record_routing(ready) as routings:
        wanted = ready(ids)
    for stack, routing in zip(experts_of(ready), routings, strict=True):
        chosen = set(routing.experts.tolist())
        assert len(chosen) == 2
        for e in set(range(6)) - chosen:
            stack.up[e] = stack.down[e] = Unread()
    assert torch.equal(ready(ids), wanted)
    experts_of(ready)[0].down[routings[0].experts[0].item()] = Unread()
    with pytest.raises(AssertionError, match="that no token chose"):
        ready(ids)


@pytest.mark.parametrize("packs", [True, False])
def test_routers_keep_their_precision(packs, monkeypatch):
    if not packs:
        monkeypatch.setattr("llmcourse.generate.prepare.can_pack", lambda device, dtype: False)
    model = model_of("deepseek")
    for given in (model, model.to(torch.bfloat16)):
        ready = prepare_for_inference(given, torch.bfloat16)
        router, before = ready.blocks[1].feed_forward.router, given.blocks[1].feed_forward.router
        assert router.selection_bias.dtype == torch.float32
        assert router.weight.dtype == before.weight.dtype
        assert torch.equal(router.selection_bias, before.selection_bias)
        assert router.weight.data_ptr() != before.weight.data_ptr()
        with record_routing(ready) as routings:
            ready(ids_of())
        assert routings[0].logits.dtype == routings[0].scores.dtype == torch.float32


@pytest.mark.parametrize("name", ["experts", "deepseek"])
def test_text_written_by_experts_is_the_same_with_and_without_a_cache(name):
    ready = prepare_for_inference(model_of(name))
    text = generate(ready, ids_of(), 12, sampling=Sampling.greedy(), cache="none")
    assert torch.equal(generate(ready, ids_of(), 12, sampling=Sampling.greedy()), text)
