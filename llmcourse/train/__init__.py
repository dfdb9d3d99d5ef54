"""Training: one visible loop, the loss, schedules, optimisers and checkpoints. Parts 2 and 4."""

from llmcourse.train.config import TrainConfig
from llmcourse.train.history import History, StepRecord
from llmcourse.train.loop import train, training_steps
from llmcourse.train.losses import bits_per_byte, cross_entropy, perplexity
from llmcourse.train.objective import next_token_loss
from llmcourse.train.state import TrainState

__all__ = [
    "History",
    "StepRecord",
    "TrainConfig",
    "TrainState",
    "bits_per_byte",
    "cross_entropy",
    "next_token_loss",
    "perplexity",
    "train",
    "training_steps",
]
