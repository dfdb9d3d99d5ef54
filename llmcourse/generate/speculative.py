"""Speculative decoding: a small model guesses ahead, a large one checks all guesses in one pass.

Taught in Part 3. Decoding one token is bound by reading the weights, not by arithmetic, so the
target scores k + 1 positions in hardly more time than one. The draft model proposes k tokens from
its distributions q; with p the target's, each is accepted with probability min(1, p / q), the first
refused one is replaced by a draw from the residual max(p - q, 0), normalised, and if none is
refused the target's next distribution gives one token more. What comes out has exactly the
target's distribution, whatever the draft is; a bad draft only costs time.

p and q are the distributions after the sampling rules, so the same holds for every `Sampling`.

Sources: Leviathan et al. 2022, arXiv 2211.17192, algorithm 1; Chen et al. 2023, arXiv 2302.01318,
algorithm 2. Deviation: close to the end fewer than k tokens are proposed, so that none is wasted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from llmcourse.generate.request import check_prompt, check_room, open_cache
from llmcourse.generate.sampling import Sampling, next_token_probabilities, sample_token

if TYPE_CHECKING:
    from llmcourse.generate.cache import Cache
    from llmcourse.model import Transformer


def acceptance(p: Tensor, q: Tensor) -> Tensor:
    """min(1, p / q): how probable it is that a drafted token stays, same shape.

    Where q is 0 the token is never drafted and the value is 1.
    """
    return torch.where(q > 0, p / q, 1.0).clamp(max=1.0)


def residual(p: Tensor, q: Tensor) -> Tensor:
    """What is drawn from after a refusal: max(p - q, 0) normalised, (..., V).

    With q = 0 it is p itself. Where q = p nothing is ever refused; the answer is then p as well.
    """
    left = (p - q).clamp(min=0)
    mass = left.sum(dim=-1, keepdim=True)
    return torch.where(mass > 0, left / mass, p)


def verify(p: Tensor, q: Tensor, drafted: Tensor, uniform: Tensor) -> tuple[int, Tensor]:
    """One round's judgement.

    Args:
        p: (k + 1, V) the target's distributions at the k drafted places and the one after.
        q: (k, V) the draft's.
        drafted: (k,) the tokens that were drawn from q.
        uniform: (k,) numbers from [0, 1), independent and uniform.

    Returns:
        How many drafted tokens stay, and (V,) the distribution of the token that follows them.
    """
    k = len(drafted)
    chance = acceptance(p[:k], q).gather(1, drafted[:, None])[:, 0]  # (k,)
    kept = int((uniform < chance).cumprod(dim=0).sum())
    return kept, residual(p[kept], q[kept]) if kept < k else p[k]


def expected_tokens(accepted_share: float, k: int) -> float:
    """Tokens per pass of the target if each draft stays with that probability: equation 1.

    (1 - a^(k + 1)) / (1 - a): 1 + a + a² + ... + a^k.
    """
    return float(sum(accepted_share**i for i in range(k + 1)))


@dataclass(frozen=True)
class Speculation:
    """A text, and what it took."""

    ids: Tensor  # (1, T + n)
    new_tokens: int  # tokens written, n
    drafted: int  # tokens proposed by the draft and judged by the target
    accepted: int  # of these, the ones that stayed
    target_calls: int  # forward passes of the target, the prompt's among them
    draft_calls: int  # forward passes of the draft

    @property
    def accepted_share(self) -> float:
        """Share of the judged tokens that stayed; 0 where none was proposed."""
        return self.accepted / self.drafted if self.drafted else 0.0

    @property
    def tokens_per_call(self) -> float:
        """New tokens per forward pass of the target: 1 without speculation."""
        return self.new_tokens / self.target_calls


@torch.no_grad()
def speculative_generate(
    model: Transformer,
    draft: Transformer,
    ids: Tensor,
    max_new_tokens: int,
    *,
    n_draft: int = 4,
    sampling: Sampling | None = None,
    stop: Sequence[int] = (),
    generator: torch.Generator | None = None,
    cache: str = "dense",
) -> Speculation:
    """Continue one row with the distribution of `model`, helped by `draft`.

    Args:
        model: the target; draft: a smaller model with the same vocabulary. Both are put into
            evaluation mode while they write.
        ids: (1, T) int64, T >= 1.
        max_new_tokens: the most tokens to add.
        n_draft: tokens proposed in each round, k.
        sampling: how each token is drawn, by both models alike.
        stop: ids that end the text; the stop token itself is kept.
        generator: source of the randomness.
        cache: "dense", "paged" or "none". Refused tokens are taken back, which a rolling buffer,
            having overwritten what came before them, cannot do.

    Raises:
        ValueError: several rows, unequal vocabularies, a context overflow of either model, what
            `generate` refuses.
    """
    _check(model, draft, ids, max_new_tokens, n_draft, stop, cache)
    sampling, total = sampling or Sampling(), ids.shape[1] + max_new_tokens
    target_reader = _Reader(model, open_cache(cache, model, 1, total), sampling)
    draft_reader = _Reader(draft, open_cache(cache, draft, 1, total), sampling)
    modes = model.training, draft.training
    model.eval(), draft.eval()
    text, drafted, accepted = ids, 0, 0
    try:
        while text.shape[1] < total:
            # The target adds a token of its own: drafting the last one would be for nothing.
            k = min(n_draft, total - text.shape[1] - 1)
            guess, q = text, []
            for _ in range(k):
                q.append(draft_reader.probabilities(guess, 1))  # (1, V)
                guess = torch.cat([guess, sample_token(q[-1], generator)[:, None]], dim=1)
            p = target_reader.probabilities(guess, k + 1)  # (k + 1, V)
            proposed = guess[0, text.shape[1] :]  # (k,)
            uniform = torch.rand(k, generator=generator, dtype=p.dtype, device=p.device)
            kept, following = verify(p, torch.cat(q) if q else p[:0], proposed, uniform)
            last = sample_token(following[None], generator)  # (1,)
            new = torch.cat([proposed[:kept], last])  # (kept + 1,)
            drafted, accepted = drafted + k, accepted + kept
            for reader in (target_reader, draft_reader):
                reader.keep(text.shape[1] + kept)
            end = next((i for i, token in enumerate(new.tolist()) if token in stop), None)
            text = torch.cat([text, new[None, : None if end is None else end + 1]], dim=1)
            if end is not None:
                break
        return Speculation(
            text, text.shape[1] - ids.shape[1], drafted, accepted,
            target_reader.calls, draft_reader.calls,
        )  # fmt: skip
    finally:
        model.train(modes[0]), draft.train(modes[1])


class _Reader:
    """A model and its cache, which holds the first `held` tokens of the text."""

    def __init__(self, model: Transformer, cache: Cache | None, sampling: Sampling) -> None:
        self.model, self.cache, self.sampling = model, cache, sampling
        self.held, self.calls = 0, 0  # tokens, forward passes

    def probabilities(self, text: Tensor, n: int) -> Tensor:
        """(n, V) float64: what follows each of the last n tokens of `text` (1, T)."""
        t = text.shape[1]
        hidden = self.model.hidden(text[:, self.held :], cache=self.cache)  # (1, T - held, C)
        self.calls += 1
        if self.cache is not None:
            self.held = t
        previous = None
        if self.sampling.repetition_penalty != 1.0:
            # Row i has seen t - n + 1 + i tokens; the last of them stands in for those to come.
            seen = torch.arange(t - n, t, device=text.device)[:, None]  # (n, 1) last column seen
            previous = text[0][torch.arange(t, device=text.device).minimum(seen)]  # (n, T)
        logits = self.model.logits(hidden[0, -n:])  # (n, V)
        # float64, so that p / q and p - q are not the rounding of a normalisation.
        probabilities = next_token_probabilities(logits, self.sampling, previous).double()
        return probabilities / probabilities.sum(dim=-1, keepdim=True)

    def keep(self, length: int) -> None:
        """Take back what was read past the first `length` tokens."""
        if self.held > length:
            self.cache.truncate(length)
            self.held = length


def _check(
    model: Transformer,
    draft: Transformer,
    ids: Tensor,
    max_new_tokens: int,
    n_draft: int,
    stop: Sequence[int],
    cache: str,
) -> None:
    check_prompt(model, ids, max_new_tokens, stop)
    if ids.shape[0] != 1:
        raise ValueError(
            f"speculative decoding continues one row at a time, got {ids.shape[0]}: rows would "
            f"accept unequal numbers of tokens; call it once for each"
        )
    if n_draft < 1:
        raise ValueError(f"n_draft={n_draft} must be at least 1")
    if cache not in ("dense", "paged", "none"):
        raise ValueError(
            f"cache={cache!r} cannot take refused tokens back; choose dense, paged or none"
        )
    if draft.config.vocab_size != model.config.vocab_size:
        raise ValueError(
            f"the draft's vocabulary has {draft.config.vocab_size} tokens and the model's "
            f"{model.config.vocab_size}; both must read the same ids"
        )
    for name, one in (("model", model), ("draft", draft)):
        check_room(one, ids.shape[1], max_new_tokens, f"the {name}'s context")
