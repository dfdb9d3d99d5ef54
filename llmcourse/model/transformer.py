"""The decoder-only transformer, read from top to bottom.

Taught in Part 1. Tokens become vectors, positions are added, a stack of blocks rewrites them, a
last normalisation, and one matrix product gives a score for every token of the vocabulary.

Sources: Vaswani et al. 2017, arXiv 1706.03762; GPT-2 (Radford et al. 2019) for pre-norm, the final
norm, the tied output layer (Press and Wolf 2017, arXiv 1608.05859) and the scaled initialisation.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from llmcourse.model.block import Block, make_norm
from llmcourse.model.config import ModelConfig
from llmcourse.model.layers import Dropout, Embedding, Linear
from llmcourse.model.positions import LearnedPositions, SinusoidalPositions

if TYPE_CHECKING:
    from llmcourse.model.summary import Summary


class Transformer(nn.Module):
    """ids (B, T) -> logits (B, T, V).

    Args:
        config: every choice.
        generator: source of the initial weights and of dropout; None uses torch's global one.
    """

    def __init__(self, config: ModelConfig, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.config = config
        c, std = config.d_model, config.init_std
        # Each block adds to the residual stream twice. Shrinking what is added by the root of the
        # number of additions keeps the stream's size at the start the same at any depth.
        out_std = std / math.sqrt(2 * config.n_layers)
        self.embedding = Embedding(config.vocab_size, c, std, generator)
        # The sinusoids have amplitude 1 and would drown embeddings that start at 0.02; the paper's
        # factor √C lifts them to a comparable size. Learned positions start as small as the table.
        self.embedding_scale = math.sqrt(c) if config.positions == "sinusoidal" else 1.0
        self.positions = _make_positions(config, generator)
        self.dropout = Dropout(config.dropout, generator)
        self.blocks = nn.ModuleList(
            Block(config, out_std, generator) for _ in range(config.n_layers)
        )
        # Post-norm blocks end in a norm already; a second one would undo nothing and cost time.
        self.final_norm = make_norm(config) if config.norm_placement == "pre" else nn.Identity()
        self.head = (
            None
            if config.tie_embeddings
            else Linear(c, config.vocab_size, bias=False, std=std, generator=generator)
        )

    def forward(
        self, ids: Tensor, padding: Tensor | None = None, record: list[Tensor] | None = None
    ) -> Tensor:
        """Scores for the next token at every position.

        Args:
            ids: (B, T) int64 or int32, 1 <= T <= context_length.
            padding: (B, T) bool, True for real tokens; None means all are. Padding may stand on
                either side: positions count real tokens, and no token looks at padding.
            record: a list; each layer appends its attention weights (B, H, T, T).

        Returns:
            (B, T, V) logits.

        Raises:
            ValueError: ids of another shape or dtype or outside the vocabulary; a context overflow.
        """
        return self.logits(self.hidden(ids, padding, record))

    def hidden(
        self, ids: Tensor, padding: Tensor | None = None, record: list[Tensor] | None = None
    ) -> Tensor:
        """The residual stream after the last norm, (B, T, C); `logits` turns it into scores."""
        self._check(ids, padding)
        x = self.embedding(ids) * self.embedding_scale  # (B, T) -> (B, T, C)
        if self.positions is not None:
            x = x + self.positions(_positions_of(ids, padding))
        x = self.dropout(x)
        for block in self.blocks:
            x = block(x, padding, record)
        return self.final_norm(x)

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., C) -> (..., V). With tied weights: how well does each token's own vector match?"""
        return hidden @ self.embedding.weight.T if self.head is None else self.head(hidden)

    @torch.no_grad()
    def attention_maps(self, ids: Tensor) -> Tensor:
        """Every head's weights for ids (B, T): (L, B, H, T, T), by the path `forward` takes."""
        record: list[Tensor] = []
        self.hidden(ids, record=record)
        return torch.stack(record)

    def n_parameters(self) -> int:
        """Numbers that training changes; the tied table counts once."""
        return sum(p.numel() for p in self.parameters())

    def summary(self) -> Summary:
        """Parameters by component, FLOPs per token and memory, as a table when printed."""
        from llmcourse.model.summary import summary

        return summary(self.config)

    def _check(self, ids: Tensor, padding: Tensor | None) -> None:
        if ids.ndim != 2 or ids.shape[1] == 0:
            raise ValueError(
                f"ids must be (batch, time) with at least one token, got shape {tuple(ids.shape)}"
            )
        if ids.shape[1] > self.config.context_length:
            raise ValueError(
                f"{ids.shape[1]} tokens overflow the context of {self.config.context_length}; "
                f"shorten the input or choose a larger context_length"
            )
        if padding is not None and padding.shape != ids.shape:
            raise ValueError(
                f"padding must have the shape of ids {tuple(ids.shape)}, got {tuple(padding.shape)}"
            )


def _make_positions(config: ModelConfig, generator: torch.Generator | None) -> nn.Module | None:
    if config.positions == "learned":
        return LearnedPositions(config.context_length, config.d_model, config.init_std, generator)
    if config.positions == "sinusoidal":
        return SinusoidalPositions(config.context_length, config.d_model)
    return None


def _positions_of(ids: Tensor, padding: Tensor | None) -> Tensor:
    """(T,) or (B, T) whole numbers: how many real tokens stand before each token."""
    if padding is None:
        return torch.arange(ids.shape[1], device=ids.device)
    return (padding.long().cumsum(dim=1) - 1).clamp(min=0)
