"""Exercise 2.10 Repetition penalty."""

from __future__ import annotations

import torch
from torch import Tensor

from llmcourse.grading.inputs import Draw
from llmcourse.grading.records import Answer, Arguments, Exercise, Property, WrongAnswer


def _repetition_inputs(draw: Draw, size: int) -> Arguments:
    b, v, t = [(1, 2, 1), (1, 3, 2), (1, 4, 3), (2, 5, 3), (2, 7, 4), (3, 9, 5)][size]
    logits = draw.uniform(0.2, 2.0, b, v)
    signs = torch.where(draw.uniform(0.0, 1.0, b, v) < 0.5, -1.0, 1.0)
    signs[:, 0], signs[:, 1] = 1.0, -1.0
    previous = draw.integers(0, v - 1, b, t)
    if size in (0, 1):  # a negative score that has occurred
        previous[:, 0] = 1
    if size >= 2:  # one of each sign, one of them twice
        previous[:, 0], previous[:, 1], previous[:, 2] = 0, 1, 0
    if b > 1:  # rows that saw different tokens
        previous[1, :] = 2
    return logits * signs, previous, draw.pick([1.3, 1.7, 2.0])


def _repetition_oracle(logits: Tensor, previous: Tensor, penalty: float) -> Tensor:
    rows = []
    for row, seen in zip(logits.tolist(), previous.tolist()):
        new = list(row)
        for token in set(seen):
            new[token] = row[token] / penalty if row[token] > 0 else row[token] * penalty
        rows.append(new)
    return torch.tensor(rows, dtype=torch.float64)


def _seen(logits: Tensor, previous: Tensor) -> Tensor:
    return torch.zeros_like(logits, dtype=torch.bool).scatter(1, previous, True)


def _repetition_divided(logits: Tensor, previous: Tensor, penalty: float) -> Tensor:
    return torch.where(_seen(logits, previous), logits / penalty, logits)


def _repetition_each_time(logits: Tensor, previous: Tensor, penalty: float) -> Tensor:
    out = logits.clone()
    for row in range(len(out)):
        for token in previous[row].tolist():
            value = out[row, token]
            out[row, token] = value / penalty if value > 0 else value * penalty
    return out


def _repetition_subtracted(logits: Tensor, previous: Tensor, penalty: float) -> Tensor:
    return torch.where(_seen(logits, previous), logits - penalty, logits)


def _repetition_rewarded(logits: Tensor, previous: Tensor, penalty: float) -> Tensor:
    changed = torch.where(logits > 0, logits * penalty, logits / penalty)
    return torch.where(_seen(logits, previous), changed, logits)


def _repetition_whole_batch(logits: Tensor, previous: Tensor, penalty: float) -> Tensor:
    changed = torch.where(logits > 0, logits / penalty, logits * penalty)
    seen = _seen(logits, previous).any(0, keepdim=True)
    return torch.where(seen, changed, logits)


def _repetition_everything(logits: Tensor, previous: Tensor, penalty: float) -> Tensor:
    return torch.where(logits > 0, logits / penalty, logits * penalty)


def _repetition_by_gather(logits: Tensor, previous: Tensor, penalty: float) -> Tensor:
    picked = logits.gather(1, previous)
    picked = torch.minimum(picked / penalty, picked * penalty)
    return logits.scatter(1, previous, picked)


def _never_likelier(got: Tensor, arguments: Arguments, call: Answer) -> str | None:
    logits = arguments[0]
    raised = (got > logits + 1e-12).nonzero()
    if len(raised):
        row, token = raised[0].tolist()
        return (
            f"token {token} had logit {float(logits[row, token]):.4g} and has "
            f"{float(got[row, token]):.4g} now: a penalty must never raise a logit"
        )
    return None


def _unseen_untouched(got: Tensor, arguments: Arguments, call: Answer) -> str | None:
    logits, previous, _ = arguments
    for row, seen in enumerate(previous.tolist()):
        for token in range(logits.shape[1]):
            if token not in seen and float(got[row, token]) != float(logits[row, token]):
                return f"token {token} has not occurred in row {row} and its logit has changed"
    return None


REPETITION = Exercise(
    id="2.10",
    title="the repetition penalty",
    name="penalise_repetition",
    signature="penalise_repetition(logits: Tensor, previous: Tensor, penalty: float) -> Tensor",
    taught="Part 2, sampling",
    difficulty=3,
    minutes=15,
    make_inputs=_repetition_inputs,
    oracle=_repetition_oracle,
    statement="logits of tokens that occurred: divided if positive, multiplied if negative, once",
    properties=(
        Property("a penalty never makes a token more likely", _never_likelier),
        Property("tokens that have not occurred keep their logits", _unseen_untouched),
    ),
    wrong_answers=(
        WrongAnswer(
            "always divided",
            _repetition_divided,
            "Every logit is divided, and dividing a negative one brings it closer to 0: the token "
            "gets likelier. Divide positive logits and multiply negative ones.",
        ),
        WrongAnswer(
            "once per occurrence",
            _repetition_each_time,
            "A token that occurred twice is penalised twice. The penalty counts once, however "
            "often the token occurred.",
        ),
        WrongAnswer(
            "subtracted",
            _repetition_subtracted,
            "The penalty is subtracted; that is the presence penalty of other libraries. This one "
            "is a factor.",
        ),
        WrongAnswer(
            "the wrong way round",
            _repetition_rewarded,
            "Multiplication and division are swapped: repeated tokens get likelier.",
        ),
        WrongAnswer(
            "tokens of the whole batch",
            _repetition_whole_batch,
            "Tokens that occurred in any row are penalised in all of them. Every row has its own "
            "past.",
        ),
        WrongAnswer(
            "every token",
            _repetition_everything,
            "All tokens are penalised, whether they occurred or not: `previous` is not used.",
        ),
    ),
    alternatives=(_repetition_by_gather,),
    examples=(
        (
            torch.tensor([[2.0, -1.0, 3.0]], dtype=torch.float64),
            torch.tensor([[0, 1, 0]]),
            2.0,
        ),
    ),
)
