"""Exercise 2.2 Cross-entropy."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from llmcourse.grading.inputs import Draw
from llmcourse.grading.records import Answer, Arguments, Exercise, Property, WrongAnswer


def _loss_inputs(draw: Draw, size: int) -> Arguments:
    b, t, v = [(1, 1, 2), (1, 2, 3), (1, 3, 2), (2, 3, 4), (2, 3, 5), (3, 5, 7)][size]
    logits, targets = draw.normal(b, t, v), draw.integers(0, v - 1, b, t)
    if size >= 2:
        targets[0, 1:] = -100  # rows with different numbers of labels
    if size == 3:
        logits[1] += 2000.0  # exp overflows
        logits[0] -= 2000.0
    return logits, targets


def _loss_oracle(logits: Tensor, targets: Tensor) -> Tensor:
    losses = []
    for row, target in zip(
        logits.reshape(-1, logits.shape[-1]).tolist(), targets.reshape(-1).tolist()
    ):
        if target != -100:
            top = max(row)
            total = math.fsum(math.exp(value - top) for value in row)
            losses.append(top + math.log(total) - row[target])
    return torch.tensor(math.fsum(losses) / len(losses), dtype=torch.float64)


def _token_losses(logits: Tensor, targets: Tensor) -> Tensor:
    # ignored labels read class 0 and are dealt with by the caller
    picked = logits.gather(-1, targets.clamp_min(0)[..., None])[..., 0]
    return logits.logsumexp(-1) - picked


def _loss_over_all(logits: Tensor, targets: Tensor) -> Tensor:
    return (_token_losses(logits, targets) * (targets != -100)).mean()


def _loss_counts_ignored(logits: Tensor, targets: Tensor) -> Tensor:
    return _token_losses(logits, targets).mean()


def _loss_unstable(logits: Tensor, targets: Tensor) -> Tensor:
    powers = logits.exp()
    logp = (powers / powers.sum(-1, keepdim=True)).log()
    picked = -logp.gather(-1, targets.clamp_min(0)[..., None])[..., 0]
    return picked[targets != -100].mean()


def _loss_sum(logits: Tensor, targets: Tensor) -> Tensor:
    return _token_losses(logits, targets)[targets != -100].sum()


def _loss_bits(logits: Tensor, targets: Tensor) -> Tensor:
    return _token_losses(logits, targets)[targets != -100].mean() / math.log(2)


def _loss_mean_of_means(logits: Tensor, targets: Tensor) -> Tensor:
    kept = targets != -100
    rows = (_token_losses(logits, targets) * kept).sum(-1) / kept.sum(-1)
    return rows[kept.any(-1)].mean()


def _loss_softmax_twice(logits: Tensor, targets: Tensor) -> Tensor:
    return _token_losses(torch.softmax(logits, -1), targets)[targets != -100].mean()


def _loss_looks_up_ignored(logits: Tensor, targets: Tensor) -> Tensor:
    return -logits.log_softmax(-1).gather(-1, targets[..., None]).mean()


def _loss_by_indexing(logits: Tensor, targets: Tensor) -> Tensor:
    flat, labels = logits.reshape(-1, logits.shape[-1]), targets.reshape(-1)
    kept = labels != -100
    flat, labels = flat[kept], labels[kept]
    shifted = flat - flat.amax(1, keepdim=True)
    logp = shifted - shifted.exp().sum(1, keepdim=True).log()
    return -logp[torch.arange(len(labels)), labels].mean()


def _uniform_costs_log_v(got: Tensor, arguments: Arguments, call: Answer) -> str | None:
    logits, targets = arguments
    uniform = float(call(torch.zeros_like(logits), targets))
    if abs(uniform - math.log(logits.shape[-1])) > 1e-6:
        return (
            f"with all logits equal the loss must be ln V = {math.log(logits.shape[-1]):.4g}; "
            f"it is {uniform:.4g}"
        )
    return None


def _ignored_is_ignored(got: Tensor, arguments: Arguments, call: Answer) -> str | None:
    logits, targets = arguments
    changed = torch.where((targets == -100)[..., None], torch.flip(2 * logits, (-1,)), logits)
    if abs(float(call(changed, targets)) - float(got)) > 1e-6:
        return "changing the logits where the label is -100 changed the loss"
    return None


CROSS_ENTROPY = Exercise(
    id="2.2",
    title="cross-entropy with ignored labels",
    name="cross_entropy",
    signature="cross_entropy(logits: Tensor, targets: Tensor) -> Tensor",
    taught="Part 2, the loss",
    difficulty=3,
    minutes=20,
    make_inputs=_loss_inputs,
    oracle=_loss_oracle,
    statement="the mean of -log softmax(logits)[target] over the labels that are not -100",
    properties=(
        Property("ignored labels do not count", _ignored_is_ignored),
        Property("all logits equal cost ln V nats a token", _uniform_costs_log_v),
    ),
    forbidden=(
        "torch.nn.functional.cross_entropy",
        "torch.nn.functional.nll_loss",
        "torch._C._nn.cross_entropy_loss",
        "torch._C._nn.nll_loss_nd",
        "torch.nll_loss" if hasattr(torch, "nll_loss") else "torch._C._nn.nll_loss",
    ),
    wrong_answers=(
        WrongAnswer(
            "divided by all positions",
            _loss_over_all,
            "The sum leaves the ignored labels out and the divisor does not: divide by the number "
            "of labels that count, not by B * T. Padding would make the loss look small.",
        ),
        WrongAnswer(
            "ignored labels counted",
            _loss_counts_ignored,
            "The labels -100 are counted (as class 0). They mark padding: leave them out of the "
            "sum and of the divisor.",
        ),
        WrongAnswer(
            "log of softmax",
            _loss_unstable,
            "exp overflows for large logits, and log of a rounded-down 0 is -inf. Use "
            "logsumexp(logits) - logits[target], or subtract the maximum first.",
        ),
        WrongAnswer(
            "sum",
            _loss_sum,
            "This is the sum over the labels; asked for is the mean.",
        ),
        WrongAnswer(
            "in bits",
            _loss_bits,
            "The loss is in bits. Losses are in nats here: the natural logarithm.",
        ),
        WrongAnswer(
            "mean of the rows' means",
            _loss_mean_of_means,
            "You average each row and then the rows, so a label in a short row weighs more. "
            "Every label counts the same: one sum, one divisor.",
        ),
        WrongAnswer(
            "-100 looked up",
            _loss_looks_up_ignored,
            "The label -100 is looked up like a token id. Take the ignored positions out first, or "
            "look up a harmless id such as 0 there and leave the result out of the mean.",
        ),
        WrongAnswer(
            "softmax applied twice",
            _loss_softmax_twice,
            "softmax is applied twice: the loss takes logits, and softmax(softmax(x)) is almost "
            "uniform, so such a loss hardly falls.",
        ),
    ),
    alternatives=(_loss_by_indexing,),
    examples=(
        (
            torch.tensor([[[0.0, math.log(3.0)], [5.0, 5.0], [1.0, 2.0]]], dtype=torch.float64),
            torch.tensor([[1, 0, -100]]),
        ),
    ),
)
