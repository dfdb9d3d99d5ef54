"""Expert parallelism: the experts of each sparse layer divided among processes. Part 5.

Experts are where a sparse model's weights are, and a token needs only a few of them. So each of R
processes keeps E/R experts of every layer, with their gradients and the optimiser's state, and the
tokens travel: each process routes its own share of the batch, hands every row to the process that
has the expert, computes the rows that it was handed, and gets its own back. Two exchanges of all
with all (all-to-all) per layer forwards, two backwards.

    rows by expert ──► counts, then rows ──► experts of this process ──► rows ──► weighted sum
       at home             all-to-all         rows of all processes   all-to-all   at home

The backward pass of an exchange is the exchange in the other direction: who was handed a row hands
its gradient back. An expert so ends with the gradient of the tokens of all processes, a sum that
needs no further exchange, while everything else is averaged as without experts
(`llmcourse.train.many_processes`).

Sources: experts divided among processes that share the data, Shazeer et al. 2017, arXiv 1701.06538,
section 3.1; the exchange, GShard, arXiv 2006.16668, section 3.

Deviations: GShard exchanges buffers of a fixed capacity, filled up with zeros; here processes tell
each other how many rows will come, and exactly those travel. So nothing need be dropped, and some
processes may get many rows and others none.

Shapes: A assignments of this process, M rows that it was handed, E experts, R processes, C width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate, Shard

from llmcourse.model import ModelConfig
from llmcourse.model.moe import ExpertStack


def check_divisible_experts(config: ModelConfig | None, size: int) -> None:
    """Refuse a model whose experts cannot be divided among `size` processes.

    Raises:
        ValueError: names what does not fit and what would.
    """
    experts = getattr(config, "experts", None)
    if experts is None:
        raise ValueError(
            f"experts={size} divides the experts of a sparse model, and this one is dense; give "
            f"the model experts, or share its data only (experts=1)"
        )
    if experts.n_experts % size:
        raise ValueError(
            f"n_experts={experts.n_experts} cannot be divided among experts={size} processes; "
            f"choose a number of processes that divides it"
        )
    if experts.dispatch != "grouped":
        raise ValueError(
            f"dispatch={experts.dispatch!r} goes through the experts of one process one by one; "
            f"experts={size} needs dispatch='grouped', which gives the same numbers"
        )


@dataclass(frozen=True)
class Route:
    """Which rows of one layer's batch go where, and how they come back."""

    sent: list[int]  # rows for each process, in the order of processes
    received: list[int]  # rows from each process
    order: Tensor  # (M,) int64: sorts what came, process by process, by expert
    counts: Tensor  # (E/R,) int64: rows of each expert of this process
    group: Any  # the processes

    @classmethod
    def plan(cls, counts: Tensor, group: Any) -> Route:
        """Ask the others how many rows they have for this process.

        Args:
            counts: (E,) int64, rows that this process has for each expert.
            group: R processes; the first has the first E/R experts, and so on.
        """
        size = dist.get_world_size(group)
        going = counts.contiguous().view(size, -1)  # (R, E/R): how many for each expert of each
        coming = torch.empty_like(going)  # (R, E/R): how many from each for each expert here
        dist.all_to_all_single(coming, going, group=group)
        sent, received = torch.stack([going.sum(1), coming.sum(1)]).tolist()
        # What comes is sorted by expert within each sender's part: R E/R runs of equal experts.
        kinds = torch.arange(coming.shape[1], device=counts.device).repeat(size)
        kinds = kinds.repeat_interleave(coming.view(-1), output_size=sum(received))  # (M,)
        return cls(sent, received, kinds.argsort(stable=True), coming.sum(0), group)

    def there(self, rows: Tensor) -> Tensor:
        """(A, ...) rows of this process by expert -> (M, ...) all processes' by its experts."""
        return self._exchange(rows, self.sent, self.received)[self.order]

    def back(self, rows: Tensor) -> Tensor:
        """(M, ...) -> (A, ...): every row to where it came from, the inverse of `there`."""
        sorted_by_process = torch.empty_like(rows, memory_format=torch.contiguous_format)
        sorted_by_process[self.order] = rows
        return self._exchange(sorted_by_process, self.received, self.sent)

    def _exchange(self, rows: Tensor, sent: list[int], received: list[int]) -> Tensor:
        came = rows.new_empty(sum(received), *rows.shape[1:])
        dist.all_to_all_single(came, rows.contiguous(), received, sent, group=self.group)
        return came


