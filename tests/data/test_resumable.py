"""Replayed batches: the same ones, taken up anywhere; and nothing else in their place."""

from __future__ import annotations

import itertools
import json
import random

import pytest
import torch

from llmcourse.data.batches import Batch, document_aligned, sliding_window, windows
from llmcourse.data.resumable import Replayed, Share

IDS = torch.randint(0, 50, (400,), generator=torch.Generator().manual_seed(1))
DOCUMENTS = [[n] * (2 + n % 9) for n in range(1, 60)]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def sliding(generator: torch.Generator, ids=IDS, context_length=7, batch_size=3):
    return sliding_window(ids, context_length, batch_size, generator)


def documents(generator: torch.Generator, rows=DOCUMENTS):
    return document_aligned(rows, 12, 4, generator)  # 15 batches an epoch


def take(batches, n: int) -> list[Batch]:
    return list(itertools.islice(batches, n))


def same(first: list[Batch], second: list[Batch]) -> bool:
    return len(first) == len(second) and all(
        torch.equal(x, y) for a, b in zip(first, second) for x, y in zip(a, b)
    )


def through_json(state: dict) -> dict:
    return json.loads(json.dumps(state))


@pytest.mark.parametrize("make", [sliding, documents])
class TestReplay:
    def test_the_batches_are_those_of_the_function(self, make):
        assert same(take(Replayed(make, seeded(3)), 50), take(make(seeded(3)), 50))

    def test_taken_up_anywhere_they_go_on(self, make):
        expected = take(make(seeded()), 60)
        for n in [0, 1, *random.Random(0).sample(range(2, 45), 8)]:  # across several epochs
            first = Replayed(make, seeded())
            take(first, n)
            second = Replayed(make, seeded(99))  # the saved state decides, not this seed
            take(second, 5)  # and not what it had handed out before
            second.load_state_dict(through_json(first.state_dict()))
            assert second.handed_out == n
            assert same(take(second, 12), expected[n : n + 12])
            # Saved again after it was resumed, it still counts from the beginning.
            third = Replayed(make, seeded())
            third.load_state_dict(through_json(second.state_dict()))
            assert same(take(third, 3), expected[n + 12 : n + 15])

    def test_other_draws_from_the_generator_do_not_reach_them(self, make):
        generator = seeded(4)
        before = generator.get_state()
        batches = Replayed(make, generator)
        got = []
        for _ in range(20):
            got += take(batches, 1)
            torch.rand(3, generator=generator)  # dropout, say
        assert same(got, take(make(seeded(4)), 20))
        assert torch.equal(seeded(4).get_state(), before)

    def test_the_state_describes_what_was_handed_out_and_changes_nothing(self, make):
        batches = Replayed(make, seeded())
        take(batches, 4)
        state = batches.state_dict()
        assert state == batches.state_dict() and state["handed_out"] == 4
        assert same(take(batches, 3), take(make(seeded()), 7)[4:])
        assert state["handed_out"] == 4


def test_a_batch_that_was_changed_in_place_is_no_obstacle():
    batches = Replayed(sliding, seeded())
    next(batches).targets.fill_(-100)
    other = Replayed(sliding, seeded())
    other.load_state_dict(batches.state_dict())
    assert same(take(other, 2), take(sliding(seeded()), 3)[1:])


def test_batches_that_end():
    batches = Replayed(lambda g: windows(IDS[:50], 7, 2), seeded())
    assert len(take(batches, 100)) == batches.handed_out == 4
    assert next(batches, None) is None
    state = batches.state_dict()
    other = Replayed(lambda g: windows(IDS[:50], 7, 2), seeded())
    other.load_state_dict(state)
    assert next(other, None) is None


