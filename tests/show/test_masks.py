"""Mask pictures: cell by cell what the rule says."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from llmcourse.model.masks import Visibility
from llmcourse.show import plot_visibility
from llmcourse.show.masks import HIDDEN, SEEN, SINK, cells, visible_table


def test_cells_against_the_rule_in_words():
    kinds = cells(Visibility(12, 12, window=4, sinks=2))
    for q in range(12):
        for k in range(12):
            near, sink = q - k < 4, k < 2
            wanted = HIDDEN if k > q else SEEN if near else SINK if sink else HIDDEN
            assert kinds[q, k] == wanted


def test_packed_documents_do_not_see_each_other():
    documents = torch.tensor([[0, 0, 0, 1, 1], [0, 1, 1, 2, 2]])
    visibility = Visibility(5, 5, q_documents=documents, k_documents=documents)
    for row in (0, 1):
        same = documents[row][:, None] == documents[row][None, :]
        wanted = same.numpy() & np.tri(5, dtype=bool)
        np.testing.assert_array_equal(visible_table(visibility, row), wanted)
    with pytest.raises(ValueError, match="batch row 2 does not exist; there are 2"):
        visible_table(visibility, 2)


def test_panels_are_the_tables(drawn):
    masks = {
        "causal": Visibility(9, 9),
        "window": Visibility(9, 9, window=3),
        "sinks": Visibility(9, 9, window=3, sinks=1),
        "decode": Visibility(1, 9, window=3),
        "both ways": Visibility(9, 9, causal=False),
    }
    figure = drawn(plot_visibility, masks)
    panels = [ax for ax in figure.axes if ax.get_visible()]
    assert [ax.get_title("left") for ax in panels] == list(masks)
    for ax, visibility in zip(panels, masks.values(), strict=True):
        np.testing.assert_array_equal(ax.images[0].get_array(), cells(visibility))
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["may look", "sink outside the window", "may not look"]


def test_the_legend_names_only_what_is_there(drawn):
    ax = drawn(plot_visibility, Visibility(4, 4, causal=False)).axes[0]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["may look"]


def test_ticks_are_positions(drawn):
    ax = drawn(plot_visibility, Visibility(1, 9)).axes[0]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["8"]
    padded = Visibility(
        3, 3, q_positions=torch.tensor([[-1, 0, 1]]), k_positions=torch.tensor([[-1, 0, 1]])
    )
    ax = drawn(plot_visibility, padded).axes[0]
    shown = [label.get_text() for label in ax.get_xticklabels() if label.get_text()]
    assert shown == ["pad", "0", "1"]


def test_nothing_to_draw_is_refused():
    with pytest.raises(ValueError, match="nothing to draw"):
        plot_visibility({})