class _Travel(torch.autograd.Function):
    """Rows go one way through a route, and their gradients the other."""

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, go: Callable[[Tensor], Tensor], come: Callable[[Tensor], Tensor]
    ) -> Tensor:
        ctx.come = come
        return go(rows)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None, None]:
        return ctx.come(slope), None, None


class DividedStack:
    """The experts of one layer, of which this process keeps E/R; called as `ExpertStack` is.

    All processes must run the layer equally often, forwards and backwards, each with as many rows
    as it likes; those that no row comes to take part with empty tensors.

    Args:
        stack: whole, the same on every process. It loses the other processes' experts, and its
            `forward` becomes this one's.
        group: R processes, R dividing E.
    """

    def __init__(self, stack: ExpertStack, group: Any) -> None:
        self.stack, self.group = stack, group
        self.collecting = False  # the experts travel and the rows stay: see `DividedExperts`
        rank, size = dist.get_rank(group), dist.get_world_size(group)
        for name, whole in list(stack.named_parameters()):
            piece = whole.detach().chunk(size)[rank].clone()
            setattr(stack, name, nn.Parameter(piece, requires_grad=whole.requires_grad))
        self._local = stack.forward
        stack.forward = self.forward

    def forward(self, rows: Tensor, counts: Tensor) -> Tensor:
        """(A, C) rows sorted by expert, counts (E,) of them each -> (A, C)."""
        if self.collecting:
            with self._whole():
                return self._local(rows, counts)
        if torch.is_autocast_enabled(rows.device.type):  # half the bytes; experts compute in it
            rows = rows.to(torch.get_autocast_dtype(rows.device.type))
        route = Route.plan(counts, self.group)
        made = self._local(_Travel.apply(rows, route.there, route.back), route.counts)
        return _Travel.apply(made, route.back, route.there)

    @contextmanager
    def _whole(self) -> Iterator[None]:
        pieces = dict(self.stack._parameters)
        try:
            for name, piece in pieces.items():
                whole = None if piece is None else collected(piece, self.group)
                self.stack._parameters[name] = whole
            yield
        finally:
            self.stack._parameters.update(pieces)


@torch.no_grad()
def collected(piece: Tensor, group: Any) -> Tensor:
    """(E/R, ...) of every process -> (E, ...); all processes of the group take part."""
    pieces = [torch.empty_like(piece) for _ in range(dist.get_world_size(group))]
    dist.all_gather(pieces, piece.detach().contiguous(), group=group)
    return torch.cat(pieces)


class DividedExperts:
    """All experts of a model, divided.

    Args:
        model: whole, the same on every process.
        mesh: (replicas, R) processes: a row has all experts between them, a column the same ones.
    """

    def __init__(self, model: nn.Module, mesh: DeviceMesh) -> None:
        self._mesh, self._group = mesh, mesh.get_group("experts")
        stacks = {
            path: module
            for path, module in model.named_modules()
            if isinstance(module, ExpertStack)
        }
        self._stacks = [DividedStack(stack, self._group) for stack in stacks.values()]
        self.parameters = {
            f"{path}.{name}": parameter
            for path, stack in stacks.items()
            for name, parameter in stack.named_parameters()
        }

    def average_gradients(self) -> None:
        """What averaging does for other parameters: the sum over all processes, over their number.

        The sum over those that share these experts among them is there: their tokens came here.
        """
        for parameter in self.parameters.values():
            if parameter.grad is None:
                continue
            if self._mesh.size(0) > 1:
                dist.all_reduce(parameter.grad, group=self._mesh.get_group("replicas"))
            parameter.grad /= self._mesh.size()

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """Inside, without gradients, every layer collects all its experts while it computes.

        Each process then computes its rows as one process would, to the last bit. Rows that travel
        are multiplied beside others, which may round otherwise; processes that decode the same text
        might then draw different tokens, and one would wait for another that has ended its text.
        """
        for stack in self._stacks:
            stack.collecting = True
        try:
            yield
        finally:
            for stack in self._stacks:
                stack.collecting = False

    def whole(self, tensor: Tensor) -> Tensor:
        """The tensor of all experts, from this process's part of it."""
        return collected(tensor, self._group)

    def canonical(self, tensor: Tensor) -> DTensor:
        """This process's part as one of a tensor of all experts."""
        return DTensor.from_local(
            tensor.detach(), self._mesh, [Replicate(), Shard(0)], run_check=False
        )
