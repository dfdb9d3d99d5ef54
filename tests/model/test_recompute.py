"""Recomputed blocks: the same loss and gradients, bit for bit, from less memory."""

from __future__ import annotations

import pytest
import torch

from llmcourse.generate.cache import DenseCache
from llmcourse.model import ModelConfig, Transformer
from llmcourse.model.experts_config import Experts
from llmcourse.train import cross_entropy

SIZES = {"vocab_size": 31, "context_length": 24, "n_layers": 3, "n_heads": 2, "d_model": 24}
MODERN = {"positions": "rope", "norm": "rms", "feed_forward": "gated", "n_kv_heads": 1}
SPARSE = {"experts": Experts(4, 2, n_shared=1, layers=(0, 2))}
CROWDED = {"experts": Experts(4, 2, capacity=0.75, dispatch="loop")}
NOISY = {"experts": Experts(4, 2, noise=True)}


def build(seed=0, own=True, **changes):
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed) if own else None
    return Transformer(ModelConfig(**SIZES | changes), generator).train()


def ids_of(b=3, t=24):
    return torch.randint(31, (b, t), generator=torch.Generator().manual_seed(1))


def learn(model, recompute, steps=1, autocast=False, **inputs):
    """Loss and gradients of one step, after `steps` - 1 steps that only draw."""
    model.recompute = recompute
    ids = ids_of()
    for _ in range(steps):
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = cross_entropy(model(ids, **inputs), ids)
        loss.backward()
    return [loss.detach(), *(p.grad.clone() for p in model.parameters())]


def identical(first, second):
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize(
    "changes",
    [{}, MODERN, {"norm_placement": "sandwich", "window": 5}, MODERN | SPARSE, MODERN | CROWDED],
)
def test_same_loss_and_gradients(changes, autocast):
    plain = learn(build(**changes), False, autocast=autocast)
    assert identical(plain, learn(build(**changes), True, autocast=autocast))


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("changes", [{}, MODERN])
def test_dropout_draws_the_same_numbers_again(changes, own):
    # Several steps: the generator must stand where it would have stood without recomputation.
    plain = learn(build(own=own, dropout=0.2, **changes), False, steps=3)
    again = learn(build(own=own, dropout=0.2, **changes), True, steps=3)
    assert identical(plain, again)
    other = learn(build(own=own, dropout=0.2, **changes), False, steps=2)
    assert not identical(plain, other), "dropout drew nothing"


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_noisy_routers_draw_the_same_noise_again(own, dropout):
    """Other noise would send tokens to other experts the second time: an error, or wrong slopes."""
    plain = learn(build(own=own, dropout=dropout, **NOISY), False, steps=3)
    again = learn(build(own=own, dropout=dropout, **NOISY), True, steps=3)
    assert identical(plain, again)
    other = learn(build(own=own, dropout=dropout, **NOISY), False, steps=2)
    assert not identical(plain, other), "the routers drew nothing"


def test_the_generator_is_left_where_the_forward_pass_left_it():
    model = build(dropout=0.2)
    model.recompute = True
    loss = cross_entropy(model(ids_of()), ids_of())
    before = model.generator.get_state()
    loss.backward()
    assert torch.equal(before, model.generator.get_state())
    state = torch.random.get_rng_state()
    cross_entropy(model(ids_of()), ids_of()).backward()
    assert torch.equal(state, torch.random.get_rng_state()), "the global state was touched"


def kept_bytes(model):
    """What autograd holds for the backward pass, shared memory counted once, weights left out."""
    own = {t.untyped_storage().data_ptr() for t in model.parameters()}
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)  # alive, so addresses are unique
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        hidden = model.hidden(ids_of())
    del hidden
    return sum(size for size, _ in kept.values())


def test_only_the_inputs_of_blocks_are_kept():
    model = build(n_layers=6)
    everything = kept_bytes(model)
    model.recompute = True
    kept = kept_bytes(model)
    one = 3 * 24 * 24 * 4  # bytes of (B, T, C)
    # Six inputs and the last norm's; ids, positions, means and deviations are small.
    assert 7 * one <= kept < 8 * one
    assert everything > 10 * kept


def test_padding_and_documents():
    padding = torch.ones(3, 24, dtype=torch.bool)
    padding[0, :7] = False
    documents = torch.arange(24).div(9, rounding_mode="floor").expand(3, 24).contiguous()
    for inputs in ({"padding": padding}, {"documents": documents}):
        for changes in (MODERN, MODERN | SPARSE):
            plain = learn(build(**changes), False, **inputs)
            assert identical(plain, learn(build(**changes), True, **inputs))


def test_a_cache_and_a_record_are_written_once():
    model = build()
    model.recompute = True
    cache = DenseCache(model.config, 1, 24)
    wanted = build()(ids_of(1))
    torch.testing.assert_close(model(ids_of(1), cache=cache), wanted)
    record = []
    model(ids_of(), record=record).sum().backward()
    assert len(record) == 3


def test_evaluation_and_no_gradients_do_not_recompute(monkeypatch):
    from llmcourse.model import transformer

    model = build()
    model.recompute = True
    monkeypatch.setattr(transformer, "recomputed", lambda *_, **__: pytest.fail("recomputed"))
    with torch.no_grad():
        model(ids_of())
    model.recompute = False
    model(ids_of())


def test_options_keep_it():
    model = build()
    model.recompute = True
    assert model.with_options(dropout=0.1).recompute


@pytest.mark.slow
@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_compiled(dropout):
    plain = learn(build(dropout=dropout), True, steps=2)
    model = build(dropout=dropout)
    model.recompute = True
    compiled = torch.compile(model, backend="aot_eager", fullgraph=dropout == 0.0)
    for _ in range(2):
        model.zero_grad()
        loss = cross_entropy(compiled(ids_of()), ids_of())
        loss.backward()
    found = [loss.detach(), *(p.grad for p in model.parameters())]
    for a, b in zip(found, plain, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
