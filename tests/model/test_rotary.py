"""Rotary positions: against rotation matrices, complex numbers, and what the papers promise."""

from __future__ import annotations

import math

import pytest
import torch

from llmcourse.model.rotary import (
    Rope,
    RotaryTable,
    rotary_frequencies,
    rotary_table,
    rotate,
    rotate_reference,
)

SCALED = [
    Rope(),
    Rope(base=500.0, fraction=0.5),
    Rope(scaling="linear", factor=4.0),
    Rope(scaling="ntk", factor=4.0),
    Rope(scaling="yarn", factor=4.0, original_context=64),
    Rope(scaling="llama3", factor=8.0, original_context=64),
]


def turned(x, positions, rope):
    """Rotation as multiplication by e^{i p rate} in complex numbers, in float64."""
    n = rope.turned(x.shape[-1]) // 2
    rates = rotary_frequencies(rope, x.shape[-1])
    z = torch.complex(x[..., :n], x[..., n : 2 * n])
    z = z * torch.polar(torch.full_like(rates, rope.magnitude), positions[:, None] * rates)
    return torch.cat([z.real, z.imag, x[..., 2 * n :]], dim=-1)


@pytest.mark.parametrize("rope", SCALED, ids=str)
def test_rotation_is_multiplication_by_a_complex_number(rope):
    x = torch.randn(2, 3, 9, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    positions = torch.tensor([0, 1, 2, 5, 17, 63, 200, 1000, 4000])
    for dtype, close in [(torch.float64, 1e-12), (torch.float32, 1e-6)]:
        out = rotate(x, *rotary_table(rope, 8, positions, dtype))
        torch.testing.assert_close(out, turned(x, positions, rope), rtol=0, atol=close)
    one = rotate_reference(x[1, 2, 4], 17, rope)
    torch.testing.assert_close(one, turned(x, positions, rope)[1, 2, 4], rtol=0, atol=1e-12)


@pytest.mark.parametrize("rope", SCALED[:4], ids=str)
def test_only_the_distance_matters(rope):
    generator = torch.Generator().manual_seed(1)
    q, k = torch.randn(2, 8, dtype=torch.float64, generator=generator)
    for p, j in [(3, 1), (12, 10), (1002, 1000)]:
        score = rotate_reference(q, p, rope) @ rotate_reference(k, j, rope)
        wanted = rotate_reference(q, 2, rope) @ k
        assert score.item() == pytest.approx(wanted.item(), abs=1e-10)
    # And it does matter.
    other = rotate_reference(q, 7, rope) @ k
    assert abs(other - wanted) > 1e-3


def test_rates_of_the_paper():
    rates = rotary_frequencies(Rope(base=100.0), 8)
    torch.testing.assert_close(rates, torch.tensor([1, 100**-0.25, 0.1, 100**-0.75]).double())
    assert rotary_frequencies(Rope(base=10.0), 8)[-1] != rates[-1], "the base is not ignored"


def test_linear_interpolation_squeezes_positions():
    plain, slow = (
        rotary_frequencies(Rope(), 16),
        rotary_frequencies(Rope(scaling="linear", factor=4), 16),
    )
    torch.testing.assert_close(slow * 4, plain)


def test_ntk_keeps_the_fastest_pair_and_slows_the_slowest_by_the_factor():
    plain = rotary_frequencies(Rope(), 64)
    ntk = rotary_frequencies(Rope(scaling="ntk", factor=8.0), 64)
    assert ntk[0] == plain[0]
    assert (plain[-1] / ntk[-1]).item() == pytest.approx(8.0, rel=1e-9)
    ratio = plain / ntk
    assert (ratio.diff() > 0).all(), "slower pairs are slowed more"


@pytest.mark.parametrize("scaling", ["yarn", "llama3"])
def test_the_blends_leave_fast_pairs_and_slow_slow_ones_fully(scaling):
    rope = Rope(scaling=scaling, factor=8.0, original_context=4096)
    plain, scaled = rotary_frequencies(Rope(), 64), rotary_frequencies(rope, 64)
    turns = 4096 * plain / (2 * math.pi)
    high, low = (rope.beta_fast, rope.beta_slow) if scaling == "yarn" else (4.0, 1.0)
    fast, slow = turns > 2 * high, turns < low / 2
    assert fast.any() and slow.any()
    torch.testing.assert_close(scaled[fast], plain[fast], rtol=1e-12, atol=0)
    torch.testing.assert_close(scaled[slow] * 8, plain[slow], rtol=1e-12, atol=0)
    ratio = plain / scaled
    assert (ratio.diff() >= -1e-12).all() and ((ratio > 1.01) & (ratio < 7.99)).any()


def test_rates_equal_transformers():
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    common = {"rope_theta": 10_000.0, "factor": 8.0, "original_max_position_embeddings": 256}
    for kind, extra in [
        ("linear", {}),
        ("llama3", {"low_freq_factor": 1.0, "high_freq_factor": 4.0}),
        ("yarn", {}),
        ("yarn", {"beta_fast": 20.0, "beta_slow": 2.0, "attention_factor": 1.5}),
    ]:
        parameters = {"rope_type": kind, **common, **extra}
        config = LlamaConfig(
            hidden_size=256, num_attention_heads=2, max_position_embeddings=2048,
            rope_parameters=parameters,
        )  # fmt: skip
        theirs, size = ROPE_INIT_FUNCTIONS[kind](config, "cpu")
        rope = Rope(
            scaling=kind,
            factor=8.0,
            original_context=256,
            beta_fast=extra.get("beta_fast", 32.0),
            beta_slow=extra.get("beta_slow", 1.0),
            attention_factor=extra.get("attention_factor"),
        )
        torch.testing.assert_close(rotary_frequencies(rope, 128).float(), theirs, rtol=2e-6, atol=0)
        assert rope.magnitude == pytest.approx(size)


def test_the_table_grows_and_keeps_its_rows():
    table = RotaryTable(Rope(), 8, limit=1000)
    first = table.at(torch.arange(256), torch.float32)[0]
    table.grow(200)
    assert table.rows == 256
    table.grow(257)
    cos, sin = table.at(torch.arange(400), torch.float32)
    assert cos.shape == (400, 4) and torch.equal(cos[:256], first)
    cos, sin = table.at(torch.tensor([[1, 2, 3], [0, 1, 2]]), torch.bfloat16)
    assert cos.shape == sin.shape == (2, 1, 3, 4)
    assert cos.dtype == torch.float32, "a narrow model's angles are not narrow"
    assert table.at(torch.arange(2), torch.float64)[0].dtype == torch.float64


def test_a_stream_beyond_the_limit_does_not_grow_the_table():
    table = RotaryTable(Rope(), 8, limit=300)
    inside = table.at(torch.tensor([7]), torch.float32)[0]
    table.grow(20_001)
    assert table.rows <= 300
    far, _ = table.at(torch.tensor([7, 20_000]), torch.float32)
    assert torch.equal(far[:1], inside)
    wanted = rotary_table(Rope(), 8, torch.tensor([20_000]))[0]
    assert torch.equal(far[1:], wanted)
    table.grow(10)
    assert torch.equal(table.at(torch.tensor([7]), torch.float32)[0], inside)


def test_far_positions_are_exact():
    cos, _ = rotary_table(Rope(), 4, torch.tensor([100_003]))
    assert cos[0, 0].item() == pytest.approx(math.cos(100_003), abs=1e-7)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scaling": "magic"}, "rope scaling='magic' is unknown"),
        ({"base": 1.0}, "rope base=1.0 must be a number above 1"),
        ({"fraction": 0.0}, r"rope fraction=0.0 must be a share in \(0, 1\]"),
        ({"factor": 0.5, "scaling": "linear"}, "rope factor=0.5 must be at least 1"),
        ({"factor": 2.0}, "rope factor=2.0 has no effect without a scaling"),
        ({"scaling": "yarn", "factor": 2.0}, "'yarn' needs original_context, .* got None"),
        ({"low_frequency_factor": 4.0}, "low_frequency_factor=4.0 must be above 0 and below"),
        ({"beta_fast": 1.0}, "beta_slow=1.0 must be above 0 and below beta_fast=1.0"),
        ({"attention_factor": 0.0}, "attention_factor=0.0 must be above 0"),
    ],
)
def test_impossible_values_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Rope(**arguments)


