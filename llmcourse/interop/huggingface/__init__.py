"""Models in Hugging Face's format: loading, saving, and the names of things. Parts 3 and 5.

    model = load_huggingface("folder")             # config.json and safetensors, one file or shards
    save_huggingface(model, "another")             # transformers loads it, with equal logits

Families: GPT-2, Llama 2 and 3, Mistral, Qwen2, Qwen3, Gemma 2, Gemma 3 (text), OLMo 2; and with
experts Mixtral, Qwen3-MoE, OLMoE, DeepSeek V2 and V3. transformers itself is not needed, and
nothing is downloaded.
"""

from llmcourse.interop.huggingface.config import config_from_huggingface, config_to_huggingface
from llmcourse.interop.huggingface.families import FAMILIES
from llmcourse.interop.huggingface.load import load_huggingface
from llmcourse.interop.huggingface.save import save_huggingface
from llmcourse.interop.huggingface.weights import to_ours, to_published

__all__ = [
    "FAMILIES",
    "config_from_huggingface",
    "config_to_huggingface",
    "load_huggingface",
    "save_huggingface",
    "to_ours",
    "to_published",
]
