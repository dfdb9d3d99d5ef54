"""Published mixtures of experts, as plain values for `ModelConfig`.

Taught in Part 5. Each entry has the numbers of the published config, beside a note of the
parameters it has and of those that one token meets (both with the embedding and the head).

Sources: the models' papers, named beside each group, and the configs published with the weights.
"""

from __future__ import annotations

from typing import Any

from llmcourse.model.published_dense import deepseek, latent, llama, qwen3


def _mixtral(n_layers: int, n_heads: int, d_model: int, d_ff: int, **own: Any) -> dict[str, Any]:
    """Two of eight experts in every layer."""
    return llama(
        vocab_size=32_000,
        n_layers=n_layers,
        n_heads=n_heads,
        n_kv_heads=8,
        d_model=d_model,
        d_ff=d_ff,
        rope={"base": 1_000_000.0},
        **own,
    )


def _all_layers(k: int, weight: float, **own: Any) -> dict[str, Any]:
    """Balanced over all layers together, where transformers' loss, of that weight, is K of ours."""
    return {"n_active": k, "balance_over": "model", "balance_weight": k * weight, **own}


def _qwen3_moe(n_layers: int, n_heads: int, d_model: int, d_ff: int, expert: int) -> dict[str, Any]:
    """Eight of 128 narrow experts in every layer; no layer uses the model's own d_ff."""
    shape = {"n_layers": n_layers, "n_heads": n_heads, "d_model": d_model, "d_ff": d_ff}
    experts = _all_layers(8, 0.001, n_experts=128, d_ff=expert)
    return qwen3(**shape, n_kv_heads=4, experts=experts)


def _sparse_from(first: int, n_layers: int, **own: Any) -> dict[str, Any]:
    """DeepSeek's experts: the first layers are dense, balance is asked of every sequence."""
    layers = tuple(range(first, n_layers))
    return {"layers": layers, "balance_over": "sequence", "balance_weight": 0.001, **own}


SPARSE_PRESETS: dict[str, dict[str, Any]] = {
    # Mixtral, arXiv 2401.04088. 46,702,792,704, active 12,879,925,248 /
    # 140,620,634,112, active 39,152,031,744.
    "mixtral-8x7b": _mixtral(
        32,
        32,
        4096,
        14_336,
        context_length=32_768,
        experts=_all_layers(2, 0.02, n_experts=8),
    ),
    "mixtral-8x22b": _mixtral(
        56,
        48,
        6144,
        16_384,
        context_length=65_536,
        experts=_all_layers(2, 0.001, n_experts=8),
    ),
    # Qwen3-MoE, arXiv 2505.09388. 30,532,122,624, active 3,353,032,704 /
    # 235,093,634,560, active 22,190,763,520.
    "qwen3-30b-a3b": _qwen3_moe(48, 32, 2048, 6144, 768),
    "qwen3-235b-a22b": _qwen3_moe(94, 64, 4096, 12_288, 1536),
    # OLMoE, arXiv 2409.02060. 6,919,161,856, active 1,282,017,280.
    "olmoe-1b-7b": llama(
        vocab_size=50_304,
        context_length=4096,
        n_layers=16,
        n_heads=16,
        d_model=2048,
        d_ff=1024,
        qk_norm="width",
        experts=_all_layers(8, 0.01, n_experts=64, renormalise=False),
    ),
    # DeepSeek-V2-Lite and V2, arXiv 2405.04434. 15,706,484,224, active 2,661,150,208 /
    # 235,741,434,880, active 21,375,800,320.
    "deepseek-v2-lite": deepseek(
        0.707,
        vocab_size=102_400,
        n_layers=27,
        n_heads=16,
        d_model=2048,
        d_ff=10_944,
        latent=latent(None),
        experts=_sparse_from(
            1, 27, n_experts=64, n_active=6, d_ff=1408, n_shared=2, renormalise=False
        ),
    ),
    "deepseek-v2": deepseek(
        0.707,
        vocab_size=102_400,
        n_layers=60,
        n_heads=128,
        d_model=5120,
        d_ff=12_288,
        latent=latent(1536),
        experts=_sparse_from(
            1,
            60,
            n_experts=160,
            n_active=6,
            d_ff=1536,
            n_shared=2,
            renormalise=False,
            scale=16.0,
            n_groups=8,
            n_active_groups=3,
            group_score="best",
        ),
    ),
    # DeepSeek-V3, arXiv 2412.19437, without the module that predicts the token after next.
    # 671,026,419,200, active 37,552,297,472.
    "deepseek-v3": deepseek(
        1.0,
        vocab_size=129_280,
        n_layers=61,
        n_heads=128,
        d_model=7168,
        d_ff=18_432,
        latent=latent(1536),
        experts=_sparse_from(
            3,
            61,
            n_experts=256,
            n_active=8,
            d_ff=2048,
            n_shared=1,
            score="sigmoid",
            selection_bias=True,
            scale=2.5,
            n_groups=8,
            n_active_groups=4,
        ),
    ),
}
