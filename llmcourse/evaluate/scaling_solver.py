"""The least Huber loss of a scaling law: damped Gauss-Newton steps for many problems at once.

Taught in Part 4, behind `llmcourse.evaluate.scaling_law`, which says what is fitted and why. The
unknowns of a problem are (log A, log alpha, log B, log beta, log E), with A and B taken at the mean
run, so that factor and exponent can be moved apart. The five slopes are shares of the three terms,
as the logarithm of a sum has them.

Sources: Hoffmann et al. 2022, arXiv 2203.15556, section D.2 (what is minimised); Marquardt 1963,
"An Algorithm for Least-Squares Estimation of Nonlinear Parameters" (the damping).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

START_EXPONENTS = (0.1, 0.25, 0.5, 1.0, 1.6)
STEPS = 100  # Gauss-Newton steps at most
FIRST_STEPS = 20  # after which only the KEPT best starts of each problem go on
KEPT = 2
ENOUGH = 1e-6  # relative gain of a step that is not worth another


def starting_points(numbers: Tensor, floor: float | None) -> Tensor:
    """(S, 5) unknowns: for each pair of exponents the rest by linear least squares."""
    x, y = centred(numbers)
    loss = numbers[:, 2].exp()
    lowest = float(loss.min())
    found = []
    for alpha in START_EXPONENTS:
        for beta in START_EXPONENTS:
            columns = [(-alpha * x).exp(), (-beta * y).exp()]
            target = loss
            if floor is None:
                columns.append(torch.ones_like(loss))
            else:
                target = loss - floor
            solved = torch.linalg.lstsq(torch.stack(columns, 1), target[:, None]).solution[:, 0]
            least = 0.02 * lowest  # the unknowns are logarithms
            a, b = (max(float(value), least) for value in solved[:2])
            e = min(max(float(solved[2]), least), lowest) if floor is None else floor
            found.append([math.log(a), math.log(alpha), math.log(b), math.log(beta), math.log(e)])
    return torch.tensor(found, dtype=torch.float64)


def minimise(
    numbers: Tensor, counts: Tensor, unknowns: Tensor, floor: float | None, delta: float
) -> tuple[Tensor, Tensor]:
    """Damped Gauss-Newton from every start of every problem.

    Args:
        numbers: (n, 3) log N, log D and log loss of each run, float64.
        counts: (P, n) weight of each run in each problem.
        unknowns: (P, S, 5): log A, log alpha, log B, log beta, log E, A and B at the mean run.

    Returns:
        unknowns (P, S, 5) and costs (P, S).
    """
    x, y = centred(numbers)
    target, counts = numbers[:, 2], counts[:, None, :]  # (n,), (P, 1, n)

    def miss(unknowns: Tensor) -> tuple[Tensor, Tensor]:
        """(P, S, n) log L(N, D) - log loss, and its slopes (P, S, n, 5)."""
        a, u, b, v, e = (part[..., None] for part in unknowns.unbind(-1))
        alpha, beta = u.exp(), v.exp()
        size, data, rest = torch.broadcast_tensors(a - alpha * x, b - beta * y, e)
        terms = torch.stack([size, data, rest], -1)  # logarithms of the three terms
        share = terms.softmax(-1)
        slopes = torch.stack(
            [
                share[..., 0],
                -alpha * x * share[..., 0],
                share[..., 1],
                -beta * y * share[..., 1],
                share[..., 2] * (floor is None),
            ],
            -1,
        )
        return terms.logsumexp(-1) - target, slopes

    def cost(r: Tensor) -> Tensor:
        size = r.abs()
        huber = torch.where(size <= delta, 0.5 * r * r, delta * (size - 0.5 * delta))
        return (counts * huber).sum(-1)  # (P, S)

    r, slopes = miss(unknowns)
    costs = cost(r)
    damping = torch.full_like(costs, 1e-2)
    eye = torch.eye(5, dtype=torch.float64)
    for number in range(STEPS):
        if number == FIRST_STEPS and costs.shape[1] > KEPT:
            best = costs.topk(KEPT, dim=1, largest=False).indices  # (P, KEPT)
            rows = torch.arange(len(costs))[:, None]
            unknowns, damping, costs = unknowns[rows, best], damping[rows, best], costs[rows, best]
            r, slopes = r[rows, best], slopes[rows, best]
        weight = counts * (delta / r.abs().clamp(min=delta))  # Huber's, as weights of squares
        weighted = slopes * weight[..., None]
        gram = weighted.transpose(-1, -2) @ slopes  # (P, S, 5, 5)
        pull = (weighted * r[..., None]).sum(-2)  # (P, S, 5)
        # Marquardt: damp each unknown by its own curvature. The floor keeps the matrix invertible
        # where a term has vanished, or E is fixed.
        own = gram.diagonal(dim1=-2, dim2=-1)
        ridge = damping[..., None] * own + 1e-9 * own.amax(-1, keepdim=True) + 1e-300
        step = torch.linalg.solve(gram + ridge[..., None] * eye, pull).clamp(-2.0, 2.0)
        tried = unknowns - step
        new_r, new_slopes = miss(tried)
        new_costs = cost(new_r)
        better = new_costs < costs
        gain = torch.where(better, (costs - new_costs) / costs, 0.0)
        unknowns = torch.where(better[..., None], tried, unknowns)
        r = torch.where(better[..., None], new_r, r)
        slopes = torch.where(better[..., None, None], new_slopes, slopes)
        costs = torch.where(better, new_costs, costs)
        damping = torch.where(better, damping / 3, damping * 4).clamp(1e-9, 1e9)
        if bool(((gain < ENOUGH) & (better | (damping > 1e6))).all()):
            break
    return unknowns, costs


def centred(numbers: Tensor) -> tuple[Tensor, Tensor]:
    """(n,), (n,): log N and log D minus their means, which keeps factor and exponent apart."""
    middle = numbers[:, :2].mean(0)
    return numbers[:, 0] - middle[0], numbers[:, 1] - middle[1]
