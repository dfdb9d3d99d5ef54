"""What the course's own optimisers share: settings that are checked, and one step over all groups.

Taught in Part 4. torch's base class keeps groups, state and hooks; a rule of its own adds what a
group's settings must be and how a group is updated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


class CheckedOptimizer(torch.optim.Optimizer):
    """An optimiser that says `settings`, `check` and `update`; the rest is here.

    Raises:
        ValueError: a setting out of range, of all groups or of one.
    """

    settings: tuple[str, ...]  # what every group holds

    def __init__(self, parameters: Iterable, defaults: dict[str, Any]) -> None:
        self.check(defaults)
        super().__init__(parameters, defaults)

    @staticmethod
    def check(settings: dict[str, Any]) -> None:
        """Refuse settings that are out of range with a ValueError."""
        raise NotImplementedError

    def update(self, group: dict[str, Any]) -> None:
        """One update of a group's parameters from their gradients, in place."""
        raise NotImplementedError

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As torch's, with the group's own settings checked first."""
        self.check(self.defaults | param_group)
        super().add_param_group(param_group)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As torch's; a state that means another rule is refused before anything changes.

        Raises:
            ValueError: a setting is missing, impossible, or one that this optimiser does not have.
        """
        name = type(self).__name__
        for group in state_dict["param_groups"]:
            missing = [setting for setting in self.settings if setting not in group]
            if missing:
                raise ValueError(f"this is not the state of {name}: its groups lack {missing}")
            options = ("dampening", "maximize", "amsgrad")  # torch's, which are not here
            strange = [option for option in options if group.get(option)]
            if strange:
                raise ValueError(f"this state was made with {strange}, which {name} does not have")
        for group in state_dict["param_groups"]:
            self.check(group)
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
            self.update(group)
        return loss
