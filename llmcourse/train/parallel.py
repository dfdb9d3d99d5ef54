"""Training on several processes: how they share the work, and how they find each other. Part 4.

    torchrun --nproc-per-node 2 -m llmcourse train --config configs/laptop.yaml

`torchrun` starts the processes and tells each its number; `start` reads that, and returns what the
training loop asks (`llmcourse.train.processes`). The processes form a grid of data x tensor:

- data: each share of the grid reads other rows of the same global batch. "ddp" keeps a whole copy
  of model and optimiser on every process and averages the gradients; "fsdp" divides parameters,
  gradients and optimiser state among them, and collects a block's parameters when it computes.
- tensor: processes that cut every layer between them and read the same rows
  (`llmcourse.train.tensor_parallel`).

The experts of a sparse model may be divided among processes of the data dimension; then tokens
travel to their experts and back (Part 5, `llmcourse.train.expert_parallel`).

Either way the result is that of one process with the same global batch, up to rounding. What it
takes is in `llmcourse.train.many_processes`.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass

import torch

from llmcourse.train.processes import Processes

DATA = ("ddp", "fsdp")


@dataclass(frozen=True)
class ParallelConfig:
    """How several processes share the work; one process alone needs none of it.

    Raises:
        ValueError: a value is impossible.
    """

    data: str = "ddp"  # "ddp": a whole copy each; "fsdp": parameters divided among the processes
    tensor: int = 1  # processes that cut each layer between them
    experts: int = 1  # processes that divide the experts of each sparse layer between them
    timeout: float = 300.0  # seconds that a process waits for the others before it gives up

    def __post_init__(self) -> None:
        if self.data not in DATA:
            raise ValueError(f"data={self.data!r} is unknown; choose one of {list(DATA)}")
        for name in ("tensor", "experts"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1 process")
        if self.experts > 1 and (self.data != "ddp" or self.tensor > 1):
            raise ValueError(
                f"experts={self.experts} does not go together with data={self.data!r} and "
                f"tensor={self.tensor}: choose data='ddp' and tensor=1, or experts=1"
            )
        if not 0 < self.timeout < math.inf:
            raise ValueError(f"timeout={self.timeout} must be a number of seconds above 0")


def start(parallel: ParallelConfig, device: torch.device) -> Processes:
    """This process among those that `torchrun` started, or alone; use it in a `with` statement.

    Args:
        parallel: how they share the work.
        device: its type decides; of several GPUs each process takes its own.

    Raises:
        ValueError: a number of processes that does not fit, or a device that cannot do it.
        LostContact: the others did not come.
    """
    world_size = int(os.environ.get("WORLD_SIZE", 1))
    for name in ("tensor", "experts"):
        size = getattr(parallel, name)
        if world_size % size:
            raise ValueError(
                f"{name}={size} needs a number of processes that it divides, and there are "
                f"{world_size}; for example: torchrun --nproc-per-node {size} -m llmcourse"
            )
    if world_size == 1:
        return Processes(device)
    # Imported here: one process alone needs none of torch's distributed engine.
    from llmcourse.train.many_processes import ManyProcesses

    return ManyProcesses(parallel, _own_device(device))


def _own_device(device: torch.device) -> torch.device:
    if device.type == "cpu":
        return device
    if device.type != "cuda":
        raise ValueError(f"several processes need device cpu or cuda, got {device.type}")
    local, there = int(os.environ.get("LOCAL_RANK", 0)), torch.cuda.device_count()
    if local >= there:
        raise ValueError(f"process {local} of this machine needs a GPU of its own; it has {there}")
    torch.cuda.set_device(local)
    return torch.device("cuda", local)
