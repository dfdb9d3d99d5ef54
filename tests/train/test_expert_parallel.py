"""A mixture of experts on several processes against one: every way to share its work.

As in `test_parallel.py`, all processes run in one `torchrun` session; `parallel_worker.py` is what
runs there, and here alone.
"""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from llmcourse.model import ModelConfig
from llmcourse.train import sharded_checkpoint
from llmcourse.train.expert_parallel import check_divisible_experts
from llmcourse.train.many_processes import ManyProcesses
from llmcourse.train.parallel import ParallelConfig, start
from llmcourse.train.processes import Processes
from llmcourse.train.tensor_parallel import check_divisible

CASES = ("sparse_ddp", "sparse_fsdp", "experts", "experts_crowded")
SAME_BATCH = ("sparse_ddp", "sparse_fsdp", "experts")  # of which order and size mean nothing
worker = runpy.run_path(str(Path(__file__).with_name("parallel_worker.py")))
EXACT = {"loss": 1e-12, "weight": 1e-11}  # in float64
ROUNDING = {"rtol": 1e-12, "atol": 1e-11}  # likewise


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("experts")


@pytest.fixture(scope="module")
def two(folder) -> dict[str, dict[str, Any]]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    both = worker["run_both"](folder, CASES, 2, end="extremes")
    torch.set_num_threads(threads)
    return both


@pytest.mark.parametrize("case", CASES)
def test_the_trajectory_is_that_of_one_process(two, case):
    """Of one with the same global batch; where a token's fate hangs on its batch, of one that has
    each process's rows as a batch of its own."""
    worker["same_run"](two[case], **(EXACT if case in worker["DOUBLE"] else {"weight": 1e-5}))


def test_who_holds_how_much(two):
    for case in ("experts", "experts_crowded"):
        whole = two[case]["alone"]["final"]
        experts = sum(t.numel() for name, t in whole.items() if ".experts." in name)
        everything = sum(t.numel() for t in whole.values())
        assert two[case]["many"]["local"] == everything - experts // 2
    sharded, whole = two["sparse_fsdp"]["many"]["local"], two["sparse_fsdp"]["alone"]["final"]
    assert sharded < 0.51 * sum(t.numel() for t in whole.values())


@pytest.mark.parametrize("case", CASES)
def test_saved_by_two_and_loaded_by_one(two, folder, case):
    state = worker["begin"](case, **worker["CASES"][case][2])
    sharded_checkpoint.load(folder / f"{case}-many", state)
    assert worker["equal"](worker["weights"](state), two[case]["many"]["at_saved"])
    if state.config.accumulate == 1 and case in SAME_BATCH:
        losses = [seen[0] for seen in worker["run"](state)]
        expected = [seen[0] for seen in two[case]["alone"]["seen"][worker["SAVED"] :]]
        assert losses == pytest.approx(expected, abs=3e-6)
    if case not in worker["DOUBLE"]:  # such a model is read as float32
        model = sharded_checkpoint.load_model(folder / f"{case}-many")
        assert worker["equal"](dict(model.state_dict()), two[case]["many"]["at_saved"])


@pytest.mark.parametrize("case", CASES)
def test_saved_by_one_and_loaded_by_two(two, case):
    assert worker["equal"](two[case]["many"]["from_alone"], two[case]["alone"]["at_saved"])
    if case in SAME_BATCH:
        losses = [seen[0] for seen in two[case]["many"]["other_seen"]]
        expected = [seen[0] for seen in two[case]["alone"]["seen"][worker["SAVED"] :]]
        assert losses == pytest.approx(expected, abs=3e-6)


@pytest.mark.parametrize("case", CASES)
def test_two_that_resume_end_with_the_same_bits(two, case):
    assert two[case]["many"]["same_back"]
    assert two[case]["many"]["end_apart"] == 0.0


@pytest.mark.parametrize("case", CASES)
def test_pieces_are_evaluated_and_decoded_like_the_whole_model(two, case):
    difference, same_text = two[case]["many"]["drawn"]
    assert difference < 1e-6
    assert same_text


