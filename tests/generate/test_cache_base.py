"""What holds for every cache: the steps of a pass, what is refused, bytes, gradients."""

from __future__ import annotations

import pytest
import torch

from llmcourse.errors import CacheError, CourseError
from llmcourse.generate.cache import DenseCache, PagedCache, RollingCache
from llmcourse.model import ModelConfig

KINDS = {
    "dense": DenseCache,
    "static": lambda *args, **options: DenseCache(*args, static=True, **options),
    "rolling": RollingCache,
    "paged": lambda *args, **options: PagedCache(*args, n_blocks=12, **options),
}


@pytest.fixture(params=KINDS)
def make(request, config):
    def make(batch_size=2, dtype=torch.float64, **changes):
        settings = config(**{"window": 5, "sinks": 1, "global_every": 3, "n_layers": 3} | changes)
        return KINDS[request.param](settings, batch_size, dtype=dtype)

    return make


def step(cache, t=2, layers=None, **changes):
    """One pass of zeros; any argument of `begin` or `update` can be changed."""
    b, dtype = cache.batch_size, changes.get("dtype", cache.dtype)
    cache.begin(changes.get("b", b), t, changes.get("padding"))
    for layer in range(cache.config.n_layers) if layers is None else layers:
        k, v = torch.zeros(b, 2, t, 3, dtype=dtype), torch.zeros(b, 2, t, 5, dtype=dtype)
        cache.update(layer, k[..., : changes.get("width", 3)], v)
    cache.commit()


class TestRefusals:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"b": 3}, "the cache has 2 rows, got a batch of 3"),
            ({"t": 0}, "at least one token"),
            ({"padding": torch.ones(2, 3, dtype=torch.bool)}, r"bool of shape \(2, 2\)"),
            ({"padding": torch.ones(2, 2)}, "got torch.float32"),
            ({"padding": torch.zeros(2, 2, dtype=torch.bool)}, "nothing but padding"),
            ({"layers": [0, 1, 2, 3]}, "layer 3 is not among the layers 0 to 2"),
            ({"layers": [0, 0]}, "layer 0 was updated twice"),
            ({"layers": [0, 2]}, r"layers \[1\]"),
            ({"width": 2}, r"must be \(2, 2, 2, 3\).*got \(2, 2, 2, 2\)"),
        ],
    )
    def test_a_wrong_step_is_named_and_stores_nothing(self, make, replay, changes, message):
        cache = make()
        life = replay(cache)
        life.feed(3)
        life.feed(4)
        if "padding" in changes and not changes["padding"].any():
            life.reset()
        with pytest.raises(CacheError, match=message):
            step(cache, **changes)
        assert cache.lengths.tolist() == [len(text) for text in life.texts]
        if isinstance(cache, RollingCache) and changes.keys() & {"layers", "dtype", "width"}:
            life.reset()  # it may have let go of tokens; that it refuses to go on is tested below
        life.feed(2)
        life.feed(1)

    def test_the_errors_are_the_courses_and_value_errors(self, make):
        with pytest.raises(CourseError):
            step(make(), b=1)
        with pytest.raises(ValueError):
            step(make(), b=1)

    @pytest.mark.parametrize("call", ["update", "visibility", "commit"])
    def test_outside_a_step(self, make, call):
        cache, x = make(), torch.zeros(2, 2, 1, 3, dtype=torch.float64)
        arguments = {"update": (0, x, x), "visibility": (None, 0), "commit": ()}[call]
        with pytest.raises(CacheError, match="call begin"):
            getattr(cache, call)(*arguments)
        step(cache)
        with pytest.raises(CacheError, match="call begin"):
            getattr(cache, call)(*arguments)

    @pytest.mark.parametrize(("window", "sinks"), [(4, 1), (5, 0), (6, 1)])
    def test_another_models_window(self, make, window, sinks):
        cache = make()
        cache.begin(2, 1)
        with pytest.raises(CacheError, match=f"window={window}, sinks={sinks} is not what"):
            cache.visibility(window, sinks)

    @pytest.mark.parametrize(
        ("rows", "message"),
        [([], "at least one row"), ([0, 2], "row 2 is not among the 2"), ([-1], "row -1")],
    )
    def test_rows_that_are_not_there(self, make, rows, message):
        cache = make()
        step(cache)
        with pytest.raises(CacheError, match=message):
            cache.select(rows)
        assert cache.lengths.tolist() == [2, 2]

    @pytest.mark.parametrize(
        ("length", "message"),
        [(-1, "cannot keep -1"), (torch.tensor([1]), r"\(2,\)"), (torch.ones(2), "float32")],
    )
    def test_lengths_that_make_no_sense(self, make, length, message):
        cache = make()
        step(cache)
        with pytest.raises(CacheError, match=message):
            cache.truncate(length)
        assert cache.lengths.tolist() == [2, 2]

    def test_construction(self, make):
        with pytest.raises(ValueError, match="batch_size=0"):
            make(0)
        with pytest.raises(ValueError, match="batch_size=True"):
            make(True)
        with pytest.raises(ValueError, match=r"dtype=torch\.int64"):
            make(dtype=torch.int64)
        with pytest.raises(ValueError, match="n=0"):
            make().fork(0)

    def test_the_models_context_is_the_limit_of_the_longest_row(self, make, replay):
        life = replay(make(window=24, sinks=0, global_every=2, context=8))
        life.feed(5, torch.tensor([[False, False, True, True, True], [True] * 5]))
        life.feed(3)
        with pytest.raises(CacheError, match="overflow"):
            life.feed(1)
        life.truncate(7)
        life.feed(1)


