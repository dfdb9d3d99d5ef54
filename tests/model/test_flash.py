"""FlashAttention: outputs, gradients and memory against naive attention in float64."""

from __future__ import annotations

import math

import pytest
import torch

from llmcourse.model import flash
from llmcourse.model.flash import flash_attention, flash_forward, multiply
from llmcourse.model.flash_tiles import blocks
from llmcourse.model.masks import (
    NOWHERE,
    Visibility,
    positions_in_documents,
    positions_of,
)

# Small enough that every case below has many tiles, and a last one that is not full.
TILE = (16, 7)
SOME = torch.tensor
PADDED = positions_of(SOME([[False] * 5 + [True] * 28, [True] * 20 + [False] * 13]))  # (2, 33)
PACKED = SOME([[0] * 9 + [1] * 1 + [2] * 23, [4] * 33])  # (2, 33)
PLACES = positions_in_documents(PACKED)
ROLLED = torch.arange(40).roll(13).repeat(2, 1)  # a cache that holds its keys in another order
ROLLED[:, 5] = NOWHERE  # and one slot that holds nothing
SCRAMBLED = torch.randperm(40, generator=torch.Generator().manual_seed(3))

# name: (B, H, G, D, Dv, softcap, visibility)
CASES = {
    "one of everything": (1, 1, 1, 1, 1, None, Visibility(1, 1)),
    "causal": (2, 3, 3, 8, 8, None, Visibility(33, 33)),
    "causal, exactly two blocks": (1, 1, 1, 4, 4, None, Visibility(32, 32)),
    "one query": (2, 2, 2, 5, 5, None, Visibility(1, 19)),
    "more keys than queries": (1, 2, 2, 5, 3, None, Visibility(21, 50)),
    "not causal": (1, 2, 2, 4, 6, None, Visibility(19, 11, causal=False)),
    "grouped": (2, 6, 2, 8, 8, None, Visibility(33, 40)),
    "one key head": (1, 5, 1, 8, 4, None, Visibility(29, 29)),
    "more heads than rows": (1, 20, 1, 3, 3, None, Visibility(7, 7)),
    "window of one": (1, 2, 1, 4, 4, None, Visibility(33, 33, window=1)),
    "window": (1, 2, 2, 4, 4, None, Visibility(60, 60, window=9)),
    "window and sinks": (2, 2, 1, 4, 4, None, Visibility(60, 64, window=9, sinks=3)),
    "window longer than the text": (1, 1, 1, 4, 4, None, Visibility(20, 20, window=99, sinks=2)),
    "softcap": (1, 4, 2, 8, 5, 1.5, Visibility(33, 33)),
    "softcap and window": (1, 2, 1, 8, 8, 1.5, Visibility(40, 40, window=5, sinks=1)),
    "ragged": (2, 4, 2, 4, 4, None, Visibility(33, 33, q_positions=PADDED, k_positions=PADDED)),
    "ragged, window, softcap": (
        *(2, 2, 1, 4, 4, 2.0),
        Visibility(33, 33, window=4, sinks=2, q_positions=PADDED, k_positions=PADDED),
    ),
    "ragged, not causal": (
        *(2, 2, 1, 4, 4, None),
        Visibility(33, 33, causal=False, q_positions=PADDED, k_positions=PADDED),
    ),
    "nobody sees anything": (
        *(1, 2, 1, 4, 4, 2.0),
        Visibility(20, 20, q_positions=torch.full((20,), NOWHERE)),
    ),
    "no key holds a token": (
        *(1, 2, 1, 4, 4, None),
        Visibility(20, 20, k_positions=torch.full((20,), NOWHERE)),
    ),
    "rolling cache": (
        *(2, 4, 2, 4, 4, None),
        Visibility(9, 40, window=20, sinks=4, q_positions=torch.arange(31, 40), k_positions=ROLLED),
    ),
    "wild order": (
        *(1, 1, 1, 4, 4, None),
        Visibility(40, 40, window=12, q_positions=SCRAMBLED, k_positions=SCRAMBLED.flip(0)),
    ),
    "packed": (
        *(2, 4, 2, 4, 4, None),
        Visibility(
            *(33, 33),
            q_positions=PLACES,
            k_positions=PLACES,
            q_documents=PACKED,
            k_documents=PACKED,
        ),
    ),
    "packed, positions of the whole row": (
        *(2, 2, 2, 4, 4, None),
        Visibility(33, 33, q_documents=PACKED, k_documents=PACKED),
    ),
    "packed, not causal": (
        *(2, 2, 2, 4, 4, None),
        Visibility(33, 33, causal=False, q_documents=PACKED, k_documents=PACKED),
    ),
    "packed, window, sinks, softcap": (
        *(2, 4, 1, 4, 6, 3.0),
        Visibility(
            *(33, 33),
            window=5,
            sinks=2,
            q_positions=PLACES,
            k_positions=PLACES,
            q_documents=PACKED,
            k_documents=PACKED,
        ),
    ),
}