class TestRefusals:
    def saved(self, n: int = 5) -> dict:
        batches = Replayed(sliding, seeded())
        take(batches, n)
        return through_json(batches.state_dict())

    @pytest.mark.parametrize(
        "make",
        [
            lambda g: sliding(g, ids=IDS.flip(0)),  # another text
            lambda g: sliding(g, ids=IDS + 1),  # another tokenizer
            lambda g: sliding(g, ids=IDS[:-1]),  # a text that has lost its end
            lambda g: sliding(g, context_length=8),
            lambda g: sliding(g, batch_size=4),
            documents,
        ],
    )
    def test_other_batches(self, make):
        batches = Replayed(make, seeded(7))
        take(batches, 2)
        with pytest.raises(ValueError, match="batch 5 is not the one that was handed out; the tex"):
            batches.load_state_dict(self.saved())
        # They stay where they were.
        assert batches.handed_out == 2
        assert same(take(batches, 3), take(make(seeded(7)), 5)[2:])

    def test_batches_that_end_too_soon(self):
        batches = Replayed(lambda g: itertools.islice(sliding(g), 4), seeded())
        with pytest.raises(ValueError, match=r"these batches end after 4, but 5 had been handed"):
            batches.load_state_dict(self.saved())

    @pytest.mark.parametrize(
        "change",
        [
            {"generator": "xyz"},
            {"generator": "00" * 10},
            {"generator": None},
            {"handed_out": "many"},
            {"handed_out": -1},
            {"handed_out": 0},
            {"last": None},
        ],
    )
    def test_damaged_states(self, change):
        batches = Replayed(sliding, seeded())
        with pytest.raises(ValueError, match="the state of these batches is damaged"):
            batches.load_state_dict(self.saved() | change)
        assert same(take(batches, 2), take(sliding(seeded()), 2))

    @pytest.mark.parametrize("name", ["generator", "handed_out", "last"])
    def test_states_that_lack_something(self, name):
        state = self.saved()
        del state[name]
        with pytest.raises(ValueError, match=f"damaged: KeyError.*{name}"):
            Replayed(sliding, seeded()).load_state_dict(state)

    def test_no_generator(self):
        with pytest.raises(ValueError, match=r"random batches need a torch.Generator"):
            Replayed(sliding, None)

    def test_what_the_function_refuses_is_refused_at_once(self):
        with pytest.raises(ValueError, match="too few for context_length 400"):
            Replayed(lambda g: sliding(g, context_length=400), seeded())


class TestShares:
    def shares(self, size: int, seed: int = 0, batch_size: int = 12) -> list[Share]:
        return [
            Share(Replayed(lambda g: sliding(g, batch_size=batch_size), seeded(seed)), rank, size)
            for rank in range(size)
        ]

    def together(self, shares: list[Share], n: int) -> list[Batch]:
        parts = zip(*(take(share, n) for share in shares))
        return [Batch(*(torch.cat(fields) for fields in zip(*rows))) for rows in parts]

    @pytest.mark.parametrize("size", [1, 2, 3, 12])
    def test_together_they_are_the_whole(self, size):
        expected = take(sliding(seeded(), batch_size=12), 4)
        assert same(self.together(self.shares(size), 4), expected)

    def test_another_number_of_them_goes_on(self):
        expected = take(sliding(seeded(), batch_size=12), 9)
        two = self.shares(2)
        assert same(self.together(two, 5), expected[:5])
        states = [through_json(share.state_dict()) for share in two]
        assert states[0] == states[1]
        three = self.shares(3, seed=5)
        for share in three:
            share.load_state_dict(states[0])
        assert same(self.together(three, 4), expected[5:])

    def test_rows_that_cannot_be_shared_out(self):
        (first, _) = self.shares(2, batch_size=5)
        with pytest.raises(ValueError, match=r"a batch of 5 rows cannot be shared out among 2 pro"):
            next(first)

    @pytest.mark.parametrize("rank", [-1, 2])
    def test_a_rank_that_is_none(self, rank):
        with pytest.raises(ValueError, match=f"rank={rank} must be 0 to 1"):
            Share(Replayed(sliding, seeded()), rank, 2)