class TestSteps:
    def test_one_visibility_for_all_layers_of_a_window(self, make):
        cache = make()
        step(cache, 7)
        cache.begin(2, 3)
        assert cache.visibility(5, 1) is cache.visibility(5, 1)
        assert cache.visibility(None, 0) is cache.visibility(None)
        assert cache.visibility(None) is not cache.visibility(5, 1)

    def test_padding_that_is_none_keeps_rows_alike(self, make):
        cache = make()
        assert cache.begin(2, 3, torch.ones(2, 3, dtype=torch.bool)).tolist() == [0, 1, 2]

    def test_single_tokens_need_no_mask(self, make):
        cache = make()
        step(cache, 4)
        for _ in range(9):
            cache.begin(2, 1)
            assert cache.visibility(None).everything != getattr(cache, "static", False)
            step(cache, 1)

    def test_bytes_are_what_is_held(self, make, held):
        for dtype in (torch.float64, torch.bfloat16):
            cache = make(dtype=dtype)
            overhead = held(cache) - cache.n_bytes
            assert 0 <= overhead <= 4096, "keys and values are all there is, but for a few numbers"
            assert cache.used_bytes == 0
            step(cache, 4)
            # 3 layers, 2 rows, 4 tokens of 2 · 3 + 2 · 5 numbers; the paged one rounds up to 16.
            tokens = 16 if isinstance(cache, PagedCache) else 4
            assert cache.used_bytes == 3 * 2 * tokens * 16 * dtype.itemsize
            cache.reset()
            assert cache.used_bytes == 0

    def test_a_failed_pass_leaves_no_trace(self, make, replay):
        """The chunk that failed was padded on the left and longer than the one that follows."""
        life = replay(make(window=20))
        life.feed(3, torch.tensor([[False, True, True], [True] * 3]))
        life.feed(4, torch.tensor([[False, False, True, True], [False, True, True, True]]), False)
        life.feed(1)
        life.feed(2)

    def test_values_without_width(self, make, replay):
        """Latent attention keeps one vector per token, and no values."""
        life = replay(make(cache_widths=((1, 7), (1, 0))))
        for t in (3, 1, 4, 1):
            life.feed(t)
        life.feed(2, torch.tensor([[False, True], [True, True]]))

    def test_inference_mode_may_come_and_go(self, make, replay):
        with torch.inference_mode():
            life = replay(make())
            life.feed(3, torch.tensor([[False, True, True], [True] * 3]))
            life.select([1, 0])
        life.feed(2)
        with torch.inference_mode():
            life.feed(1)
            life.truncate([3, 4])
        life.feed(1)
        life.fork(2).feed(1)


class TestGradients:
    def test_a_backward_pass_through_a_cache_is_refused(self, make):
        cache = make(1)
        cache.begin(1, 2)
        k = torch.ones(1, 2, 2, 3, dtype=torch.float64, requires_grad=True)
        v = torch.ones(1, 2, 2, 5, dtype=torch.float64)
        keys, values = cache.update(0, k, v)
        assert not values.requires_grad
        with pytest.raises(CacheError, match="gradients do not pass through a cache"):
            keys.sum().backward()

    def test_decoding_with_gradients_switched_on_keeps_no_graph(self, make):
        cache = make(1)
        x = torch.ones(1, 2, 1, 5, dtype=torch.float64, requires_grad=True)
        for _ in range(9):
            cache.begin(1, 1)
            for layer in range(3):
                cache.update(layer, x[..., :3], x)
            cache.commit()
        buffers = cache.pool.keys if isinstance(cache, PagedCache) else cache._keys.values()
        assert not any(buffer.requires_grad for buffer in buffers)


def test_a_cache_may_be_wider_than_the_model_and_not_narrower():
    config = ModelConfig(vocab_size=5, context_length=9, n_layers=1, n_heads=1, d_model=4)
    for kept, given in [(torch.float32, torch.bfloat16), (torch.float64, torch.float32)]:
        x = torch.randn(1, 1, 2, 4, dtype=given)
        for cache in (
            DenseCache(config, 1, dtype=kept), PagedCache(config, 1, n_blocks=2, dtype=kept)
        ):  # fmt: skip
            cache.begin(1, 2, None)
            k, _ = cache.update(0, x, x)
            assert k.dtype == kept and torch.equal(k, x.to(kept))
        narrow = DenseCache(config, 1, dtype=given)
        narrow.begin(1, 2, None)
        with pytest.raises(CacheError, match=f"keeps {given}, got keys in {kept}"):
            narrow.update(0, x.to(kept), x.to(kept))
