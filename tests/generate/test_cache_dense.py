"""The dense cache: random lives against plain lists, views, holes, overflow, compiling."""

from __future__ import annotations

import pytest
import torch
import torch._dynamo.testing

from llmcourse.errors import CacheError
from llmcourse.generate.cache import DenseCache

SHAPES = [
    {},
    {"window": 4},
    {"window": 1},
    {"window": 4, "sinks": 2},
    {"window": 3, "sinks": 1, "global_every": 2, "n_layers": 3},
]


def make(settings, batch_size=1, **options):
    return DenseCache(settings, batch_size, dtype=torch.float64, **options)


def overflows(cache, t, padding):
    return cache.longest + t > cache.capacity


@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_random_lives(config, live, shape, ragged, static):
    settings = config(context=15, **shape)
    lives = [
        live(lambda b: make(settings, b, static=static), seed, overflows, ragged)
        for seed in range(6)
    ]
    fed, refused = map(sum, zip(*lives))
    assert fed > 25 and refused > 0, "lives too short, or never full"


class TestViews:
    def test_a_step_copies_only_its_own_tokens(self, config, replay):
        cache = make(config())
        life = replay(cache)
        life.feed(5)
        cache.begin(1, 1)
        k, v = torch.ones(1, 2, 1, 3, dtype=torch.float64), torch.ones(1, 2, 1, 5).double()
        first, _ = cache.update(0, k, v)
        cache.update(1, k, v)
        assert cache.visibility(None, 0).everything, "one token at the end sees all: no mask"
        cache.commit()
        cache.begin(1, 2)
        second, _ = cache.update(0, k.expand(-1, -1, 2, -1), v.expand(-1, -1, 2, -1))
        assert first.data_ptr() == second.data_ptr()
        assert (first.shape[2], second.shape[2]) == (6, 8)

    def test_what_no_query_can_reach_is_not_handed_out(self, config, replay):
        cache = make(config(window=4))
        replay(cache).feed(9)
        for t, s in ((1, 4), (3, 6)):
            cache.begin(1, t)
            k, v = torch.ones(1, 2, t, 3).double(), torch.ones(1, 2, t, 5).double()
            assert cache.update(0, k, v)[0].shape[2] == s == cache.visibility(4, 0).s
            assert cache.visibility(4, 0).everything == (t == 1)

    def test_a_static_cache_never_changes_shape(self, config, replay):
        cache = make(config(window=4, sinks=1), static=True)
        life = replay(cache)
        life.feed(3)
        for _ in range(4):
            cache.begin(1, 1)
            seen = cache.visibility(4, 1)
            assert (seen.s, seen.k_positions.shape, seen.q_positions.shape) == (24, (24,), (1,))
            life.feed(1)


class TestOverflow:
    @pytest.mark.parametrize("static", [False, True])
    def test_full_to_the_last_column_and_not_one_more(self, config, replay, static):
        life = replay(make(config(), 2, capacity=7, static=static))
        life.feed(6)
        with pytest.raises(CacheError, match="2 more columns overflow the cache: 6 of its 7"):
            life.feed(2)
        life.feed(1)
        with pytest.raises(CacheError, match="capacity=8"):
            life.feed(1)
        life.truncate(6)
        life.feed(1)

    def test_padding_takes_columns_until_they_are_needed(self, config, replay):
        """Rows that go back by different numbers, as speculative decoding has them, leave holes."""
        for static in (False, True):
            life, lengths = replay(make(config(), 2, capacity=12, static=static)), [0, 0]
            for step in range(7):
                life.feed(2)
                lengths = [n + 1 + (row == step % 2) for row, n in enumerate(lengths)]
                life.truncate(lengths)
            assert lengths == [11, 10], "7 steps of 2 columns have passed through 12"
            life.feed(1)
            with pytest.raises(CacheError, match="12 of its 12"):
                life.feed(1)

    def test_rows_that_are_alike_again_lose_their_mask(self, config, replay):
        life = replay(make(config(), 2))
        life.feed(5)
        life.truncate([3, 4])
        life.truncate(3)
        assert life.cache.begin(2, 1).shape == (1,)

    @pytest.mark.parametrize("capacity", [0, -1, 2.5, True])
    def test_impossible_capacity(self, config, capacity):
        with pytest.raises(ValueError, match="capacity="):
            make(config(), capacity=capacity)


class TestCompiling:
    @pytest.mark.parametrize("ragged", [False, True])
    def test_one_compilation_serves_every_step(self, config, ragged):
        """A step's shapes and Python numbers never change, so the compiler runs once."""
        settings = config(window=4, sinks=1)

        def attend(cache, x):
            positions = cache.begin(*x.shape[:2])
            total = 0.0
            for layer in range(2):
                seen = cache.visibility(4, 1)
                keys, values = cache.update(layer, x[:, None, :, :3].repeat(1, 2, 1, 1), x[:, None])
                q, k = seen.positions()
                table = seen.rule(q[..., :, None], k[..., None, :]).expand(2, 1, seen.s)
                weight = table.to(x.dtype)[:, None] @ values  # (B, 1, T, D)
                total = total + weight + keys.sum()
            cache.commit()
            return total, positions

        settings.cache_widths = ((2, 3), (1, 5))
        counter = torch._dynamo.testing.CompileCounterWithBackend("eager")
        torch._dynamo.reset()
        compiled = torch.compile(attend, backend=counter, fullgraph=True, dynamic=False)
        caches = [make(settings, 2, static=True, capacity=12) for _ in range(2)]
        padding = torch.tensor([[False, True, True], [True, True, True]]) if ragged else None
        x = torch.randn(2, 12, 5, dtype=torch.float64)
        for cache in caches:
            cache.begin(2, 3, padding)
            for layer in range(2):
                prompt = x[:, None, :3]
                cache.update(layer, prompt[..., :3].repeat(1, 2, 1, 1), prompt)
            cache.commit()
        for i in range(3, 12):
            token = x[:, i : i + 1]
            for got, want in zip(compiled(caches[0], token), attend(caches[1], token)):
                assert torch.equal(got, want)
        assert counter.frame_count == 1
        assert caches[0].lengths.tolist() == ([11, 12] if ragged else [12, 12])
        assert caches[0].longest == caches[1].longest == 12
        with pytest.raises(CacheError, match="overflow"):
            caches[0].begin(2, 1)
