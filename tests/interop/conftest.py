"""A small published folder that needs no transformers, and Llama 2's config as it was published."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from llmcourse.interop.huggingface import save_huggingface
from llmcourse.model import ModelConfig, Transformer
from llmcourse.model.rotary import Rope

# Llama 2 7B's config.json as it was published, before transformers 5.
LLAMA2 = {
    "_name_or_path": "meta-llama/Llama-2-7b-hf",
    "architectures": ["LlamaForCausalLM"],
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "initializer_range": 0.02,
    "intermediate_size": 11008,
    "max_position_embeddings": 4096,
    "model_type": "llama",
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 32,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "tie_word_embeddings": False,
    "torch_dtype": "float16",
    "transformers_version": "4.31.0.dev0",
    "use_cache": True,
    "vocab_size": 32000,
}


def llama(**changes):
    values = {
        "vocab_size": 60,
        "context_length": 64,
        "n_layers": 2,
        "n_heads": 4,
        "n_kv_heads": 2,
        "d_model": 32,
        "d_ff": 40,
        "positions": "rope",
        "rope": Rope(base=500.0),
        "norm": "rms",
        "feed_forward": "gated",
        "activation": "silu",
        "attention_bias": False,
        "feed_forward_bias": False,
        "tie_embeddings": False,
    }
    return ModelConfig(**(values | changes))


@pytest.fixture
def make_llama():
    return llama


@pytest.fixture
def llama2_config():
    return json.loads(json.dumps(LLAMA2))


@pytest.fixture(scope="session")
def saved(tmp_path_factory):
    """(model, folder in shards, folder in one file)."""
    model = Transformer(llama(), torch.Generator().manual_seed(0)).eval()
    for parameter in model.parameters():
        parameter.data += 0.1
    home = tmp_path_factory.mktemp("published")
    shards = save_huggingface(model, home / "shards", max_shard_bytes=20_000)
    return model, shards, save_huggingface(model, home / "single")


@pytest.fixture
def shards(saved, tmp_path):
    """A copy that a test may damage."""
    return shutil.copytree(saved[1], tmp_path / "shards")


@pytest.fixture
def single(saved, tmp_path):
    return shutil.copytree(saved[2], tmp_path / "single")
