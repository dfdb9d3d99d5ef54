"""The training loop, all of it, in one place.

Taught in Part 2 and used by every later part; Part 4 lets it add up several batches for one update,
scale the loss for float16, train on several processes, and go on where it was stopped. The loop is
a generator: each `next` makes one update and hands out its record, so that whoever drives it (a
progress bar, a live chart, a notebook cell that stops when it has seen enough) simply iterates.
What differs between pre-training, fine-tuning and reward modelling is the `loss` function that is
passed in.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from llmcourse.train.balance import forget_loads, move_selection_biases
from llmcourse.train.config import TrainConfig
from llmcourse.train.history import History, StepRecord
from llmcourse.train.objective import Loss, n_targets
from llmcourse.train.processes import Processes
from llmcourse.train.schedules import learning_rate
from llmcourse.train.speed import utilisation
from llmcourse.train.state import TrainState

if TYPE_CHECKING:
    from llmcourse.train.checkpoints import Checkpoints
    from llmcourse.train.tracking import Tracker


def training_steps(
    model: nn.Module,
    batches: Iterable[Any],
    config: TrainConfig,
    *,
    loss: Loss | None = None,
    evaluate: Callable[[nn.Module], float] | None = None,
    sample: Callable[[nn.Module], str] | None = None,
    processes: Processes | None = None,
    state: TrainState | None = None,
) -> Iterator[StepRecord]:
    """Train `model` in place, one update per iteration.

    Args:
        model: its parameters are changed; it is in training mode while a step runs.
        batches: where batches come from; must not end before the last update. Each is a named tuple
            of tensors; its targets say how much it weighs among those of the same update.
        config: steps, learning rate, precision and the rest.
        loss: (model, batch) -> scalar in nats, a mean over the batch's targets; None is the
            next-token loss.
        evaluate: model -> validation loss in nats, called without gradients, in evaluation mode.
        sample: model -> text, likewise.
        processes: those that train together, each on its share of the batches; None is one alone.
        state: where to go on, made for this model, these batches and this config; None begins anew.
            At every yield it describes exactly the updates made so far.

    Yields:
        A `StepRecord` after each update. Loss and tokens are those of all processes together.

    Raises:
        ValueError: the batches ran out, or a state of another run.
        FloatingPointError: the loss or its gradient stopped being finite; the model is left as it
            was before that step. In float16 such a step is left out, and the run goes on with a
            smaller loss scale.
    """
    if state is None:
        state = TrainState(model, batches, config, loss=loss, processes=processes)
    elif state.model is not model or state.config != config:
        raise ValueError("the state was made for another model or config than the loop is given")
    parameters = list(model.parameters())
    model.zero_grad()  # what an earlier experiment left behind must not join the first step
    forget_loads(model)
    for step in range(state.step + 1, config.steps + 1):
        started = time.perf_counter()
        rate = learning_rate(
            step - 1,
            schedule=config.schedule,
            peak=config.learning_rate,
            warmup_steps=config.warmup_steps,
            total_steps=config.steps,
            floor=config.min_learning_rate,
        )
        state.set_rate(rate)
        model.train()
        mean, tokens = _gradients(state, _next_batches(state, step))
        finite = True
        if state.scaler:  # each process may see only its pieces, and all must agree
            finite = state.processes.all(state.scaler.unscale_(parameters))
        norm = None
        if finite and math.isfinite(mean):
            norm = state.processes.clip_gradient_norm(parameters, config.clip_norm)
        if norm is None or not math.isfinite(norm):
            model.zero_grad()
            forget_loads(model)
            if state.scaler is None:
                raise FloatingPointError(_what_went_wrong(step, mean, norm, rate))
            norm = None
        else:
            for optimizer in state.optimizers:
                optimizer.step()
                optimizer.zero_grad()
            move_selection_biases(model, state.processes)
        scale = state.scaler.state.scale if state.scaler else None
        if state.scaler:
            state.scaler.update(norm is not None)
        state.step, state.tokens = step, state.tokens + tokens
        state.seconds += time.perf_counter() - started

        model.eval()
        with torch.no_grad(), state.processes.evaluating(state.wrapped):
            measured = evaluate and _due(step, config.evaluate_every, config)
            validation = evaluate(model) if measured else None
            text = sample(model) if sample and _due(step, config.sample_every, config) else None
        yield StepRecord(
            step, mean, rate, norm, state.tokens, state.seconds, validation, text, scale
        )


def _next_batches(state: TrainState, step: int) -> list[Any]:
    """The batches of one update, on the model's device."""
    batches = []
    for _ in range(state.config.accumulate):
        batch = next(state.batches, None)
        if batch is None:
            raise ValueError(
                f"the batches ran out after {step - 1} of {state.config.steps} steps; "
                f"pass an endless iterator or ask for fewer steps"
            )
        batches.append(type(batch)(*(field.to(state.device) for field in batch)))
    return batches


