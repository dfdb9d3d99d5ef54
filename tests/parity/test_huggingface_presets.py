"""Presets: the published sizes, and the shapes that transformers builds from our config."""

from __future__ import annotations

import pytest
import torch

from llmcourse.interop.huggingface import FAMILIES, config_to_huggingface
from llmcourse.interop.huggingface.match import arrange
from llmcourse.model import ModelConfig, Transformer
from llmcourse.model.presets import MODERN_PRESETS, SPARSE_PRESETS
from llmcourse.model.summary import summary

transformers = pytest.importorskip("transformers", reason="transformers is not installed")

# As published with the weights (the files' total size, or the model card's exact count).
PUBLISHED = {
    "llama2-7b": 6_738_415_616,
    "llama2-13b": 13_015_864_320,
    "llama2-70b": 68_976_648_192,
    "llama3-8b": 8_030_261_248,
    "llama3-70b": 70_553_706_496,
    "llama3.1-8b": 8_030_261_248,
    "llama3.2-1b": 1_235_814_400,
    "llama3.2-3b": 3_212_749_824,
    "mistral-7b": 7_241_732_096,
    "qwen2-0.5b": 494_032_768,
    "qwen2-1.5b": 1_543_714_304,
    "qwen2-7b": 7_615_616_512,
    "qwen3-0.6b": 596_049_920,
    "qwen3-8b": 8_190_735_360,
    "gemma2-2b": 2_614_341_888,
    "gemma2-9b": 9_241_705_984,
    "gemma3-1b": 999_885_952,
    "olmo2-1b": 1_484_916_736,
    "olmo2-7b": 7_298_617_344,
    "mixtral-8x7b": 46_702_792_704,
    "mixtral-8x22b": 140_620_634_112,
    "qwen3-30b-a3b": 30_532_122_624,
    "qwen3-235b-a22b": 235_093_634_560,
    "olmoe-1b-7b": 6_919_161_856,
    "deepseek-v2-lite": 15_706_484_224,
    "deepseek-v2": 235_741_434_880,
}


@pytest.mark.parametrize("name", list(PUBLISHED))
def test_parameter_counts(name):
    config = ModelConfig.from_dict(MODERN_PRESETS[name])
    assert summary(config).total_parameters == PUBLISHED[name]


# Billions of parameters that one token meets, as their papers say. Some count the embedding.
ACTIVE = {
    "mixtral-8x7b": 12.9,
    "mixtral-8x22b": 39,
    "qwen3-30b-a3b": 3.3,
    "qwen3-235b-a22b": 22,
    "olmoe-1b-7b": 1.3,
    "deepseek-v2-lite": 2.4,
    "deepseek-v2": 21,
    "deepseek-v3": 37,
}


def test_every_sparse_preset_is_counted():
    assert ACTIVE.keys() == SPARSE_PRESETS.keys()
    # 671B in the paper. In the files 671,026,419,200 numbers are the decoder's own.
    counted = summary(ModelConfig.preset("deepseek-v3"))
    assert counted.total_parameters == 671_026_419_200


@pytest.mark.parametrize("name", list(ACTIVE))
def test_active_parameters(name):
    config = ModelConfig.preset(name)
    active = summary(config).active_parameters / 1e9
    without = active - config.vocab_size * config.d_model / 1e9
    assert 0.975 * without < ACTIVE[name] < 1.025 * active
    assert active < 0.45 * summary(config).total_parameters / 1e9


@pytest.mark.parametrize("name", list(MODERN_PRESETS))
def test_shapes_are_those_of_transformers(name):
    config = ModelConfig.from_dict(MODERN_PRESETS[name])
    values = config_to_huggingface(config)
    with torch.device("meta"):
        ours = Transformer(config)
        theirs = transformers.AutoModelForCausalLM.from_config(
            transformers.AutoConfig.for_model(**values)
        )
    # transformers stacks its experts in memory, and the selection bias is no parameter there.
    shapes = {n: tuple(t.shape) for n, t in theirs.state_dict().items()}
    if config.tie_embeddings:
        del shapes["lm_head.weight"]
    mine = {n: tuple(p.shape) for n, p in ours.named_parameters()}
    family = FAMILIES[values["model_type"]]
    rules, called = arrange(family, family.rules(config, values), shapes)
    assert {rule.name for rule in rules} == mine.keys()
    expected = {p.name: p.shape(mine[rule.name]) for rule in rules for p in rule.pieces}
    assert expected == {called[name]: shape for name, shape in shapes.items()}
