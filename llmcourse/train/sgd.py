"""Stochastic gradient descent with momentum, the optimiser that all others are measured against.

Taught in Part 4. A step goes against the gradient; momentum goes against a decaying sum of the
gradients seen so far, which cancels what changes sign from batch to batch and adds up what stays.
Nesterov's variant looks one step further along that sum.

    g <- gradient + weight_decay · θ
    v <- momentum · v + g                         v = g at the first step
    θ <- θ - lr · v                               θ - lr · (g + momentum · v) with Nesterov

Sources: Polyak 1964 (momentum), Nesterov 1983; Sutskever et al. 2013, "On the importance of
initialization and momentum in deep learning", for Nesterov's in this form.

Deviations: the rate stands outside the velocity, as in torch, and not inside it, as in Sutskever's
equations 1 and 2; the two part ways when the rate changes during the run. The decay is coupled: it
goes through the velocity like a gradient of ½ weight_decay ‖θ‖². For plain descent that is the same
as shrinking the weight; for Adam it is not (Loshchilov and Hutter 2017, arXiv 1711.05101, section
2), which is why `llmcourse.train.adamw` decouples it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor

from llmcourse.train.checked_optimizer import CheckedOptimizer

# Of a group; one that was loaded may hold more.


def sgd_step(
    parameter: Tensor,
    gradient: Tensor,
    velocity: Tensor | None,
    *,
    lr: float,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    nesterov: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """One step of the equations above, as a pure function.

    Args:
        parameter: any shape, float; not changed.
        gradient: like the parameter; not changed.
        velocity: like the parameter; None before the first step and without momentum.

    Returns:
        The new parameter and the new velocity (None without momentum).
    """
    if weight_decay:
        gradient = gradient + weight_decay * parameter
    if not momentum:
        return parameter - lr * gradient, None
    velocity = gradient.clone() if velocity is None else momentum * velocity + gradient
    direction = gradient + momentum * velocity if nesterov else velocity
    return parameter - lr * direction, velocity


class SGD(CheckedOptimizer):
    """`sgd_step` on every parameter; equal to `torch.optim.SGD` without dampening.

    The state is named as torch names it, so that a `state_dict` of torch's can be loaded.

    Args:
        parameters: tensors, or groups of them with settings of their own.
        lr: learning rate.
        momentum: how much of the velocity is kept, in [0, 1).
        weight_decay: added to the gradient, times the parameter.
        nesterov: step along the velocity of one step ahead; needs momentum.

    Raises:
        ValueError: a setting out of range, of all groups or of one, or Nesterov without momentum.
    """

    settings = ("lr", "momentum", "weight_decay", "nesterov")

    def __init__(
        self,
        parameters: Iterable,
        lr: float = 1e-3,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
        }
        super().__init__(parameters, defaults)

    @staticmethod
    def check(settings: dict[str, Any]) -> None:
        lr, momentum, decay = settings["lr"], settings["momentum"], settings["weight_decay"]
        if not (lr >= 0 and 0 <= momentum < 1 and decay >= 0):  # false for nan as well
            raise ValueError(
                f"need lr >= 0, 0 <= momentum < 1 and weight_decay >= 0, got lr={lr}, "
                f"momentum={momentum}, weight_decay={decay}"
            )
        if settings["nesterov"] and not momentum:
            raise ValueError("nesterov=True looks ahead along the momentum: it needs momentum > 0")

    def update(self, group: dict[str, Any]) -> None:
        """One `sgd_step` of each of a group's parameters."""
        settings = {name: group[name] for name in self.settings}
        for parameter in group["params"]:
            if parameter.grad is None:
                continue
            velocity = self.state[parameter].get("momentum_buffer")
            changed, velocity = sgd_step(parameter, parameter.grad, velocity, **settings)
            parameter.copy_(changed)
            if velocity is not None:
                self.state[parameter]["momentum_buffer"] = velocity
