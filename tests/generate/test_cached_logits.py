"""Logits with a cache equal those without one: every position scheme, every cache, every feeding.

The reference is the model without a cache, one row at a time and without padding.
"""

from __future__ import annotations

import random

import pytest
import torch

from llmcourse.generate.cache import DenseCache, PagedCache, RollingCache
from llmcourse.model import ModelConfig, Transformer
from llmcourse.model.config import Latent
from llmcourse.model.rotary import Rope

CONTEXT = 30
ROTARY = {"positions": "rope", "norm": "rms", "feed_forward": "gated", "activation": "silu"}
WINDOW = ROTARY | {"window": 6, "n_kv_heads": 2}
MODELS = {
    "learned": {},
    "sinusoidal": {"positions": "sinusoidal"},
    "none": {"positions": "none"},
    "rope": ROTARY,
    "rope-partial": ROTARY | {"rope": Rope(fraction=0.5)},
    "rope-linear": ROTARY | {"rope": Rope(scaling="linear", factor=4.0)},
    "rope-ntk": ROTARY | {"rope": Rope(scaling="ntk", factor=4.0)},
    "rope-yarn": ROTARY | {"rope": Rope(scaling="yarn", factor=4.0, original_context=8)},
    "rope-llama3": ROTARY | {"rope": Rope(scaling="llama3", factor=4.0, original_context=16)},
    "grouped": ROTARY | {"n_kv_heads": 2, "qk_norm": "head"},
    "multi-query": ROTARY | {"n_kv_heads": 1, "qk_norm": "width"},
    "softcap": ROTARY | {"attention_softcap": 3.0, "logit_softcap": 2.0},
    "post": {"norm_placement": "post"},
    "sandwich": ROTARY | {"norm_placement": "sandwich", "norm_offset": True},
    "output": ROTARY | {"norm_placement": "output"},
    "window": WINDOW,
    "window-learned": {"window": 6},
    "window-one": WINDOW | {"window": 1},
    "sinks": WINDOW | {"sinks": 2},
    "sinks-none": {"positions": "none", "window": 5, "sinks": 3},
    "alternating": WINDOW | {"global_every": 2, "rope_local": Rope(base=100.0)},
    "alternating-sinks": WINDOW | {"global_every": 3, "sinks": 1},
    "latent": ROTARY | {"latent": Latent(6, None, d_nope=4, d_rope=2, d_value=3)},
    "latent-window": ROTARY
    | {"latent": Latent(6, 5, d_nope=4, d_rope=2, d_value=3), "window": 6, "sinks": 1},
}
CACHES = {
    "dense": DenseCache,
    "static": lambda *args, **options: DenseCache(*args, static=True, **options),
    "rolling": RollingCache,
    "paged": lambda *args, **options: PagedCache(*args, block_size=4, n_blocks=64, **options),
}
PAIRS = [
    (model, cache)
    for model in MODELS
    for cache in CACHES
    if cache != "rolling" or "window" in MODELS[model]
]

ENDLESS = ["window", "window-one", "sinks", "sinks-none", "latent-window"]


@pytest.fixture(scope="module")
def models():
    made = {}

    def make(name, dtype=torch.float64):
        if (name, dtype) not in made:
            config = ModelConfig(
                **{"vocab_size": 11, "context_length": CONTEXT, "n_layers": 3, "n_heads": 4,
                   "d_model": 16, "init_std": 0.4} | MODELS[name]
            )  # fmt: skip
            model = Transformer(config, torch.Generator().manual_seed(0))
            made[name, dtype] = model.to(dtype).eval()
        return made[name, dtype]

    return make


def texts_of(model, *lengths):
    """Rows of random ids and, for each, the logits of the model without a cache."""
    generator = torch.Generator().manual_seed(sum(lengths))
    rows = [torch.randint(11, (n,), generator=generator) for n in lengths]
    with torch.no_grad():
        return rows, [model(row[None])[0] for row in rows]


@torch.no_grad()
def feed(model, cache, rows, wanted, chunks, tolerance, side=None, dice=None):
    """Hand in the rows chunk by chunk; every real position must get the logits it should."""
    done = [0] * len(rows)
    for t in chunks:
        ids = torch.zeros(len(rows), t, dtype=torch.int64)
        real = torch.zeros(len(rows), t, dtype=torch.bool)
        places = []
        for row, (text, start) in enumerate(zip(rows, done)):
            n = min(t, len(text) - start)
            if dice is not None:
                n = dice.randint(0, n)
            columns = {
                None: range(n),
                "left": range(t - n, t),
                "right": range(n),
                "anywhere": sorted((dice or random).sample(range(t), n)),
            }[side]
            places.append((start, list(columns)))
            ids[row, places[-1][1]] = text[start : start + n]
            real[row, places[-1][1]] = True
        if not real.any():
            continue
        logits = model(ids, None if side is None else real, cache=cache)
        for row, (start, columns) in enumerate(places):
            expected = wanted[row][start : start + len(columns)]
            torch.testing.assert_close(logits[row, columns], expected, atol=tolerance, rtol=0)
            done[row] += len(columns)
    return done


