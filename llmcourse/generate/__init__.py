"""From a model to text: sampling rules, caches and the decoding loop. Parts 2 and 3."""

from llmcourse.generate.conversation import Conversation
from llmcourse.generate.decode import generate, stream
from llmcourse.generate.prepare import prepare_for_inference
from llmcourse.generate.sampling import Sampling
from llmcourse.generate.speculative import speculative_generate
from llmcourse.generate.streaming import generate_text, stream_text

__all__ = [
    "Conversation",
    "Sampling",
    "generate",
    "generate_text",
    "prepare_for_inference",
    "speculative_generate",
    "stream",
    "stream_text",
]
