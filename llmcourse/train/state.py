"""Everything a training run carries from one update to the next, beside the weights.

Taught in Part 4. A run that is to go on as if it had never stopped needs more than its weights: the
optimisers' averages, the loss scale, how far the schedule is, which data comes next, and the state
of every source of random numbers. All of that is here, as tensors and plain values that a file can
hold without pickling. The schedule is a function of the step and needs nothing.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from llmcourse.errors import CheckpointError
from llmcourse.model.products import set_products
from llmcourse.train.config import TrainConfig
from llmcourse.train.objective import Loss, Objective, loss_of
from llmcourse.train.optimizers import make_optimizers
from llmcourse.train.processes import Processes
from llmcourse.train.scaler import LossScaler

# Settings that change what is seen of a run, not what it computes.
MAY_CHANGE = ("evaluate_every", "sample_every")


class TrainState:
    """A run: what is trained, its optimisers, and how far it is. `training_steps` moves it on.

    Args:
        model: its parameters are what is trained.
        batches: where batches come from. To be saved and restored they need `state_dict` and
            `load_state_dict`, as `ShardLoader` and `llmcourse.data.resumable.Replayed` have.
        config: how to train.
        loss: (model, batch) -> scalar; None is the next-token loss.
        processes: those that train together; None is this one alone.
        generators: further sources of random numbers that the run draws from, by name. The model's
            own (dropout) and the global ones of torch, NumPy and Python are always included.

    Raises:
        ValueError: a loss of its own together with `loss_chunk`, which is about the next-token
            loss; or a choice the model does not have.
    """

    def __init__(
        self,
        model: nn.Module,
        batches: Iterable[Any],
        config: TrainConfig,
        *,
        loss: Loss | None = None,
        processes: Processes | None = None,
        generators: Mapping[str, torch.Generator] | None = None,
    ) -> None:
        if loss is not None and config.loss_chunk:
            raise ValueError(
                f"loss_chunk={config.loss_chunk} is about the next-token loss; a loss of your own "
                f"cuts its logits itself (llmcourse.train.chunked_loss)"
            )
        self.model, self.config = model, config
        self.device = next(model.parameters()).device
        self.processes = processes or Processes(self.device)
        self.batches: Iterator[Any] = iter(batches)
        self.products = set_products(model, config.products)
        _set_recompute(model, config.recompute)
        self.processes.check(config)
        objective: nn.Module = self.processes.wrap(Objective(model, loss or loss_of(config)))
        self.wrapped = objective  # what `Processes.accumulating` knows
        self.objective = torch.compile(objective) if config.compile else objective
        # After `wrap`, which may have replaced the parameters by pieces of them.
        self.optimizers = make_optimizers(model, config)
        self.peaks = [group["lr"] for group in self.groups]
        self.scaler = LossScaler() if config.precision == "float16" else None
        self.generators = dict(generators or {}) | _generators_of(model)
        self.step = 0  # updates made
        self.tokens = 0  # targets learned from, on all processes
        self.seconds = 0.0  # spent on updates

    @property
    def groups(self) -> list[dict[str, Any]]:
        """The parameter groups of all optimisers."""
        return [group for optimizer in self.optimizers for group in optimizer.param_groups]

    def set_rate(self, rate: float) -> None:
        """The learning rate of the next update; Muon's follows in proportion."""
        for group, peak in zip(self.groups, self.peaks, strict=True):
            group["lr"] = peak * rate / self.config.learning_rate

    def tensors(self) -> dict[str, Tensor]:
        """All that is a tensor, by flat names, on the CPU: `optimizer.0.12.exp_avg` and so on."""
        found: dict[str, Tensor] = {}
        for number, optimizer in enumerate(self.optimizers):
            for index, entries in optimizer.state_dict()["state"].items():
                for name, value in entries.items():
                    found[f"optimizer.{number}.{index}.{name}"] = torch.as_tensor(value)
        return {name: t.detach().cpu().clone() for name, t in found.items()} | self.random_tensors()

    def random_tensors(self) -> dict[str, Tensor]:
        """The states of all sources of random numbers, those that are tensors."""
        found = {"random.torch": torch.get_rng_state()}
        if self.device.type == "cuda":
            found["random.cuda"] = torch.cuda.get_rng_state(self.device)
        for name, generator in self.generators.items():
            found[f"random.generator.{name}"] = generator.get_state()
        keys = np.random.get_state()[1]
        found["random.numpy"] = torch.from_numpy(keys.astype(np.int64))
        return {name: tensor.detach().cpu().clone() for name, tensor in found.items()}

    def facts(self) -> dict[str, Any]:
        """All that is not, ready for JSON.

        Raises:
            ValueError: the batches cannot say where they stand.
        """
        if not hasattr(self.batches, "state_dict"):
            raise ValueError(
                f"these batches ({type(self.batches).__name__}) cannot say where they stand, so a "
                f"run on them could not be resumed; use llmcourse.data.resumable.Replayed or a "
                f"ShardLoader"
            )
        version, keys, gauss = random.getstate()
        return {
            "config": dataclasses.asdict(self.config),
            "step": self.step,
            "tokens": self.tokens,
            "seconds": self.seconds,
            "products": self.products,
            "optimizers": [_settings(optimizer) for optimizer in self.optimizers],
            "scaler": self.scaler.to_dict() if self.scaler else None,
            "batches": self.batches.state_dict(),
            "python": [version, list(keys), gauss],
            "numpy": list(np.random.get_state()[2:]),
        }

    def load(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Go on where the run that gave `tensors` and `facts` stood. The weights are the caller's.

        Raises:
            CheckpointError: another config (names the field), another optimiser, other parameters,
                other data, or something missing. Nothing has been changed then.
        """
        try:
            self._check(tensors, facts)
            scaler = LossScaler.from_dict(facts["scaler"]) if self.scaler else None
            states = [
                self._optimizer_state(number, optimizer, tensors, facts["optimizers"][number])
                for number, optimizer in enumerate(self.optimizers)
            ]
            version, keys, gauss = facts["python"]
            python_state = (version, tuple(keys), gauss)
            random.Random().setstate(python_state)
            numpy_keys = tensors["random.numpy"].numpy().astype(np.uint32)
            numpy_state = ("MT19937", numpy_keys, *facts["numpy"])
            np.random.RandomState().set_state(numpy_state)
            step, tokens, seconds = int(facts["step"]), int(facts["tokens"]), facts["seconds"]
            products = facts["products"]
            self.batches.load_state_dict(facts["batches"])  # refuses before it moves
        except CheckpointError:
            raise
        except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            raise CheckpointError(f"this training state cannot be resumed: {error}") from error
        for optimizer, state in zip(self.optimizers, states, strict=True):
            optimizer.load_state_dict(state)
        self.scaler = scaler
        # What "auto" chose then: another library would round differently.
        self.products = set_products(self.model, products)
        self.step, self.tokens, self.seconds = step, tokens, float(seconds)
        torch.set_rng_state(tensors["random.torch"])
        if "random.cuda" in tensors and self.device.type == "cuda":
            torch.cuda.set_rng_state(tensors["random.cuda"], self.device)
        for name, generator in self.generators.items():
            generator.set_state(tensors[f"random.generator.{name}"])
        random.setstate(python_state)
        np.random.set_state(numpy_state)

    def _check(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        refuse_changes(facts["config"], dataclasses.asdict(self.config), MAY_CHANGE, "training.")
        if not 0 <= facts["step"] <= self.config.steps:
            raise CheckpointError(
                f"the training state is at step {facts['step']}, but the run has "
                f"{self.config.steps} steps"
            )
        for name in self.generators:
            if f"random.generator.{name}" not in tensors:
                raise CheckpointError(f"the training state lacks the random generator {name!r}")
        if len(facts["optimizers"]) != len(self.optimizers):
            raise CheckpointError(
                f"the training state has {len(facts['optimizers'])} optimisers, the run "
                f"{len(self.optimizers)}"
            )

    def _optimizer_state(
        self,
        number: int,
        optimizer: torch.optim.Optimizer,
        tensors: Mapping[str, Tensor],
        settings: Mapping[str, Any],
    ) -> dict[str, Any]:
        """The state dict that this optimiser loads, checked against its parameters."""
        if settings["class"] != type(optimizer).__name__:
            raise CheckpointError(
                f"the training state is of the optimiser {settings['class']}, the run's is "
                f"{type(optimizer).__name__}"
            )
        current = optimizer.state_dict()
        sizes = [len(group["params"]) for group in current["param_groups"]]
        if sizes != settings["sizes"]:
            raise CheckpointError(
                f"{settings['class']} had groups of {settings['sizes']} parameters, the run has "
                f"{sizes}"
            )
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        state: dict[int, dict[str, Tensor]] = {}
        prefix = f"optimizer.{number}."
        for name, tensor in tensors.items():
            if not name.startswith(prefix):
                continue
            index, entry = name.removeprefix(prefix).split(".", 1)
            parameter = parameters[int(index)]
            if tensor.ndim and tensor.shape != parameter.shape:
                raise CheckpointError(
                    f"{name} has shape {tuple(tensor.shape)}, its parameter "
                    f"{tuple(parameter.shape)}"
                )
            state.setdefault(int(index), {})[entry] = tensor.clone()
        if settings["stateful"] != sorted(state):
            lost = sorted(set(settings["stateful"]) ^ set(state))
            raise CheckpointError(f"{settings['class']} lacks the state of parameters {lost}")
        groups = [
            dict(group, **saved)
            for group, saved in zip(current["param_groups"], settings["groups"], strict=True)
        ]
        return {"state": state, "param_groups": groups}


def refuse_changes(
    saved: Mapping[str, Any], now: Mapping[str, Any], may_change: Iterable[str], prefix: str = ""
) -> None:
    """Whether two descriptions of a run are the same, apart from what may change.

    Args:
        saved, now: settings by name; a field that one lacks counts as None.
        may_change: names that do not matter.
        prefix: put before a name in the message.

    Raises:
        CheckpointError: names the first field that differs, with its old and new value.
    """
    for name in dict.fromkeys([*now, *saved]):
        old, new = saved.get(name), now.get(name)
        if name not in may_change and old != new:
            raise CheckpointError(
                f"cannot resume with a changed {prefix}{name}: it was {old!r} and is {new!r}; "
                f"set it back, or begin a new run in another folder"
            )


def _settings(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    state = optimizer.state_dict()
    return {
        "class": type(optimizer).__name__,
        "sizes": [len(group["params"]) for group in state["param_groups"]],
        "stateful": sorted(state["state"]),
        "groups": [
            {name: value for name, value in group.items() if name != "params"}
            for group in state["param_groups"]
        ],
    }


def _generators_of(model: nn.Module) -> dict[str, torch.Generator]:
    """The generators that modules draw from, each once, in the order they are met."""
    found: list[torch.Generator] = []
    for module in model.modules():
        generator = getattr(module, "generator", None)
        if isinstance(generator, torch.Generator) and all(generator is not g for g in found):
            found.append(generator)
    return {f"model.{number}": generator for number, generator in enumerate(found)}


def _set_recompute(model: nn.Module, recompute: bool) -> None:
    if recompute and not hasattr(model, "recompute"):
        raise ValueError(f"recompute=True needs a Transformer, got {type(model).__name__}")
    if hasattr(model, "recompute"):
        model.recompute = recompute
