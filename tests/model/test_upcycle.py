"""Upcycling: the sparse model's first outputs are the dense model's, whatever the config."""

from __future__ import annotations

import pytest
import torch

from llmcourse.model import ModelConfig, Transformer
from llmcourse.model.config import Latent
from llmcourse.model.experts_config import Experts
from llmcourse.model.routing import record_routing
from llmcourse.model.upcycle import experts_apart, upcycle
from llmcourse.train.losses import cross_entropy

SIZES = {"vocab_size": 13, "context_length": 12, "n_layers": 3, "n_heads": 2, "d_model": 12}
GATED = {"feed_forward": "gated", "activation": "silu", "norm": "rms", "positions": "rope"}
MODELS = {
    "gpt2": {},
    "no biases": {"feed_forward_bias": False, "activation": "relu2", "d_ff": 7},
    "gated": GATED | {"feed_forward_bias": False},
    "gated with biases": GATED | {"tie_embeddings": False},
    "sinusoids": {"positions": "sinusoidal", "norm_placement": "post"},
    "latent": GATED | {"latent": Latent(5, 6, 4, 2, 3), "norm_placement": "sandwich"},
}
KINDS = {
    "mixtral": Experts(4, 2),
    "one": Experts(1, 1),
    "all": Experts(3, 3),
    "some layers": Experts(5, 2, layers=(0, 2)),
    "sigmoid": Experts(4, 3, score="sigmoid", selection_bias=True, n_groups=2, n_active_groups=2),
    "noisy": Experts(4, 2, noise=True),
    "loop": Experts(4, 2, dispatch="loop"),
    "beside": Experts(4, 2, d_ff=5, dense_branch=True, scale=2.5, renormalise=False, n_shared=0),
    "beside, experts choose": Experts(4, 2, choice="expert", dense_branch=True),
    "beside, few places": Experts(4, 2, capacity=0.5, dense_branch=True),
}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def dense(name="gpt2", dtype=torch.float64, **changes):
    """With weights large enough for every part to matter; biases too."""
    config = ModelConfig(**SIZES | MODELS[name] | changes)
    model = Transformer(config, seeded()).double()
    for number, parameter in enumerate(model.parameters()):
        parameter.data += 0.3 * torch.randn(
            parameter.shape, dtype=torch.float64, generator=seeded(number)
        )
    return model.to(dtype).eval()


def tokens(b=2, t=11, seed=5):
    return torch.randint(13, (b, t), generator=seeded(seed))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", MODELS)
def test_the_first_outputs_are_the_same(name, kind):
    model = dense(name)
    before = {n: p.clone() for n, p in model.state_dict().items()}
    sparse = upcycle(model, KINDS[kind], seeded(1))
    wanted = model(tokens())
    assert wanted.std() > 0.1
    torch.testing.assert_close(sparse(tokens()), wanted, rtol=0, atol=1e-11)
    assert sparse.config == model.config.replace(experts=KINDS[kind])
    assert all(torch.equal(p, before[n]) for n, p in model.state_dict().items())


def test_padding_and_training_mode():
    model = dense(dropout=0.0).train()
    sparse = upcycle(model, KINDS["noisy"], seeded(1))
    assert sparse.training and not upcycle(model.eval(), KINDS["noisy"]).training
    padding = torch.arange(11)[None] < torch.tensor([[11], [4]])
    found, wanted = sparse(tokens(), padding=padding), model(tokens(), padding=padding)
    torch.testing.assert_close(found[padding], wanted[padding], rtol=0, atol=1e-11)


def test_nothing_is_shared():
    model = dense()
    sparse = upcycle(model, Experts(4, 2, layers=(1,)), seeded(1))
    mine = {p.untyped_storage().data_ptr() for p in model.parameters()}
    assert not mine & {p.untyped_storage().data_ptr() for p in sparse.parameters()}
    for parameter in sparse.parameters():
        parameter.data += 1
    assert not torch.allclose(sparse(tokens()), model(tokens()))


def test_every_expert_is_the_old_network():
    model = dense("gated with biases")
    sparse = upcycle(model, Experts(4, 2, layers=(0, 2)), seeded(1))
    for layer in (0, 2):
        old, new = model.blocks[layer].feed_forward, sparse.blocks[layer].feed_forward.experts
        for e in range(4):
            assert torch.equal(new.up[e], old.gate_up.weight)
            assert torch.equal(new.down[e], old.down.weight)
            assert torch.equal(new.up_bias[e], old.gate_up.bias)
            assert torch.equal(new.down_bias[e], old.down.bias)
    assert not sparse.blocks[1].sparse


