"""Exercise 3.11 Accepting a draft."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from llmcourse.grading.inputs import Draw
from llmcourse.grading.records import Answer, Arguments, Exercise, Property, WrongAnswer

Result = tuple[Tensor, Tensor]


def _draft_inputs(draw: Draw, size: int) -> Arguments:
    v = [2, 3, 4, 4, 6, 9][size]
    p, q = (torch.softmax(draw.normal(v, scale=1.2), dim=-1) for _ in range(2))
    if size == 0:
        p, q = torch.tensor([[0.3, 0.7], [0.8, 0.2]], dtype=torch.float64)
    if size == 3:  # a draft that is as good as the model: nothing is ever refused
        q = p.clone()
    if size == 4:  # top-k has left the model no more than three tokens
        p = torch.where(p >= p.sort().values[-3], p, 0.0)
        p = p / p.sum()
    return p, q


def _draft_oracle(p: Tensor, q: Tensor) -> Result:
    target, draft = p.tolist(), q.tolist()
    accept = [1.0 if a >= b else a / b for a, b in zip(target, draft)]
    missing = [a - b if a > b else 0.0 for a, b in zip(target, draft)]
    total = math.fsum(missing)
    residual = [x / total for x in missing] if total > 0 else target
    return torch.tensor(accept, dtype=torch.float64), torch.tensor(residual, dtype=torch.float64)


def _accept(p: Tensor, q: Tensor) -> Tensor:
    return (p / q).clamp(max=1.0)


def _residual(p: Tensor, q: Tensor) -> Tensor:
    missing = (p - q).clamp(min=0.0)
    return missing / missing.sum() if float(missing.sum()) > 0 else p.clone()


def _draft_from_target(p: Tensor, q: Tensor) -> Result:
    return _accept(p, q), p.clone()


def _draft_upside_down(p: Tensor, q: Tensor) -> Result:
    return (q / p).clamp(max=1.0), _residual(p, q)


def _draft_not_normalised(p: Tensor, q: Tensor) -> Result:
    missing = (p - q).clamp(min=0.0)
    return _accept(p, q), missing if float(missing.sum()) > 0 else p.clone()


def _draft_absolute(p: Tensor, q: Tensor) -> Result:
    missing = (p - q).abs()
    return _accept(p, q), missing / missing.sum() if float(missing.sum()) > 0 else p.clone()


def _draft_negative(p: Tensor, q: Tensor) -> Result:
    missing = p - q
    total = float(missing.clamp(min=0.0).sum())
    return _accept(p, q), missing / total if total > 0 else p.clone()


def _draft_swapped_residual(p: Tensor, q: Tensor) -> Result:
    return _accept(p, q), _residual(q, p)


def _draft_unclamped(p: Tensor, q: Tensor) -> Result:
    return p / q, _residual(p, q)


def _draft_target_alone(p: Tensor, q: Tensor) -> Result:
    return p.clone(), _residual(p, q)


def _draft_both_agree(p: Tensor, q: Tensor) -> Result:
    return torch.minimum(p, q), _residual(p, q)


def _draft_by_softmax(p: Tensor, q: Tensor) -> Result:
    return _accept(p, q), torch.softmax((p - q).clamp(min=0.0), dim=-1)


def _draft_zero_by_zero(p: Tensor, q: Tensor) -> Result:
    missing = (p - q).clamp(min=0.0)
    return _accept(p, q), missing / missing.sum()


def _draft_by_minimum(p: Tensor, q: Tensor) -> Result:
    # What both agree on is accepted; what the model has beyond it is left over.
    common = torch.minimum(p, q)
    left = p - common
    if not bool(left.any()):
        return common / q, p.clone()
    return common / q, torch.nn.functional.normalize(left, p=1.0, dim=0)


def _comes_out_as_p(got: Result, arguments: Arguments, call: Answer) -> str | None:
    p, q = arguments
    accepted = q * got[0]
    outcome = accepted + (1 - accepted.sum()) * got[1]
    token = int((outcome - p).abs().argmax())
    if not abs(float(outcome[token] - p[token])) < 1e-9:
        return (
            f"accepting or drawing anew, token {token} comes out with probability "
            f"{float(outcome[token]):.4g}; the model gives it {float(p[token]):.4g}"
        )
    return None


def _are_probabilities(got: Result, arguments: Arguments, call: Answer) -> str | None:
    for name, value in zip(("an acceptance", "a residual"), got):
        for number in value.tolist():
            if number < 0 or number > 1 + 1e-9:
                return f"{name} probability is {number:.4g}"
    if abs(float(got[1].sum()) - 1) > 1e-9:
        return f"the residual distribution sums to {float(got[1].sum()):.4g}"
    return None


SPECULATIVE = Exercise(
    id="3.11",
    title="accept or refuse a draft",
    name="accept_draft",
    signature="accept_draft(p: Tensor, q: Tensor) -> tuple[Tensor, Tensor]",
    taught="Part 3, speculative decoding",
    difficulty=3,
    minutes=15,
    make_inputs=_draft_inputs,
    oracle=_draft_oracle,
    statement="accept with min(1, p / q); after a refusal draw from max(0, p - q), normalised",
    properties=(
        Property("all numbers are probabilities", _are_probabilities),
        Property("what comes out is distributed as the model says", _comes_out_as_p),
    ),
    wrong_answers=(
        WrongAnswer(
            "drawn from the model again",
            _draft_from_target,
            "After a refusal you draw from p. Tokens the draft likes have had their chance by "
            "then, and get it twice. Draw from what the draft left over: max(0, p - q), "
            "normalised.",
        ),
        WrongAnswer(
            "ratio upside down",
            _draft_upside_down,
            "The ratio is upside down: q / p accepts what the draft overrates. Accept with "
            "min(1, p / q).",
        ),
        WrongAnswer(
            "residual not normalised",
            _draft_not_normalised,
            "The residual is right up to a factor: divide max(0, p - q) by its sum.",
        ),
        WrongAnswer(
            "absolute difference",
            _draft_absolute,
            "The residual uses |p - q|, which also gives tokens that the draft overrates. Those "
            "must come out less often, not more: max(0, p - q).",
        ),
        WrongAnswer(
            "negative probabilities",
            _draft_negative,
            "The residual holds negative numbers: p - q where the draft overrates a token. Set "
            "them to 0 before normalising.",
        ),
        WrongAnswer(
            "residual the wrong way round",
            _draft_swapped_residual,
            "The residual is q - p: it draws just the tokens that were refused. What is missing is "
            "p - q.",
        ),
        WrongAnswer(
            "more than certain",
            _draft_unclamped,
            "p / q exceeds 1 where the draft underrates a token: a probability ends at 1. "
            "min(1, p / q).",
        ),
        WrongAnswer(
            "the model's probability alone",
            _draft_target_alone,
            "A draft is accepted with probability p, whatever q was, so even a perfect draft is "
            "mostly refused. Accept with min(1, p / q).",
        ),
        WrongAnswer(
            "min(p, q)",
            _draft_both_agree,
            "min(p, q) is the probability that a token is drafted and accepted. Accepted *once "
            "drafted* is that divided by q: min(1, p / q).",
        ),
        WrongAnswer(
            "residual by softmax",
            _draft_by_softmax,
            "The residual goes through a softmax, which gives every token a share. These are "
            "probabilities already: divide by their sum.",
        ),
        WrongAnswer(
            "nought by nought",
            _draft_zero_by_zero,
            "When p and q are equal nothing is left over and 0 / 0 is NaN. Nothing is ever refused "
            "then; return p.",
        ),
    ),
    alternatives=(_draft_by_minimum,),
    examples=(
        (
            torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64),
            torch.tensor([0.25, 0.6, 0.15], dtype=torch.float64),
        ),
    ),
)
