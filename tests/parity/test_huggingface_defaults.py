"""A key that a config leaves out has the value that transformers gives it."""

from __future__ import annotations

import pytest

from llmcourse.interop.huggingface import FAMILIES, config_from_huggingface

transformers = pytest.importorskip("transformers", reason="transformers is not installed")

# The sizes, which a config must say.
SIZES = {
    "vocab_size": 50,
    "hidden_size": 256,
    "intermediate_size": 96,
    "num_hidden_layers": 6,
    "num_attention_heads": 32,
    "max_position_embeddings": 64,
}
GPT2 = {"vocab_size": 50, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64}
# What has no default there either, or one that fits only its own size.
MORE = {"deepseek_v2": {"num_experts_per_tok": 6}, "deepseek_v3": {"num_attention_heads": 128}}


@pytest.mark.parametrize("family", list(FAMILIES))
def test_defaults(family):
    sizes = GPT2 if family == "gpt2" else SIZES | MORE.get(family, {})
    whole = transformers.AutoConfig.for_model(family, **sizes).to_dict()
    assert len(whole) > len(sizes) + 10
    written = config_from_huggingface(whole)
    assert config_from_huggingface({"model_type": family} | sizes) == written
    sparse = family in ("mixtral", "qwen3_moe", "olmoe", "deepseek_v2", "deepseek_v3")
    assert (written.experts is not None) == sparse


@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe", "olmoe", "deepseek_v3"])
def test_both_names_of_the_number_of_experts(family):
    """transformers writes one name and takes either; so does this library, unless they differ."""
    config = transformers.AutoConfig.for_model(family, **SIZES)
    usual = "n_routed_experts" if family == "deepseek_v3" else "num_experts"
    sizes = SIZES | MORE.get(family, {})
    for name in (usual, "num_local_experts"):
        values = {"model_type": family} | sizes | {name: 32}
        assert config_from_huggingface(values).experts.n_experts == 32
        theirs = transformers.AutoConfig.for_model(family, **SIZES, **{name: 32})
        assert config.num_local_experts != getattr(theirs, usual) == theirs.num_local_experts == 32
    with pytest.raises(ValueError, match="two names of one number"):
        config_from_huggingface(values | {usual: 16, "num_local_experts": 32})
