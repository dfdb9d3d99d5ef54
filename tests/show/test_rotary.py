"""Rotary pictures, against complex numbers: a pair is one, and turning it multiplies it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from llmcourse.model.rotary import Rope
from llmcourse.show import plot_frequencies, plot_relative_score, plot_rotation
from llmcourse.show.rotary import (
    level_vector,
    relative_scores,
    spread_pairs,
    tokens_text,
    turned,
    wavelengths,
)

ROPES = {
    "unscaled": Rope(),
    "linear": Rope(scaling="linear", factor=8.0),
    "NTK-aware": Rope(scaling="ntk", factor=8.0),
    "YaRN": Rope(scaling="yarn", factor=8.0, original_context=512),
    "Llama 3": Rope(scaling="llama3", factor=8.0, original_context=512),
}


def as_complex(vector: np.ndarray) -> np.ndarray:
    """(..., D) half-split channels as (..., D/2) complex numbers."""
    half = vector.shape[-1] // 2
    return vector[..., :half] + 1j * vector[..., half:]


def test_turned_multiplies_each_pair_by_a_unit_number():
    vector = np.random.default_rng(0).normal(size=8)
    positions = [0, 1, 7, 1000]
    rates = 100.0 ** (-np.arange(4) / 4)  # base 100, D = 8
    wanted = as_complex(vector) * np.exp(1j * np.outer(positions, rates))
    got = as_complex(turned(vector, positions, Rope(base=100.0)))
    np.testing.assert_allclose(got, wanted, atol=1e-12)


def test_channels_that_do_not_turn_stay():
    vector = np.arange(1.0, 9.0)
    got = turned(vector, [3], Rope(fraction=0.5))[0]
    np.testing.assert_array_equal(got[4:], vector[4:])
    assert not np.isclose(got[:4], vector[:4]).any()


@pytest.mark.parametrize("name", ROPES)
def test_score_depends_on_the_distance_alone(name):
    generator = np.random.default_rng(1)
    q, k = generator.normal(size=(2, 16))
    distances = [0, 1, 5, 63]
    scores = [
        relative_scores(ROPES[name], 16, distances, start=start, q=q, k=k)
        for start in (0, 3, 10_000)
    ]
    np.testing.assert_allclose(scores[1], scores[0], atol=1e-9)
    np.testing.assert_allclose(scores[2], scores[0], atol=1e-9)
    assert np.ptp(scores[0]) > 0.1  # and it does depend on it


@pytest.mark.parametrize("d_head", [2, 6, 64])
def test_level_vectors_score_the_mean_cosine(d_head):
    rates = 10_000.0 ** (-np.arange(d_head // 2) * 2 / d_head)
    distances = np.arange(20)
    wanted = np.cos(np.outer(distances, rates)).mean(axis=1)
    np.testing.assert_allclose(relative_scores(Rope(), d_head, distances), wanted, atol=1e-12)
    assert np.linalg.norm(level_vector(Rope(), d_head)) == pytest.approx(1)


def test_wavelengths_are_whole_turns():
    lengths = wavelengths(ROPES["linear"], 8)
    assert lengths[0] == pytest.approx(8 * 2 * math.pi)
    np.testing.assert_allclose(lengths[1:] / lengths[:-1], 10.0)  # 10,000 ** (2 / 8)


def test_rotation_draws_the_angles(drawn):
    figure = drawn(plot_rotation, Rope(), 8, (0, 1, 30), [0, 3])
    rates = [1.0, 1e-3]
    for place, ax in enumerate(figure.axes):
        position, rate = (0, 1, 30)[place // 2], rates[place % 2]
        hand = ax.lines[1].get_xydata()[1]
        np.testing.assert_allclose(
            hand, [math.cos(rate * position), math.sin(rate * position)], atol=1e-12
        )
    assert "6.28 tokens" in figure.axes[0].get_title()
    assert "6,280 tokens" in figure.axes[1].get_title()


def test_rotation_hands_keep_inside_under_yarn(drawn):
    from llmcourse.show.rotary import FACE

    figure = drawn(plot_rotation, Rope(scaling="yarn", factor=32.0, original_context=64), 16, (5,))
    hands = np.stack([ax.lines[1].get_xydata()[1] for ax in figure.axes])
    np.testing.assert_allclose(np.linalg.norm(hands, axis=1), 0.1 * math.log(32) + 1)
    assert np.abs(hands).max() < FACE


def test_relative_score_figure_is_constant_along_diagonals(drawn):
    figure = drawn(plot_relative_score, Rope(), 32, farthest=20, starts=(0, 500))
    table = np.asarray(figure.axes[0].images[0].get_array())
    assert table.shape == (21, 21)
    for offset in range(-20, 21):
        assert np.ptp(np.diagonal(table, offset)) < 1e-10
    grey, first, second = figure.axes[1].lines[:3]
    np.testing.assert_allclose(first.get_ydata(), second.get_ydata(), atol=1e-10)
    np.testing.assert_allclose(grey.get_ydata(), table[:, 0], atol=1e-12)
    assert [line.get_label() for line in (first, second)] == ["key at 0", "key at 500"]


def test_frequencies_figure_shows_every_scaling(drawn):
    figure = drawn(plot_frequencies, ROPES, 32)
    left, right = figure.axes[:2]
    for line, slower, (_name, rope) in zip(left.lines, right.lines, ROPES.items(), strict=False):
        np.testing.assert_allclose(line.get_ydata(), wavelengths(rope, 32))
        np.testing.assert_allclose(
            slower.get_ydata(), wavelengths(rope, 32) / wavelengths(Rope(), 32)
        )
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == list(ROPES)
    assert [text.get_text() for text in left.texts] == ["trained on 512 tokens"]
    np.testing.assert_allclose(right.lines[1].get_ydata(), 8.0)  # linear: all pairs alike
    ntk = right.lines[2].get_ydata()
    assert ntk[0] == pytest.approx(1) and ntk[-1] == pytest.approx(8)


@pytest.mark.parametrize("d_head", [2, 4])
def test_smallest_heads_are_drawn(drawn, d_head):
    drawn(plot_frequencies, Rope(), d_head)
    drawn(plot_rotation, Rope(), d_head, (0,))
    drawn(plot_relative_score, Rope(), d_head, farthest=1)


def test_tensors_are_taken(drawn):
    q = torch.randn(8, generator=torch.Generator().manual_seed(0))
    drawn(plot_relative_score, Rope(), 8, q=q, k=q, farthest=8)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: plot_rotation(Rope(), 8, (0,), [4]), "pair 4 does not exist; .* has 4"),
        (lambda: plot_rotation(Rope(), 8, (0,), []), "1 to 8 pairs"),
        (lambda: plot_rotation(Rope(), 8, (-1,)), "at least 0"),
        (lambda: plot_rotation(Rope(), 7), "d_head=7"),
        (lambda: plot_relative_score(Rope(), 8, q=np.ones(6)), r"q must have shape .* \(8,\)"),
        (lambda: plot_relative_score(Rope(), 8, farthest=0), "farthest=0"),
        (lambda: plot_relative_score(Rope(), 8, starts=()), "at least one start"),
        (lambda: plot_frequencies({}, 8), "nothing to draw"),
        (lambda: plot_frequencies({str(i): Rope() for i in range(7)}, 8), "7 curves"),
    ],
)
def test_bad_input_is_refused_and_leaves_no_figure(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_spread_pairs_has_both_ends_and_no_double():
    for count in range(1, 70):
        pairs = spread_pairs(count, 6)
        assert pairs == sorted(set(pairs)) and pairs[0] == 0 and pairs[-1] == count - 1
        assert len(pairs) == min(count, 6)


@pytest.mark.parametrize(
    ("tokens", "text"), [(6.2832, "6.28"), (99.4, "99.4"), (628.3, "628"), (54410.0, "54,400")]
)
def test_tokens_are_written_without_powers(tokens, text):
    assert tokens_text(tokens) == text
