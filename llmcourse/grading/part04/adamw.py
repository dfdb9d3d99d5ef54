"""Exercise 4.5 One step of AdamW."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from llmcourse.grading.inputs import Draw
from llmcourse.grading.records import Answer, Arguments, Exercise, Property, WrongAnswer

Result = tuple[Tensor, Tensor, Tensor]
Betas = tuple[float, float]


def _adamw_inputs(draw: Draw, size: int) -> Arguments:
    shape = [(1,), (2,), (3,), (2, 2), (2, 3), (4, 3)][size]
    parameter, gradient = 2.0 + draw.normal(*shape).abs(), draw.normal(*shape)
    mean, square = draw.normal(*shape), draw.uniform(0.2, 2.0, *shape)
    betas = draw.number(0.6, 0.8), draw.number(0.85, 0.95)
    # Large, so that where eps stands and what the decay touches can be seen.
    lr, eps, decay = draw.number(0.1, 0.5), draw.number(0.05, 0.2), draw.number(0.2, 0.5)
    step = draw.integer(2, 6)
    if size <= 1:  # the first step
        mean, square, step = torch.zeros_like(parameter), torch.zeros_like(parameter), 1
    if size in (0, 3):
        decay = 0.0
    return parameter, gradient, mean, square, step, lr, betas, eps, decay


def _adamw_oracle(
    parameter: Tensor,
    gradient: Tensor,
    mean: Tensor,
    square: Tensor,
    step: int,
    lr: float,
    betas: Betas,
    eps: float,
    weight_decay: float,
) -> Result:
    new: tuple[list[float], list[float], list[float]] = [], [], []
    tensors = (parameter, gradient, mean, square)
    for p, g, m, v in zip(*(x.reshape(-1).tolist() for x in tensors)):
        m = m * betas[0] + g * (1 - betas[0])
        v = v * betas[1] + g * g * (1 - betas[1])
        update = (m / (1 - betas[0] ** step)) / (math.sqrt(v / (1 - betas[1] ** step)) + eps)
        for store, value in zip(new, (p - lr * (update + weight_decay * p), m, v)):
            store.append(value)
    first, second, third = (
        torch.tensor(x, dtype=torch.float64).reshape(parameter.shape) for x in new
    )
    return first, second, third


def _adamw(
    parameter: Tensor,
    gradient: Tensor,
    mean: Tensor,
    square: Tensor,
    step: int,
    lr: float,
    betas: Betas,
    eps: float,
    weight_decay: float,
    *,
    correct: tuple[bool, bool] = (True, True),
    outside: bool = True,
    rooted: bool = True,
    decay_scaled: bool = True,
    average: bool = True,
) -> Result:
    beta1, beta2 = betas
    decay = weight_decay * (lr if decay_scaled else 1.0)
    mean = beta1 * mean + ((1 - beta1) if average else 1.0) * gradient
    square = beta2 * square + (1 - beta2) * gradient**2
    m = mean / (1 - beta1**step) if correct[0] else mean
    v = square / (1 - beta2**step) if correct[1] else square
    if not rooted:
        below = v + eps
    elif outside:
        below = v.sqrt() + eps
    else:
        below = (v + eps).sqrt()
    return parameter * (1 - decay) - lr * m / below, mean, square


def _adamw_uncorrected(*arguments: Any) -> Result:
    return _adamw(*arguments, correct=(False, False))


def _adamw_mean_corrected(*arguments: Any) -> Result:
    return _adamw(*arguments, correct=(True, False))


def _adamw_counted_from_zero(*arguments: Any) -> Result:
    p, g, m, v, step, lr, betas, eps, weight_decay = arguments
    return _adamw(p, g, m, v, step - 1, lr, betas, eps, weight_decay)


def _adamw_counted_from_two(*arguments: Any) -> Result:
    p, g, m, v, step, lr, betas, eps, weight_decay = arguments
    return _adamw(p, g, m, v, step + 1, lr, betas, eps, weight_decay)


def _adamw_correction_kept(*arguments: Any) -> Result:
    p, g, m, v, step, lr, betas, eps, weight_decay = arguments
    new, m, v = _adamw(p, g, m, v, step, lr, betas, eps, weight_decay)
    return new, m / (1 - betas[0] ** step), v / (1 - betas[1] ** step)


def _adamw_decay_as_gradient(*arguments: Any) -> Result:
    p, g, m, v, step, lr, betas, eps, weight_decay = arguments
    return _adamw(p, g + weight_decay * p, m, v, step, lr, betas, eps, 0.0)


def _adamw_decay_divided(*arguments: Any) -> Result:
    p, g, m, v, step, lr, betas, eps, weight_decay = arguments
    new, m, v = _adamw(p, g, m, v, step, lr, betas, eps, 0.0)
    corrected = v / (1 - betas[1] ** step)
    return new - lr * weight_decay * p / (corrected.sqrt() + eps), m, v


def _adamw_decay_unscaled(*arguments: Any) -> Result:
    return _adamw(*arguments, decay_scaled=False)


def _adamw_no_decay(*arguments: Any) -> Result:
    return _adamw(*arguments[:-1], 0.0)


def _adamw_grows(*arguments: Any) -> Result:
    p, g, m, v, step, lr, betas, eps, weight_decay = arguments
    return _adamw(p, g, m, v, step, lr, betas, eps, -weight_decay)


def _adamw_eps_inside(*arguments: Any) -> Result:
    return _adamw(*arguments, outside=False)


def _adamw_rootless(*arguments: Any) -> Result:
    return _adamw(*arguments, rooted=False)


def _adamw_sum(*arguments: Any) -> Result:
    return _adamw(*arguments, average=False)


def _adamw_uphill(*arguments: Any) -> Result:
    p, g, m, v, step, lr, betas, eps, weight_decay = arguments
    new, m, v = _adamw(p, g, m, v, step, lr, betas, eps, 0.0)
    return p * (1 - lr * weight_decay) + (p - new), m, v


def _adamw_betas_swapped(*arguments: Any) -> Result:
    p, g, m, v, step, lr, betas, eps, weight_decay = arguments
    return _adamw(p, g, m, v, step, lr, betas[::-1], eps, weight_decay)


def _adamw_as_torch(*arguments: Any) -> Result:
    p, g, m, v, step, lr, betas, eps, weight_decay = arguments
    # The corrections go into the size of the step and into the denominator's scale.
    m = m.lerp(g, 1 - betas[0])
    v = torch.addcmul(betas[1] * v, g, g, value=1 - betas[1])
    below = v.sqrt() / math.sqrt(1 - betas[1] ** step) + eps
    decayed = p.mul(1 - lr * weight_decay)
    return decayed.addcdiv(m, below, value=-lr / (1 - betas[0] ** step)), m, v


def _first_step_is_the_rate(got: Result, arguments: Arguments, call: Answer) -> str | None:
    p, g, m, v, step, lr, betas, _, _ = arguments
    if step == 1 and not bool(m.any()) and not bool(v.any()):
        length = float((call(p, g, m, v, 1, lr, betas, 0.0, 0.0)[0] - p).abs().max())
        if not abs(length - lr) < 1e-9:
            return (
                f"with eps and weight_decay 0, the first step moves every number by lr = {lr}, "
                f"whatever the gradient; it moved by {length:.4g}"
            )
    return None


def _decay_apart(got: Result, arguments: Arguments, call: Answer) -> str | None:
    p, g, m, v, step, lr, betas, eps, weight_decay = arguments
    without = call(p, g, m, v, step, lr, betas, eps, 0.0)[0]
    if float((without - got[0] - lr * weight_decay * p).abs().max()) > 1e-9:
        return (
            f"the decay must take lr * weight_decay = {lr * weight_decay:.4g} of every number, "
            "whatever its gradient"
        )
    return None


ADAMW = Exercise(
    id="4.5",
    title="one step of AdamW",
    name="adamw_step",
    signature=(
        "adamw_step(parameter: Tensor, gradient: Tensor, mean: Tensor, square: Tensor, step: int, "
        "lr: float, betas: tuple[float, float], eps: float, weight_decay: float) "
        "-> tuple[Tensor, Tensor, Tensor]"
    ),
    taught="Part 4, optimisers",
    difficulty=3,
    minutes=20,
    make_inputs=_adamw_inputs,
    oracle=_adamw_oracle,
    statement="decay, then minus lr times the corrected mean over the root of the corrected square",
    properties=(
        Property("the first step is as long as the learning rate", _first_step_is_the_rate),
        Property("the decay does not depend on the gradient", _decay_apart),
    ),
    forbidden=("torch.optim.AdamW", "torch.optim.Adam", "torch.optim.NAdam"),
    wrong_answers=(
        WrongAnswer(
            "no bias correction",
            _adamw_uncorrected,
            "The bias correction is missing. Both averages start at 0 and are too small at first: "
            "divide them by 1 - beta^step, each with its own beta.",
        ),
        WrongAnswer(
            "only the mean corrected",
            _adamw_mean_corrected,
            "Only the mean is corrected. The running square starts at 0 too: divide it by "
            "1 - betas[1]^step before its root.",
        ),
        WrongAnswer(
            "steps counted from 0",
            _adamw_counted_from_zero,
            "The correction is one step behind: it uses step - 1, and the first step divides by "
            "1 - beta^0 = 0. `step` is 1 at the first step.",
        ),
        WrongAnswer(
            "steps counted from 2",
            _adamw_counted_from_two,
            "The correction is one step ahead: it uses step + 1. `step` is 1 at the first step "
            "already.",
        ),
        WrongAnswer(
            "corrected averages stored",
            _adamw_correction_kept,
            "The new parameter is right, and the averages come back corrected. What goes on to the "
            "next step is the plain averages; the correction is only for use.",
        ),
        WrongAnswer(
            "decay added to the gradient",
            _adamw_decay_as_gradient,
            "The decay is added to the gradient, so it goes into both averages and numbers with "
            "large gradients hardly decay: Adam with L2, the mistake that AdamW was made to mend.",
        ),
        WrongAnswer(
            "decay divided by the root",
            _adamw_decay_divided,
            "The decay is divided by the root of the square as the gradient is. It stands beside "
            "that: parameter * (1 - lr * weight_decay).",
        ),
        WrongAnswer(
            "decay without the rate",
            _adamw_decay_unscaled,
            "The decay is not multiplied by the learning rate: parameter * "
            "(1 - lr * weight_decay).",
        ),
        WrongAnswer(
            "no decay",
            _adamw_no_decay,
            "The decay is missing: this is Adam. Every number first shrinks by lr * weight_decay "
            "of itself.",
        ),
        WrongAnswer(
            "grows instead of decaying",
            _adamw_grows,
            "The parameter grows by lr * weight_decay of itself: the decay's sign is wrong.",
        ),
        WrongAnswer(
            "eps inside the root",
            _adamw_eps_inside,
            "eps is added inside the root. It stands outside: sqrt(square) + eps.",
        ),
        WrongAnswer(
            "no root",
            _adamw_rootless,
            "The root is missing: the mean is divided by the square itself, whose unit is that of "
            "the gradient squared.",
        ),
        WrongAnswer(
            "a sum for a mean",
            _adamw_sum,
            "The mean adds the whole gradient: that is SGD's momentum. An average takes "
            "(1 - betas[0]) of it.",
        ),
        WrongAnswer(
            "uphill",
            _adamw_uphill,
            "The step goes uphill: it must go against the mean gradient, with a minus.",
        ),
        WrongAnswer(
            "betas swapped",
            _adamw_betas_swapped,
            "The betas are swapped: the first is the memory of the mean, the second that of the "
            "square.",
        ),
    ),
    alternatives=(_adamw_as_torch,),
    examples=(
        (
            torch.tensor([1.0], dtype=torch.float64),
            torch.tensor([2.0], dtype=torch.float64),
            torch.tensor([0.0], dtype=torch.float64),
            torch.tensor([0.0], dtype=torch.float64),
            1,
            0.1,
            (0.9, 0.99),
            0.0,
            0.5,
        ),
    ),
)
