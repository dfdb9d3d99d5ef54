"""Published models without experts, as plain values for `ModelConfig`.

Each entry has the numbers of the published config, beside a note of the parameters it has.

Sources: the models' papers, named beside each group, and the configs published with the weights.
"""

from __future__ import annotations

from typing import Any


def llama(**own: Any) -> dict[str, Any]:
    """What Llama and everything after it share: RMSNorm, rotary positions, SwiGLU, no biases."""
    return {
        "positions": "rope",
        "norm": "rms",
        "norm_eps": 1e-5,
        "feed_forward": "gated",
        "activation": "silu",
        "attention_bias": False,
        "feed_forward_bias": False,
        "tie_embeddings": False,
        **own,
    }


def _llama2(n_layers: int, n_heads: int, d_model: int, d_ff: int, **own: Any) -> dict[str, Any]:
    shape = {"n_layers": n_layers, "n_heads": n_heads, "d_model": d_model, "d_ff": d_ff}
    return llama(vocab_size=32_000, context_length=4096, **shape, **own)


def _llama3(n_layers: int, n_heads: int, d_model: int, d_ff: int, **own: Any) -> dict[str, Any]:
    shape = {"n_layers": n_layers, "n_heads": n_heads, "d_model": d_model, "d_ff": d_ff}
    base = {"vocab_size": 128_256, "context_length": 8192, "n_kv_heads": 8}
    return llama(**(base | {"rope": {"base": 500_000.0}} | shape | own))


def _longer(factor: float) -> dict[str, Any]:
    """Llama 3.1's and 3.2's rates for 131,072 tokens after training on 8,192."""
    rope = {"base": 500_000.0, "scaling": "llama3", "factor": factor, "original_context": 8192}
    return {"context_length": 131_072, "rope": rope}


def _qwen2(
    n_layers: int, n_heads: int, n_kv_heads: int, d_model: int, d_ff: int, **own: Any
) -> dict[str, Any]:
    return llama(
        **{
            "vocab_size": 151_936,
            "context_length": 32_768,
            "n_layers": n_layers,
            "n_heads": n_heads,
            "n_kv_heads": n_kv_heads,
            "d_model": d_model,
            "d_ff": d_ff,
            "rope": {"base": 1_000_000.0},
            "norm_eps": 1e-6,
            "attention_bias": True,
            "attention_out_bias": False,
            **own,
        }
    )


def qwen3(n_layers: int, n_heads: int, d_model: int, d_ff: int, **own: Any) -> dict[str, Any]:
    return llama(
        **{
            "vocab_size": 151_936,
            "context_length": 40_960,
            "n_layers": n_layers,
            "n_heads": n_heads,
            "n_kv_heads": 8,
            "d_model": d_model,
            "d_head": 128,
            "d_ff": d_ff,
            "rope": {"base": 1_000_000.0},
            "norm_eps": 1e-6,
            "qk_norm": "head",
            **own,
        }
    )


def _gemma(**own: Any) -> dict[str, Any]:
    """What Gemma 2 and 3 share."""
    return llama(
        **{
            "activation": "gelu_tanh",
            "norm_eps": 1e-6,
            "norm_offset": True,
            "norm_placement": "sandwich",
            "scale_embeddings": True,
            "tie_embeddings": True,
            "d_head": 256,
            "attention_scale": 256**-0.5,
            **own,
        }
    )


def deepseek(factor_weight: float, **own: Any) -> dict[str, Any]:
    """YaRN from 4,096 to 163,840 tokens. Its `mscale` raises scores; cos and sin stay of size 1."""
    raised = 0.1 * factor_weight * 3.6888794541139363 + 1.0  # ln(40)
    return llama(
        context_length=163_840,
        norm_eps=1e-6,
        rope={
            "scaling": "yarn",
            "factor": 40.0,
            "original_context": 4096,
            "attention_factor": 1.0,
        },
        attention_scale=192**-0.5 * raised**2,
        **own,
    )


def latent(d_query_latent: int | None) -> dict[str, Any]:
    widths = {"d_latent": 512, "d_nope": 128, "d_rope": 64, "d_value": 128}
    return widths | ({} if d_query_latent is None else {"d_query_latent": d_query_latent})


