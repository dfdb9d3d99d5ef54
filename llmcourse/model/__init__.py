"""The decoder: `Transformer`, described by a `ModelConfig`. Parts 1, 3 and 5."""

from llmcourse.model.config import ModelConfig
from llmcourse.model.transformer import Transformer

__all__ = ["ModelConfig", "Transformer"]
