"""The loader: the order of rows, exact resume, ranks, and its thread."""

from __future__ import annotations

import gc
import itertools
import json
import random
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llmcourse.data import IGNORE_INDEX, Batch
from llmcourse.data.loader import LoaderConfig, ShardLoader
from llmcourse.data.packing import PackedBatch
from llmcourse.data.prefetch import Ahead
from llmcourse.data.shard_writer import ShardWriter
from llmcourse.data.shards import Shards, tokenizer_fingerprint
from llmcourse.tokenizers import ByteTokenizer

quick = settings(max_examples=25, deadline=None, derandomize=True)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def write(folder: Path, lengths: list[int], tokens_per_shard: int = 50) -> Shards:
    """Documents in which every token differs from every other."""
    header = {
        "dtype": "uint16",
        "vocab_size": 65536,
        "tokenizer": {"kind": "bytes", "special_tokens": []},
        "tokenizer_fingerprint": tokenizer_fingerprint(ByteTokenizer()),
    }
    writer = ShardWriter(folder, header, tokens_per_shard)
    numbers = itertools.count(1)
    for number, length in enumerate(lengths):
        writer.add(np.array([next(numbers) for _ in range(length)]), number)
    writer.finish(len(lengths))
    return Shards(folder)


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Shards:
    generator = random.Random(0)
    folder = tmp_path_factory.mktemp("shards")
    return write(folder, [generator.randint(1, 30) for _ in range(60)])


def take(loader: ShardLoader, n: int) -> list[Batch | PackedBatch]:
    with loader:
        return list(itertools.islice(loader, n))


def same(first, second) -> bool:
    return len(first) == len(second) and all(
        type(a) is type(b) and all(torch.equal(x, y) for x, y in zip(a, b))
        for a, b in zip(first, second)
    )


def pairs(batch: Batch | PackedBatch) -> list[tuple[int, int]]:
    scored = batch.targets != IGNORE_INDEX
    return list(zip(batch.inputs[scored].tolist(), batch.targets[scored].tolist()))


