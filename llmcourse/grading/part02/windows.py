"""Exercise 2.1 Next-token windows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from llmcourse.grading.inputs import Draw
from llmcourse.grading.records import Answer, Arguments, Exercise, Property, WrongAnswer


def _windows_inputs(draw: Draw, size: int) -> Arguments:
    n, t = [(2, 1), (4, 3), (5, 2), (6, 2), (draw.integer(9, 14), 4), (15, 5)][size]
    return torch.tensor(draw.distinct(n, 0, 99)), t


def _windows_oracle(tokens: Tensor, context_length: int) -> tuple[Tensor, Tensor]:
    values, inputs, targets, start = tokens.tolist(), [], [], 0
    while start + context_length + 1 <= len(values):
        inputs.append(values[start : start + context_length])
        targets.append(values[start + 1 : start + context_length + 1])
        start += context_length
    return torch.tensor(inputs), torch.tensor(targets)


def _rows(tokens: Tensor, start: int, rows: int, t: int) -> Tensor:
    return tokens[start : start + rows * t].reshape(rows, t)


def _windows_unshifted(tokens: Tensor, context_length: int) -> Any:
    rows = (len(tokens) - 1) // context_length
    inputs = _rows(tokens, 0, rows, context_length)
    return inputs, inputs.clone()


def _windows_swapped(tokens: Tensor, context_length: int) -> Any:
    rows = (len(tokens) - 1) // context_length
    inputs = _rows(tokens, 0, rows, context_length)
    return _rows(tokens, 1, rows, context_length), inputs


def _windows_too_many(tokens: Tensor, context_length: int) -> Any:
    rows = len(tokens) // context_length
    inputs = _rows(tokens, 0, rows, context_length)
    return inputs, _rows(tokens, 1, rows, context_length)


def _windows_rolled(tokens: Tensor, context_length: int) -> Any:
    rows = (len(tokens) - 1) // context_length
    inputs = _rows(tokens, 0, rows, context_length)
    return inputs, inputs.roll(-1, dims=1)


def _windows_overlapping(tokens: Tensor, context_length: int) -> Any:
    pieces = tokens.unfold(0, context_length + 1, 1)
    return pieces[:, :-1], pieces[:, 1:]


def _windows_cut_first(tokens: Tensor, context_length: int) -> Any:
    pieces = tokens.unfold(0, context_length + 1, context_length + 1)
    return pieces[:, :-1], pieces[:, 1:]


def _windows_uncut(tokens: Tensor, context_length: int) -> Any:
    return tokens[:-1], tokens[1:]


def _windows_by_unfold(tokens: Tensor, context_length: int) -> Any:
    pieces = tokens.unfold(0, context_length + 1, context_length)  # (M, T + 1), overlapping by one
    return pieces[:, :-1], pieces[:, 1:]


def _targets_follow(got: Any, arguments: Arguments, call: Answer) -> str | None:
    inputs, targets = got
    if not torch.equal(inputs[:, 1:], targets[:, :-1]):
        return "the target at t must be the input at t + 1"
    follower = dict(zip(arguments[0].tolist(), arguments[0][1:].tolist()))  # tokens are distinct
    for token, target in zip(inputs.reshape(-1).tolist(), targets.reshape(-1).tolist()):
        if follower.get(token) != target:
            return (
                f"after {token} comes {follower.get(token)} in the text, the target says {target}"
            )
    return None


WINDOWS = Exercise(
    id="2.1",
    title="next-token windows",
    name="next_token_windows",
    signature=("next_token_windows(tokens: Tensor, context_length: int) -> tuple[Tensor, Tensor]"),
    taught="Part 2, batching and shifting",
    difficulty=2,
    minutes=15,
    make_inputs=_windows_inputs,
    oracle=_windows_oracle,
    statement="windows follow each other without overlap, and every target is the next token",
    properties=(Property("every target is the token that follows its input", _targets_follow),),
    wrong_answers=(
        WrongAnswer(
            "not shifted",
            _windows_unshifted,
            "The targets equal the inputs: the model would learn to copy. Shift them by one token.",
        ),
        WrongAnswer(
            "inputs and targets swapped",
            _windows_swapped,
            "Inputs and targets are swapped: the model would predict the token before.",
        ),
        WrongAnswer(
            "one window too many",
            _windows_too_many,
            "You count N // T windows. The last target needs one more token, so only (N - 1) // T "
            "fit: it shows when N is a multiple of T.",
        ),
        WrongAnswer(
            "rolled within the row",
            _windows_rolled,
            "The last target of each row is the row's own first token: roll wraps around. Shift "
            "the whole text before cutting it into rows.",
        ),
        WrongAnswer(
            "overlapping",
            _windows_overlapping,
            "The windows start at every token. Here they follow each other: the next one starts T "
            "tokens on.",
        ),
        WrongAnswer(
            "not cut",
            _windows_uncut,
            "The shift is right, and the text is still in one piece: cut inputs and targets into "
            "rows of T tokens with reshape(-1, T), after dropping what is left over.",
        ),
        WrongAnswer(
            "a token lost between windows",
            _windows_cut_first,
            "The text is cut into pieces of T + 1, so one prediction between two windows is lost. "
            "The last target of one window is the first input of the next.",
        ),
    ),
    alternatives=(_windows_by_unfold,),
    examples=((torch.tensor([10, 11, 12, 13, 14, 15]), 2),),
)
