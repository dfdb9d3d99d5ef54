"""llmcourse: from scaled dot-product attention to PPO, GRPO and concept models.

The package is the reference implementation behind the ten notebooks. It follows the road the data
takes: text -> tokens -> batches -> model -> loss -> update -> checkpoint, and from the checkpoint
on to decoding, fine-tuning and reinforcement learning. Importing `llmcourse` itself costs nothing;
import the piece you want, for example `from llmcourse.model import Transformer`.
"""

__version__ = "0.1.0"
