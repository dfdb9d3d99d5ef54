"""Exercise 3.4 Rotating queries and keys."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from llmcourse.grading.inputs import Draw
from llmcourse.grading.records import Answer, Arguments, Exercise, Property, WrongAnswer


def _rotate_inputs(draw: Draw, size: int) -> Arguments:
    shape = [(1, 2), (1, 4), (2, 4), (3, 6), (2, 3, 8), (2, 2, 5, 6)][size]
    t, d = shape[-2:]
    return draw.normal(*shape) + 0.5, draw.uniform(0.4, 2.6, t, d // 2)


def _rotate_oracle(x: Tensor, angles: Tensor) -> Tensor:
    t, d = x.shape[-2:]
    rows = []
    for head in x.reshape(-1, t, d).tolist():
        for row, turns in zip(head, angles.tolist()):
            new = [0.0] * d
            for i, angle in enumerate(turns):
                point = complex(row[i], row[i + d // 2]) * complex(math.cos(angle), math.sin(angle))
                new[i], new[i + d // 2] = point.real, point.imag
            rows.append(new)
    return torch.tensor(rows, dtype=torch.float64).reshape(x.shape)


def _rotate_interleaved(x: Tensor, angles: Tensor) -> Tensor:
    a, b = x[..., 0::2], x[..., 1::2]
    cos, sin = angles.cos(), angles.sin()
    return torch.stack([a * cos - b * sin, b * cos + a * sin], dim=-1).flatten(-2)


def _rotate_backwards(x: Tensor, angles: Tensor) -> Tensor:
    a, b = x.chunk(2, dim=-1)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([a * cos + b * sin, b * cos - a * sin], dim=-1)


def _rotate_no_minus(x: Tensor, angles: Tensor) -> Tensor:
    a, b = x.chunk(2, dim=-1)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([a * cos + b * sin, b * cos + a * sin], dim=-1)


def _rotate_overwritten(x: Tensor, angles: Tensor) -> Tensor:
    a, b = x.chunk(2, dim=-1)
    cos, sin = angles.cos(), angles.sin()
    a = a * cos - b * sin
    b = b * cos + a * sin  # the a of a moment ago is gone
    return torch.cat([a, b], dim=-1)


def _rotate_cos_sin(x: Tensor, angles: Tensor) -> Tensor:
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * angles.cos(), b * angles.sin()], dim=-1)


def _rotate_mixed(x: Tensor, angles: Tensor) -> Tensor:
    a, b = x.chunk(2, dim=-1)
    wide = angles.repeat_interleave(2, dim=-1)
    return x * wide.cos() + torch.cat([-b, a], dim=-1) * wide.sin()


def _rotate_neighbours_by_halves(x: Tensor, angles: Tensor) -> Tensor:
    partner = torch.stack([-x[..., 1::2], x[..., 0::2]], dim=-1).flatten(-2)
    wide = torch.cat([angles, angles], dim=-1)
    return x * wide.cos() + partner * wide.sin()


def _rotate_split_then_woven(x: Tensor, angles: Tensor) -> Tensor:
    a, b = x.chunk(2, dim=-1)
    cos, sin = angles.cos(), angles.sin()
    return torch.stack([a * cos - b * sin, b * cos + a * sin], dim=-1).flatten(-2)


def _rotate_complex(x: Tensor, angles: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    points = torch.complex(x[..., :half], x[..., half:])
    turned = points * torch.polar(torch.ones_like(angles), angles)
    return torch.cat([turned.real, turned.imag], dim=-1)


def _lengths_stay(got: Tensor, arguments: Arguments, call: Answer) -> str | None:
    x = arguments[0]
    before, after = x.norm(dim=-1), got.norm(dim=-1)
    worst = int((before - after).abs().reshape(-1).argmax())
    was, now = float(before.reshape(-1)[worst]), float(after.reshape(-1)[worst])
    if abs(was - now) > 1e-6:
        return f"a rotation changes no lengths: a vector of length {was:.4g} became {now:.4g} long"
    return None


def _only_distance_counts(got: Tensor, arguments: Arguments, call: Answer) -> str | None:
    x, angles = arguments
    q, k = x[..., :1, :], x[..., -1:, :]
    turn = angles[:1]
    near = (call(q, 3 * turn) * call(k, turn)).sum(-1)
    far = (call(q, 9 * turn) * call(k, 7 * turn)).sum(-1)
    if float((near - far).abs().max()) > 1e-6:
        return "q · k must depend on the distance alone: at places 3 and 1 as at 9 and 7"
    return None


def _no_turn(got: Tensor, arguments: Arguments, call: Answer) -> str | None:
    x, angles = arguments
    if float((call(x, torch.zeros_like(angles)) - x).abs().max()) > 1e-9:
        return "with all angles 0 the channels must come back as they were, in their old order"
    return None


ROTATE = Exercise(
    id="3.4",
    title="rotate queries and keys",
    name="rotate",
    signature="rotate(x: Tensor, angles: Tensor) -> Tensor",
    taught="Part 3, rotary positions",
    difficulty=3,
    minutes=15,
    make_inputs=_rotate_inputs,
    oracle=_rotate_oracle,
    statement="channels i and i + D/2 turn together, by angles[t, i]",
    properties=(
        Property("an angle of 0 changes nothing", _no_turn),
        Property("lengths stay as they are", _lengths_stay),
        Property("scores depend on distances alone", _only_distance_counts),
    ),
    wrong_answers=(
        WrongAnswer(
            "neighbours paired",
            _rotate_interleaved,
            "Channels 2i and 2i + 1 are paired, as in the original paper. Llama's checkpoints, and "
            "this course, pair i with i + D/2: x.chunk(2, dim=-1).",
        ),
        WrongAnswer(
            "turned backwards",
            _rotate_backwards,
            "The rotation runs backwards: both signs are swapped. q · k alone would not notice, a "
            "loaded checkpoint's cached keys would. first * cos - second * sin comes first.",
        ),
        WrongAnswer(
            "minus forgotten",
            _rotate_no_minus,
            "Both halves are sums, so vectors grow. A rotation needs one minus: "
            "first * cos - second * sin.",
        ),
        WrongAnswer(
            "first half overwritten",
            _rotate_overwritten,
            "The second half is computed from the first half's new values. Keep the old ones until "
            "both are done.",
        ),
        WrongAnswer(
            "cosine and sine on one half each",
            _rotate_cos_sin,
            "One half is multiplied by the cosine and the other by the sine. Each new half needs "
            "both old halves: a cos - b sin and b cos + a sin.",
        ),
        WrongAnswer(
            "angles interleaved, halves split",
            _rotate_mixed,
            "The channels are split in halves and the angles are repeated in neighbours (0, 0, 1, "
            "1, ...): two conventions mixed. For halves the angles are (0, 1, ..., 0, 1, ...).",
        ),
        WrongAnswer(
            "neighbours paired, angles in halves",
            _rotate_neighbours_by_halves,
            "Neighbouring channels are paired and the angles are laid out for halves: two "
            "conventions mixed, and nothing is a rotation any more. Here both go by halves: "
            "x.chunk(2, dim=-1).",
        ),
        WrongAnswer(
            "woven together again",
            _rotate_split_then_woven,
            "The rotation is right and the two halves come back interleaved. Put them back as they "
            "were: torch.cat([first, second], dim=-1).",
        ),
    ),
    alternatives=(_rotate_complex,),
    examples=(
        (
            torch.tensor([[1.0, 2.0, 3.0, 4.0]], dtype=torch.float64),
            torch.tensor([[math.pi / 2, math.pi]], dtype=torch.float64),
        ),
    ),
)
