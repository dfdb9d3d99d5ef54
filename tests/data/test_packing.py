"""Packed rows: nothing lost, nothing twice, nothing seen across a boundary."""

from __future__ import annotations

import itertools
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llmcourse.data import IGNORE_INDEX
from llmcourse.data.packing import (
    Piece,
    pack,
    packed_batch,
    packed_rows,
    padding_of,
    pieces_of,
)
from llmcourse.model import ModelConfig, Transformer

quick = settings(max_examples=100, deadline=None, derandomize=True)
lengths_strategy = st.lists(st.integers(1, 40), min_size=1, max_size=30)


def distinct(lengths: list[int]) -> list[list[int]]:
    """Documents in which every token differs from every other, so each tells its place."""
    numbers = itertools.count(1)
    return [[next(numbers) for _ in range(length)] for length in lengths]


def batch_of(documents, rows, context_length):
    return packed_batch(rows, lambda p: documents[p.document][p.start : p.stop], context_length)


class TestPack:
    @quick
    @given(lengths_strategy, st.integers(2, 20), st.integers(1, 8))
    def test_every_target_of_every_document_is_scored_once(self, lengths, row_tokens, look_ahead):
        documents = distinct(lengths)
        rows = list(pack(enumerate(lengths), row_tokens, look_ahead))
        expected = sorted(pair for d in documents for pair in itertools.pairwise(d))
        if not rows:
            assert not expected  # single tokens predict nothing
            return
        batch = batch_of(documents, rows, row_tokens - 1)
        scored = batch.targets != IGNORE_INDEX
        found = zip(batch.inputs[scored].tolist(), batch.targets[scored].tolist())
        assert sorted(found) == expected

    @quick
    @given(lengths_strategy, st.integers(2, 20), st.integers(1, 8))
    def test_rows_fit_and_only_what_is_longer_than_a_row_is_cut(self, lengths, row_tokens, ahead):
        for row in pack(enumerate(lengths), row_tokens, ahead):
            assert 2 <= sum(p.length for p in row) <= row_tokens
            for piece in row:
                whole = piece == Piece(piece.document, 0, lengths[piece.document])
                assert whole or lengths[piece.document] > row_tokens

    @quick
    @given(lengths_strategy, st.integers(2, 20), st.integers(1, 8))
    def test_against_a_plain_loop(self, lengths, row_tokens, look_ahead):
        coming = [p for n, x in enumerate(lengths) for p in pieces_of(n, x, row_tokens)]
        expected = []
        while coming:
            row, space = [coming.pop(0)], row_tokens
            space -= row[0].length
            while True:
                fitting = [p for p in coming[:look_ahead] if p.length <= space]
                if not fitting:
                    break
                best = max(fitting, key=lambda p: p.length)  # the first of equals
                row.append(best)
                coming.remove(best)
                space -= best.length
            expected.append(row)
        assert list(pack(enumerate(lengths), row_tokens, look_ahead)) == expected

    def test_a_long_document_shares_one_token_between_its_pieces(self):
        assert list(pieces_of(7, 10, 4)) == [Piece(7, 0, 4), Piece(7, 3, 7), Piece(7, 6, 10)]
        assert list(pieces_of(7, 11, 4))[-1] == Piece(7, 9, 11)
        assert list(pieces_of(7, 1, 4)) == []

    def test_looking_further_ahead_wastes_less(self):
        generator = random.Random(0)
        lengths = [generator.randint(5, 300) for _ in range(3000)]
        shares = [
            padding_of(list(pack(enumerate(lengths), 513, ahead)), 513) for ahead in (1, 8, 64, 512)
        ]
        assert shares == sorted(shares, reverse=True)
        assert shares[0] > 0.1
        assert shares[-1] < 0.005
        # No packing wastes less than rounding the sum up to whole rows.
        assert shares[-1] >= 1 - sum(lengths) / (513 * -(-sum(lengths) // 513)) - 1e-12

    def test_none_waits_for_ever(self):
        # Documents of 10 fill a row exactly, so the one of 3 would never be the best fit.
        lengths = [10] * 5 + [3] + [10] * 100
        assert list(pack(enumerate(lengths), 10, 4))[5] == [Piece(5, 0, 3)]

    def test_it_is_lazy(self):
        endless = ((n, 3) for n in itertools.count())
        rows = list(itertools.islice(pack(endless, 7, 5), 4))
        assert [[p.document for p in row] for row in rows] == [[0, 1], [2, 3], [4, 5], [6, 7]]

    @pytest.mark.parametrize("sizes", [(1, 5), (0, 5), (8, 0), (2.5, 5)])
    def test_bad_sizes(self, sizes):
        with pytest.raises(ValueError, match="whole number"):
            pack([], *sizes)

    def test_padding_of_nothing(self):
        with pytest.raises(ValueError, match="no rows"):
            padding_of([], 5)


class TestPackedBatch:
    def test_a_row_by_hand(self):
        documents = [[10, 11, 12], [20, 21], [30, 31, 32]]
        rows = [[Piece(0, 0, 3), Piece(1, 0, 2)], [Piece(2, 0, 3)]]
        batch = batch_of(documents, rows, 6)
        no = IGNORE_INDEX
        assert batch.inputs.tolist() == [[10, 11, 12, 20, 21, 0], [30, 31, 32, 0, 0, 0]]
        assert batch.targets.tolist() == [[11, 12, no, 21, no, no], [31, 32, no, no, no, no]]
        assert batch.documents.tolist() == [[0, 0, 0, 1, 1, 2], [0, 0, 0, 1, 1, 1]]
        # Full rows: the last token is only a target.
        full = batch_of(documents, rows[:1], 4)
        assert full.inputs.tolist() == [[10, 11, 12, 20]]
        assert full.targets.tolist() == [[11, 12, no, 21]]
        assert full.batch.inputs is full.inputs

    @pytest.mark.parametrize("architecture", ["gpt2", "modern"])
    def test_a_document_computes_what_it_would_alone(self, architecture):
        modern = {"positions": "rope", "norm": "rms", "feed_forward": "gated"}
        config = ModelConfig(
            vocab_size=40,
            context_length=24,
            n_layers=2,
            n_heads=2,
            d_model=16,
            **(modern if architecture == "modern" else {}),
        )
        model = Transformer(config, generator=torch.Generator().manual_seed(1)).double().eval()
        generator = random.Random(3)
        lengths = [5, 13, 9, 7, 2, 18, 24, 6]
        documents = [[generator.randrange(40) for _ in range(n)] for n in lengths]
        rows = list(pack(enumerate(lengths), 25, 8))
        assert any(len(row) > 2 for row in rows)
        batch = batch_of(documents, rows, 24)
        with torch.no_grad():
            packed = model(batch.inputs, documents=batch.documents)
            crossing = model(batch.inputs)
        worst = 0.0
        for place, row in enumerate(rows):
            first = 0
            for piece in row:
                n = min(piece.length, 24 - first)
                with torch.no_grad():
                    alone = model(torch.tensor([documents[piece.document][:n]]))[0]
                torch.testing.assert_close(
                    packed[place, first : first + n], alone, rtol=1e-9, atol=1e-9
                )
                worst = max(worst, (crossing[place, first : first + n] - alone).abs().max().item())
                first += n
        assert worst > 1e-3  # without the numbers, documents do see each other
        assert packed.isfinite().all()  # padding too

    def test_rows_that_do_not_fit(self):
        with pytest.raises(ValueError, match="row 0 has 6 tokens; context_length 4 takes 2 to 5"):
            batch_of([[1, 2, 3]] * 2, [[Piece(0, 0, 3), Piece(1, 0, 3)]], 4)
        with pytest.raises(ValueError, match="row 0 has 0 tokens"):
            batch_of([], [[]], 4)
        with pytest.raises(ValueError, match="rows must be"):
            batch_of([], [], 4)

    def test_a_piece_of_another_length(self):
        with pytest.raises(ValueError, match=r"has 3 tokens, got shape \(2,\)"):
            packed_batch([[Piece(0, 0, 3)]], lambda piece: [1, 2], 4)


class TestPackedRows:
    @quick
    @given(lengths_strategy, st.integers(1, 12), st.integers(1, 4))
    def test_one_pass_has_every_target_once(self, lengths, context_length, batch_size):
        documents = distinct(lengths)
        expected = sorted(pair for d in documents for pair in itertools.pairwise(d))
        if not expected:
            with pytest.raises(ValueError, match="nothing to predict"):
                packed_rows(documents, context_length, batch_size)
            return
        batches = list(packed_rows(documents, context_length, batch_size))
        assert all(len(batch.inputs) == batch_size for batch in batches[:-1])
        found = [
            (int(i), int(t))
            for batch in batches
            for i, t in zip(batch.inputs.flatten(), batch.targets.flatten())
            if t != IGNORE_INDEX
        ]
        assert sorted(found) == expected

    def test_what_cannot_be_packed(self):
        with pytest.raises(ValueError, match="document 1"):
            packed_rows([[1, 2], [[3]]], 4, 1)
        with pytest.raises(ValueError, match="batch_size"):
            packed_rows([[1, 2]], 4, 0)
