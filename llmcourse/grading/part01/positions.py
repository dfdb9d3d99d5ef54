"""Exercise 1.1 Sinusoidal positions."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from llmcourse.grading.inputs import Draw
from llmcourse.grading.records import Answer, Arguments, Exercise, Property, WrongAnswer


def _positions_inputs(draw: Draw, size: int) -> Arguments:
    return [(1, 2), (2, 2), (3, 4), (draw.integer(3, 7), 6), (11, draw.pick([8, 10])), (19, 12)][
        size
    ]


def _positions_oracle(context_length: int, d_model: int) -> Tensor:
    table = [
        [
            (math.sin if c % 2 == 0 else math.cos)(t / 10_000 ** ((c - c % 2) / d_model))
            for c in range(d_model)
        ]
        for t in range(context_length)
    ]
    return torch.tensor(table, dtype=torch.float64)


def _angles(context_length: int, d_model: int, power: float = 1.0, start: int = 0) -> Tensor:
    pair = torch.arange(0, d_model, 2, dtype=torch.float64)
    position = torch.arange(start, start + context_length, dtype=torch.float64)
    return position[:, None] * 10_000 ** (-power * pair / d_model)


def _positions_halves(context_length: int, d_model: int) -> Tensor:
    angle = _angles(context_length, d_model)
    return torch.cat([angle.sin(), angle.cos()], dim=-1)


def _positions_swapped(context_length: int, d_model: int) -> Tensor:
    angle = _angles(context_length, d_model)
    return torch.stack([angle.cos(), angle.sin()], dim=-1).reshape(context_length, d_model)


def _positions_power(context_length: int, d_model: int) -> Tensor:
    angle = _angles(context_length, d_model, power=0.5)
    return torch.stack([angle.sin(), angle.cos()], dim=-1).reshape(context_length, d_model)


def _positions_from_one(context_length: int, d_model: int) -> Tensor:
    angle = _angles(context_length, d_model, start=1)
    return torch.stack([angle.sin(), angle.cos()], dim=-1).reshape(context_length, d_model)


def _positions_by_exp(context_length: int, d_model: int) -> Tensor:
    table = torch.zeros(context_length, d_model)
    rate = torch.exp(torch.arange(0, d_model, 2) * (-math.log(10_000.0) / d_model))
    position = torch.arange(context_length).unsqueeze(1)
    table[:, 0::2] = torch.sin(position * rate)
    table[:, 1::2] = torch.cos(position * rate)
    return table


def _starts_with_zero_one(got: Tensor, arguments: Arguments, call: Answer) -> str | None:
    first = got[0].double()
    if float((first - torch.tensor([0.0, 1.0]).repeat(got.shape[1] // 2)).abs().max()) > 1e-4:
        return "position 0 should read 0, 1, 0, 1, ...: sin 0 and cos 0 in turn"
    return None


POSITIONS = Exercise(
    id="1.1",
    title="sinusoidal positions",
    name="sinusoidal_positions",
    signature="sinusoidal_positions(context_length: int, d_model: int) -> Tensor",
    taught="Part 1, positions",
    difficulty=2,
    minutes=15,
    make_inputs=_positions_inputs,
    oracle=_positions_oracle,
    tolerance=1e-5,  # the angles of an honest float32 table are off by about 1e-6
    any_float=True,
    statement="table[t, 2i] = sin(t / 10000^(2i/C)) and table[t, 2i+1] is its cosine",
    properties=(Property("position 0 reads 0, 1, 0, 1, ...", _starts_with_zero_one),),
    forbidden=(),
    wrong_answers=(
        WrongAnswer(
            "sines and cosines in two halves",
            _positions_halves,
            "All sines stand before all cosines. In the paper they alternate: channel 2i is the "
            "sine and channel 2i + 1 the cosine of the same angle.",
        ),
        WrongAnswer(
            "sine and cosine swapped",
            _positions_swapped,
            "Sine and cosine are swapped: the even channels hold the sine.",
        ),
        WrongAnswer(
            "exponent i instead of 2i",
            _positions_power,
            "The exponent is half of what it should be: pair i turns at 10000^(-2i/C), with the "
            "channel number 2i above C, not the pair number i.",
        ),
        WrongAnswer(
            "positions counted from one",
            _positions_from_one,
            "Positions are counted from 1. The first token stands at position 0.",
        ),
    ),
    alternatives=(_positions_by_exp,),
    examples=((2, 4),),
)
