"""Tensor parallelism: every layer's matrices cut, a part of each on every process. Part 4.

Attention heads do not look at each other, nor do the hidden numbers of a feed-forward network. So
the first matrix of each pair is cut by rows (its outputs), the second by columns (its inputs):
every process computes some heads and some hidden numbers from the same input, and what they write
is added up. One sum over the processes per pair forwards, one backwards.

    x ──► rows of W₁ ──► heads / activation ──► columns of W₂ ──► Σ over processes ──► y

`Transformer` fuses what reads the same input (queries, keys and values; gate and up), so the rows
of one matrix are several blocks. Each block is cut for itself, and a process takes its part of
every one: query heads stay with the keys they ask. Embeddings, positions, norms and the output
head are whole on every process.

Source: Shoeybi et al. 2019, "Megatron-LM", arXiv 1909.08053, section 3; torch's
`parallelize_module` walks the plan, and its `DTensor` does the sums.

Deviations: the pieces are plain tensors rather than `DTensor`s, so that optimisers, autocast and
data parallelism on top see nothing new; the vocabulary is not cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Replicate
from torch.distributed.tensor.parallel import ParallelStyle, parallelize_module

from llmcourse.model import ModelConfig, Transformer


@dataclass(frozen=True)
class Cut:
    """How a tensor is divided: every block along one dimension into as many parts as processes."""

    dim: int  # 0: rows, the outputs of a layer; 1: columns, its inputs
    blocks: tuple[int, ...]  # lengths of the blocks, in order; each is cut evenly

    def piece(self, whole: Tensor, rank: int, size: int) -> Tensor:
        """The part of each block that belongs to `rank`, one after another; a copy."""
        parts = [block.chunk(size, self.dim)[rank] for block in whole.split(self.blocks, self.dim)]
        return torch.cat(parts, self.dim)

    def join(self, pieces: Sequence[Tensor]) -> Tensor:
        """The whole from every rank's piece: the inverse of `piece`."""
        size = len(pieces)
        parts = [p.split([block // size for block in self.blocks], self.dim) for p in pieces]
        return torch.cat([part for block in zip(*parts) for part in block], self.dim)


@dataclass(frozen=True)
class Cuts:
    """What `cut_model` did."""

    cuts: dict[str, Cut]  # by the parameter's name; what is missing is whole everywhere
    summed: tuple[str, ...]  # whole, but each process has the gradient of its own heads only


class CutRows(ParallelStyle):
    """A Linear of which each process computes some outputs, from inputs that are the same."""

    def __init__(self, blocks: tuple[int, ...]) -> None:
        super().__init__()
        self.cuts = {"weight": Cut(0, blocks), "bias": Cut(0, blocks)}

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        _cut_parameters(module, self.cuts, device_mesh)
        module.d_out //= device_mesh.size()

        def enter(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            # Nothing to do forwards. Backwards, each process knows only what its own outputs say
            # about the input: a partial gradient, which DTensor adds up on its way out.
            x = DTensor.from_local(inputs[0], device_mesh, [Replicate()], run_check=False)
            return (x.to_local(grad_placements=[Partial()]), *inputs[1:])

        module.register_forward_pre_hook(enter)
        return module


class CutColumns(ParallelStyle):
    """A Linear of which each process has some inputs; the outputs are added up."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.cuts = {"weight": Cut(1, (width,))}

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        _cut_parameters(module, self.cuts, device_mesh)
        module.d_in //= device_mesh.size()
        held: list[nn.Parameter] = []

        def enter(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            # The bias belongs to the sum, once; each process would add it to its own part.
            if module.bias is not None:
                held.append(module.bias)
                module._parameters["bias"] = None

        def leave(module: nn.Module, inputs: tuple[Any, ...], y: Tensor | None) -> Tensor | None:
            bias = held.pop() if held else None
            if bias is not None:
                module._parameters["bias"] = bias
            if y is None:  # the forward pass failed, and its error is on its way
                return None
            y = DTensor.from_local(y, device_mesh, [Partial()], run_check=False)
            y = y.redistribute(placements=[Replicate()]).to_local()
            return y if bias is None else y + bias.to(y.dtype)

        module.register_forward_pre_hook(enter)
        module.register_forward_hook(leave, always_call=True)
        return module


class FewerHeads(ParallelStyle):
    """Self-attention that knows how many heads its process has."""

    cuts: dict[str, Cut] = {}  # noqa: RUF012 (nothing of its own is cut)

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        module.n_heads //= device_mesh.size()
        module.n_kv_heads //= device_mesh.size()
        return module


def check_divisible(config: ModelConfig, size: int) -> None:
    """Refuse a model that cannot be cut into `size` equal parts.

    Raises:
        ValueError: names the field, its value and what would do.
    """
    for name in ("n_heads", "n_kv_heads", "d_ff"):
        value = getattr(config, name)
        if value % size:
            raise ValueError(
                f"{name}={value} cannot be divided among tensor={size} processes; choose a number "
                f"of processes that divides it"
            )
    if config.experts is not None:
        raise ValueError(
            "the experts of a sparse model are not cut by tensor > 1; divide them among processes "
            "(experts > 1), or use data='fsdp'"
        )
    if config.latent is not None:
        raise ValueError("latent attention is not cut by tensor > 1; use data='fsdp' instead")
    if config.qk_norm == "width":
        raise ValueError(
            "qk_norm='width' normalises over all heads, which lie on different processes when "
            "tensor > 1; use data='fsdp', or qk_norm='head'"
        )


def plan_of(config: ModelConfig) -> dict[str, ParallelStyle]:
    """What happens to which module of a `Transformer`: the plan for `parallelize_module`."""
    h, g, d, f = config.n_heads, config.n_kv_heads, config.d_head, config.d_ff
    first, blocks = ("gate_up", (f, f)) if config.feed_forward == "gated" else ("up", (f,))
    plan: dict[str, ParallelStyle] = {}
    for layer in range(config.n_layers):
        block = f"blocks.{layer}"
        plan[f"{block}.attention"] = FewerHeads()
        plan[f"{block}.attention.qkv"] = CutRows((h * d, g * d, g * d))
        plan[f"{block}.attention.out"] = CutColumns(h * d)
        plan[f"{block}.feed_forward.{first}"] = CutRows(blocks)
        plan[f"{block}.feed_forward.down"] = CutColumns(f)
    return plan


def cut_model(model: Transformer, mesh: DeviceMesh) -> Cuts:
    """Cut a model in place; every process must hold the same weights.

    Args:
        model: whole.
        mesh: one-dimensional: the processes among which each layer is divided.

    Raises:
        ValueError: heads or hidden numbers that do not divide, or a kind of attention that is not
            cut.
    """
    check_divisible(model.config, mesh.size())
    plan = plan_of(model.config)
    cuts = {
        f"{path}.{name}": cut
        for path, style in plan.items()
        for name, cut in style.cuts.items()
        if getattr(model.get_submodule(path), name) is not None
    }
    # Each process norms its own heads, by a weight that all of them share.
    shared = ("attention.q_norm.weight", "attention.k_norm.weight")
    summed = tuple(name for name, _ in model.named_parameters() if name.endswith(shared))
    parallelize_module(model, mesh, plan)
    return Cuts(cuts, summed)


def local_config(config: ModelConfig, size: int) -> ModelConfig:
    """The config of one process's part: what a key/value cache must know."""
    return config.replace(
        n_heads=config.n_heads // size,
        n_kv_heads=config.n_kv_heads // size,
        d_head=config.d_head,
        d_ff=config.d_ff // size,
    )


def _cut_parameters(module: nn.Module, cuts: dict[str, Cut], mesh: DeviceMesh) -> None:
    for name, cut in cuts.items():
        whole = getattr(module, name)
        if whole is not None:
            piece = cut.piece(whole.detach(), mesh.get_local_rank(), mesh.size())
            setattr(module, name, nn.Parameter(piece, requires_grad=whole.requires_grad))
