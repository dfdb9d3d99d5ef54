"""Mixtures: every source has its share at any moment, and all of each source is seen."""

from __future__ import annotations

from collections import Counter
from itertools import count, islice, pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llmcourse.data import IGNORE_INDEX
from llmcourse.data.mixture import LOOK_AHEAD, Source, interleaved, mixture
from llmcourse.data.packing import pieces_of
from llmcourse.data.resumable import Replayed

quick = settings(max_examples=60, deadline=None, derandomize=True)
THOUSAND = 1000  # ids of the n-th source begin at n thousand, so an id tells where it comes from


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def sources(shares=(3, 1, 1)) -> list[Source]:
    """Three sources of many short, some middling and one long document; every id differs."""
    lengths = ([7, 5, 9, 6, 8] * 6, [20, 24, 30], [150])
    made = []
    for number, (share, sizes) in enumerate(zip(shares, lengths)):
        ids, documents = iter(range(number * THOUSAND, (number + 1) * THOUSAND)), []
        for size in sizes:
            documents.append([next(ids) for _ in range(size)])
        made.append(Source("abc"[number], documents, share))
    return made


class TestCut:
    @quick
    @given(st.integers(0, 60), st.integers(2, 12), st.data())
    def test_every_target_is_in_exactly_one_piece(self, length, row_tokens, data):
        first = data.draw(st.integers(1, row_tokens - 1))
        made = list(pieces_of(7, length, row_tokens, first))
        assert {piece.document for piece in made} <= {7}
        pieces = [(piece.start, piece.stop) for piece in made]
        targets = [place for start, stop in pieces for place in range(start + 1, stop)]
        assert targets == list(range(1, length))
        assert all(2 <= stop - start <= row_tokens for start, stop in pieces)
        if length > row_tokens:
            assert pieces[0] == (0, first + 1)
        elif length > 1:
            assert pieces == [(0, length)]


