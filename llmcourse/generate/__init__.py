"""From a model to text: sampling rules and the decoding loop. Parts 2 and 3."""

from llmcourse.generate.decode import generate, generate_text
from llmcourse.generate.sampling import Sampling

__all__ = ["Sampling", "generate", "generate_text"]
