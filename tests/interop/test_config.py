"""Published configs, old and new: read in full, or refused by name."""

from __future__ import annotations

import pytest

from llmcourse.interop.huggingface import FAMILIES, config_from_huggingface, config_to_huggingface
from llmcourse.model import ModelConfig
from llmcourse.model.presets import MODERN_PRESETS
from llmcourse.model.rotary import Rope

# Configs as published (the keys that matter), and the preset each must be.
WILD = {
    "llama3.2-1b": {
        "model_type": "llama",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "head_dim": 64,
        "hidden_act": "silu",
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "max_position_embeddings": 131072,
        "mlp_bias": False,
        "num_attention_heads": 32,
        "num_hidden_layers": 16,
        "num_key_value_heads": 8,
        "pretraining_tp": 1,
        "rms_norm_eps": 1e-05,
        "rope_scaling": {
            "factor": 32.0,
            "high_freq_factor": 4.0,
            "low_freq_factor": 1.0,
            "original_max_position_embeddings": 8192,
            "rope_type": "llama3",
        },
        "rope_theta": 500000.0,
        "tie_word_embeddings": True,
        "vocab_size": 128256,
    },
    "mistral-7b": {
        "model_type": "mistral",
        "hidden_act": "silu",
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "max_position_embeddings": 32768,
        "num_attention_heads": 32,
        "num_hidden_layers": 32,
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-05,
        "rope_theta": 10000.0,
        "sliding_window": 4096,
        "tie_word_embeddings": False,
        "vocab_size": 32000,
    },
    "qwen2-0.5b": {
        "model_type": "qwen2",
        "attention_dropout": 0.0,
        "hidden_act": "silu",
        "hidden_size": 896,
        "intermediate_size": 4864,
        "max_position_embeddings": 131072,
        "max_window_layers": 24,
        "num_attention_heads": 14,
        "num_hidden_layers": 24,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-06,
        "rope_theta": 1000000.0,
        "sliding_window": 131072,
        "tie_word_embeddings": True,
        "use_sliding_window": False,
        "vocab_size": 151936,
    },
    "qwen3-0.6b": {
        "model_type": "qwen3",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "head_dim": 128,
        "hidden_act": "silu",
        "hidden_size": 1024,
        "intermediate_size": 3072,
        "max_position_embeddings": 40960,
        "max_window_layers": 28,
        "num_attention_heads": 16,
        "num_hidden_layers": 28,
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-06,
        "rope_scaling": None,
        "rope_theta": 1000000,
        "sliding_window": None,
        "tie_word_embeddings": True,
        "use_sliding_window": False,
        "vocab_size": 151936,
    },
    "gemma2-2b": {
        "model_type": "gemma2",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "attn_logit_softcapping": 50.0,
        "cache_implementation": "hybrid",
        "final_logit_softcapping": 30.0,
        "head_dim": 256,
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_activation": "gelu_pytorch_tanh",
        "hidden_size": 2304,
        "intermediate_size": 9216,
        "max_position_embeddings": 8192,
        "num_attention_heads": 8,
        "num_hidden_layers": 26,
        "num_key_value_heads": 4,
        "query_pre_attn_scalar": 256,
        "rms_norm_eps": 1e-06,
        "rope_theta": 10000.0,
        "sliding_window": 4096,
        "vocab_size": 256000,
    },
    "gemma3-1b": {
        "model_type": "gemma3_text",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "attn_logit_softcapping": None,
        "cache_implementation": "hybrid",
        "final_logit_softcapping": None,
        "head_dim": 256,
        "hidden_activation": "gelu_pytorch_tanh",
        "hidden_size": 1152,
        "intermediate_size": 6912,
        "max_position_embeddings": 32768,
        "num_attention_heads": 4,
        "num_hidden_layers": 26,
        "num_key_value_heads": 1,
        "query_pre_attn_scalar": 256,
        "rms_norm_eps": 1e-06,
        "rope_local_base_freq": 10000,
        "rope_scaling": None,
        "rope_theta": 1000000,
        "sliding_window": 512,
        "sliding_window_pattern": 6,
        "vocab_size": 262144,
    },
    "olmo2-1b": {
        "model_type": "olmo2",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "hidden_act": "silu",
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "max_position_embeddings": 4096,
        "num_attention_heads": 16,
        "num_hidden_layers": 16,
        "num_key_value_heads": 16,
        "rms_norm_eps": 1e-06,
        "rope_scaling": None,
        "rope_theta": 500000,
        "tie_word_embeddings": False,
        "vocab_size": 100352,
    },
    "mixtral-8x7b": {
        "model_type": "mixtral",
        "attention_dropout": 0.0,
        "hidden_act": "silu",
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "max_position_embeddings": 32768,
        "num_attention_heads": 32,
        "num_experts_per_tok": 2,
        "num_hidden_layers": 32,
        "num_key_value_heads": 8,
        "num_local_experts": 8,
        "output_router_logits": False,
        "rms_norm_eps": 1e-05,
        "rope_theta": 1000000.0,
        "router_aux_loss_coef": 0.02,
        "sliding_window": None,
        "tie_word_embeddings": False,
        "vocab_size": 32000,
    },
    "qwen3-30b-a3b": {
        "model_type": "qwen3_moe",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "decoder_sparse_step": 1,
        "head_dim": 128,
        "hidden_act": "silu",
        "hidden_size": 2048,
        "intermediate_size": 6144,
        "max_position_embeddings": 40960,
        "max_window_layers": 48,
        "mlp_only_layers": [],
        "moe_intermediate_size": 768,
        "norm_topk_prob": True,
        "num_attention_heads": 32,
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "num_hidden_layers": 48,
        "num_key_value_heads": 4,
        "output_router_logits": False,
        "rms_norm_eps": 1e-06,
        "rope_scaling": None,
        "rope_theta": 1000000.0,
        "router_aux_loss_coef": 0.001,
        "sliding_window": None,
        "tie_word_embeddings": False,
        "use_sliding_window": False,
        "vocab_size": 151936,
    },
    "olmoe-1b-7b": {
        "model_type": "olmoe",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "clip_qkv": None,
        "hidden_act": "silu",
        "hidden_size": 2048,
        "intermediate_size": 1024,
        "max_position_embeddings": 4096,
        "norm_topk_prob": False,
        "num_attention_heads": 16,
        "num_experts": 64,
        "num_experts_per_tok": 8,
        "num_hidden_layers": 16,
        "num_key_value_heads": 16,
        "output_router_logits": False,
        "rms_norm_eps": 1e-05,
        "rope_scaling": None,
        "rope_theta": 10000.0,
        "router_aux_loss_coef": 0.01,
        "tie_word_embeddings": False,
        "vocab_size": 50304,
    },
    "deepseek-v3": {
        "model_type": "deepseek_v3",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "aux_loss_alpha": 0.001,
        "ep_size": 1,
        "first_k_dense_replace": 3,
        "hidden_act": "silu",
        "hidden_size": 7168,
        "intermediate_size": 18432,
        "kv_lora_rank": 512,
        "max_position_embeddings": 163840,
        "moe_intermediate_size": 2048,
        "moe_layer_freq": 1,
        "n_group": 8,
        "n_routed_experts": 256,
        "n_shared_experts": 1,
        "norm_topk_prob": True,
        "num_attention_heads": 128,
        "num_experts_per_tok": 8,
        "num_hidden_layers": 61,
        "num_key_value_heads": 128,
        "num_nextn_predict_layers": 1,
        "q_lora_rank": 1536,
        "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64,
        "rms_norm_eps": 1e-06,
        "rope_scaling": {
            "beta_fast": 32,
            "beta_slow": 1,
            "factor": 40,
            "mscale": 1.0,
            "mscale_all_dim": 1.0,
            "original_max_position_embeddings": 4096,
            "type": "yarn",
        },
        "rope_theta": 10000,
        "routed_scaling_factor": 2.5,
        "scoring_func": "sigmoid",
        "seq_aux": True,
        "tie_word_embeddings": False,
        "topk_group": 4,
        "topk_method": "noaux_tc",
        "v_head_dim": 128,
        "vocab_size": 129280,
    },
    "deepseek-v2-lite": {
        "model_type": "deepseek_v2",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "aux_loss_alpha": 0.001,
        "first_k_dense_replace": 1,
        "hidden_act": "silu",
        "hidden_size": 2048,
        "intermediate_size": 10944,
        "kv_lora_rank": 512,
        "max_position_embeddings": 163840,
        "moe_intermediate_size": 1408,
        "moe_layer_freq": 1,
        "n_group": 1,
        "n_routed_experts": 64,
        "n_shared_experts": 2,
        "norm_topk_prob": False,
        "num_attention_heads": 16,
        "num_experts_per_tok": 6,
        "num_hidden_layers": 27,
        "num_key_value_heads": 16,
        "q_lora_rank": None,
        "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64,
        "rms_norm_eps": 1e-06,
        "rope_scaling": {
            "beta_fast": 32,
            "beta_slow": 1,
            "factor": 40,
            "mscale": 0.707,
            "mscale_all_dim": 0.707,
            "original_max_position_embeddings": 4096,
            "type": "yarn",
        },
        "rope_theta": 10000,
        "routed_scaling_factor": 1.0,
        "scoring_func": "softmax",
        "seq_aux": True,
        "tie_word_embeddings": False,
        "topk_group": 1,
        "topk_method": "greedy",
        "v_head_dim": 128,
        "vocab_size": 102400,
    },
}