def _gradients(state: TrainState, batches: list[Any]) -> tuple[float, int]:
    """Backward through every batch: the parameters then hold the gradient of the joint mean.

    A mean of means would be wrong where batches have unequally many targets. So each batch's mean
    is weighted by its share of all targets, those of other processes included.

    Returns:
        The joint mean loss and the number of targets.
    """
    processes, precision = state.processes, state.config.precision
    counts = [n_targets(batch) for batch in batches]
    total = processes.sum(sum(counts))
    # The processes' gradients are averaged when they are exchanged, and shall be added.
    shares = [count / total * processes.data_size for count in counts]
    mean: Tensor | float = 0.0
    for number, (batch, share) in enumerate(zip(batches, shares), start=1):
        with processes.accumulating(state.wrapped, last=number == len(batches)):
            with torch.autocast(
                state.device.type,
                torch.float16 if precision == "float16" else torch.bfloat16,
                enabled=precision != "float32",
            ):
                value = state.objective(batch) * share
            (state.scaler.scale(value) if state.scaler else value).backward()
        mean = mean + value.detach()  # not yet a number: a GPU need not be waited for here
    return processes.sum(float(mean)) / processes.data_size, int(total)


def _what_went_wrong(step: int, mean: float, norm: float | None, rate: float) -> str:
    if not math.isfinite(mean):
        return (
            f"the loss became {mean} at step {step}; usual causes are a learning rate "
            f"that is too high (here {rate:.2g}) and a batch with bad values"
        )
    return (
        f"the gradient became {norm} at step {step} although the loss was {mean}; "
        f"usual causes are a division by zero and the root or logarithm of zero"
    )


def train(
    model: nn.Module,
    batches: Iterable[Any],
    config: TrainConfig,
    *,
    loss: Loss | None = None,
    evaluate: Callable[[nn.Module], float] | None = None,
    sample: Callable[[nn.Module], str] | None = None,
    processes: Processes | None = None,
    state: TrainState | None = None,
    history: History | None = None,
    checkpoints: Checkpoints | None = None,
    tracker: Tracker | None = None,
    peak_flops: float | None = None,
    progress: bool = True,
) -> History:
    """`training_steps` to the end, with a progress bar; returns the history.

    The first arguments are those of `training_steps`. Stopping it by hand (Ctrl-C, or the
    notebook's stop button) loses nothing: the history so far is returned and the model keeps what
    it has learned.

    Args:
        history: what a resumed run has behind it; it is continued.
        checkpoints: where and how often to save; a signal saves and ends the run.
        tracker: a started tracker, told of every update.
        peak_flops: the machine's matrix FLOPs per second, all processes together, for the share of
            them that the model uses (MFU) in the progress bar. For a `Transformer` only.
    """
    from tqdm.auto import tqdm

    state = state or TrainState(model, batches, config, loss=loss, processes=processes)
    history = history or History()
    steps = training_steps(model, batches, config, evaluate=evaluate, sample=sample, state=state)
    bar = tqdm(
        total=config.steps,
        initial=state.step,
        disable=not (progress and state.processes.main),
        unit="step",
    )
    begun = (state.tokens, state.seconds)
    # The share of the machine that one token a second uses: counted once, not at every update.
    per_token = utilisation(model.config, 1, 1.0, peak_flops) if peak_flops else None
    with bar, checkpoints.watch(state) if checkpoints else nullcontext():
        try:
            for record in steps:
                history.records.append(record)
                speed = (record.tokens - begun[0]) / max(record.seconds - begun[1], 1e-9)
                if tracker is not None:
                    _track(tracker, record, speed)
                bar.set_postfix_str(_postfix(record, speed, per_token), refresh=False)
                bar.update()
                if checkpoints is not None:
                    checkpoints.consider(model, state, record, history)
                    if checkpoints.stopped:
                        bar.set_postfix_str(f"stopped by a signal after {record.step} steps")
                        break
        except KeyboardInterrupt:
            bar.set_postfix_str(f"stopped by hand after {len(history.records)} steps")
    return history


def _due(step: int, every: int, config: TrainConfig) -> bool:
    return step == config.steps or (every > 0 and step % every == 0)


def _track(tracker: Tracker, record: StepRecord, speed: float) -> None:
    tracker.log(
        record.step,
        {
            "loss": record.loss,
            "learning_rate": record.learning_rate,
            "gradient_norm": record.gradient_norm,
            "tokens": record.tokens,
            "tokens_per_second": speed,
            "loss_scale": record.loss_scale,
            "validation_loss": record.validation_loss,
        },
    )
    if record.sample is not None:
        tracker.text(record.step, "sample", record.sample)


def _postfix(record: StepRecord, speed: float, per_token: float | None) -> str:
    text = f"loss {record.loss:.3f}, {speed:,.0f} tokens/s"
    if per_token is not None:
        text += f", MFU {speed * per_token:.0%}"
    if record.validation_loss is not None:
        text += f", validation {record.validation_loss:.3f}"
    return text
