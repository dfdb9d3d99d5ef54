"""The published families, by the `model_type` of their config."""

from __future__ import annotations

from llmcourse.interop.huggingface.families.base import Family
from llmcourse.interop.huggingface.families.deepseek import DEEPSEEK_V2, DEEPSEEK_V3
from llmcourse.interop.huggingface.families.gemma import GEMMA2, GEMMA3
from llmcourse.interop.huggingface.families.gpt2 import GPT2
from llmcourse.interop.huggingface.families.llama import LLAMA, MISTRAL, OLMO2, QWEN2, QWEN3
from llmcourse.interop.huggingface.families.mixture import MIXTRAL, OLMOE, QWEN3_MOE

# In the order in which a config without a family's name is tried.
FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        GPT2,
        LLAMA,
        MISTRAL,
        QWEN2,
        QWEN3,
        OLMO2,
        GEMMA2,
        GEMMA3,
        MIXTRAL,
        QWEN3_MOE,
        OLMOE,
        DEEPSEEK_V3,
        DEEPSEEK_V2,
    )
}

__all__ = ["FAMILIES", "Family"]
