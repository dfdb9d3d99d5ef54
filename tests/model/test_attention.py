"""Attention: both implementations against NumPy, a triple loop and numerical derivatives."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from llmcourse.model import ModelConfig
from llmcourse.model.attention import attend, attend_numpy, attention_weights
from llmcourse.model.masks import Visibility, causal_mask, padding_mask
from llmcourse.model.self_attention import SelfAttention, Sight, merge_heads, split_heads

IMPLEMENTATIONS = ["naive", "sdpa", "auto"]
# (B, H, T, S, D): one of everything, sizes that are no power of two, more keys than queries.
SHAPES = [(1, 1, 1, 1, 1), (2, 3, 5, 5, 4), (1, 2, 1, 9, 8), (2, 1, 3, 7, 5), (1, 2, 33, 70, 16)]


def qkv(b, h, t, s, d, dtype=torch.float64, gradients=False, seed=0):
    generator = torch.Generator().manual_seed(seed)
    q = torch.randn(b, h, t, d, dtype=dtype, generator=generator)
    k = torch.randn(b, h, s, d, dtype=dtype, generator=generator)
    v = torch.randn(b, h, s, d, dtype=dtype, generator=generator)
    return tuple(x.requires_grad_(gradients) for x in (q, k, v))


def by_loops(q, k, v, causal=True, padding=None):
    """The definition, one number at a time; a query that sees nothing gets zeros."""
    b, h, t, d = q.shape
    s = k.shape[2]
    out = torch.zeros(b, h, t, v.shape[-1], dtype=torch.float64)
    for bi in range(b):
        for hi in range(h):
            for ti in range(t):
                allowed = [
                    si
                    for si in range(s)
                    if (not causal or si <= s - t + ti) and (padding is None or padding[bi, si])
                ]
                scores = [
                    math.fsum((q[bi, hi, ti] * k[bi, hi, si]).tolist()) / math.sqrt(d)
                    for si in allowed
                ]
                total = math.fsum(math.exp(x) for x in scores)
                for si, score in zip(allowed, scores):
                    out[bi, hi, ti] += math.exp(score) / total * v[bi, hi, si]
    return out


def slopes(output, *tensors):
    weights = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).reshape(output.shape)
    return torch.autograd.grad((output * weights).sum(), tensors)


class TestAttend:
    @pytest.mark.parametrize("shape", SHAPES[:4])
    @pytest.mark.parametrize("causal", [True, False])
    @pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
    def test_equals_the_triple_loop(self, shape, causal, implementation):
        q, k, v = qkv(*shape)
        out = attend(q, k, v, causal=causal, implementation=implementation)
        torch.testing.assert_close(out, by_loops(q, k, v, causal), rtol=0, atol=1e-13)

    @pytest.mark.parametrize("shape", SHAPES)
    def test_numpy_says_the_same(self, shape):
        b, h, t, s, _ = shape
        q, k, v = qkv(*shape)
        out = attend(q, k, v, implementation="naive")
        mask = np.tril(np.ones((t, s), dtype=bool), k=s - t)
        for bi in range(b):
            for hi in range(h):
                one = attend_numpy(q[bi, hi].numpy(), k[bi, hi].numpy(), v[bi, hi].numpy(), mask)
                np.testing.assert_allclose(one, out[bi, hi].numpy(), rtol=0, atol=1e-13)

    def test_numbers_small_enough_to_check_by_hand(self):
        # Scores of the second query: 0 and ln 3 (times √1), so the weights are 1/4 and 3/4.
        q = torch.tensor([[[[5.0], [1.0]]]])
        k = torch.tensor([[[[0.0], [math.log(3)]]]])
        v = torch.tensor([[[[8.0], [16.0]]]])
        for implementation in IMPLEMENTATIONS:
            out = attend(q, k, v, implementation=implementation)
            assert out.flatten().tolist() == pytest.approx([8.0, 14.0], abs=1e-5)

    @pytest.mark.parametrize("shape", SHAPES)
    @pytest.mark.parametrize("causal", [True, False])
    @pytest.mark.parametrize("padded", [False, True])
    def test_naive_and_sdpa_agree_gradients_included(self, shape, causal, padded):
        b, _, _, s, _ = shape
        padding = None
        if padded:
            padding = torch.rand(b, s, generator=torch.Generator().manual_seed(3)) < 0.6
            padding[:, -1] = True
        results = []
        for implementation in ("naive", "sdpa"):
            q, k, v = qkv(*shape, gradients=True)
            out = attend(q, k, v, causal=causal, padding=padding, implementation=implementation)
            results.append([out, *slopes(out, q, k, v)])
        for ours, fused in zip(*results, strict=True):
            torch.testing.assert_close(ours, fused, rtol=0, atol=1e-12)

    @pytest.mark.parametrize(
        ("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.bfloat16, 4e-2)]
    )
    @pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
    def test_lower_precision_stays_close_and_keeps_its_dtype(
        self, dtype, tolerance, implementation
    ):
        q, k, v = qkv(2, 3, 37, 37, 16)
        exact = attend(q, k, v)
        out = attend(q.to(dtype), k.to(dtype), v.to(dtype), implementation=implementation)
        assert out.dtype == dtype
        assert (out.double() - exact).abs().max() < tolerance

    @pytest.mark.parametrize("implementation", ["naive", "sdpa"])
    @pytest.mark.parametrize("s", [3, 5])
    def test_gradcheck(self, implementation, s):
        q, k, v = qkv(1, 2, 3, s, 4, gradients=True)
        assert torch.autograd.gradcheck(
            lambda *x: attend(*x, implementation=implementation), (q, k, v)
        )

    @pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
    @pytest.mark.parametrize(("t", "s"), [(6, 6), (3, 8)])
    def test_the_future_leaks_nothing(self, implementation, t, s):
        q, k, v = qkv(1, 2, t, s, 4)
        before = attend(q, k, v, implementation=implementation)
        for position in range(s):
            k2, v2 = k.clone(), v.clone()
            k2[:, :, position] += 5.0
            v2[:, :, position] -= 7.0
            after = attend(q, k2, v2, implementation=implementation)
            # Query i stands at s - t + i; it sees the change from there on and never before.
            first = max(0, position - (s - t))
            assert torch.equal(after[:, :, :first], before[:, :, :first])
            assert (after[:, :, first:] - before[:, :, first:]).abs().amax(-1).min() > 1e-6

    @pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
    def test_queries_are_the_last_of_the_positions(self, implementation):
        """The trap: torch's causal flag aligns the first query with the first key."""
        q, k, v = qkv(2, 2, 8, 8, 4)
        whole = attend(q, k, v, implementation=implementation)
        for t in range(1, 8):
            tail = attend(q[:, :, -t:], k, v, implementation=implementation)
            torch.testing.assert_close(tail, whole[:, :, -t:], rtol=0, atol=1e-13)
        wrong = torch.nn.functional.scaled_dot_product_attention(q[:, :, -3:], k, v, is_causal=True)
        assert (wrong - whole[:, :, -3:]).abs().max() > 0.1

    @pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
    @pytest.mark.parametrize("side", ["left", "right", "middle"])
    def test_padding_is_never_looked_at(self, implementation, side):
        q, k, v = qkv(2, 2, 7, 7, 4)
        padding = torch.ones(2, 7, dtype=torch.bool)
        hidden = {"left": slice(0, 2), "right": slice(5, 7), "middle": slice(3, 5)}[side]
        padding[1, hidden] = False
        out = attend(q, k, v, padding=padding, implementation=implementation)
        wanted = by_loops(q, k, v, True, padding)
        wanted[1, :, hidden] = 0  # padding asks nothing either
        torch.testing.assert_close(out, wanted, rtol=0, atol=1e-13)
        k2, v2 = k.clone(), v.clone()
        k2[1, :, hidden], v2[1, :, hidden] = 99.0, -99.0
        assert torch.equal(attend(q, k2, v2, padding=padding, implementation=implementation), out)

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
    @pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
    @pytest.mark.parametrize("t", [6, 40])
    def test_a_query_that_sees_nothing_gets_zeros_and_finite_gradients(
        self, dtype, implementation, t
    ):
        padding = torch.ones(2, t, dtype=torch.bool)
        padding[0, :3] = False  # the first three queries of row 0 see nothing
        padding[1] = False  # and none of row 1
        q, k, v = qkv(2, 2, t, t, 4, dtype=dtype, gradients=True)
        out = attend(q, k, v, padding=padding, implementation=implementation)
        assert (out[0, :, :3] == 0).all() and (out[1] == 0).all()
        assert (out[0, :, 3:] != 0).any()
        for slope in slopes(out, q, k, v):
            assert slope.isfinite().all()
            assert (slope[1] == 0).all()

    @pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
    def test_large_scores_do_not_overflow(self, implementation):
        q, k, v = qkv(1, 1, 5, 5, 4, dtype=torch.float32)
        out = attend(q * 1e4, k * 1e4, v, implementation=implementation)
        assert out.isfinite().all()
        best = (q @ k.mT).masked_fill(~causal_mask(5), -math.inf).argmax(-1)[0, 0]
        torch.testing.assert_close(out[0, 0], v[0, 0, best], rtol=0, atol=1e-6)

    def test_values_may_have_a_width_of_their_own(self):
        q, k, _ = qkv(1, 2, 3, 5, 4)
        v = torch.randn(1, 2, 5, 7, dtype=torch.float64)
        wanted = by_loops(q, k, v)
        for implementation in IMPLEMENTATIONS:
            out = attend(q, k, v, implementation=implementation)
            torch.testing.assert_close(out, wanted, rtol=0, atol=1e-13)

    def test_without_positions_and_mask_attention_is_blind_to_order(self):
        q, k, v = qkv(1, 2, 6, 6, 4)
        order = torch.tensor([3, 0, 5, 1, 4, 2])
        for implementation in IMPLEMENTATIONS:
            out = attend(q, k, v, causal=False, implementation=implementation)
            mixed = attend(
                q[:, :, order], k[:, :, order], v[:, :, order], causal=False,
                implementation=implementation,
            )  # fmt: skip
            torch.testing.assert_close(mixed, out[:, :, order], rtol=0, atol=1e-13)

    @pytest.mark.parametrize("implementation", ["naive", "auto"])
    def test_record_shows_the_weights_that_were_used(self, implementation):
        q, k, v = qkv(2, 3, 4, 6, 5, gradients=True)
        record = []
        out = attend(q, k, v, implementation=implementation, record=record)
        [weights] = record
        assert weights.shape == (2, 3, 4, 6) and not weights.requires_grad
        torch.testing.assert_close(weights @ v, out, rtol=0, atol=1e-13)
        torch.testing.assert_close(
            out, attend(q, k, v, implementation=implementation), rtol=0, atol=1e-13
        )
        ones = torch.ones(2, 3, 4, dtype=torch.float64)
        torch.testing.assert_close(weights.sum(-1), ones, rtol=0, atol=1e-13)
        assert (weights.masked_select(~causal_mask(4, 6)) == 0).all()

    @pytest.mark.parametrize("implementation", ["naive", "auto"])
    def test_dropout_drops_weights(self, implementation):
        q, k, _ = qkv(1, 1, 40, 40, 4)
        v = torch.eye(40, dtype=torch.float64)[None, None]  # the output is the weights themselves
        weights = attend(q, k, v, causal=False, implementation="naive")

        def dropped(seed):
            generator = torch.Generator().manual_seed(seed)
            return attend(
                q, k, v, causal=False, implementation=implementation, dropout=0.25,
                generator=generator,
            )  # fmt: skip

        out = dropped(1)
        kept = out != 0
        assert kept.double().mean().item() == pytest.approx(0.75, abs=0.05)
        torch.testing.assert_close(out[kept], weights[kept] / 0.75, rtol=0, atol=1e-13)
        assert torch.equal(out, dropped(1)) and not torch.equal(out, dropped(2))

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (
                lambda q, k, v: {"q": q[0]},
                r"must be \(batch, heads, time, width\), got \(2, 3, 4\)",
            ),
            (lambda q, k, v: {"k": k[..., :3]}, r"width of q \(1, 2, 3, 4\), got k \(1, 2, 5, 3\)"),
            (lambda q, k, v: {"k": k[:, :1]}, r"got k \(1, 1, 5, 4\) and v \(1, 2, 5, 4\)"),
            (
                lambda q, k, v: {"q": torch.cat([q, q[:, :1]], 1)},
                r"3 query heads cannot share 2 key/value heads evenly",
            ),
            (lambda q, k, v: {"v": v[:, :, :4]}, r"and v \(1, 2, 4, 4\)"),
            (
                lambda q, k, v: {"q": torch.cat([q, q], 2)},
                r"6 queries cannot be the last of only 5",
            ),
            (
                lambda q, k, v: {"padding": torch.ones(1, 5)},
                r"padding must be torch.bool of shape \(1, 5\).* got torch.float32",
            ),
            (
                lambda q, k, v: {"padding": torch.ones(1, 3, dtype=torch.bool)},
                r"of shape \(1, 5\), True for real tokens, got torch.bool of shape \(1, 3\)",
            ),
            (
                lambda q, k, v: {"implementation": "fused"},
                r"implementation='fused' is unknown; choose one of \('auto', 'naive', 'flash'",
            ),
        ],
    )
    def test_what_does_not_fit_is_named(self, change, message):
        q, k, v = qkv(1, 2, 3, 5, 4)
        with pytest.raises(ValueError, match=message):
            attend(**{"q": q, "k": k, "v": v} | change(q, k, v))

    def test_more_queries_than_keys_are_fine_without_the_causal_mask(self):
        q, k, v = qkv(1, 1, 6, 2, 4)
        torch.testing.assert_close(
            attend(q, k, v, causal=False), by_loops(q, k, v, causal=False), rtol=0, atol=1e-13
        )


