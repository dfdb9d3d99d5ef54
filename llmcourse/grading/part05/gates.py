"""Exercise 5.1 The gate: weights of the k best experts."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from llmcourse.grading.inputs import Draw
from llmcourse.grading.records import Answer, Arguments, Exercise, Property, WrongAnswer


def _gate_inputs(draw: Draw, size: int) -> Arguments:
    n, e, k = [(1, 2, 1), (1, 3, 2), (2, 3, 3), (3, 4, 2), (2, 5, 2), (5, 6, 3)][size]
    logits = draw.normal(n, e, scale=1.5)
    if size == 4:  # exp alone would overflow
        logits = logits + 900.0
    return logits, k


def _gate_oracle(logits: Tensor, k: int) -> Tensor:
    table = []
    for row in logits.tolist():
        ranked = sorted(range(len(row)), key=lambda expert: -row[expert])[:k]
        powers = {expert: math.exp(row[expert] - row[ranked[0]]) for expert in ranked}
        total = math.fsum(powers.values())
        table.append([powers.get(expert, 0.0) / total for expert in range(len(row))])
    return torch.tensor(table, dtype=torch.float64)


def _chosen(logits: Tensor, k: int) -> Tensor:
    return torch.zeros_like(logits).scatter(-1, logits.topk(k).indices, 1.0)  # (N, E)


def _gate_not_renormalised(logits: Tensor, k: int) -> Tensor:
    return logits.softmax(-1) * _chosen(logits, k)


def _gate_zero_for_infinity(logits: Tensor, k: int) -> Tensor:
    return (logits * _chosen(logits, k)).softmax(-1)


def _gate_softmax_twice(logits: Tensor, k: int) -> Tensor:
    best = logits.softmax(-1).topk(k)
    return torch.zeros_like(logits).scatter(-1, best.indices, best.values.softmax(-1))


def _gate_sigmoid(logits: Tensor, k: int) -> Tensor:
    scores = logits.sigmoid() * _chosen(logits, k)
    return scores / scores.sum(-1, keepdim=True)


def _gate_over_tokens(logits: Tensor, k: int) -> Tensor:
    return logits.softmax(0) * _chosen(logits, k)


def _gate_uniform(logits: Tensor, k: int) -> Tensor:
    return _chosen(logits, k) / k


def _gate_experts_choose(logits: Tensor, k: int) -> Tensor:
    best = logits.topk(k, dim=0)
    return torch.zeros_like(logits).scatter(0, best.indices, best.values.softmax(0))


def _gate_smallest(logits: Tensor, k: int) -> Tensor:
    worst = logits.topk(k, largest=False)
    return torch.zeros_like(logits).scatter(-1, worst.indices, worst.values.softmax(-1))


def _gate_compact(logits: Tensor, k: int) -> Tensor:
    return logits.topk(k).values.softmax(-1)


def _gate_first_columns(logits: Tensor, k: int) -> Tensor:
    table = torch.zeros_like(logits)
    table[:, :k] = logits.topk(k).values.softmax(-1)
    return table


def _gate_overflows(logits: Tensor, k: int) -> Tensor:
    powers = logits.exp() * _chosen(logits, k)
    return powers / powers.sum(-1, keepdim=True)


def _gate_linear(logits: Tensor, k: int) -> Tensor:
    kept = logits * _chosen(logits, k)
    return kept / kept.sum(-1, keepdim=True)


def _gate_all(logits: Tensor, k: int) -> Tensor:
    return logits.softmax(-1)


def _gate_batch_total(logits: Tensor, k: int) -> Tensor:
    kept = logits.softmax(-1) * _chosen(logits, k)
    return kept / kept.sum()


def _gate_by_infinity(logits: Tensor, k: int) -> Tensor:
    return logits.masked_fill(_chosen(logits, k) == 0, -math.inf).softmax(-1)


def _gate_by_softmax_first(logits: Tensor, k: int) -> Tensor:
    # All experts' probabilities, of which the k largest are kept and brought up to 1 again.
    p = logits.softmax(-1)
    rank = (p[:, None, :] > p[:, :, None]).sum(-1)  # (N, E) how many are better
    kept = torch.where(rank < k, p, 0.0)
    return torch.nn.functional.normalize(kept, p=1.0, dim=-1)


def _sums_to_one(got: Tensor, arguments: Arguments, call: Answer) -> str | None:
    sums = got.sum(-1)
    worst = int((sums - 1).abs().argmax())
    if not abs(float(sums[worst]) - 1) < 1e-6:
        return f"the weights of token {worst} sum to {float(sums[worst]):.4g}, not to 1"
    return None


def _k_experts(got: Tensor, arguments: Arguments, call: Answer) -> str | None:
    k = arguments[1]
    counts = (got != 0).sum(-1)
    for token, count in enumerate(counts.tolist()):
        if count != k:
            return f"token {token} has {count} experts with a weight; k = {k}"
    return None


GATES = Exercise(
    id="5.1",
    title="the gate",
    name="gate",
    signature="gate(logits: Tensor, k: int) -> Tensor",
    taught="Part 5, the gate",
    difficulty=1,
    minutes=10,
    make_inputs=_gate_inputs,
    oracle=_gate_oracle,
    statement="softmax over each token's k largest logits, zero for the other experts",
    properties=(
        Property("each token has k experts", _k_experts),
        Property("each token's weights sum to 1", _sums_to_one),
    ),
    wrong_answers=(
        WrongAnswer(
            "not renormalised",
            _gate_not_renormalised,
            "The weights are softmax over all experts and lose what the others had. Divide each "
            "token's kept weights by their sum.",
        ),
        WrongAnswer(
            "zero for minus infinity",
            _gate_zero_for_infinity,
            "Experts that were not chosen got the logit 0, and exp(0) is 1: they still get weight. "
            "Their logit must be -inf.",
        ),
        WrongAnswer(
            "softmax twice",
            _gate_softmax_twice,
            "Softmax is applied twice, to probabilities the second time, which flattens them. "
            "Either softmax over the chosen logits, or divide the chosen probabilities by their "
            "sum.",
        ),
        WrongAnswer(
            "sigmoid",
            _gate_sigmoid,
            "The scores are sigmoids, as in DeepSeek-V3. Here softmax is asked for.",
        ),
        WrongAnswer(
            "softmax over the tokens",
            _gate_over_tokens,
            "The softmax runs over the tokens (dim 0). Each token shares out its own weight among "
            "the experts, the last axis.",
        ),
        WrongAnswer(
            "equal weights",
            _gate_uniform,
            "All chosen experts get 1 / k. Then nothing of the weights depends on the logits, and "
            "the router has no gradient to learn from.",
        ),
        WrongAnswer(
            "experts choose",
            _gate_experts_choose,
            "The k best tokens of each expert are taken (top-k over dim 0). Each token chooses its "
            "experts: the last axis.",
        ),
        WrongAnswer(
            "the smallest",
            _gate_smallest,
            "The k smallest logits are chosen. The largest are wanted.",
        ),
        WrongAnswer(
            "without places",
            _gate_compact,
            "These are the k weights, largest first, (N, k). Asked for is a table (N, E) in which "
            "each weight stands at its expert.",
        ),
        WrongAnswer(
            "in the first columns",
            _gate_first_columns,
            "The weights stand in the first k columns, sorted. Each belongs in the column of its "
            "expert: scatter them to the indices that top-k returns.",
        ),
        WrongAnswer(
            "overflow",
            _gate_overflows,
            "exp overflows for large logits, and inf / inf is NaN. Subtract each token's largest "
            "logit first, or let softmax do so.",
        ),
        WrongAnswer(
            "without exp",
            _gate_linear,
            "The logits themselves are divided by their sum: exp is missing, and weights can be "
            "negative.",
        ),
        WrongAnswer(
            "all experts",
            _gate_all,
            "All experts get a weight, so all must run: nothing is saved. Only the k best may have "
            "one.",
        ),
        WrongAnswer(
            "one sum for the batch",
            _gate_batch_total,
            "The weights of the whole batch sum to 1. Each token's must: sum over the last axis, "
            "with keepdim=True.",
        ),
    ),
    alternatives=(_gate_by_infinity, _gate_by_softmax_first),
    examples=((torch.tensor([[0.0, math.log(3.0), -1.0]], dtype=torch.float64), 2),),
)