class TestOrder:
    def test_windows_are_the_text_cut_at_an_offset(self, shards):
        n, t = shards.n_tokens, 16
        loader = ShardLoader(shards, LoaderConfig(t, 1), seeded())
        epochs: dict[int, list[Batch]] = {}
        with loader:
            while loader.epoch < 3:
                batch = next(loader)
                epochs.setdefault(loader.epoch, []).append(batch)
        offsets, orders = set(), set()
        for epoch in range(3):
            # Rows handed out in an epoch: all of them, each once.
            starts = [int(b.inputs[0, 0]) - 1 for b in epochs[epoch]]
            offset = min(starts)
            expected = range(offset, offset + t * ((n - 1 - offset) // t), t)
            assert sorted(starts) == list(expected)
            assert starts != sorted(starts)
            offsets.add(offset)
            orders.add(tuple(starts))
            for batch in epochs[epoch]:
                row = batch.inputs[0]
                assert row.tolist() == list(range(int(row[0]), int(row[0]) + t))
                assert batch.targets[0].tolist() == [x + 1 for x in row.tolist()]
        assert len(orders) == 3
        assert len(offsets) > 1

    def test_a_packed_epoch_scores_every_target_of_every_document_once(self, shards):
        loader = ShardLoader(shards, LoaderConfig(16, 1, packed=True, look_ahead=8), seeded())
        found = []
        with loader:
            batch = next(loader)
            while loader.epoch == 0:
                assert isinstance(batch, PackedBatch)
                found += pairs(batch)
                batch = next(loader)
        expected = [
            pair
            for n in range(shards.n_documents)
            for pair in itertools.pairwise(shards.document(n).tolist())
        ]
        assert sorted(found) == sorted(expected)
        assert found != sorted(found)

    def test_rows_left_at_the_end_start_the_next_batch(self, tmp_path):
        shards = write(tmp_path, [31])  # 3 windows of 10 at offset 0, 2 else
        loader = ShardLoader(shards, LoaderConfig(10, 7, prefetch=0), seeded())
        firsts = next(loader).inputs[:, 0].tolist()
        one = [
            int(b.inputs[0, 0]) for b in take(ShardLoader(shards, LoaderConfig(10, 1), seeded()), 7)
        ]
        assert firsts == one
        assert loader.epoch >= 2

    def test_the_smallest_text(self, tmp_path):
        shards = write(tmp_path, [11])
        batch = next(ShardLoader(shards, LoaderConfig(10, 2, prefetch=0), seeded()))
        assert batch.inputs.tolist() == [list(range(1, 11))] * 2

    def test_the_seed_decides_and_the_callers_generator_is_left_alone(self, shards):
        config = LoaderConfig(8, 3)
        generator = seeded(5)
        before = generator.get_state()
        first = take(ShardLoader(shards, config, generator), 6)
        assert torch.equal(generator.get_state(), before)
        assert same(first, take(ShardLoader(shards, config, seeded(5)), 6))
        assert not same(first, take(ShardLoader(shards, config, seeded(6)), 6))


@pytest.mark.parametrize("packed", [False, True])
class TestResume:
    @quick
    @given(st.integers(0, 40), st.integers(0, 3), st.integers(0, 5))
    def test_it_sees_exactly_what_it_would_have_seen(self, packed, shards, before, depth, ahead):
        config = LoaderConfig(12, 5, packed=packed, look_ahead=6, prefetch=depth)
        whole = take(ShardLoader(shards, config, seeded()), before + 6)
        stopped = ShardLoader(shards, config, seeded())
        with stopped:
            for _ in range(before):
                next(stopped)
            state = json.loads(json.dumps(stopped.state_dict()))  # as a checkpoint keeps it
            for _ in range(ahead):  # what came after the save is lost in the crash
                next(stopped)
        resumed = ShardLoader(shards, config, seeded(99))
        resumed.load_state_dict(state)
        assert same(take(resumed, 6), whole[before:])

    def test_a_loader_can_be_set_back(self, packed, shards):
        loader = ShardLoader(shards, LoaderConfig(12, 5, packed=packed), seeded())
        with loader:
            next(loader)
            state = loader.state_dict()
            first = list(itertools.islice(loader, 5))
            loader.load_state_dict(state)
            assert same(list(itertools.islice(loader, 5)), first)

    def test_ranks_together_see_what_one_process_sees(self, packed, shards):
        def loader(rows, rank, world):
            config = LoaderConfig(12, rows, packed=packed, look_ahead=6)
            return ShardLoader(shards, config, seeded(), rank=rank, world_size=world)

        one = take(loader(6, 0, 1), 30)
        for world in (2, 3):
            ranks = [take(loader(6 // world, r, world), 30) for r in range(world)]
            for step, batch in enumerate(one):
                for field, whole in enumerate(batch):
                    assert torch.equal(torch.cat([r[step][field] for r in ranks]), whole)

    def test_the_number_of_ranks_may_change(self, packed, shards):
        config = LoaderConfig(12, 6, packed=packed)
        whole = take(ShardLoader(shards, config, seeded()), 9)
        half = LoaderConfig(12, 3, packed=packed)
        two = [ShardLoader(shards, half, seeded(), rank=r, world_size=2) for r in range(2)]
        states = []
        for loader in two:
            take(loader, 4)
            states.append(loader.state_dict())
        assert states[0] == states[1]
        resumed = ShardLoader(shards, config, seeded(7))
        resumed.load_state_dict(states[0])
        assert same(take(resumed, 5), whole[4:])

    @pytest.mark.parametrize(
        ("change", "field"),
        [
            ({"context_length": 13}, "context_length was 12 and is 13"),
            ({"batch_size": 4}, "global_batch_size was 5 and is 4"),
            ({"packed": None}, "packed was"),
        ],
    )
    def test_a_changed_config_is_refused_by_name(self, packed, shards, change, field):
        config = {"context_length": 12, "batch_size": 5, "packed": packed}
        state = ShardLoader(shards, LoaderConfig(**config), seeded()).state_dict()
        change = {k: (not packed if v is None else v) for k, v in change.items()}
        other = ShardLoader(shards, LoaderConfig(**config | change), seeded())
        with pytest.raises(ValueError, match=field):
            other.load_state_dict(state)

    def test_other_shards_are_refused(self, packed, shards, tmp_path):
        config = LoaderConfig(12, 5, packed=packed)
        state = ShardLoader(shards, config, seeded()).state_dict()
        with pytest.raises(ValueError, match="shards was"):
            ShardLoader(write(tmp_path, [40, 40]), config, seeded()).load_state_dict(state)

    @pytest.mark.parametrize(
        "damage",
        [{"generator": "zz"}, {"generator": "00"}, {"epoch": None}, {"row": -1}, {"generator": 3}],
    )
    def test_a_damaged_state(self, packed, shards, damage):
        loader = ShardLoader(shards, LoaderConfig(12, 5, packed=packed), seeded())
        with pytest.raises(ValueError, match="damaged"):
            loader.load_state_dict(loader.state_dict() | damage)


def prefetching() -> int:
    return sum(thread.name == "prefetch" for thread in threading.enumerate())


def ends_within(seconds: float, wanted: int) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if prefetching() <= wanted:
            return True
        time.sleep(0.01)
    return False


class TestThread:
    def test_it_works_ahead_and_no_further(self):
        made = []
        source = (made.append(n) or n for n in itertools.count())
        ahead = Ahead(source, 3)
        assert next(ahead) == 0
        end = time.monotonic() + 5
        while len(made) < 5 and time.monotonic() < end:
            time.sleep(0.01)
        time.sleep(0.05)
        assert made == [0, 1, 2, 3, 4]  # one taken, three in the queue, one in hand
        assert [next(ahead) for _ in range(4)] == [1, 2, 3, 4]
        ahead.close()

    def test_an_error_comes_where_its_item_would_have_come(self):
        def source():
            yield 1
            raise KeyError("broken")

        ahead = Ahead(source(), 2)
        assert next(ahead) == 1
        for _ in range(2):
            with pytest.raises(KeyError, match="broken"):
                next(ahead)

    def test_close_and_oblivion_end_it(self, shards):
        before = prefetching()
        closed, forgotten = (ShardLoader(shards, LoaderConfig(8, 2), seeded()) for _ in range(2))
        next(closed), next(forgotten)
        assert prefetching() == before + 2
        closed.close()
        assert prefetching() == before + 1
        del forgotten
        gc.collect()
        assert ends_within(5, before)

    def test_a_shard_that_goes_is_reported_and_nothing_is_skipped(self, tmp_path):
        shards = write(tmp_path, [30] * 6, 30)
        config = LoaderConfig(10, 2)
        expected = take(ShardLoader(shards, config, seeded()), 8)
        moved = tmp_path / "moved"
        gone = tmp_path / "shard-00003.bin"
        gone.rename(moved)
        shards._maps.clear()  # as a process that has not read from it yet
        fresh = ShardLoader(shards, config, seeded())
        seen = []
        with fresh:
            with pytest.raises(FileNotFoundError, match="shard-00003"):
                for _ in range(8):
                    seen.append(next(fresh))
            with pytest.raises(FileNotFoundError, match="shard-00003"):
                next(fresh)
            moved.rename(gone)
            seen += itertools.islice(fresh, 8 - len(seen))
        assert same(seen, expected)


class TestBadInput:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"context_length": 0}, "context_length"),
            ({"batch_size": 1.5}, "batch_size"),
            ({"look_ahead": 0}, "look_ahead"),
            ({"prefetch": -1}, "prefetch must be 0 or more"),
        ],
    )
    def test_sizes(self, change, message):
        with pytest.raises(ValueError, match=message):
            LoaderConfig(**{"context_length": 8, "batch_size": 2} | change)

    @pytest.mark.parametrize(("rank", "world"), [(2, 2), (-1, 2), (0, 0), (1.0, 2)])
    def test_ranks(self, shards, rank, world):
        with pytest.raises(ValueError, match=r"rank must be|world_size"):
            ShardLoader(shards, LoaderConfig(8, 2), seeded(), rank=rank, world_size=world)

    def test_no_generator(self, shards):
        with pytest.raises(ValueError, match=r"torch\.Generator"):
            ShardLoader(shards, LoaderConfig(8, 2), 0)

    def test_too_little_text(self, tmp_path):
        shards = write(tmp_path, [1] * 10)
        with pytest.raises(ValueError, match="10 tokens, too few"):
            ShardLoader(shards, LoaderConfig(10, 2), seeded())
        with pytest.raises(ValueError, match="nothing to predict"):
            ShardLoader(shards, LoaderConfig(10, 2, packed=True), seeded())
