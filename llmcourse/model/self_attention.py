"""Self-attention as a layer: project, turn, look into the cache, attend, project back.

Taught in Part 1; grouped heads, rotary positions, normalised queries and keys and the cache in
Part 3. Sources: Vaswani et al. 2017, arXiv 1706.03762, section 3.2.2; multi-query, Shazeer 2019,
arXiv 1911.02150; grouped-query, Ainslie et al. 2023, arXiv 2305.13245; normalised queries and keys,
Henry et al. 2020, arXiv 2010.04245 (with RMSNorm here, as in Qwen3 and OLMo 2).
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from llmcourse.model.attention import attend_visible
from llmcourse.model.config import ModelConfig
from llmcourse.model.layers import Dropout, Linear
from llmcourse.model.masks import Visibility
from llmcourse.model.norms import RMSNorm
from llmcourse.model.rotary import rotate


class KeyValueStore(Protocol):
    """What the model asks of a cache; `llmcourse.generate.cache` has three.

    One forward pass is `begin`, then `visibility` and `update` for each layer, then `commit`.
    """

    @property
    def longest(self) -> int:
        """Real tokens of the longest row: a plain number, kept without asking the device."""
        ...

    def begin(self, b: int, t: int, padding: Tensor | None) -> Tensor:
        """Make room for T tokens in each of B rows; their positions (T,) or (B, T)."""
        ...

    def visibility(self, window: int | None, sinks: int) -> Visibility:
        """Which of the keys that `update` returns each new token sees, for layers so windowed."""
        ...

    def update(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store (B, G, T, D) and return all keys and values to look at, (B, G, S, D)."""
        ...

    def commit(self) -> None:
        """Every layer is done: the tokens count from now on."""
        ...


class Sight(NamedTuple):
    """What a layer needs to know about the positions of one forward pass."""

    visibility: Visibility
    turn: tuple[Tensor, Tensor] | None = None  # cosines and sines for rotary positions
    store: KeyValueStore | None = None  # the cache, if there is one
    record: list[Tensor] | None = None  # where attention weights are appended
    real: Tensor | None = None  # (B, T) bool, False for padding, which experts leave out


class SelfAttention(nn.Module):
    """Multi-head, grouped-query or multi-query attention with one fused projection for q, k, v."""

    def __init__(
        self, config: ModelConfig, out_std: float, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        h, g, d = config.n_heads, config.n_kv_heads, config.d_head
        # One matrix product for all three is faster than three, and stores the same numbers.
        bias, std = config.attention_bias, config.init_std
        self.qkv = Linear(config.d_model, (h + 2 * g) * d, bias, std, generator)
        self.out = Linear(h * d, config.d_model, config.attention_out_bias, out_std, generator)
        self.n_heads, self.n_kv_heads, self.d_head = h, g, d
        self.qk_norm = config.qk_norm
        if config.qk_norm != "none":
            eps, offset = config.norm_eps, config.norm_offset
            per_head = config.qk_norm == "head"
            self.q_norm = RMSNorm(d if per_head else h * d, eps, offset)
            self.k_norm = RMSNorm(d if per_head else g * d, eps, offset)
        self.scale, self.softcap = config.score_scale, config.attention_softcap
        self.implementation = config.attention
        self.weight_dropout, self.generator = config.dropout, generator
        self.dropout = Dropout(config.dropout, generator)

    def forward(
        self, x: Tensor, sight: Sight | None = None, layer: int = 0
    ) -> Tensor:  # (B, T, C) -> (B, T, C)
        sight = sight or Sight(Visibility(x.shape[1], x.shape[1]))  # alone: plainly causal
        h, g, d = self.n_heads, self.n_kv_heads, self.d_head
        qkv = self.qkv(x)  # (B, T, (H + 2 G) D)
        if self.qk_norm == "width":
            q, k, v = qkv.split((h * d, g * d, g * d), dim=-1)
            qkv = torch.cat([self.q_norm(q), self.k_norm(k), v], dim=-1)
        # (B, T, (H + 2 G) D) -> (B, H, T, D) and twice (B, G, T, D)
        q, k, v = split_heads(qkv, h + 2 * g).split((h, g, g), dim=1)
        if self.qk_norm == "head":
            q, k = self.q_norm(q), self.k_norm(k)
        if sight.turn is not None:
            q, k = rotate(q, *sight.turn), rotate(k, *sight.turn)
        if sight.store is not None:
            # Keys are stored turned: a key's position never changes, so it is turned once.
            k, v = sight.store.update(layer, k, v)  # (B, G, S, D)
        heads = attend_visible(
            q,
            k,
            v,
            sight.visibility,
            scale=self.scale,
            softcap=self.softcap,
            implementation=self.implementation,
            dropout=self.weight_dropout if self.training else 0.0,
            generator=self.generator,
            record=sight.record,
        )  # (B, H, T, D)
        return self.dropout(self.out(merge_heads(heads)))


def split_heads(x: Tensor, n_heads: int) -> Tensor:
    """(B, T, H D) -> (B, H, T, D): cut the width into H pieces, one per head."""
    b, t, c = x.shape
    return x.reshape(b, t, n_heads, c // n_heads).transpose(1, 2)  # (B, T, H, D) -> (B, H, T, D)


def merge_heads(x: Tensor) -> Tensor:
    """(B, H, T, D) -> (B, T, H D): the heads side by side again, the inverse of `split_heads`."""
    b, h, t, d = x.shape
    return x.transpose(1, 2).reshape(b, t, h * d)  # (B, T, H, D) -> (B, T, H D)