def check_extremes(folder: Path, size: int) -> None:
    """Each expert by itself, over the rows of all processes, is the oracle."""
    found = [load_file(folder / f"extremes-{rank}.safetensors") for rank in range(size)]
    for kind in worker["EXTREMES"]:
        layer = worker["layer_of_experts"]()
        for rank in range(size):
            rows, counts = worker["rows_of"](kind, rank, size, torch.float64)
            parts = rows.split(counts.tolist())
            y = torch.cat([layer.one(e, part) for e, part in enumerate(parts)])
            (y.cos() * (1 + rank)).sum().backward()
            for name, tensor in (("y", y), ("rows", rows.grad)):
                torch.testing.assert_close(found[rank][f"{kind}/{name}"], tensor, **ROUNDING)
        for name, parameter in layer.named_parameters():
            pieces = torch.cat([each[f"{kind}/{name}"] for each in found])
            torch.testing.assert_close(pieces, parameter.grad, **ROUNDING)
    for rank in range(size):
        layer = worker["layer_of_experts"](torch.float32)
        rows, counts = worker["rows_of"]("uneven", rank, size, torch.float32)
        with torch.autocast("cpu", torch.bfloat16):
            y = layer(rows, counts)
        y.float().sum().backward()
        assert found[rank]["bfloat16/y"].dtype == y.dtype == torch.bfloat16
        for name, tensor in (("y", y), ("rows", rows.grad)):
            torch.testing.assert_close(found[rank][f"bfloat16/{name}"], tensor, rtol=0.02, atol=0.1)
        assert found[rank]["total"].tolist() == [size * (size - 1) // 2, 10 * size]


def test_uneven_and_empty_exchanges(two, folder):
    check_extremes(folder, 2)


@pytest.mark.slow
def test_four_processes_with_two_copies_of_each_expert_and_with_one(tmp_path):
    both = worker["run_both"](tmp_path, ("experts_replicas", "experts_four"), 4, end="extremes")
    worker["same_run"](both["experts_replicas"])
    worker["same_run"](both["experts_four"], **EXACT)
    for case in both:
        many, alone = both[case]["many"], both[case]["alone"]
        # Of four summands the order counts, and torch arranges gradients anew after a first update.
        assert many["same_back"] and many["end_apart"] < 2e-5
        assert worker["equal"](many["from_alone"], alone["at_saved"])
        assert many["drawn"][0] < 1e-6 and many["drawn"][1]
    check_extremes(tmp_path, 4)


# One process is enough for the rest -----------------------------------------------------------


def config(**changes: Any) -> ModelConfig:
    experts = {"n_experts": 6, "n_active": 2} | changes
    return ModelConfig.from_dict(worker["SIZES"] | {"experts": experts})


def test_experts_that_cannot_be_divided_are_refused():
    check_divisible_experts(config(), 3)
    with pytest.raises(ValueError, match="n_experts=6 cannot be divided among experts=4"):
        check_divisible_experts(config(), 4)
    with pytest.raises(ValueError, match="dispatch='loop'"):
        check_divisible_experts(config(dispatch="loop"), 2)
    dense = ModelConfig(**worker["SIZES"])
    for without in (dense, None):
        with pytest.raises(ValueError, match=r"experts=2 .* this one is dense"):
            check_divisible_experts(without, 2)


def test_a_dense_model_is_refused_before_anything_is_exchanged():
    many = object.__new__(ManyProcesses)
    many.tensor_size, many.experts_size = 1, 2
    with pytest.raises(ValueError, match="this one is dense"):
        many.wrap(torch.nn.Linear(2, 2))


def test_tensor_parallel_refuses_experts():
    with pytest.raises(ValueError, match="experts of a sparse model are not cut by tensor"):
        check_divisible(config(), 2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"experts": 0}, "experts=0 must be at least 1"),
        ({"experts": 2, "data": "fsdp"}, "experts=2 does not go together with data='fsdp'"),
        ({"experts": 2, "tensor": 2}, "tensor=2: choose data='ddp' and tensor=1, or experts=1"),
    ],
)
def test_impossible_choices_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        ParallelConfig(**changes)


def test_a_number_of_processes_that_does_not_fit_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(ValueError, match=r"experts=2 needs .* there are 3; .* --nproc-per-node 2"):
        start(ParallelConfig(experts=2), torch.device("cpu"))


def test_the_total_of_one_process_is_its_own():
    load = torch.tensor([3, 0, 1])
    assert Processes(torch.device("cpu")).total(load) is load
