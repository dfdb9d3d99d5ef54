"""The paged cache: random lives against plain lists, sharing, copies on write, the pool's end."""

from __future__ import annotations

import functools
import random

import pytest
import torch

from llmcourse.errors import CacheError
from llmcourse.generate.cache import PagedCache

SHAPES = [
    {},
    {"window": 4},
    {"window": 4, "sinks": 2},
    {"window": 3, "sinks": 1, "global_every": 2},
]


def make(settings, batch_size=1, **options):
    return PagedCache(settings, batch_size, **{"block_size": 4, "dtype": torch.float64} | options)


def check_pool(pool, *caches):
    """Every block is counted once per table it is in, and is free when it is in none."""
    count = [0] * pool.n_blocks
    for cache in caches:
        for table in cache.tables:
            for block in table:
                count[block] += 1
    assert pool.references == count
    assert pool.n_free == count.count(0)


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("block_size", [1, 3, 16])
@pytest.mark.parametrize("shape", SHAPES)
def test_random_lives(config, live, shape, ragged, block_size):
    def full(cache, t, padding):
        context = cache.limit is not None and cache.longest + t > cache.limit
        # Each row may need its new blocks and a copy of the last one.
        return context or cache.pool.n_free < cache.batch_size * (-(-t // block_size) + 2)

    options = {"block_size": block_size, "n_blocks": 48 // block_size}
    lives = [
        live(lambda b: make(config(**shape), b, **options), seed, full, ragged) for seed in range(6)
    ]
    fed, refused = map(sum, zip(*lives))
    assert fed > 30 and refused > 0, "lives too short, or never full"


class TestSharing:
    def test_a_fork_takes_no_block_until_it_writes_and_then_one_a_row(self, config, replay):
        cache = make(config(context=40), n_blocks=14)
        life = replay(cache)
        life.feed(10)  # two full blocks and half of a third
        other = life.fork(3)
        assert cache.pool.n_free == 11
        assert other.cache.tables == cache.tables * 3
        assert other.cache.used_bytes == cache.used_bytes == 3 * cache.pool.block_bytes
        other.feed(1)
        assert cache.pool.n_free == 8, "each row copies the block that is not full, and no other"
        assert all(table[:2] == cache.tables[0][:2] for table in other.cache.tables)
        assert len({table[2] for table in (*other.cache.tables, *cache.tables)}) == 4
        life.feed(1)  # alone on its block again: no copy
        assert cache.pool.n_free == 8
        for _ in range(3):
            other.feed(2)
            life.feed(1)
        check_pool(cache.pool, cache, other.cache)

    def test_the_last_owner_of_a_block_writes_in_place(self, config, replay):
        life = replay(make(config(), n_blocks=4))
        life.feed(6)
        block = life.cache.tables[0][1]
        life.select([0, 0])
        life.feed(1)
        tables = life.cache.tables
        assert tables[1][1] == block and tables[0][1] not in (block, tables[0][0])

    def test_rows_that_wait_still_copy_when_their_turn_comes(self, config, replay):
        life = replay(make(config(), n_blocks=9))
        life.feed(5)
        life.select([0, 0, 0])
        life.feed(1, torch.tensor([[True], [False], [False]]))
        life.feed(1)
        assert len({table[1] for table in life.cache.tables}) == 3

    def test_a_cache_that_is_gone_gives_its_blocks_back(self, config, replay):
        life = replay(make(config(context=40), n_blocks=12))
        pool = life.cache.pool
        life.feed(9)
        other = life.fork(2)
        other.feed(12)
        check_pool(pool, life.cache, other.cache)
        del other
        check_pool(pool, life.cache)
        life.reset()
        assert pool.n_free == 12

    def test_padding_takes_no_memory(self, config, replay):
        life = replay(make(config(context=40), 2, n_blocks=4))
        life.feed(9, torch.tensor([[False] * 6 + [True] * 3, [True] * 4 + [False] * 5]))
        assert [len(table) for table in life.cache.tables] == [1, 1]

    def test_neighbouring_blocks_of_one_row_are_not_copied(self, config, replay):
        cache = make(config())
        replay(cache).feed(6)
        cache.begin(1, 1)
        x = torch.ones(1, 2, 1, 5, dtype=torch.float64)
        keys, _ = cache.update(0, x[..., :3], x)
        assert keys.data_ptr() == cache.pool.keys[0].data_ptr()


class TestOverflow:
    def test_needed_and_free_are_named_and_nothing_changes(self, config, replay):
        life = replay(make(config(context=40), 2, n_blocks=5))
        life.feed(7)
        tables = life.cache.tables
        with pytest.raises(CacheError, match=r"needs 2 more blocks of 4 tokens, and 1 of the"):
            life.feed(2)
        with pytest.raises(CacheError, match="n_blocks=6"):
            life.feed(2)
        assert life.cache.tables == tables
        check_pool(life.cache.pool, life.cache)
        life.feed(1)
        life.feed(2, torch.tensor([[True, True], [False, False]]))

    def test_a_copy_needs_a_block_too(self, config, replay):
        life = replay(make(config(context=40), n_blocks=2))
        life.feed(5)
        life.select([0, 0])
        with pytest.raises(CacheError, match="needs 1 more blocks of 4 tokens, and 0 of"):
            life.feed(1)
        life.select([1])
        life.feed(1)

    def test_default_size_fills_the_context(self, config, replay):
        life = replay(make(config(context=10), 2))
        assert life.cache.pool.n_blocks == 2 * 3
        life.feed(10)

    @pytest.mark.parametrize("options", [{"block_size": 0}, {"n_blocks": 0}, {"block_size": 1.5}])
    def test_impossible_sizes(self, config, options):
        with pytest.raises(ValueError, match=next(iter(options))):
            make(config(), **options)

    def test_a_pool_of_another_model(self, config):
        pool = make(config()).pool
        with pytest.raises(ValueError, match="made for 2 layers"):
            PagedCache(config(n_layers=3), 1, pool=pool)


@functools.cache
def content(prefix, layer, width):
    """A key or value that depends on the whole prefix, as a model's does."""
    generator = torch.Generator().manual_seed(hash((prefix, layer, width)) % 2**60)
    return torch.randn(2, width, generator=generator, dtype=torch.float64)


def feed_ids(cache, texts, starts):
    """Row by row the ids from `starts` on, padded on the right, into every layer."""
    t = max(len(text) - start for text, start in zip(texts, starts))
    padding = torch.zeros(len(texts), t, dtype=torch.bool)
    for row, (text, start) in enumerate(zip(texts, starts)):
        padding[row, : len(text) - start] = True
    cache.begin(len(texts), t, padding)
    for layer in range(cache.config.n_layers):
        k = torch.zeros(len(texts), 2, t, 3, dtype=torch.float64)
        v = torch.zeros(len(texts), 2, t, 5, dtype=torch.float64)
        for row, (text, start) in enumerate(zip(texts, starts)):
            for i in range(start, len(text)):
                k[row, :, i - start] = content(text[: i + 1], layer, 3)
                v[row, :, i - start] = content(text[: i + 1], layer, 5)
        cache.update(layer, k, v)
    cache.commit()


def check_content(cache, texts):
    """Every token's key and value lie where the row's block table says."""
    pool, size = cache.pool, cache.block_size
    for table, text in zip(cache.tables, texts):
        for i in range(len(text)):
            slot = table[i // size] * size + i % size
            for layer in range(cache.config.n_layers):
                assert torch.equal(pool.keys[layer][:, slot], content(text[: i + 1], layer, 3))
                assert torch.equal(pool.values[layer][:, slot], content(text[: i + 1], layer, 5))


def check_all(pool, alive):
    for cache, texts in alive:
        check_content(cache, texts)
    check_pool(pool, *(cache for cache, _ in alive))


class TestPrefixes:
    def test_a_second_prompt_takes_over_the_full_blocks_of_the_first(self, config):
        first = make(config(context=40), n_blocks=20)
        prompt = tuple(range(11))
        assert first.share_prefix([prompt]).tolist() == [0]
        feed_ids(first, [prompt], [0])
        second = PagedCache(first.config, 2, pool=first.pool)
        prompts = [(*range(9), 50, 51), (*range(4), 60)]
        assert second.share_prefix(prompts).tolist() == [8, 4]
        assert [len(table) for table in second.tables] == [2, 1]
        assert second.tables[0] == first.tables[0][:2]
        feed_ids(second, prompts, [8, 4])
        check_content(second, prompts)
        check_content(first, [prompt])
        check_pool(first.pool, first, second)

    def test_at_least_one_token_is_left_to_feed(self, config):
        first = make(config(), n_blocks=20)
        prompt = tuple(range(8))
        first.share_prefix([prompt])
        feed_ids(first, [prompt], [0])
        second = PagedCache(first.config, 1, pool=first.pool)
        assert second.share_prefix([prompt]).tolist() == [4]

    def test_rows_of_one_batch_that_begin_alike_keep_one_copy(self, config):
        cache = make(config(), 3, n_blocks=20)
        prompts = [(*range(8), 1), (*range(8), 2, 3), (*range(4), 9, 9, 9, 9, 9)]
        assert cache.share_prefix(prompts).tolist() == [0, 0, 0]
        feed_ids(cache, prompts, [0, 0, 0])
        check_content(cache, prompts)
        check_pool(cache.pool, cache)
        one, two, three = cache.tables
        assert one[:2] == two[:2] and three[0] == one[0] and three[1] != one[1]
        assert 20 - cache.pool.n_free == 6, "9 blocks less the 3 that are shared"

    def test_what_is_overwritten_is_no_longer_found(self, config):
        cache = make(config(), n_blocks=20)
        prompt = tuple(range(9))
        cache.share_prefix([prompt])
        feed_ids(cache, [prompt], [0])
        cache.truncate(6)
        feed_ids(cache, [(*range(6), 70, 71, 72)], [6])
        other = PagedCache(cache.config, 1, pool=cache.pool)
        assert other.share_prefix([prompt]).tolist() == [4]

    def test_what_is_gone_is_no_longer_found(self, config):
        cache = make(config(), n_blocks=20)
        cache.share_prefix([tuple(range(9))])
        feed_ids(cache, [tuple(range(9))], [0])
        cache.reset()
        assert cache.share_prefix([tuple(range(9))]).tolist() == [0]

    def test_only_an_empty_cache_with_a_prompt_for_each_row(self, config):
        cache = make(config(), 2)
        with pytest.raises(CacheError, match="1 prompts for the 2 rows"):
            cache.share_prefix([(1, 2)])
        feed_ids(cache, [(1, 2), (3,)], [0, 0])
        with pytest.raises(CacheError, match="holds 2 tokens"):
            cache.share_prefix([(1, 2), (3,)])

    def test_random_lives_of_many_caches_on_one_pool(self, config):
        dice, settings = random.Random(0), config(context=60, n_layers=1)
        first = make(settings, n_blocks=200, block_size=2)
        pool, alive, shared = first.pool, [], 0
        for _ in range(250):
            event = dice.choice(["open", "open", "go on", "go on", "truncate", "fork", "drop"])
            if event == "open" and len(alive) < 5:
                b = dice.choice([1, 2, 3])
                texts = [tuple(dice.choices((0, 1), k=dice.randint(1, 12))) for _ in range(b)]
                cache = PagedCache(settings, b, pool=pool)
                starts = cache.share_prefix(texts).tolist()
                shared += sum(starts)
                if dice.random() < 0.8:  # else given up before it began
                    feed_ids(cache, texts, starts)
                    alive.append((cache, texts))
            else:
                if not alive:
                    continue
                i = dice.randrange(len(alive))
                cache, texts = alive[i]
                if event == "go on":
                    longer = [
                        (*text, *dice.choices((0, 1), k=dice.randint(1, 3))) for text in texts
                    ]
                    if max(map(len, longer)) <= 60:
                        feed_ids(cache, longer, [len(text) for text in texts])
                        alive[i] = cache, longer
                elif event == "truncate":
                    keep = [dice.randint(1, len(text)) for text in texts]
                    cache.truncate(torch.tensor(keep))
                    alive[i] = cache, [text[:n] for text, n in zip(texts, keep)]
                elif event == "fork" and len(alive) < 5:
                    alive.append((cache.fork(2), [text for text in texts for _ in range(2)]))
                elif event == "drop":
                    del alive[i]
            del cache
            check_all(pool, alive)
        assert shared > 30, "nothing was shared"
