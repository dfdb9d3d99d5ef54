"""Runs that `test_parallel.py` and others make on one process and, under torchrun, on several.

    python -m torch.distributed.run --nproc-per-node 2 parallel_worker.py FOLDER CASE CASE ...

writes FOLDER/CASE.json (what was seen) and FOLDER/CASE.safetensors (the weights, whole). FOLDER
holds, for some cases, what one process has saved: FOLDER/CASE-alone.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor

from llmcourse.data.batches import IGNORE_INDEX, Batch
from llmcourse.generate import Sampling, generate
from llmcourse.model import ModelConfig, Transformer
from llmcourse.model.moe import ExpertStack
from llmcourse.train import TrainConfig, sharded_checkpoint, training_steps
from llmcourse.train.expert_parallel import DividedStack
from llmcourse.train.parallel import ParallelConfig, start
from llmcourse.train.processes import Processes
from llmcourse.train.state import TrainState

ROOT = Path(__file__).resolve().parents[2]
RUN = ("-m", "torch.distributed.run", "--standalone")
STEPS, SAVED, ROWS, T, V = 6, 4, 8, 12, 31
SIZES = {"vocab_size": V, "context_length": T, "n_layers": 2, "n_heads": 4, "d_model": 24}
MODERN = {
    "n_kv_heads": 2,
    "positions": "rope",
    "norm": "rms",
    "qk_norm": "head",
    "feed_forward": "gated",
    "activation": "silu",
    "tie_embeddings": False,
    "attention_bias": False,
    "feed_forward_bias": False,
}
# Without a balancing loss and without a capacity, no token knows which others are in its batch.
SPARSE = MODERN | {
    "experts": {
        "n_experts": 4,
        "n_active": 2,
        "d_ff": 10,
        "n_shared": 1,
        "score": "sigmoid",
        "selection_bias": True,
        "bias_rate": 0.003,
        "balance_weight": 0.0,
    }
}
# Here it does: the losses, and who is dropped, are of each process's own micro-batch.
CROWDED = {
    "experts": {
        "n_experts": 4,
        "n_active": 2,
        "capacity": 1.0,
        "balance_weight": 0.1,
        "z_weight": 0.01,
        "importance_weight": 0.01,
        "layers": [1],
        "dense_branch": True,
    }
}
# name: (how the work is shared, the model, the training, the same on one process)
CASES: dict[str, tuple[dict, dict, dict, dict]] = {
    "ddp": ({}, {}, {"accumulate": 2}, {"accumulate": 1}),
    # Muon takes the matrices and AdamW the rest, so both optimisers are met.
    "fsdp": ({"data": "fsdp"}, {}, {"optimizer": "muon", "loss_chunk": 7, "accumulate": 2}, {}),
    "tensor": ({"tensor": 2}, {}, {"loss_chunk": 7}, {}),
    "tensor_modern": ({"tensor": 2}, MODERN, {"accumulate": 2, "recompute": True}, {}),
    "fsdp_tensor": ({"data": "fsdp", "tensor": 2}, MODERN, {"accumulate": 2}, {}),
    "ddp_tensor": ({"data": "ddp", "tensor": 2}, {}, {"accumulate": 2}, {}),
    "sparse_ddp": ({}, SPARSE, {"accumulate": 2}, {"accumulate": 1}),
    "sparse_fsdp": ({"data": "fsdp"}, SPARSE, {"optimizer": "muon", "loss_chunk": 7}, {}),
    "experts": ({"experts": 2}, SPARSE, {"accumulate": 2, "clip_norm": 0.1}, {"accumulate": 1}),
    "experts_crowded": (
        {"experts": 2},
        CROWDED,
        {"recompute": True, "accumulate": 1},
        {"accumulate": 2},
    ),
    "experts_replicas": ({"experts": 2}, SPARSE, {"accumulate": 2}, {"accumulate": 1}),
    "experts_four": ({"experts": 4}, CROWDED, {"accumulate": 1}, {"accumulate": 4}),
}

DOUBLE = ("experts_crowded", "experts_four")  # in float64, where only a mistake is visible


class Rows:
    """Batches of one update after another: rows with very unequal numbers of targets."""

    def __init__(self, rank: int, size: int, accumulate: int) -> None:
        self.rank, self.size, self.accumulate, self.number = rank, size, accumulate, 0

    def __iter__(self) -> Rows:
        return self

    def __next__(self) -> Batch:
        update, part = divmod(self.number, self.accumulate)
        self.number += 1
        generator = torch.Generator().manual_seed(update)
        ids = torch.randint(V, (ROWS, T + 1), generator=generator)
        lengths = torch.randint(1, T, (ROWS,), generator=generator)
        inputs, targets = ids[:, :-1], ids[:, 1:].clone()
        targets[torch.arange(T) >= lengths[:, None]] = IGNORE_INDEX
        mine = (part * self.size + self.rank) * ROWS // (self.accumulate * self.size)
        rows = slice(mine, mine + ROWS // (self.accumulate * self.size))
        return Batch(inputs[rows].contiguous(), targets[rows].contiguous())

    def state_dict(self) -> dict[str, Any]:
        return {"number": self.number}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.number = state["number"]


def begin(case: str, processes: Processes | None = None, **changes: Any) -> TrainState:
    """The state of a run before its first update."""
    _, model, training, alone = CASES[case]
    training = training | (alone if processes is None else {}) | changes
    settings = {"steps": STEPS, "warmup_steps": 1, "learning_rate": 2e-3} | training
    # Nothing that a process draws may be decided by its number, and nobody may rely on that.
    seed = processes.rank if processes is not None else 0
    config = ModelConfig.from_dict(SIZES | model)
    built = Transformer(config, torch.Generator().manual_seed(seed))
    built = built.double() if case in DOUBLE else built
    rank, size = (0, 1) if processes is None else (processes.data_rank, processes.data_size)
    rows = Rows(rank, size, training.get("accumulate", 1))
    return TrainState(built, rows, TrainConfig(**settings), processes=processes)


def run(state: TrainState, until: int = STEPS) -> list[tuple[float, float, int]]:
    """Update until that step: loss, norm of the gradient and targets so far, of each."""
    seen = []
    steps = training_steps(state.model, state.batches, state.config, state=state)
    while state.step < until:
        record = next(steps)
        seen.append((record.loss, record.gradient_norm, record.tokens))
    return seen


def weights(state: TrainState) -> dict[str, Tensor]:
    whole = state.processes.whole(state.model).state_dict()
    return {name: tensor.detach().clone() for name, tensor in whole.items()}


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# Here alone -------------------------------------------------------------------------------------


def torchrun(n: int, *arguments: str) -> subprocess.CompletedProcess:
    """Own port, own session: nothing that a test beside this one does can meet it."""
    return subprocess.run(
        [sys.executable, *RUN, "--nproc-per-node", str(n), __file__, *arguments],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,  # a machine that is busy may stop for minutes
    )


def run_alone(case: str, folder: Path) -> dict[str, Any]:
    """The run on one process; it also saves itself at the step where the many do."""
    state = begin(case)
    first = weights(state)
    seen = run(state, SAVED)
    sharded_checkpoint.save(folder / f"{case}-alone", state)
    at_saved = weights(state)
    seen += run(state)
    return {
        "seen": seen,
        "first": first,
        "at_saved": at_saved,
        "final": weights(state),
    }


def run_both(
    folder: Path, cases: tuple[str, ...], n: int, end: str = "well"
) -> dict[str, dict[str, Any]]:
    alone = {case: run_alone(case, folder) for case in cases}
    done = torchrun(n, str(folder), *cases, end)
    (folder / "stderr").write_text(done.stderr)
    assert (done.returncode == 0) == (end != "killed"), done.stderr[-4000:]
    both = {}
    for case in cases:
        many = json.loads((folder / f"{case}.json").read_text())
        many["final"] = load_file(folder / f"{case}.safetensors")
        many["at_saved"] = load_file(folder / f"{case}-at-saved.safetensors")
        many["from_alone"] = load_file(folder / f"{case}-from-alone.safetensors")
        both[case] = {"alone": alone[case], "many": many}
    return both


def same_run(both: dict[str, Any], loss: float = 3e-6, weight: float = 2e-5) -> None:
    """Losses, norms and weights agree within tolerances, of which weights moved a hundred."""
    alone, many = both["alone"], both["many"]
    losses = torch.tensor([[a[0], b[0]] for a, b in zip(alone["seen"], many["seen"], strict=True)])
    norms = torch.tensor([[a[1], b[1]] for a, b in zip(alone["seen"], many["seen"], strict=True)])
    torch.testing.assert_close(losses[:, 1], losses[:, 0], rtol=0, atol=loss)
    torch.testing.assert_close(norms[:, 1], norms[:, 0], rtol=loss, atol=0)
    assert [a[2] for a in alone["seen"]] == [b[2] for b in many["seen"]]
    for name, final in alone["final"].items():
        moved = (final - alone["first"][name]).abs().max()
        assert moved > max(100 * weight, 2e-3), f"{name} moved by {moved}"
        torch.testing.assert_close(many["final"][name], final, rtol=0, atol=weight)


# On several processes ---------------------------------------------------------------------------


def case_on_many(folder: Path, case: str) -> None:
    processes = start(ParallelConfig(**CASES[case][0], timeout=60), torch.device("cpu"))
    with processes:
        state = begin(case, processes)
        seen = run(state, SAVED)
        sharded_checkpoint.save(folder / f"{case}-many", state)
        at_saved = weights(state)
        seen += run(state)
        final = weights(state)
        again = begin(case, processes)
        sharded_checkpoint.load(folder / f"{case}-many", again)
        same_back = equal(weights(again), at_saved)
        run(again)
        report = {
            "seen": seen,
            "local": sum(p.numel() for p in map(piece, state.model.parameters())),
            "same_back": same_back,
            "end_apart": max(float((weights(again)[n] - t).abs().max()) for n, t in final.items()),
            "drawn": drawn(state),
        }
        if (folder / f"{case}-alone").is_dir():
            other = begin(case, processes, **CASES[case][3])
            sharded_checkpoint.load(folder / f"{case}-alone", other)
            at_alone = weights(other)
            if other.config.accumulate * processes.data_size <= ROWS:  # else some have no row
                report["other_seen"] = run(other)
            if processes.main:
                save_file(at_alone, folder / f"{case}-from-alone.safetensors")
        if processes.main:
            save_file(at_saved, folder / f"{case}-at-saved.safetensors")
            save_file(final, folder / f"{case}.safetensors")
            (folder / f"{case}.json").write_text(json.dumps(report))


def piece(parameter: Tensor) -> Tensor:
    return parameter.to_local() if hasattr(parameter, "to_local") else parameter


@torch.no_grad()
def drawn(state: TrainState) -> tuple[float, bool]:
    """Pieces against the whole model: the largest difference of logits, the same greedy text."""
    ids, greedy = torch.arange(8).reshape(2, 4), Sampling(temperature=0.0)
    whole = state.processes.whole(state.model).eval()
    with state.processes.evaluating(state.wrapped):
        model = state.model.eval()
        difference = (model(ids) - whole(ids)).abs().max()
        text = generate(model, ids, 6, sampling=greedy)
    return float(difference), torch.equal(text, generate(whole, ids, 6, sampling=greedy))


# Rows that each process has for each of four experts, by its number and how many processes are.
EXTREMES: dict[str, Any] = {
    "uneven": lambda rank, size: [(3 * rank + 5 * e) % 4 + rank for e in range(4)],
    "all to the last expert": lambda rank, size: [0, 0, 0, 5 + rank],
    "the first process has none": lambda rank, size: [2 * rank, 0, rank, rank],
    "nobody has any": lambda rank, size: [0, 0, 0, 0],
}


def layer_of_experts(dtype: torch.dtype = torch.float64) -> ExpertStack:
    """Four small experts with biases, the same ones at each call."""
    experts = {"n_experts": 4, "n_active": 2, "d_ff": 5}
    stack = ExpertStack(
        ModelConfig.from_dict(SIZES | MODERN | {"feed_forward_bias": True, "experts": experts}),
        1.0,
        torch.Generator().manual_seed(0),
    )
    generator = torch.Generator().manual_seed(1)
    for parameter in stack.parameters():
        torch.nn.init.normal_(parameter, std=0.3, generator=generator)
    return stack.to(dtype)


def rows_of(kind: str, rank: int, size: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """A process's rows, sorted by expert, and their counts."""
    counts = torch.tensor(EXTREMES[kind](rank, size))
    generator = torch.Generator().manual_seed(rank)
    rows = torch.randn(int(counts.sum()), SIZES["d_model"], dtype=dtype, generator=generator)
    return rows.requires_grad_(), counts


