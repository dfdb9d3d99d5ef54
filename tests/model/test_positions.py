"""Sinusoids against the formula in plain Python, and the properties they are chosen for."""

from __future__ import annotations

import math

import pytest
import torch

from llmcourse.model.positions import LearnedPositions, SinusoidalPositions, sinusoidal_positions


@pytest.mark.parametrize(("t", "c"), [(1, 2), (7, 6), (50, 16)])
def test_the_formula_in_plain_loops(t, c):
    wanted = [[0.0] * c for _ in range(t)]
    for pos in range(t):
        for i in range(c // 2):
            wanted[pos][2 * i] = math.sin(pos / 10_000 ** (2 * i / c))
            wanted[pos][2 * i + 1] = math.cos(pos / 10_000 ** (2 * i / c))
    table = sinusoidal_positions(t, c)
    assert table.dtype == torch.float32 and table.shape == (t, c)
    torch.testing.assert_close(table, torch.tensor(wanted), rtol=0, atol=1e-7)


def test_far_positions_are_as_exact_as_near_ones():
    row = sinusoidal_positions(100_000, 4)[99_999].tolist()
    wanted = [f(99_999 / 10_000 ** (2 * i / 4)) for i in range(2) for f in (math.sin, math.cos)]
    assert row == pytest.approx(wanted, abs=1e-7)


def test_the_base_sets_the_slowest_pair():
    table = sinusoidal_positions(3, 4, base=100.0)
    assert table[2].tolist() == pytest.approx(
        [math.sin(2), math.cos(2), math.sin(0.2), math.cos(0.2)], abs=1e-7
    )


@pytest.mark.parametrize("shift", [1, 5, 40])
def test_a_shift_is_one_rotation_for_all_positions(shift):
    t, c = 60, 8
    table = sinusoidal_positions(t + shift, c).double()
    rotation = torch.zeros(c, c, dtype=torch.float64)
    for i in range(c // 2):
        angle = shift / 10_000 ** (2 * i / c)
        sin, cos = math.sin(angle), math.cos(angle)
        # (sin a, cos a) -> (sin(a + angle), cos(a + angle))
        rotation[2 * i : 2 * i + 2, 2 * i : 2 * i + 2] = torch.tensor([[cos, sin], [-sin, cos]])
    torch.testing.assert_close(table[:t] @ rotation.T, table[shift:], rtol=0, atol=3e-7)


def test_products_of_rows_depend_on_distance_only():
    table = sinusoidal_positions(40, 16).double()
    gram = table @ table.T  # (T, T)
    for distance in range(40):
        diagonal = gram.diagonal(distance)
        assert (diagonal - diagonal[0]).abs().max() < 1e-5
    assert gram[0, 0].item() == pytest.approx(8.0)  # sin² + cos² in each of C / 2 pairs


def test_no_two_positions_are_alike():
    table = sinusoidal_positions(512, 32)
    distances = torch.cdist(table, table) + torch.eye(512) * 9
    assert distances.min() > 0.5


@pytest.mark.parametrize(("t", "c"), [(4, 5), (0, 4), (4, 0), (-1, 4), (4, -2)])
def test_impossible_sizes_are_named(t, c):
    with pytest.raises(ValueError, match=f"even d_model.*context_length={t}, d_model={c}"):
        sinusoidal_positions(t, c)


def test_the_fixed_table_is_neither_learned_nor_saved():
    module = SinusoidalPositions(6, 4)
    assert list(module.parameters()) == [] and module.state_dict() == {}
    positions = torch.tensor([[0, 1, 5], [2, 2, 0]])
    assert torch.equal(module(positions), sinusoidal_positions(6, 4)[positions])


def test_learned_positions_are_rows_of_a_table():
    module = LearnedPositions(300, 200, std=0.03, generator=torch.Generator().manual_seed(0))
    assert module.weight.std().item() == pytest.approx(0.03, rel=0.02)
    positions = torch.tensor([[0, 7, 7]])
    assert torch.equal(module(positions), module.weight[positions])
    module(positions).sum().backward()
    assert module.weight.grad[:, 0].nonzero()[:, 0].tolist() == [0, 7]
    assert module.weight.grad[7, 0] == 2
