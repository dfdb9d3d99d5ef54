"""FlexAttention: the same outputs as a table of scores in float64, and plain refusals."""

from __future__ import annotations

import math
import warnings

import pytest
import torch

from llmcourse.model.flex import flex_attention, mask_mod
from llmcourse.model.masks import Visibility, positions_in_documents, positions_of

# B, H, G, T, S, D, Dv: one of everything, fewer queries than keys, shared heads, more than a block.
SHAPES = [
    (1, 1, 1, 1, 1, 1, 1),
    (2, 3, 3, 5, 13, 24, 16),
    (2, 6, 2, 5, 13, 24, 16),
    (1, 2, 1, 33, 33, 5, 7),
    (1, 2, 2, 130, 139, 8, 8),
]


def tensors(b, h, g, t, s, d, dv, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = ((b, h, t, d), (b, g, s, d), (b, g, s, dv))
    return [torch.randn(x, dtype=torch.float64, generator=generator).to(dtype) for x in shapes]


def ragged():
    """Three rows of 9 keys: full, padded on the left, padded on the right; the last 6 ask."""
    real = torch.ones(3, 9, dtype=torch.bool)
    real[1, :5] = False
    real[2, 7:] = False
    k_positions = positions_of(real)
    return {"q_positions": k_positions[:, 3:], "k_positions": k_positions}


def packed():
    """Two rows of three documents."""
    documents = torch.tensor([[0] * 4 + [1] * 3 + [2] * 2, [3] * 1 + [4] * 7 + [5] * 1])
    positions = positions_in_documents(documents)
    return {
        "q_positions": positions[:, 3:],
        "k_positions": positions,
        "q_documents": documents[:, 3:],
        "k_documents": documents,
    }


@pytest.mark.parametrize(
    "shape, rule",
    [
        *((shape, {}) for shape in SHAPES),
        (SHAPES[2], {"causal": False}),
        (SHAPES[2], {"window": 3}),
        (SHAPES[4], {"window": 3, "sinks": 2}),
    ],
)
def test_equals_the_table(shape, rule, by_table):
    q, k, v = tensors(*shape)
    visibility = Visibility(shape[3], shape[4], **rule)
    out = flex_attention(q, k, v, visibility, scale=0.3)
    torch.testing.assert_close(
        out.double(), by_table(q, k, v, visibility, 0.3), rtol=1e-5, atol=3e-6
    )


@pytest.mark.parametrize("rule", [{}, {"window": 2, "sinks": 1}])
@pytest.mark.parametrize("layout", [ragged, packed])
def test_positions_and_documents(layout, rule, by_table):
    places = layout()
    q, k, v = tensors(len(places["k_positions"]), 4, 2, 6, 9, 6, 5, torch.float64)
    visibility = Visibility(6, 9, **rule, **places)
    out = flex_attention(q, k, v, visibility, scale=0.4)
    torch.testing.assert_close(out, by_table(q, k, v, visibility, 0.4), rtol=1e-12, atol=1e-12)


def test_shared_explicit_positions(by_table):
    # As in a rolling buffer: the keys in another order than the text, one slot still empty.
    visibility = Visibility(
        2, 5, q_positions=torch.tensor([3, 4]), k_positions=torch.tensor([4, -1, 1, 2, 3]), window=3
    )
    q, k, v = tensors(2, 2, 1, 2, 5, 4, 4, torch.float64)
    out = flex_attention(q, k, v, visibility, scale=0.5)
    torch.testing.assert_close(out, by_table(q, k, v, visibility, 0.5), rtol=1e-12, atol=1e-12)


def test_what_sees_nothing_is_zero():
    places = ragged()
    q, k, v = tensors(3, 2, 2, 6, 9, 4, 4)
    out = flex_attention(q, k, v, Visibility(6, 9, **places), scale=0.5)
    empty = places["q_positions"] < 0  # (B, T)
    assert empty.sum() == 4
    assert torch.equal(out.transpose(1, 2)[empty], torch.zeros(4, 2, 4))


@pytest.mark.parametrize("softcap", [0.5, 20.0])
def test_softcap(softcap, by_table):
    q, k, v = tensors(1, 4, 2, 5, 13, 24, 16, torch.float64)
    visibility = Visibility(5, 13, window=4)
    out = flex_attention(q, k, v, visibility, scale=1.0, softcap=softcap)
    expected = by_table(q, k, v, visibility, 1.0, softcap)
    torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-12)
    assert (out - by_table(q, k, v, visibility, 1.0)).abs().max() > 1e-3