# Larger ones of a family, by what differs.
WILD["mixtral-8x22b"] = WILD["mixtral-8x7b"] | {
    "hidden_size": 6144,
    "intermediate_size": 16384,
    "max_position_embeddings": 65536,
    "num_attention_heads": 48,
    "num_hidden_layers": 56,
    "router_aux_loss_coef": 0.001,
    "router_jitter_noise": 0.0,
}
WILD["qwen3-235b-a22b"] = WILD["qwen3-30b-a3b"] | {
    "hidden_size": 4096,
    "intermediate_size": 12288,
    "max_window_layers": 94,
    "moe_intermediate_size": 1536,
    "num_attention_heads": 64,
    "num_hidden_layers": 94,
}
WILD["deepseek-v2"] = WILD["deepseek-v2-lite"] | {
    "hidden_size": 5120,
    "intermediate_size": 12288,
    "moe_intermediate_size": 1536,
    "n_group": 8,
    "n_routed_experts": 160,
    "num_attention_heads": 128,
    "num_hidden_layers": 60,
    "num_key_value_heads": 128,
    "q_lora_rank": 1536,
    "routed_scaling_factor": 16.0,
    "topk_group": 3,
    "topk_method": "group_limited_greedy",
}


def test_llama2_as_published(llama2_config):
    config = config_from_huggingface(llama2_config)
    assert config == ModelConfig.from_dict(MODERN_PRESETS["llama2-7b"])


