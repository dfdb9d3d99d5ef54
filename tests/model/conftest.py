"""The oracle of the tiled kernels: attention with the whole table of scores, in float64."""

from __future__ import annotations

import pytest
import torch


def whole_table(q, k, v, visibility, scale, softcap=None):
    """softmax(scale · q kᵀ) v, written out; a query that sees nothing gives 0."""
    q, k, v = (x.double() for x in (q, k, v))
    k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for x in (k, v))
    scores = scale * torch.einsum("bhtd,bhsd->bhts", q, k)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    table = visibility.table()
    seen = torch.ones_like(scores, dtype=torch.bool) if table is None else table.expand_as(scores)
    weights = torch.where(seen, torch.exp(scores), 0.0)
    total = weights.sum(-1, keepdim=True)
    return torch.where(total > 0, weights / total.clamp(min=1e-300), 0.0) @ v


@pytest.fixture
def by_table():
    return whole_table
