"""The feed-forward network: each token, on its own, through a wider hidden layer and back.

Taught in Part 1. Attention moves information between tokens; this layer works on what has arrived.
Two thirds of a block's parameters sit here at the usual expansion d_ff = 4 d_model.

Source: Vaswani et al. 2017, arXiv 1706.03762, equation 2 (there with ReLU).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from llmcourse.model.config import ModelConfig
from llmcourse.model.layers import ACTIVATIONS, Dropout, Linear


class FeedForward(nn.Module):
    """x -> W₂ f(W₁ x + b₁) + b₂, from width C to d_ff and back."""

    def __init__(
        self, config: ModelConfig, out_std: float, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        c, f, bias = config.d_model, config.d_ff, config.feed_forward_bias
        self.up = Linear(c, f, bias, config.init_std, generator)
        self.down = Linear(f, c, bias, out_std, generator)
        self.activation = ACTIVATIONS[config.activation]
        self.dropout = Dropout(config.dropout, generator)

    def forward(self, x: Tensor) -> Tensor:  # (B, T, C) -> (B, T, C)
        hidden = self.activation(self.up(x))  # (B, T, d_ff)
        return self.dropout(self.down(hidden))
