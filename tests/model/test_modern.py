"""What Part 3 adds to the model: norms, gates, grouped heads, windows, packing, shared weights."""

from __future__ import annotations

import math

import pytest
import torch

from llmcourse.model import ModelConfig, Transformer
from llmcourse.model.attention import attend, attention_weights, choose
from llmcourse.model.config import Latent
from llmcourse.model.feed_forward import GatedFeedForward
from llmcourse.model.layers import relu2, silu, silu_reference
from llmcourse.model.masks import Visibility
from llmcourse.model.norms import RMSNorm, rms_norm, rms_norm_reference
from llmcourse.model.rotary import Rope

SIZES = {"vocab_size": 13, "context_length": 40, "n_layers": 2, "n_heads": 4, "d_model": 16}
LLAMA = {
    "positions": "rope", "norm": "rms", "feed_forward": "gated", "activation": "silu",
    "attention_bias": False, "feed_forward_bias": False, "n_kv_heads": 2,
}  # fmt: skip
FAMILIES = {
    "llama": LLAMA,
    "mistral": LLAMA | {"window": 6},
    "sinks": LLAMA | {"window": 6, "sinks": 2},
    "gemma": LLAMA
    | {
        "activation": "gelu_tanh", "norm_offset": True, "norm_placement": "sandwich", "d_head": 6,
        "attention_softcap": 50.0, "logit_softcap": 30.0, "window": 6, "global_every": 2,
        "scale_embeddings": True, "qk_norm": "head", "rope_local": Rope(base=50.0),
    },
    "olmo2": LLAMA | {"norm_placement": "output", "qk_norm": "width"},
    "deepseek": LLAMA | {"n_kv_heads": None, "latent": Latent(5, 6, 4, 2, 3)},
}  # fmt: skip


def build(family="llama", **changes):
    config = ModelConfig(**SIZES | FAMILIES[family] | {"init_std": 0.3} | changes)
    return Transformer(config, torch.Generator().manual_seed(0)).double().eval()


