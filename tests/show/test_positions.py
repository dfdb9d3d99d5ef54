"""Position pictures, against a plain loop over pairs."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from llmcourse.model.positions import sinusoidal_positions
from llmcourse.show import plot_position_similarity, plot_positions
from llmcourse.show.positions import similarity_by_distance


def test_heat_map_and_waves_are_the_table(drawn):
    table = torch.randn(12, 8, generator=torch.Generator().manual_seed(0))
    heat, waves = drawn(plot_positions, table, waves=[0, 5]).axes[:2]
    np.testing.assert_array_equal(heat.images[0].get_array(), table.double())
    low, high = heat.images[0].get_clim()
    assert low == -high  # zero is always the same colour
    for line, channel in zip(waves.lines, [0, 5], strict=True):
        np.testing.assert_array_equal(line.get_ydata(), table[:, channel].double())
        assert line.get_label() == f"channel {channel}"


@pytest.mark.parametrize("shape", [(1, 1), (1, 8), (40, 2), (64, 32)])
def test_odd_shapes_are_drawn(drawn, shape):
    drawn(plot_positions, torch.ones(shape))
    drawn(plot_position_similarity, torch.ones(shape))


def test_similarity_against_a_loop_over_pairs():
    table = torch.randn(9, 4, generator=torch.Generator().manual_seed(1)).double()
    mean, low, high = similarity_by_distance(table)
    for distance in range(9):
        products = [float(table[p] @ table[p + distance]) for p in range(9 - distance)]
        assert mean[distance] == pytest.approx(sum(products) / len(products))
        assert (low[distance], high[distance]) == pytest.approx((min(products), max(products)))


def test_sinusoids_depend_on_distance_alone(drawn):
    table = sinusoidal_positions(50, 32)
    mean, low, high = similarity_by_distance(table)
    np.testing.assert_allclose(low, high, atol=1e-4)
    assert mean[0] == pytest.approx(16, abs=1e-4)  # 16 pairs of sin^2 + cos^2
    curve = drawn(plot_position_similarity, table).axes[1].lines[0]
    np.testing.assert_allclose(curve.get_ydata(), mean)
    np.testing.assert_array_equal(curve.get_xdata(), np.arange(50))


def test_bad_tables_are_refused():
    with pytest.raises(ValueError, match=r"\(T, C\).*not \(3,\)"):
        plot_positions(torch.ones(3))
    with pytest.raises(ValueError, match="channel 9 does not exist; the table has 4"):
        plot_positions(torch.ones(3, 4), waves=[9])
    with pytest.raises(ValueError, match="NaN"):
        plot_position_similarity(torch.full((2, 2), float("nan")))