def inputs(b, h, g, t, s, d, d_v, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = (b, h, t, d), (b, g, s, d), (b, g, s, d_v)
    return [
        (torch.randn(x, generator=generator, dtype=torch.float64) * 2).to(dtype).requires_grad_()
        for x in shapes
    ]


def naive(q, k, v, visibility, scale, softcap=None):
    """The equation over the whole table, with keys repeated; also its log-sum-exp."""
    repeats = q.shape[1] // k.shape[1]
    k, v = (x.repeat_interleave(repeats, dim=1) for x in (k, v))
    scores = q @ k.mT * scale  # (B, H, T, S)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    mask = visibility.table()
    if mask is None:
        return scores.softmax(dim=-1) @ v, scores.logsumexp(dim=-1)
    log_sums = scores.masked_fill(~mask, -math.inf).logsumexp(dim=-1)
    weights = scores.masked_fill(~mask, torch.finfo(scores.dtype).min).softmax(dim=-1)
    return weights.masked_fill(~mask, 0.0) @ v, log_sums


def gradients(output, *tensors):
    generator = torch.Generator().manual_seed(9)
    slope = torch.randn(output.shape, generator=generator, dtype=torch.float64).to(output.dtype)
    return torch.autograd.grad(output, tensors, slope)


def worst(a, b):
    return (a.double() - b.double()).abs().max().item()


@pytest.mark.parametrize("name", CASES)
def test_equals_naive_attention_in_float64(name):
    b, h, g, d, d_v, softcap, visibility = CASES[name]
    q, k, v = inputs(b, h, g, visibility.t, visibility.s, d, d_v)
    scale = 1 / math.sqrt(d)
    expected, log_sums = naive(q, k, v, visibility, scale, softcap)
    out = flash_attention(q, k, v, visibility, scale=scale, softcap=softcap, tile=TILE)
    assert out.shape == expected.shape and out.dtype == q.dtype
    assert worst(out, expected) < 1e-12
    for mine, theirs in zip(gradients(out, q, k, v), gradients(expected, q, k, v)):
        assert mine.shape == theirs.shape
        assert worst(mine, theirs) < 1e-11
    with torch.no_grad():
        again, sums = flash_forward(q, k, v, visibility, scale=scale, softcap=softcap, tile=TILE)
    assert torch.equal(again, out)
    torch.testing.assert_close(sums, log_sums, rtol=0, atol=1e-12)  # -inf at the same places


@pytest.mark.parametrize("tile", [(1, 1), (3, 5), (16, 1024), (1024, 4), (512, 1024)])
def test_the_size_of_a_tile_changes_nothing(tile):
    visibility = Visibility(37, 45, window=20, sinks=2)
    q, k, v = inputs(1, 4, 2, 37, 45, 4, 4)
    expected, _ = naive(q, k, v, visibility, 0.5)
    out = flash_attention(q, k, v, visibility, scale=0.5, tile=tile)
    assert worst(out, expected) < 1e-12
    for mine, theirs in zip(gradients(out, q, k, v), gradients(expected, q, k, v)):
        assert worst(mine, theirs) < 1e-11


@pytest.mark.parametrize("t, s, window, softcap", [(5, 5, None, None), (4, 7, 3, 1.0)])
def test_gradcheck(t, s, window, softcap):
    tensors = inputs(1, 2, 1, t, s, 3, 2)
    visibility = Visibility(t, s, window=window)

    def attention(q, k, v):
        return flash_attention(q, k, v, visibility, scale=0.6, softcap=softcap, tile=(4, 3))

    assert torch.autograd.gradcheck(attention, tensors)


def test_second_derivatives_are_refused_rather_than_wrong():
    q, k, v = inputs(1, 1, 1, 4, 4, 2, 2)
    out = flash_attention(q, k, v, Visibility(4, 4), scale=1.0)
    (slope,) = torch.autograd.grad(out.square().sum(), q, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        slope.sum().backward()


def test_who_sees_nothing_gets_zero_and_passes_back_zero():
    visibility = Visibility(33, 33, q_positions=PADDED, k_positions=PADDED)
    q, k, v = inputs(2, 4, 2, 33, 33, 4, 4)
    out = flash_attention(q, k, v, visibility, scale=0.5, tile=TILE)
    slopes = gradients(out, q, k, v)
    blind = PADDED == NOWHERE  # (B, T)
    assert (out.transpose(1, 2)[blind] == 0).all()
    for slope in slopes:  # neither a query nor a key of padding moves
        assert (slope.transpose(1, 2)[blind] == 0).all()
        assert slope.isfinite().all()


@pytest.mark.parametrize(
    "t, s, d, softcap", [(700, 700, 64, None), (300, 1500, 32, None), (600, 600, 64, 3.0)]
)
def test_float32_at_sizes_where_the_fast_product_is_used(t, s, d, softcap):
    visibility = Visibility(t, s, window=900, sinks=4)
    exact = inputs(1, 4, 2, t, s, d, d)
    rough = [x.detach().float().requires_grad_() for x in exact]
    scale = 1 / math.sqrt(d)
    expected, _ = naive(*exact, visibility, scale, softcap)
    plain, _ = naive(*rough, visibility, scale, softcap)
    out = flash_attention(*rough, visibility, scale=scale, softcap=softcap)
    assert out.dtype == torch.float32
    assert worst(out, expected) < 4 * worst(plain, expected) + 1e-6
    truth, simple = gradients(expected, *exact), gradients(plain, *rough)
    for mine, theirs, true in zip(gradients(out, *rough), simple, truth):
        # Not only close: about as close as float32 gets by the equation itself.
        assert worst(mine, true) < 4 * worst(theirs, true) + 1e-6


@pytest.mark.parametrize("dtype, digits", [(torch.bfloat16, 2**-8), (torch.float16, 2**-11)])
def test_half_precision_rounds_inputs_and_outputs_only(dtype, digits):
    visibility = Visibility(300, 300)
    q, k, v = inputs(1, 4, 2, 300, 300, 16, 16, dtype)
    exact = [x.detach().double().requires_grad_() for x in (q, k, v)]
    out, log_sums = flash_forward(q, k, v, visibility, scale=0.25, tile=TILE)
    assert out.dtype == dtype and log_sums.dtype == torch.float32
    expected, sums = naive(*exact, visibility, 0.25)
    assert worst(log_sums, sums) < 1e-5
    torch.testing.assert_close(out.double(), expected, rtol=digits, atol=1e-6)
    out = flash_attention(q, k, v, visibility, scale=0.25, tile=TILE)
    for mine, true in zip(gradients(out, q, k, v), gradients(expected, *exact)):
        assert mine.dtype == dtype
        assert worst(mine, true) < 3 * digits * true.abs().max().item()


def test_scores_far_beyond_the_range_of_exp():
    q, k, v = inputs(1, 1, 1, 40, 40, 4, 4)
    visibility = Visibility(40, 40)
    expected, _ = naive(q, k, v, visibility, 1000.0)
    out = flash_attention(q, k, v, visibility, scale=1000.0, tile=TILE)
    assert out.isfinite().all() and worst(out, expected) < 1e-9
    assert all(x.isfinite().all() for x in gradients(out, q, k, v))


def test_inputs_may_be_views_and_are_left_alone():
    b, t, h, g, d = 2, 33, 4, 2, 8
    joined = torch.randn(b, t, (h + 2 * g) * d, generator=torch.Generator().manual_seed(1))
    q, k, v = (
        x.unflatten(-1, (-1, d)).transpose(1, 2)  # (B, T, H·D) -> (B, H, T, D)
        for x in joined.split([h * d, g * d, g * d], dim=-1)
    )
    before, visibility = joined.clone(), Visibility(t, t)
    out = flash_attention(q, k, v, visibility, scale=0.3, tile=TILE)
    dense = flash_attention(*(x.contiguous() for x in (q, k, v)), visibility, scale=0.3, tile=TILE)
    assert torch.equal(out, dense)
    assert torch.equal(joined, before)
    # A sum's gradient is one number expanded over the whole shape: nothing may write into it.
    leaf = q.detach().requires_grad_()
    flash_attention(leaf, k, v, visibility, scale=0.3, tile=TILE).sum().backward()
    assert leaf.grad.isfinite().all()


def test_a_gradient_is_only_made_of_what_needs_one():
    q, k, v = inputs(1, 2, 1, 9, 9, 4, 4)
    q.requires_grad_(False)
    flash_attention(q, k, v, Visibility(9, 9), scale=0.5).sum().backward()
    assert q.grad is None and k.grad is not None and v.grad is not None


def shares(visibility, n, width=64):
    """Scores made, and scores made under a mask, as shares of the T × S table."""
    like, made, masked = torch.zeros(()), 0, 0
    for batch, block, tiles in blocks(visibility, 1, n, width, like):
        for tile in tiles:
            size = (block.stop - block.start) * (tile.stop - tile.start) * len(batch)
            made += size
            masked += size * (tile.bias is not None)
    return made / (visibility.t * visibility.s), masked / (visibility.t * visibility.s)


def test_what_nobody_sees_is_not_computed():
    assert shares(Visibility(512, 512, causal=False), 64) == (1.0, 0.0)
    # 8 blocks: 28 tiles below the diagonal without a mask, 8 on it with one, of 64.
    assert shares(Visibility(512, 512), 64) == (36 / 64, 8 / 64)
    # A window of 65 is one tile before the diagonal; sinks cost their own width only.
    made, _ = shares(Visibility(512, 512, window=65), 64)
    assert made == 15 / 64
    made, _ = shares(Visibility(512, 512, window=65, sinks=4), 64)
    assert made == 15 / 64 + 6 * 64 * 4 / 512**2
    documents = (torch.arange(512) // 128)[None]
    packed = Visibility(512, 512, q_documents=documents, k_documents=documents)
    assert shares(packed, 64) == (12 / 64, 8 / 64)
    left = torch.arange(512)[None] - 256  # half of the row is padding, on the left
    padded = Visibility(512, 512, q_positions=left.clamp(min=-1), k_positions=left.clamp(min=-1))
    assert shares(padded, 64) == (10 / 64, 4 / 64)


def test_tiles_cover_every_visible_pair_once_and_mask_the_rest():
    for name, (b, *_, visibility) in CASES.items():
        table = torch.zeros(b, visibility.t, visibility.s, dtype=torch.int64)
        for batch, block, tiles in blocks(visibility, b, 5, 7, torch.zeros(())):
            for tile in tiles:
                assert 0 < tile.stop - tile.start <= 7
                pairs = 1 if tile.bias is None else (tile.bias == 0).long()
                table[batch.start : batch.stop, block, tile.start : tile.stop] += pairs
        expected = visibility.table()
        expected = torch.ones(()) if expected is None else expected
        expected = expected[:, 0] if expected.ndim == 4 else expected  # (B, 1, T, S) -> (B, T, S)
        assert torch.equal(table, expected.long().expand_as(table)), name


def test_the_fast_product_equals_the_plain_one(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(300, 300, generator=generator) for _ in range(2))
    bias = torch.randn(300, generator=generator)
    for left, right in ((a, b), (a, b.mT), (a[:, :200], b[:200, 50:])):
        assert left.numel() * right.shape[1] > 2_000_000  # large enough for oneDNN
        assert worst(
            multiply(left, right, tanh=True), torch.tanh(left.double() @ right.double())
        ) < (1e-4)
        for extra in (None, bias[: right.shape[1]]):
            exact = left.double() @ right.double() + (0 if extra is None else extra.double())
            assert worst(multiply(left, right, extra), exact) < 1e-4
            with monkeypatch.context() as patch:
                patch.setattr(flash, "_LINEAR", None)
                assert worst(multiply(left, right, extra), exact) < 1e-4


def test_extra_memory_is_linear():
    """The largest tensor the algorithm makes does not grow with T; all it keeps grows with T."""
    sizes = {}
    for t in (1024, 2048):
        q, k, v = inputs(1, 1, 1, t, t, 16, 16, torch.float32)
        with torch.profiler.profile(
            activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
        ) as profile:
            flash_attention(q, k, v, Visibility(t, t), scale=0.25, tile=(128, 256)).sum().backward()
        events = profile.profiler.kineto_results.events()
        grabs = [e.nbytes() for e in events if e.name() == "[memory]"]
        level = peak = 0
        for grab in grabs:
            level += grab
            peak = max(peak, level)
        sizes[t] = peak
    assert sizes[2048] < 2.2 * sizes[1024]
    assert sizes[2048] < 2048 * 2048 * 4 / 4  # a quarter of one table of scores


@pytest.mark.parametrize(
    "shapes, message",
    [
        (((1, 2, 4), (1, 2, 4, 8), (1, 2, 4, 8)), "batch, heads, time, width"),
        (((1, 2, 4, 8), (1, 2, 4, 6), (1, 2, 4, 8)), "width of q"),
        (((2, 2, 4, 8), (1, 2, 4, 8), (1, 2, 4, 8)), "batch"),
        (((1, 2, 4, 8), (1, 2, 4, 8), (1, 1, 4, 8)), "B, G, S, D"),
        (((1, 3, 4, 8), (1, 2, 4, 8), (1, 2, 4, 8)), "3 query heads cannot share 2"),
        (((1, 2, 5, 8), (1, 2, 4, 8), (1, 2, 4, 8)), "visibility is for 4 queries"),
        (((1, 2, 4, 8), (1, 2, 6, 8), (1, 2, 6, 8)), "q and k have 4 and 6"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(shapes, message):
    with pytest.raises(ValueError, match=message):
        flash_attention(*(torch.zeros(x) for x in shapes), Visibility(4, 4), scale=1.0)


def test_other_bad_input_is_refused():
    q, k, v = (torch.zeros(1, 2, 4, 8) for _ in range(3))
    visibility = Visibility(4, 4)
    for softcap in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="softcap"):
            flash_attention(q, k, v, visibility, scale=1.0, softcap=softcap)
    with pytest.raises(ValueError, match="one float dtype"):
        flash_attention(q, k, v.double(), visibility, scale=1.0)
    with pytest.raises(ValueError, match="one float dtype"):
        flash_attention(q.long(), k.long(), v.long(), visibility, scale=1.0)
    with pytest.raises(ValueError, match=r"tile=\(0, 4\)"):
        flash_attention(q, k, v, visibility, scale=1.0, tile=(0, 4))
    ragged = Visibility(4, 4, q_positions=torch.zeros(3, 4, dtype=torch.int64))
    with pytest.raises(ValueError, match="3 rows for a batch of 1"):
        flash_attention(q, k, v, ragged, scale=1.0)
