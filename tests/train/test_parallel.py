"""Several processes against one: the same losses, norms and weights, saved by one and read by many.

Everything that needs processes happens in one `torchrun` session, since each takes seconds to
start; what it saw is in files. `parallel_worker.py` is what runs there, and here alone.
"""

from __future__ import annotations

import json
import os
import pickle
import runpy
import shutil
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from llmcourse.errors import CheckpointError, LostContact
from llmcourse.model import ModelConfig, Transformer
from llmcourse.train import TrainConfig, sharded_checkpoint
from llmcourse.train.many_processes import ManyProcesses
from llmcourse.train.parallel import ParallelConfig, start
from llmcourse.train.processes import Processes
from llmcourse.train.tensor_parallel import Cut, check_divisible, local_config, plan_of
from llmcourse.train.watch import Watch, describe, is_contact_error

WORKER = Path(__file__).with_name("parallel_worker.py")
CASES = ("ddp", "fsdp", "tensor", "tensor_modern")
worker = runpy.run_path(str(WORKER))
torchrun, run_both, same_run = (worker[name] for name in ("torchrun", "run_both", "same_run"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("processes")


@pytest.fixture(scope="module")
def two(folder) -> dict[str, dict[str, Any]]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    both = run_both(folder, CASES, 2, end="killed")
    torch.set_num_threads(threads)
    return both


@pytest.mark.parametrize("case", CASES)
def test_the_trajectory_is_that_of_one_process(two, case):
    same_run(two[case])


@pytest.mark.parametrize("case", CASES)
def test_saved_by_two_and_loaded_by_one(two, folder, case):
    # The config is part of a run, so the one that goes on has the many's.
    state = worker["begin"](case, **worker["CASES"][case][2])
    sharded_checkpoint.load(folder / f"{case}-many", state)
    assert worker["equal"](worker["weights"](state), two[case]["many"]["at_saved"])
    assert (state.step, state.batches.number) == (worker["SAVED"], worker["SAVED"] * parts(state))
    model = sharded_checkpoint.load_model(folder / f"{case}-many")
    assert worker["equal"](dict(model.state_dict()), two[case]["many"]["at_saved"])
    if parts(state) == 1:  # else its batches would be cut in another way
        losses = [seen[0] for seen in worker["run"](state)]
        expected = [seen[0] for seen in two[case]["alone"]["seen"][worker["SAVED"] :]]
        assert losses == pytest.approx(expected, abs=3e-6)


def parts(state) -> int:
    return state.config.accumulate


@pytest.mark.parametrize("case", CASES)
def test_saved_by_one_and_loaded_by_two(two, case):
    assert worker["equal"](two[case]["many"]["from_alone"], two[case]["alone"]["at_saved"])
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


def test_who_holds_how_much(two):
    whole = sum(t.numel() for t in two["ddp"]["alone"]["final"].values())
    assert two["ddp"]["many"]["local"] == whole
    assert whole / 2 <= two["fsdp"]["many"]["local"] <= whole / 2 + 8 * 24  # rows are not cut
    state = worker["begin"]("tensor")
    cut = sum(
        p.numel()
        for name, p in state.model.named_parameters()
        if name.endswith(("qkv.weight", "qkv.bias", "up.weight", "up.bias"))
        or name.endswith(("out.weight", "down.weight"))
    )
    assert two["tensor"]["many"]["local"] == whole - cut // 2


@pytest.mark.slow
def test_four_processes_in_a_grid(tmp_path):
    both = run_both(tmp_path, ("fsdp_tensor", "ddp_tensor"), 4)
    for case in both:
        same_run(both[case])
        many, alone = both[case]["many"], both[case]["alone"]
        assert many["same_back"] and many["end_apart"] == 0.0
        assert worker["equal"](many["from_alone"], alone["at_saved"])
        assert many["drawn"][0] < 1e-6 and many["drawn"][1]


def test_a_killed_process_is_named_by_the_other(two, folder):
    said = (folder / "rank0.txt").read_text()
    assert said.startswith("LostContact: rank 0 lost contact with rank 1 (no sign of life")
    assert "memory ran out" in said and "checkpoint" in said
    assert said.removeprefix("LostContact: ") in (folder / "stderr").read_text()
    waited = (folder / "rank0.txt").stat().st_mtime - float((folder / "left").read_text())
    assert waited < 20  # seconds; the time limit is 60


@pytest.mark.slow
def test_an_error_of_one_process_is_told_to_the_other(tmp_path):
    done = torchrun(2, str(tmp_path), "raises")
    assert done.returncode != 0
    said = (tmp_path / "rank0.txt").read_text()
    assert said == (
        "LostContact: rank 0 cannot go on alone: rank 1 ended with FloatingPointError: the loss "
        "became nan"
    )


# One process is enough for the rest -----------------------------------------------------------


@pytest.fixture
def store() -> dist.Store:
    return dist.TCPStore("127.0.0.1", 0, 1, is_master=True, timeout=timedelta(seconds=10))


def test_a_watch_tells_the_living_from_the_dead(store):
    watches = [Watch(store, rank, 3) for rank in range(3)]
    time.sleep(0.6)
    assert watches[0].lost() == {}
    watches[1].ended("ValueError: the batches ran out")
    assert watches[0].lost() == {1: "ValueError: the batches ran out"}
    watches[2]._stop.set()  # as if killed: it says nothing
    watches[2]._thread.join()
    lost = watches[0].lost(patience=1.0)
    assert lost == {1: "ValueError: the batches ran out", 2: "no sign of life for 1 s"}
    for watch in watches:
        watch.ended("")


def test_the_message_names_who_is_to_blame():
    boom = "FloatingPointError: the loss became nan"
    text = describe(0, {1: "LostContact: rank 1 cannot go on", 2: boom}, None, 300)
    assert text == f"rank 0 cannot go on alone: rank 2 ended with {boom}"
    assert "rank 3 (no sign of life for 3 s)" in describe(
        0, {3: "no sign of life for 3 s"}, None, 300
    )
    assert "rank 1 (it finished before the others)" in describe(0, {1: ""}, None, 300)
    nobody = describe(2, {}, RuntimeError("Timed out waiting 5000ms\nmore"), 5.0)
    assert "parallel.timeout=5 s" in nobody and "Timed out waiting 5000ms" in nobody


def test_only_errors_about_contact_are_taken_for_such():
    gloo = "[third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer"
    assert is_contact_error(RuntimeError(gloo))
    assert is_contact_error(dist.DistBackendError("NCCL communicator was aborted"))
    assert not is_contact_error(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_contact_error(ValueError("connection closed by peer"))


@pytest.mark.parametrize("dim", [0, 1])
@pytest.mark.parametrize("blocks", [(6,), (4, 4), (8, 4, 4)])
def test_a_cut_takes_a_part_of_every_block(dim, blocks):
    shape = [3, 3]
    shape[dim] = sum(blocks)
    whole = torch.randn(shape)
    pieces = [Cut(dim, blocks).piece(whole, rank, 2) for rank in range(2)]
    # By hand: walk along the dimension and hand out each block's halves.
    for rank in range(2):
        wanted, before = [], 0
        for block in blocks:
            half = block // 2
            wanted += range(before + rank * half, before + (rank + 1) * half)
            before += block
        assert torch.equal(pieces[rank], whole.index_select(dim, torch.tensor(wanted)))
    assert torch.equal(Cut(dim, blocks).join(pieces), whole)


def config(**changes: Any) -> ModelConfig:
    return ModelConfig(**worker["SIZES"] | changes)


def test_the_plan_meets_every_matrix_of_the_blocks():
    for changes in ({}, worker["MODERN"]):
        model = Transformer(config(**changes))
        planned = {
            f"{path}.{name}" for path, style in plan_of(model.config).items() for name in style.cuts
        }
        matrices = {
            name
            for name, p in model.named_parameters()
            if name.startswith("blocks.") and p.ndim == 2
        }
        assert matrices and matrices <= planned
    part = local_config(config(**worker["MODERN"]), 2)
    assert (part.n_heads, part.n_kv_heads, part.d_head) == (2, 1, 6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_heads": 3, "d_model": 24}, "n_heads=3"),
        ({"n_kv_heads": 1}, "n_kv_heads=1"),
        ({"d_ff": 33}, "d_ff=33"),
        ({"qk_norm": "width"}, "qk_norm='width'"),
        ({"latent": {"d_latent": 8, "d_nope": 4, "d_rope": 2, "d_value": 4}}, "latent attention"),
    ],
)
def test_a_model_that_cannot_be_cut_is_refused(changes, message):
    values = worker["SIZES"] | {"positions": "rope"} | changes
    with pytest.raises(ValueError, match=message):
        check_divisible(ModelConfig.from_dict(values), 2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": "zero"}, "data='zero' is unknown"),
        ({"tensor": 0}, "tensor=0"),
        ({"timeout": 0.0}, "timeout=0"),
        ({"timeout": float("inf")}, "timeout=inf"),
    ],
)
def test_impossible_choices_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        ParallelConfig(**changes)


def test_one_process_alone_needs_no_torchrun(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with start(ParallelConfig(data="fsdp"), torch.device("cpu")) as processes:
        assert type(processes) is Processes
        assert (processes.main, processes.sum(2.5), processes.any(False)) == (True, 2.5, False)
    with pytest.raises(ValueError, match="torchrun --nproc-per-node 4"):
        start(ParallelConfig(tensor=4), torch.device("cpu"))
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="device cpu or cuda, got mps"):
        start(ParallelConfig(), torch.device("mps"))


def test_others_that_never_come_are_a_clear_error(monkeypatch):
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "1")  # nobody listens there
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(LostContact, match=r"within parallel.timeout=1 s"):
        start(ParallelConfig(timeout=1.0), torch.device("cpu"))


