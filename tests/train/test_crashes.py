"""kill -9, at random moments and at every operation on a file: nothing is lost, not one bit.

Run as a program, this file is the driver of those tests. It imports torch once and forks a process
for each life of a run; the lives are killed. Every life writes a fingerprint of the weights, the
optimiser, the random numbers and the data position after each of its updates, and all of them have
to be those of the run that was never stopped.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from llmcourse.data.batches import sliding_window
from llmcourse.data.resumable import Replayed
from llmcourse.errors import CheckpointError
from llmcourse.model import ModelConfig, Transformer
from llmcourse.train import TrainConfig, TrainState, checkpoint, training_steps
from llmcourse.train.checkpoints import Checkpoints, newest, steps

UPDATES, EVERY = 15, 3
KILLS = 20
CONFIG = TrainConfig(steps=UPDATES, warmup_steps=5, optimizer="muon", evaluate_every=8)
TEXT = torch.randint(0, 31, (500,), generator=torch.Generator().manual_seed(5))
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forked processes")


def begin(seed: int) -> TrainState:
    """The run as any process begins it; whatever the seed, a checkpoint decides what follows."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)
    config = ModelConfig(
        vocab_size=31, context_length=12, n_layers=2, n_heads=2, d_model=24, dropout=0.1
    )
    model = Transformer(config, torch.Generator().manual_seed(seed))
    batches = Replayed(
        lambda g: sliding_window(TEXT, 12, 3, g), torch.Generator().manual_seed(seed)
    )
    return TrainState(model, batches, CONFIG)


