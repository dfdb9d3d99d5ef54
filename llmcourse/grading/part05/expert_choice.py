"""Exercise 5.4 Experts choose their tokens."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from llmcourse.grading.inputs import Draw
from llmcourse.grading.records import Answer, Arguments, Exercise, Property, WrongAnswer


def _choice_inputs(draw: Draw, size: int) -> Arguments:
    n, e, room = [(2, 2, 1), (3, 2, 1), (4, 3, 2), (5, 3, 3), (6, 4, 3), (8, 5, 2)][size]
    # Tokens of different loudness: the order of logits is then not that of scores.
    return draw.normal(n, e, scale=1.2) + 3.0 * draw.normal(n, 1), room


def _choice_oracle(logits: Tensor, room: int) -> Tensor:
    scores = []
    for row in logits.tolist():
        powers = [math.exp(z - max(row)) for z in row]
        scores.append([power / math.fsum(powers) for power in powers])
    table = [[0.0] * logits.shape[1] for _ in scores]
    for expert in range(logits.shape[1]):
        ranked = sorted(range(len(scores)), key=lambda token: -scores[token][expert])
        for token in ranked[:room]:
            table[token][expert] = scores[token][expert]
    return torch.tensor(table, dtype=torch.float64)


def _taken(ranked: Tensor, room: int, largest: bool = True) -> Tensor:
    best = ranked.topk(room, dim=0, largest=largest).indices  # (room, E)
    return torch.zeros_like(ranked).scatter(0, best, 1.0)


def _choice_by_tokens(logits: Tensor, room: int) -> Tensor:
    scores = logits.softmax(-1)
    best = scores.topk(min(room, scores.shape[1]), dim=1)
    return torch.zeros_like(scores).scatter(1, best.indices, best.values)


def _choice_softmax_over_tokens(logits: Tensor, room: int) -> Tensor:
    scores = logits.softmax(0)
    return scores * _taken(scores, room)


def _choice_renormalised_per_token(logits: Tensor, room: int) -> Tensor:
    scores = logits.softmax(-1)
    kept = scores * _taken(scores, room)
    return kept / kept.sum(-1, keepdim=True).clamp(min=1e-12)


def _choice_renormalised_per_expert(logits: Tensor, room: int) -> Tensor:
    scores = logits.softmax(-1)
    kept = scores * _taken(scores, room)
    return kept / kept.sum(0)


def _choice_by_logits(logits: Tensor, room: int) -> Tensor:
    return logits.softmax(-1) * _taken(logits, room)


def _choice_smallest(logits: Tensor, room: int) -> Tensor:
    scores = logits.softmax(-1)
    return scores * _taken(scores, room, largest=False)


def _choice_first_tokens(logits: Tensor, room: int) -> Tensor:
    return logits.softmax(-1) * (torch.arange(len(logits)) < room)[:, None]


def _choice_each_token_once(logits: Tensor, room: int) -> Tensor:
    scores = logits.softmax(-1)
    free, table = torch.ones(len(scores), dtype=torch.bool), torch.zeros_like(scores)
    for expert in range(scores.shape[1]):
        ranked = scores[:, expert].masked_fill(~free, -1.0)
        for token in ranked.topk(min(room, int(free.sum()))).indices.tolist():
            table[token, expert] = scores[token, expert]
            free[token] = False
    return table


def _choice_ones(logits: Tensor, room: int) -> Tensor:
    return _taken(logits.softmax(-1), room)


def _choice_raw_logits(logits: Tensor, room: int) -> Tensor:
    return logits * _taken(logits.softmax(-1), room)


def _choice_transposed(logits: Tensor, room: int) -> Tensor:
    scores = logits.softmax(-1)
    return (scores * _taken(scores, room)).T


def _choice_sigmoid(logits: Tensor, room: int) -> Tensor:
    scores = logits.sigmoid()
    return scores * _taken(scores, room)


def _choice_all(logits: Tensor, room: int) -> Tensor:
    return logits.softmax(-1)


def _choice_compact(logits: Tensor, room: int) -> Tensor:
    return logits.softmax(-1).topk(room, dim=0).values


def _choice_by_threshold(logits: Tensor, room: int) -> Tensor:
    scores = logits.softmax(-1)
    least = scores.sort(dim=0, descending=True).values[room - 1]  # (E,) the last to get in
    return torch.where(scores >= least, scores, 0.0)


def _choice_by_columns(logits: Tensor, room: int) -> Tensor:
    columns = []
    for column in logits.softmax(-1).T:
        kept = torch.zeros_like(column)
        best = column.argsort(descending=True)[:room]
        kept[best] = column[best]
        columns.append(kept)
    return torch.stack(columns, dim=1)


def _every_expert_is_full(got: Tensor, arguments: Arguments, call: Answer) -> str | None:
    room = arguments[1]
    for expert, count in enumerate((got != 0).sum(0).tolist()):
        if count != room:
            return f"expert {expert} has {count} tokens; each takes exactly {room}"
    return None


EXPERT_CHOICE = Exercise(
    id="5.4",
    title="experts choose their tokens",
    name="expert_choice",
    signature="expert_choice(logits: Tensor, room: int) -> Tensor",
    taught="Part 5, let the experts choose",
    difficulty=2,
    minutes=10,
    make_inputs=_choice_inputs,
    oracle=_choice_oracle,
    statement="the softmax score over experts, for each expert's `room` best tokens; else zero",
    properties=(Property("every expert takes `room` tokens", _every_expert_is_full),),
    wrong_answers=(
        WrongAnswer(
            "tokens choose",
            _choice_by_tokens,
            "Each token takes its best experts (top-k over dim 1). Here each expert takes its best "
            "tokens: dim 0.",
        ),
        WrongAnswer(
            "softmax over the tokens",
            _choice_softmax_over_tokens,
            "The softmax runs over the tokens. The scores are each token's softmax over the "
            "experts, dim -1; only the choice goes along the tokens.",
        ),
        WrongAnswer(
            "renormalised per token",
            _choice_renormalised_per_token,
            "Each token's weights are made to sum to 1. In expert choice the scores stay as they "
            "are: a token with one expert of score 0.3 keeps 0.3.",
        ),
        WrongAnswer(
            "renormalised per expert",
            _choice_renormalised_per_expert,
            "Each expert's weights are made to sum to 1. The scores stay as they are.",
        ),
        WrongAnswer(
            "chosen by logits",
            _choice_by_logits,
            "The tokens are ranked by their logits. Logits of different tokens cannot be compared, "
            "since a token may add any number to all of its own: rank by the softmax scores.",
        ),
        WrongAnswer(
            "the smallest",
            _choice_smallest,
            "Each expert takes the tokens that score lowest with it.",
        ),
        WrongAnswer(
            "the first tokens",
            _choice_first_tokens,
            "Each expert takes the first `room` tokens. It takes those with the highest scores, "
            "wherever they stand.",
        ),
        WrongAnswer(
            "each token once",
            _choice_each_token_once,
            "A token that one expert has taken is not offered to the others. In expert choice a "
            "token may be taken by several experts, or by none.",
        ),
        WrongAnswer(
            "ones for weights",
            _choice_ones,
            "The choice is right. The weight of a token that was taken is its score, not 1: "
            "without it the router has no gradient.",
        ),
        WrongAnswer(
            "logits for weights",
            _choice_raw_logits,
            "The choice is right. The weights are the raw logits; the softmax scores are wanted.",
        ),
        WrongAnswer(
            "transposed",
            _choice_transposed,
            "The table is (E, N). Asked for is a row for each token and a column for each expert.",
        ),
        WrongAnswer(
            "sigmoid",
            _choice_sigmoid,
            "The scores are sigmoids. Here each token's softmax over the experts is asked for.",
        ),
        WrongAnswer(
            "all tokens",
            _choice_all,
            "Every expert takes every token. It has room for `room` of them.",
        ),
        WrongAnswer(
            "without places",
            _choice_compact,
            "These are each expert's best scores, (room, E). Asked for is a table (N, E) in which "
            "each stands at its token.",
        ),
    ),
    alternatives=(_choice_by_threshold, _choice_by_columns),
    examples=(
        (torch.tensor([[0.0, math.log(3.0)], [0.0, 0.0], [2.0, 2.0 + math.log(4.0)]]).double(), 1),
    ),
)
