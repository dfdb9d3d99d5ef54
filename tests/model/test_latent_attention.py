"""Latent attention: both forms against each other and against the paper's equations in a loop."""

from __future__ import annotations

import pytest
import torch

from llmcourse.model import ModelConfig, Transformer
from llmcourse.model.config import Latent
from llmcourse.model.latent_attention import LatentAttention
from llmcourse.model.masks import Visibility
from llmcourse.model.rotary import rotary_table, rotate_reference
from llmcourse.model.self_attention import Sight


def layer(d_query_latent=None, **changes):
    config = ModelConfig(
        vocab_size=7, context_length=32, n_layers=1, n_heads=3, d_model=12, positions="rope",
        latent=Latent(5, d_query_latent, 4, 2, 6), init_std=0.5, **changes,
    )  # fmt: skip
    made = LatentAttention(config, 0.5, torch.Generator().manual_seed(0)).double()
    for p in made.parameters():
        p.data += 0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1))
    return made, config


def sight_of(config, t):
    return Sight(Visibility(t, t), rotary_table(config.rope, 2, torch.arange(t), torch.float64))


def by_loops(module, config, x):
    """Equations 9 to 19, one token and one head at a time."""

    def norm(y, weight):
        return y / (y.square().mean() + config.norm_eps).sqrt() * weight

    def linear(m, y):
        return m.weight @ y + (0 if m.bias is None else m.bias)

    t = x.shape[1]
    keys, values, queries = [], [], []
    for i in range(t):
        down = linear(module.down, x[0, i])
        c, k_rope = (
            norm(down[:5], module.latent_norm.weight),
            rotate_reference(down[5:], i, config.rope),
        )
        if config.latent.d_query_latent is None:
            q = linear(module.query, x[0, i])
        else:
            q = linear(
                module.query_up, norm(linear(module.query_down, x[0, i]), module.query_norm.weight)
            )
        up = linear(module.up, c)
        keys.append([torch.cat([up[h * 10 : h * 10 + 4], k_rope]) for h in range(3)])
        values.append([up[h * 10 + 4 : h * 10 + 10] for h in range(3)])
        parts = q.split(6)
        queries.append([torch.cat([p[:4], rotate_reference(p[4:], i, config.rope)]) for p in parts])
    rows = []
    for i in range(t):
        heads = []
        for h in range(3):
            scores = torch.stack([queries[i][h] @ keys[j][h] for j in range(i + 1)]) / 6**0.5
            weights = scores.softmax(0)
            heads.append(sum(w * values[j][h] for j, w in enumerate(weights)))
        rows.append(linear(module.out, torch.cat(heads)))
    return torch.stack(rows)[None]


@pytest.mark.parametrize("d_query_latent", [None, 7])
def test_equals_the_equations_in_both_forms(d_query_latent):
    module, config = layer(d_query_latent)
    x = torch.randn(1, 6, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    wanted = by_loops(module, config, x)
    for absorb in (False, True):
        module.absorb = absorb
        out = module(x, sight_of(config, 6))
        torch.testing.assert_close(out, wanted, rtol=0, atol=1e-10)


def test_both_forms_have_the_same_gradients():
    module, config = layer(7)
    x = torch.randn(2, 6, 12, dtype=torch.float64, requires_grad=True)
    slopes = []
    for absorb in (False, True):
        module.absorb = absorb
        out = module(x, sight_of(config, 6)).sin().sum()
        slopes.append(torch.autograd.grad(out, [x, *module.parameters()]))
    for a, b in zip(*slopes, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10)


def test_decoding_absorbs_and_prefill_rebuilds():
    module, _ = layer()
    assert module._worth_absorbing(Visibility(1, 500))
    assert not module._worth_absorbing(Visibility(500, 500))


def test_the_cache_holds_one_small_vector_per_token():
    config = ModelConfig(
        vocab_size=7, context_length=32, n_layers=1, n_heads=16, d_model=64, positions="rope",
        latent=Latent(8, None, 4, 2, 4),
    )  # fmt: skip
    assert config.cache_widths == ((1, 10), (1, 0))
    assert Transformer(config)(torch.tensor([[1, 2, 3]])).shape == (1, 3, 7)