def test_the_generator_decides_the_routers():
    model = dense()
    one, two, other = (upcycle(model, Experts(4, 2), seeded(seed)) for seed in (1, 1, 2))
    routers = [m.blocks[0].feed_forward.router.weight for m in (one, two, other)]
    assert torch.equal(routers[0], routers[1]) and not torch.equal(routers[0], routers[2])
    assert routers[0].std().item() == pytest.approx(model.config.init_std, rel=0.3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dtypes_are_kept(dtype):
    model = dense(dtype=dtype)
    sparse = upcycle(model, Experts(4, 2, score="sigmoid", selection_bias=True), seeded(1))
    for name, parameter in sparse.named_parameters():
        wide = name.endswith("selection_bias")
        assert parameter.dtype == (torch.float32 if wide else dtype), name
    off = (sparse(tokens()).float() - model(tokens()).float()).abs().max()
    assert off < (1e-4 if dtype == torch.float32 else 0.3)


def test_the_experts_part_ways_in_training():
    sparse = upcycle(dense(), Experts(4, 2, layers=(0, 2)), seeded(1))
    assert experts_apart(sparse).shape == (2,)
    assert experts_apart(sparse).tolist() == pytest.approx([0, 0], abs=1e-12)
    optimizer = torch.optim.AdamW([p for p in sparse.parameters() if p.requires_grad], lr=1e-2)
    with record_routing(sparse) as routings:
        cross_entropy(sparse(tokens()), tokens(seed=6)).backward()
    assert len(set(routings[0].load().tolist())) > 1
    optimizer.step()
    assert (experts_apart(sparse) > 1e-4).all()


def test_how_far_apart_by_hand():
    sparse = upcycle(dense(), Experts(2, 1, layers=(1,)), seeded(1))
    up = sparse.blocks[1].feed_forward.experts.up
    with torch.no_grad():
        up[0] = 1.0
        up[1] = 3.0  # the mean is 2, each is 1 away from it
    assert experts_apart(sparse).tolist() == pytest.approx([0.5])


def test_a_branch_beside_can_learn():
    """Outputs of zero, but not gradients of zero: only the last matrix of each expert is empty."""
    sparse = upcycle(dense(), KINDS["beside"], seeded(1))
    cross_entropy(sparse(tokens()), tokens(seed=6)).backward()
    experts = sparse.blocks[0].feed_forward.experts
    assert (experts.down == 0).all() and (experts.down_bias == 0).all()
    assert experts.up.std() > 0.01
    assert experts.down.grad.abs().max() > 0


class TestRefused:
    @pytest.mark.parametrize(
        ("changes", "said", "needed"),
        [
            ({"d_ff": 5}, "d_ff=5", "d_ff=None"),
            ({"n_shared": 1}, "n_shared=1", "n_shared=0"),
            ({"renormalise": False}, "renormalise=False", "renormalise=True"),
            ({"scale": 2.5}, "scale=2.5", "scale=1.0"),
            ({"choice": "expert"}, "choice='expert'", "choice='token'"),
            ({"capacity": 1.25}, "capacity=1.25", "capacity=None"),
        ],
    )
    def test_what_would_change_the_outputs(self, changes, said, needed):
        with pytest.raises(ValueError) as refused:
            upcycle(dense(), Experts(4, 2, **changes))
        assert str(refused.value) == (
            f"experts {said} would change the first outputs; upcycling needs {needed}, or "
            f"dense_branch=True"
        )

    def test_a_width_that_is_the_models_own_is_fine(self):
        model = dense()
        sparse = upcycle(model, Experts(4, 2, d_ff=model.config.d_ff), seeded(1))
        torch.testing.assert_close(sparse(tokens()), model(tokens()), rtol=0, atol=1e-11)

    def test_a_sparse_model(self):
        sparse = upcycle(dense(), Experts(4, 2), seeded(1))
        with pytest.raises(ValueError) as refused:
            upcycle(sparse, Experts(8, 2))
        assert str(refused.value) == (
            "the model is a mixture of experts already; upcycling begins with a dense"
        )

    def test_layers_outside_the_model(self):
        with pytest.raises(ValueError, match=r"names layer 3, but n_layers=3"):
            upcycle(dense(), Experts(4, 2, layers=(1, 3)))