class TestMasks:
    @pytest.mark.parametrize(("t", "s"), [(1, 1), (4, 4), (2, 5), (1, 6)])
    def test_causal(self, t, s):
        wanted = [[j <= s - t + i for j in range(s)] for i in range(t)]
        mask = causal_mask(t, s)
        assert mask.dtype == torch.bool and mask.tolist() == wanted
        if t == s:
            assert torch.equal(causal_mask(t), mask)

    def test_causal_refuses_more_queries_than_positions(self):
        with pytest.raises(ValueError, match="4 queries cannot be the last of only 3 positions"):
            causal_mask(4, 3)

    def test_padding(self):
        mask = padding_mask(torch.tensor([3, 0, 4]), 4)
        assert mask.tolist() == [[True] * 3 + [False], [False] * 4, [True] * 4]


class TestWeights:
    def test_without_a_mask_it_is_a_plain_softmax(self):
        q, k, _ = qkv(2, 1, 3, 5, 4)
        wanted = torch.softmax(q @ k.mT / 2.0, dim=-1)
        torch.testing.assert_close(attention_weights(q, k), wanted, rtol=0, atol=1e-14)

    def test_the_scale_keeps_scores_at_unit_variance(self):
        q, k, _ = qkv(4, 4, 50, 50, 64, seed=1)
        weights = attention_weights(q, k)
        scores = weights.log() - weights.log().mean(-1, keepdim=True)
        assert scores.var().item() == pytest.approx(1.0, abs=0.1)


