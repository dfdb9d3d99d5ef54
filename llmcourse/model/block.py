"""The block: attention, then the feed-forward network, each added to the stream it read from.

Taught in Part 1. GPT-2 normalises what each sub-layer reads ("pre-norm"), so that the residual
stream itself runs from the embedding to the output untouched; the Transformer of 2017 normalised
the sum ("post-norm"), which trains only with care at depth (Xiong et al. 2020, arXiv 2002.04745).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from llmcourse.model.attention import SelfAttention
from llmcourse.model.config import ModelConfig
from llmcourse.model.feed_forward import FeedForward
from llmcourse.model.norms import LayerNorm


def make_norm(config: ModelConfig) -> nn.Module:
    """The normalisation the config asks for, over the model width."""
    if config.norm == "none":
        return nn.Identity()
    return LayerNorm(config.d_model, config.norm_eps)


class Block(nn.Module):
    """x + attention(norm(x)), then x + feed_forward(norm(x))."""

    def __init__(
        self, config: ModelConfig, out_std: float, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        self.attention_norm = make_norm(config)
        self.attention = SelfAttention(config, out_std, generator)
        self.feed_forward_norm = make_norm(config)
        self.feed_forward = FeedForward(config, out_std, generator)
        self.pre_norm = config.norm_placement == "pre"
        self.residual = config.residual

    def forward(
        self, x: Tensor, padding: Tensor | None = None, record: list[Tensor] | None = None
    ) -> Tensor:  # (B, T, C) -> (B, T, C)
        if self.pre_norm:
            x = self._add(x, self.attention(self.attention_norm(x), padding, record))
            return self._add(x, self.feed_forward(self.feed_forward_norm(x)))
        x = self.attention_norm(self._add(x, self.attention(x, padding, record)))
        return self.feed_forward_norm(self._add(x, self.feed_forward(x)))

    def _add(self, x: Tensor, update: Tensor) -> Tensor:
        return x + update if self.residual else update