def spread(wanted):
    """How far logits differ from one position to the next: what a mistake would be measured by."""
    return min(float((w[1:] - w[:-1]).abs().max()) for w in wanted)


def splits(total, sizes):
    """Chunk sizes, again and again, that end exactly at the total."""
    chunks, i = [], 0
    while sum(chunks) < total:
        chunks.append(min(sizes[i % len(sizes)], total - sum(chunks)))
        i += 1
    return chunks


@pytest.mark.parametrize("sizes", [[1], [7, 1, 4, 1, 1, 9, 2], [CONTEXT]])
@pytest.mark.parametrize(("name", "kind"), PAIRS)
def test_up_to_the_context(models, name, kind, sizes):
    """Past every window, to the last position the model has."""
    model = models(name)
    rows, wanted = texts_of(model, CONTEXT, CONTEXT)
    assert spread(wanted) > 0.1, "logits that hardly differ would prove nothing"
    cache = CACHES[kind](model.config, 2, dtype=torch.float64)
    feed(model, cache, rows, wanted, splits(CONTEXT, sizes), 1e-10)
    assert cache.lengths.tolist() == [CONTEXT, CONTEXT]


@pytest.mark.parametrize("side", ["left", "right", "anywhere"])
@pytest.mark.parametrize(("name", "kind"), PAIRS)
def test_ragged_rows(models, name, kind, side):
    """Unequal prompts padded on one side, then chunks in which rows get unequal shares."""
    model, dice = models(name), random.Random(name + side)
    rows, wanted = texts_of(model, 22, 9, 17)
    cache = CACHES[kind](model.config, 3, dtype=torch.float64)
    chunks = [8, 1, 1, 5, 1, 4, 1, 3, 7, 2, 1, 6, 5, 7, 5]
    if side == "left":  # as a batch of prompts is handed in, and then token by token
        chunks, dice = [12] + [1] * 14, None
    done = feed(model, cache, rows, wanted, chunks, 1e-10, side, dice)
    assert sum(done) > 38 and cache.lengths.tolist() == done


@pytest.mark.parametrize(("name", "kind"), PAIRS)
def test_float32(models, name, kind):
    model = models(name, torch.float32)
    rows, wanted = texts_of(model, 25)
    cache = CACHES[kind](model.config, 1)
    feed(model, cache, rows, wanted, [9, 1, 1, 5, 1, 1, 7], 1e-4)


@pytest.mark.parametrize("kind", CACHES)
@pytest.mark.parametrize("implementation", ["naive", "flash", "sdpa"])
@pytest.mark.parametrize("name", ["sinks", "alternating", "latent-window"])
def test_every_implementation_of_attention(models, name, kind, implementation):
    rows, wanted = texts_of(models(name), 25, 14)
    model = models(name).with_options(attention=implementation)
    cache = CACHES[kind](model.config, 2, dtype=torch.float64)
    feed(model, cache, rows, wanted, [9, 1, 1, 5, 1, 4, 1, 3], 1e-10, "left")


class TestLimits:
    @pytest.mark.parametrize(("name", "kind"), PAIRS)
    def test_one_token_past_the_context(self, models, name, kind):
        model = models(name)
        cache = CACHES[kind](model.config, 1, dtype=torch.float64)
        rows, wanted = texts_of(model, CONTEXT)
        feed(model, cache, rows, wanted, [CONTEXT - 3, 2, 1], 1e-10)
        one = torch.zeros(1, 1, dtype=torch.int64)
        if model.config.endless and kind == "rolling":
            with torch.no_grad():
                expected = model(torch.cat([rows[0][None], one], dim=1))[:, -1:]
                torch.testing.assert_close(model(one, cache=cache), expected, atol=1e-10, rtol=0)
            return
        with torch.no_grad(), pytest.raises(ValueError, match=r"overflow|needs 1 more blocks"):
            for _ in range(1 + 4 * 64):  # the paged cache of an endless model: its last block
                model(one, cache=cache)
        assert cache.lengths.tolist() == [4 * 64 if model.config.endless and kind == "paged"
                                          else CONTEXT]  # fmt: skip
        cache.truncate(CONTEXT - 5) if kind != "rolling" else cache.reset()
        if kind != "rolling":
            rest = [row[CONTEXT - 5 :] for row in rows], [w[CONTEXT - 5 :] for w in wanted]
            feed(model, cache, *rest, [5], 1e-10)
        else:
            feed(model, cache, rows, wanted, [CONTEXT], 1e-10)

    @pytest.mark.parametrize("name", ENDLESS)
    def test_endless_text(self, models, name):
        """Five times the context: no limit where every layer looks back by distance."""
        model = models(name)
        assert model.config.endless
        rows, wanted = texts_of(model, 5 * CONTEXT)
        cache = RollingCache(model.config, 1, dtype=torch.float64)
        feed(model, cache, rows, wanted, splits(5 * CONTEXT, [1, 1, 7, 1, 13, 2, 29]), 1e-10)


