"""One process among several that train one model: what it exchanges with the others, and when.

Taught in Part 4, with experts in Part 5; made by `llmcourse.train.parallel.start`, which says what
the choices are. CPUs talk through gloo, GPUs through nccl.

Sources: Li et al. 2020, "PyTorch Distributed", arXiv 2006.15704; Zhao et al. 2023, "PyTorch FSDP",
arXiv 2304.11277, here in its second edition (`fully_shard`), one `DTensor` for each parameter.

Deviations: parameters travel in the dtype they are stored in, under autocast too. Dropout
and noisy routers draw the same numbers on each share of the data, whose rows differ.
"""

from __future__ import annotations

import contextlib
import math
import signal
import threading
from collections.abc import Collection, Iterable, Iterator
from contextlib import AbstractContextManager
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, Shard, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from llmcourse.errors import LostContact
from llmcourse.model import Transformer
from llmcourse.model.block import Block
from llmcourse.train.expert_parallel import DividedExperts, check_divisible_experts
from llmcourse.train.processes import Processes
from llmcourse.train.tensor_parallel import Cuts, check_divisible, cut_model, local_config
from llmcourse.train.watch import Watch, describe, is_contact_error

if TYPE_CHECKING:
    from llmcourse.train.config import TrainConfig
    from llmcourse.train.parallel import ParallelConfig


