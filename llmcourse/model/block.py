"""The block: attention, then the feed-forward network, each added to the stream it read from.

Taught in Part 1; the placements of the norm in Part 3; in Part 5 a mixture of experts takes the
place of the feed-forward network. GPT-2 normalises what each sub-layer reads
("pre"), so that the residual stream itself runs from the embedding to the output untouched; the
Transformer of 2017 normalised the sum ("post"), which trains only with care at depth (Xiong et al.
2020, arXiv 2002.04745). OLMo 2 normalises what a sub-layer writes ("output", arXiv 2501.00656), and
Gemma 2 both what it reads and what it writes ("sandwich", arXiv 2408.00118).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from llmcourse.model.config import ModelConfig
from llmcourse.model.feed_forward import make_feed_forward
from llmcourse.model.latent_attention import LatentAttention
from llmcourse.model.masks import Visibility
from llmcourse.model.moe import MixtureOfExperts
from llmcourse.model.norms import LayerNorm, RMSNorm
from llmcourse.model.self_attention import SelfAttention, Sight


def make_norm(config: ModelConfig) -> nn.Module:
    """The normalisation the config asks for, over the model width."""
    if config.norm == "none":
        return nn.Identity()
    if config.norm == "rms":
        return RMSNorm(config.d_model, config.norm_eps, config.norm_offset)
    return LayerNorm(config.d_model, config.norm_eps)


class Block(nn.Module):
    """x + attention(norm(x)), then x + feed_forward(norm(x)); or another placement of the norms."""

    def __init__(
        self,
        config: ModelConfig,
        out_std: float,
        generator: torch.Generator | None = None,
        layer: int = 0,
    ) -> None:
        super().__init__()
        placement = self.placement = config.norm_placement
        reads, writes = placement != "output", placement in ("sandwich", "output")
        attention = SelfAttention if config.latent is None else LatentAttention
        self.attention_norm = make_norm(config) if reads else None
        self.attention = attention(config, out_std, generator)
        self.attention_output_norm = make_norm(config) if writes else None
        self.feed_forward_norm = make_norm(config) if reads else None
        self.sparse = config.is_sparse(layer)
        feed_forward = MixtureOfExperts if self.sparse else make_feed_forward
        self.feed_forward = feed_forward(config, out_std, generator)
        self.feed_forward_output_norm = make_norm(config) if writes else None
        self.residual = config.residual

    def forward(
        self, x: Tensor, sight: Sight | None = None, layer: int = 0
    ) -> Tensor:  # (B, T, C) -> (B, T, C)
        sight = sight or Sight(Visibility(x.shape[1], x.shape[1]))  # alone: plainly causal
        if self.placement == "post":
            x = self.attention_norm(self._add(x, self.attention(x, sight, layer)))
            return self.feed_forward_norm(self._add(x, self._feed_forward(x, sight)))
        read = x if self.attention_norm is None else self.attention_norm(x)
        written = self.attention(read, sight, layer)
        if self.attention_output_norm is not None:
            written = self.attention_output_norm(written)
        x = self._add(x, written)
        read = x if self.feed_forward_norm is None else self.feed_forward_norm(x)
        written = self._feed_forward(read, sight)
        if self.feed_forward_output_norm is not None:
            written = self.feed_forward_output_norm(written)
        return self._add(x, written)

    def _feed_forward(self, x: Tensor, sight: Sight) -> Tensor:
        # A dense network may work on padding for nothing; an expert's places are not for padding.
        return self.feed_forward(x, sight.real) if self.sparse else self.feed_forward(x)

    def _add(self, x: Tensor, update: Tensor) -> Tensor:
        return x + update if self.residual else update
