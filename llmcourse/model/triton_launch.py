"""What the Triton kernels are told before they start: tile sizes, tile lists, positions.

Taught in Part 3, with `triton_kernels`, which does the arithmetic, and `flash_triton`, which ties
both to autograd. Skipping tiles that hold nothing visible is Dao 2023, arXiv 2307.08691, section
3.1; lists of tiles instead of loop bounds are Dong et al. 2024, arXiv 2412.05496 (FlexAttention).

Deviation from the papers: tile sizes come from a fixed rule, not from a search on the GPU at hand.

Shapes: B batch, T queries, S keys; a tile is a run of consecutive queries or keys.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from llmcourse.model.masks import Visibility

FAR = 2**61  # farther than any position; the difference of two still fits int64
NO_WINDOW = 2**31 - 1  # tokens: more than any int32 position


class Launch(NamedTuple):
    """How a kernel is laid out on the device."""

    block_q: int  # rows of a tile of queries
    block_k: int  # rows of a tile of keys
    num_warps: int  # groups of 32 threads that share a tile
    num_stages: int  # tiles on their way from memory while one is worked on, itself included


def choose_launch(t: int, s: int, width: int, dtype: torch.dtype, device: torch.device) -> Launch:
    """Tile sizes by a fixed rule.

    Args:
        t: queries; one new token needs no tile of 64.
        s: keys.
        width: the wider of D and Dv, padded to a power of two.
        dtype: of the inputs.
        device: of the inputs.

    Returns:
        On a GPU, tiles of at most 16 KB, of 16 to 64 rows (32 for float32 and float64, with one
        stage: with more, thousands of bytes of sums spilled from registers into memory). Compiled
        for compute capability 8.0 every kernel then asks for less than the 99 KB of shared memory
        that all NVIDIA GPUs since 2020 have, except for float64 heads of 256 (132 KB). In the
        interpreter (CPU) an operation costs about the same at any size: up to 128 rows.
    """
    if device.type == "cpu":
        most, warps, stages = 128, 1, 1
    else:
        half = dtype.itemsize == 2
        most = min(max(2**14 // (width * dtype.itemsize), 16), 64 if half else 32)
        warps, stages = (4 if width <= 32 else 8), (2 if half else 1)
    # A matrix product needs at least 16 rows.
    fit_q, fit_k = (min(max(power_of_two(n), 16), most) for n in (t, s))
    return Launch(fit_q, fit_k, warps, stages)


def tile_lists(
    visibility: Visibility, block_q: int, block_k: int, device: torch.device | None = None
) -> Tensor:
    """Which tiles hold a pair that may see each other: bool, (1 or B, query tiles, key tiles).

    Decided from the lowest and highest position of each tile, and document number where there are
    documents, so that no table of T × S is made. A tile left out holds nothing visible; one kept
    may turn out to hold nothing where positions jump about.
    """
    q, k = _positions(visibility, device)
    q_low, q_high = _bounds(q, q >= 0, block_q)  # (..., query tiles)
    k_low, k_high = _bounds(k, k >= 0, block_k)  # (..., key tiles)
    need = (q_high >= 0)[..., :, None] & (k_high >= 0)[..., None, :]
    if visibility.causal:
        need = need & (k_low[..., None, :] <= q_high[..., :, None])
    if visibility.window is not None:
        near = q_low[..., :, None] - k_high[..., None, :] < visibility.window
        need = need & (near | (k_low < visibility.sinks)[..., None, :])
    if visibility.q_documents is not None:
        asks, answers = (x.to(device) for x in (visibility.q_documents, visibility.k_documents))
        a_low, a_high = _bounds(asks, (q >= 0).expand_as(asks), block_q)
        b_low, b_high = _bounds(answers, (k >= 0).expand_as(answers), block_k)
        need = need & (a_low[..., :, None] <= b_high[..., None, :])
        need = need & (b_low[..., None, :] <= a_high[..., :, None])
    return need if need.ndim == 3 else need[None]


def _positions(visibility: Visibility, device: torch.device | None) -> tuple[Tensor, Tensor]:
    """Positions of the queries (T,) or (B, T) and of the keys (S,) or (B, S), on the device."""
    q, k = (x.to(device) for x in visibility.positions(device))
    # More queries than keys, all visible: no query stands before the start of the text.
    return (q.clamp(min=0) if visibility.everything else q), k


def _bounds(values: Tensor, real: Tensor, block: int) -> tuple[Tensor, Tensor]:
    """Lowest and highest of the real values of each tile: (..., T) -> twice (..., tiles)."""
    missing = -values.shape[-1] % block
    values, real = pad(values, (0, missing)), pad(real, (0, missing))
    low = values.masked_fill(~real, FAR).unflatten(-1, (-1, block)).amin(-1)
    high = values.masked_fill(~real, -FAR).unflatten(-1, (-1, block)).amax(-1)
    return low, high


class Plan(NamedTuple):
    """A visibility as the kernels read it, for one tiling on one device."""

    q_places: Any  # kernels.Places
    k_places: Any
    for_queries: Any  # kernels.Tiles: the key tiles of each query tile
    for_keys: Any  # kernels.Tiles: the query tiles of each key tile


def make_plan(
    kernels: ModuleType, visibility: Visibility, launch: Launch, device: torch.device
) -> Plan:
    """The plan for a visibility; made once for all layers of a forward pass."""
    # Kept with the visibility itself, as its table is, and gone when it goes.
    plans = vars(visibility).setdefault("_triton_plans", {})
    key = (launch.block_q, launch.block_k, device)
    if key not in plans:
        q, k = _positions(visibility, device)
        need = tile_lists(visibility, launch.block_q, launch.block_k, device)
        plans[key] = Plan(
            _places(kernels, q, visibility.q_documents, device),
            _places(kernels, k, visibility.k_documents, device),
            _lists(kernels, need),
            _lists(kernels, need.mT),
        )
    return plans[key]


def _places(kernels: ModuleType, at: Tensor, documents: Tensor | None, device: torch.device) -> Any:
    at = at.to(device, torch.int32).contiguous()
    if documents is not None:
        documents = documents.to(device, torch.int64).contiguous()
    return kernels.Places(at, documents, _step(at), _step(documents), at.shape[-1])


def _lists(kernels: ModuleType, need: Tensor) -> Any:
    """(1 or B, n, m) bool -> for each of n the numbers of those of m that it needs, in order."""
    need = need.contiguous()  # the kernels count on the order of storage
    counts = need.sum(dim=-1, dtype=torch.int32)  # (1 or B, n)
    # A stable sort that puts what is needed in front keeps the tiles in their order.
    order = need.to(torch.uint8).argsort(dim=-1, descending=True, stable=True)
    return kernels.Tiles(order.to(torch.int32), counts, _step(counts), need.shape[-1])


def _step(x: Tensor | None) -> int:
    """Elements from one row of the batch to the next; 0 when all rows share one."""
    return 0 if x is None or x.ndim == 1 or x.shape[0] == 1 else x.stride(0)


def make_rule(
    kernels: ModuleType,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    visibility: Visibility,
    launch: Launch,
    scale: float,
    softcap: float | None,
) -> Any:
    """Everything the kernels are compiled for, a `kernels.Rule`."""
    import triton.language as tl

    names = {torch.float64: tl.float64, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}
    factor = names.get(q.dtype, tl.float32)
    if q.device.type == "cpu" and factor != tl.float64:
        factor = tl.float32  # the interpreter's bfloat16 arithmetic is silently wrong
    d, dv = q.shape[-1], v.shape[-1]
    return kernels.Rule(
        scale=float(scale),
        softcap=None if softcap is None else float(softcap),
        causal=visibility.causal,
        window=min(visibility.window or NO_WINDOW, NO_WINDOW),
        sinks=min(visibility.sinks, NO_WINDOW),
        group=q.shape[1] // k.shape[1],
        d=d,
        d_padded=max(power_of_two(d), 16),
        dv=dv,
        dv_padded=max(power_of_two(dv), 16),
        block_q=launch.block_q,
        block_k=launch.block_k,
        sums=tl.float64 if q.dtype == torch.float64 else tl.float32,
        factor=factor,
    )


def power_of_two(n: int) -> int:
    """The smallest power of two that is at least n."""
    return 1 << (n - 1).bit_length()
