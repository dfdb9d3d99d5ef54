"""Muon: momentum whose matrices are made orthogonal before they are applied.

Used from Part 2 on, taken apart in Part 4. A gradient matrix is often dominated by a few
directions; stepping along it teaches those and starves the rest. Muon replaces the momentum matrix
U S Vᵀ by about U Vᵀ: every direction is stepped by the same amount. Instead of the singular value
decomposition that would take, five Newton-Schulz iterations do: matrix products only.

Sources: Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks" (the
iteration and its coefficients); Liu et al. 2025, arXiv 2502.16982 (decoupled weight decay).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from llmcourse.train.checked_optimizer import CheckedOptimizer

# A quintic whose first iterations raise small singular values as fast as possible: it does not
# converge to 1 exactly but lands every one between about 0.7 and 1.2, which is all that is needed.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def orthogonalise(matrix: Tensor, steps: int = 5) -> Tensor:
    """About U Vᵀ of the matrix U S Vᵀ, by Newton-Schulz: X <- a X + b (X Xᵀ) X + c (X Xᵀ)² X.

    Args:
        matrix: (m, n) float, or (..., m, n) for several of one shape at once.
        steps: iterations; five are enough for singular values above about 1e-3 of the largest.

    Returns:
        The same shape and dtype, singular values near 1.

    Raises:
        ValueError: not a matrix.
    """
    if matrix.ndim < 2:
        raise ValueError(f"only matrices can be orthogonalised, got shape {tuple(matrix.shape)}")
    a, b, c = COEFFICIENTS
    wide = matrix.shape[-2] <= matrix.shape[-1]
    x = matrix if wide else matrix.mT  # (..., m, n) with m <= n: X Xᵀ is the smaller product
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)  # all singular values at most 1
    x = x.contiguous()
    for _ in range(steps):
        gram = x @ x.mT  # (..., m, m)
        if x.ndim == 3:  # the same by two calls that multiply and add at once: a third of the time
            polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
            x = torch.baddbmm(x, polynomial, x, beta=a)
        else:
            x = a * x + (b * gram + c * gram @ gram) @ x
    return x if wide else x.mT


class Muon(CheckedOptimizer):
    """Nesterov momentum, orthogonalised, with decoupled weight decay, for matrices only.

    A stack of matrices, as experts have, is updated matrix by matrix.

    A step changes a matrix (m, n) by lr √max(1, m / n) times an orthogonal matrix, so that the
    output of a layer changes about equally much whatever its shape.

    Args:
        parameters: matrices, or groups of them.
        lr: learning rate.
        momentum: memory of the running mean of gradients, in [0, 1).
        weight_decay: fraction of a matrix taken off per update, times the learning rate.
        dtype: of the Newton-Schulz iteration, which bears bfloat16 well: it only needs directions.
            None is the parameter's own.

    Raises:
        ValueError: a parameter is neither a matrix nor a stack of them; a setting out of range.
    """

    settings = ("lr", "momentum", "weight_decay")

    def __init__(
        self,
        parameters: Iterable,
        lr: float = 0.02,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.dtype = dtype
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.ndim not in (2, 3):
                    raise ValueError(
                        f"Muon takes matrices and stacks of them, got a parameter of shape "
                        f"{tuple(parameter.shape)}; give vectors and embeddings to AdamW"
                    )

    @staticmethod
    def check(settings: dict[str, Any]) -> None:
        lr, momentum, decay = settings["lr"], settings["momentum"], settings["weight_decay"]
        if not (lr >= 0 and 0 <= momentum < 1 and decay >= 0):  # false for nan as well
            raise ValueError(
                f"need lr >= 0, 0 <= momentum < 1 and weight_decay >= 0, got lr={lr}, "
                f"momentum={momentum}, weight_decay={decay}"
            )

    def update(self, group: dict[str, Any]) -> None:
        """One update of a group, matrices of one shape together."""
        by_shape: dict[tuple, list[Tensor]] = {}
        for parameter in group["params"]:
            if parameter.grad is not None:
                key = (parameter.shape, parameter.dtype, parameter.device)
                by_shape.setdefault(key, []).append(parameter)
        for parameters in by_shape.values():
            self._update(parameters, group)

    def _update(self, parameters: list[Tensor], group: dict) -> None:
        """One step of matrices of one shape, whose products are few and large taken together."""
        lr, momentum = group["lr"], group["momentum"]
        ahead = []
        for parameter in parameters:
            state = self.state[parameter]
            if "mean" not in state:
                state["mean"] = torch.zeros_like(parameter)
            mean = state["mean"].lerp_(parameter.grad, 1 - momentum)
            # Nesterov: look one step ahead along the running mean.
            ahead.append(parameter.grad.lerp(mean, momentum))
        dtype = self.dtype or ahead[0].dtype
        rows, columns = parameters[0].shape[-2:]
        if len(ahead) == 1 or type(ahead[0]) is not Tensor:  # such as pieces on several processes
            updates = [orthogonalise(matrix.to(dtype)) for matrix in ahead]
        else:
            # (matrices, m, n), those of stacked parameters one by one
            joint = torch.stack(ahead).view(-1, rows, columns).to(dtype)
            updates = list(orthogonalise(joint).view(len(ahead), *parameters[0].shape))
        scale = max(1.0, rows / columns) ** 0.5
        for parameter, update in zip(parameters, updates):
            parameter.mul_(1 - lr * group["weight_decay"])
            parameter.add_(update.to(parameter.dtype), alpha=-lr * scale)
