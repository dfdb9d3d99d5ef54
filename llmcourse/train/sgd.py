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

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

# Of a group; one that was loaded may hold more.
SETTINGS = ("lr", "momentum", "weight_decay", "nesterov")


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


class SGD(torch.optim.Optimizer):
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
        _check(defaults)
        super().__init__(parameters, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As torch's, with the group's own settings checked first."""
        _check(self.defaults | param_group)
        super().add_param_group(param_group)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As torch's; a state that means another rule is refused before anything changes.

        Raises:
            ValueError: a setting is missing, impossible, or one that this optimiser does not have.
        """
        check_loaded(state_dict, SETTINGS, "SGD")
        for group in state_dict["param_groups"]:
            _check(group)
        super().load_state_dict(state_dict)

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        """One update from the gradients; parameters without one are left alone.

        Returns:
            What `closure` returned, if one was given: it computes the loss and the gradients anew.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            settings = {name: group[name] for name in SETTINGS}
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                velocity = self.state[parameter].get("momentum_buffer")
                changed, velocity = sgd_step(parameter, parameter.grad, velocity, **settings)
                parameter.copy_(changed)
                if velocity is not None:
                    self.state[parameter]["momentum_buffer"] = velocity
        return loss


def check_loaded(state_dict: dict[str, Any], settings: tuple[str, ...], name: str) -> None:
    """Refuse a `state_dict` of another optimiser, or of options of torch's that are not here.

    Args:
        state_dict: what is to be loaded.
        settings: what each of its groups must hold.
        name: of the optimiser that loads, for the message.

    Raises:
        ValueError: as said.
    """
    for group in state_dict["param_groups"]:
        missing = [setting for setting in settings if setting not in group]
        if missing:
            raise ValueError(f"this is not the state of {name}: its groups lack {missing}")
        strange = [option for option in ("dampening", "maximize", "amsgrad") if group.get(option)]
        if strange:
            raise ValueError(f"this state was made with {strange}, which {name} does not have")


def _check(settings: dict[str, Any]) -> None:
    lr, momentum, decay = settings["lr"], settings["momentum"], settings["weight_decay"]
    if not (lr >= 0 and 0 <= momentum < 1 and decay >= 0):  # false for nan as well
        raise ValueError(
            f"need lr >= 0, 0 <= momentum < 1 and weight_decay >= 0, got lr={lr}, "
            f"momentum={momentum}, weight_decay={decay}"
        )
    if settings["nesterov"] and not momentum:
        raise ValueError("nesterov=True looks ahead along the momentum: it needs momentum > 0")
