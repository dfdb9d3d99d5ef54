"""What every implementation of attention asks of its tensors, said once.

Taught in Part 3. Shapes: B batch, H query heads, G key/value heads, T queries, S keys, D width of
queries and keys, Dv width of values.
"""

from __future__ import annotations

from torch import Tensor

from llmcourse.model.masks import Visibility


def check_shapes(q: Tensor, k: Tensor, v: Tensor) -> None:
    """Refuse queries, keys and values whose shapes do not fit together.

    Args:
        q: (B, H, T, D).
        k: (B, G, S, D), G a divisor of H.
        v: (B, G, S, Dv).

    Raises:
        ValueError: the message says which and how.
    """
    if q.ndim != 4 or k.ndim != 4 or v.ndim != 4:
        shapes = ", ".join(str(tuple(x.shape)) for x in (q, k, v))
        raise ValueError(f"q, k and v must be (batch, heads, time, width), got {shapes}")
    (b, h, _, d), (g, s) = q.shape, k.shape[1:3]
    if k.shape != (b, g, s, d) or v.shape[:3] != (b, g, s):
        raise ValueError(
            f"k must be (B, G, S, D) and v (B, G, S, Dv) with the batch and width of q "
            f"{tuple(q.shape)}, got k {tuple(k.shape)} and v {tuple(v.shape)}"
        )
    if 0 in (*q.shape, *v.shape):
        raise ValueError(
            f"every axis needs at least one entry, got q {tuple(q.shape)} and v {tuple(v.shape)}"
        )
    if h % g:
        raise ValueError(
            f"{h} query heads cannot share {g} key/value heads evenly; "
            f"the second must divide the first"
        )


def check_inputs(
    q: Tensor, k: Tensor, v: Tensor, visibility: Visibility, softcap: float | None = None
) -> None:
    """Refuse what does not fit together before anything is computed.

    Args:
        q: (B, H, T, D).
        k: (B, G, S, D), G a divisor of H.
        v: (B, G, S, Dv), of the dtype and on the device of q and k.
        visibility: for T queries and S keys.
        softcap: above 0, or None.

    Raises:
        ValueError: shapes, dtypes, devices or a soft cap that do not fit; the message says which.
    """
    check_shapes(q, k, v)
    b, t, s = q.shape[0], q.shape[2], k.shape[2]
    if (visibility.t, visibility.s) != (t, s):
        raise ValueError(
            f"the visibility is for {visibility.t} queries and {visibility.s} keys, "
            f"q and k have {t} and {s}"
        )
    for name in ("q_positions", "k_positions", "q_documents", "k_documents"):
        value = getattr(visibility, name)
        if value is not None and value.ndim == 2 and len(value) != b:
            raise ValueError(f"{name} has {len(value)} rows for a batch of {b}")
    if not q.dtype.is_floating_point or not q.dtype == k.dtype == v.dtype:
        raise ValueError(f"q, k and v need one float dtype, got {q.dtype}, {k.dtype}, {v.dtype}")
    if not q.device == k.device == v.device:
        raise ValueError(f"q, k and v need one device, got {q.device}, {k.device}, {v.device}")
    if softcap is not None and not softcap > 0:
        raise ValueError(f"softcap={softcap} must be above 0, or None for none")
