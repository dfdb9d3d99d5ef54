"""Runs that `test_parallel.py` makes on one process and, under torchrun, on several.

    python -m torch.distributed.run --nproc-per-node 2 parallel_worker.py FOLDER CASE CASE ...

writes FOLDER/CASE.json (what was seen) and FOLDER/CASE.safetensors (the weights, whole). FOLDER
holds, for some cases, what one process has saved: FOLDER/CASE-alone.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from llmcourse.data.batches import IGNORE_INDEX, Batch
from llmcourse.generate import Sampling, generate
from llmcourse.model import ModelConfig, Transformer
from llmcourse.train import TrainConfig, sharded_checkpoint, training_steps
from llmcourse.train.parallel import ParallelConfig, start
from llmcourse.train.processes import Processes
from llmcourse.train.state import TrainState

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
# name: (how the work is shared, the model, the training, the same on one process)
CASES: dict[str, tuple[dict, dict, dict, dict]] = {
    "ddp": ({}, {}, {"accumulate": 2}, {"accumulate": 1}),
    # Muon takes the matrices and AdamW the rest, so both optimisers are met.
    "fsdp": ({"data": "fsdp"}, {}, {"optimizer": "muon", "loss_chunk": 7, "accumulate": 2}, {}),
    "tensor": ({"tensor": 2}, {}, {"loss_chunk": 7}, {}),
    "tensor_modern": ({"tensor": 2}, MODERN, {"accumulate": 2, "recompute": True}, {}),
    "fsdp_tensor": ({"data": "fsdp", "tensor": 2}, MODERN, {"accumulate": 2}, {}),
    "ddp_tensor": ({"data": "ddp", "tensor": 2}, {}, {"accumulate": 2}, {}),
}


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
    config = ModelConfig(**SIZES | model)
    built = Transformer(config, torch.Generator().manual_seed(seed))
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


def weights(state: TrainState) -> dict[str, torch.Tensor]:
    whole = state.processes.whole(state.model).state_dict()
    return {name: tensor.detach().clone() for name, tensor in whole.items()}


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


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
            "same_end": equal(weights(again), final),
            "drawn": drawn(state),
        }
        if (folder / f"{case}-alone").is_dir():
            other = begin(case, processes, **CASES[case][3])
            sharded_checkpoint.load(folder / f"{case}-alone", other)
            at_alone = weights(other)
            report["other_seen"] = run(other)
            if processes.main:
                save_file(at_alone, folder / f"{case}-from-alone.safetensors")
        if processes.main:
            save_file(at_saved, folder / f"{case}-at-saved.safetensors")
            save_file(final, folder / f"{case}.safetensors")
            (folder / f"{case}.json").write_text(json.dumps(report))


def piece(parameter: torch.Tensor) -> torch.Tensor:
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
        elif name != "well":
            try:
                one_dies(Path(folder), name)
            except Exception as error:
                (Path(folder) / f"rank{os.environ['RANK']}.txt").write_text(
                    f"{type(error).__name__}: {error}"
                )
                raise
