"""Exercise 2.4 Perplexity and bits per byte."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from llmcourse.grading.inputs import Draw
from llmcourse.grading.records import Answer, Arguments, Exercise, Property, WrongAnswer


def _score_inputs(draw: Draw, size: int) -> Arguments:
    n = [1, 2, 3, 4, 7, 12][size]
    bytes_each = draw.integers(1, 6, n)
    bytes_each[0] = 3  # not all one: tokens and bytes are never the same number
    return draw.uniform(0.1, 6.0, n), bytes_each


def _score_oracle(token_losses: Tensor, token_bytes: Tensor) -> tuple[float, float]:
    nats, n = math.fsum(token_losses.tolist()), len(token_losses)
    return math.exp(nats / n), nats / sum(token_bytes.tolist()) / math.log(2)


def _score_mean_of_exp(token_losses: Tensor, token_bytes: Tensor) -> Any:
    bits = token_losses.sum() / token_bytes.sum() / math.log(2)
    return token_losses.exp().mean().item(), bits.item()


def _score_nats(token_losses: Tensor, token_bytes: Tensor) -> Any:
    return token_losses.mean().exp().item(), (token_losses.sum() / token_bytes.sum()).item()


def _score_times_ln2(token_losses: Tensor, token_bytes: Tensor) -> Any:
    nats = token_losses.sum() / token_bytes.sum()
    return token_losses.mean().exp().item(), nats.item() * math.log(2)


def _score_per_token(token_losses: Tensor, token_bytes: Tensor) -> Any:
    return token_losses.mean().exp().item(), token_losses.mean().item() / math.log(2)


def _score_mean_of_ratios(token_losses: Tensor, token_bytes: Tensor) -> Any:
    ratios = token_losses / token_bytes
    return token_losses.mean().exp().item(), ratios.mean().item() / math.log(2)


def _score_base_two(token_losses: Tensor, token_bytes: Tensor) -> Any:
    bits = token_losses.sum() / token_bytes.sum() / math.log(2)
    return 2 ** token_losses.mean().item(), bits.item()


def _score_in_bits(token_losses: Tensor, token_bytes: Tensor) -> Any:
    bits = [loss / math.log(2) for loss in token_losses.tolist()]
    return 2 ** (sum(bits) / len(bits)), sum(bits) / int(token_bytes.sum())


def _perplexity_of_equal(got: Any, arguments: Arguments, call: Answer) -> str | None:
    losses, sizes = arguments
    perplexity, bits = call(torch.full_like(losses, math.log(4.0)), torch.ones_like(sizes))
    if abs(float(perplexity) - 4) > 1e-6:
        return "a model that always hesitates between 4 equal tokens has perplexity 4, not " + (
            f"{float(perplexity):.4g}"
        )
    if abs(float(bits) - 2) > 1e-6:
        return (
            "choosing among 4 equal tokens of one byte each costs 2 bits per byte, not "
            f"{float(bits):.4g}"
        )
    return None


SCORES = Exercise(
    id="2.4",
    title="perplexity and bits per byte",
    name="language_scores",
    signature=("language_scores(token_losses: Tensor, token_bytes: Tensor) -> tuple[float, float]"),
    taught="Part 2, validation",
    difficulty=2,
    minutes=10,
    make_inputs=_score_inputs,
    oracle=_score_oracle,
    statement="perplexity is exp(mean loss); bits per byte are all the nats / ln 2 / all the bytes",
    properties=(Property("four equal choices", _perplexity_of_equal),),
    wrong_answers=(
        WrongAnswer(
            "mean of the exponentials",
            _score_mean_of_exp,
            "The perplexity averages exp(loss). It is the exponential of the average: exp comes "
            "last, or a single surprise dominates.",
        ),
        WrongAnswer(
            "nats per byte",
            _score_nats,
            "The second number is in nats per byte: divide by ln 2 to get bits.",
        ),
        WrongAnswer(
            "times ln 2",
            _score_times_ln2,
            "Nats are multiplied by ln 2. A nat is 1 / ln 2 = 1.44 bits: divide.",
        ),
        WrongAnswer(
            "bits per token",
            _score_per_token,
            "The second number is bits per token. Divide by the number of bytes, or scores of "
            "different tokenizers cannot be compared.",
        ),
        WrongAnswer(
            "mean of the ratios",
            _score_mean_of_ratios,
            "You average each token's own bits per byte. Divide the total by the total: a long "
            "token counts for more bytes.",
        ),
        WrongAnswer(
            "two to the nats",
            _score_base_two,
            "The perplexity is 2 to the power of a loss in nats. With nats the base is e.",
        ),
    ),
    alternatives=(_score_in_bits,),
    examples=(
        (torch.tensor([math.log(2.0), math.log(8.0)], dtype=torch.float64), torch.tensor([1, 3])),
    ),
)
