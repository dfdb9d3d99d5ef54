"""A prepared model is the same model: equal logits, its own memory, nothing left to train."""

from __future__ import annotations

import pytest
import torch

from llmcourse.generate import Sampling, generate
from llmcourse.generate.prepare import PackedLinear, can_pack, prepare_for_inference
from llmcourse.model import ModelConfig, Transformer
from llmcourse.model.config import Latent

SIZES = {"vocab_size": 53, "context_length": 24, "n_layers": 2, "n_heads": 4, "d_model": 24}
MODELS = {
    "gpt2": {"activation": "gelu_tanh"},
    "llama": {
        "positions": "rope", "norm": "rms", "feed_forward": "gated", "activation": "silu",
        "n_kv_heads": 2, "attention_bias": False, "tie_embeddings": False,
    },
    "latent": {"positions": "rope", "norm": "rms", "latent": Latent(10, 12, 6, 4, 5)},
}  # fmt: skip
CPU = torch.device("cpu")


def model_of(name):
    config = ModelConfig(**SIZES | MODELS[name] | {"init_std": 0.2, "dropout": 0.1})
    return Transformer(config, torch.Generator().manual_seed(0))


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