def test_muon_on_cut_matrices_is_refused():
    many = object.__new__(ManyProcesses)
    many.tensor_size = 2
    with pytest.raises(ValueError, match="optimizer='muon'"):
        many.check(TrainConfig(steps=2, warmup_steps=0, optimizer="muon"))
    many.check(TrainConfig(steps=2, warmup_steps=0))


# Sharded checkpoints --------------------------------------------------------------------------


@pytest.fixture
def saved(tmp_path) -> Path:
    state = worker["begin"]("tensor")
    worker["run"](state, 2)
    return sharded_checkpoint.save(tmp_path / "run", state, notes={"corpus": "none"})


def test_one_process_goes_on_with_the_same_bits(saved):
    state = worker["begin"]("tensor")
    worker["run"](state)
    again = worker["begin"]("tensor")
    assert sharded_checkpoint.read_notes(saved) == {"corpus": "none"}
    assert sharded_checkpoint.load(saved, again) == {"corpus": "none"}
    worker["run"](again)
    assert worker["equal"](worker["weights"](again), worker["weights"](state))


def test_a_new_save_replaces_the_old_one(saved):
    state = worker["begin"]("tensor")
    sharded_checkpoint.load(saved, state)
    sharded_checkpoint.save(saved, state)  # of the same step, beside the one that is read
    worker["run"](state, 3)
    sharded_checkpoint.save(saved, state)
    assert [f.name for f in sorted(saved.iterdir())] == ["sharded.json", "shards-00000003-0"]
    assert worker["equal"](
        dict(sharded_checkpoint.load_model(saved).state_dict()), worker["weights"](state)
    )