@pytest.mark.parametrize("dtype, tolerance", [(torch.bfloat16, 3e-2), (torch.float16, 4e-3)])
def test_half_precision(dtype, tolerance, by_table):
    q, k, v = tensors(1, 2, 1, 7, 12, 16, 16, dtype)
    visibility = Visibility(7, 12)
    out = flex_attention(q, k, v, visibility, scale=0.25)
    assert out.dtype == dtype
    assert (out.double() - by_table(q, k, v, visibility, 0.25)).abs().max() < tolerance


def test_many_shapes_and_rules_in_one_process(by_table):
    # torch recompiles for what it has not seen and gives up after some times.
    for n in range(1, 17):
        q, k, v = tensors(1, 2, 1, n, n + 2, 4, 4)
        visibility = Visibility(n, n + 2, window=n + 1, sinks=n % 3)
        out = flex_attention(q, k, v, visibility, scale=0.1 * n, softcap=float(n))
        expected = by_table(q, k, v, visibility, 0.1 * n, float(n))
        assert (out.double() - expected).abs().max() < 1e-5


def test_the_mask_is_made_once_and_goes_with_the_visibility():
    q, k, v = tensors(1, 1, 1, 4, 4, 4, 4)
    visibility = Visibility(4, 4)
    flex_attention(q, k, v, visibility, scale=0.5)
    (made,) = vars(visibility)["_flex_masks"].values()
    flex_attention(q, k, v, visibility, scale=0.5)
    assert list(vars(visibility)["_flex_masks"].values()) == [made]


def test_rule_number_by_number():
    visibility = Visibility(6, 9, window=2, sinks=1, **packed())
    rule, table = mask_mod(visibility, torch.device("cpu")), visibility.table()
    for b in range(2):
        for i in range(6):
            for j in range(9):
                numbers = (torch.tensor(x) for x in (b, 0, i, j))
                assert rule(*numbers).item() == table[b, 0, i, j].item(), (b, i, j)


def test_no_backward_on_a_cpu(by_table):
    q, k, v = tensors(1, 1, 1, 4, 4, 4, 4)
    v.requires_grad_()
    with pytest.raises(ValueError, match=r"no backward pass on cpu.*no_grad"):
        flex_attention(q, k, v, Visibility(4, 4), scale=0.5)
    with torch.no_grad():
        out = flex_attention(q, k, v, Visibility(4, 4), scale=0.5)
    torch.testing.assert_close(
        out.double(), by_table(q, k, v.detach(), Visibility(4, 4), 0.5), rtol=1e-5, atol=1e-6
    )


def test_no_warning_is_left_to_the_reader():
    q, k, v = tensors(1, 1, 1, 4, 4, 4, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        out = flex_attention(q, k, v, Visibility(4, 4), scale=1 / math.sqrt(4))
    assert out.isfinite().all()


@pytest.mark.parametrize(
    "change, message",
    [
        ({"q": (2, 4, 3)}, "must be .batch, heads, time, width."),
        ({"k": (2, 2, 5, 7)}, "batch and width of q"),
        ({"v": (2, 2, 6, 8)}, "batch and width of q"),
        ({"k": (2, 3, 5, 8), "v": (2, 3, 5, 8)}, "4 query heads cannot share 3"),
        ({"q": (2, 4, 0, 8)}, "at least one entry"),
        ({"visibility": Visibility(4, 5)}, "for 4 queries and 5 keys, q and k have 3 and 5"),
        (
            {"visibility": Visibility(3, 5, k_positions=torch.zeros(3, 5, dtype=torch.int64))},
            "k_positions has 3 rows for a batch of 2",
        ),
        ({"dtype": torch.int64}, "one float dtype"),
        ({"dtype": torch.float8_e4m3fn}, "float8"),
        ({"softcap": 0.0}, "softcap=0.0 must be above 0"),
    ],
)
def test_bad_input(change, message):
    shapes = {"q": (2, 4, 3, 8), "k": (2, 2, 5, 8), "v": (2, 2, 5, 8)} | change
    dtype = change.get("dtype", torch.float32)
    q, k, v = (torch.zeros(shapes[name]).to(dtype) for name in "qkv")
    visibility = change.get("visibility", Visibility(3, 5))
    with pytest.raises(ValueError, match=message):
        flex_attention(q, k, v, visibility, scale=0.3, softcap=change.get("softcap"))


def test_mixed_dtypes():
    q, k, v = tensors(1, 1, 1, 4, 4, 4, 4)
    with pytest.raises(ValueError, match=r"torch.float32, torch.float32, torch.bfloat16"):
        flex_attention(q, k, v.bfloat16(), Visibility(4, 4), scale=0.5)
