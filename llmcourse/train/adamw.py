"""AdamW: steps of a size that does not depend on the gradient's, and decay that is not a gradient.

Taught in Part 4. Adam keeps a running mean m of the gradient and one, v, of its square, and steps
by their ratio: about one learning rate for a number whose gradient keeps its sign, far less for one
whose gradient is mostly noise. Per number, with the gradient g of step t = 1, 2, ...:

    θ <- θ - lr · weight_decay · θ
    m <- β1 m + (1 - β1) g
    v <- β2 v + (1 - β2) g²
    θ <- θ - lr · m / (1 - β1ᵗ) / (√(v / (1 - β2ᵗ)) + eps)

The two divisions are the bias correction. Both means start at zero, so after t steps they hold only
1 - βᵗ of the weight of a full average: a gradient that is always g gives m = (1 - β1ᵗ) g. Dividing
by that makes m and v averages from the first step on, whose step is lr · sign(g). Without it the
first step would be (1 - β1) / √(1 - β2) as long: with 0.9 and 0.999, 3.2 times.

Sources: Kingma and Ba 2014, arXiv 1412.6980, algorithm 1 and section 3; Loshchilov and Hutter 2017,
arXiv 1711.05101, algorithm 2, lines 6 to 12.

Deviations: the decay is multiplied by the learning rate, as in torch; the paper's algorithm
multiplies it by the schedule's factor only, so that lr and weight_decay can be chosen apart.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from llmcourse.train.checked_optimizer import CheckedOptimizer


def adamw_step(
    parameter: Tensor,
    gradient: Tensor,
    mean: Tensor,
    square: Tensor,
    step: int,
    *,
    lr: float,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.01,
) -> tuple[Tensor, Tensor, Tensor]:
    """The equations above for one tensor, as a pure function: the reference.

    Args:
        parameter: any shape, float; like the other three tensors it is not changed.
        gradient: like the parameter.
        mean, square: m and v, like the parameter; zeros before the first step.
        step: t, 1 for the first.

    Returns:
        The new parameter, m and v.
    """
    beta1, beta2 = betas
    parameter = parameter - lr * weight_decay * parameter
    mean = beta1 * mean + (1 - beta1) * gradient
    square = beta2 * square + (1 - beta2) * gradient.square()
    corrected_mean = mean / (1 - beta1**step)
    corrected_square = square / (1 - beta2**step)
    parameter = parameter - lr * corrected_mean / (corrected_square.sqrt() + eps)
    return parameter, mean, square


def adamw_step_foreach_(
    parameters: Sequence[Tensor],
    gradients: Sequence[Tensor],
    means: Sequence[Tensor],
    squares: Sequence[Tensor],
    steps: Sequence[int],
    *,
    lr: float,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.01,
) -> None:
    """`adamw_step` for a list of tensors at once, in place.

    Each line is one call for the whole list: on a GPU a handful of kernels rather than a handful
    per tensor. The price is one temporary as large as all parameters together.

    Args:
        parameters: changed, as are `means` and `squares`.
        gradients: not changed.
        steps: t of each tensor; they differ where one had no gradient at some step.
    """
    beta1, beta2 = betas
    if weight_decay:
        torch._foreach_mul_(parameters, 1 - lr * weight_decay)
    torch._foreach_lerp_(means, gradients, 1 - beta1)
    torch._foreach_mul_(squares, beta2)
    torch._foreach_addcmul_(squares, gradients, gradients, 1 - beta2)
    # The corrections are numbers: they go into the denominator's scale and the size of the step.
    denominators = torch._foreach_sqrt(squares)
    torch._foreach_div_(denominators, [math.sqrt(1 - beta2**t) for t in steps])
    torch._foreach_add_(denominators, eps)
    sizes = [-lr / (1 - beta1**t) for t in steps]
    torch._foreach_addcdiv_(parameters, means, denominators, sizes)


class AdamW(CheckedOptimizer):
    """AdamW on groups of parameters; equal to `torch.optim.AdamW`.

    The state is named as torch names it, so that either can load the other's `state_dict`.

    Args:
        parameters: tensors, or groups of them with settings of their own, such as those of
            `llmcourse.train.optimizers.decay_groups`.
        lr: learning rate: about the largest change of a number per step.
        betas: memory of the gradient's mean and of its square, each in [0, 1).
        eps: added to the root; keeps numbers that hardly ever get a gradient from leaping.
        weight_decay: fraction of a number taken off per step, times the learning rate.
        foreach: whole lists of tensors per call; False steps by the reference, one by one.

    Raises:
        ValueError: a setting out of range, of all groups or of one.
    """

    settings = ("lr", "betas", "eps", "weight_decay")

    def __init__(
        self,
        parameters: Iterable,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        *,
        foreach: bool = True,
    ) -> None:
        self.foreach = foreach
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(parameters, defaults)

    @staticmethod
    def check(settings: dict[str, Any]) -> None:
        lr, betas, eps = settings["lr"], settings["betas"], settings["eps"]
        decay = settings["weight_decay"]
        if len(betas) != 2:
            raise ValueError(f"betas={betas} must be two numbers, for the mean and for the square")
        in_range = all(0 <= beta < 1 for beta in betas)
        if not (lr >= 0 and in_range and eps >= 0 and decay >= 0):  # false for nan as well
            raise ValueError(
                f"need lr >= 0, both betas in [0, 1), eps >= 0 and weight_decay >= 0, got lr={lr}, "
                f"betas={tuple(betas)}, eps={eps}, weight_decay={decay}"
            )

    def update(self, group: dict[str, Any]) -> None:
        """One update of a group, by the lists or by the reference."""
        parameters = [p for p in group["params"] if p.grad is not None]
        if not parameters:
            return
        states = [self._state_of(p) for p in parameters]
        for state in states:
            state["step"] += 1
        gradients = [p.grad for p in parameters]
        means = [state["exp_avg"] for state in states]
        squares = [state["exp_avg_sq"] for state in states]
        steps = [int(state["step"]) for state in states]
        settings = {name: group[name] for name in self.settings}
        if self.foreach:
            adamw_step_foreach_(parameters, gradients, means, squares, steps, **settings)
            return
        for old in zip(parameters, gradients, means, squares, steps):
            parameter, _, mean, square, _ = old
            for tensor, new in zip((parameter, mean, square), adamw_step(*old, **settings)):
                tensor.copy_(new)

    def _state_of(self, parameter: Tensor) -> dict[str, Tensor]:
        state = self.state[parameter]
        if not state:
            # On the CPU, where reading it waits for nobody.
            state["step"] = torch.zeros((), dtype=torch.float32)
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        return state
