"""Folders with experts: read, written, stacked or apart; mismatched counts refused by name."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from llmcourse.errors import CheckpointError
from llmcourse.interop.huggingface import (
    config_from_huggingface,
    config_to_huggingface,
    load_huggingface,
    save_huggingface,
)
from llmcourse.model import Transformer
from llmcourse.model.config import Latent
from llmcourse.model.experts_config import Experts

MOE = "block_sparse_moe"
FOUR = {"n_experts": 4, "n_active": 2}
V3 = {
    "n_kv_heads": None,
    "n_layers": 3,
    "norm_eps": 1e-6,
    "latent": Latent(d_latent=12, d_nope=6, d_rope=4, d_value=5),
    "experts": Experts(
        **FOUR,
        d_ff=10,
        n_shared=1,
        score="sigmoid",
        selection_bias=True,
        n_groups=2,
        layers=(1, 2),
    ),
}


def make(config):
    model = Transformer(config, torch.Generator().manual_seed(0)).eval()
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model


@pytest.fixture
def mixtral(make_llama, tmp_path):
    """(model, folder)."""
    model = make(make_llama(experts=Experts(**FOUR)))
    return model, save_huggingface(model, tmp_path / "mixtral")


@pytest.fixture
def deepseek(make_llama, tmp_path):
    model = make(make_llama(**V3))
    return model, save_huggingface(model, tmp_path / "deepseek")


def edit(folder, change):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    path.unlink()
    save_file(tensors, path)


def configure(folder, **values):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def refused(folder, *words):
    with pytest.raises(CheckpointError) as caught:
        load_huggingface(folder)
    for word in words:
        assert word in str(caught.value), str(caught.value)


def same(again, model):
    wanted = model.state_dict()
    assert again.state_dict().keys() == wanted.keys()
    for name, tensor in again.state_dict().items():
        assert torch.equal(tensor, wanted[name]), name


def test_published_names(mixtral):
    model, folder = mixtral
    names = load_file(folder / "model.safetensors")
    stack = model.blocks[1].feed_forward.experts
    for expert in range(4):
        published = f"model.layers.1.{MOE}.experts.{expert}"
        assert torch.equal(names[f"{published}.w1.weight"], stack.up[expert, :40])
        assert torch.equal(names[f"{published}.w3.weight"], stack.up[expert, 40:])
        assert torch.equal(names[f"{published}.w2.weight"], stack.down[expert])
    assert names[f"model.layers.0.{MOE}.gate.weight"].shape == (4, 32)
    assert not any(".mlp." in name for name in names)
    same(load_huggingface(folder), model)


def test_shards_part_a_stack(mixtral, tmp_path):
    """The limit of a file holds for the experts of one layer, not only between layers."""
    model, _ = mixtral
    folder = save_huggingface(model, tmp_path / "shards", max_shard_bytes=12_000)
    shards = sorted(folder.glob("model-*.safetensors"))
    held = [name for shard in shards for name in load_file(shard)]
    assert len(held) == len(set(held)) and len(shards) > 6
    assert max(sum(t.nbytes for t in load_file(s).values()) for s in shards) <= 12_000
    same(load_huggingface(folder), model)


def test_stacked_experts_are_read(mixtral):
    """The form that transformers has in memory, and writes if it is asked to."""
    model, folder = mixtral

    def stack(tensors):
        for i in range(2):
            for name in [n for n in tensors if f"layers.{i}.{MOE}.experts" in n]:
                del tensors[name]
            inner = model.blocks[i].feed_forward.experts
            tensors[f"model.layers.{i}.mlp.experts.gate_up_proj"] = inner.up.detach().clone()
            tensors[f"model.layers.{i}.mlp.experts.down_proj"] = inner.down.detach().clone()
            gate = tensors.pop(f"model.layers.{i}.{MOE}.gate.weight")
            tensors[f"model.layers.{i}.mlp.gate.weight"] = gate

    edit(folder, stack)
    same(load_huggingface(folder), model)
    edit(folder, lambda t: [t.update({n.removeprefix("model."): t.pop(n)}) for n in list(t)])
    same(load_huggingface(folder), model)
    configure(folder, num_local_experts=5)
    refused(folder, "gate_up_proj has shape (4, 80, 32), expected (5, 80, 32) (4 experts, where")


def test_the_same_tensor_under_two_names(mixtral):
    _, folder = mixtral
    name = f"model.layers.0.{MOE}.gate.weight"
    edit(folder, lambda t: t.update({name.replace(MOE, "mlp"): t[name].clone()}))
    refused(folder, f"{name} twice")


def test_the_selection_bias_stays_float32(deepseek, tmp_path):
    model, folder = deepseek
    bias = "blocks.2.feed_forward.router.selection_bias"
    half = load_huggingface(folder, dtype=torch.bfloat16)
    dtypes = {name: parameter.dtype for name, parameter in half.named_parameters()}
    assert [n for n, dtype in dtypes.items() if dtype != torch.bfloat16] == [
        "blocks.1.feed_forward.router.selection_bias",
        bias,
    ]
    assert dtypes[bias] == torch.float32
    assert torch.equal(half.state_dict()[bias], model.state_dict()[bias])
    fixed = [n for n, parameter in half.named_parameters() if not parameter.requires_grad]
    assert fixed == [n for n, dtype in dtypes.items() if dtype == torch.float32]
    again = save_huggingface(half, tmp_path / "half")
    held = load_file(again / "model.safetensors")
    assert held["model.layers.2.mlp.gate.e_score_correction_bias"].dtype == torch.float32
    assert held["model.layers.2.mlp.gate.weight"].dtype == torch.bfloat16
    assert json.loads((again / "config.json").read_text())["dtype"] == "bfloat16"
    same(load_huggingface(again, dtype=torch.bfloat16), half)


@pytest.mark.parametrize(
    ("held", "asked", "words"),
    [
        (4, 6, ("layer 0, 1 without expert 4, 5", "there are 6, 0 to 5", "experts.4.w1.weight")),
        (4, 2, ("layer 0, 1 with expert 2, 3", "there are 2, 0 to 1", "unexpected", "experts.2.")),
    ],
)
def test_another_number_of_experts(mixtral, held, asked, words):
    _, folder = mixtral
    configure(folder, num_local_experts=asked)
    gate = f"{MOE}.gate.weight has shape ({held}, 32), expected ({asked}, 32)"
    refused(folder, *words, gate)


def test_a_missing_expert(mixtral, deepseek):
    for (_, folder), block in ((mixtral, MOE), (deepseek, "mlp")):
        gone = f"model.layers.1.{block}.experts.3."
        edit(folder, lambda t, gone=gone: [t.pop(n) for n in list(t) if n.startswith(gone)])
        refused(folder, "layer 1 without expert 3", f"missing {gone}", "there are 4, 0 to 3")


def test_a_missing_matrix_bias_and_shared_expert(deepseek):
    _, folder = deepseek
    block = "model.layers.2.mlp."
    for name in (
        f"{block}experts.1.up_proj.weight",
        f"{block}gate.e_score_correction_bias",
        f"{block}shared_experts.gate_proj.weight",
    ):
        edit(folder, lambda t, name=name: t.pop(name))
        refused(folder, name)


def test_experts_in_a_dense_layer(deepseek):
    _, folder = deepseek
    configure(folder, first_k_dense_replace=2)
    refused(folder, "missing model.layers.1.mlp.down_proj", "unexpected model.layers.1.mlp.experts")
    configure(folder, first_k_dense_replace=3)
    refused(folder, "unexpected model.layers.1.mlp.experts.0.")


def test_modules_that_predict_further_are_left_aside(deepseek):
    """DeepSeek-V3's folders hold one, as a layer after the last; others are still unexpected."""
    model, folder = deepseek
    extra = {"model.layers.3.enorm.weight": torch.ones(3)}
    edit(folder, lambda t: t.update(extra))
    refused(folder, "unexpected model.layers.3.enorm.weight")
    edit(folder, lambda t: t.update({"model.layers.3.eh_proj.weight": torch.ones(3)}))
    same(load_huggingface(folder), model)
    inside = {"model.layers.2.eh_proj.weight": torch.ones(3)}
    edit(folder, lambda t: t.update(inside))
    refused(folder, "unexpected model.layers.2.eh_proj.weight")


