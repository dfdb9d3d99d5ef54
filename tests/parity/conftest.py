"""Small models of the published families, with random weights, as transformers makes them."""

from __future__ import annotations

import contextlib
from typing import Any, NamedTuple

import pytest
import torch

from llmcourse.interop.huggingface import FAMILIES, load_huggingface, to_ours
from llmcourse.interop.huggingface.files import read_json
from llmcourse.interop.huggingface.match import arrange

CONTEXT, VOCABULARY, WINDOW = 128, 101, 8
BODY = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,  # Gemma scales by its root, which float32 then holds exactly
    "intermediate_size": 56,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 24,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 10_000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 32,
}
MLA = {
    "num_key_value_heads": 4,
    "kv_lora_rank": 24,
    "q_lora_rank": 20,
    "qk_nope_head_dim": 12,
    "qk_rope_head_dim": 8,
    "v_head_dim": 10,
    "first_k_dense_replace": 3,
}
# A dense layer, then sparse ones: 3 of 8 experts in the best 2 of 4 groups, beside 2 shared ones.
V3 = MLA | {
    "first_k_dense_replace": 1,
    "n_routed_experts": 8,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 12,
    "n_shared_experts": 2,
    "n_group": 4,
    "topk_group": 2,
}
V2 = V3 | {"n_group": None, "topk_group": None, "routed_scaling_factor": 1.5}
QWEN3_MOE = {
    "head_dim": 12,
    "num_experts": 6,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 20,
}
GPT2 = {
    "vocab_size": VOCABULARY,
    "n_positions": CONTEXT,
    "n_embd": 64,
    "n_layer": 3,
    "n_head": 4,
    "resid_pdrop": 0.0,
    "embd_pdrop": 0.0,
    "attn_pdrop": 0.0,
    "bos_token_id": None,
    "eos_token_id": None,
}
GEMMA = {"sliding_window": WINDOW, "head_dim": 12}
# A name for each, its model_type, and what its config has beside BODY.
PEERS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("gpt2", GPT2),
    "gpt2-untied": (
        "gpt2",
        GPT2 | {"tie_word_embeddings": False, "n_inner": 80, "scale_attn_weights": False},
    ),
    "llama2": ("llama", BODY | {"num_key_value_heads": 4, "rms_norm_eps": 1e-5}),
    "llama3": ("llama", BODY | {"rope_parameters": LLAMA3}),
    "llama-biased": (
        "llama",
        BODY | {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True},
    ),
    "llama-linear": (
        "llama",
        BODY
        | {"rope_parameters": {"rope_type": "linear", "factor": 3.0, "rope_theta": 10_000.0}}
        | {"head_dim": 20, "hidden_act": "gelu"},
    ),
    "llama-yarn": ("llama", BODY | {"rope_parameters": YARN}),
    "mistral": ("mistral", BODY | {"sliding_window": WINDOW}),
    "qwen2": ("qwen2", BODY | {"tie_word_embeddings": True}),
    "qwen2-windowed": (
        "qwen2",
        BODY | {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 0},
    ),
    "qwen3": ("qwen3", BODY | {"head_dim": 12}),
    "gemma2": (
        "gemma2",
        BODY | GEMMA | {"query_pre_attn_scalar": 24, "attn_logit_softcapping": 5.0},
    ),
    "gemma3": (
        "gemma3_text",
        BODY
        | GEMMA
        | {
            "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
            "query_pre_attn_scalar": 20,
            "final_logit_softcapping": 12.0,
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            },
        },
    ),
    "olmo2": ("olmo2", BODY),
    "deepseek-v2": ("deepseek_v2", BODY | MLA),
    "deepseek-v2-lite": ("deepseek_v2", BODY | MLA | {"q_lora_rank": None}),
    "deepseek-v3": (
        "deepseek_v3",
        BODY | MLA | {"rope_parameters": YARN | {"mscale": 0.8, "mscale_all_dim": 1.2}},
    ),
    "deepseek-v3-halves": (
        "deepseek_v3",
        BODY | MLA | {"rope_interleave": False, "attention_bias": True},
    ),
    "mixtral": ("mixtral", BODY | {"num_local_experts": 4}),
    "mixtral-windowed": (
        "mixtral",
        BODY | {"num_local_experts": 5, "num_experts_per_tok": 3, "sliding_window": WINDOW},
    ),
    "qwen3-moe": ("qwen3_moe", BODY | QWEN3_MOE | {"norm_topk_prob": True}),
    "qwen3-moe-hybrid": (  # sparse are layers 1, 3 and 5 but for 3
        "qwen3_moe",
        BODY
        | QWEN3_MOE
        | {"num_hidden_layers": 6, "decoder_sparse_step": 2, "mlp_only_layers": [0, 3]},
    ),
    "olmoe": ("olmoe", BODY | {"num_experts": 6, "num_experts_per_tok": 3}),
    "deepseek-v2-experts": ("deepseek_v2", BODY | V2),
    "deepseek-v2-groups": (
        "deepseek_v2",
        BODY | V2 | {"topk_method": "group_limited_greedy", "n_group": 4, "topk_group": 2},
    ),
    "deepseek-v3-experts": ("deepseek_v3", BODY | V3 | {"routed_scaling_factor": 2.5}),
    "deepseek-v3-one-group": (
        "deepseek_v3",
        BODY
        | V3
        | {"first_k_dense_replace": 0, "n_group": 1, "topk_group": 1, "norm_topk_prob": False},
    ),
}