@pytest.mark.parametrize("name", list(WILD))
def test_as_published(name):
    config = config_from_huggingface(WILD[name])
    wanted = ModelConfig.from_dict(MODERN_PRESETS[name])
    assert config.score_scale == pytest.approx(wanted.score_scale, rel=1e-12)
    assert config.replace(attention_scale=wanted.attention_scale) == wanted


def test_gpt2_as_published():
    values = {
        "model_type": "gpt2",
        "activation_function": "gelu_new",
        "attn_pdrop": 0.1,
        "embd_pdrop": 0.1,
        "layer_norm_epsilon": 1e-05,
        "n_ctx": 1024,
        "n_embd": 768,
        "n_head": 12,
        "n_layer": 12,
        "n_positions": 1024,
        "resid_pdrop": 0.1,
        "summary_type": "cls_index",
        "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}},
        "vocab_size": 50257,
    }
    assert config_from_huggingface(values) == ModelConfig.preset("gpt2", dropout=0.1)
    assert config_from_huggingface(values, dropout=0.0) == ModelConfig.preset("gpt2")
    values["attn_pdrop"] = 0.0
    with pytest.raises(ValueError, match=r"attn_pdrop=0\.0"):
        config_from_huggingface(values)
    assert config_from_huggingface(values, dropout=0.0) == ModelConfig.preset("gpt2")


