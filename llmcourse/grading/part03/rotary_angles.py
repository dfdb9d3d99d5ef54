"""Exercise 3.3 The angles of rotary positions."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from llmcourse.grading.inputs import Draw
from llmcourse.grading.records import Answer, Arguments, Exercise, Property, WrongAnswer


def _angles_inputs(draw: Draw, size: int) -> Arguments:
    t, d_head = [(1, 4), (2, 4), (2, 6), (3, 4), (5, 8), (7, 12)][size]
    start = draw.integer(2, 9) if size else 3
    positions = torch.arange(start, start + t)
    if size == 5:  # a rolling buffer holds them in another order
        positions = torch.tensor(draw.distinct(t, 1, 40))
    # Never 10000, so that a base written into the answer is noticed.
    return positions, d_head, draw.pick([100.0, 500.0, 1000.0])


def _angles_oracle(positions: Tensor, d_head: int, base: float) -> Tensor:
    rows = [
        [position / math.pow(base, 2 * i / d_head) for i in range(d_head // 2)]
        for position in positions.tolist()
    ]
    return torch.tensor(rows, dtype=torch.float64)


def _outer(positions: Tensor, frequencies: Tensor) -> Tensor:
    return positions[:, None].double() * frequencies[None, :]


def _pairs(d_head: int) -> Tensor:
    return torch.arange(d_head // 2, dtype=torch.float64)


def _angles_base_ignored(positions: Tensor, d_head: int, base: float) -> Tensor:
    return _outer(positions, 10_000.0 ** (-2 * _pairs(d_head) / d_head))


def _angles_half_width(positions: Tensor, d_head: int, base: float) -> Tensor:
    return _outer(positions, base ** (-2 * _pairs(d_head) / (d_head // 2)))


def _angles_no_two(positions: Tensor, d_head: int, base: float) -> Tensor:
    return _outer(positions, base ** (-_pairs(d_head) / d_head))


def _angles_rising(positions: Tensor, d_head: int, base: float) -> Tensor:
    return _outer(positions, base ** (2 * _pairs(d_head) / d_head))


def _angles_degrees(positions: Tensor, d_head: int, base: float) -> Tensor:
    return torch.rad2deg(_angles_oracle(positions, d_head, base))


def _angles_turns(positions: Tensor, d_head: int, base: float) -> Tensor:
    return 2 * math.pi * _angles_oracle(positions, d_head, base)


def _angles_from_zero(positions: Tensor, d_head: int, base: float) -> Tensor:
    return _outer(torch.arange(len(positions)), base ** (-2 * _pairs(d_head) / d_head))


def _angles_doubled(positions: Tensor, d_head: int, base: float) -> Tensor:
    angles = _outer(positions, base ** (-2 * _pairs(d_head) / d_head))
    return torch.cat([angles, angles], dim=-1)


def _angles_from_one(positions: Tensor, d_head: int, base: float) -> Tensor:
    return _outer(positions, base ** (-2 * (_pairs(d_head) + 1) / d_head))


def _angles_by_powers(positions: Tensor, d_head: int, base: float) -> Tensor:
    # Each frequency is the one before it, times a constant: an ordinary float32 table.
    step = torch.full((d_head // 2,), base ** (-2.0 / d_head))
    step[0] = 1.0
    return torch.outer(positions.float(), step.cumprod(0))


def _first_pair(got: Tensor, arguments: Arguments, call: Answer) -> str | None:
    positions = arguments[0].double()
    if float((got[:, 0].double() - positions).abs().max()) > 1e-3:
        return "the first pair turns by one radian a token: its angle is the position itself"
    return None


def _slower_and_slower(got: Tensor, arguments: Arguments, call: Answer) -> str | None:
    if bool((got[:, 1:] >= got[:, :-1]).any()):
        return "each pair turns more slowly than the one before it; here one turns faster"
    return None


ROTARY_ANGLES = Exercise(
    id="3.3",
    title="the angles of rotary positions",
    name="rotary_angles",
    signature="rotary_angles(positions: Tensor, d_head: int, base: float) -> Tensor",
    taught="Part 3, rotary positions",
    difficulty=2,
    minutes=10,
    make_inputs=_angles_inputs,
    oracle=_angles_oracle,
    tolerance=1e-5,  # an honest float32 table
    any_float=True,
    statement="angles[t, i] = positions[t] * base^(-2i/D), in radians",
    properties=(
        Property("the first pair turns by one radian a token", _first_pair),
        Property("later pairs turn more slowly", _slower_and_slower),
    ),
    wrong_answers=(
        WrongAnswer(
            "base ignored",
            _angles_base_ignored,
            "`base` changes nothing: 10000 is written into your function. Llama 3 uses 500000, and "
            "with the wrong base a loaded model is lost after a few tokens.",
        ),
        WrongAnswer(
            "exponent over D/2",
            _angles_half_width,
            "The exponent is 2i over D/2, so it runs to -2 instead of -1. Either 2i/D or i/(D/2), "
            "not both.",
        ),
        WrongAnswer(
            "exponent i over D",
            _angles_no_two,
            "The exponent is i/D, so the slowest pairs turn far too fast: it is 2i/D, with i "
            "counting pairs of channels.",
        ),
        WrongAnswer(
            "exponent positive",
            _angles_rising,
            "The exponent has the wrong sign: later pairs turn faster and faster instead of more "
            "slowly.",
        ),
        WrongAnswer(
            "degrees",
            _angles_degrees,
            "These are degrees. sin and cos take radians, and base^0 = 1 means one radian a token.",
        ),
        WrongAnswer(
            "whole turns",
            _angles_turns,
            "The angles are 2π times too large. base^(-2i/D) is already an angle in radians, not "
            "a number of turns.",
        ),
        WrongAnswer(
            "positions from zero",
            _angles_from_zero,
            "`positions` is not used: the angles count from 0. After a cached prompt of 100 tokens "
            "the next token stands at position 100.",
        ),
        WrongAnswer(
            "one angle for each channel",
            _angles_doubled,
            "There are D angles for each token, each pair's written twice. Asked for is one for "
            "each pair: D/2.",
        ),
        WrongAnswer(
            "pairs counted from one",
            _angles_from_one,
            "The pairs are counted from 1. The first pair is i = 0, with frequency base^0 = 1.",
        ),
    ),
    alternatives=(_angles_by_powers,),
    examples=((torch.tensor([0, 5]), 4, 100.0),),
)