class ManyProcesses(Processes):
    """This process among several; made by `start`. All of them must make the same calls."""

    def __init__(self, parallel: ParallelConfig, device: torch.device) -> None:
        super().__init__(device)
        self.parallel = parallel
        timeout = timedelta(seconds=parallel.timeout)
        try:
            store, self.rank, self.world_size = next(dist.rendezvous("env://", timeout=timeout))
            # What an earlier group of the same processes left in the store must not be met again.
            times = store.add(f"llmcourse/starts/{self.rank}", 1)
            store = dist.PrefixStore(f"llmcourse/{times}", store)
            dist.init_process_group(
                "nccl" if device.type == "cuda" else "gloo",
                store=store,
                rank=self.rank,
                world_size=self.world_size,
                timeout=timeout,
                device_id=device if device.type == "cuda" else None,
            )
        except dist.DistError as error:
            raise LostContact(
                f"the processes did not find each other within parallel.timeout="
                f"{parallel.timeout:g} s: {error}"
            ) from error
        self.tensor_size = parallel.tensor
        self.data_size = self.world_size // self.tensor_size
        # Neighbours cut layers between them: they talk most, and are on one machine.
        grid = torch.arange(self.world_size).reshape(self.data_size, self.tensor_size)
        self.data_rank, self.tensor_rank = divmod(self.rank, self.tensor_size)
        self._data_group = _group_of(grid.T.tolist(), self.rank, timeout)
        self._tensor_group = _group_of(grid.tolist(), self.rank, timeout)
        groups, names = [self._data_group, self._tensor_group], ("data", "tensor")
        self._mesh = DeviceMesh.from_group(groups, device.type, grid, mesh_dim_names=names)
        self._world = DeviceMesh.from_group(dist.group.WORLD, device.type)
        self.experts_size = parallel.experts
        if self.experts_size > 1:  # then all processes are shares of the data
            grid = torch.arange(self.world_size).reshape(-1, self.experts_size)
            groups = [
                _group_of(rows, self.rank, timeout) for rows in (grid.T.tolist(), grid.tolist())
            ]
            names = ("replicas", "experts")
            self._experts_mesh = DeviceMesh.from_group(
                groups, device.type, grid, mesh_dim_names=names
            )
        # Of the model that was wrapped last:
        self._cuts, self._config = Cuts({}, ()), None
        self._experts: DividedExperts | None = None
        self._watch = Watch(store, self.rank, self.world_size)
        self._before: Any = None  # what SIGTERM did before

    @property
    def pieces(self) -> bool:
        return self.tensor_size > 1 or self.experts_size > 1 or self._sharded

    @property
    def _sharded(self) -> bool:
        return self.parallel.data == "fsdp" and self.data_size > 1

    def check(self, config: TrainConfig) -> None:
        if self.tensor_size > 1 and config.optimizer == "muon":
            raise ValueError(
                "optimizer='muon' makes whole matrices orthogonal, and tensor > 1 cuts them; use "
                "data='fsdp', or optimizer='adamw'"
            )

    def sum(self, value: float) -> float:
        if self.data_size == 1:
            return value
        return float(self._reduced([value], self._data_group)[0])

    @torch.no_grad()
    def total(self, tensor: Tensor) -> Tensor:
        if self.data_size == 1:
            return tensor
        total = tensor.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=self._data_group)
        return total

    def all(self, flag: bool) -> bool:
        return float(self._reduced([float(not flag)], dist.group.WORLD)[0]) == 0.0

    def wrap(self, objective: nn.Module) -> nn.Module:
        """Cut layers and divide experts, then share the data. The weights are those of rank 0.

        One model at a time: `whole`, `canonical` and `restored` are about the one wrapped last.

        Raises:
            ValueError: tensor > 1 and a model that is not a `Transformer` or cannot be cut;
                experts > 1 and a model without experts, or whose experts cannot be divided.
        """
        model = _model_of(objective)
        if self.tensor_size > 1:
            if not isinstance(model, Transformer):
                raise ValueError(f"tensor > 1 cuts a Transformer, got {type(model).__name__}")
            check_divisible(model.config, self.tensor_size)
        if self.experts_size > 1:
            check_divisible_experts(getattr(model, "config", None), self.experts_size)
        with torch.no_grad():
            for tensor in (*objective.parameters(), *objective.buffers()):
                dist.broadcast(tensor.detach(), 0)
        self._config = getattr(model, "config", None)
        if self.tensor_size > 1:
            self._cuts = cut_model(model, self._mesh["tensor"])
        divided: Collection[str] = ()
        if self.experts_size > 1:
            self._experts = model.divided = DividedExperts(model, self._experts_mesh)
            divided = self._experts.parameters
        if self._sharded:
            # Few numbers, which the loop moves by what all processes count: whole everywhere.
            biases = {p for n, p in model.named_parameters() if n.endswith("selection_bias")}
            for module in list(objective.modules()):
                if isinstance(module, Block):
                    fully_shard(module, mesh=self._mesh["data"], ignored_params=biases)
            # The rest (embedding, last norm, head) belongs to the objective and not to the model:
            # a loss may use the output matrix without the model's `forward`.
            fully_shard(objective, mesh=self._mesh["data"], ignored_params=biases)
        for name, parameter in model.named_parameters():
            parameter.is_cut = name in self._cuts.cuts or name in divided
        if self.data_size == 1 or self._sharded:
            return objective
        kept = {id(parameter) for name, parameter in model.named_parameters() if name in divided}
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(
            objective, [name for name, p in objective.named_parameters() if id(p) in kept]
        )
        devices = None if self.device.index is None else [self.device.index]
        return DistributedDataParallel(
            objective, device_ids=devices, process_group=self._data_group
        )

    @contextlib.contextmanager
    def accumulating(self, objective: nn.Module, last: bool) -> Iterator[None]:
        waiting: AbstractContextManager[Any] = contextlib.nullcontext()
        if isinstance(objective, FSDPModule):
            objective.set_requires_gradient_sync(last)
        elif isinstance(objective, DistributedDataParallel) and not last:
            waiting = objective.no_sync()
        with waiting:
            yield
        if last and self._cuts.summed:
            for name, parameter in _model_of(objective).named_parameters():
                if name in self._cuts.summed and parameter.grad is not None:
                    dist.all_reduce(_local(parameter.grad), group=self._tensor_group)
        divided = getattr(_model_of(objective), "divided", None)
        if last and divided is not None:
            divided.average_gradients()

    @contextlib.contextmanager
    def evaluating(self, objective: nn.Module) -> Iterator[None]:
        """See `Processes.evaluating`; the model's config is meanwhile that of this process's part,
        so that a cache made for it fits."""
        model = _model_of(objective)
        if self.tensor_size > 1:
            model.config = local_config(self._config, self.tensor_size)
        if isinstance(objective, FSDPModule):
            # Blocks collect their parameters themselves; the root's would wait for its forward.
            fully_shard.state(objective)._lazy_init()  # or the first block takes itself for it
            objective.unshard()
        divided = getattr(model, "divided", None)
        try:
            with contextlib.nullcontext() if divided is None else divided.collecting():
                yield
        finally:
            if isinstance(objective, FSDPModule):
                objective.reshard()
            if self.tensor_size > 1:
                model.config = self._config

    @torch.no_grad()
    def clip_gradient_norm(self, parameters: Iterable[Tensor], max_norm: float) -> float:
        if not max_norm > 0:
            raise ValueError(f"max_norm={max_norm} must be greater than 0 (infinity never clips)")
        found = [p for p in parameters if p.grad is not None]
        # Of what every process has, and of what is cut or divided among those of a group.
        kinds: tuple[list[Tensor], list[Tensor]] = ([], [])
        for parameter in found:
            kinds[getattr(parameter, "is_cut", False)].append(_local(parameter.grad).norm())
        squares = [
            float(torch.stack(norms).double().square().sum()) if norms else 0.0 for norms in kinds
        ]
        if self._sharded:
            squares = self._reduced(squares, self._data_group).tolist()
        group, size = self._tensor_group, self.tensor_size
        if self._experts is not None:
            group, size = self._experts_mesh.get_group("experts"), self.experts_size
        if size > 1:
            # What all have is added up too, so that each computes exactly the same norm.
            same, cut = self._reduced(squares, group).tolist()
            squares = [same / size, cut]
        total = math.sqrt(sum(squares))
        if total > max_norm:
            for parameter in found:
                _local(parameter.grad).mul_(max_norm / total)
        return total

    @torch.no_grad()
    def whole(self, model: nn.Module) -> nn.Module:
        """See `Processes.whole`. A copy where parameters lie in pieces, else the model itself.

        Raises:
            ValueError: parameters in pieces, and not a `Transformer`.
        """
        if not self.pieces:
            return model
        if not isinstance(model, Transformer):
            raise ValueError(f"only a Transformer is put together, got {type(model).__name__}")
        weights = {n: self._whole_tensor(n, t) for n, t in model.state_dict().items()}
        copy = Transformer(self._config, torch.Generator()).to(self.device)
        for name, parameter in copy.named_parameters():
            parameter.data = weights[name]
        return copy.train(model.training)

    @torch.no_grad()
    def canonical(self, name: str, tensor: Tensor) -> Tensor:
        if self._experts is not None and name in self._experts.parameters:
            return self._experts.canonical(tensor)
        if name not in self._cuts.cuts:
            return tensor.detach()
        # Pieces of blocks are no run of rows. Dividing the rows evenly among all processes is.
        whole = self._whole_tensor(name, tensor)
        return distribute_tensor(whole, self._world, [Shard(0)], src_data_rank=None)

    @torch.no_grad()
    def restored(self, name: str, tensor: Tensor, like: Tensor) -> Tensor:
        if self._experts is not None and name in self._experts.parameters:
            return tensor.to_local()
        if name not in self._cuts.cuts:
            return tensor
        whole = tensor.full_tensor()
        piece = self._cuts.cuts[name].piece(whole, self.tensor_rank, self.tensor_size)
        if isinstance(like, DTensor):
            return distribute_tensor(piece, like.device_mesh, like.placements, src_data_rank=None)
        return piece

    def _whole_tensor(self, name: str, tensor: Tensor) -> Tensor:
        tensor = tensor.detach()
        if isinstance(tensor, DTensor):
            tensor = tensor.full_tensor()
        if self._experts is not None and name in self._experts.parameters:
            return self._experts.whole(tensor)
        if name not in self._cuts.cuts:
            return tensor
        pieces = [torch.empty_like(tensor) for _ in range(self.tensor_size)]
        dist.all_gather(pieces, tensor.contiguous(), group=self._tensor_group)
        return self._cuts.cuts[name].join(pieces)

    def _reduced(self, numbers: list[float], group: Any) -> Tensor:
        totals = torch.tensor(numbers, dtype=torch.float64, device=self.device)
        dist.all_reduce(totals, group=group)
        return totals

    def close(self) -> None:
        self._watch.ended("")
        if dist.is_initialized():
            dist.destroy_process_group()

    def __enter__(self) -> ManyProcesses:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.getsignal(signal.SIGTERM)
            if self._before is signal.SIG_DFL:  # or somebody else saves a checkpoint then
                signal.signal(signal.SIGTERM, self._terminated)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        lost = error is not None and (isinstance(error, LostContact) or is_contact_error(error))
        if self._before is signal.SIG_DFL:
            # This process is at its end when others are lost; `torchrun` need not hurry it before
            # it has said so.
            signal.signal(signal.SIGTERM, signal.SIG_IGN if lost else self._before)
        if error is None:
            self.close()
            return
        # The group is left as it is: leaving it in order would wait for those who are gone.
        if isinstance(error, LostContact) or not lost:
            self._watch.ended(f"{type(error).__name__}: {error}")
            return
        message = describe(self.rank, self._watch.lost(), error, self.parallel.timeout)
        self._watch.ended(f"{LostContact.__name__}: {message}")
        raise LostContact(message) from error

    def _terminated(self, *_: Any) -> None:
        """SIGTERM: `torchrun` ends the others at once when one died, before they could say so."""
        lost = self._watch.lost()
        if lost:
            raise LostContact(describe(self.rank, lost, None, self.parallel.timeout))
        raise SystemExit(128 + signal.SIGTERM)


def _group_of(rows: list[list[int]], rank: int, timeout: timedelta) -> Any:
    """The group of the row that `rank` is in; every process takes part in making all of them."""
    groups = [dist.new_group(row, timeout=timeout) for row in rows]
    return next(group for group, row in zip(groups, rows) if rank in row)


def _model_of(objective: nn.Module) -> nn.Module:
    """What an objective trains, or the module itself if it is none."""
    if isinstance(objective, DistributedDataParallel):
        objective = objective.module
    return getattr(objective, "model", objective)


def _local(tensor: Tensor) -> Tensor:
    """This process's piece, sharing its memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