@pytest.mark.parametrize("name", list(MODERN_PRESETS))
def test_every_preset_can_be_written_and_read(name):
    config = ModelConfig.from_dict(MODERN_PRESETS[name])
    again = config_from_huggingface(config_to_huggingface(config))
    assert again.score_scale == pytest.approx(config.score_scale, rel=1e-12)
    assert again.windows == config.windows
    same = {"attention_scale": None, "rope": Rope(), "rope_local": None, "d_ff": 8}
    assert again.d_ff == config.d_ff or config.n_sparse_layers == config.n_layers
    if config.experts is not None:
        wanted, back = config.experts, again.experts
        assert back.balance_weight == pytest.approx(wanted.balance_weight, rel=1e-12)
        weight = {"balance_weight": wanted.balance_weight, "d_ff": config.expert_width}
        same["experts"] = wanted.replace(**weight)
        assert back.replace(**weight) == same["experts"]
        assert again.expert_width == config.expert_width
    assert again.replace(**same) == config.replace(**same)


def test_both_ways_of_writing_rotary_positions(llama2_config):
    scaling = {"rope_type": "linear", "factor": 4.0}
    old = llama2_config | {"rope_theta": 5e5, "rope_scaling": scaling}
    new = dict(llama2_config) | {"rope_parameters": scaling | {"rope_theta": 5e5}}
    del new["rope_scaling"]
    assert config_from_huggingface(old) == config_from_huggingface(new)
    assert config_from_huggingface(new).rope == Rope(base=5e5, scaling="linear", factor=4.0)


REFUSALS = [
    ({"model_type": "qwen2_moe"}, "model_type='qwen2_moe' is not supported: its shared expert"),
    ({"model_type": "gemma3"}, "gemma3_text"),
    ({"model_type": None}, "supported: gpt2, llama"),
    ({"hidden_act": "quick_gelu"}, "hidden_act='quick_gelu'"),
    ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "rope_type='dynamic'"),
    ({"rope_scaling": {"type": "longrope", "short_factor": [1.0]}}, "rope_type='longrope'"),
    ({"rope_scaling": {"type": "linear", "factor": 2.0, "odd": 3}}, "odd=3"),
    ({"rope_scaling": {"type": "linear"}}, "factor=None"),
    ({"rope_scaling": 4.0}, "rope_scaling=4.0"),
    ({"rope_scaling": {"type": "linear", "factor": 0.0}}, "factor=0.0"),
    (
        {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}},
        "partial_rotary_factor=0.5",
    ),
    ({"rope_theta": 1e4, "rope_parameters": {"rope_theta": 5e5}}, "contradicts"),
    ({"attention_multiplier": 0.1}, "attention_multiplier=0.1"),
    ({"residual_multiplier": 1.2, "logits_scaling": 3}, "logits_scaling=3, residual_multiplier"),
    ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "'gptq'"),
    ({"hidden_size": "4096"}, "hidden_size='4096'"),
    ({"num_hidden_layers": 0}, "num_hidden_layers=0"),
    ({"num_key_value_heads": 5}, "n_kv_heads=5"),
    ({"tie_word_embeddings": "no"}, "tie_word_embeddings='no'"),
    ({"rms_norm_eps": -1e-5}, "rms_norm_eps"),
    ({"is_encoder_decoder": True}, "is_encoder_decoder=True"),
    ({"model_type": "mistral", "sliding_window": 0}, "sliding_window=0"),
    (
        {"model_type": "mistral", "sliding_window": 8, "layer_types": ["full_attention"] * 32},
        "layer_types",
    ),
    (
        {
            "model_type": "qwen2",
            "use_sliding_window": True,
            "sliding_window": 8,
            "max_window_layers": 20,
        },
        "max_window_layers=20",
    ),
    (
        {
            "model_type": "qwen3",
            "use_sliding_window": True,
            "layer_types": ["sliding_attention"] * 20 + ["full_attention"] * 12,
        },
        "regular pattern",
    ),
    ({"model_type": "qwen2", "layer_types": ["full_attention"] * 3}, "each of 32 layers"),
    ({"model_type": "gemma2", "use_bidirectional_attention": True}, "use_bidirectional_attention"),
    ({"model_type": "gemma3_text", "attn_logit_softcapping": 50.0}, "attn_logit_softcapping"),
    ({"model_type": "deepseek_v3", "first_k_dense_replace": None}, "first_k_dense_replace=None"),
    (
        {"model_type": "deepseek_v3", "first_k_dense_replace": 32},
        "rms_norm_eps=1e-05",
    ),
    (
        {
            "model_type": "deepseek_v3",
            "first_k_dense_replace": 32,
            "rms_norm_eps": 1e-6,
            "num_key_value_heads": 8,
        },
        "num_key_value_heads=8",
    ),
]


