"""The rolling cache: random lives against plain lists, bounded for ever, exact for every query."""

from __future__ import annotations

import pytest
import torch

from llmcourse.errors import CacheError
from llmcourse.generate.cache import RollingCache

SHAPES = [
    {"window": 4},
    {"window": 1},
    {"window": 1, "sinks": 2},
    {"window": 4, "sinks": 2},
    {"window": 5, "sinks": 7},
    {"window": 3, "sinks": 1, "global_every": 2, "n_layers": 3},
    {"window": 40, "sinks": 1, "global_every": 2},  # a window wider than the context
]


def make(settings, batch_size=1, **options):
    return RollingCache(settings, batch_size, dtype=torch.float64, **options)


def chunk(t, batch_size=1):
    x = torch.randn(batch_size, 2, t, 5, dtype=torch.float64)
    return x[..., :3], x


def overflows(cache, t, padding):
    return not cache.config.endless and cache.longest + t > cache.config.context_length


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_random_lives(config, live, shape, ragged):
    settings = config(context=15, **shape)
    lives = [live(lambda b: make(settings, b), seed, overflows, ragged) for seed in range(8)]
    fed, refused = map(sum, zip(*lives))
    assert fed > 45, "lives too short"
    assert refused > 0 or settings.endless


@pytest.mark.parametrize("sinks", [0, 2])
@pytest.mark.parametrize("ragged", [False, True])
def test_long_after_the_window_in_chunks_of_every_size(config, replay, sinks, ragged):
    life = replay(make(config(window=6, sinks=sinks), 2))
    if ragged:
        life.feed(4, torch.tensor([[False, False, True, True], [True] * 4]))
    for t in (1, 2, 3, 5, 6, 7, 8, 13, 20, 1, 1, 9, 1, 6, 1, 2, 11):
        life.feed(t)
        if ragged and t > 4:
            padding = torch.ones(2, t, dtype=torch.bool)
            padding[0, t // 2 :] = False
            padding[1, : t // 3] = False
            life.feed(t, padding)


class TestMemory:
    @pytest.mark.parametrize("ragged", [False, True])
    def test_it_stays_what_it_was(self, config, held, ragged):
        cache = make(config(window=5, sinks=2, n_layers=1), 2)
        (g, d), (g_v, d_v) = cache.config.cache_widths
        assert cache.n_bytes == 1 * 2 * (2 + 5) * (g * d + g_v * d_v) * 8
        padding = torch.tensor([[True, False], [True, True]]) if ragged else None
        sizes, addresses = set(), set()
        for step in range(600):
            t = 2 if step == 0 else 1 + 30 * (step % 50 == 7)
            cache.begin(2, t, padding if step == 0 else None)
            k, v = chunk(t, 2)
            cache.update(0, k, v)
            cache.commit()
            if step > 9:
                sizes.add(held(cache))
                addresses.add(cache._keys[0].data_ptr())
                assert cache.used_bytes == cache.n_bytes
        assert cache.longest > 900
        assert max(sizes) < cache.n_bytes + 8192 and len(addresses) == 1

    def test_a_single_token_is_written_in_place_and_sees_every_slot(self, config, replay):
        cache = make(config(window=5, sinks=2))
        life = replay(cache)
        life.feed(11)
        for _ in range(12):
            cache.begin(1, 1)
            seen = cache.visibility(5, 2)
            k, v = chunk(1)
            keys, values = cache.update(0, k, v)
            assert keys.data_ptr() == cache._keys[0].data_ptr(), "a copy of the buffer"
            assert keys.shape[2] == values.shape[2] == 7 and seen.everything
            life.reset()
            life.feed(11)
            life.feed(1)

    def test_a_chunk_comes_in_order_and_needs_positions_only_beside_sinks(self, config, replay):
        for sinks, explicit in ((0, False), (2, True)):
            cache = make(config(window=5, sinks=sinks))
            replay(cache).feed(13)
            cache.begin(1, 3)
            seen = cache.visibility(5, sinks)
            assert (seen.k_positions is not None) == explicit
            positions = seen.positions()[1].tolist()
            assert positions == sorted(positions)

    def test_the_first_chunk_is_handed_out_as_it_is(self, config):
        cache = make(config(window=5, sinks=2))
        cache.begin(1, 30)
        k, v = chunk(30)
        assert cache.update(0, k, v)[0].data_ptr() == k.data_ptr()
        assert cache.visibility(5, 2).k_positions is None


def test_the_first_query_of_a_chunk_sees_what_the_last_one_pushes_out(config):
    """By hand: window 3, tokens 0 to 4 are in, tokens 5, 6 and 7 come together."""
    cache = make(config(window=3, n_layers=1))
    for t in (5, 3):
        cache.begin(1, t)
        k = torch.zeros(1, 2, t, 3, dtype=torch.float64)
        k[0, 0, :, 0] = torch.arange(5.0 if t == 3 else 0.0, 8.0 if t == 3 else 5.0)
        keys, _ = cache.update(0, k, torch.zeros(1, 2, t, 5, dtype=torch.float64))
        table = cache.visibility(3, 0).table()
        cache.commit()
    shown = [keys[0, 0, row, 0].tolist() for row in table]
    assert shown == [[3.0, 4.0, 5.0], [4.0, 5.0, 6.0], [5.0, 6.0, 7.0]]


class TestRefusals:
    def test_a_model_without_a_window(self, config):
        with pytest.raises(ValueError, match="needs a model with one"):
            make(config())

    @pytest.mark.parametrize("global_every", [1])
    def test_a_model_whose_layers_are_all_global(self, config, global_every):
        with pytest.raises(ValueError, match="needs a model with one"):
            make(config(window=3, global_every=global_every))

    def test_chunks_longer_than_agreed(self, config, replay):
        life = replay(make(config(window=3), max_chunk=4))
        life.feed(4)
        with pytest.raises(CacheError, match="5 tokens is longer than max_chunk=4"):
            life.feed(5)
        life.feed(4)
        with pytest.raises(ValueError, match="max_chunk=0"):
            make(config(window=3), max_chunk=0)

    def test_layers_without_a_window_are_full_one_day(self, config, replay):
        life = replay(make(config(window=3, global_every=2, context=40), capacity=9))
        life.feed(8)
        with pytest.raises(CacheError, match="8 of its 9 are taken"):
            life.feed(2)
        life.feed(1)

    def test_what_is_forgotten_cannot_be_taken_back(self, config, replay):
        cache = make(config(window=3, sinks=1), 2)
        life = replay(cache)
        life.feed(4)
        life.truncate([2, 3])  # still all there
        life.feed(2)
        with pytest.raises(CacheError, match="newest 3 and 1 sinks and cannot be taken back"):
            cache.truncate(4)
        assert cache.lengths.tolist() == [4, 5]
        life.truncate([3, 5])  # the first row has forgotten nothing, the second stays
        life.feed(2)

    @pytest.mark.parametrize("call", ["begin", "truncate", "select", "fork"])
    def test_a_pass_that_failed_after_old_tokens_were_let_go(self, config, replay, call):
        cache = make(config(window=3, sinks=1))
        life = replay(cache)
        life.feed(4)
        cache.begin(1, 2)
        cache.begin(1, 1)  # nothing was updated yet: start again
        cache.update(0, *chunk(1))
        arguments = {"begin": (1, 1), "truncate": (2,), "select": ([0],), "fork": (2,)}[call]
        with pytest.raises(CacheError, match="failed half way"):
            getattr(cache, call)(*arguments)
        life.reset()
        life.feed(6)
        life.feed(1)

    def test_a_pass_that_failed_before_anything_was_let_go(self, config, replay):
        life = replay(make(config(window=9)))
        life.feed(4)
        life.feed(3, commit=False)
        life.feed(5)