def test_families_are_found(make_llama):
    narrow = Experts(**FOUR, d_ff=12)
    for changes, family in (
        ({"experts": Experts(**FOUR)}, "mixtral"),
        ({"experts": narrow, "window": 8}, "mixtral"),
        ({"experts": narrow, "qk_norm": "head"}, "qwen3_moe"),
        ({"experts": narrow.replace(layers=(1,)), "qk_norm": "head"}, "qwen3_moe"),
        ({"experts": narrow.replace(renormalise=False), "qk_norm": "width"}, "olmoe"),
        (V3, "deepseek_v3"),
        (
            V3
            | {"experts": narrow.replace(n_shared=2, renormalise=False, scale=3.0)}
            | {"n_layers": 2},
            "deepseek_v2",
        ),
    ):
        config = make_llama(**changes)
        written = config_to_huggingface(config)
        assert written["model_type"] == family
        again = config_from_huggingface(written)
        assert again.expert_width == config.expert_width
        sparse = [again.is_sparse(i) for i in range(again.n_layers)]
        assert sparse == [config.is_sparse(i) for i in range(config.n_layers)]


BEYOND = [
    ({"choice": "expert"}, None, "experts choice='expert' would become 'token'"),
    ({"noise": True}, None, "experts noise=True"),
    ({"capacity": 1.25}, None, "experts capacity=1.25"),
    ({"dense_branch": True}, None, "experts dense_branch=True"),
    ({"score": "sigmoid"}, None, "experts score='sigmoid' would become 'softmax'"),
    ({"n_shared": 1}, None, "experts n_shared=1"),
    ({"scale": 2.0}, "qwen3_moe", "experts scale=2.0"),
    ({"renormalise": False}, "mixtral", "experts renormalise=False"),
    ({"layers": (1,)}, "mixtral", "experts layers=(1,) would become (0, 1)"),
    ({"n_groups": 2, "n_active_groups": 1}, "mixtral", "experts n_groups=2"),
    ({}, "llama", "experts n_experts=4 would become None"),
    ({}, "deepseek_v3", "no latent attention"),
]


