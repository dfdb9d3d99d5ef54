"""Tensors, arrays and lists as NumPy arrays, checked, for drawing.

Taught in: nowhere. Accepts what a learner has at hand; torch is not imported here.
"""

from __future__ import annotations

from typing import Any

import numpy as np

# Weights computed in bfloat16 sum to 1 within a few thousandths; a wrong axis misses by far more.
SUM_TOLERANCE = 1e-2


def to_array(values: Any, name: str = "values") -> np.ndarray:
    """`values` (torch tensor on any device, array or nested list) as a float64 NumPy array.

    Raises:
        ValueError: if it is ragged, not numeric, or holds NaN; the message names `name`.
    """
    if hasattr(values, "detach"):
        values = values.detach().cpu().double().numpy()
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be a rectangular table of numbers: {error}") from None
    if np.isnan(array).any():
        raise ValueError(f"{name} holds {int(np.isnan(array).sum())} NaN; nothing can be drawn")
    return array


def check_distribution(probabilities: np.ndarray, name: str) -> None:
    """Refuse (V,) numbers that are not a probability distribution."""
    if probabilities.ndim != 1 or probabilities.size == 0:
        raise ValueError(
            f"{name} must have shape (V,) with V >= 1, not {tuple(probabilities.shape)}"
        )
    if (probabilities < 0).any():
        raise ValueError(
            f"{name} holds the negative value {probabilities.min():.3g}; "
            "probabilities lie between 0 and 1 (are these logits? apply softmax first)"
        )
    total = float(probabilities.sum())
    if abs(total - 1.0) > SUM_TOLERANCE:
        raise ValueError(
            f"{name} sum to {total:.3f}, not to 1 (are these logits? apply softmax first)"
        )
