"""Training: one visible loop, the loss, schedules, optimisers and checkpoints. Parts 2 and 4."""

from llmcourse.train.history import History, StepRecord
from llmcourse.train.loop import TrainConfig, next_token_loss, train, training_steps
from llmcourse.train.losses import bits_per_byte, cross_entropy, perplexity

__all__ = [
    "History",
    "StepRecord",
    "TrainConfig",
    "bits_per_byte",
    "cross_entropy",
    "next_token_loss",
    "perplexity",
    "train",
    "training_steps",
]
