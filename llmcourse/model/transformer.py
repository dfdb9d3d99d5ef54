"""The decoder-only transformer, read from top to bottom.

Taught in Part 1; rotary positions, windows and the cache in Part 3. Tokens become vectors,
positions are added (or turn queries and keys inside the blocks), a stack of blocks rewrites the
vectors, a last normalisation, and one matrix product scores every token of the vocabulary.

Sources: Vaswani et al. 2017, arXiv 1706.03762; GPT-2 (Radford et al. 2019) for pre-norm, the final
norm, the tied output layer (Press and Wolf 2017, arXiv 1608.05859) and the scaled initialisation.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from llmcourse.model.block import Block, make_norm
from llmcourse.model.config import FREE, ModelConfig
from llmcourse.model.config_checks import check_same_experts
from llmcourse.model.layers import Dropout, Embedding, Linear
from llmcourse.model.masks import Visibility, positions_in_documents, positions_of
from llmcourse.model.positions import LearnedPositions, SinusoidalPositions
from llmcourse.model.products import Product, multiplying, plain_product
from llmcourse.model.recompute import recomputed
from llmcourse.model.rotary import RotaryTable
from llmcourse.model.self_attention import KeyValueStore, Sight

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
        self.windows = config.windows  # of every layer, asked for at every decoded token
        self.product: Product = plain_product  # of the tied output layer; see `set_products`
        self.recompute = False  # whether blocks run again in the backward pass (recompute.py)
        self.generator = generator
        c, std = config.d_model, config.init_std
        # Each block adds to the residual stream twice. Shrinking what is added by the root of the
        # number of additions keeps the stream's size at the start the same at any depth.
        out_std = std / math.sqrt(2 * config.n_layers)
        self.embedding = Embedding(config.vocab_size, c, std, generator)
        # The sinusoids have amplitude 1 and would drown embeddings that start at 0.02; the paper's
        # factor √C lifts them to a comparable size. Learned positions start as small as the table.
        scaled = config.scale_embeddings
        scaled = config.positions == "sinusoidal" if scaled is None else scaled
        self.embedding_scale = math.sqrt(c) if scaled else 1.0
        self.positions = _make_positions(config, generator)
        self.rotary = _make_rotary(config)
        self.dropout = Dropout(config.dropout, generator)
        self.blocks = nn.ModuleList(
            Block(config, out_std, generator, layer) for layer in range(config.n_layers)
        )
        # Post-norm blocks end in a norm already; a second one would undo nothing and cost time.
        self.final_norm = nn.Identity() if config.norm_placement == "post" else make_norm(config)
        self.head = (
            None
            if config.tie_embeddings
            else Linear(c, config.vocab_size, bias=False, std=std, generator=generator)
        )

    def forward(
        self,
        ids: Tensor,
        padding: Tensor | None = None,
        record: list[Tensor] | None = None,
        *,
        cache: KeyValueStore | None = None,
        documents: Tensor | None = None,
    ) -> Tensor:
        """Scores for the next token at every position.

        Args:
            ids: (B, T) int64 or int32, T >= 1. With a cache: the tokens after those it holds.
            padding: (B, T) bool, True for real tokens; None means all are. Padding may stand on
                either side: positions count real tokens, and no token looks at padding.
            record: a list; each layer appends its attention weights (B, H, T, S).
            cache: holds the keys and values of earlier tokens and takes in those of the new ones.
            documents: (B, T) int64, which document a token belongs to when several are packed in a
                row one after another: positions start anew in each, and none sees another.

        Returns:
            (B, T, V) logits.

        Raises:
            ValueError: ids of another shape or dtype or outside the vocabulary; a context overflow;
                documents together with a cache.
            CacheError: the cache cannot take the tokens. Nothing is stored then.
        """
        return self.logits(self.hidden(ids, padding, record, cache=cache, documents=documents))

    def hidden(
        self,
        ids: Tensor,
        padding: Tensor | None = None,
        record: list[Tensor] | None = None,
        *,
        cache: KeyValueStore | None = None,
        documents: Tensor | None = None,
    ) -> Tensor:
        """The residual stream after the last norm, (B, T, C); `logits` turns it into scores."""
        self._check(ids, padding, cache, documents)
        x = self.embedding(ids)  # (B, T) -> (B, T, C)
        if self.embedding_scale != 1.0:
            x = x * self.embedding_scale
        if cache is not None:
            positions = cache.begin(*ids.shape, padding)  # (T,) or (B, T)
            visibility = cache.visibility
        else:
            positions = _positions(ids, padding, documents)
            visibility = _visibility(ids.shape[1], padding, documents, positions)
        if self.positions is not None:
            x = x + self.positions(positions.clamp(min=0))  # padding may take any row
        x = self.dropout(x)
        sights = {}
        for window in set(self.windows):
            seen = visibility(window, self.config.sinks if window is not None else 0)
            turn = self._turn(window, positions, x.dtype)
            sights[window] = Sight(seen, turn, cache, record, padding)
        # Not with a cache or a record: a second run would write into them a second time.
        again = self.recompute and cache is None and record is None and torch.is_grad_enabled()
        draws = self.training and self.config.draws
        for layer, (block, window) in enumerate(zip(self.blocks, self.windows)):
            if again:
                x = recomputed(
                    block, x, sights[window], layer, draws=draws, generator=self.generator
                )
            else:
                x = block(x, sights[window], layer)
        if cache is not None:
            cache.commit()
        return self.final_norm(x)

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., C) -> (..., V). With tied weights: how well does each token's own vector match?"""
        tied = self.head is None
        y = self.product(hidden, self.embedding.weight) if tied else self.head(hidden)
        cap = self.config.logit_softcap
        return y if cap is None else cap * torch.tanh(y / cap)

    @torch.no_grad()
    def attention_maps(self, ids: Tensor) -> Tensor:
        """Every head's weights for ids (B, T): (L, B, H, T, T), by the path `forward` takes.

        An implementation that never holds the weights gives way to `naive`, which does.
        """
        record: list[Tensor] = []
        holds = self.config.attention in ("auto", "naive")
        (self if holds else self.with_options(attention="naive")).hidden(ids, record=record)
        return torch.stack(record)

    def with_options(self, **changes: Any) -> Transformer:
        """The same weights, shared, under another window, attention implementation or context.

        Args:
            changes: fields of the config that change no parameter: a window, sinks, the
                implementation of attention, dropout, rotary scaling, the context's length.

        Raises:
            ValueError: a field that would change the weights, or an impossible value.
        """
        for name in changes:
            if name not in FREE:
                raise ValueError(f"{name} cannot change under trained weights; only {FREE} can")
        check_same_experts(self.config.experts, changes)
        if "context_length" in changes and self.config.positions in ("learned", "sinusoidal"):
            raise ValueError(
                f"context_length is the size of the {self.config.positions} position table "
                f"and cannot change under trained weights"
            )
        config = self.config.replace(**changes)
        with torch.device("meta"):
            other = Transformer(config)
        shared = dict(self.named_parameters()) | dict(self._fixed_table())
        for name, tensor in shared.items():
            module, _, leaf = name.rpartition(".")
            owner = other.get_submodule(module)
            store = owner._parameters if leaf in owner._parameters else owner._buffers
            store[leaf] = tensor
        for module in multiplying(other):
            module.product = self.product
        other.recompute = self.recompute
        return other.train(self.training)

    def n_parameters(self) -> int:
        """Numbers that training changes; the tied table counts once."""
        return sum(p.numel() for p in self.parameters())

    def summary(self) -> Summary:
        """Parameters by component, FLOPs per token and memory, as a table when printed."""
        from llmcourse.model.summary import summary

        return summary(self.config)

    def _fixed_table(self) -> list[tuple[str, Tensor]]:
        """The fixed position table, if there is one: it is not a parameter and must be shared."""
        if not isinstance(self.positions, SinusoidalPositions):
            return []
        return [("positions.table", self.positions.table)]

    def _turn(
        self, window: int | None, positions: Tensor, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor] | None:
        """Cosines and sines for the layers of this window; None without rotary positions."""
        if not self.rotary:
            return None
        local = window is not None and "local" in self.rotary
        return self.rotary["local" if local else "all"].at(positions.clamp(min=0), dtype)

    def _check(
        self,
        ids: Tensor,
        padding: Tensor | None,
        cache: KeyValueStore | None,
        documents: Tensor | None,
    ) -> None:
        if ids.ndim != 2 or ids.shape[1] == 0:
            raise ValueError(
                f"ids must be (batch, time) with at least one token, got shape {tuple(ids.shape)}"
            )
        longest = ids.shape[1] + (0 if cache is None else cache.longest)
        # A cache counts real tokens and refuses for itself, before it stores anything.
        if cache is None and longest > self.config.context_length and not self.config.endless:
            raise ValueError(
                f"{longest} tokens overflow the context of {self.config.context_length}; "
                f"shorten the input or choose a larger context_length"
            )
        if not torch.compiler.is_compiling():  # compiled code is told beforehand
            for table in self.rotary.values():
                table.grow(longest)
        for name, value in (("padding", padding), ("documents", documents)):
            if value is not None and value.shape != ids.shape:
                raise ValueError(
                    f"{name} must have the shape of ids {tuple(ids.shape)}, "
                    f"got {tuple(value.shape)}"
                )
        if padding is not None and padding.dtype != torch.bool:
            raise ValueError(f"padding must be bool, True for real tokens, got {padding.dtype}")
        if cache is not None and documents is not None:
            raise ValueError("packed documents are for training and have no cache; decode in rows")


