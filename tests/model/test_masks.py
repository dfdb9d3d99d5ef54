"""Who may look at whom: the rule against a loop that spells it out, token by token."""

from __future__ import annotations

import pytest
import torch

from llmcourse.model.masks import (
    Visibility,
    positions_in_documents,
    positions_of,
    sliding_window_mask,
)


def spelled_out(q, k, causal, window, sinks):
    """The definition for lists of positions."""
    table = []
    for p in q:
        row = []
        for j in k:
            if j < 0 or p < 0:
                row.append(False)
            elif not causal:
                row.append(True)
            elif j > p:
                row.append(False)
            else:
                row.append(window is None or p - j < window or j < sinks)
        table.append(row)
    return table


@pytest.mark.parametrize("t", [1, 3, 7])
@pytest.mark.parametrize("s", [7, 12])
@pytest.mark.parametrize(("window", "sinks"), [(None, 0), (1, 0), (3, 0), (3, 2), (50, 1)])
def test_the_last_queries_of_a_longer_text(t, s, window, sinks):
    visibility = Visibility(t, s, window=window, sinks=sinks)
    q = list(range(s - t, s))
    wanted = spelled_out(q, range(s), True, window, sinks)
    table = visibility.table()
    assert (table is None and all(map(all, wanted))) or table.tolist() == wanted
    if window is not None:
        assert sliding_window_mask(t, window, s, sinks).tolist() == wanted
    assert visibility.everything == (t == 1 and all(map(all, wanted)))
    assert visibility.plainly_causal == (t == s and wanted == spelled_out(q, q, True, None, 0))


def test_a_window_is_not_a_cropped_causal_mask():
    # Cropping the keys to the window and aligning a triangle to the upper left, a common fault.
    t, s, window = 3, 8, 4
    right = sliding_window_mask(t, window, s)
    cropped = torch.zeros(t, s, dtype=torch.bool)
    cropped[:, s - window :] = torch.ones(t, window, dtype=torch.bool).tril()
    assert right.sum(-1).tolist() == [4, 4, 4]
    assert (cropped & ~right).any() or (right & ~cropped).any()
    assert not right[0, 6:].any(), "the first of the three queries sees no future"


def test_ragged_rows_and_ring_buffers_go_by_position():
    q = torch.tensor([[4, 5], [-1, 2]])
    k = torch.tensor([[4, 5, 0, 3], [-1, 2, 0, 1]])  # any order, as a rolling buffer holds them
    table = Visibility(2, 4, window=3, sinks=1, q_positions=q, k_positions=k).table()
    assert table.shape == (2, 1, 2, 4)
    for row in range(2):
        wanted = spelled_out(q[row].tolist(), k[row].tolist(), True, 3, 1)
        assert table[row, 0].tolist() == wanted


def test_documents_do_not_see_each_other():
    documents = torch.tensor([[0, 0, 0, 1, 1, 7]])
    places = positions_in_documents(documents)
    assert places.tolist() == [[0, 1, 2, 0, 1, 0]]
    table = Visibility(
        6, 6, q_positions=places, k_positions=places, q_documents=documents, k_documents=documents
    ).table()
    same = documents[0][:, None] == documents[0][None, :]
    assert torch.equal(table[0, 0], same & torch.ones(6, 6, dtype=torch.bool).tril())


def test_positions_count_real_tokens():
    padding = torch.tensor([[False, True, True, False, True], [True, True, False, False, False]])
    assert positions_of(padding).tolist() == [[-1, 0, 1, -1, 2], [0, 1, -1, -1, -1]]


def test_without_causality_everything_real_is_seen():
    more = Visibility(3, 2, causal=False)
    q, k = more.positions()
    assert more.table() is None and more.rule(q[:, None], k[None, :]).all()
    k = torch.tensor([0, -1])
    assert Visibility(1, 2, causal=False, k_positions=k).table().tolist() == [[True, False]]


def test_one_table_serves_all_layers():
    visibility = Visibility(4, 4)
    assert visibility.table() is visibility.table()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"t": 4, "s": 3}, "4 queries cannot be the last of only 3 positions"),
        ({"window": 0}, "window=0 must be a whole number of at least 1"),
        ({"window": 2.0}, "window=2.0 must be a whole number"),
        ({"window": 2, "causal": False}, "a sliding window looks back and needs causal=True"),
        ({"window": 2, "sinks": -1}, "sinks=-1 must be a whole number of at least 0"),
        ({"sinks": 1}, "sinks=1 mean something only beside a window"),
        ({"q_positions": torch.arange(3)}, r"q_positions must be \(2,\) or \(B, 2\)"),
        ({"k_positions": torch.zeros(1, 1, 5)}, r"k_positions must be \(5,\) or \(B, 5\)"),
        ({"q_documents": torch.zeros(1, 2)}, "q_documents and k_documents come together"),
    ],
)
def test_what_does_not_fit_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        Visibility(**{"t": 2, "s": 5} | arguments)
