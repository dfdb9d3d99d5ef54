"""Exercise 4.7 Gradient accumulation with ragged batches."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from llmcourse.grading.inputs import Draw
from llmcourse.grading.records import Answer, Arguments, Exercise, Property, WrongAnswer

Losses = Callable[[Tensor, Tensor], Tensor]


def _accumulation_inputs(draw: Draw, size: int) -> Arguments:
    counts = [[3], [2, 2], [1, 3], [3, 1, 2], [1, 5, 2, 2], [4, 1, 7]][size]
    c = [1, 2, 2, 3, 3, 4][size]
    batches = [2.0 + draw.normal(n, c) * (1 + k) for k, n in enumerate(counts)]
    return draw.losses(), draw.normal(c), batches


def _accumulation_oracle(losses: Losses, weight: Tensor, batches: list[Tensor]) -> Tensor:
    leaf = weight.clone().requires_grad_(True)
    losses(leaf, torch.cat(batches)).mean().backward()  # the large batch itself
    return leaf.grad


def _gradients(
    losses: Losses, weight: Tensor, batches: list[Tensor], mean: bool
) -> tuple[list[Tensor], list[int]]:
    found, counts = [], []
    for batch in batches:
        leaf = weight.clone().requires_grad_(True)
        each = losses(leaf, batch)
        (each.mean() if mean else each.sum()).backward()
        found.append(leaf.grad)
        counts.append(len(each))
    return found, counts


def _accumulation_mean_of_means(losses: Losses, weight: Tensor, batches: list[Tensor]) -> Tensor:
    found, counts = _gradients(losses, weight, batches, mean=True)
    return sum(found) / len(counts)


def _accumulation_sum_of_means(losses: Losses, weight: Tensor, batches: list[Tensor]) -> Tensor:
    found, _ = _gradients(losses, weight, batches, mean=True)
    return sum(found)


def _accumulation_sum(losses: Losses, weight: Tensor, batches: list[Tensor]) -> Tensor:
    found, _ = _gradients(losses, weight, batches, mean=False)
    return sum(found)


def _accumulation_by_batches(losses: Losses, weight: Tensor, batches: list[Tensor]) -> Tensor:
    found, counts = _gradients(losses, weight, batches, mean=False)
    return sum(found) / len(counts)


def _accumulation_last_mean(losses: Losses, weight: Tensor, batches: list[Tensor]) -> Tensor:
    return _gradients(losses, weight, batches, mean=True)[0][-1]


def _accumulation_last_share(losses: Losses, weight: Tensor, batches: list[Tensor]) -> Tensor:
    found, counts = _gradients(losses, weight, batches, mean=False)
    return found[-1] / sum(counts)


def _accumulation_last_of_means(losses: Losses, weight: Tensor, batches: list[Tensor]) -> Tensor:
    found, counts = _gradients(losses, weight, batches, mean=True)
    return found[-1] / len(counts)


def _accumulation_last_count(losses: Losses, weight: Tensor, batches: list[Tensor]) -> Tensor:
    found, counts = _gradients(losses, weight, batches, mean=False)
    return sum(found) / counts[-1]


def _accumulation_divided_twice(losses: Losses, weight: Tensor, batches: list[Tensor]) -> Tensor:
    found, counts = _gradients(losses, weight, batches, mean=True)
    return sum(found) / sum(counts)


def _accumulation_steps_between(losses: Losses, weight: Tensor, batches: list[Tensor]) -> Tensor:
    total, now = torch.zeros_like(weight), weight
    count = sum(len(batch) for batch in batches)
    for batch in batches:
        (found,), _ = _gradients(losses, now, [batch], mean=False)
        total = total + found / count
        now = now - found / count
    return total


def _accumulation_shares(losses: Losses, weight: Tensor, batches: list[Tensor]) -> Tensor:
    # Each mean weighted by its share of the targets, one call of grad a batch.
    leaf = weight.detach().clone().requires_grad_()
    count = sum(batch.shape[0] for batch in batches)
    total = torch.zeros_like(weight)
    for batch in batches:
        loss = losses(leaf, batch).mean() * (batch.shape[0] / count)
        total += torch.autograd.grad(loss, leaf)[0]
    return total


def _cut_does_not_matter(got: Tensor, arguments: Arguments, call: Answer) -> str | None:
    losses, weight, batches = arguments
    if float((call(losses, weight, [torch.cat(batches)]) - got).abs().max()) > 1e-9:
        return (
            f"cut into batches of {[len(batch) for batch in batches]} targets, the gradient is "
            "another than for the same targets in one batch"
        )
    return None


ACCUMULATION = Exercise(
    id="4.7",
    title="accumulate gradients",
    name="accumulated_gradient",
    signature="accumulated_gradient(losses, weight: Tensor, batches: list[Tensor]) -> Tensor",
    taught="Part 4, gradient accumulation",
    difficulty=3,
    minutes=15,
    make_inputs=_accumulation_inputs,
    oracle=_accumulation_oracle,
    statement="the gradient of the mean over all targets of all batches",
    properties=(
        Property("how the targets are cut into batches does not matter", _cut_does_not_matter),
    ),
    wrong_answers=(
        WrongAnswer(
            "mean of the means",
            _accumulation_mean_of_means,
            "Each batch's mean weighs the same, so a target in a short batch counts for more. Sum "
            "the losses, and divide by the number of all targets once.",
        ),
        WrongAnswer(
            "sum of the means",
            _accumulation_sum_of_means,
            "The batches' mean gradients are added up and divided by nothing: four batches make a "
            "step four times as long, as if the learning rate had been raised.",
        ),
        WrongAnswer(
            "never divided",
            _accumulation_sum,
            "This is the gradient of the sum over all targets. Divide by how many there are.",
        ),
        WrongAnswer(
            "divided by the batches",
            _accumulation_by_batches,
            "The sum over all targets is divided by the number of batches. Divide by the number of "
            "targets in all of them.",
        ),
        WrongAnswer(
            "only the last batch",
            _accumulation_last_mean,
            "Only the last batch is left: the gradient was set to zero, or made anew, for every "
            "batch. It is cleared once, before the first.",
        ),
        WrongAnswer(
            "only the last batch's share",
            _accumulation_last_share,
            "Only the last batch is left: the gradient was set to zero, or made anew, for every "
            "batch. It is cleared once, before the first.",
        ),
        WrongAnswer(
            "only the last batch's mean",
            _accumulation_last_of_means,
            "Only the last batch is left: the gradient was set to zero, or made anew, for every "
            "batch. It is cleared once, before the first.",
        ),
        WrongAnswer(
            "divided by the last count",
            _accumulation_last_count,
            "The sum is divided by the targets of the last batch alone. Count those of all "
            "batches.",
        ),
        WrongAnswer(
            "divided twice",
            _accumulation_divided_twice,
            "It is divided twice: each batch's loss is a mean already, and the sum of the means is "
            "divided by the number of targets again. Sum the losses instead.",
        ),
        WrongAnswer(
            "a step after each batch",
            _accumulation_steps_between,
            "The weight moves between the batches. Accumulation takes all gradients at the same "
            "weight, and one step afterwards.",
        ),
    ),
    alternatives=(_accumulation_shares,),
    examples=(
        (
            torch.mul,
            torch.tensor([1.0], dtype=torch.float64),
            [
                torch.tensor([2.0, 4.0, 6.0], dtype=torch.float64),
                torch.tensor([10.0], dtype=torch.float64),
            ],
        ),
    ),
)
