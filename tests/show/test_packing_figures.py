"""What is drawn of a batch, against the documents that went into it."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex

from llmcourse.data.batches import IGNORE_INDEX, Batch, document_aligned
from llmcourse.data.packing import PackedBatch, pack, packed_batch, padding_of
from llmcourse.show import plot_packing
from llmcourse.show.packing import PADDING, TINTS, document_table, padding_share

LENGTHS = (5, 9, 3, 12, 2, 2, 7)
CONTEXT = 12


@pytest.fixture
def documents():
    return [torch.arange(1, n + 1) for n in LENGTHS]


@pytest.fixture
def rows():
    return list(pack(enumerate(LENGTHS), CONTEXT + 1))


@pytest.fixture
def packed(documents, rows) -> PackedBatch:
    return packed_batch(rows, lambda p: documents[p.document][p.start : p.stop], CONTEXT)


def test_packed_table_is_the_rows_that_were_packed(packed, rows):
    table = document_table(packed)
    for numbers, row in zip(table, rows, strict=True):
        wanted = [n for n, piece in enumerate(row) for _ in range(piece.length)][:CONTEXT]
        assert numbers.tolist() == wanted + [PADDING] * (CONTEXT - len(wanted))
    used = sum(min(CONTEXT, sum(piece.length for piece in row)) for row in rows)
    assert padding_share(table) == pytest.approx(1 - used / table.size)
    assert abs(padding_share(table) - padding_of(rows, CONTEXT + 1)) < 0.1


def test_padded_table_has_one_document_a_row(documents):
    [batch] = document_aligned(documents, CONTEXT, 7, shuffle=False, epochs=1, width_multiple=1)
    table = document_table(batch)
    assert sorted((table == 0).sum(1)) == sorted(n - 1 for n in LENGTHS)  # inputs of each
    assert set(table.flat) == {0, PADDING}
    unscored = (batch.targets == IGNORE_INDEX).float().mean().item()
    assert padding_share(table) == pytest.approx(unscored)


def test_a_hole_in_the_targets_is_not_padding():
    """Targets may be left out, as a prompt's are: only the end of a row is padding."""
    targets = torch.tensor([[IGNORE_INDEX, IGNORE_INDEX, 5, IGNORE_INDEX]])
    assert document_table(Batch(targets, targets)).tolist() == [[0, 0, 0, PADDING]]


def test_every_document_is_one_patch_and_neighbours_differ(drawn, packed, rows):
    ax = drawn(plot_packing, packed).axes[0]
    padded = [sum(piece.length for piece in row) < CONTEXT for row in rows]
    assert len(ax.patches) == sum(map(len, rows)) + sum(padded)
    assert sum(p.get_width() for p in ax.patches) == packed.targets.numel()
    assert sum(p.get_hatch() is not None for p in ax.patches) == sum(padded)
    for before, after in pairwise(ax.patches):
        if before.get_y() == after.get_y():
            assert before.get_facecolor() != after.get_facecolor()
    assert to_hex(ax.patches[0].get_facecolor()).upper() == TINTS[0].upper()


def test_several_batches_share_one_scale_and_name_their_padding(drawn, packed, documents):
    narrow = Batch(torch.ones(20, 4), torch.ones(20, 4))
    figure = drawn(plot_packing, {"packed": packed, "narrow": narrow}, most_rows=3, title="two")
    first, second = figure.axes
    assert first.get_xlim() == second.get_xlim() == (0, CONTEXT)
    share = padding_share(document_table(packed))
    assert first.get_title("left").startswith(f"packed: {share:.1%} padding, ")
    assert second.get_title("left") == (
        "narrow: 0.0% padding, 80 of 80 tokens used (3 of 20 rows drawn)"
    )
    assert second.get_ylabel() == "3 rows" and second.get_xlabel() == "position in the row (tokens)"


@pytest.mark.parametrize(
    ("batches", "options", "message"),
    [
        ({}, {}, "no batch"),
        (Batch(torch.ones(3), torch.ones(3)), {}, r"shape \(B, T\), not \(3,\)"),
        (Batch(torch.ones(1, 3), torch.ones(1, 3)), {"most_rows": 0}, "most_rows=0"),
        (
            PackedBatch(torch.ones(1, 3), torch.ones(1, 3), torch.ones(1, 2)),
            {},
            r"documents \(1, 2\) and targets \(1, 3\) differ",
        ),
    ],
)
def test_bad_batches_are_refused(batches, options, message):
    with pytest.raises(ValueError, match=message):
        plot_packing(batches, **options)


def test_tints_differ_in_a_grey_print():
    from llmcourse.show.style import lightness

    assert np.abs(np.diff([lightness(t) for t in (*TINTS, TINTS[0])])).min() > 8