class TestShares:
    @quick
    @given(st.lists(st.floats(0.01, 1.0), min_size=3, max_size=3), st.integers(0, 99))
    def test_each_source_is_never_far_from_its_share(self, shares, seed):
        row_tokens, given_so_far, total = 17, Counter(), 0
        for name, ids in islice(interleaved(sources(shares), row_tokens, generator(seed)), 300):
            given_so_far[name] += len(ids)
            total += len(ids)
            for place, share in zip("abc", shares):
                wanted = total * share / sum(shares)
                # The source furthest behind goes next: nobody is ahead by more than one piece.
                assert given_so_far[place] <= wanted + row_tokens
                assert given_so_far[place] >= wanted - 2 * row_tokens

    def test_the_batches_keep_the_shares(self):
        seen = Counter()
        for batch in islice(mixture(sources((0.5, 0.3, 0.2)), 32, 4, generator()), 60):
            kept = batch.targets[batch.targets != IGNORE_INDEX]
            seen.update((kept // THOUSAND).tolist())
        shares = [seen[number] / seen.total() for number in range(3)]
        # Targets rather than tokens, so a source of short documents has a little less.
        assert shares == pytest.approx([0.5, 0.3, 0.2], abs=0.05)


class TestSource:
    def test_an_epoch_holds_every_target_once(self):
        [source] = sources((1, 1, 1))[1:2]
        wanted = sorted(
            pair for document in source.documents for pair in pairwise(document.tolist())
        )
        stream = interleaved([source], 13, generator())
        for _ in range(3):  # epochs; the number of pieces differs with the cuts
            found = []
            while len(found) < len(wanted):
                found += pairwise(next(stream)[1].tolist())
            assert sorted(found) == wanted

    def test_long_documents_are_cut_elsewhere_in_each_epoch(self):
        document = list(range(100))
        stream = interleaved([Source("a", [document], 1)], 17, generator())
        starts = {int(ids[0]) for _, ids in islice(stream, 70)} - {0}
        assert len(starts) > 30  # cut in one way only, a document has six pieces

    def test_a_stream_is_taken_as_it_comes_and_begun_again_when_it_ends(self):
        begun = []

        def documents():
            begun.append(1)
            yield from ([1, 2, 3], [4], list(range(10, 40)))

        stream = interleaved([Source("a", documents, 1)], 17, generator())
        found = [next(stream)[1].tolist() for _ in range(8)]
        assert found[0] == [1, 2, 3]
        # A single token teaches nothing; the long document comes in pieces of any order.
        again = found.index([1, 2, 3], 1)
        pairs = sorted(pair for piece in found[1:again] for pair in pairwise(piece))
        assert pairs == list(pairwise(range(10, 40)))
        assert len(begun) >= 2

    def test_a_stream_is_drawn_no_further_than_it_is_needed(self):
        drawn = []

        def documents():
            for number in count():
                drawn.append(number)
                yield [number] * 10

        batches = mixture([Source("a", documents, 1)], 32, 2, generator())
        assert not drawn
        next(batches)
        assert len(drawn) <= LOOK_AHEAD + 10

    def test_an_empty_stream_is_refused_when_it_is_asked(self):
        batches = mixture([Source("a", lambda: iter([[1], [2]]), 1)], 8, 2, generator())
        with pytest.raises(ValueError, match="stream 'a' holds nothing"):
            next(batches)
        batches = mixture([Source("a", lambda: iter([[0.5, 1]]), 1)], 8, 2, generator())
        with pytest.raises(ValueError, match="a, document 0 must be one row of integer ids"):
            next(batches)

    def test_a_mixture_can_be_taken_up_again(self):
        def make(given):
            return mixture(sources(), 16, 2, given)

        whole = list(islice(make(generator()), 6))
        first = Replayed(make, generator())
        for _ in range(3):
            next(first)
        second = Replayed(make, generator(7))
        second.load_state_dict(first.state_dict())
        for expected in whole[3:]:
            assert all(torch.equal(x, y) for x, y in zip(next(second), expected))


class TestBatches:
    def test_the_same_seed_gives_the_same_batches_and_another_seed_others(self):
        runs = [list(islice(mixture(sources(), 32, 4, generator(seed)), 5)) for seed in (1, 1, 2)]
        for one, two in zip(runs[0], runs[1]):
            assert all(torch.equal(x, y) for x, y in zip(one, two))
        assert any(not torch.equal(x.inputs, y.inputs) for x, y in zip(runs[0], runs[2]))

    def test_a_target_follows_its_input_in_the_same_document(self):
        for batch in islice(mixture(sources(), 32, 4, generator()), 10):
            assert batch.inputs.shape == (4, 32)
            scored = batch.targets != IGNORE_INDEX
            assert torch.equal(batch.targets[scored], batch.inputs[scored] + 1)
            # Within a row, a document's number stands for ids of one source only.
            for inputs, documents, kept in zip(batch.inputs, batch.documents, scored):
                for number in documents[kept].unique():
                    one = inputs[kept & (documents == number)] // THOUSAND
                    assert len(one.unique()) == 1

    def test_little_is_padded(self):
        batches = list(islice(mixture(sources(), 64, 4, generator()), 20))
        unscored = sum((batch.targets == IGNORE_INDEX).float().mean().item() for batch in batches)
        # The first token of a document is no target; what is beyond that is padding.
        assert unscored / len(batches) < 0.2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sources": []}, "names that differ"),
        ({"sources": [*sources()[:1], *sources()[:1]]}, "names that differ"),
        ({"context_length": 0}, "context_length must be"),
        ({"batch_size": 0}, "batch_size must be"),
        ({"generator": None}, "torch.Generator"),
    ],
)
def test_bad_input_is_refused_at_the_call(change, message):
    good = {"sources": sources(), "context_length": 8, "batch_size": 2, "generator": generator()}
    with pytest.raises(ValueError, match=message):
        mixture(**(good | change))


@pytest.mark.parametrize(
    ("documents", "share", "message"),
    [
        ([[1, 2]], 0, "share of 'a' must be above 0"),
        ([[1, 2]], float("nan"), "share of 'a'"),
        ([], 1, "no document of at least 2 tokens"),
        ([[1], [2]], 1, "no document of at least 2 tokens"),
        ([[1, 2], [0.5]], 1, "a, document 1 must be one row of integer ids"),
    ],
)
def test_bad_sources_are_refused(documents, share, message):
    with pytest.raises(ValueError, match=message):
        Source("a", documents, share)