def test_an_odd_number_of_channels_is_refused():
    with pytest.raises(ValueError, match=r"d_head=5 with fraction=1.0 gives 5, which must be even"):
        rotary_frequencies(Rope(), 5)


@pytest.mark.parametrize("rope", SCALED, ids=str)
def test_the_gradient_is_the_vector_turned_back(rope):
    positions = torch.tensor([0, 1, 2, 5, 17])
    generator = torch.Generator().manual_seed(2)
    x, slope = torch.randn(2, 2, 3, 5, 8, dtype=torch.float64, generator=generator)
    x.requires_grad_()
    cos, sin = rotary_table(rope, 8, positions, torch.float64)
    mine = torch.autograd.grad(rotate(x, cos, sin), x, slope)[0]
    wanted = torch.autograd.grad(turned(x, positions, rope), x, slope)[0]
    torch.testing.assert_close(mine, wanted, rtol=0, atol=1e-12)
    if rope.magnitude == 1:
        back = rotate(rotate(slope, cos, sin), cos, -sin)
        torch.testing.assert_close(back, slope, rtol=0, atol=1e-12)
    assert torch.autograd.gradcheck(lambda x: rotate(x, cos, sin), x)
    assert torch.autograd.gradgradcheck(lambda x: rotate(x, cos, sin), x)


@pytest.mark.parametrize("fraction", [1.0, 0.5])
def test_heads_cut_from_a_wider_tensor_are_turned_and_left_alone(fraction):
    rope = Rope(fraction=fraction)
    wide = torch.randn(2, 5, 9, 8).transpose(1, 2)  # (B, heads, T, D), strided
    before = wide.clone()
    cos, sin = rotary_table(rope, 8, torch.arange(5))
    for heads in (wide[:, :3], wide[:, :3].clone().requires_grad_()):
        out = rotate(heads, cos, sin)
        wanted = turned(heads.double(), torch.arange(5), rope)
        torch.testing.assert_close(out.double(), wanted, rtol=0, atol=1e-5)
        assert out.dtype == heads.dtype
    assert torch.equal(wide, before)
