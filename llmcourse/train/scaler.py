"""Loss scaling: how float16 trains without losing its small gradients.

Taught in Part 4. float16 keeps nothing below 6e-8, and gradients are often smaller. The loss is
multiplied by a large number S before the backward pass, which multiplies every gradient by S, and
the gradients are divided by S again in float32 before they are used. How large S may be is found by
trying: it doubles after so many good steps in a row, and when a gradient overflows it is halved and
that step is left out. bfloat16 has float32's range and needs none of this.

    with torch.autocast(device, torch.float16):
        value = loss(model, batch)
    scaler.scale(value).backward()
    finite = scaler.unscale_(model.parameters())
    if finite:
        clip and step
    scaler.update(finite)

Source: Micikevicius et al. 2017, arXiv 1710.03740, sections 3.1 (float32 weights) and 3.2 (scaling
the loss). Deviations: S is dynamic, which the paper names as a possibility; growth and backoff are
those of `torch.amp.GradScaler`, except that a scale too small to help ends the run with an error,
where torch goes on skipping steps for ever.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

SMALLEST = 2.0**-24  # a scale; with this one float16's largest gradient would stand for 1e12
LARGEST = float(torch.finfo(torch.float32).max)  # a scale; the scaled loss is a float32


@dataclass(frozen=True)
class ScalerConfig:
    """How the scale moves."""

    initial: float = 65536.0  # scale of the first step
    growth: float = 2.0  # factor on the scale after `interval` good steps
    backoff: float = 0.5  # factor on the scale after an overflow
    interval: int = 2000  # steps without an overflow before the scale grows

    def __post_init__(self) -> None:
        if not SMALLEST <= self.initial <= LARGEST:
            raise ValueError(
                f"initial={self.initial} must lie between {SMALLEST:.3g} and {LARGEST:.3g}"
            )
        if not 1 < self.growth < math.inf:
            raise ValueError(f"growth={self.growth} must be a number above 1")
        if not 0 < self.backoff < 1:
            raise ValueError(f"backoff={self.backoff} must lie between 0 and 1")
        if self.interval < 1:
            raise ValueError(f"interval={self.interval} must be at least 1 step")


@dataclass(frozen=True)
class ScalerState:
    """All that changes from step to step."""

    scale: float  # what the loss is multiplied by
    good_steps: int = 0  # steps without an overflow since the scale last moved

    def __post_init__(self) -> None:
        if not SMALLEST <= self.scale <= LARGEST:
            raise ValueError(
                f"scale={self.scale} must lie between {SMALLEST:.3g} and {LARGEST:.3g}"
            )
        if self.good_steps < 0:
            raise ValueError(f"good_steps={self.good_steps} must be at least 0")


def next_state(state: ScalerState, finite: bool, config: ScalerConfig) -> ScalerState:
    """The state after a step whose gradients were all finite, or not: a pure function.

    Raises:
        FloatingPointError: overflow after overflow; no scale will help.
    """
    if not finite:
        scale = state.scale * config.backoff
        if scale < SMALLEST:
            raise FloatingPointError(
                f"gradients overflow even at a loss scale of {state.scale:.3g}: they are not "
                f"finite by themselves; look for a division by zero or a rate that is too high, "
                f"or train in bfloat16"
            )
        return ScalerState(scale, 0)
    if state.good_steps + 1 < config.interval:
        return ScalerState(state.scale, state.good_steps + 1)
    grown = state.scale * config.growth
    return ScalerState(grown if grown <= LARGEST else state.scale, 0)


class LossScaler:
    """The scale of a run; `update` moves it on, `to_dict` and `from_dict` carry it over a restart.

    Args:
        config: how the scale moves.
        state: where it stands; None is the beginning.
    """

    def __init__(
        self, config: ScalerConfig | None = None, state: ScalerState | None = None
    ) -> None:
        self.config = config or ScalerConfig()
        self.state = state or ScalerState(self.config.initial)

    def scale(self, loss: Tensor) -> Tensor:
        """The loss times the scale: its backward pass scales all gradients.

        A float16 loss becomes float32 first, because float16 ends at 65504.
        """
        return (loss.float() if loss.dtype == torch.float16 else loss) * self.state.scale

    @torch.no_grad()
    def unscale_(self, parameters: Iterable[Tensor]) -> bool:
        """Divide every gradient by the scale, in place, once per step and before clipping.

        Args:
            parameters: of all optimisers; those without a gradient are passed over.

        Returns:
            Whether all gradients are finite. If not, leave the step out.

        Raises:
            ValueError: a float16 gradient, which would lose again what the scale has saved; keep
                the weights in float32 and let autocast make the float16 copies.
        """
        gradients = [p.grad for p in parameters if p.grad is not None]
        for gradient in gradients:
            if gradient.dtype == torch.float16:
                raise ValueError(
                    f"a gradient of shape {tuple(gradient.shape)} is float16 and would lose again "
                    f"what the scale has saved; keep the weights in float32 under autocast"
                )
        if not gradients:
            return True
        torch._foreach_mul_(gradients, 1.0 / self.state.scale)
        # One answer for all tensors, so that a GPU is waited for once.
        device = gradients[0].device
        return bool(torch.stack([g.isfinite().all().to(device) for g in gradients]).all())

    def update(self, finite: bool) -> None:
        """Move the scale on after a step.

        Args:
            finite: what `unscale_` returned.

        Raises:
            FloatingPointError: overflow after overflow; no scale will help.
        """
        self.state = next_state(self.state, finite, self.config)

    def to_dict(self) -> dict[str, Any]:
        """Numbers only, ready for JSON, which keeps them exactly."""
        return dataclasses.asdict(self.config) | dataclasses.asdict(self.state)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> LossScaler:
        """The scaler that `to_dict` described.

        Raises:
            ValueError: a key too many or too few, something that is no number, or an impossible
                number; the message names it.
        """
        kinds = {f.name: f.type for c in (ScalerConfig, ScalerState) for f in dataclasses.fields(c)}
        if values.keys() != kinds.keys():
            raise ValueError(
                f"a loss scaler is made of {sorted(kinds)}, got {sorted(map(str, values))}"
            )
        for name, value in values.items():
            whole = isinstance(value, int) and not isinstance(value, bool)
            if not (whole or (kinds[name] == "float" and isinstance(value, float))):
                kind = "a number" if kinds[name] == "float" else "a whole number"
                raise ValueError(f"{name} must be {kind}, got {value!r}")
        settings = {f.name: values[f.name] for f in dataclasses.fields(ScalerConfig)}
        state = {f.name: values[f.name] for f in dataclasses.fields(ScalerState)}
        return cls(ScalerConfig(**settings), ScalerState(**state))