@pytest.mark.parametrize(("changes", "family", "message"), BEYOND, ids=[m for *_, m in BEYOND])
def test_what_no_family_can_say_is_not_lost(make_llama, changes, family, message):
    with pytest.raises(ValueError, match=None) as caught:
        config_to_huggingface(make_llama(experts=Experts(**FOUR | changes)), family)
    assert message in str(caught.value)


def test_dense_models_need_dense_families(make_llama):
    for family in ("mixtral", "qwen3_moe", "olmoe"):
        with pytest.raises(ValueError, match="it has no experts"):
            config_to_huggingface(make_llama(), family)


SIZES = {
    "vocab_size": 50,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
QWEN, V2 = {"model_type": "qwen3_moe"}, {"model_type": "deepseek_v2", "num_experts_per_tok": 6}
REFUSALS = [
    ({"num_experts_per_tok": 9}, "n_active=9"),
    ({"num_local_experts": 0}, "num_local_experts=0"),
    ({"num_local_experts": 4, "num_experts": 6}, "num_local_experts=4 contradicts num_experts=6"),
    ({"router_jitter_noise": 0.1}, "router_jitter_noise=0.1"),
    ({"router_aux_loss_coef": -1.0}, "router_aux_loss_coef=-1.0"),
    ({"output_router_logits": "yes"}, "output_router_logits='yes'"),
    ({"moe_intermediate_size": 8}, "moe_intermediate_size=8"),
    ({"shared_expert_intermediate_size": 8}, "shared_expert_intermediate_size=8"),
    (QWEN | {"mlp_only_layers": [0, 4]}, "mlp_only_layers=[0, 4]"),
    (QWEN | {"mlp_only_layers": 2}, "mlp_only_layers=2"),
    (QWEN | {"decoder_sparse_step": 0}, "decoder_sparse_step=0"),
    (QWEN | {"norm_topk_prob": 1}, "norm_topk_prob=1"),
    (QWEN | {"use_sliding_window": True, "max_window_layers": 4}, "max_window_layers=4"),
    (QWEN | {"layer_types": ["sliding_attention"] * 4}, "layer_types"),
    ({"model_type": "olmoe", "clip_qkv": 8.0}, "clip_qkv=8.0"),
    ({"model_type": "olmoe", "head_dim": 32}, "head_dim=32"),
    ({"model_type": "deepseek_v3", "scoring_func": "softmax"}, "scoring_func='softmax'"),
    ({"model_type": "deepseek_v3", "topk_method": "greedy"}, "topk_method='greedy'"),
    ({"model_type": "deepseek_v3", "num_experts": 8}, "num_experts=8"),
    ({"model_type": "deepseek_v3", "n_group": None}, "n_group=None"),
    ({"model_type": "deepseek_v3", "n_routed_experts": 8}, "n_group=8 groups of 8 experts"),
    ({"model_type": "deepseek_v3", "n_shared_experts": 0}, "n_shared_experts=0"),
    ({"model_type": "deepseek_v3", "moe_layer_freq": 2}, "moe_layer_freq=2"),
    ({"model_type": "deepseek_v3", "topk_group": 9}, "n_active_groups=9"),
    (V2 | {"num_experts_per_tok": None}, "num_experts_per_tok=None"),
    (V2 | {"norm_topk_prob": True}, "norm_topk_prob=True"),
    (V2 | {"scoring_func": "sigmoid"}, "scoring_func='sigmoid'"),
    (V2 | {"topk_method": "noaux_tc"}, "topk_method='noaux_tc'"),
    (V2 | {"topk_method": "group_limited_greedy"}, "no 'n_group'"),
    (V2 | {"mlp_bias": True}, "mlp_bias=True is not supported with experts"),
]


@pytest.mark.parametrize(("change", "message"), REFUSALS, ids=[m for _, m in REFUSALS])
def test_refusals(change, message):
    values = {"model_type": "mixtral"} | SIZES
    if "deepseek" in change.get("model_type", ""):
        values |= {"first_k_dense_replace": 1}
    with pytest.raises(ValueError, match=None) as caught:
        config_from_huggingface(values | change)
    assert message in str(caught.value)


def test_which_layers_are_sparse():
    def sparse(**values):
        config = config_from_huggingface(SIZES | values)
        return [i for i in range(4) if config.is_sparse(i)]

    assert sparse(**QWEN) == [0, 1, 2, 3]
    assert sparse(**QWEN, decoder_sparse_step=2) == [1, 3]
    assert sparse(**QWEN, decoder_sparse_step=2, mlp_only_layers=[0, 3]) == [1]
    assert sparse(**QWEN, mlp_only_layers=[0, 1, 2, 3]) == []
    assert sparse(model_type="deepseek_v3") == [3]
    assert sparse(model_type="deepseek_v3", first_k_dense_replace=0) == [0, 1, 2, 3]
    assert sparse(model_type="deepseek_v3", first_k_dense_replace=4) == []
    assert sparse(**V2) == [0, 1, 2, 3]


def test_a_null_that_transformers_takes_for_false():
    values = {"model_type": "deepseek_v3", "first_k_dense_replace": 1} | SIZES
    assert config_from_huggingface(values).experts.renormalise
    assert not config_from_huggingface(values | {"norm_topk_prob": None}).experts.renormalise