class TestForks:
    @pytest.mark.parametrize(("name", "kind"), [(n, k) for n, k in PAIRS if n in ("rope", "sinks")])
    def test_several_completions_of_one_prompt(self, models, name, kind):
        model = models(name)
        rows, _ = texts_of(model, 12, 12, 12)
        rows = [torch.cat([rows[0][:8], row[8:]]) for row in rows]
        with torch.no_grad():
            wanted = [model(row[None])[0] for row in rows]
        cache = CACHES[kind](model.config, 1, dtype=torch.float64)
        feed(model, cache, [rows[0][:8]], [wanted[0][:8]], [8], 1e-10)
        three = cache.fork(3)
        feed(model, three, [r[8:] for r in rows], [w[8:] for w in wanted], [1, 2, 1], 1e-10)
        feed(model, cache, [rows[1][8:]], [wanted[1][8:]], [4], 1e-10)  # the original goes on
        three.select([2, 0])
        assert three.lengths.tolist() == [12, 12]

    def test_a_shared_prefix_is_not_computed_again(self, models):
        model = models("rope")
        rows, wanted = texts_of(model, 18)
        first = PagedCache(model.config, 1, block_size=4, n_blocks=20, dtype=torch.float64)
        first.share_prefix([rows[0].tolist()])
        feed(model, first, rows, wanted, [18], 1e-10)
        second = PagedCache(model.config, 1, pool=first.pool)
        held = int(second.share_prefix([rows[0].tolist()]))
        assert held == 16
        feed(model, second, [rows[0][held:]], [wanted[0][held:]], [2], 1e-10)
        assert first.pool.n_free == 20 - 6


class TestTheFamousFaults:
    """Each of these mistakes gives other logits here: the comparison above can fail."""

    @pytest.mark.parametrize("fault", ["no mask in a chunk", "cropped keys", "evicted too early"])
    def test_it_would_be_seen(self, models, fault):
        model = models("window")
        rows, wanted = texts_of(model, 20)
        window = model.config.window

        class Faulty(DenseCache):
            def visibility(self, window, sinks=0):
                seen = super().visibility(window, sinks)
                if fault == "no mask in a chunk":
                    return type(seen)(seen.t, seen.s, causal=False)
                if fault == "cropped keys":  # with a causal flag aligned to the upper left
                    s = min(seen.s, window)
                    q = torch.arange(seen.t)
                    return type(seen)(seen.t, s, True, None, 0, q, torch.arange(s))
                k = torch.arange(seen.s)
                k[: max(0, seen.s - window)] = -1
                return type(seen)(seen.t, seen.s, True, window, 0, seen.positions()[0], k)

            def update(self, layer, k, v):
                keys, values = super().update(layer, k, v)
                if fault == "cropped keys":
                    return keys[:, :, -window:], values[:, :, -window:]
                return keys, values

        cache = Faulty(model.config, 1, dtype=torch.float64)
        with pytest.raises(AssertionError):
            feed(model, cache, rows, wanted, [8, 5, 7], 1e-4)


@pytest.mark.slow
def test_a_stream_of_20000_tokens(held):
    """Bounded memory, and at every position the logits of the whole text in one go."""
    config = ModelConfig(
        vocab_size=11, context_length=64, n_layers=2, n_heads=2, d_model=16, positions="rope",
        norm="rms", window=32, sinks=4, init_std=0.4, attention="naive",
    )  # fmt: skip
    model = Transformer(config, torch.Generator().manual_seed(0)).double().eval()
    ids = torch.randint(11, (1, 20_000), generator=torch.Generator().manual_seed(1))
    cache = RollingCache(config, 1, dtype=torch.float64)
    sizes, start, got = set(), 0, []
    with torch.inference_mode():
        while start < 20_000:
            # Long stretches token by token, and chunks shorter and longer than the window between.
            t = 1 if start % 4000 < 1500 else (3, 17, 40, 36, 64, 1)[len(got) % 6]
            got.append(model(ids[:, start : start + t], cache=cache))
            start += got[-1].shape[1]
            if start > 200:
                sizes.add(held(cache) // 4096)
        at_once = model.with_options(attention="flash")(ids)
        short = model(ids[:, :1500])
    assert cache.lengths.tolist() == [20_000]
    # 2 layers, 36 slots, keys and values of 2 heads of width 8, 8 bytes a number.
    assert cache.n_bytes == cache.used_bytes == 2 * 36 * 2 * 2 * 8 * 8
    assert max(sizes) - min(sizes) <= 1, "memory that grows"
    got = torch.cat(got, dim=1)
    torch.testing.assert_close(got, at_once, atol=1e-9, rtol=0)
    torch.testing.assert_close(got[:, :1500], short, atol=1e-9, rtol=0)
