"""Exercise 5.5 The load-balancing loss and its gradient."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from llmcourse.grading.inputs import Draw
from llmcourse.grading.records import Answer, Arguments, Exercise, Property, WrongAnswer

Result = tuple[Tensor, Tensor]


def _balance_inputs(draw: Draw, size: int) -> Arguments:
    n, e, k = [(1, 2, 1), (3, 2, 1), (2, 3, 2), (4, 3, 2), (5, 4, 1), (7, 5, 3)][size]
    # Chosen by whatever rule, not always the largest logits: noise, a bias, groups.
    chosen = [draw.distinct(k, 0, e - 1) for _ in range(n)]
    logits = draw.normal(n, e, scale=1.5)
    if size == 0:  # the favourite was not taken
        chosen = [[int(logits[0].argmin())]]
    return logits, torch.tensor(chosen)


def _balance_oracle(logits: Tensor, chosen: Tensor) -> Result:
    (n, e), k = logits.shape, chosen.shape[1]
    share = [0.0] * e
    for row in chosen.tolist():
        for expert in row:
            share[expert] += 1 / (n * k)
    p = []
    for row in logits.tolist():
        powers = [math.exp(z - max(row)) for z in row]
        p.append([power / math.fsum(powers) for power in powers])
    means = [math.fsum(row[j] for row in p) / n for j in range(e)]
    loss = e * math.fsum(f * mean for f, mean in zip(share, means))
    # Of token i's logit j: how far the share of j lies above what the token meets on average.
    slopes = [
        [
            e / n * row[j] * (share[j] - math.fsum(f * q for f, q in zip(share, row)))
            for j in range(e)
        ]
        for row in p
    ]
    return torch.tensor(loss, dtype=torch.float64), torch.tensor(slopes, dtype=torch.float64)


def _shares(chosen: Tensor, e: int) -> Tensor:
    return torch.bincount(chosen.reshape(-1), minlength=e).double() / chosen.numel()


def _with_gradient(logits: Tensor, loss_of: Callable[[Tensor], Tensor]) -> Result:
    leaf = logits.clone().requires_grad_()
    loss = loss_of(leaf)
    (gradient,) = torch.autograd.grad(loss, leaf)
    return loss.detach(), gradient


def _balance_no_factor(logits: Tensor, chosen: Tensor) -> Result:
    shares = _shares(chosen, logits.shape[1])
    return _with_gradient(logits, lambda z: (shares * z.softmax(-1).mean(0)).sum())


def _balance_k_times(logits: Tensor, chosen: Tensor) -> Result:
    e, k = logits.shape[1], chosen.shape[1]
    shares = k * _shares(chosen, e)
    return _with_gradient(logits, lambda z: e * (shares * z.softmax(-1).mean(0)).sum())


def _balance_counts(logits: Tensor, chosen: Tensor) -> Result:
    e = logits.shape[1]
    counts = chosen.numel() * _shares(chosen, e)
    return _with_gradient(logits, lambda z: e * (counts * z.softmax(-1).mean(0)).sum())


def _balance_softmax_over_tokens(logits: Tensor, chosen: Tensor) -> Result:
    e = logits.shape[1]
    shares = _shares(chosen, e)
    return _with_gradient(logits, lambda z: e * (shares * z.softmax(0).mean(0)).sum())


def _balance_mean_over_experts(logits: Tensor, chosen: Tensor) -> Result:
    e = logits.shape[1]
    shares = _shares(chosen, e)
    return _with_gradient(logits, lambda z: e * (shares * z.softmax(-1).mean(-1)).sum())


def _balance_own_choice(logits: Tensor, chosen: Tensor) -> Result:
    e = logits.shape[1]
    shares = _shares(logits.topk(chosen.shape[1]).indices, e)
    return _with_gradient(logits, lambda z: e * (shares * z.softmax(-1).mean(0)).sum())


def _balance_first_choice(logits: Tensor, chosen: Tensor) -> Result:
    e = logits.shape[1]
    shares = _shares(chosen[:, 0], e)
    return _with_gradient(logits, lambda z: e * (shares * z.softmax(-1).mean(0)).sum())


def _balance_argmax(logits: Tensor, chosen: Tensor) -> Result:
    e = logits.shape[1]
    shares = _shares(logits.argmax(-1), e)
    return _with_gradient(logits, lambda z: e * (shares * z.softmax(-1).mean(0)).sum())


def _balance_soft_counts(logits: Tensor, chosen: Tensor) -> Result:
    e = logits.shape[1]
    return _with_gradient(logits, lambda z: e * z.softmax(-1).mean(0).square().sum())


def _balance_through_the_counts(logits: Tensor, chosen: Tensor) -> Result:
    # The weights of the chosen experts stand for the counts, and carry a gradient of their own.
    def loss(z: Tensor) -> Tensor:
        p = z.softmax(-1)
        weights = p * torch.zeros_like(p).scatter(-1, chosen, 1.0)
        shares = (weights / weights.sum(-1, keepdim=True)).mean(0)
        return z.shape[1] * (shares * p.mean(0)).sum()

    return _with_gradient(logits, loss)


def _balance_detached(logits: Tensor, chosen: Tensor) -> Result:
    return _balance_by_hand(logits, chosen)[0], torch.zeros_like(logits)


def _balance_of_logits(logits: Tensor, chosen: Tensor) -> Result:
    e = logits.shape[1]
    shares = _shares(chosen, e)
    return _with_gradient(logits, lambda z: e * (shares * z.mean(0)).sum())


def _balance_sigmoid(logits: Tensor, chosen: Tensor) -> Result:
    e = logits.shape[1]
    shares = _shares(chosen, e)
    return _with_gradient(logits, lambda z: e * (shares * z.sigmoid().mean(0)).sum())


def _balance_mean_of_products(logits: Tensor, chosen: Tensor) -> Result:
    # Each token's own choice meets its own probabilities: nothing about the others.
    e = logits.shape[1]
    own = torch.zeros_like(logits).scatter(-1, chosen, 1.0 / chosen.shape[1])
    return _with_gradient(logits, lambda z: e * (own * z.softmax(-1)).sum(-1).mean())


def _balance_sum_over_tokens(logits: Tensor, chosen: Tensor) -> Result:
    e = logits.shape[1]
    shares = _shares(chosen, e)
    return _with_gradient(logits, lambda z: e * (shares * z.softmax(-1).sum(0)).sum())


def _balance_slope_of_p(logits: Tensor, chosen: Tensor) -> Result:
    n, e = logits.shape
    shares = _shares(chosen, e)
    slopes = (e / n * shares).to(logits).expand(n, e).clone()
    return _balance_by_hand(logits, chosen)[0], slopes


def _balance_by_hand(logits: Tensor, chosen: Tensor) -> Result:
    n, e = logits.shape
    one_hot = torch.nn.functional.one_hot(chosen, e).to(logits.dtype)  # (N, K, E)
    shares = one_hot.mean(dim=(0, 1))
    p = torch.softmax(logits, dim=-1)
    met = p @ shares  # (N,) the share of a token's experts, on average
    slopes = p * (shares - met[:, None]) * e / n
    return e * met.mean(), slopes


def _balance_by_autograd(logits: Tensor, chosen: Tensor) -> Result:
    z = logits.detach().clone().requires_grad_(True)
    e, load = logits.shape[1], torch.zeros(logits.shape[1], dtype=logits.dtype)
    for expert in chosen.flatten().tolist():
        load[expert] += 1
    loss = e * torch.dot(load / load.sum(), torch.softmax(z, 1).mean(dim=0))
    loss.backward()
    return loss.detach(), z.grad


def _order_of_choices(got: Result, arguments: Arguments, call: Answer) -> str | None:
    logits, chosen = arguments
    turned = call(logits, chosen.flip(-1))
    if float((turned[0] - got[0]).abs()) > 1e-9:
        return (
            "the loss changes when each token's chosen experts are listed in another order; all k "
            "of them count alike"
        )
    return None


def _shifted_logits(got: Result, arguments: Arguments, call: Answer) -> str | None:
    logits, chosen = arguments
    if float((call(logits + 3.0, chosen)[0] - got[0]).abs()) > 1e-9:
        return "adding 3 to all logits changes the loss; softmax does not see such a shift"
    return None


def _one_when_even(got: Result, arguments: Arguments, call: Answer) -> str | None:
    e = arguments[0].shape[1]
    loss = float(call(torch.zeros(e, e, dtype=torch.float64), torch.arange(e)[:, None])[0])
    if abs(loss - 1) > 1e-9:
        return (
            f"with {e} tokens, each at an expert of its own and with equal logits, the loss is 1; "
            f"it came out {loss:.4g}"
        )
    return None


BALANCE = Exercise(
    id="5.5",
    title="the load-balancing loss and its gradient",
    name="balance_loss",
    signature="balance_loss(logits: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]",
    taught="Part 5, a loss for the load",
    difficulty=3,
    minutes=20,
    make_inputs=_balance_inputs,
    oracle=_balance_oracle,
    tolerance=1e-6,  # counts divided by counts are float32 in torch
    statement="E times the sum over experts of f_e P_e, and its gradient by the logits",
    properties=(
        Property("perfect balance costs 1", _one_when_even),
        Property("all k choices count alike", _order_of_choices),
        Property("a shift of the logits changes nothing", _shifted_logits),
    ),
    wrong_answers=(
        WrongAnswer(
            "factor E forgotten",
            _balance_no_factor,
            "The factor E is missing: perfect balance then costs 1 / E, and the weight of the loss "
            "would have to change with the number of experts.",
        ),
        WrongAnswer(
            "shares that sum to k",
            _balance_k_times,
            "The loss is k times too large: the counts are divided by the tokens. Divide by all "
            "choices, N k, so that the shares f sum to 1.",
        ),
        WrongAnswer(
            "counts for shares",
            _balance_counts,
            "The counts are used as they are, so the loss grows with the batch. Divide them by "
            "their sum: f is a share.",
        ),
        WrongAnswer(
            "softmax over the tokens",
            _balance_softmax_over_tokens,
            "The softmax runs over the tokens, so every mean is 1 / N and the gradient vanishes. "
            "It runs over the experts, dim -1.",
        ),
        WrongAnswer(
            "mean over the experts",
            _balance_mean_over_experts,
            "The probabilities are averaged over the experts, which gives 1 / E for every token "
            "and a wrong shape. P has one number per expert: the mean over tokens, dim 0.",
        ),
        WrongAnswer(
            "its own choice",
            _balance_own_choice,
            "The shares are counted from the largest logits. Count `chosen`: with noise, a bias or "
            "groups these are not the same experts.",
        ),
        WrongAnswer(
            "first choices only",
            _balance_first_choice,
            "Only each token's first choice is counted. With k above 1 all of them are load: count "
            "every entry of `chosen`.",
        ),
        WrongAnswer(
            "the largest logit",
            _balance_argmax,
            "The shares are counted from each token's largest logit (argmax). Count every entry of "
            "`chosen`, which holds all k and which may have been chosen otherwise.",
        ),
        WrongAnswer(
            "probabilities for shares",
            _balance_soft_counts,
            "The mean probabilities are squared: P stands for f too. A router may have even "
            "probabilities on average and still send all tokens to one expert; f counts where they "
            "really went.",
        ),
        WrongAnswer(
            "gradient through the counts",
            _balance_through_the_counts,
            "The weights of the chosen experts stand for the counts, so a gradient runs through "
            "them too. f counts choices, whole numbers, and is a constant for the gradient.",
        ),
        WrongAnswer(
            "no gradient",
            _balance_detached,
            "The loss is right and its gradient is zero: P was detached. f is the constant, and P "
            "carries the gradient.",
        ),
        WrongAnswer(
            "logits for probabilities",
            _balance_of_logits,
            "The logits are averaged, not the probabilities: softmax is missing, and the loss has "
            "no bottom.",
        ),
        WrongAnswer(
            "sigmoid",
            _balance_sigmoid,
            "The probabilities are sigmoids and do not sum to 1. Softmax over the experts is asked "
            "for.",
        ),
        WrongAnswer(
            "mean of products",
            _balance_mean_of_products,
            "Each token's choice is multiplied by its own probabilities and then averaged: that "
            "only asks tokens to be unsure. Average both over the tokens first, then multiply.",
        ),
        WrongAnswer(
            "sum over the tokens",
            _balance_sum_over_tokens,
            "The probabilities are summed over the tokens: P is their mean.",
        ),
        WrongAnswer(
            "gradient by the probabilities",
            _balance_slope_of_p,
            "The loss is right; the gradient is that by the probabilities. Asked for is the one by "
            "the logits: it goes on through the softmax.",
        ),
    ),
    alternatives=(_balance_by_hand, _balance_by_autograd),
    examples=(
        (
            torch.tensor([[math.log(3.0), 0.0], [0.0, 0.0]], dtype=torch.float64),
            torch.tensor([[0], [0]]),
        ),
    ),
)
