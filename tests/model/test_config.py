"""The config: presets as published, and every impossible value refused by name."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from llmcourse.model import ModelConfig, Transformer
from llmcourse.model.config import CHOICES, PRESETS, Latent
from llmcourse.model.experts_config import Experts
from llmcourse.model.rotary import Rope

SMALL = {"vocab_size": 11, "context_length": 8, "n_layers": 2, "n_heads": 2, "d_model": 4}


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        # Counted from OpenAI's own checkpoints.
        ("gpt2", 124_439_808),
        ("gpt2-medium", 354_823_168),
        ("gpt2-large", 774_030_080),
        ("gpt2-xl", 1_557_611_200),
        ("showcase", 856_832),
    ],
)
def test_presets_have_the_published_number_of_parameters(name, parameters):
    with torch.device("meta"):
        model = Transformer(ModelConfig.preset(name))
    assert model.n_parameters() == parameters
    assert model.summary().total_parameters == parameters


def test_the_showcase_is_what_it_is_said_to_be():
    config = ModelConfig.preset("showcase")
    assert (config.n_layers, config.d_model, config.n_heads) == (4, 128, 8)
    assert (config.vocab_size, config.context_length) == (256, 256)
    assert config.tie_embeddings and not config.attention_bias
    # By hand: embedding, positions, and per block 4 C C + 8 C C + 5 C biases + 4 C of two norms.
    c = 128
    assert 256 * c + 256 * c + 4 * (12 * c * c + 5 * c + 4 * c) + 2 * c == 856_832


def test_the_tales_preset_stays_within_its_budget():
    assert ModelConfig.preset("tales").vocab_size == 1024
    with torch.device("meta"):
        assert Transformer(ModelConfig.preset("tales")).n_parameters() <= 1_500_000


def test_every_preset_can_be_changed_and_written_down():
    for name in PRESETS:
        config = ModelConfig.preset(name, dropout=0.25, context_length=17)
        assert (config.dropout, config.context_length) == (0.25, 17)
        assert ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert ModelConfig.preset("gpt2").dropout == 0.0, "the preset itself was changed"


def test_derived_widths():
    config = ModelConfig(**SMALL)
    assert (config.d_ff, config.d_head) == (16, 2)
    assert ModelConfig(**SMALL, d_ff=7).d_ff == 7


def test_a_gated_network_of_the_default_width_has_as_many_parameters():
    def count(**changes):
        config = ModelConfig(**SMALL | {"d_model": 96, "feed_forward_bias": False} | changes)
        return sum(p.numel() for p in Transformer(config).blocks[0].feed_forward.parameters())

    assert ModelConfig(**SMALL | {"d_model": 96}, feed_forward="gated").d_ff == 256
    assert count() == count(feed_forward="gated") == 8 * 96 * 96


def test_replace_lets_derived_widths_follow():
    config = ModelConfig(**SMALL)
    wider = config.replace(d_model=12, n_heads=4)
    assert (wider.d_ff, wider.d_head, wider.n_kv_heads) == (48, 3, 4)
    said = ModelConfig(**SMALL | {"n_heads": 4, "n_kv_heads": 2, "d_ff": 5}).replace(d_model=8)
    assert (said.d_ff, said.d_head, said.n_kv_heads) == (5, 2, 2)
    with pytest.raises(ValueError, match="no field 'n_head'"):
        config.replace(n_head=3)


def test_nested_records_are_written_down_and_checked():
    config = ModelConfig(
        **SMALL,
        positions="rope",
        latent=Latent(4, None, 4, 2, 4),
        window=3,
        rope_local=Rope(base=50),
    )
    read = ModelConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert read == config and isinstance(read.latent, Latent) and read.rope_local.base == 50
    with pytest.raises(ValueError, match=r"rope has no field 'bas'; did you mean 'base'"):
        ModelConfig.from_dict(SMALL | {"rope": {"bas": 3}})
    with pytest.raises(ValueError, match=r"latent needs a value for d_latent"):
        ModelConfig.from_dict(SMALL | {"positions": "rope", "latent": {"d_rope": 4}})


@pytest.mark.parametrize(
    "experts",
    [
        Experts(4, 2),
        Experts(
            8, 3, d_ff=5, n_shared=2, score="sigmoid", scale=2.5, selection_bias=True, n_groups=4,
            n_active_groups=2, group_score="best", layers=(0, 1), balance_over="sequence",
        ),
        Experts(4, 2, capacity=1.25, noise=True, dense_branch=True, dispatch="loop", layers=(1,)),
    ],
)  # fmt: skip
def test_experts_are_written_down_and_read(experts):
    config = ModelConfig(**SMALL, experts=experts)
    read = ModelConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert read == config and read.experts == experts and hash(read) == hash(config)
    assert isinstance(read.experts, Experts) and config.replace().experts == experts
    assert config.replace(experts=dataclasses.asdict(experts)) == config
    assert config.replace(experts=None) == ModelConfig(**SMALL)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"n_expert": 4}, "experts has no field 'n_expert'; did you mean 'n_experts'?"),
        ({"n_active": 2}, "experts needs a value for n_experts"),
        ({}, "experts needs a value for n_experts, n_active"),
        (
            {"n_experts": 4, "n_active": 5},
            "experts n_active=5 is more than n_experts=4; a token cannot take more experts than "
            "there are: choose 1 to 4",
        ),
        (
            {"n_experts": 4, "n_active": 2, "capacity": 0},
            "experts capacity=0 must be a number above 0, or None for no limit",
        ),
        (
            {"n_experts": 4, "n_active": 2, "layers": [1, 2]},
            "experts layers=(1, 2) names layer 2, but n_layers=2: layers run from 0 to 1",
        ),
    ],
)
def test_experts_as_plain_values_are_checked(values, message):
    with pytest.raises(ValueError) as refused:
        ModelConfig.from_dict(SMALL | {"experts": values})
    assert str(refused.value) == message


def test_which_layers_are_sparse():
    config = ModelConfig(**SMALL | {"n_layers": 4}, experts=Experts(4, 2, layers=(1, 3)))
    assert [config.is_sparse(i) for i in range(4)] == [False, True, False, True]
    assert config.n_sparse_layers == 2
    everywhere, dense = config.replace(experts=Experts(4, 2)), config.replace(experts=None)
    assert (everywhere.n_sparse_layers, dense.n_sparse_layers) == (4, 0)
    assert not any(dense.is_sparse(i) for i in range(4))


def test_the_width_of_experts():
    config = ModelConfig(**SMALL, experts=Experts(4, 2))
    assert config.expert_width == config.d_ff == 16
    assert config.replace(d_model=8).expert_width == 32, "it follows the model's"
    assert config.replace(experts=Experts(4, 2, d_ff=3)).expert_width == 3
    assert ModelConfig(**SMALL, d_ff=7).expert_width == 7


def test_what_draws_random_numbers():
    noisy = Experts(4, 2, noise=True)
    drawn = [{}, {"experts": Experts(4, 2)}, {"experts": noisy}, {"dropout": 0.1}]
    assert [ModelConfig(**SMALL, **c).draws for c in drawn] == [False, False, True, True]


def test_windows_of_layers():
    config = ModelConfig(**SMALL | {"n_layers": 6}, positions="rope", d_head=4, window=5)
    assert config.windows == (5,) * 6 and config.endless
    gemma = config.replace(global_every=3)
    assert gemma.windows == (5, 5, None, 5, 5, None) and not gemma.endless
    assert not ModelConfig(**SMALL, window=5).endless, "learned positions end with their table"


def test_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        ModelConfig(**SMALL).n_heads = 3


@pytest.mark.parametrize(
    "field", ["vocab_size", "context_length", "n_layers", "n_heads", "d_model"]
)
@pytest.mark.parametrize("value", [0, -1, 2.0, "4", None, True])
def test_sizes_are_whole_numbers(field, value):
    with pytest.raises(ValueError, match=f"{field}={value!r} must be a whole number of at least 1"):
        ModelConfig(**SMALL | {field: value})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"d_ff": 0}, r"d_ff=0 must be a whole number"),
        ({"n_heads": 3}, r"n_heads=3 does not divide d_model=4; .*for example n_heads=2"),
        ({"n_heads": 7, "d_model": 12}, r"n_heads=7 does not divide d_model=12; .*n_heads=6"),
        ({"n_heads": 16}, r"n_heads=16 does not divide d_model=4; .*n_heads=4"),
        (
            {"positions": "sinusoidal", "d_model": 5, "n_heads": 1},
            r"d_model=5 is odd; .*example d_model=6",
        ),
        ({"positions": "alibi"}, r"positions='alibi' is unknown; choose one of \['learned', 'sin"),
        ({"norm": "batch"}, r"norm='batch' is unknown; choose one of \['layer', 'rms', 'none'\]"),
        ({"norm_placement": "mid"}, r"norm_placement='mid' is unknown; .*'pre', 'post'"),
        ({"activation": "swish"}, r"activation='swish' is unknown; choose one of \['gelu'"),
        ({"attention": "fused"}, r"attention='fused' is unknown; choose one of \['auto'"),
        ({"dropout": 1.0}, r"dropout=1.0 is not a probability in \[0, 1\)"),
        ({"dropout": -0.1}, r"dropout=-0.1 is not a probability"),
        ({"dropout": float("nan")}, r"dropout=nan is not a probability"),
        ({"norm_eps": 0.0}, r"norm_eps=0.0 must be a number greater than 0"),
        ({"init_std": -1.0}, r"init_std=-1.0 must be a number greater than 0"),
        ({"init_std": float("inf")}, r"init_std=inf must be a number greater than 0"),
        ({"norm_eps": float("nan")}, r"norm_eps=nan must be a number greater than 0"),
        ({"tie_embeddings": "no"}, r"tie_embeddings='no' must be True or False"),
        ({"residual": 1}, r"residual=1 must be True or False"),
        ({"n_heads": 4, "n_kv_heads": 3}, r"n_kv_heads=3 does not divide n_heads=4; .*\[1, 2, 4\]"),
        ({"n_kv_heads": 0}, r"n_kv_heads=0 must be a whole number"),
        ({"d_head": 0}, r"d_head=0 must be a whole number"),
        ({"positions": "rope", "d_head": 3}, r"d_head=3 .*gives 3, which must be even"),
        (
            {"positions": "rope", "d_head": 4, "rope": Rope(fraction=0.3)},
            r"d_head=4 with fraction=0.3 gives 1",
        ),
        ({"rope": {"base": 5}}, r"rope={'base': 5} must be a Rope"),
        ({"experts": {"n_experts": 4}}, r"experts={'n_experts': 4} must be an? Experts\(...\)"),
        ({"experts": 4}, r"experts=4 must be an? Experts"),
        (
            {"experts": Experts(4, 2, layers=(0, 2))},
            r"experts layers=\(0, 2\) names layer 2, but n_layers=2: layers run from 0 to 1",
        ),
        ({"window": 0}, r"window=0 must be a whole number"),
        ({"sinks": 2}, r"sinks=2 has no effect without a window"),
        ({"sinks": -1, "window": 3}, r"sinks=-1 must be a whole number of at least 0"),
        ({"global_every": 2}, r"global_every=2 has no effect without a window"),
        ({"rope_local": Rope()}, r"rope_local=.* has no effect without a window"),
        ({"norm_offset": True}, r'norm_offset=True goes with norm="rms", got norm=\'layer\''),
        ({"norm": "none", "norm_placement": "output"}, r"leaves nothing for norm_placement"),
        ({"logit_softcap": 0.0}, r"logit_softcap=0.0 must be a number greater than 0, or None"),
        ({"latent": Latent(4)}, r'latent attention needs positions="rope", got \'learned\''),
        (
            {"latent": Latent(4), "positions": "rope", "n_kv_heads": 1},
            r"n_kv_heads=1 has no meaning with latent attention",
        ),
        (
            {"latent": Latent(4, None, 4, 2, 4), "positions": "rope", "d_head": 5},
            r"d_head=5 contradicts latent d_nope \+ d_rope = 6",
        ),
        (
            {"latent": Latent(4), "positions": "rope", "qk_norm": "head"},
            r"qk_norm='head' is not built for latent attention",
        ),
    ],
)
def test_impossible_values_are_refused_by_name(changes, message):
    with pytest.raises(ValueError, match=message):
        ModelConfig(**SMALL | changes)


@pytest.mark.parametrize(
    ("name", "hint"),
    [("gpt-2", "did you mean 'gpt2'"), ("showcas", "'showcase'"), ("zzz", "known: gpt2, gpt2-m")],
)
def test_an_unknown_preset_names_the_nearest(name, hint):
    with pytest.raises(ValueError, match=f"unknown preset '{name}'; .*{hint}"):
        ModelConfig.preset(name)


def test_an_unknown_field_names_the_nearest():
    with pytest.raises(ValueError, match=r"no field 'n_head'; did you mean 'n_heads'\?"):
        ModelConfig.from_dict(SMALL | {"n_head": 2})
    with pytest.raises(ValueError, match=r"no field 'droput'; did you mean 'dropout'\?"):
        ModelConfig.preset("gpt2", droput=0.1)


def test_missing_fields_are_named():
    with pytest.raises(ValueError, match="needs a value for n_heads, d_model"):
        ModelConfig.from_dict({"vocab_size": 5, "context_length": 5, "n_layers": 1})


def test_every_choice_builds_a_model_that_runs():
    ids = torch.tensor([[1, 2, 3]])
    for name, allowed in CHOICES.items():
        for value in allowed:
            if value in ("triton", "flex") or (name, value) == ("attention", "flash"):
                continue  # their own tests
            norm = {"norm": "rms"} if name == "norm_placement" else {}
            model = Transformer(ModelConfig(**SMALL | norm | {name: value}))
            assert model(ids).shape == (1, 3, 11) and model(ids).isfinite().all(), (name, value)