def test_a_full_disk_leaves_the_old_one(saved, monkeypatch):
    before = worker["begin"]("tensor")
    sharded_checkpoint.load(saved, before)
    weights = worker["weights"](before)
    worker["run"](before, 3)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("llmcourse.train.sharded_checkpoint.atomic_write", full)
    with pytest.raises(CheckpointError, match="No space left on device"):
        sharded_checkpoint.save(saved, before)
    monkeypatch.undo()
    again = worker["begin"]("tensor")
    sharded_checkpoint.load(saved, again)
    assert again.step == 2 and worker["equal"](worker["weights"](again), weights)
    assert len(list(saved.iterdir())) == 2


def files_of(folder: Path) -> list[Path]:
    return sorted(folder.glob("shards-*/*.safetensors"))


def refuse(folder: Path, message: str, case: str = "tensor", **changes: Any) -> None:
    state = worker["begin"](case, **changes)
    before = worker["weights"](state)
    with pytest.raises(CheckpointError, match=message):
        sharded_checkpoint.load(folder, state)
    assert state.step == 0 and worker["equal"](worker["weights"](state), before)


def test_damage_is_found_and_named(saved, tmp_path):
    (file,) = files_of(saved)
    data = bytearray(file.read_bytes())
    data[-100] ^= 1
    file.write_bytes(data)
    refuse(saved, f"{file.name} is damaged")
    file.write_bytes(data[:-1])
    refuse(saved, f"{file.name} is damaged")
    file.unlink()
    refuse(saved, f"{file.name} is missing")
    refuse(tmp_path / "nothing", "there is no sharded checkpoint")


def test_a_stranger_among_the_files_is_refused(saved):
    (file,) = files_of(saved)
    shutil.copy(file, file.with_name("shard-00002-model-00001-of-00001.safetensors"))
    refuse(saved, "does not belong to this checkpoint")


@pytest.mark.parametrize("name", ["../elsewhere", "/etc", ""])
def test_nothing_outside_the_folder_is_read(saved, name):
    manifest = saved / "sharded.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"folder": name}))
    refuse(saved, "is no file name")


def test_another_run_is_refused_and_nothing_changes(saved):
    refuse(saved, "another model", case="tensor_modern")
    refuse(saved, "learning_rate", learning_rate=1e-3)
    refuse(saved, "training.optimizer", optimizer="sgd")


class Trap:
    def __reduce__(self):
        return (os.mkdir, (os.environ["TRAP"],))


def test_nothing_is_unpickled_from_a_file(saved, tmp_path, monkeypatch):
    """torch's own table of contents would be opened by pickle; ours is not even looked at."""
    monkeypatch.setenv("TRAP", str(tmp_path / "sprung"))
    trap = pickle.dumps(Trap())
    for folder in (saved, files_of(saved)[0].parent):
        (folder / ".metadata").write_bytes(trap)
    refuse(saved, "does not belong")
    (files_of(saved)[0].parent / ".metadata").unlink()
    monkeypatch.setattr("pickle.load", lambda *_: pytest.fail("unpickled a file"))
    monkeypatch.setattr("torch.load", lambda *_: pytest.fail("torch.load"))
    sharded_checkpoint.load(saved, worker["begin"]("tensor"))
    assert not (tmp_path / "sprung").exists()
    with pytest.raises(FileNotFoundError):
        pickle.loads(trap.replace(b"sprung", b"no/pe."))  # the trap works
