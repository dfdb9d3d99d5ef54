"""Exercise 4.6 Muon's Newton-Schulz iteration."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llmcourse.grading.inputs import Draw
from llmcourse.grading.records import Answer, Arguments, Exercise, Property, WrongAnswer

A, B, C = 3.4445, -4.7750, 2.0315


def _ortho_inputs(draw: Draw, size: int) -> Arguments:
    # Singular values whose norm is a whole number, far from where two mistakes would look alike.
    m, n, steps, values = [
        (1, 2, 1, [5]),
        (2, 2, 1, [3, 4]),
        (2, 3, 2, [3, 4]),
        (3, 2, 3, [4, 3]),
        (3, 5, 5, [1, 4, 8]),
        (6, 4, 5, [2, 4, 5, 6]),
    ][size]
    scale = draw.number(0.3, 0.4) if size == 2 else draw.number(2.0, 5.0)
    matrix = torch.zeros(m, n, dtype=torch.float64)
    matrix[range(len(values)), range(len(values))] = scale * torch.tensor(values).double()
    if size == 0:  # the numbers 3 and 4, in some order and with some signs
        pair = draw.pick([(3.0, 4.0), (4.0, 3.0), (3.0, -4.0), (-4.0, 3.0)])
        return scale * torch.tensor([pair], dtype=torch.float64), steps
    return _turned(draw, _turned(draw, matrix).T).T.contiguous(), steps


def _turned(draw: Draw, matrix: Tensor) -> Tensor:
    """The rows turned in the plane of each two neighbours: the singular values stay."""
    for i in range(len(matrix) - 1):
        angle = draw.number(0.3, 0.7)
        cos, sin = math.cos(angle), math.sin(angle)
        first, second = matrix[i].clone(), matrix[i + 1].clone()
        matrix[i], matrix[i + 1] = cos * first - sin * second, sin * first + cos * second
    return matrix


def _ortho_oracle(matrix: Tensor, steps: int) -> Tensor:
    # On the singular values alone, one number at a time.
    u, sizes, v = np.linalg.svd(matrix.numpy(), full_matrices=False)
    sizes = sizes / np.sqrt((sizes**2).sum())
    for _ in range(steps):
        sizes = A * sizes + B * sizes**3 + C * sizes**5
    return torch.from_numpy((u * sizes) @ v)


def _ortho(
    matrix: Tensor,
    steps: int,
    *,
    norm: Tensor | float | None = None,
    coefficients: tuple[float, float, float] = (A, B, C),
) -> Tensor:
    a, b, c = coefficients
    x = matrix / (matrix.norm() if norm is None else norm)
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + b * gram @ x + c * gram @ gram @ x
    return x


def _ortho_not_scaled(matrix: Tensor, steps: int) -> Tensor:
    return _ortho(matrix, steps, norm=1.0)


def _ortho_by_largest(matrix: Tensor, steps: int) -> Tensor:
    return _ortho(matrix, steps, norm=matrix.abs().max())


def _ortho_by_rows(matrix: Tensor, steps: int) -> Tensor:
    return _ortho(matrix, steps, norm=matrix.norm(dim=1, keepdim=True))


def _ortho_by_square(matrix: Tensor, steps: int) -> Tensor:
    return _ortho(matrix, steps, norm=(matrix * matrix).sum())


def _ortho_cubic(matrix: Tensor, steps: int) -> Tensor:
    return _ortho(matrix, steps, coefficients=(A, B, 0.0))


def _ortho_classic(matrix: Tensor, steps: int) -> Tensor:
    return _ortho(matrix, steps, coefficients=(1.5, -0.5, 0.0))


def _ortho_swapped(matrix: Tensor, steps: int) -> Tensor:
    return _ortho(matrix, steps, coefficients=(A, C, B))


def _ortho_fourth_power(matrix: Tensor, steps: int) -> Tensor:
    x = matrix / matrix.norm()
    for _ in range(steps):
        gram = x @ x.T
        x = A * x + B * gram @ x + C * gram @ x
    return x


def _ortho_elementwise(matrix: Tensor, steps: int) -> Tensor:
    x = matrix / matrix.norm()
    for _ in range(steps):
        x = A * x + B * x**3 + C * x**5
    return x


def _ortho_old_gram(matrix: Tensor, steps: int) -> Tensor:
    x = matrix / matrix.norm()
    gram = x @ x.T
    for _ in range(steps):
        x = A * x + B * gram @ x + C * gram @ gram @ x
    return x


def _ortho_one_step(matrix: Tensor, steps: int) -> Tensor:
    return _ortho(matrix, 1)


def _ortho_one_more(matrix: Tensor, steps: int) -> Tensor:
    return _ortho(matrix, steps + 1)


def _ortho_scaled_again(matrix: Tensor, steps: int) -> Tensor:
    x = matrix
    for _ in range(steps):
        x = _ortho(x, 1)
    return x


def _ortho_exact(matrix: Tensor, steps: int) -> Tensor:
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    return u @ v


def _ortho_left_wide(matrix: Tensor, steps: int) -> Tensor:
    x = matrix / matrix.norm()
    if matrix.shape[0] > matrix.shape[1]:
        x = x.T
    for _ in range(steps):
        gram = x @ x.T
        x = A * x + (B * gram + C * gram @ gram) @ x
    return x


def _ortho_by_bracket(matrix: Tensor, steps: int) -> Tensor:
    # From the right and with one power less: x (a + g (b + c g)), g = xᵀ x.
    x = matrix / (matrix * matrix).sum().sqrt()
    one = torch.eye(matrix.shape[1], dtype=matrix.dtype)
    for _ in range(steps):
        g = x.T @ x
        x = x @ (A * one + g @ (B * one + C * g))
    return x


def _size_does_not_matter(got: Any, arguments: Arguments, call: Answer) -> str | None:
    matrix, steps = arguments
    if not float((call(4.0 * matrix, steps) - got).abs().max()) < 1e-4:
        return "a matrix four times as large must give the same result: only directions count"
    return None


def _turns_along(got: Any, arguments: Arguments, call: Answer) -> str | None:
    matrix, steps = arguments
    if float((call(matrix.T.contiguous(), steps) - got.T).abs().max()) > 1e-4:
        return "the transposed matrix must give the transposed result"
    return None


ORTHOGONALISE = Exercise(
    id="4.6",
    title="make a matrix orthogonal, Muon's way",
    name="orthogonalise",
    signature="orthogonalise(matrix: Tensor, steps: int) -> Tensor",
    taught="Part 4, optimisers",
    difficulty=3,
    minutes=15,
    make_inputs=_ortho_inputs,
    oracle=_ortho_oracle,
    tolerance=1e-6,  # many add 1e-7 to the norm against a division by zero
    statement="X / norm(X), then steps times a X + b (X Xᵀ) X + c (X Xᵀ)² X",
    properties=(
        Property("the size of the matrix does not matter", _size_does_not_matter),
        Property("rows and columns are treated alike", _turns_along),
    ),
    forbidden=("torch.optim.Muon",),
    wrong_answers=(
        WrongAnswer(
            "not scaled first",
            _ortho_not_scaled,
            "The matrix is not divided by its norm first. The iteration only pulls singular values "
            "between 0 and 1 towards 1; larger ones fly off to infinity.",
        ),
        WrongAnswer(
            "divided by the largest entry",
            _ortho_by_largest,
            "The matrix is divided by its largest entry. Its singular values can still be above 1; "
            "divide by the norm of all its numbers, the root of the sum of squares.",
        ),
        WrongAnswer(
            "each row by itself",
            _ortho_by_rows,
            "Every row is divided by its own norm, which changes the directions. One number for "
            "the whole matrix: the root of the sum of all squares.",
        ),
        WrongAnswer(
            "norm without its root",
            _ortho_by_square,
            "The matrix is divided by the sum of its squares: the root is missing.",
        ),
        WrongAnswer(
            "third term forgotten",
            _ortho_cubic,
            "The term c (X Xᵀ)² X is missing. Without it the first two push large singular values "
            "through 0 and out of bounds.",
        ),
        WrongAnswer(
            "the classical iteration",
            _ortho_classic,
            "This is the classical cubic iteration, 1.5 X - 0.5 X Xᵀ X. It converges exactly, and "
            "slowly for small singular values; Muon's three coefficients are made for speed.",
        ),
        WrongAnswer(
            "b and c swapped",
            _ortho_swapped,
            "b and c are swapped: b = -4.7750 goes with X Xᵀ X, c = 2.0315 with (X Xᵀ)² X.",
        ),
        WrongAnswer(
            "power too low",
            _ortho_fourth_power,
            "Both terms have the same power of X. c goes with (X Xᵀ)² X: the Gram matrix times "
            "itself.",
        ),
        WrongAnswer(
            "entry by entry",
            _ortho_elementwise,
            "The powers are taken entry by entry. What is raised are the singular values, and "
            "matrix products do that: X Xᵀ X.",
        ),
        WrongAnswer(
            "Gram matrix of the start",
            _ortho_old_gram,
            "X Xᵀ is worked out once, before the loop. It belongs to the present X: inside the "
            "loop.",
        ),
        WrongAnswer(
            "one iteration",
            _ortho_one_step,
            "Only one iteration is done, whatever `steps` says.",
        ),
        WrongAnswer(
            "one iteration too many",
            _ortho_one_more,
            "One iteration too many is done.",
        ),
        WrongAnswer(
            "scaled in every iteration",
            _ortho_scaled_again,
            "X is divided by its norm in every iteration, which undoes what the last one gained. "
            "Once, before the loop.",
        ),
        WrongAnswer(
            "the exact factor",
            _ortho_exact,
            "This is exactly U Vᵀ, from a singular value decomposition. Asked for is the iteration "
            "that does nearly the same with matrix products only, many times as fast.",
        ),
        WrongAnswer(
            "not turned back",
            _ortho_left_wide,
            "A tall matrix comes back transposed. Transposing it first saves work; transpose the "
            "result again.",
        ),
    ),
    alternatives=(_ortho_by_bracket,),
    examples=((torch.tensor([[3.0, 0.0], [0.0, 4.0]], dtype=torch.float64), 1),),
)