def _make_positions(config: ModelConfig, generator: torch.Generator | None) -> nn.Module | None:
    if config.positions == "learned":
        return LearnedPositions(config.context_length, config.d_model, config.init_std, generator)
    if config.positions == "sinusoidal":
        return SinusoidalPositions(config.context_length, config.d_model)
    return None


def _make_rotary(config: ModelConfig) -> dict[str, RotaryTable]:
    """The tables of rotary angles: one for all layers, and one more if windowed ones differ."""
    if config.positions != "rope":
        return {}
    d = config.d_head if config.latent is None else config.latent.d_rope
    tables = {"all": RotaryTable(config.rope, d, config.context_length)}
    if config.rope_local is not None:
        tables["local"] = RotaryTable(config.rope_local, d, config.context_length)
    return tables


def _positions(ids: Tensor, padding: Tensor | None, documents: Tensor | None) -> Tensor:
    """(T,) or (B, T) whole numbers: how many real tokens of its text stand before each token."""
    if documents is not None:
        positions = positions_in_documents(documents)
        return positions if padding is None else positions.masked_fill(~padding, -1)
    if padding is not None:
        return positions_of(padding)
    return torch.arange(ids.shape[1], device=ids.device)


def _visibility(
    t: int, padding: Tensor | None, documents: Tensor | None, positions: Tensor
) -> Callable[[int | None, int], Visibility]:
    """How layers of a window see a text that is not cached."""
    given = None if padding is None and documents is None else positions

    def visibility(window: int | None, sinks: int) -> Visibility:
        return Visibility(
            t, t, True, window, sinks, given, given, q_documents=documents, k_documents=documents
        )

    return visibility
