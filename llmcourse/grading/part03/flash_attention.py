"""Exercise 3.13 FlashAttention, forward, for one head."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from llmcourse.grading.inputs import Draw, narrow
from llmcourse.grading.part01.attention import attention_loops
from llmcourse.grading.records import Answer, Arguments, Exercise, Property, WrongAnswer

Result = tuple[Tensor, Tensor]


def _flash_inputs(draw: Draw, size: int) -> Arguments:
    t, s, d, block = [
        (1, 2, 1, 1),
        (2, 3, 2, 2),
        (3, 5, 2, 2),
        (4, 4, 3, 4),
        (4, 7, 3, 3),
        (7, 11, 4, 3),
    ][size]
    q, k = draw.normal(t, d), draw.normal(s, d)
    if size == 4:  # exp() of such scores by themselves is infinite
        q, k = 40.0 * q, 40.0 * k
    if d == 1:  # a later key with a larger score
        q, k = q.abs() + 1.0, torch.tensor([[-0.5], [1.0]], dtype=torch.float64)
    # One tile for all keys is allowed where that is the size of a tile.
    return q if block >= s else narrow(q, s), k, draw.normal(s, d), block


def _flash_oracle(q: Tensor, k: Tensor, v: Tensor, block: int) -> Result:
    offset = len(k) - len(q)
    rows = attention_loops(q, k, v, lambda t, s: s <= offset + t)
    sizes = []
    for t, query in enumerate(q.tolist()):
        scores = [
            math.fsum(a * b for a, b in zip(query, key)) / math.sqrt(len(query))
            for key in k.tolist()[: offset + t + 1]
        ]
        top = max(scores)
        sizes.append(top + math.log(math.fsum(math.exp(score - top) for score in scores)))
    return torch.tensor(rows, dtype=torch.float64), torch.tensor(sizes, dtype=torch.float64)


def _flash(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    block: int,
    *,
    rescale_out: bool = True,
    rescale_sum: bool = True,
    offset: int | None = None,
    masked: bool = True,
    length: int | None = None,
    running: bool = True,
    scale: float | None = None,
    divide_always: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """The tiled loop, with the slips that people make; returns output, maximum and sum."""
    t, s = len(q), len(k)
    offset = s - t if offset is None else offset
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    top = torch.full((t, 1), -math.inf, dtype=q.dtype)
    total, out = torch.zeros(t, 1, dtype=q.dtype), torch.zeros(t, v.shape[-1], dtype=q.dtype)
    place = torch.arange(t)[:, None] + offset
    for start in range(0, s if length is None else length, block):
        key, value = k[start : start + block], v[start : start + block]
        scores = q @ key.T * scale
        if masked:
            hidden = torch.arange(start, start + len(key))[None, :] > place
            scores = scores.masked_fill(hidden, -math.inf)
        new = torch.maximum(top, scores.amax(dim=-1, keepdim=True))
        if not running:
            new = torch.zeros_like(top)
        powers = torch.exp(scores - new)
        shrink = torch.exp(top - new) if running else torch.ones_like(top)
        total = total * (shrink if rescale_sum else 1.0) + powers.sum(dim=-1, keepdim=True)
        out = out * (shrink if rescale_out else 1.0) + powers @ value
        if divide_always:
            out = out / total
        top = new
    return out / total, top, total


def _lse(top: Tensor, total: Tensor) -> Tensor:
    return (top + total.log())[:, 0]


def _flash_output_kept(q: Tensor, k: Tensor, v: Tensor, block: int) -> Result:
    out, top, total = _flash(q, k, v, block, rescale_out=False)
    return out, _lse(top, total)


def _flash_sum_kept(q: Tensor, k: Tensor, v: Tensor, block: int) -> Result:
    out, top, total = _flash(q, k, v, block, rescale_sum=False)
    return out, _lse(top, total)


def _flash_upper_left(q: Tensor, k: Tensor, v: Tensor, block: int) -> Result:
    out, top, total = _flash(q, k, v, block, offset=0)
    return out, _lse(top, total)


def _flash_unmasked(q: Tensor, k: Tensor, v: Tensor, block: int) -> Result:
    out, top, total = _flash(q, k, v, block, masked=False)
    return out, _lse(top, total)


def _flash_last_tile_lost(q: Tensor, k: Tensor, v: Tensor, block: int) -> Result:
    out, top, total = _flash(q, k, v, block, length=len(k) // block * block)
    return out, _lse(top, total)


def _flash_no_maximum(q: Tensor, k: Tensor, v: Tensor, block: int) -> Result:
    out, top, total = _flash(q, k, v, block, running=False)
    return out, _lse(top, total)


def _flash_unscaled(q: Tensor, k: Tensor, v: Tensor, block: int) -> Result:
    out, top, total = _flash(q, k, v, block, scale=1.0)
    return out, _lse(top, total)


def _flash_divided_always(q: Tensor, k: Tensor, v: Tensor, block: int) -> Result:
    out, top, total = _flash(q, k, v, block, divide_always=True)
    return out * total, _lse(top, total)


def _flash_undivided(q: Tensor, k: Tensor, v: Tensor, block: int) -> Result:
    out, top, total = _flash(q, k, v, block)
    return out * total, _lse(top, total)


def _flash_log_of_sum(q: Tensor, k: Tensor, v: Tensor, block: int) -> Result:
    out, _, total = _flash(q, k, v, block)
    return out, total.log()[:, 0]


def _flash_sum_for_lse(q: Tensor, k: Tensor, v: Tensor, block: int) -> Result:
    out, top, total = _flash(q, k, v, block)
    return out, (top + total)[:, 0]


def _flash_tiles_averaged(q: Tensor, k: Tensor, v: Tensor, block: int) -> Result:
    _, top, total = _flash(q, k, v, block)
    offset, parts = len(k) - len(q), []
    for start in range(0, len(k), block):
        scores = q @ k[start : start + block].T / math.sqrt(q.shape[-1])
        place = torch.arange(len(q))[:, None] + offset
        hidden = torch.arange(start, start + scores.shape[1])[None, :] > place
        powers = torch.where(hidden, 0.0, (scores - scores.amax(dim=-1, keepdim=True)).exp())
        sums = powers.sum(dim=-1, keepdim=True)
        weights = powers / torch.where(sums > 0, sums, 1.0)
        parts.append(weights @ v[start : start + block])
    seen = (torch.arange(len(q)) + offset) // block + 1  # tiles in which a query sees anything
    return sum(parts) / seen[:, None], _lse(top, total)


def _flash_whole_table(q: Tensor, k: Tensor, v: Tensor, block: int) -> Result:
    scores = q @ k.T / math.sqrt(q.shape[-1])
    visible = torch.ones(len(q), len(k), dtype=torch.bool).tril(len(k) - len(q))
    scores = scores.masked_fill(~visible, -math.inf)
    return torch.softmax(scores, dim=-1) @ v, scores.logsumexp(dim=-1)


def _flash_tile_maximum(q: Tensor, k: Tensor, v: Tensor, block: int) -> Result:
    t, s = q.shape[0], k.shape[0]
    top = torch.full((t, 1), -1e9, dtype=q.dtype)
    total, out = torch.zeros(t, 1, dtype=q.dtype), torch.zeros(t, v.shape[-1], dtype=q.dtype)
    place = torch.arange(s - t, s)[:, None]
    for start in range(0, s, block):
        key, value = k[start : start + block], v[start : start + block]
        scores = q @ key.T / math.sqrt(q.shape[-1])
        hidden = torch.arange(start, start + len(key))[None, :] > place
        scores = scores.masked_fill(hidden, -math.inf)
        new = scores.amax(dim=-1, keepdim=True)
        shrink, powers = torch.exp(top - new), torch.exp(scores - new)
        total = total * shrink + powers.sum(dim=-1, keepdim=True)
        out = out * shrink + powers @ value
        top = new
    return out / total, _lse(top, total)


def _flash_query_tiles(q: Tensor, k: Tensor, v: Tensor, block: int) -> Result:
    # Tiles of queries outside, tiles of keys inside, tiles of the future never touched; normalised
    # outputs and log-sum-exps are merged, as FlashAttention 2 does across workers.
    offset, outs, sizes = len(k) - len(q), [], []
    for low in range(0, len(q), block):
        query = q[low : low + block]
        place = torch.arange(low, low + len(query))[:, None] + offset
        out = torch.zeros(len(query), v.shape[-1], dtype=q.dtype)
        size = torch.full((len(query), 1), -math.inf, dtype=q.dtype)
        for start in range(0, int(place[-1]) + 1, block):
            key, value = k[start : start + block], v[start : start + block]
            scores = query @ key.T / math.sqrt(q.shape[-1])
            column = torch.arange(start, start + len(key))[None, :]
            scores = scores.masked_fill(column > place, -math.inf)
            both = torch.logaddexp(size, scores.logsumexp(dim=-1, keepdim=True))
            out = out * (size - both).exp() + (scores - both).exp() @ value
            size = both
        outs.append(out)
        sizes.append(size[:, 0])
    return torch.cat(outs), torch.cat(sizes)


def _average_of_ones(got: Result, arguments: Arguments, call: Answer) -> str | None:
    q, k, v, block = arguments
    out = call(q, k, torch.ones_like(v), block)[0]
    if not float((out - 1).abs().max()) < 1e-6:
        return "with all values equal to 1 every output must be 1: the weights must sum to 1"
    return None


def _tiles_do_not_matter(got: Result, arguments: Arguments, call: Answer) -> str | None:
    q, k, v, block = arguments
    for other in (1, 2):
        for name, one, two in zip(("output", "log-sum-exp"), got, call(q, k, v, other)):
            if not float((one - two).abs().max()) < 1e-6:
                return f"with tiles of {other} instead of {block} keys the {name} is another"
    return None


def _no_future(got: Result, arguments: Arguments, call: Answer) -> str | None:
    q, k, v, block = arguments
    if len(q) < 2:
        return None
    changed = v.clone()
    changed[-1] += 100.0
    if float((call(q, k, changed, block)[0] - got[0])[:-1].abs().max()) > 1e-6:
        return "changing the value at the last position changed the outputs before it"
    return None


FLASH_ATTENTION = Exercise(
    id="3.13",
    title="FlashAttention, tile by tile",
    name="flash_attention",
    signature=(
        "flash_attention(q: Tensor, k: Tensor, v: Tensor, block: int) -> tuple[Tensor, Tensor]"
    ),
    taught="Part 3, FlashAttention",
    difficulty=5,
    minutes=30,
    make_inputs=_flash_inputs,
    oracle=_flash_oracle,
    statement="causal attention of the last T of S positions, and the log-sum-exp of its scores",
    properties=(
        Property("no query sees the future", _no_future),
        Property("the output is an average of the values", _average_of_ones),
        Property("the size of the tiles does not matter", _tiles_do_not_matter),
    ),
    forbidden=(
        "torch.nn.functional.scaled_dot_product_attention",
        "torch.nn.functional.multi_head_attention_forward",
    ),
    wrong_answers=(
        WrongAnswer(
            "output not rescaled",
            _flash_output_kept,
            "When a tile brings a larger maximum the sum is rescaled and the output so far is not. "
            "Multiply both by exp(old maximum - new maximum).",
        ),
        WrongAnswer(
            "sum not rescaled",
            _flash_sum_kept,
            "When a tile brings a larger maximum the output is rescaled and the sum so far is not. "
            "Multiply both by exp(old maximum - new maximum).",
        ),
        WrongAnswer(
            "the whole table",
            _flash_whole_table,
            "The scores of all keys are there at once: T × S numbers, which is what FlashAttention "
            "does without. Take k[start : start + block] alone, and keep only maximum, sum and "
            "output between the tiles.",
        ),
        WrongAnswer(
            "the maximum of the tile alone",
            _flash_tile_maximum,
            "The new maximum is that of the tile alone. It must be the larger of the old one and "
            "the tile's; in a tile hidden from a query altogether, -inf - -inf is NaN.",
        ),
        WrongAnswer(
            "each tile a softmax of its own",
            _flash_tiles_averaged,
            "Each tile has a softmax of its own and the results are averaged, so every tile counts "
            "the same. A tile weighs as much as the sum of its exponentials.",
        ),
        WrongAnswer(
            "divided in every tile",
            _flash_divided_always,
            "The output is divided by the sum in every tile, and the next tile adds to what is "
            "normalised already. Divide once, after the last tile.",
        ),
        WrongAnswer(
            "never divided",
            _flash_undivided,
            "The output is never divided by the sum of the exponentials. Do it once, at the end.",
        ),
        WrongAnswer(
            "last tile lost",
            _flash_last_tile_lost,
            "The last tile is left out when it is not full: S // block tiles miss S % block keys. "
            "range(0, S, block) reaches them all.",
        ),
        WrongAnswer(
            "mask aligned to the upper left",
            _flash_upper_left,
            "Query i is taken to stand at position i. The queries are the last T of S positions: "
            "query i sees keys up to S - T + i.",
        ),
        WrongAnswer(
            "not causal",
            _flash_unmasked,
            "Nothing is masked. Within a tile that crosses the diagonal, keys after S - T + i are "
            "hidden from query i: set their scores to -inf.",
        ),
        WrongAnswer(
            "no running maximum",
            _flash_no_maximum,
            "The exponentials are taken of the scores themselves and overflow when these are "
            "large. Subtract the running maximum, and rescale when it changes.",
        ),
        WrongAnswer(
            "unscaled",
            _flash_unscaled,
            "The scores are not divided by sqrt(D).",
        ),
        WrongAnswer(
            "log-sum-exp without its maximum",
            _flash_log_of_sum,
            "The output is right. The log-sum-exp lacks the maximum that was subtracted: "
            "maximum + log(sum).",
        ),
        WrongAnswer(
            "log forgotten",
            _flash_sum_for_lse,
            "The output is right. The log-sum-exp is maximum + log(sum); the logarithm is missing.",
        ),
    ),
    alternatives=(_flash_query_tiles,),
    examples=(
        (
            narrow(torch.tensor([[1.0]], dtype=torch.float64), 2),
            torch.tensor([[0.0], [math.log(3.0)]], dtype=torch.float64),
            torch.tensor([[8.0], [4.0]], dtype=torch.float64),
            1,
        ),
    ),
)
