"""The router: for each token a score per expert, and the choice of experts by these scores.

Taught in Part 5. One small matrix turns a token into E logits, softmax or sigmoid turns these into
scores, the K best experts are chosen, and their scores become the weights of their outputs. The
choice itself has no gradient; the weights do, and through them the router learns. All decisions are
pure functions here, `Router` only holds the matrix and puts them in order.

Scores are computed in float32 whatever the model's dtype (float64 in a float64 model): the choice
between two experts hangs on small differences.

Shapes: N tokens, C width, E experts, K chosen per token, A assignments.

Sources: noisy top-k gating, Shazeer et al. 2017, arXiv 1701.06538, equations 3 to 5; capacity,
GShard, arXiv 2006.16668, algorithm 1, and Switch Transformer, arXiv 2101.03961, equation 3; expert
choice, Zhou et al. 2022, arXiv 2202.09368; sigmoid scores, groups and the selection bias,
DeepSeek-V3, arXiv 2412.19437, equations 12 to 16. Deviation from GShard: a token whose second
expert is full keeps its first one's weight as it was, and none is dropped at random.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from llmcourse.model.experts_config import Experts
from llmcourse.model.products import plain_product
from llmcourse.model.routing import Routing, SparseLayer


def scores_of(logits: Tensor, score: str) -> Tensor:
    """(N, E) logits -> scores: "softmax" shares one unit among the experts, "sigmoid" does not."""
    return torch.softmax(logits, dim=-1) if score == "softmax" else torch.sigmoid(logits)


def noisy_logits(
    logits: Tensor, spread: Tensor, generator: torch.Generator | None = None
) -> Tensor:
    """logits + ε softplus(spread), ε standard normal: Shazeer et al. 2017, equation 4.

    A token near the border between two experts goes now to one, now to the other, so that neither
    is forgotten; and the router learns where noise hurts.

    Args:
        logits: (N, E).
        spread: (N, E), before softplus makes it positive.
        generator: of the noise.
    """
    noise = torch.empty_like(logits).normal_(generator=generator)
    return logits + noise * nn.functional.softplus(spread)


def choose_top_k(
    scores: Tensor,
    k: int,
    *,
    bias: Tensor | None = None,
    n_groups: int = 1,
    n_active_groups: int = 1,
    group_score: str = "two",
) -> Tensor:
    """The k experts with the highest scores, best first; of equal ones the first.

    Args:
        scores: (N, E).
        k: how many.
        bias: (E,), added for choosing only; who is chosen keeps the weight of its plain score.
        n_groups: experts are divided into so many groups of neighbours.
        n_active_groups: a token's experts come from its best so many groups.
        group_score: a group is ranked by the sum of its "two" best experts (DeepSeek-V3) or by its
            "best" one (DeepSeek-V2).

    Returns:
        (N, k) int64 expert numbers.

    Raises:
        ValueError: k is not between 1 and E.
    """
    e = scores.shape[1]
    if not 1 <= k <= e:
        raise ValueError(f"k={k} experts cannot be chosen among {e}: choose 1 to {e}")
    ranked = scores.detach() if bias is None else scores.detach() + bias
    if n_active_groups < n_groups:
        grouped = ranked.view(-1, n_groups, e // n_groups)  # (N, groups, E / groups)
        best = min(1 if group_score == "best" else 2, e // n_groups)
        ranks = grouped.topk(best, dim=-1).values.sum(-1)  # (N, groups)
        chosen = torch.zeros_like(ranks, dtype=torch.bool)
        chosen.scatter_(1, _largest(ranks, n_active_groups), True)
        ranked = grouped.masked_fill(~chosen[..., None], -math.inf).view(-1, e)
    return _largest(ranked, k)


def _largest(ranked: Tensor, k: int) -> Tensor:
    """(N, E) -> (N, k): numbers of the largest entries, largest first, of equal ones the first.

    `torch.topk` says nothing about ties, and copies of one expert (a model that was just upcycled,
    a router of zeros) tie everywhere. k times the maximum is also faster for few of few.
    """
    if k > 4 and ranked.shape[1] > 16:
        return ranked.sort(dim=1, descending=True, stable=True).indices[:, :k]
    found, left = [], ranked
    for number in range(k):
        best = left.argmax(dim=1, keepdim=True)  # (N, 1), the first of equal ones
        found.append(best)
        if number + 1 < k:
            left = left.scatter(1, best, -math.inf)
    return torch.cat(found, dim=1)


def weigh(
    scores: Tensor, experts: Tensor, *, renormalise: bool = True, scale: float = 1.0
) -> Tensor:
    """The weights of the chosen experts: their scores, made to sum to 1 if asked, times `scale`.

    Args:
        scores: (N, E).
        experts: (N, K) int64.

    Returns:
        (N, K), with a gradient to the scores.
    """
    weights = scores.gather(1, experts)
    if renormalise:
        # With sigmoids all chosen scores may underflow to 0: then all weights are 0, not NaN.
        weights = weights / weights.sum(dim=1, keepdim=True).clamp(min=1e-20)
    return weights if scale == 1.0 else weights * scale


def within_capacity(experts: Tensor, n_experts: int, capacity: int) -> Tensor:
    """Which assignments find a place when no expert takes more than `capacity`.

    First choices are seated before second ones, and earlier tokens before later ones.

    Args:
        experts: (N, K) int64, best first.
        n_experts: E.
        capacity: places of each expert.

    Returns:
        (N, K) bool.

    Raises:
        ValueError: a capacity below 1.
    """
    if capacity < 1:
        raise ValueError(f"capacity={capacity} must be at least 1 token per expert")
    n, k = experts.shape
    queue = experts.T.reshape(-1)  # (K N,): all first choices in order, then all second ones
    order = queue.argsort(stable=True)  # each expert's candidates side by side, in queue order
    counts = torch.bincount(queue, minlength=n_experts)
    first = counts.cumsum(0) - counts  # (E,) where each expert's candidates begin
    place = torch.arange(n * k, device=experts.device) - first[queue[order]]
    kept = torch.empty_like(queue, dtype=torch.bool)
    kept[order] = place < capacity
    return kept.view(k, n).T


def choose_by_experts(scores: Tensor, taken: int) -> tuple[Tensor, Tensor]:
    """Expert choice: every expert takes the `taken` tokens that score highest with it.

    All experts are equally loaded by construction. But whether a token is taken depends on all
    others of the batch, later ones included: a language model that trains so looks ahead.

    Args:
        scores: (N, E).
        taken: tokens per expert, at most N.

    Returns:
        (A,) tokens and (A,) experts, A = E times taken, expert by expert.
    """
    best = scores.detach().T.sort(dim=1, descending=True, stable=True).indices[:, :taken]  # (E, t)
    experts = torch.arange(scores.shape[1], device=scores.device)
    return best.reshape(-1), experts.repeat_interleave(best.shape[1])


class Router(nn.Module):
    """x (N, C) -> `Routing`.

    Args:
        d_model: C.
        experts: which scores, and who chooses how.
        std: standard deviation of the initial weights.
        generator: of the weights, and of the noise while training.
    """

    keeps_float32 = ("selection_bias",)  # whose small steps half precision would swallow

    def __init__(
        self,
        d_model: int,
        experts: Experts,
        std: float = 0.02,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        e = experts.n_experts
        self.config, self.generator = experts, generator
        self.weight = nn.Parameter(torch.empty(e, d_model).normal_(0.0, std, generator=generator))
        # Zero: softplus(0) = 0.69 is noise of the size of the logits' own differences, for all.
        self.noise_weight = nn.Parameter(torch.zeros(e, d_model)) if experts.noise else None
        # Moved by `router_losses.bias_step` after each update, not by gradients.
        self.selection_bias = (
            nn.Parameter(torch.zeros(e), requires_grad=False) if experts.selection_bias else None
        )

    def forward(
        self, x: Tensor, batch: tuple[int, int], layer: SparseLayer, real: Tensor | None = None
    ) -> Routing:
        """Decide.

        Args:
            x: (N, C).
            batch: (B, T), with B T = N.
            layer: who asks; noted in the routing.
            real: (N,) bool, False for padding, which is sent nowhere; None means all are real.
        """
        logits = self.logits(x)
        scores = scores_of(logits, self.config.score)
        choose = self._by_tokens if self.config.choice == "token" else self._by_experts
        return Routing(logits, scores, *choose(scores, real), batch, layer)

    def logits(self, x: Tensor) -> Tensor:
        """(N, C) -> (N, E), in float32 or more; noisy while training, if the config says so."""
        with torch.autocast(x.device.type, enabled=False):
            wide = x.to(torch.promote_types(x.dtype, torch.float32))
            logits = plain_product(wide, self.weight.to(wide.dtype))
            if self.noise_weight is not None and self.training:
                spread = plain_product(wide, self.noise_weight.to(wide.dtype))
                logits = noisy_logits(logits, spread, self.generator)
        return logits

    def _by_tokens(self, scores: Tensor, real: Tensor | None) -> tuple[Tensor, ...]:
        config, (n, e) = self.config, scores.shape
        experts = choose_top_k(
            scores,
            config.n_active,
            bias=self.selection_bias,
            n_groups=config.n_groups,
            n_active_groups=config.n_active_groups,
            group_score=config.group_score,
        )  # (N, K)
        weights = weigh(scores, experts, renormalise=config.renormalise, scale=config.scale)
        tokens = torch.arange(n, device=scores.device)[:, None].expand_as(experts)
        if real is not None:
            tokens, experts, weights = tokens[real], experts[real], weights[real]  # fewer rows
        capacity = config.expert_capacity(experts.shape[0])
        if capacity is None:
            none = experts.new_empty(0)
            return tokens.reshape(-1), experts.reshape(-1), weights.reshape(-1), none, none
        kept = within_capacity(experts, e, max(capacity, 1))
        return tokens[kept], experts[kept], weights[kept], tokens[~kept], experts[~kept]

    def _by_experts(self, scores: Tensor, real: Tensor | None) -> tuple[Tensor, ...]:
        config, (n, e) = self.config, scores.shape
        numbers = torch.arange(n, device=scores.device) if real is None else real.nonzero()[:, 0]
        offered = scores if real is None else scores[real]
        taken = min(math.ceil(len(numbers) * config.n_active / e), len(numbers))
        tokens, experts = choose_by_experts(offered, taken)
        weights = offered[tokens, experts] * config.scale
        none = experts.new_empty(0)
        return numbers[tokens], experts, weights, none, none

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Router:
        """Cast and move, as every module does; the selection bias is never less than float32."""
        kept = None if self.selection_bias is None else self.selection_bias.data
        super()._apply(fn, recurse)
        if kept is not None and self.selection_bias.dtype in (torch.bfloat16, torch.float16):
            self.selection_bias.data = kept.to(self.selection_bias.device)
        return self

    def extra_repr(self) -> str:
        e, c = self.weight.shape
        return f"{c} -> {e} experts, {self.config.n_active} by {self.config.choice}"
