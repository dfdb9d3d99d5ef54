"""Multi-head latent attention: one small vector per token stands for all its keys and values.

Taught in Part 3. Keys and values are rebuilt from a latent vector c of width d_latent; a position
cannot be turned into what is rebuilt later, so a second, short key k_rope carries it, one for all
heads. A cache keeps [c, k_rope] and nothing else: d_latent + d_rope numbers a token in place of
2 H D.

Decoding need not rebuild anything. The score of head h is q · (W_k c) = (W_kᵀ q) · c, so the query
is brought into the latent space instead, once; and Σ w (W_v c) = W_v (Σ w c), so the values are
rebuilt once, after the average. That is the absorbed form: attention with a single key/value head,
straight on what the cache holds.

Source: DeepSeek-V2 2024, arXiv 2405.04434, section 2.1, equations 9 to 19 and appendix C.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from llmcourse.model.attention import attend_visible
from llmcourse.model.config import ModelConfig
from llmcourse.model.layers import Dropout, Linear
from llmcourse.model.masks import Visibility
from llmcourse.model.norms import RMSNorm
from llmcourse.model.rotary import rotate
from llmcourse.model.self_attention import Sight, merge_heads, split_heads


class LatentAttention(nn.Module):
    """Self-attention whose keys and values pass through a bottleneck.

    `absorb` chooses the form: True, False, or None for the one with fewer operations.
    """

    absorb: bool | None = None

    def __init__(
        self, config: ModelConfig, out_std: float, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        latent, h, c = config.latent, config.n_heads, config.d_model
        bias, std, eps = config.attention_bias, config.init_std, config.norm_eps
        width = h * (latent.d_nope + latent.d_rope)
        if latent.d_query_latent is None:
            self.query = Linear(c, width, False, std, generator)
        else:
            self.query_down = Linear(c, latent.d_query_latent, bias, std, generator)
            self.query_norm = RMSNorm(latent.d_query_latent, eps)
            self.query_up = Linear(latent.d_query_latent, width, False, std, generator)
        self.down = Linear(c, latent.d_latent + latent.d_rope, bias, std, generator)
        self.latent_norm = RMSNorm(latent.d_latent, eps)
        # Rows by head: d_nope that rebuild its key, then d_value that rebuild its value.
        self.up = Linear(
            latent.d_latent, h * (latent.d_nope + latent.d_value), False, std, generator
        )
        self.out = Linear(h * latent.d_value, c, config.attention_out_bias, out_std, generator)
        self.latent, self.n_heads, self.scale = latent, h, config.score_scale
        self.implementation = config.attention
        self.weight_dropout, self.generator = config.dropout, generator
        self.dropout = Dropout(config.dropout, generator)

    def forward(self, x: Tensor, sight: Sight, layer: int = 0) -> Tensor:  # (B, T, C) -> same
        d_nope, d_rope, d_latent = self.latent.d_nope, self.latent.d_rope, self.latent.d_latent
        # (B, T, H (d_nope + d_rope)) -> (B, H, T, d_nope) and (B, H, T, d_rope)
        q, q_rope = split_heads(self._queries(x), self.n_heads).split((d_nope, d_rope), dim=-1)
        c, k_rope = self.down(x).split((d_latent, d_rope), dim=-1)  # (B, T, d_latent), (B, T, d_r)
        k_rope = rotate(k_rope[:, None], *sight.turn)  # (B, T, d_rope) -> (B, 1, T, d_rope)
        q_rope = rotate(q_rope, *sight.turn)
        kept = torch.cat([self.latent_norm(c)[:, None], k_rope], dim=-1)  # (B, 1, T, d_l + d_r)
        if sight.store is not None:
            kept, _ = sight.store.update(layer, kept, kept[..., :0])  # (B, 1, S, d_l + d_r)
        form = self._absorbed if self._worth_absorbing(sight.visibility) else self._rebuilt
        heads = form(q, q_rope, kept, sight)  # (B, H, T, d_value)
        return self.dropout(self.out(merge_heads(heads)))

    def _queries(self, x: Tensor) -> Tensor:
        if self.latent.d_query_latent is None:
            return self.query(x)
        return self.query_up(self.query_norm(self.query_down(x)))

    def _rebuilt(self, q: Tensor, q_rope: Tensor, kept: Tensor, sight: Sight) -> Tensor:
        """The definition: every head's keys and values are made from the latent vectors."""
        latent = self.latent
        c, k_rope = kept.split((latent.d_latent, latent.d_rope), dim=-1)
        # (B, S, H (d_nope + d_value)) -> (B, H, S, d_nope) and (B, H, S, d_value)
        both = split_heads(self.up(c[:, 0]), self.n_heads)
        k, v = both.split((latent.d_nope, latent.d_value), dim=-1)
        k = torch.cat([k, k_rope.expand(-1, self.n_heads, -1, -1)], dim=-1)
        return self._attend(torch.cat([q, q_rope], dim=-1), k, v, sight)

    def _absorbed(self, q: Tensor, q_rope: Tensor, kept: Tensor, sight: Sight) -> Tensor:
        """The same numbers straight from the latent vectors, which all heads share."""
        latent = self.latent
        # (H (d_nope + d_value), d_latent) -> (H, d_nope, d_latent) and (H, d_value, d_latent)
        per_head = self.up.weight.view(self.n_heads, -1, latent.d_latent).to(q.dtype)
        to_key, to_value = per_head.split((latent.d_nope, latent.d_value), dim=1)
        q = torch.cat([q @ to_key, q_rope], dim=-1)  # (B, H, T, d_latent + d_rope)
        mean = self._attend(q, kept, kept[..., : latent.d_latent], sight)  # (B, H, T, d_latent)
        return mean @ to_value.transpose(-2, -1)  # (B, H, T, d_value)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, sight: Sight) -> Tensor:
        return attend_visible(
            q,
            k,
            v,
            sight.visibility,
            scale=self.scale,
            implementation=self.implementation,
            dropout=self.weight_dropout if self.training else 0.0,
            generator=self.generator,
            record=sight.record,
        )

    def _worth_absorbing(self, visibility: Visibility) -> bool:
        """Multiplications per head: rebuilding costs per key, absorbing per query and pair."""
        if self.absorb is not None:
            return self.absorb
        t, s, latent = visibility.t, visibility.s, self.latent
        head = latent.d_nope + latent.d_value
        rebuilt = s * latent.d_latent * head + t * s * (head + latent.d_rope)
        absorbed = t * latent.d_latent * head + t * s * (2 * latent.d_latent + latent.d_rope)
        return absorbed < rebuilt
