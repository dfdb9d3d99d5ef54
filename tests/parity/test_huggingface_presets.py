"""Presets: the published sizes, and the shapes that transformers builds from our config."""

from __future__ import annotations

import pytest
import torch

from llmcourse.interop.huggingface import FAMILIES, config_to_huggingface
from llmcourse.model import ModelConfig, Transformer
from llmcourse.model.presets import MODERN_PRESETS
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
}


@pytest.mark.parametrize("name", list(PUBLISHED))
def test_parameter_counts(name):
    config = ModelConfig.from_dict(MODERN_PRESETS[name])
    assert summary(config).total_parameters == PUBLISHED[name]


@pytest.mark.parametrize("name", list(MODERN_PRESETS))
def test_shapes_are_those_of_transformers(name):
    config = ModelConfig.from_dict(MODERN_PRESETS[name])
    values = config_to_huggingface(config)
    with torch.device("meta"):
        ours = Transformer(config)
        theirs = transformers.AutoModelForCausalLM.from_config(
            transformers.AutoConfig.for_model(**values)
        )
    shapes = {n: tuple(p.shape) for n, p in theirs.named_parameters()}
    mine = {n: tuple(p.shape) for n, p in ours.named_parameters()}
    rules = FAMILIES[values["model_type"]].rules(config, values)
    assert {rule.name for rule in rules} == mine.keys()
    expected = {p.name: p.shape(mine[rule.name]) for rule in rules for p in rule.pieces}
    assert expected == shapes
