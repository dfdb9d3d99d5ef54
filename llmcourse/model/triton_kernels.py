"""FlashAttention-2 as three Triton kernels: the output, then dK and dV, then dQ.

Taught in Part 3. Importing this module imports Triton, so `flash_triton` does it on first use.
Sources: Dao 2023, arXiv 2307.08691, algorithms 1 and 2; the softmax over tiles with a running
maximum is Dao et al. 2022, arXiv 2205.14135, algorithm 1.

Each program instance owns one tile of rows and walks over the list of tiles that it needs (from
`flash_triton.tile_lists`): no part of the (T, S) table of scores ever exists outside one tile.
Inside a tile positions decide what is visible. Rows past the end are given position -1, which sees
nothing and is seen by nothing; lengths that are no multiple of the tile need nothing else.

Deviations: dQ has a kernel of its own instead of atomic additions from the dK and dV kernel, which
costs one more matrix product a tile and gives the same bits in every run. A query that sees nothing
gives 0; its log-sum-exp is stored as +inf, which makes its weights 0 in the backward pass too.

Shapes: q (B, H, T, D), k (B, G, S, D), v (B, G, S, Dv), out (B, H, T, Dv), each a `Matrix`;
log-sum-exp and delta (B, H, T) contiguous.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl


class Matrix(NamedTuple):
    """A four-dimensional tensor whose last axis is contiguous."""

    data: Any
    batch: int  # strides, in elements
    head: int
    row: int
    n_rows: int


class Places(NamedTuple):
    """Where the rows of one side stand: int32 positions, and int64 documents or None."""

    positions: Any
    documents: Any
    batch: int  # stride of positions; 0 when all rows of the batch share them
    document_batch: int
    n_rows: int


class Tiles(NamedTuple):
    """For each tile of one side, which tiles of the other side it needs; int32."""

    indices: Any  # (B or 1, n, m)
    counts: Any  # (B or 1, n): how many of the m are meant
    batch: int  # stride of counts; 0 when all rows of the batch share the lists
    width: int  # m


class Rule(NamedTuple):
    """What is fixed when a kernel is compiled."""

    scale: float
    softcap: float | None
    causal: bool
    window: int  # tokens; huge when there is none
    sinks: int  # tokens
    group: int  # query heads per key/value head
    d: int  # width of queries and keys
    d_padded: int  # the next power of two
    dv: int  # width of values
    dv_padded: int
    block_q: int  # rows of a tile of queries
    block_k: int  # rows of a tile of keys
    sums: Any  # dtype of scores and sums: float32, or float64 for float64 inputs
    factor: Any  # dtype of the factors of a matrix product


@triton.jit
def _load(x, batch, head, rows, WIDTH: tl.constexpr, PADDED: tl.constexpr, DTYPE: tl.constexpr):
    """(rows, PADDED): a tile of x[batch, head], zeros outside x."""
    columns = tl.arange(0, PADDED)
    # 64-bit offsets: a batch of long texts holds more than 2**31 numbers.
    start = x.data + batch.to(tl.int64) * x.batch + head.to(tl.int64) * x.head
    at = start + rows[:, None].to(tl.int64) * x.row + columns[None, :]
    inside = (rows[:, None] < x.n_rows) & (columns[None, :] < WIDTH)
    return tl.load(at, mask=inside, other=0.0).to(DTYPE)


@triton.jit
def _store(x, tile, batch, head, rows, WIDTH: tl.constexpr, PADDED: tl.constexpr):
    """Write a tile; what lies outside x is left out."""
    columns = tl.arange(0, PADDED)
    start = x.data + batch.to(tl.int64) * x.batch + head.to(tl.int64) * x.head
    at = start + rows[:, None].to(tl.int64) * x.row + columns[None, :]
    inside = (rows[:, None] < x.n_rows) & (columns[None, :] < WIDTH)
    tl.store(at, tile.to(x.data.dtype.element_ty), mask=inside)


@triton.jit
def _dot(a, b, RULE: tl.constexpr):
    """a @ b, summed in RULE.sums. "ieee": no silent rounding of float32 to tensor-core formats."""
    a, b = a.to(RULE.factor), b.to(RULE.factor)
    return tl.dot(a, b, input_precision="ieee", out_dtype=RULE.sums)


@triton.jit
def _scores(q, k, q_places, k_places, batch, q_rows, k_rows, RULE: tl.constexpr):
    """(queries, keys): scores, -inf where a query may not look, and the slope of the soft cap."""
    scores = _dot(q, tl.trans(k), RULE) * RULE.scale
    slope = tl.full([RULE.block_q, RULE.block_k], 1.0, RULE.sums)
    if RULE.softcap is not None:
        bent = 2.0 * tl.sigmoid(scores * (2.0 / RULE.softcap)) - 1.0  # tanh(scores / softcap)
        scores = bent * RULE.softcap
        slope = 1.0 - bent * bent
    at = q_places.positions + batch * q_places.batch + q_rows
    i = tl.load(at, mask=q_rows < q_places.n_rows, other=-1)[:, None]
    at = k_places.positions + batch * k_places.batch + k_rows
    j = tl.load(at, mask=k_rows < k_places.n_rows, other=-1)[None, :]
    # The sentence of masks.Visibility.rule: 0 <= j <= i and (i - j < window or j < sinks).
    seen = (j >= 0) & (i >= 0)
    if RULE.causal:
        seen = seen & (j <= i) & ((i - j < RULE.window) | (j < RULE.sinks))
    if q_places.documents is not None:
        at = q_places.documents + batch.to(tl.int64) * q_places.document_batch + q_rows
        asks = tl.load(at, mask=q_rows < q_places.n_rows, other=0)[:, None]
        at = k_places.documents + batch.to(tl.int64) * k_places.document_batch + k_rows
        answers = tl.load(at, mask=k_rows < k_places.n_rows, other=0)[None, :]
        seen = seen & (asks == answers)
    return tl.where(seen, scores, float("-inf")), slope


@triton.jit
def forward(q, k, v, out, log_sum_exp, q_places, k_places, tiles, RULE: tl.constexpr):
    """One tile of queries against all key tiles it needs. Grid: (query tiles, H, B)."""
    tile, head, batch = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    rows = tile * RULE.block_q + tl.arange(0, RULE.block_q)
    asks = _load(q, batch, head, rows, RULE.d, RULE.d_padded, RULE.factor)
    top = tl.full([RULE.block_q], float("-inf"), RULE.sums)  # the running maximum
    total = tl.zeros([RULE.block_q], RULE.sums)
    mixed = tl.zeros([RULE.block_q, RULE.dv_padded], RULE.sums)
    list_at = batch * tiles.batch + tile
    for step in range(tl.load(tiles.counts + list_at)):
        k_tile = tl.load(tiles.indices + list_at.to(tl.int64) * tiles.width + step)
        k_rows = k_tile * RULE.block_k + tl.arange(0, RULE.block_k)
        keys = _load(k, batch, head // RULE.group, k_rows, RULE.d, RULE.d_padded, RULE.factor)
        scores, _ = _scores(asks, keys, q_places, k_places, batch, rows, k_rows, RULE)
        new_top = tl.maximum(top, tl.max(scores, 1))
        # -inf minus -inf is no number: a row that has seen nothing yet is compared with 0.
        level = tl.where(new_top == float("-inf"), 0.0, new_top)
        weights = tl.exp(scores - level[:, None])
        shrink = tl.exp(top - level)  # what was summed below a lower maximum counts less
        values = _load(v, batch, head // RULE.group, k_rows, RULE.dv, RULE.dv_padded, RULE.factor)
        total = total * shrink + tl.sum(weights, 1)
        mixed = mixed * shrink[:, None] + _dot(weights, values, RULE)
        top = new_top
    divisor = tl.where(total == 0.0, 1.0, total)
    _store(out, mixed / divisor[:, None], batch, head, rows, RULE.dv, RULE.dv_padded)
    n_heads = tl.num_programs(1)
    at = log_sum_exp + (batch.to(tl.int64) * n_heads + head) * q.n_rows + rows
    level = tl.where(total == 0.0, float("inf"), top + tl.log(divisor))
    tl.store(at, level, mask=rows < q.n_rows)


@triton.jit
def _weights_and_slopes(
    q, k, v, d_out, log_sum_exp, delta, q_places, k_places, batch, head, n_heads, q_rows, k_rows,
    RULE: tl.constexpr,
):  # fmt: skip
    """One tile again in the backward pass: weights P and the slopes dS of its scores.

    P = exp(S - log-sum-exp), dS = P * (dO Vᵀ - delta), delta = rowsum(dO * O).
    """
    scores, slope = _scores(q, k, q_places, k_places, batch, q_rows, k_rows, RULE)
    start = (batch.to(tl.int64) * n_heads + head) * q_places.n_rows
    real = q_rows < q_places.n_rows
    level = tl.load(log_sum_exp + start + q_rows, mask=real, other=float("inf"))
    weights = tl.exp(scores - level[:, None])
    shift = tl.load(delta + start + q_rows, mask=real, other=0.0)
    return weights, weights * (_dot(d_out, tl.trans(v), RULE) - shift[:, None]) * slope


@triton.jit
def backward_keys(
    q, k, v, d_out, log_sum_exp, delta, d_k, d_v, q_places, k_places, tiles, RULE: tl.constexpr
):
    """dK and dV of one tile of keys, summed over the query heads that share it.

    Grid: (key tiles, G, B).
    """
    tile, group, batch = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    n_heads = tl.num_programs(1) * RULE.group
    k_rows = tile * RULE.block_k + tl.arange(0, RULE.block_k)
    keys = _load(k, batch, group, k_rows, RULE.d, RULE.d_padded, RULE.factor)
    values = _load(v, batch, group, k_rows, RULE.dv, RULE.dv_padded, RULE.factor)
    to_keys = tl.zeros([RULE.block_k, RULE.d_padded], RULE.sums)
    to_values = tl.zeros([RULE.block_k, RULE.dv_padded], RULE.sums)
    list_at = batch * tiles.batch + tile
    count = tl.load(tiles.counts + list_at)
    for turn in range(count * RULE.group):  # one loop over heads and tiles: pipelines better
        head = group * RULE.group + turn // count
        q_tile = tl.load(tiles.indices + list_at.to(tl.int64) * tiles.width + turn % count)
        rows = q_tile * RULE.block_q + tl.arange(0, RULE.block_q)
        asks = _load(q, batch, head, rows, RULE.d, RULE.d_padded, RULE.factor)
        slopes_out = _load(d_out, batch, head, rows, RULE.dv, RULE.dv_padded, RULE.factor)
        weights, slopes = _weights_and_slopes(
            asks, keys, values, slopes_out, log_sum_exp, delta, q_places, k_places,
            batch, head, n_heads, rows, k_rows, RULE,
        )  # fmt: skip
        to_values += _dot(tl.trans(weights), slopes_out, RULE)
        to_keys += _dot(tl.trans(slopes), asks, RULE)
    _store(d_k, to_keys * RULE.scale, batch, group, k_rows, RULE.d, RULE.d_padded)
    _store(d_v, to_values, batch, group, k_rows, RULE.dv, RULE.dv_padded)


@triton.jit
def backward_queries(
    q, k, v, d_out, log_sum_exp, delta, d_q, q_places, k_places, tiles, RULE: tl.constexpr
):
    """dQ of one tile of queries. Grid: (query tiles, H, B)."""
    tile, head, batch = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    n_heads = tl.num_programs(1)
    rows = tile * RULE.block_q + tl.arange(0, RULE.block_q)
    asks = _load(q, batch, head, rows, RULE.d, RULE.d_padded, RULE.factor)
    slopes_out = _load(d_out, batch, head, rows, RULE.dv, RULE.dv_padded, RULE.factor)
    to_queries = tl.zeros([RULE.block_q, RULE.d_padded], RULE.sums)
    list_at = batch * tiles.batch + tile
    for step in range(tl.load(tiles.counts + list_at)):
        k_tile = tl.load(tiles.indices + list_at.to(tl.int64) * tiles.width + step)
        k_rows = k_tile * RULE.block_k + tl.arange(0, RULE.block_k)
        keys = _load(k, batch, head // RULE.group, k_rows, RULE.d, RULE.d_padded, RULE.factor)
        values = _load(v, batch, head // RULE.group, k_rows, RULE.dv, RULE.dv_padded, RULE.factor)
        _, slopes = _weights_and_slopes(
            asks, keys, values, slopes_out, log_sum_exp, delta, q_places, k_places,
            batch, head, n_heads, rows, k_rows, RULE,
        )  # fmt: skip
        to_queries += _dot(slopes, keys, RULE)
    _store(d_q, to_queries * RULE.scale, batch, head, rows, RULE.d, RULE.d_padded)