class TestHeads:
    @pytest.mark.parametrize(("b", "t", "h", "d"), [(1, 1, 1, 1), (2, 5, 3, 4), (3, 1, 2, 6)])
    def test_merge_undoes_split(self, b, t, h, d):
        x = torch.randn(b, t, h * d)
        heads = split_heads(x, h)
        assert heads.shape == (b, h, t, d)
        assert torch.equal(merge_heads(heads), x)
        y = torch.randn(b, h, t, d)
        assert torch.equal(split_heads(merge_heads(y), h), y)

    def test_a_head_is_a_slice_of_the_width(self):
        x = torch.randn(2, 5, 12)
        heads = split_heads(x, 3)
        for head in range(3):
            assert torch.equal(heads[:, head], x[:, :, 4 * head : 4 * head + 4])


class TestSelfAttention:
    def layer(self, **options):
        config = ModelConfig(
            vocab_size=5, context_length=9, n_layers=1, n_heads=3, d_model=12, **options
        )
        layer = SelfAttention(config, 0.3, torch.Generator().manual_seed(0)).double()
        for parameter in layer.parameters():
            parameter.data.normal_(0, 0.5)
        return layer

    @pytest.mark.parametrize("bias", [True, False])
    @pytest.mark.parametrize("shape", [(1, 1), (2, 7)])
    def test_equals_torch_multihead_attention(self, bias, shape):
        ours = self.layer(attention_bias=bias)
        theirs = torch.nn.MultiheadAttention(12, 3, bias=bias, batch_first=True).double()
        theirs.in_proj_weight.data.copy_(ours.qkv.weight.data)
        theirs.out_proj.weight.data.copy_(ours.out.weight.data)
        if bias:
            theirs.in_proj_bias.data.copy_(ours.qkv.bias.data)
            theirs.out_proj.bias.data.copy_(ours.out.bias.data)
        x = torch.randn(*shape, 12, dtype=torch.float64, requires_grad=True)
        record = []
        out = ours(x, Sight(Visibility(shape[1], shape[1]), record=record))
        wanted, weights = theirs(
            x, x, x, attn_mask=~causal_mask(shape[1]), average_attn_weights=False
        )
        torch.testing.assert_close(out, wanted, rtol=0, atol=1e-12)
        torch.testing.assert_close(record[0], weights, rtol=0, atol=1e-12)
        mine = slopes(out, x, ours.qkv.weight, ours.out.weight)
        yours = slopes(wanted, x, theirs.in_proj_weight, theirs.out_proj.weight)
        for a, b in zip(mine, yours, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-11)

    def test_dropout_acts_in_training_only(self):
        layer, x = self.layer(dropout=0.5), torch.randn(1, 9, 12, dtype=torch.float64)
        layer.eval()
        assert torch.equal(layer(x), layer(x))
        layer.train()
        assert not torch.equal(layer(x), layer(x))
