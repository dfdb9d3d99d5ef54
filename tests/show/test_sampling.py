"""Distribution bars: heights are probabilities, and what was cut is marked."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from llmcourse.show import plot_distribution, plot_sampling
from llmcourse.show.sampling import entropy

BEFORE = torch.tensor([0.1, 0.5, 0.05, 0.3, 0.05])
AFTER = torch.tensor([0.0, 0.625, 0.0, 0.375, 0.0])


def bars(ax, label):
    return next((c for c in ax.containers if c.get_label() == label), [])


def test_bars_are_the_probabilities_falling(drawn):
    ax = drawn(plot_distribution, BEFORE, ["a", "b", "c", "d", "e"]).axes[0]
    [container] = ax.containers
    heights = [bar.get_height() for bar in container]
    np.testing.assert_allclose(heights, sorted(BEFORE.tolist(), reverse=True))
    names = [label.get_text() for label in ax.get_xticklabels()]
    assert names == ["b", "d", "a", "c", "e"]  # ties in the order of ids


def test_kept_and_cut_are_apart(drawn):
    ax = drawn(plot_distribution, BEFORE, list("abcde"), AFTER).axes[0]
    kept, cut = bars(ax, "the model's own: kept"), bars(ax, "the model's own: cut")
    assert [round(bar.get_height(), 6) for bar in kept] == [0.5, 0.3]
    assert [round(bar.get_height(), 6) for bar in cut] == [0.1, 0.05, 0.05]
    assert all(bar.get_hatch() for bar in cut) and not any(bar.get_hatch() for bar in kept)
    assert [round(bar.get_height(), 6) for bar in bars(ax, "sampled from")] == [0.625, 0.375]
    assert "2 of 5 tokens kept" in ax.get_title("left")


def test_top_limits_the_bars(drawn):
    ax = drawn(plot_distribution, BEFORE, top=2).axes[0]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["1", "3"]


def test_plot_sampling_agrees_with_the_sampler(drawn):
    from llmcourse.generate.sampling import Sampling, next_token_probabilities

    logits = torch.randn(50, generator=torch.Generator().manual_seed(0))
    sampling = Sampling(temperature=0.7, top_k=5)
    ax = drawn(plot_sampling, logits, sampling).axes[0]
    wanted = next_token_probabilities(logits, sampling).sort(descending=True).values[:5]
    heights = [bar.get_height() for bar in bars(ax, "sampled from")]
    np.testing.assert_allclose(heights, wanted.double().numpy(), rtol=1e-6)


def test_entropy_of_known_distributions():
    assert entropy([1.0, 0.0]) == 0
    assert entropy([0.25] * 4) == pytest.approx(math.log(4))


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((torch.ones(3),), {}, "sum to 3.000, not to 1"),
        ((torch.tensor([1.5, -0.5]),), {}, "negative value -0.5"),
        ((BEFORE, ["a", "b"]), {}, "2 labels for 5 probabilities"),
        ((BEFORE, None, torch.tensor([0.5, 0.5])), {}, "5 probabilities before but 2 after"),
        ((BEFORE, None, torch.zeros(5)), {}, "probabilities after sum to 0.000"),
        ((torch.ones(1, 1),), {}, r"shape \(V,\)"),
        ((BEFORE,), {"top": 0}, "top must be at least 1"),
    ],
)
def test_bad_input_says_what_is_wrong(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        plot_distribution(*arguments, **options)
