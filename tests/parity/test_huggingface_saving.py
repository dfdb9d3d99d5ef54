"""What is saved, transformers loads: equal logits, equal configs, bit-equal weights."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors import safe_open

from llmcourse.interop.huggingface import load_huggingface, save_huggingface
from llmcourse.model import ModelConfig, Transformer

transformers = pytest.importorskip("transformers", reason="transformers is not installed")


def load_theirs(folder):
    return transformers.AutoModelForCausalLM.from_pretrained(
        folder, attn_implementation="eager", dtype="auto"
    ).eval()


@pytest.mark.parametrize("shard_bytes", [5_000_000_000, 40_000], ids=["one file", "shards"])
def test_round_trip(pair, tmp_path, shard_bytes):
    ours = pair.ours()
    family = json.loads((pair.folder / "config.json").read_text())["model_type"]
    folder = save_huggingface(ours, tmp_path / "saved", family=family, max_shard_bytes=shard_bytes)
    shards = list(folder.glob("model-*.safetensors"))
    assert (len(shards) > 2) == (shard_bytes < 1_000_000)
    assert (folder / "model.safetensors.index.json").exists() == bool(shards)
    again = load_theirs(folder)
    assert type(again) is type(pair.theirs)
    ids = torch.randint(101, (2, 40))
    with torch.no_grad():
        mine, wanted = again(ids).logits, pair.theirs(ids).logits
    if pair.name == "deepseek-v3-halves":  # saved interleaved: another order of the same sum
        torch.testing.assert_close(mine, wanted, rtol=0, atol=1e-4)
    else:
        torch.testing.assert_close(mine, wanted, rtol=0, atol=1e-5)
        theirs = pair.theirs.state_dict()
        for name, tensor in again.state_dict().items():
            assert torch.equal(tensor, theirs[name]), name
    back = load_huggingface(folder)
    for name, tensor in back.state_dict().items():
        assert torch.equal(tensor, ours.state_dict()[name]), name
    assert back.config == load_huggingface(folder).config


def test_a_model_made_here(tmp_path):
    """Not loaded from anywhere: our own config finds its family, in bfloat16, with token ids."""
    config = ModelConfig(
        vocab_size=50,
        context_length=32,
        n_layers=4,
        n_heads=4,
        n_kv_heads=1,
        d_model=32,
        positions="rope",
        norm="rms",
        feed_forward="gated",
        activation="silu",
        attention_bias=False,
        feed_forward_bias=False,
        window=8,
    )
    ours = Transformer(config, torch.Generator().manual_seed(0)).bfloat16()
    for parameter in ours.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    folder = save_huggingface(ours, tmp_path / "mine", eos_token_id=7)
    theirs = load_theirs(folder)
    assert type(theirs).__name__ == "MistralForCausalLM"
    assert theirs.dtype == torch.bfloat16
    assert theirs.config.eos_token_id == 7
    assert theirs.config.bos_token_id is None
    ids = torch.randint(50, (2, 30))
    with torch.no_grad():
        wanted = theirs.float()(ids).logits
        torch.testing.assert_close(ours.float()(ids), wanted, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["mixtral", "qwen3-moe-hybrid", "deepseek-v3-experts"])
def test_experts_that_transformers_saved_stacked(make_pair, tmp_path, name):
    """The form it has them in, beside the published one that it writes unless asked."""
    pair = make_pair(name)
    pair.theirs.save_pretrained(tmp_path, save_original_format=False)
    with safe_open(tmp_path / "model.safetensors", framework="pt") as held:
        assert any(key.endswith("experts.gate_up_proj") for key in held.keys())  # noqa: SIM118
    wanted = pair.ours().state_dict()
    for key, tensor in load_huggingface(tmp_path).state_dict().items():
        assert torch.equal(tensor, wanted[key]), key


def test_the_selection_bias_in_half_precision(make_pair, tmp_path):
    """Every weight in bfloat16 but for that one, there as here, and bit by bit the same."""
    pair = make_pair("deepseek-v3-experts")
    folder = save_huggingface(pair.ours(dtype=torch.bfloat16), tmp_path / "half")
    again, theirs = load_theirs(folder), pair.theirs.state_dict()
    wide = [key for key, t in again.state_dict().items() if t.dtype == torch.float32]
    assert wide == [f"model.layers.{i}.mlp.gate.e_score_correction_bias" for i in (1, 2)]
    for key, tensor in again.state_dict().items():
        assert torch.equal(tensor, theirs[key].to(tensor.dtype)), key
