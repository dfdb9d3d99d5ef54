"""The training loop, all of it, in one place.

Taught in Part 2 and used, unchanged in shape, by every later part. The loop is a generator: each
`next` makes one update and hands out its record, so that whoever drives it (a progress bar, a live
chart, a notebook cell that stops when it has seen enough) simply iterates. What differs between
pre-training, fine-tuning and reward modelling is the `loss` function that is passed in.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from llmcourse.data.batches import IGNORE_INDEX, Batch
from llmcourse.train.history import History, StepRecord
from llmcourse.train.losses import cross_entropy
from llmcourse.train.optimizers import clip_gradient_norm, make_optimizers
from llmcourse.train.schedules import warmup_cosine

CHOICES = {"optimizer": ("adamw", "muon"), "precision": ("float32", "bfloat16")}


@dataclass(frozen=True)
class TrainConfig:
    """How to train; what to train on and what model are arguments of `train`."""

    steps: int  # updates
    learning_rate: float = 1e-3  # at the peak
    min_learning_rate: float = 1e-4  # at the end
    optimizer: str = "adamw"  # "muon" updates the blocks' matrices by Muon, the rest by AdamW
    muon_learning_rate: float = 0.02  # at the peak, for Muon; follows the same schedule
    warmup_steps: int = 50  # updates
    weight_decay: float = 0.1  # fraction of a matrix taken off per update, times the learning rate
    beta1: float = 0.9  # memory of the gradient's mean
    beta2: float = 0.99  # memory of its square
    clip_norm: float = 1.0  # largest joint norm of all gradients
    evaluate_every: int = 0  # updates between validations; 0 means only after the last
    sample_every: int = 0  # updates between samples; 0 means only after the last
    precision: str = "float32"  # "bfloat16" runs the matrix products in half the bits

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
        if self.evaluate_every < 0 or self.sample_every < 0:
            raise ValueError("evaluate_every and sample_every must be at least 0")
        if not self.muon_learning_rate > 0:
            raise ValueError(f"muon_learning_rate={self.muon_learning_rate} must be above 0")
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"{name}={getattr(self, name)!r} is unknown; choose one of {list(allowed)}"
                )


def next_token_loss(model: nn.Module, batch: Batch) -> Tensor:
    """Mean cross-entropy of the next token, in nats, over the targets that count."""
    return cross_entropy(model(batch.inputs), batch.targets)


def training_steps(
    model: nn.Module,
    batches: Iterable[Batch],
    config: TrainConfig,
    *,
    loss: Callable[[nn.Module, Batch], Tensor] = next_token_loss,
    evaluate: Callable[[nn.Module], float] | None = None,
    sample: Callable[[nn.Module], str] | None = None,
) -> Iterator[StepRecord]:
    """Train `model` in place, one update per iteration.

    Args:
        model: its parameters are changed; it is in training mode while a step runs.
        batches: where batches come from; must not end before `config.steps` updates.
        config: steps, learning rate, precision and the rest.
        loss: (model, batch) -> scalar in nats.
        evaluate: model -> validation loss in nats, called without gradients, in evaluation mode.
        sample: model -> text, likewise.

    Yields:
        A `StepRecord` after each update.

    Raises:
        ValueError: the batches ran out.
        FloatingPointError: the loss or its gradient stopped being finite; the model is left as it
            was before that step.
    """
    device = next(model.parameters()).device
    optimizers = make_optimizers(model, config)
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    peaks = [group["lr"] for group in groups]
    model.zero_grad()  # what an earlier experiment left behind must not join the first step
    source = iter(batches)
    tokens, seconds = 0, 0.0
    for step in range(1, config.steps + 1):
        started = time.perf_counter()
        batch = next(source, None)
        if batch is None:
            raise ValueError(
                f"the batches ran out after {step - 1} of {config.steps} steps; "
                f"pass an endless iterator or ask for fewer steps"
            )
        batch = Batch(batch.inputs.to(device), batch.targets.to(device))
        rate = warmup_cosine(
            step - 1,
            peak=config.learning_rate,
            warmup_steps=config.warmup_steps,
            total_steps=config.steps,
            floor=config.min_learning_rate,
        )
        for group, peak in zip(groups, peaks, strict=True):
            group["lr"] = peak * rate / config.learning_rate

        model.train()
        with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bfloat16"):
            value = loss(model, batch)
        if not math.isfinite(value.item()):
            raise FloatingPointError(
                f"the loss became {value.item()} at step {step}; usual causes are a learning rate "
                f"that is too high (here {rate:.2g}) and a batch with bad values"
            )
        value.backward()
        norm = clip_gradient_norm(model.parameters(), config.clip_norm)
        if not math.isfinite(norm):
            model.zero_grad()
            raise FloatingPointError(
                f"the gradient became {norm} at step {step} although the loss was {value.item()}; "
                f"usual causes are a division by zero and the root or logarithm of zero"
            )
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()

        tokens += int((batch.targets != IGNORE_INDEX).sum())
        seconds += time.perf_counter() - started
        model.eval()
        with torch.no_grad():
            measured = evaluate and _due(step, config.evaluate_every, config)
            validation = evaluate(model) if measured else None
            text = sample(model) if sample and _due(step, config.sample_every, config) else None
        yield StepRecord(step, value.item(), rate, norm, tokens, seconds, validation, text)


def train(
    model: nn.Module,
    batches: Iterable[Batch],
    config: TrainConfig,
    *,
    loss: Callable[[nn.Module, Batch], Tensor] = next_token_loss,
    evaluate: Callable[[nn.Module], float] | None = None,
    sample: Callable[[nn.Module], str] | None = None,
    progress: bool = True,
) -> History:
    """`training_steps` to the end, with a progress bar; returns the history.

    The arguments are those of `training_steps`. Stopping it by hand (Ctrl-C, or the notebook's stop
    button) loses nothing: the history so far is returned and the model keeps what it has learned.
    """
    from tqdm.auto import tqdm

    history = History()
    steps = training_steps(model, batches, config, loss=loss, evaluate=evaluate, sample=sample)
    with tqdm(total=config.steps, disable=not progress, unit="step") as bar:
        try:
            for record in steps:
                history.records.append(record)
                bar.set_postfix_str(_postfix(record), refresh=False)
                bar.update()
        except KeyboardInterrupt:
            bar.set_postfix_str(f"stopped by hand after {len(history.records)} steps")
    return history


def _due(step: int, every: int, config: TrainConfig) -> bool:
    return step == config.steps or (every > 0 and step % every == 0)


def _postfix(record: StepRecord) -> str:
    text = f"loss {record.loss:.3f}, {record.tokens / record.seconds:,.0f} tokens/s"
    if record.validation_loss is not None:
        text += f", validation {record.validation_loss:.3f}"
    return text
