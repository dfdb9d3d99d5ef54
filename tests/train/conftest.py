"""A model small enough to train in a test, and what tests of an optimiser step along."""

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


@pytest.fixture
def parameters():
    """Tensors of several shapes that want gradients, the same ones at each call."""

    def make(seed: int = 0) -> list[torch.Tensor]:
        generator = torch.Generator().manual_seed(seed)
        shapes = ((3, 4), (5,), (), (2, 1, 3))
        made = [torch.randn(s, dtype=torch.float64, generator=generator) for s in shapes]
        return [p.requires_grad_() for p in made]

    return make


@pytest.fixture
def give_gradients():
    """The same gradients for all lists; the second tensor gets none at every third step."""

    def give(step: int, *lists: list[torch.Tensor]) -> None:
        generator = torch.Generator().manual_seed(step)
        for tensors in zip(*lists):
            gradient = torch.randn(tensors[0].shape, dtype=torch.float64, generator=generator)
            for tensor in tensors:
                tensor.grad = gradient.clone()
        if step % 3 == 0:
            for tensors in lists:
                tensors[1].grad = None

    return give


@pytest.fixture
def assert_same():
    """Two lists of tensors agree to 1e-12, or to what the caller says."""

    def check(ours: list[torch.Tensor], theirs: list[torch.Tensor], atol: float = 1e-12) -> None:
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=atol)

    return check