@pytest.mark.parametrize(("change", "message"), REFUSALS, ids=[m for _, m in REFUSALS])
def test_refusals(llama2_config, change, message):
    with pytest.raises(ValueError, match=None) as caught:
        config_from_huggingface(llama2_config | change)
    assert message in str(caught.value)


@pytest.mark.parametrize("key", ["hidden_size", "vocab_size", "num_attention_heads"])
def test_a_missing_size(llama2_config, key):
    del llama2_config[key]
    with pytest.raises(ValueError, match=f"no '{key}'"):
        config_from_huggingface(llama2_config)


def test_gpt2_variants_are_refused():
    config = config_to_huggingface(ModelConfig.preset("gpt2"))
    for key in ("scale_attn_by_inverse_layer_idx", "reorder_and_upcast_attn"):
        with pytest.raises(ValueError, match=key):
            config_from_huggingface(config | {key: True})
    with pytest.raises(ValueError, match="add_cross_attention"):
        config_from_huggingface(config | {"add_cross_attention": True})


def test_families_are_found(make_llama):
    """The first family that says all of a config; and the one that is asked for, if it can."""
    assert config_to_huggingface(make_llama())["model_type"] == "llama"
    assert config_to_huggingface(make_llama(window=8))["model_type"] == "mistral"
    biased = make_llama(attention_bias=True, attention_out_bias=False)
    assert config_to_huggingface(biased)["model_type"] == "qwen2"
    assert config_to_huggingface(make_llama(qk_norm="head"))["model_type"] == "qwen3"
    assert config_to_huggingface(make_llama(), "mistral")["sliding_window"] is None
    assert len(FAMILIES) == 13


@pytest.mark.parametrize(
    ("changes", "family", "message"),
    [
        ({"sinks": 2, "window": 8}, None, "sinks=2"),
        ({"rope": Rope(fraction=0.5)}, None, "fraction=0.5"),
        ({"rope": Rope(scaling="ntk", factor=2.0)}, None, "scaling='ntk'"),
        ({"window": 8}, "llama", "windows="),
        ({"logit_softcap": 30.0}, None, "logit_softcap=30.0"),
        ({"attention_scale": 0.3}, "qwen3", "score_scale=0.3"),
        ({}, "deepseek_v3", "no latent attention"),
        ({}, "lama", "family 'lama' is unknown"),
        ({"norm_placement": "post"}, None, "norm_placement='post'"),
        ({"window": 8, "global_every": 2, "qk_norm": "head"}, "mistral", "windows="),
    ],
)
def test_what_no_family_can_say_is_not_lost(make_llama, changes, family, message):
    with pytest.raises(ValueError, match=None) as caught:
        config_to_huggingface(make_llama(**changes), family)
    assert message in str(caught.value)
