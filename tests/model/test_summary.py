"""The accounting against the built model, torch's FLOP counter and autograd's own memory."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from llmcourse.model import ModelConfig, Transformer
from llmcourse.model.config import Latent
from llmcourse.model.experts_config import Experts
from llmcourse.model.summary import summary
from llmcourse.train.losses import cross_entropy

SIZES = {"vocab_size": 67, "context_length": 48, "n_layers": 3, "n_heads": 4, "d_model": 32}
VARIANTS = [
    {},
    {"tie_embeddings": False, "d_ff": 50},
    {"attention_bias": False},
    {"feed_forward_bias": False, "positions": "sinusoidal", "activation": "relu"},
    {"norm": "none", "positions": "none"},
    {"norm_placement": "post", "activation": "gelu_tanh"},
    {"residual": False, "n_heads": 1, "n_layers": 1},
    # What Part 3 adds.
    {"norm": "rms", "positions": "rope", "feed_forward": "gated", "activation": "silu"},
    {"positions": "rope", "n_kv_heads": 2, "attention_out_bias": False, "tie_embeddings": False},
    {"positions": "rope", "norm": "rms", "qk_norm": "head", "d_head": 16, "n_kv_heads": 1},
    {"norm": "rms", "norm_placement": "output", "qk_norm": "width", "activation": "relu2"},
    {"positions": "rope", "norm": "rms", "qk_norm": "width", "n_kv_heads": 2},
    {"norm": "rms", "norm_placement": "sandwich", "logit_softcap": 30.0, "feed_forward": "gated"},
]
LATENT = [
    {"positions": "rope", "latent": Latent(6, None, 8, 4, 5), "norm": "rms"},
    {"positions": "rope", "latent": Latent(6, 10, 8, 4, 5), "attention_bias": False},
]
# What Part 5 adds.
SPARSE = [
    {"experts": Experts(4, 2)},
    {"experts": Experts(1, 1, n_shared=1), "feed_forward_bias": False},
    {"experts": Experts(6, 6, d_ff=7, dispatch="loop"), "feed_forward": "gated"},
    {"experts": Experts(4, 1, layers=(0, 2), dense_branch=True, d_ff=9), "norm": "rms"},
    {"experts": Experts(8, 2, noise=True, selection_bias=True, layers=(1,)), "d_ff": 20},
    {"experts": Experts(6, 2, choice="expert", n_shared=3, d_ff=5), "feed_forward_bias": False},
    LATENT[0]
    | {
        "experts": Experts(8, 3, d_ff=6, n_shared=2, score="sigmoid", selection_bias=True),
        "feed_forward": "gated",
        "feed_forward_bias": False,
    },
]


def config_of(**changes):
    return ModelConfig(**SIZES | changes)


@pytest.mark.parametrize("changes", VARIANTS + LATENT + SPARSE)
def test_parameters_are_those_of_the_built_model_component_by_component(changes):
    model = Transformer(config_of(**changes))
    counted = dict.fromkeys(summary(model.config).parameters, 0)
    for name, parameter in model.named_parameters():
        if name.startswith("embedding."):
            component = "token embedding"
        elif name.startswith("positions."):
            component = "positions"
        elif name.startswith("head."):
            component = "output head"
        elif "norm" in name:
            component = "norms"
        elif ".router." in name or ".experts." in name:
            component = "routers" if ".router." in name else "experts"
        else:
            component = "attention" if ".attention." in name else "feed-forward"
        counted[component] += parameter.numel()
    assert summary(model.config).parameters == counted
    assert summary(model.config).total_parameters == model.n_parameters()


@pytest.mark.parametrize("changes", VARIANTS + LATENT + SPARSE)
def test_flops_are_those_torch_counts(changes):
    config = config_of(attention="naive", **changes)
    model = Transformer(config).eval()  # without the router's noise, which evaluation does not have
    for block in model.blocks:
        block.attention.absorb = False  # the form that is counted
    ids = torch.randint(67, (3, 48))
    with FlopCounterMode(display=False) as forward:
        logits = model(ids)
    s = model.summary()
    assert forward.get_total_flops() == 3 * 48 * s.forward_flops_per_token
    with FlopCounterMode(display=False) as both:
        cross_entropy(model(ids), ids).backward()
    assert both.get_total_flops() == 3 * 48 * s.training_flops_per_token
    assert logits.shape == (3, 48, 67)


def kept_bytes(model, ids):
    """What autograd holds for the backward pass, shared memory counted once, weights left out."""
    own = {t.untyped_storage().data_ptr() for t in [*model.parameters(), *model.buffers()]}
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)  # alive, so addresses are unique
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = cross_entropy(model(ids), ids)
    del loss
    return sum(size for size, _ in kept.values())


@pytest.mark.parametrize("changes", VARIANTS)
@pytest.mark.parametrize(("b", "t"), [(5, 48), (2, 31)])
def test_activations_are_what_autograd_keeps(changes, b, t):
    model = Transformer(config_of(attention="sdpa", **changes))
    counted = model.summary().activation_bytes(b, t)
    assert kept_bytes(model, torch.randint(67, (b, t))) == pytest.approx(counted, rel=0.02)


def test_naive_attention_keeps_its_tables_too():
    ids = torch.randint(67, (2, 48))
    models = [Transformer(config_of(attention=name)) for name in ("naive", "sdpa")]
    naive, fused = (kept_bytes(model, ids) for model in models)
    tables = models[0].summary().attention_table_bytes(2)
    assert tables == 4 * 2 * 3 * 4 * 48 * 48
    # The scaled queries come on top, and the log-sum-exps are not needed.
    assert naive - fused == pytest.approx(tables, rel=0.15)


def test_bytes_follow_from_numbers():
    s = summary(config_of())
    assert s.parameter_bytes == 4 * s.total_parameters
    model = Transformer(config_of())
    optimizer = torch.optim.AdamW(model.parameters())
    cross_entropy(model(torch.tensor([[1, 2]])), torch.tensor([[2, 3]])).backward()
    optimizer.step()
    held = [*model.parameters(), *(p.grad for p in model.parameters())]
    for state in optimizer.state.values():
        held += [state["exp_avg"], state["exp_avg_sq"]]
    assert s.training_state_bytes == sum(x.numel() * x.element_size() for x in held)
    # Keys and values: layers x 2 x width numbers of 4 bytes for every token.
    assert s.cache_bytes(2, 10) == 2 * 10 * 3 * 2 * 32 * 4
    assert s.cache_bytes(1) == s.cache_bytes(1, 48)
    assert s.activation_bytes(1) == s.activation_bytes(1, 48)


def test_the_showcase_in_numbers():
    s = summary(ModelConfig.preset("showcase"))
    assert s.total_parameters == 856_832
    # 4 layers of 12 C C weights, the head, and scores and sums over 256 positions.
    assert s.forward_flops_per_token == 2 * (4 * 12 * 128 * 128 + 256 * 128) + 4 * 4 * 256 * 128


def test_the_printed_table_holds_the_numbers():
    s = Transformer(config_of(tie_embeddings=False)).summary()
    text = str(s)
    assert text.splitlines()[0] == (
        "3 layers, width 32, 4 heads, feed-forward 128, vocabulary 67, context 48"
    )
    rows = {line[:22].strip(): line[22:].split() for line in text.splitlines()[2:]}
    for name, count in s.parameters.items():
        assert rows[name][0] == f"{count:,}"
        assert rows[name][1] == f"{count / s.total_parameters:.1%}"
    for name, count in s.flops.items():
        assert rows[name][2] == f"{count:,}"
    assert rows["total"] == [f"{s.total_parameters:,}", f"{s.forward_flops_per_token:,}"]
    assert f"one training token: {s.training_flops_per_token:,} FLOPs" in text
    shares = [float(row[1][:-1]) for name, row in rows.items() if name in s.parameters]
    assert sum(shares) == pytest.approx(100, abs=0.3)


def test_the_summary_needs_no_model():
    assert summary(ModelConfig.preset("gpt2-xl")).total_parameters == 1_557_611_200
    assert "GB" in str(summary(ModelConfig.preset("gpt2-xl")))


def test_a_window_bounds_scores_and_cache():
    full = config_of(positions="rope", n_layers=4).replace(context_length=48)
    windowed = full.replace(window=8, sinks=2, global_every=4)
    assert summary(windowed).flops["attention scores"] * 4 * 48 == (
        summary(full).flops["attention scores"] * (3 * 10 + 48)
    )
    assert summary(full).cache_bytes(2, 30) == 4 * 2 * 4 * 30 * 2 * 32
    assert summary(windowed).cache_bytes(2, 30) == 4 * 2 * (3 * 10 + 30) * 2 * 32
    assert summary(windowed).cache_bytes(2, 30, 2) * 2 == summary(windowed).cache_bytes(2, 30)
    assert summary(windowed).cache_bytes(1, 5) == summary(full).cache_bytes(1, 5)


def test_sharing_heads_and_a_latent_vector_shrink_the_cache():
    full = summary(config_of(positions="rope"))
    grouped = summary(config_of(positions="rope", n_kv_heads=1))
    latent = summary(config_of(**LATENT[0]))
    assert full.cache_bytes(1) == 4 * grouped.cache_bytes(1)
    assert latent.cache_bytes(1) == 4 * 48 * 3 * (6 + 4)
    with pytest.raises(ValueError, match="activations of latent attention are not worked out"):
        latent.activation_bytes(1)
    assert "cache for decoding" in str(latent) and "activations for training" in str(full)


class TestExperts:
    @pytest.mark.parametrize("changes", SPARSE)
    def test_active_parameters_are_those_a_token_touches(self, changes):
        """One token through the built model: a network it does not take gets no gradient."""
        model = Transformer(config_of(**changes)).double().train()
        for parameter in model.parameters():  # so that no activation is exactly flat
            parameter.data.normal_(0, 0.3)
        model(torch.tensor([[5]])).square().sum().backward()
        touched = 0
        for name, parameter in model.named_parameters():
            if ".experts." in name:
                slopes = parameter.grad.flatten(1).abs().amax(1)  # (E,)
                touched += int((slopes > 0).sum()) * parameter[0].numel()
            else:
                touched += parameter.numel()
        s = model.summary()
        if changes["experts"].choice == "expert":  # which take one token each, however few
            assert touched == s.total_parameters
            touched = s.total_parameters - s.resting
        assert touched == s.active_parameters
        assert s.resting == s.total_parameters - touched

    def test_by_hand(self):
        # Mixtral's shape, small: gated networks without biases.
        changes = {"feed_forward": "gated", "feed_forward_bias": False, "n_layers": 3}
        experts = Experts(8, 2, d_ff=10, n_shared=1, layers=(1, 2), dense_branch=True)
        s = summary(config_of(experts=experts, d_ff=50, **changes))
        assert s.parameters["experts"] == 2 * 8 * 3 * 32 * 10
        assert s.parameters["routers"] == 2 * 8 * 32
        assert s.parameters["feed-forward"] == 3 * 32 * 50 + 2 * 3 * 32 * (10 + 50)
        assert s.resting == 2 * 6 * 3 * 32 * 10
        assert s.flops["experts"] == 2 * 2 * 2 * 3 * 32 * 10
        assert s.flops["routers"] == 2 * 2 * 8 * 32

    def test_more_experts_cost_memory_and_hardly_any_arithmetic(self):
        few, many = (summary(config_of(experts=Experts(e, 2))) for e in (2, 64))
        dense = summary(config_of())
        assert many.parameters["experts"] == 32 * few.parameters["experts"]
        assert many.flops["experts"] == few.flops["experts"] == 2 * dense.flops["feed-forward"]
        rest = {name: n for name, n in many.flops.items() if name != "routers"}
        assert rest == {name: n for name, n in few.flops.items() if name != "routers"}
        assert few.active_parameters == few.total_parameters and few.resting == 0
        assert dense.active_parameters == dense.total_parameters
        assert "experts" not in dense.parameters and "routers" not in dense.flops

    def test_the_printed_table_says_what_is_active(self):
        s = summary(config_of(experts=Experts(8, 2)))
        share = s.active_parameters / s.total_parameters
        assert f"active for one token: {s.active_parameters:,} ({share:.1%})" in str(s)
        rows = {line[:22].strip(): line[22:].split() for line in str(s).splitlines()[2:]}
        assert rows["experts"][0] == f"{s.parameters['experts']:,}"
        assert rows["routers"][2] == f"{s.flops['routers']:,}"
        assert "active for one token" not in str(summary(config_of()))
        assert "activations for training" not in str(s)
        with pytest.raises(ValueError, match="activations of mixtures of experts are not worked"):
            s.activation_bytes(1)
