"""Exercise 5.7 Balance without a loss: a bias for choosing only."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from llmcourse.grading.inputs import Draw
from llmcourse.grading.records import Answer, Arguments, Exercise, Property, WrongAnswer

Result = tuple[Tensor, Tensor]


def _bias_inputs(draw: Draw, size: int) -> Arguments:
    n, e, k = [(1, 2, 1), (2, 2, 2), (3, 4, 2), (4, 3, 1), (6, 4, 2), (8, 6, 3)][size]
    logits, bias = draw.normal(n, e), draw.normal(e, scale=0.4)
    if size in (2, 3):  # the bias gives everybody an expert that nobody would choose
        last = draw.integer(0, e - 1)
        logits[:, last] = logits.amin(dim=1) - 1.0
        bias[last] = 1.5
    return logits, bias, k, draw.number(0.05, 0.2)


def _bias_oracle(logits: Tensor, bias: Tensor, k: int, rate: float) -> Result:
    load, table = [0] * len(bias), []
    for row in logits.tolist():
        scores = [1 / (1 + math.exp(-z)) for z in row]
        ranked = sorted(range(len(row)), key=lambda j: -(scores[j] + float(bias[j])))[:k]
        total = math.fsum(scores[j] for j in ranked)
        table.append([scores[j] / total if j in ranked else 0.0 for j in range(len(row))])
        for j in ranked:
            load[j] += 1
    moved = []
    for j, value in enumerate(bias.tolist()):
        difference = sum(load) - len(load) * load[j]  # of whole numbers: exact
        moved.append(value + rate * ((difference > 0) - (difference < 0)))
    return torch.tensor(table, dtype=torch.float64), torch.tensor(moved, dtype=torch.float64)


def _picked(ranked: Tensor, k: int) -> Tensor:
    return torch.zeros_like(ranked).scatter(-1, ranked.topk(k).indices, 1.0)  # (N, E)


def _weights(scores: Tensor, picked: Tensor) -> Tensor:
    kept = scores * picked
    return kept / kept.sum(-1, keepdim=True)


def _moved(bias: Tensor, load: Tensor, rate: float) -> Tensor:
    return bias + rate * torch.sign(load.mean() - load)


def _bias_in_the_weights(logits: Tensor, bias: Tensor, k: int, rate: float) -> Result:
    biased = logits.sigmoid() + bias
    picked = _picked(biased, k)
    return _weights(biased, picked), _moved(bias, picked.sum(0), rate)


def _bias_unused(logits: Tensor, bias: Tensor, k: int, rate: float) -> Result:
    scores = logits.sigmoid()
    picked = _picked(scores, k)
    return _weights(scores, picked), _moved(bias, picked.sum(0), rate)


def _bias_reversed(logits: Tensor, bias: Tensor, k: int, rate: float) -> Result:
    scores = logits.sigmoid()
    picked = _picked(scores + bias, k)
    return _weights(scores, picked), _moved(bias, picked.sum(0), -rate)


def _bias_proportional(logits: Tensor, bias: Tensor, k: int, rate: float) -> Result:
    scores = logits.sigmoid()
    picked = _picked(scores + bias, k)
    load = picked.sum(0)
    return _weights(scores, picked), bias + rate * (load.mean() - load)


def _bias_relative(logits: Tensor, bias: Tensor, k: int, rate: float) -> Result:
    scores = logits.sigmoid()
    picked = _picked(scores + bias, k)
    load = picked.mean(0) / k
    return _weights(scores, picked), bias + rate * (load.mean() - load)


def _bias_softmax(logits: Tensor, bias: Tensor, k: int, rate: float) -> Result:
    scores = logits.softmax(-1)
    picked = _picked(scores + bias, k)
    return _weights(scores, picked), _moved(bias, picked.sum(0), rate)


def _bias_not_renormalised(logits: Tensor, bias: Tensor, k: int, rate: float) -> Result:
    scores = logits.sigmoid()
    picked = _picked(scores + bias, k)
    return scores * picked, _moved(bias, picked.sum(0), rate)


def _bias_normalised_over_all(logits: Tensor, bias: Tensor, k: int, rate: float) -> Result:
    scores = logits.sigmoid()
    picked = _picked(scores + bias, k)
    shares = scores / scores.sum(-1, keepdim=True)
    return shares * picked, _moved(bias, picked.sum(0), rate)


def _bias_before_the_sigmoid(logits: Tensor, bias: Tensor, k: int, rate: float) -> Result:
    picked = _picked(logits + bias, k)
    return _weights(logits.sigmoid(), picked), _moved(bias, picked.sum(0), rate)


def _bias_in_the_logits(logits: Tensor, bias: Tensor, k: int, rate: float) -> Result:
    scores = (logits + bias).sigmoid()
    picked = _picked(scores, k)
    return _weights(scores, picked), _moved(bias, picked.sum(0), rate)


def _bias_load_without(logits: Tensor, bias: Tensor, k: int, rate: float) -> Result:
    scores = logits.sigmoid()
    picked = _picked(scores + bias, k)
    return _weights(scores, picked), _moved(bias, _picked(scores, k).sum(0), rate)


def _bias_load_of_weights(logits: Tensor, bias: Tensor, k: int, rate: float) -> Result:
    scores = logits.sigmoid()
    weights = _weights(scores, _picked(scores + bias, k))
    return weights, _moved(bias, weights.sum(0), rate)


def _bias_target_without_k(logits: Tensor, bias: Tensor, k: int, rate: float) -> Result:
    scores = logits.sigmoid()
    picked = _picked(scores + bias, k)
    target = len(logits) / len(bias)
    return _weights(scores, picked), bias + rate * torch.sign(target - picked.sum(0))


def _bias_never_rests(logits: Tensor, bias: Tensor, k: int, rate: float) -> Result:
    scores = logits.sigmoid()
    picked = _picked(scores + bias, k)
    load = picked.sum(0)
    steps = torch.where(load > load.mean(), -rate, rate)
    return _weights(scores, picked), bias + steps


def _bias_replaced(logits: Tensor, bias: Tensor, k: int, rate: float) -> Result:
    scores = logits.sigmoid()
    picked = _picked(scores + bias, k)
    return _weights(scores, picked), _moved(torch.zeros_like(bias), picked.sum(0), rate)


def _bias_centred(logits: Tensor, bias: Tensor, k: int, rate: float) -> Result:
    scores = logits.sigmoid()
    picked = _picked(scores + bias, k)
    moved = _moved(bias, picked.sum(0), rate)
    return _weights(scores, picked), moved - moved.mean()


def _bias_as_it_was(logits: Tensor, bias: Tensor, k: int, rate: float) -> Result:
    scores = logits.sigmoid()
    return _weights(scores, _picked(scores + bias, k)), bias.clone()


def _bias_by_indices(logits: Tensor, bias: Tensor, k: int, rate: float) -> Result:
    scores = 1 / (1 + torch.exp(-logits))
    experts = (scores + bias).argsort(dim=1, descending=True)[:, :k]  # (N, k)
    kept = scores.gather(1, experts)
    gates = torch.zeros_like(scores).scatter(1, experts, kept / kept.sum(1, keepdim=True))
    load = torch.bincount(experts.flatten(), minlength=len(bias))
    even = experts.numel() / len(bias)
    return gates, torch.where(load > even, bias - rate, torch.where(load < even, bias + rate, bias))


def _only_for_choosing(got: Result, arguments: Arguments, call: Answer) -> str | None:
    logits, bias, k, rate = arguments
    raised = call(logits, bias + 10.0, k, rate)[0]
    if float((raised - got[0]).abs().max()) > 1e-9:
        return (
            "adding 10 to every bias changes no choice and must change no weight; the weights "
            "changed"
        )
    return None


def _steps_of_one_length(got: Result, arguments: Arguments, call: Answer) -> str | None:
    _, bias, _, rate = arguments
    for expert, step in enumerate((got[1] - bias).tolist()):
        if min(abs(step), abs(step - rate), abs(step + rate)) > 1e-9:
            return (
                f"the bias of expert {expert} moved by {step:.4g}; it moves by {rate} up or down, "
                "or not at all"
            )
    return None


SELECTION_BIAS = Exercise(
    id="5.7",
    title="balance without a loss",
    name="biased_gate",
    signature=(
        "biased_gate(logits: Tensor, bias: Tensor, k: int, rate: float) -> tuple[Tensor, Tensor]"
    ),
    taught="Part 5, a bias, and no loss",
    difficulty=3,
    minutes=20,
    make_inputs=_bias_inputs,
    oracle=_bias_oracle,
    tolerance=1e-6,  # the sign of a float32 load times the rate is float32
    statement="chosen by score plus bias, weighed by score alone, and the bias one step on",
    properties=(
        Property("the bias has no part in the weights", _only_for_choosing),
        Property("all steps of the bias have one length", _steps_of_one_length),
    ),
    wrong_answers=(
        WrongAnswer(
            "bias in the weights",
            _bias_in_the_weights,
            "The bias is in the weights. It decides who is chosen and no more: the weights come "
            "from the plain scores, so that balancing does not change what the model computes.",
        ),
        WrongAnswer(
            "bias not used",
            _bias_unused,
            "The experts are chosen by their scores alone: add the bias for choosing.",
        ),
        WrongAnswer(
            "sign reversed",
            _bias_reversed,
            "The bias moves the wrong way: overloaded experts become even more attractive. It "
            "falls where the load is above the mean and rises where it is below.",
        ),
        WrongAnswer(
            "proportional step",
            _bias_proportional,
            "The step is proportional to the overload. Only its sign counts: every step is `rate` "
            "long, up or down.",
        ),
        WrongAnswer(
            "step by shares",
            _bias_relative,
            "The step is proportional to the difference of the shares of the load. Only the sign "
            "counts: every step is `rate` long, up or down.",
        ),
        WrongAnswer(
            "softmax",
            _bias_softmax,
            "The scores are a softmax. Here they are sigmoids, each expert's for itself.",
        ),
        WrongAnswer(
            "not renormalised",
            _bias_not_renormalised,
            "The weights are the plain sigmoids. Divide each token's chosen scores by their sum.",
        ),
        WrongAnswer(
            "normalised over all experts",
            _bias_normalised_over_all,
            "The scores are divided by the sum over all experts. Divide by the sum over the chosen "
            "ones, so that the weights sum to 1.",
        ),
        WrongAnswer(
            "ranked by logits",
            _bias_before_the_sigmoid,
            "The experts are ranked by logit plus bias. The bias is added to the scores, behind "
            "the sigmoid.",
        ),
        WrongAnswer(
            "bias in the logits",
            _bias_in_the_logits,
            "The bias is added to the logits, so it goes through the sigmoid into choice and "
            "weights. Add it to the scores, for choosing only.",
        ),
        WrongAnswer(
            "load without the bias",
            _bias_load_without,
            "The load is counted from the plain scores. Count the experts that were really chosen, "
            "bias included; otherwise the bias never sees that it has done enough.",
        ),
        WrongAnswer(
            "weights for load",
            _bias_load_of_weights,
            "The load is the sum of the weights. Count the tokens of each expert instead: a token "
            "costs the same, whatever its weight.",
        ),
        WrongAnswer(
            "target without k",
            _bias_target_without_k,
            "The load is compared with N / E. With k experts per token the mean load is N k / E.",
        ),
        WrongAnswer(
            "never at rest",
            _bias_never_rests,
            "An expert with exactly the mean load is moved too. The sign of 0 is 0: its bias stays "
            "as it is.",
        ),
        WrongAnswer(
            "bias replaced",
            _bias_replaced,
            "The new bias is the step alone. The step is added to the bias that was there.",
        ),
        WrongAnswer(
            "bias centred",
            _bias_centred,
            "The mean is taken off the new bias. That changes no choice, and it is not asked for.",
        ),
        WrongAnswer(
            "bias not moved",
            _bias_as_it_was,
            "The gates are right. The bias comes back as it was: it moves by `rate` against the "
            "load.",
        ),
    ),
    alternatives=(_bias_by_indices,),
    examples=(
        (
            torch.tensor([[math.log(4.0), 0.0, math.log(1.5)]] * 2, dtype=torch.float64),
            torch.tensor([-0.5, 0.25, 0.0], dtype=torch.float64),
            2,
            0.125,
        ),
    ),
)