def tokens(b=2, t=20, seed=0):
    return torch.randint(13, (b, t), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("offset", [False, True])
def test_rms_norm_equals_torch_and_the_equation_gradients_included(offset):
    x = (torch.randn(3, 5, 7, dtype=torch.float64) * 4 + 3).requires_grad_()
    ours = RMSNorm(7, 1e-3, offset).double()
    assert (ours.weight == (0 if offset else 1)).all(), "a new norm only normalises"
    ours.weight.data.normal_()
    theirs = torch.nn.RMSNorm(7, 1e-3).double()
    theirs.weight.data.copy_(ours.weight.data + (1 if offset else 0))
    wanted = theirs(x)
    torch.testing.assert_close(ours(x), wanted, rtol=0, atol=1e-12)
    torch.testing.assert_close(
        rms_norm_reference(x, theirs.weight, 1e-3), wanted, rtol=0, atol=1e-12
    )
    mine = torch.autograd.grad(ours(x).sin().sum(), [x, ours.weight])
    yours = torch.autograd.grad(wanted.sin().sum(), [x, theirs.weight])
    for a, b in zip(mine, yours, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_rms_norm_leaves_the_mean_and_forgets_the_scale():
    x = torch.tensor([[1.0, 2.0, 3.0]])
    y = rms_norm(x, None, 1e-12)
    torch.testing.assert_close(y, x / math.sqrt(14 / 3))
    torch.testing.assert_close(rms_norm(1000 * x, None, 1e-12), y)
    assert rms_norm(x.bfloat16(), torch.ones(3)).dtype == torch.bfloat16


def test_activations():
    x = torch.linspace(-6, 6, 41, dtype=torch.float64)
    torch.testing.assert_close(silu(x), silu_reference(x))
    assert relu2(x).tolist() == [max(0.0, v) ** 2 for v in x.tolist()]


@pytest.mark.parametrize("activation", ["silu", "gelu_tanh", "relu"])
def test_the_gated_network_is_a_product_of_two_projections(activation):
    config = ModelConfig(**SIZES, feed_forward="gated", activation=activation, d_ff=10)
    layer = GatedFeedForward(config, 0.5, torch.Generator().manual_seed(0)).double()
    layer.gate_up.bias.data.normal_()
    x = torch.randn(2, 3, 16, dtype=torch.float64)
    function = {
        "silu": torch.nn.functional.silu,
        "gelu_tanh": lambda y: torch.nn.functional.gelu(y, approximate="tanh"),
        "relu": torch.relu,
    }[activation]
    both = torch.nn.functional.linear(x, layer.gate_up.weight, layer.gate_up.bias)
    hidden = function(both[..., :10]) * both[..., 10:]
    wanted = torch.nn.functional.linear(hidden, layer.down.weight, layer.down.bias)
    torch.testing.assert_close(layer(x), wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("h", "g"), [(4, 4), (6, 2), (6, 1), (3, 3)])
@pytest.mark.parametrize("implementation", ["naive", "flash", "sdpa"])
def test_grouped_heads_are_repeated_heads(h, g, implementation):
    generator = torch.Generator().manual_seed(h * g)
    q = torch.randn(2, h, 5, 4, dtype=torch.float64, generator=generator)
    k, v = torch.randn(2, 2, g, 9, 4, dtype=torch.float64, generator=generator)
    out = attend(q, k, v, implementation=implementation)
    repeated = attend(
        q, k.repeat_interleave(h // g, 1), v.repeat_interleave(h // g, 1), implementation="naive"
    )
    torch.testing.assert_close(out, repeated, rtol=0, atol=1e-12)


def test_softcap_bounds_the_scores():
    q, k = 100 * torch.randn(2, 1, 2, 6, 8, dtype=torch.float64)
    capped = attention_weights(q, k, softcap=3.0)
    scores = 3.0 * torch.tanh(q @ k.mT / math.sqrt(8) / 3.0)
    torch.testing.assert_close(capped, scores.softmax(-1), rtol=0, atol=1e-12)
    assert (capped.amax(-1) / capped.amin(-1) <= math.exp(6.0) + 1e-9).all()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("implementation", ["flash", "sdpa", "auto"])
def test_implementations_agree_in_every_family_gradients_included(family, implementation):
    model = build(family, attention="naive")
    if implementation == "sdpa" and model.config.attention_softcap:
        with pytest.raises(ValueError, match=r"knows no soft-cap \(softcap=50.0\)"):
            model.with_options(attention="sdpa")(tokens())
        return
    other = model.with_options(attention=implementation)
    padding = torch.ones(2, 20, dtype=torch.bool)
    padding[0, :3] = padding[1, 17:] = False
    for extra in ({}, {"padding": padding}, {"documents": tokens(seed=3).sort(-1).values}):
        wanted = model(tokens(), **extra)
        out = other(tokens(), **extra)
        torch.testing.assert_close(out, wanted, rtol=0, atol=1e-10)
        slopes = [
            torch.autograd.grad(y.sin().sum(), list(model.parameters())) for y in (wanted, out)
        ]
        for a, b in zip(*slopes, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-9)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_future_is_never_seen(family):
    model, ids = build(family), tokens()
    out = model(ids)
    changed = ids.clone()
    changed[:, 11:] = (changed[:, 11:] + 1) % 13
    torch.testing.assert_close(model(changed)[:, :11], out[:, :11], rtol=0, atol=1e-12)
    assert (model(changed)[:, 11:] - out[:, 11:]).abs().amax() > 1e-3


@pytest.mark.parametrize("attention", ["naive", "flash", "sdpa"])
@pytest.mark.parametrize("sinks", [0, 2])
def test_a_window_reaches_exactly_so_far(attention, sinks):
    # Two layers of window 6 reach 2 × 5 tokens back and no further, but for the sinks.
    model, ids = build("sinks", sinks=sinks, attention=attention), tokens(1)
    out = model(ids)[0, 19]
    for place in range(19):
        changed = ids.clone()
        changed[0, place] = (changed[0, place] + 1) % 13
        moved = (model(changed)[0, 19] - out).abs().max() > 1e-9
        assert moved == (19 - place <= 10 or place < sinks), place


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing(family, side):
    model, ids = build(family), tokens(1, 15)
    filler, n = torch.full((1, 4), 7), 4
    padded = torch.cat([filler, ids] if side == "left" else [ids, filler], 1)
    padding = torch.ones(1, 19, dtype=torch.bool)
    real = slice(n, None) if side == "left" else slice(0, 15)
    padding[:, :n] = side != "left"
    padding[:, 15:] &= side == "left"
    out = model(padded, padding=padding)[:, real]
    torch.testing.assert_close(out, model(ids), rtol=0, atol=1e-10)


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_documents_are_as_if_alone(family):
    model = build(family)
    parts = [tokens(1, n, seed=n) for n in (3, 9, 1, 8)]
    documents = torch.cat([torch.full_like(p, i) for i, p in enumerate(parts)], 1)
    packed = model(torch.cat(parts, 1), documents=documents)
    alone = torch.cat([model(p) for p in parts], 1)
    torch.testing.assert_close(packed, alone, rtol=0, atol=1e-10)


def test_with_options_shares_the_weights():
    model = build("llama")
    streaming = model.with_options(window=4, sinks=1)
    assert streaming.config.window == 4 and model.config.window is None
    same = zip(model.parameters(), streaming.parameters(), strict=True)
    assert all(a is b for a, b in same) and not streaming.training
    assert (streaming(tokens()) - model(tokens())).abs().max() > 1e-3
    with torch.no_grad():
        model.embedding.weight.mul_(2.0)
    torch.testing.assert_close(model.with_options()(tokens()), model(tokens()), rtol=0, atol=0)
    sinusoidal = Transformer(ModelConfig(**SIZES, positions="sinusoidal"))
    other = sinusoidal.with_options(attention="naive")
    torch.testing.assert_close(other(tokens()), sinusoidal(tokens()))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_heads": 2}, "n_heads cannot change under trained weights"),
        ({"window": -1}, "window=-1 must be a whole number"),
        ({"positions": "none"}, "positions cannot change under trained weights"),
    ],
)
def test_with_options_refuses_what_changes_weights(changes, message):
    with pytest.raises(ValueError, match=message):
        build().with_options(**changes)


def test_a_learned_table_does_not_grow():
    model = Transformer(ModelConfig(**SIZES))
    with pytest.raises(ValueError, match="context_length is the size of the learned position"):
        model.with_options(context_length=50)


def test_an_endless_model_has_no_longest_text():
    ids = tokens(1, 60)
    with pytest.raises(ValueError, match="60 tokens overflow the context of 40"):
        build("llama")(ids)
    assert build("mistral")(ids).shape == (1, 60, 13)


def test_embeddings_are_scaled_and_logits_capped_when_asked():
    plain, scaled = build("llama"), build("llama", scale_embeddings=True)
    assert (plain.embedding_scale, scaled.embedding_scale) == (1.0, 4.0)
    capped = build("llama", logit_softcap=0.5)
    wanted = 0.5 * torch.tanh(plain(tokens()) / 0.5)
    torch.testing.assert_close(capped(tokens()), wanted, rtol=0, atol=1e-12)


def test_documents_of_the_wrong_kind_are_refused():
    model = build()
    with pytest.raises(ValueError, match=r"documents must have the shape of ids \(2, 20\)"):
        model(tokens(), documents=torch.zeros(2, 3, dtype=torch.int64))
    with pytest.raises(ValueError, match="padding must be bool"):
        model(tokens(), padding=torch.ones(2, 20))


class TestChoice:
    def choice(self, t, s, dtype=torch.float32, b=1, h=2, **rule):
        q, k = torch.empty(b, h, t, 4, dtype=dtype), torch.empty(b, h, s, 4, dtype=dtype)
        softcap = rule.pop("softcap", None)
        record = rule.pop("record", None)
        return choose(q, k, k, Visibility(t, s, **rule), softcap, 0.0, record)

    def test_it_says_what_and_why(self):
        short = self.choice(64, 64, torch.bfloat16)
        assert short.implementation == "naive" and "bfloat16" in short.reason
        assert "up to 512 keys" in short.reason
        assert self.choice(512, 512, torch.bfloat16).implementation == "naive"
        assert self.choice(513, 513, torch.bfloat16).implementation == "sdpa"
        assert self.choice(64, 64).implementation == "sdpa"
        assert self.choice(1024, 1024).implementation == "flash"
        assert self.choice(1024, 1024, torch.bfloat16).implementation == "sdpa"
        assert self.choice(900, 900, window=100).implementation == "sdpa"
        assert self.choice(4096, 4096, window=512).implementation == "flash"
        assert self.choice(1, 900).implementation == "sdpa"
        assert self.choice(1, 900, b=32).implementation == "naive"
        assert self.choice(1, 900, torch.bfloat16).implementation == "naive"
        assert self.choice(5, 5, record=[]).implementation == "naive"
        assert self.choice(4096, 4096, softcap=50.0).implementation == "flash"
