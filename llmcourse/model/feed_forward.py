"""The feed-forward network: each token, on its own, through a wider hidden layer and back.

Taught in Part 1. Attention moves information between tokens; this layer works on what has arrived.
Two thirds of a block's parameters sit here at the usual expansion d_ff = 4 d_model.

Taught in Part 3: the gated form, where one projection decides how much of another passes. At equal
parameters its hidden layer is 2/3 as wide, since it has three matrices.

Sources: Vaswani et al. 2017, arXiv 1706.03762, equation 2 (there with ReLU); gated forms, Shazeer
2020, arXiv 2002.05202, equation 5.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from llmcourse.model.config import ModelConfig
from llmcourse.model.layers import ACTIVATIONS, Dropout, Linear


class FeedForward(nn.Module):
    """x -> W₂ f(W₁ x + b₁) + b₂, from width C to d_ff and back."""

    def __init__(
        self,
        config: ModelConfig,
        out_std: float,
        generator: torch.Generator | None = None,
        d_ff: int | None = None,
    ) -> None:
        super().__init__()
        c, f, bias = config.d_model, d_ff or config.d_ff, config.feed_forward_bias
        self.up = Linear(c, f, bias, config.init_std, generator)
        self.down = Linear(f, c, bias, out_std, generator)
        self.activation = ACTIVATIONS[config.activation]
        self.dropout = Dropout(config.dropout, generator)

    def forward(self, x: Tensor) -> Tensor:  # (B, T, C) -> (B, T, C)
        hidden = self.activation(self.up(x))  # (B, T, d_ff)
        return self.dropout(self.down(hidden))


class GatedFeedForward(nn.Module):
    """x -> W₂ (f(W_gate x) ⊙ W_up x): SwiGLU when f is SiLU, GeGLU when it is GELU."""

    def __init__(
        self,
        config: ModelConfig,
        out_std: float,
        generator: torch.Generator | None = None,
        d_ff: int | None = None,
    ) -> None:
        super().__init__()
        c, f, bias = config.d_model, d_ff or config.d_ff, config.feed_forward_bias
        # Both projections read the same input: one product twice as wide.
        self.gate_up = Linear(c, 2 * f, bias, config.init_std, generator)
        self.down = Linear(f, c, bias, out_std, generator)
        self.activation = ACTIVATIONS[config.activation]
        self.dropout = Dropout(config.dropout, generator)

    def forward(self, x: Tensor) -> Tensor:  # (B, T, C) -> (B, T, C)
        gate, up = self.gate_up(x).chunk(2, dim=-1)  # (B, T, 2 d_ff) -> twice (B, T, d_ff)
        return self.dropout(self.down(self.activation(gate) * up))


def make_feed_forward(
    config: ModelConfig,
    out_std: float,
    generator: torch.Generator | None = None,
    d_ff: int | None = None,
) -> nn.Module:
    """The dense feed-forward network the config asks for; `d_ff` may give it another width.

    A layer that is a mixture of experts has `llmcourse.model.moe.MixtureOfExperts` in its place.
    """
    kind = GatedFeedForward if config.feed_forward == "gated" else FeedForward
    return kind(config, out_std, generator, d_ff)
