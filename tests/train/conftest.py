"""A model small enough to train in a test."""

from __future__ import annotations

import pytest
import torch

from llmcourse.model import ModelConfig, Transformer


@pytest.fixture
def make_model():
    def make(seed: int = 0, **changes) -> Transformer:
        sizes = {
            "vocab_size": 31,
            "context_length": 12,
            "n_layers": 2,
            "n_heads": 2,
            "d_model": 24,
        }
        config = ModelConfig(**sizes | changes)
        return Transformer(config, torch.Generator().manual_seed(seed))

    return make
