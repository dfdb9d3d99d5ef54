"""Exercise 3.2 SwiGLU."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from llmcourse.grading.inputs import Draw
from llmcourse.grading.records import Answer, Arguments, Exercise, Property, WrongAnswer


def _swiglu_inputs(draw: Draw, size: int) -> Arguments:
    t, c, f = [(1, 1, 1), (1, 1, 2), (1, 2, 3), (2, 3, 3), (3, 4, 6), (5, 3, 8)][size]
    gate, up, down = draw.normal(f, c), draw.normal(f, c), draw.normal(c, f)
    x = draw.normal(t, c)
    if size == 0:  # large enough for every difference to be seen
        signs = [draw.pick([-1.0, 1.0]) for _ in range(3)]
        gate, up, down = (draw.uniform(1.0, 2.0, 1, 1) * sign for sign in signs)
        x = draw.uniform(0.5, 1.5, 1, 1)
    return x, gate, up, down


def _swiglu_oracle(x: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
    def times(matrix: Tensor, vector: list[float]) -> list[float]:
        return [math.fsum(a * b for a, b in zip(row, vector)) for row in matrix.tolist()]

    rows = []
    for token in x.tolist():
        opened = [g / (1.0 + math.exp(-g)) for g in times(gate, token)]
        hidden = [g * u for g, u in zip(opened, times(up, token))]
        rows.append(times(down, hidden))
    return torch.tensor(rows, dtype=torch.float64)


def _silu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(x)


def _swiglu_swapped(x: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
    return ((x @ gate.T) * _silu(x @ up.T)) @ down.T


def _swiglu_both(x: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
    return (_silu(x @ gate.T) * _silu(x @ up.T)) @ down.T


def _swiglu_sigmoid(x: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
    return (torch.sigmoid(x @ gate.T) * (x @ up.T)) @ down.T


def _swiglu_gelu(x: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
    return (torch.nn.functional.gelu(x @ gate.T) * (x @ up.T)) @ down.T


def _swiglu_relu(x: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
    return (torch.relu(x @ gate.T) * (x @ up.T)) @ down.T


def _swiglu_no_down(x: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
    return _silu(x @ gate.T) * (x @ up.T)


def _swiglu_product(x: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
    return _silu((x @ gate.T) * (x @ up.T)) @ down.T


def _swiglu_added(x: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
    return (_silu(x @ gate.T) + x @ up.T) @ down.T


def _swiglu_no_up(x: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
    return _silu(x @ gate.T) @ down.T


def _swiglu_untransposed(x: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
    return (_silu(x @ gate) * (x @ up)) @ down


def _swiglu_packed(x: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
    # One matrix product for gate and up, and the sigmoid written as a hyperbolic tangent.
    opened, carried = (torch.cat([gate, up]) @ x.T).chunk(2)  # (F, T) each
    return (down @ (opened / 2 * (1 + torch.tanh(opened / 2)) * carried)).T


def _up_is_linear(got: Tensor, arguments: Arguments, call: Answer) -> str | None:
    x, gate, up, down = arguments
    if float((call(x, gate, 2.0 * up, down) - 2.0 * got).abs().max()) > 1e-9:
        return (
            "doubling the matrix `up` must double the result: no activation stands on that branch"
        )
    return None


def _closed_gate(got: Tensor, arguments: Arguments, call: Answer) -> str | None:
    x, gate, up, down = arguments
    if float(call(x, torch.zeros_like(gate), up, down).abs().max()) > 1e-9:
        return "with gate = 0 the result must be 0: silu(0) = 0 lets nothing through"
    return None


SWIGLU = Exercise(
    id="3.2",
    title="SwiGLU",
    name="swiglu",
    signature="swiglu(x: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor",
    taught="Part 3, SwiGLU",
    difficulty=2,
    minutes=10,
    make_inputs=_swiglu_inputs,
    oracle=_swiglu_oracle,
    statement="down (silu(gate x) * up x) for every token",
    properties=(
        Property("a gate of zero is closed", _closed_gate),
        Property("the branch `up` is linear", _up_is_linear),
    ),
    wrong_answers=(
        WrongAnswer(
            "gate and up swapped",
            _swiglu_swapped,
            "silu stands on the wrong branch: it belongs to x · gate. With the two swapped, every "
            "published checkpoint still loads and talks nonsense.",
        ),
        WrongAnswer(
            "activation on both branches",
            _swiglu_both,
            "Both branches go through silu. Only the gate does; `up` stays linear.",
        ),
        WrongAnswer(
            "sigmoid rather than silu",
            _swiglu_sigmoid,
            "The gate goes through a plain sigmoid: that is the older GLU. "
            "silu(a) = a * sigmoid(a).",
        ),
        WrongAnswer(
            "GELU rather than silu",
            _swiglu_gelu,
            "The gate goes through GELU: that is GeGLU, as in Gemma. SwiGLU uses silu(a) = "
            "a * sigmoid(a).",
        ),
        WrongAnswer(
            "ReLU rather than silu",
            _swiglu_relu,
            "The gate goes through ReLU: that is ReGLU. silu(a) = a * sigmoid(a) lets a little of "
            "the negative side through.",
        ),
        WrongAnswer(
            "down left out",
            _swiglu_no_down,
            "The hidden layer comes back as it is, F channels wide: the projection `down` is "
            "missing.",
        ),
        WrongAnswer(
            "activation on the product",
            _swiglu_product,
            "silu is applied to the product of the two branches. Apply it to the gate first, then "
            "multiply.",
        ),
        WrongAnswer(
            "branches added",
            _swiglu_added,
            "The branches are added. A gate multiplies: it decides how much of each channel of "
            "`up` goes through.",
        ),
        WrongAnswer(
            "up left out",
            _swiglu_no_up,
            "`up` is not used: this is a plain feed-forward layer with silu. Multiply by x · up "
            "before the projection down.",
        ),
        WrongAnswer(
            "weights not transposed",
            _swiglu_untransposed,
            "The weights are stored as torch's Linear stores them, (out, in): multiply by their "
            "transposes, x @ gate.T.",
        ),
    ),
    alternatives=(_swiglu_packed,),
    examples=(
        (
            torch.tensor([[math.log(3.0)]], dtype=torch.float64),
            torch.tensor([[1.0], [-1.0]], dtype=torch.float64),
            torch.tensor([[2.0], [4.0]], dtype=torch.float64),
            torch.tensor([[1.0, 1.0]], dtype=torch.float64),
        ),
    ),
)