def fingerprint(state: TrainState) -> str:
    digest = hashlib.sha256(json.dumps([state.step, state.batches.state_dict()]).encode())
    for name, tensor in sorted({**state.model.state_dict(), **state.tensors()}.items()):
        digest.update(name.encode() + tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def live(folder: Path, log: Path, seed: int, until: int, fault: Fault | None) -> None:
    """One life of the run: resume if there is what to resume from, train, save, say so."""
    state = begin(0)  # the first life
    if (path := newest(folder)) is not None:
        state = begin(seed)
        checkpoint.load(path).restore(state)
    validation = torch.rand(UPDATES, generator=torch.Generator().manual_seed(1)).tolist()
    checkpoints = Checkpoints(folder, every=EVERY, keep_last=2)
    handle = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    updates = training_steps(
        state.model,
        state.batches,
        CONFIG,
        state=state,
        evaluate=lambda model: validation[state.step - 1],
    )
    with checkpoints.watch(state):
        for record in updates:
            os.write(handle, f"update {record.step} {fingerprint(state)}\n".encode())
            with fault.armed(record.step) if fault else contextlib.nullcontext():
                saved = checkpoints.consider(state.model, state, record)
            if saved:
                os.write(handle, f"saved {record.step}\n".encode())
            if record.step == until:
                break
    os.write(handle, b"end\n")


class Fault:
    """Kills the process just before the nth operation on a file while the step is being saved.

    A write is killed when half of it is done. With `nth` 0 nothing is killed, only counted.
    """

    OPERATIONS = ("mkdir", "fsync", "chmod", "replace", "unlink", "rmdir", "fdopen", "mkstemp")

    def __init__(self, step: int, nth: int, counted: Path | None = None) -> None:
        self.step, self.nth, self.counted = step, nth, counted
        self.seen: list[str] = []

    @contextlib.contextmanager
    def armed(self, step: int):
        if step != self.step:
            yield
            return
        for name in self.OPERATIONS:
            module = tempfile if name == "mkstemp" else os
            setattr(module, name, self.watched(name, getattr(module, name)))
        yield
        if self.counted:
            self.counted.write_text(json.dumps(self.seen))

    def watched(self, name: str, real: Callable) -> Callable:
        def operation(*arguments, **options):
            self.seen.append(name)
            if len(self.seen) != self.nth:
                return real(*arguments, **options)
            if name == "fdopen":
                return Half(real(*arguments, **options))
            os.kill(os.getpid(), signal.SIGKILL)

        return operation


class Half:
    """A file that takes half of what is written to it, and then the process is gone."""

    def __init__(self, handle) -> None:
        self.handle = handle

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        raise AssertionError("nothing was written")

    def write(self, data: bytes) -> None:
        self.handle.write(data[: len(data) // 2])
        self.handle.flush()
        os.kill(os.getpid(), signal.SIGKILL)


class Driver:
    """Begins lives, ends them, and looks at what they leave."""

    def __init__(self, work: Path, seed: int) -> None:
        self.work, self.random = work, random.Random(seed)
        self.log = work / "log"
        begin(0)  # what it imports on the way, the lives need not
        started = time.perf_counter()
        assert self.wait(self.fork(work / "whole")) == 0
        # Of a run that is left alone; a machine that was busy just then shall not cost minutes.
        self.seconds = min(time.perf_counter() - started, 1.5)
        self.expected = {}
        for line in self.log.read_text().splitlines():
            if line.startswith("update"):
                _, step, mark = line.split()
                self.expected[int(step)] = mark
        assert list(self.expected) == list(range(1, UPDATES + 1))
        assert len(set(self.expected.values())) == UPDATES
        self.new_report()
        self.log.unlink()

    def new_report(self) -> dict:
        self.report = {"kills": 0, "compared": 0, "in_a_save": 0, "finished": 0, "wrong": []}
        return self.report

    def fork(self, folder: Path, until: int = UPDATES, fault: Fault | None = None) -> int:
        seed = self.random.randrange(1, 1000)
        sys.stdout.flush()
        if child := os.fork():
            return child
        code = 1
        try:
            live(folder, self.log, seed, until, fault)
            code = 0
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(code)

    def wait(self, child: int) -> int:
        """The exit status; minus the signal's number if one ended it."""
        _, status = os.waitpid(child, 0)
        return os.waitstatus_to_exitcode(status)

    def look(self, folder: Path) -> None:
        """Compare what the last life said, and what it left, with the run that never stopped."""
        saved = 0
        for line in self.log.read_text().splitlines():
            word, *rest = line.split()
            if word == "update" and len(rest) == 2:  # killed in mid-line, it may be short
                self.report["compared"] += 1
                if self.expected[int(rest[0])] != rest[1]:
                    self.report["wrong"].append(f"update {rest[0]} differs")
            elif word == "saved":
                saved = int(rest[0])
        self.log.unlink()
        for path in steps(folder).values():  # what looks like a checkpoint is one
            try:
                checkpoint.verify(path)
            except CheckpointError as error:
                self.report["wrong"].append(str(error))
        path = newest(folder)
        step = int(path.name.removeprefix("step-")) if path else 0
        if step < saved:
            self.report["wrong"].append(f"the checkpoint of {saved} is lost; newest is {step}")
        if path:
            state = begin(77)
            checkpoint.load(path).restore(state)
            if fingerprint(state) != self.expected[step]:
                self.report["wrong"].append(f"the checkpoint of {step} differs")

    def litter(self, folder: Path) -> list[str]:
        """Files that belong to no checkpoint."""
        wanted = {"checkpoint.json", "weights", "training"}
        files = [path for path in folder.rglob("*") if path.is_file()]
        strange = [path for path in files if path.name.split("-")[0] not in wanted]
        broken = [path for path in folder.glob("step-*") if len(list(path.iterdir())) != 3]
        return [str(path) for path in strange + broken]

    def moments(self) -> dict:
        """Kill lives at random moments, until there were enough; every run is finished."""
        report = self.new_report()
        run = 0
        folder = self.work / f"run-{run}"
        while report["kills"] < KILLS or newest(folder):
            child = self.fork(folder)
            if report["kills"] < KILLS:
                time.sleep(self.random.uniform(0, 0.8 * self.seconds))
                os.kill(child, signal.SIGKILL)
            status = self.wait(child)
            if not self.log.exists():
                self.log.touch()
            self.look(folder)
            if status == -signal.SIGKILL:
                report["kills"] += 1
                report["in_a_save"] += bool(self.litter(folder))
            elif status == 0:
                report["finished"] += 1
                if left := self.litter(folder):
                    report["wrong"].append(f"litter: {left}")
                run += 1
                folder = self.work / f"run-{run}"
            else:
                raise SystemExit("a life ended by itself")
        return report

    def operations(self) -> dict:
        """Kill at every operation of the save after 9 updates, which also removes that after 6."""
        report = self.new_report()
        step = 3 * EVERY
        template = self.work / "template"
        assert self.wait(self.fork(template, until=2 * EVERY)) == 0
        counted = self.work / "operations"
        shutil.copytree(template, self.work / "count")
        fault = Fault(step, 0, counted)
        assert self.wait(self.fork(self.work / "count", until=step, fault=fault)) == 0
        operations = report["names"] = json.loads(counted.read_text())
        for nth in range(1, len(operations) + 1):
            folder = self.work / f"operation-{nth}"
            shutil.copytree(template, folder)
            self.log.unlink(missing_ok=True)
            child = self.fork(folder, fault=Fault(step, nth))
            status = self.wait(child)
            if status != -signal.SIGKILL:
                raise SystemExit(f"not killed at operation {nth}: {status}")
            report["kills"] += 1
            report["in_a_save"] += bool(self.litter(folder))
            self.look(folder)
            if self.wait(self.fork(folder, until=step + 1)) != 0:
                raise SystemExit(f"could not go on after operation {nth}")
            self.look(folder)
            if left := self.litter(folder):
                report["wrong"].append(f"litter after operation {nth}: {left}")
            report["finished"] += 1
        return report


@pytest.fixture(scope="module")
def reports(tmp_path_factory) -> dict[str, dict]:
    """What the driver saw, in a process of its own, where no thread was ever started."""
    done = subprocess.run(
        [sys.executable, __file__, str(tmp_path_factory.mktemp("crashes"))],
        env=os.environ
        | {"PYTHONPATH": str(Path(__file__).resolve().parents[2]), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@needs_fork
@pytest.mark.slow
def test_killed_at_twenty_random_moments(reports):
    report = reports["moments"]
    assert report["wrong"] == []
    assert report["kills"] == KILLS and report["finished"] >= 1
    assert report["compared"] >= UPDATES


@needs_fork
@pytest.mark.slow
def test_killed_at_every_operation_of_a_save(reports):
    report, operations = reports["operations"], reports["operations"]["names"]
    assert report["wrong"] == []
    assert report["kills"] == report["finished"] == len(operations)
    # Three files are written, then the oldest checkpoint is removed, its manifest first.
    for name, times in {"mkstemp": 3, "fdopen": 3, "replace": 3, "unlink": 3, "rmdir": 1}.items():
        assert operations.count(name) == times, name
    assert operations.count("fsync") >= 6
    assert operations.index("rmdir") > operations.index("unlink") > operations.index("replace")
    assert report["in_a_save"] >= 20, "the kills did not hit what they were meant for"
    assert report["compared"] > len(operations)


if __name__ == "__main__":
    torch.set_num_threads(1)
    driver = Driver(Path(sys.argv[1]), seed=0)
    print(json.dumps({"moments": driver.moments(), "operations": driver.operations()}))