class Pair(NamedTuple):
    """The same weights twice."""

    name: str
    folder: Any  # where transformers saved its model
    theirs: Any  # float32
    theirs64: Any  # computing in float64 throughout, inside `in_float64`

    def ours(self, **options: Any) -> Any:
        return load_huggingface(self.folder, **options)

    def mapped(self, published: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Any published tensors, gradients for example, under our names and in our layout."""
        values = read_json(self.folder / "config.json")
        family = FAMILIES[values["model_type"]]
        # transformers stacks its experts in memory, and takes them apart when it saves.
        rules, called = arrange(family, family.rules(self.ours().config, values), published)
        named = {called[name]: tensor for name, tensor in published.items()}
        return to_ours([rule for rule in rules if rule.pieces[0].name in named], named)


@contextlib.contextmanager
def in_float64():
    """transformers forms angles, norms and softmaxes in float32 even in a float64 model.

    So its results are good to 1e-6 only. In here float32 means float64, and it computes in float64
    from end to end.
    """
    names = {"float32": torch.float32, "float": torch.float}
    method = torch.Tensor.float
    try:
        for name in names:
            setattr(torch, name, torch.float64)
        torch.Tensor.float = torch.Tensor.double
        yield
    finally:
        torch.Tensor.float = method
        for name, dtype in names.items():
            setattr(torch, name, dtype)


@pytest.fixture(scope="session")
def float64():
    return in_float64


@pytest.fixture(scope="session")
def make_pair(tmp_path_factory):
    """name -> Pair, each built once."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    made: dict[str, Pair] = {}

    def make(name: str) -> Pair:
        if name in made:
            return made[name]
        kind, values = PEERS[name]
        config = transformers.AutoConfig.for_model(kind, **values)
        config._attn_implementation = config._experts_implementation = "eager"
        build = transformers.AutoModelForCausalLM.from_config
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            theirs = build(config, attn_implementation="eager").eval()
        generator = torch.Generator().manual_seed(2)
        for parameter_name, parameter in theirs.named_parameters():
            # Gemma's tied table, times √C, would otherwise make each token predict itself.
            small = kind.startswith("gemma") and "embed_tokens" in parameter_name
            std = 0.05 if small else 0.15
            # Norm weights and biases too: a model whose norms are all one hides a swapped norm.
            parameter.data += torch.empty_like(parameter).normal_(0, std, generator=generator)
        for buffer_name, buffer in theirs.named_buffers():
            if buffer_name.endswith("e_score_correction_bias"):
                buffer.normal_(0, 0.2, generator=generator)
        folder = tmp_path_factory.mktemp(name)
        theirs.save_pretrained(folder)
        with in_float64(), torch.random.fork_rng(devices=[]):
            theirs64 = build(config, attn_implementation="eager").eval().double()
        theirs64.load_state_dict(theirs.state_dict())
        made[name] = Pair(name, folder, theirs, theirs64)
        return made[name]

    return make


@pytest.fixture(params=list(PEERS))
def pair(request, make_pair) -> Pair:
    return make_pair(request.param)
