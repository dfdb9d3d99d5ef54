"""Exercise 5.2 The router z-loss, padding left out."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from llmcourse.grading.inputs import Draw
from llmcourse.grading.records import Answer, Arguments, Exercise, Property, WrongAnswer


def _z_inputs(draw: Draw, size: int) -> Arguments:
    n, e = [(1, 2), (2, 3), (3, 2), (4, 3), (4, 5), (6, 4)][size]
    logits = draw.normal(n, e, scale=1.5)
    real = torch.ones(n, dtype=torch.bool)
    if size == 4:  # exp alone would overflow
        logits = logits + torch.tensor([[900.0], [750.0], [800.0], [850.0]])
    if size == 0:
        logits = logits + 1.5
    if size >= 2:  # padding somewhere
        real[draw.distinct(size // 2, 0, n - 1)] = False
    return logits, real


def _z_oracle(logits: Tensor, real: Tensor) -> Tensor:
    squares = []
    for row, counts in zip(logits.tolist(), real.tolist()):
        if counts:
            top = max(row)
            squares.append((top + math.log(math.fsum(math.exp(z - top) for z in row))) ** 2)
    return torch.tensor(math.fsum(squares) / len(squares), dtype=torch.float64)


def _z_not_squared(logits: Tensor, real: Tensor) -> Tensor:
    return logits[real].logsumexp(-1).mean()


def _z_sum(logits: Tensor, real: Tensor) -> Tensor:
    return logits[real].logsumexp(-1).square().sum()


def _z_padding_counts(logits: Tensor, real: Tensor) -> Tensor:
    return logits.logsumexp(-1).square().mean()


def _z_padding_zeroed(logits: Tensor, real: Tensor) -> Tensor:
    return (logits * real[:, None]).logsumexp(-1).square().mean()


def _z_padding_zeroed_well_counted(logits: Tensor, real: Tensor) -> Tensor:
    return (logits * real[:, None]).logsumexp(-1).square().sum() / real.sum()


def _z_padding_in_the_count(logits: Tensor, real: Tensor) -> Tensor:
    return (logits.logsumexp(-1).square() * real).mean()


def _z_padding_alone(logits: Tensor, real: Tensor) -> Tensor:
    return logits[~real].logsumexp(-1).square().mean()


def _z_squared_mean(logits: Tensor, real: Tensor) -> Tensor:
    return logits[real].logsumexp(-1).mean().square()


def _z_of_probabilities(logits: Tensor, real: Tensor) -> Tensor:
    return logits[real].softmax(-1).logsumexp(-1).square().mean()


def _z_squared_logits(logits: Tensor, real: Tensor) -> Tensor:
    return logits[real].square().mean()


def _z_over_tokens(logits: Tensor, real: Tensor) -> Tensor:
    return logits[real].logsumexp(0).square().mean()


def _z_without_log(logits: Tensor, real: Tensor) -> Tensor:
    return logits[real].exp().sum(-1).square().mean()


def _z_overflows(logits: Tensor, real: Tensor) -> Tensor:
    return logits[real].exp().sum(-1).log().square().mean()


def _z_largest(logits: Tensor, real: Tensor) -> Tensor:
    return logits[real].amax(-1).square().mean()


def _z_mean_inside(logits: Tensor, real: Tensor) -> Tensor:
    return (logits[real].logsumexp(-1) - math.log(logits.shape[1])).square().mean()


def _z_per_expert(logits: Tensor, real: Tensor) -> Tensor:
    return logits[real].logsumexp(-1).square().mean() / logits.shape[1]


def _z_by_the_maximum(logits: Tensor, real: Tensor) -> Tensor:
    top = logits.max(dim=1, keepdim=True).values
    z = (logits - top).exp().sum(1).log() + top[:, 0]  # (N,)
    return torch.where(real, z * z, 0.0).sum() / real.sum()


def _padding_does_not_matter(got: Tensor, arguments: Arguments, call: Answer) -> str | None:
    logits, real = arguments
    other = torch.where(real[:, None], logits, logits + 7.0)
    if bool(real.all()) or float((call(other, real) - got).abs()) < 1e-9:
        return None
    return "the loss changes with the logits of padding, which must not count"


def _twice_the_batch(got: Tensor, arguments: Arguments, call: Answer) -> str | None:
    logits, real = arguments
    again = call(logits.repeat(2, 1), real.repeat(2))
    if float((again - got).abs()) > 1e-9 * max(1.0, float(got.abs())):
        return "the same tokens twice over must have the same loss: it is a mean over tokens"
    return None


Z_LOSS = Exercise(
    id="5.2",
    title="the router z-loss",
    name="z_loss",
    signature="z_loss(logits: Tensor, real: Tensor) -> Tensor",
    taught="Part 5, a loss for the logits",
    difficulty=1,
    minutes=10,
    make_inputs=_z_inputs,
    oracle=_z_oracle,
    statement="the mean over the tokens that are no padding of logsumexp(logits) squared",
    properties=(
        Property("padding does not matter", _padding_does_not_matter),
        Property("the loss is a mean over tokens", _twice_the_batch),
    ),
    wrong_answers=(
        WrongAnswer(
            "not squared",
            _z_not_squared,
            "The square is missing. Without it the loss has no bottom: the router lowers all "
            "logits for ever.",
        ),
        WrongAnswer(
            "a sum for a mean",
            _z_sum,
            "The squares are summed over the tokens, so a larger batch has a larger loss. Take "
            "their mean.",
        ),
        WrongAnswer(
            "padding counts",
            _z_padding_counts,
            "Padding counts as well. Take only the rows of logits where `real` is True.",
        ),
        WrongAnswer(
            "padding set to zero",
            _z_padding_zeroed,
            "The logits of padding are set to 0, and logsumexp of zeros is ln E, not 0: padding "
            "still counts. Leave its rows out.",
        ),
        WrongAnswer(
            "padding set to zero, rightly counted",
            _z_padding_zeroed_well_counted,
            "The logits of padding are set to 0, and logsumexp of zeros is ln E, not 0: padding "
            "adds to the sum. Leave its rows out.",
        ),
        WrongAnswer(
            "padding in the count",
            _z_padding_in_the_count,
            "Padding adds nothing and is still counted: the sum is divided by all tokens. Divide "
            "by the number of real ones.",
        ),
        WrongAnswer(
            "padding alone",
            _z_padding_alone,
            "The mask is inverted: `real` is True for tokens that count.",
        ),
        WrongAnswer(
            "the mean squared",
            _z_squared_mean,
            "The mean is taken first and then squared, so a token far above 0 and one far below "
            "cancel. Square each token's logsumexp, then take the mean.",
        ),
        WrongAnswer(
            "of probabilities",
            _z_of_probabilities,
            "logsumexp is taken of the probabilities. They are the same whatever is added to the "
            "logits, so nothing holds the logits down: take it of the logits.",
        ),
        WrongAnswer(
            "squared logits",
            _z_squared_logits,
            "This is the mean square of the logits. The z-loss squares one number for each token, "
            "its logsumexp.",
        ),
        WrongAnswer(
            "over the tokens",
            _z_over_tokens,
            "logsumexp runs over the tokens (dim 0). Each token has one: over its experts, dim -1.",
        ),
        WrongAnswer(
            "no logarithm",
            _z_without_log,
            "The logarithm is missing: the sum of exp itself is squared.",
        ),
        WrongAnswer(
            "overflow",
            _z_overflows,
            "exp overflows for large logits, the very ones this loss is there for. Subtract each "
            "token's largest logit and add it again behind the log, or use logsumexp.",
        ),
        WrongAnswer(
            "the largest logit",
            _z_largest,
            "The largest logit stands for the logsumexp. They are close only when one expert is "
            "far ahead.",
        ),
        WrongAnswer(
            "a mean inside",
            _z_mean_inside,
            "This is the log of the mean of exp: ln E is missing from every token's z. Sum over "
            "the experts.",
        ),
        WrongAnswer(
            "divided by the experts",
            _z_per_expert,
            "The loss is divided by the number of experts as well. The mean is over tokens only.",
        ),
    ),
    alternatives=(_z_by_the_maximum,),
    examples=(
        (
            torch.tensor([[0.0, 0.0], [1.0, math.log(math.e**3 - math.e)], [5.0, 5.0]]).double(),
            torch.tensor([True, True, False]),
        ),
    ),
)