DENSE_PRESETS: dict[str, dict[str, Any]] = {
    # Llama 2, arXiv 2307.09288. 6,738,415,616 / 13,015,864,320 / 68,976,648,192 parameters.
    "llama2-7b": _llama2(32, 32, 4096, 11_008),
    "llama2-13b": _llama2(40, 40, 5120, 13_824),
    "llama2-70b": _llama2(80, 64, 8192, 28_672, n_kv_heads=8),
    # Llama 3, arXiv 2407.21783. 8,030,261,248 / 70,553,706,496 / 1,235,814,400 / 3,212,749,824.
    "llama3-8b": _llama3(32, 32, 4096, 14_336),
    "llama3-70b": _llama3(80, 64, 8192, 28_672),
    "llama3.1-8b": _llama3(32, 32, 4096, 14_336, **_longer(8.0)),
    "llama3.1-70b": _llama3(80, 64, 8192, 28_672, **_longer(8.0)),
    "llama3.2-1b": _llama3(16, 32, 2048, 8192, tie_embeddings=True, **_longer(32.0)),
    "llama3.2-3b": _llama3(28, 24, 3072, 8192, tie_embeddings=True, **_longer(32.0)),
    # Mistral 7B, arXiv 2310.06825 (version 0.1, the one with the window). 7,241,732,096.
    "mistral-7b": llama(
        vocab_size=32_000,
        context_length=32_768,
        n_layers=32,
        n_heads=32,
        n_kv_heads=8,
        d_model=4096,
        d_ff=14_336,
        window=4096,
    ),
    # Qwen2, arXiv 2407.10671, and Qwen2.5, arXiv 2412.15115. 494,032,768 / 1,543,714,304 /
    # 7,615,616,512, the same in both.
    "qwen2-0.5b": _qwen2(24, 14, 2, 896, 4864, tie_embeddings=True, context_length=131_072),
    "qwen2-1.5b": _qwen2(28, 12, 2, 1536, 8960, tie_embeddings=True, context_length=131_072),
    "qwen2-7b": _qwen2(28, 28, 4, 3584, 18_944, vocab_size=152_064, context_length=131_072),
    "qwen2.5-0.5b": _qwen2(24, 14, 2, 896, 4864, tie_embeddings=True),
    "qwen2.5-1.5b": _qwen2(28, 12, 2, 1536, 8960, tie_embeddings=True, context_length=131_072),
    "qwen2.5-7b": _qwen2(28, 28, 4, 3584, 18_944, vocab_size=152_064, context_length=131_072),
    # Qwen3, arXiv 2505.09388. 596,049,920 / 1,720,574,976 / 8,190,735,360.
    "qwen3-0.6b": qwen3(28, 16, 1024, 3072, tie_embeddings=True),
    "qwen3-1.7b": qwen3(28, 16, 2048, 6144, tie_embeddings=True),
    "qwen3-8b": qwen3(36, 32, 4096, 12_288),
    # Gemma 2, arXiv 2408.00118. 2,614,341,888 / 9,241,705,984.
    "gemma2-2b": _gemma(
        vocab_size=256_000,
        context_length=8192,
        n_layers=26,
        n_heads=8,
        n_kv_heads=4,
        d_model=2304,
        d_ff=9216,
        window=4096,
        global_every=2,
        attention_softcap=50.0,
        logit_softcap=30.0,
    ),
    "gemma2-9b": _gemma(
        vocab_size=256_000,
        context_length=8192,
        n_layers=42,
        n_heads=16,
        n_kv_heads=8,
        d_model=3584,
        d_ff=14_336,
        window=4096,
        global_every=2,
        attention_softcap=50.0,
        logit_softcap=30.0,
    ),
    # Gemma 3, arXiv 2503.19786, the text model of one size. 999,885,952.
    "gemma3-1b": _gemma(
        vocab_size=262_144,
        context_length=32_768,
        n_layers=26,
        n_heads=4,
        n_kv_heads=1,
        d_model=1152,
        d_ff=6912,
        window=512,
        global_every=6,
        rope={"base": 1_000_000.0},
        rope_local={"base": 10_000.0},
        qk_norm="head",
    ),
    # OLMo 2, arXiv 2501.00656. 1,484,916,736 / 7,298,617,344.
    "olmo2-1b": llama(
        vocab_size=100_352,
        context_length=4096,
        n_layers=16,
        n_heads=16,
        d_model=2048,
        d_ff=8192,
        norm_eps=1e-6,
        norm_placement="output",
        qk_norm="width",
        rope={"base": 500_000.0},
    ),
    "olmo2-7b": llama(
        vocab_size=100_352,
        context_length=4096,
        n_layers=32,
        n_heads=32,
        d_model=4096,
        d_ff=11_008,
        norm_eps=1e-6,
        norm_placement="output",
        qk_norm="width",
        rope={"base": 500_000.0},
    ),
    # DeepSeek-V3, arXiv 2412.19437, with every layer dense: the published attention and dense
    # layers, without the experts that all but the first three have.
    "deepseek-v3-dense": deepseek(
        1.0,
        vocab_size=129_280,
        n_layers=61,
        n_heads=128,
        d_model=7168,
        d_ff=18_432,
        latent=latent(1536),
    ),
}
