"""How to train: every choice of the loop in one frozen record.

Taught in Part 2; Part 4 adds accumulation, schedules, precision and what saves time and memory.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from llmcourse.train.schedules import SCHEDULES

CHOICES = {
    "optimizer": ("adamw", "muon", "sgd"),
    "schedule": tuple(SCHEDULES),
    "precision": ("float32", "bfloat16", "float16"),
    "products": ("plain", "convolution", "auto"),
}


@dataclass(frozen=True)
class TrainConfig:
    """How to train; what to train on and what model are arguments of `train`.

    Raises:
        ValueError: a value is impossible; the message names the field, the value and the choice.
    """

    steps: int  # updates
    learning_rate: float = 1e-3  # at the peak
    min_learning_rate: float = 1e-4  # at the end
    schedule: str = "cosine"  # how the rate comes down; "linear", "wsd" or "constant"
    optimizer: str = "adamw"  # "muon" updates the blocks' matrices by Muon, the rest by AdamW
    muon_learning_rate: float = 0.02  # at the peak, for Muon; follows the same schedule
    warmup_steps: int = 50  # updates
    weight_decay: float = 0.1  # fraction of a matrix taken off per update, times the learning rate
    beta1: float = 0.9  # memory of the gradient's mean; of the momentum, for "sgd"
    beta2: float = 0.99  # memory of its square
    clip_norm: float = 1.0  # largest joint norm of all gradients
    accumulate: int = 1  # batches whose gradients are added up for one update
    evaluate_every: int = 0  # updates between validations; 0 means only after the last
    sample_every: int = 0  # updates between samples; 0 means only after the last
    precision: str = "float32"  # "bfloat16" runs the matrix products in half the bits
    products: str = "plain"  # which library multiplies in float32; "auto" measures on this machine
    compile: bool = False  # torch.compile: slower to start, then perhaps faster
    recompute: bool = False  # forget the blocks' activations and compute them again: less memory
    loss_chunk: int = 0  # positions whose logits exist at one time; 0 means all

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps={self.steps} must be at least 1")
        if not 0 <= self.warmup_steps < self.steps:
            raise ValueError(
                f"warmup_steps={self.warmup_steps} must be at least 0 and below steps={self.steps}"
            )
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f"learning_rate={self.learning_rate} must be a number above 0")
        if not 0 <= self.min_learning_rate <= self.learning_rate:
            raise ValueError(
                f"min_learning_rate={self.min_learning_rate} must lie between 0 and "
                f"learning_rate={self.learning_rate}"
            )
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be in [0, 1)")
        if self.weight_decay < 0 or not self.clip_norm > 0:
            raise ValueError("weight_decay must be at least 0 and clip_norm greater than 0")
        if self.accumulate < 1:
            raise ValueError(f"accumulate={self.accumulate} must be at least 1 batch")
        for name in ("evaluate_every", "sample_every", "loss_chunk"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 0")
        if not self.muon_learning_rate > 0:
            raise ValueError(f"muon_learning_rate={self.muon_learning_rate} must be above 0")
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"{name}={getattr(self, name)!r} is unknown; choose one of {list(allowed)}"
                )
