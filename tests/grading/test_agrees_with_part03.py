"""Part 3's oracles and the library were written apart; where they mean the same they must say it.

Beside `test_agrees_with_library.py` because caches and tiles take more to set up than one call.
"""

from __future__ import annotations

import math

import pytest
import torch

from llmcourse.generate.cache.rolling import RollingCache
from llmcourse.generate.speculative import acceptance, residual
from llmcourse.grading.records import find
from llmcourse.model import ModelConfig
from llmcourse.model.attention import attend
from llmcourse.model.feed_forward import GatedFeedForward
from llmcourse.model.flash import flash_forward
from llmcourse.model.masks import Visibility, sliding_window_mask
from llmcourse.model.norms import rms_norm
from llmcourse.model.rotary import Rope, rotary_frequencies
from llmcourse.model.rotary import rotate as turn
from llmcourse.model.summary import summary


def config(**changes):
    small = {"vocab_size": 2, "context_length": 64, "n_layers": 1, "n_heads": 1, "d_model": 2}
    return ModelConfig(**{**small, "positions": "rope", **changes})


def swiglu(x, gate, up, down):
    f, c = gate.shape
    shape = config(
        d_model=c, d_head=2, d_ff=f, feed_forward="gated", activation="silu",
        feed_forward_bias=False,
    )  # fmt: skip
    layer = GatedFeedForward(shape, out_std=0.02).double()
    with torch.no_grad():
        layer.gate_up.weight.copy_(torch.cat([gate, up]))
        layer.down.weight.copy_(down)
        return layer(x[None])[0]


def rotary_angles(positions, d_head, base):
    return positions[:, None] * rotary_frequencies(Rope(base=base), d_head)


def rotate(x, angles):
    return turn(x, angles.cos(), angles.sin())


def grouped(q, k, v):
    return attend(q, k, v, causal=False)


def cache_bytes(tokens, n_layers, n_heads, n_kv_heads, d_head, bits, window):
    shape = config(
        n_layers=n_layers, n_heads=n_heads, n_kv_heads=n_kv_heads, d_head=d_head, window=window
    )
    return summary(shape).cache_bytes(1, tokens, bits // 8)


def window_mask(t, s, window, sinks):
    return sliding_window_mask(t, window, s=s, sinks=sinks)


def cached_attention(rotate, q, k, v, keys, values):
    places = torch.arange(len(keys), len(keys) + len(q))
    keys = torch.cat([keys, rotate(k, places)])
    values = torch.cat([values, v])
    out = attend(rotate(q, places)[None, None], keys[None, None], values[None, None], causal=True)
    return out[0, 0], keys, values


def rolling_step(slots, n, count, window, sinks):
    """The library's rolling cache, with each key holding the number of its position, plus 1."""
    cache = RollingCache(config(window=window, sinks=sinks), 1, dtype=torch.float64)

    def feed(start, stop):
        marks = torch.arange(start + 1.0, stop + 1.0, dtype=torch.float64)
        k = marks[None, None, :, None].expand(1, 1, -1, 2).clone()  # (1, 1, T, 2)
        cache.begin(1, stop - start)
        visibility = cache.visibility(window, sinks)
        keys, _ = cache.update(0, k, k)
        held = keys[0, 0, :, 0].clone()
        cache.commit()
        table = visibility.table()
        if table is None:  # every query sees every key
            table = torch.ones(stop - start, len(held), dtype=torch.bool)
        return [sorted(int(mark) - 1 for mark in held[row]) for row in table]

    if n:
        feed(0, n)
    seen = feed(n, n + count)
    return seen, [int(mark) - 1 for mark in cache._keys[0][0, 0, :, 0]]


def accept_draft(p, q):
    return acceptance(p, q), residual(p, q)


def latent_attention(q, latents, key_up, value_up):
    # All heads over one head of latents, which are the keys and the values at once.
    asked = torch.einsum("hd,hdr->hr", q, key_up)[None, :, None]  # (1, H, 1, R)
    kept = latents[None, None]  # (1, 1, S, R)
    mean = attend(asked, kept, kept, causal=False, scale=1 / math.sqrt(q.shape[-1]))
    return torch.einsum("hr,her->he", mean[0, :, 0], value_up)


def flash(q, k, v, block):
    q = q.as_subclass(torch.Tensor)  # without the watch over its tiles
    visibility, scale = Visibility(len(q), len(k)), 1 / math.sqrt(q.shape[-1])
    q, k, v = q[None, None], k[None, None], v[None, None]
    out, sizes = flash_forward(q, k, v, visibility, scale=scale, tile=(block, block))
    return out[0, 0], sizes[0, 0]


LIBRARY = {
    "3.1": rms_norm,
    "3.2": swiglu,
    "3.3": rotary_angles,
    "3.4": rotate,
    "3.5": grouped,
    "3.6": cache_bytes,
    "3.7": window_mask,
    "3.8": cached_attention,
    "3.9": rolling_step,
    "3.11": accept_draft,
    "3.12": latent_attention,
    "3.13": flash,
}


@pytest.mark.parametrize("exercise_id", LIBRARY)
def test_oracle_and_library_agree(exercise_id, greatest_error):
    assert greatest_error(exercise_id, LIBRARY[exercise_id]) < 1e-9


def test_merged_parts_are_the_librarys_whole():
    """3.10 has no twin in the library: what `flash_forward` says of two halves must merge."""
    generator = torch.Generator().manual_seed(7)
    q, k, v = (torch.randn(1, 1, n, 4, generator=generator, dtype=torch.float64) for n in (3, 9, 9))

    def part(k, v):
        visibility = Visibility(3, k.shape[2], causal=False)
        out, size = flash_forward(q, k, v, visibility, scale=0.5)
        return size[0, 0], torch.ones(3, dtype=torch.float64), out[0, 0]

    top, total, out = find("3.10").oracle(
        *part(k[:, :, :4], v[:, :, :4]), *part(k[:, :, 4:], v[:, :, 4:])
    )
    size, _, whole = part(k, v)
    assert float((out / total[:, None] - whole).abs().max()) < 1e-12
    assert float((top + total.log() - size).abs().max()) < 1e-12