def extremes(folder: Path) -> None:
    """One divided layer, forwards and backwards: what each process got, in a file of its own."""
    size = int(os.environ["WORLD_SIZE"])
    processes = start(ParallelConfig(experts=size, timeout=60), torch.device("cpu"))
    found = {}
    with processes:
        for kind in EXTREMES:
            layer = layer_of_experts()
            DividedStack(layer, dist.group.WORLD)
            rows, counts = rows_of(kind, processes.rank, size, torch.float64)
            y = layer(rows, counts)
            (y.cos() * (1 + processes.rank)).sum().backward()
            parts = {"y": y, "rows": rows.grad} | {n: p.grad for n, p in layer.named_parameters()}
            found |= {f"{kind}/{name}": tensor.detach().clone() for name, tensor in parts.items()}
        layer = layer_of_experts(torch.float32)
        DividedStack(layer, dist.group.WORLD)
        rows, counts = rows_of("uneven", processes.rank, size, torch.float32)
        with torch.autocast("cpu", torch.bfloat16):
            found["bfloat16/y"] = layer(rows, counts)
        found["bfloat16/y"].float().sum().backward()
        found["bfloat16/y"] = found["bfloat16/y"].detach()
        found["bfloat16/rows"] = rows.grad
        total = processes.total(torch.tensor([processes.rank, 10]))
        found["total"] = total
    save_file(found, folder / f"extremes-{processes.rank}.safetensors")


def one_dies(folder: Path, how: str) -> None:
    """Rank 1 leaves in the third update, killed or by an error; the others must say so."""
    processes = start(ParallelConfig(timeout=60), torch.device("cpu"))
    with processes:
        state = begin("ddp", processes)
        run(state, 2)
        if processes.rank == 1:
            (folder / "left").write_text(str(time.time()))
            if how == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            raise FloatingPointError("the loss became nan")
        run(state)


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder, *names = sys.argv[1:]
    for name in names:
        if name in CASES:
            case_on_many(Path(folder), name)
        elif name == "extremes":
            extremes(Path(folder))
        elif name != "well":
            try:
                one_dies(Path(folder), name)
            except Exception as error:
                (Path(folder) / f"rank{os.environ['RANK']}.txt").write_text(
                    f"{type(error).__name__}: {error}"
                )
                raise
