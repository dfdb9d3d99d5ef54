"""Who may look at whom: causality, padding, windows, sinks and packed documents as one rule.

Taught in Parts 1 (causality, padding) and 3 (windows, sinks, packing). Everything here follows from
two numbers: the position of the query and the position of the key, both counted in real tokens. A
query at position p sees a key at position j of its own document when

    0 <= j <= p   and   (p - j < window   or   j < sinks).

Working with positions rather than with columns is what keeps the rule right when keys come from a
cache, when a rolling buffer holds them in another order, and when rows are padded on either side.

Shapes: B batch, T queries, S keys. The T queries are always the *last* T of the S positions unless
positions say otherwise. Sources: sliding window, Beltagy et al. 2020, arXiv 2004.05150, section
3.1; attention sinks, Xiao et al. 2023, arXiv 2309.17453.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

NOWHERE = -1  # the position of padding, and of a cache slot that holds no token


@dataclass(frozen=True, eq=False)
class Visibility:
    """Which of S keys each of T queries may see, without the table of T × S answers.

    `table()` makes that table for the implementations that need one; tiled implementations ask for
    the positions and decide tile by tile. One object serves all layers of a forward pass, so that
    the table is made once.

    Raises:
        ValueError: sizes, positions or documents that do not fit; the message says which.
    """

    t: int  # queries
    s: int  # keys
    causal: bool = True  # forbid later positions
    window: int | None = None  # tokens: how many a query sees, itself included; None means all
    sinks: int = 0  # tokens at the start of the text that stay visible outside the window
    q_positions: Tensor | None = None  # (T,) or (B, T) int64; None: the last T of S positions
    k_positions: Tensor | None = None  # (S,) or (B, S) int64; None: 0 to S - 1
    q_documents: Tensor | None = None  # (B, T) int64: which document a token belongs to
    k_documents: Tensor | None = None  # (B, S) int64; given together with q_documents

    def __post_init__(self) -> None:
        if self.causal and self.q_positions is None and self.t > self.s:
            raise ValueError(f"{self.t} queries cannot be the last of only {self.s} positions")
        if self.window is not None:
            if isinstance(self.window, bool) or not isinstance(self.window, int) or self.window < 1:
                raise ValueError(f"window={self.window!r} must be a whole number of at least 1")
            if not self.causal:
                raise ValueError("a sliding window looks back and needs causal=True")
        if isinstance(self.sinks, bool) or not isinstance(self.sinks, int) or self.sinks < 0:
            raise ValueError(f"sinks={self.sinks!r} must be a whole number of at least 0")
        if self.sinks and self.window is None:
            raise ValueError(f"sinks={self.sinks} mean something only beside a window")
        for name, length in (("q_positions", self.t), ("k_positions", self.s)):
            value = getattr(self, name)
            if value is not None and (value.ndim not in (1, 2) or value.shape[-1] != length):
                raise ValueError(f"{name} must be ({length},) or (B, {length}), got {value.shape}")
        if (self.q_documents is None) != (self.k_documents is None):
            raise ValueError("q_documents and k_documents come together")

    @property
    def everything(self) -> bool:
        """Every query sees every key, so that no mask is needed."""
        if self.q_positions is not None or self.k_positions is not None:
            return False
        if self.q_documents is not None:
            return False
        if not self.causal:
            return True
        # One query at the last position sees all that came before it, if the window reaches.
        return self.t == 1 and (self.window is None or self.window >= self.s)

    @property
    def plainly_causal(self) -> bool:
        """Causality alone, with as many queries as keys: what torch's `is_causal` flag means."""
        plain = self.q_positions is None and self.k_positions is None and self.q_documents is None
        reaches = self.window is None or self.window >= self.s
        return self.causal and plain and self.t == self.s and reaches

    def positions(self, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
        """Positions of the queries (T,) or (B, T), and of the keys (S,) or (B, S), int64."""
        q, k = self.q_positions, self.k_positions
        if q is None:
            # Without causality there may be more queries than positions.
            first = max(self.s - self.t, 0)
            q = torch.arange(first, first + self.t, device=device)
        if k is None:
            k = torch.arange(self.s, device=device)
        return q, k

    def rule(self, q: Tensor, k: Tensor) -> Tensor:
        """The rule for positions q and k of any shapes that broadcast: bool, True = may look."""
        seen = k >= 0
        if not self.causal:
            return seen & (q >= 0)
        seen = seen & (k <= q)
        if self.window is not None:
            near = q - k < self.window
            seen = seen & (near | (k < self.sinks) if self.sinks else near)
        return seen

    def table(self, device: torch.device | None = None) -> Tensor | None:
        """The whole answer: bool, (T, S) or (B, 1, T, S); None when every query sees every key."""
        if self.everything:
            return None
        if torch.compiler.is_compiling():
            return _Tables(self).make(device)
        return self._table[device]

    @cached_property
    def _table(self) -> _Tables:
        return _Tables(self)


class _Tables(dict):
    """Tables by device, made when first asked for."""

    def __init__(self, visibility: Visibility) -> None:
        super().__init__()
        self.visibility = visibility

    def __missing__(self, device: torch.device | None) -> Tensor:
        self[device] = self.make(device)
        return self[device]

    def make(self, device: torch.device | None) -> Tensor:
        v = self.visibility
        q, k = v.positions(device)
        seen = v.rule(q[..., :, None], k[..., None, :])  # (T, S) or (B, T, S)
        if v.q_documents is not None:
            seen = seen & (v.q_documents[:, :, None] == v.k_documents[:, None, :])
        return seen[:, None] if seen.ndim == 3 else seen  # (B, T, S) -> (B, 1, T, S)


def causal_mask(t: int, s: int | None = None, device: torch.device | None = None) -> Tensor:
    """(T, S) bool, True where a query may look: at its own position and before.

    Query i stands at position S - T + i.

    Raises:
        ValueError: more queries than positions.
    """
    s = t if s is None else s
    if t > s:
        raise ValueError(f"{t} queries cannot be the last of only {s} positions")
    return torch.ones(t, s, dtype=torch.bool, device=device).tril(diagonal=s - t)


def sliding_window_mask(
    t: int,
    window: int,
    s: int | None = None,
    sinks: int = 0,
    device: torch.device | None = None,
) -> Tensor:
    """(T, S) bool: each query sees itself, the `window` - 1 tokens before it, and the sinks.

    Raises:
        ValueError: more queries than positions, a window below 1, negative sinks.
    """
    s = t if s is None else s
    visibility = Visibility(t, s, window=window, sinks=sinks)
    q, k = visibility.positions(device)
    return visibility.rule(q[:, None], k[None, :])


def padding_mask(lengths: Tensor, t: int) -> Tensor:
    """(B, T) bool from (B,) lengths: True for the real tokens of right-padded rows."""
    return torch.arange(t, device=lengths.device)[None, :] < lengths[:, None]


def positions_of(padding: Tensor) -> Tensor:
    """(B, T) int64 from (B, T) bool: how many real tokens stand before each; padding is NOWHERE."""
    count = padding.long().cumsum(dim=-1) - 1
    return count.masked_fill(~padding, NOWHERE)


def positions_in_documents(documents: Tensor) -> Tensor:
    """(B, T) int64 from (B, T) document numbers: each token's place in its own document.

    Documents are packed one after another: the place starts at 0 wherever the number changes.
    """
    t = documents.shape[-1]
    column = torch.arange(t, device=documents.device).expand_as(documents)  # (B, T)
    starts = torch.ones_like(documents, dtype=torch.bool)
    starts[:, 1:] = documents[:, 1:] != documents[:, :-1]
    first = torch.where(starts, column, 0).cummax(dim=-1).values  # column of the document's start
    return column - first
