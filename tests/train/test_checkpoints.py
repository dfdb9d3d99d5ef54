"""Which checkpoints a run keeps, how it ends on a signal, and where it goes on."""

from __future__ import annotations

import dataclasses
import errno
import itertools
import math
import os
import random
import signal
import threading
from pathlib import Path

import pytest
import torch

from llmcourse import files
from llmcourse.data.batches import sliding_window
from llmcourse.data.resumable import Replayed
from llmcourse.errors import CheckpointError
from llmcourse.tokenizers import ByteTokenizer
from llmcourse.train import (
    History,
    TrainConfig,
    TrainState,
    checkpoint,
    next_token_loss,
    train,
    training_steps,
)
from llmcourse.train.checkpoints import Checkpoints, best, newest, refuse_changed_run, steps
from llmcourse.train.processes import Processes

TEXT = torch.randint(0, 31, (300,), generator=torch.Generator().manual_seed(5))
PLAN = TrainConfig(steps=12, warmup_steps=2)
HANDLED = (signal.SIGTERM, signal.SIGINT)


@pytest.fixture
def begin(make_model):
    def make(config: TrainConfig = PLAN, seed: int = 0, **options) -> TrainState:
        generator = torch.Generator().manual_seed(seed)
        batches = Replayed(lambda g: sliding_window(TEXT, 12, 2, g), generator)
        return TrainState(make_model(seed=seed, dropout=0.1), batches, config, **options)

    return make


def go(state: TrainState, checkpoints: Checkpoints | None, **options) -> History:
    return train(
        state.model,
        state.batches,
        state.config,
        state=state,
        checkpoints=checkpoints,
        progress=False,
        **options,
    )


def go_on(state: TrainState, path: Path) -> History:
    saved = checkpoint.load(path)
    saved.restore(state)
    return saved.history


def same_weights(first: TrainState, second: TrainState) -> bool:
    found = second.model.state_dict()
    return all(torch.equal(t, found[n]) for n, t in first.model.state_dict().items())


def damage(folder: Path, kind: str = "weights-*") -> Path:
    [path] = folder.glob(kind)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)
    return path


class TestWhatIsKept:
    @pytest.mark.parametrize(("every", "keep_last"), [(1, 1), (2, 2), (5, 3), (12, 1), (0, 1)])
    def test_the_newest_few(self, tmp_path, begin, every, keep_last):
        checkpoints = Checkpoints(tmp_path / "run", every=every, keep_last=keep_last)
        state = begin()
        saved = []
        for record in training_steps(state.model, state.batches, PLAN, state=state):
            path = checkpoints.consider(state.model, state, record)
            due = bool(every) and record.step % every == 0
            assert (path is not None) == due
            saved += [record.step] if due else []
            assert list(steps(tmp_path / "run")) == saved[-keep_last:]
        if every == 0:
            assert newest(tmp_path / "run") is None and not (tmp_path / "run").exists()
        else:
            last = newest(tmp_path / "run")
            assert last == path or record.step % every
            assert last.name == f"step-{saved[-1]:08d}"
            assert checkpoint.load(last).training.step == saved[-1]
        assert best(tmp_path / "run") is None

    def test_the_best_by_validation_loss(self, tmp_path, begin):
        """Against a plain account of what should be there, for many courses of the loss."""
        state = begin(dataclasses.replace(PLAN, steps=10))
        records = list(training_steps(state.model, state.batches, state.config, state=state))
        draw = random.Random(0)
        for trial in range(8):
            every, keep_last = draw.choice([(0, 1), (2, 1), (3, 2)])
            folder = tmp_path / str(trial)
            saved, lowest, at = set(), math.inf, None
            for record in records:
                loss = draw.choice([None, None, math.nan, 1.0, 2.0, 3.0, draw.random() * 4])
                record = dataclasses.replace(record, validation_loss=loss)
                # Each time a new object: what is best must be read from the folder.
                checkpoints = Checkpoints(folder, every=every, keep_last=keep_last)
                checkpoints.consider(state.model, state, record)
                if loss is not None and loss < lowest:
                    lowest, at = loss, record.step
                    saved.add(record.step)
                if every and record.step % every == 0:
                    saved.add(record.step)
                kept = set(sorted(saved)[-keep_last:]) | ({at} if at else set())
                assert set(steps(folder)) == kept, (trial, record.step)
                saved = kept
                assert best(folder) == (folder / f"step-{at:08d}" if at else None)

    def test_without_the_best(self, tmp_path, begin):
        state = begin()
        checkpoints = Checkpoints(tmp_path, every=4, keep_last=1, keep_best=False)
        config = dataclasses.replace(PLAN, evaluate_every=1)
        state = begin(config)
        go(state, checkpoints, evaluate=lambda model: float(state.step))
        assert list(steps(tmp_path)) == [12]

    def test_what_is_in_them(self, tmp_path, begin):
        tokenizer = ByteTokenizer()
        checkpoints = Checkpoints(
            tmp_path, every=5, tokenizer=tokenizer, notes={"run": {"seed": 3}}
        )
        state = begin(dataclasses.replace(PLAN, evaluate_every=5))
        history = go(state, checkpoints, evaluate=lambda model: 2.5)
        assert list(steps(tmp_path)) == [5, 10]
        loaded = checkpoint.load(newest(tmp_path))
        assert loaded.tokenizer == tokenizer
        assert loaded.history.records == history.records[:10]
        assert loaded.notes == {
            "run": {"seed": 3},
            "checkpoint": {"step": 10, "validation_loss": 2.5},
        }
        assert best(tmp_path).name == "step-00000005", "the first of equals"

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"every": -1}, "every=-1 must be 0 or more updates"),
            ({"every": 1.5}, "every=1.5 must be"),
            ({"keep_last": 0}, "keep_last=0 must be at least 1 checkpoint"),
            ({"keep_last": "all"}, "keep_last='all' must be"),
        ],
    )
    def test_numbers_out_of_range(self, tmp_path, options, message):
        with pytest.raises(ValueError, match=message):
            Checkpoints(tmp_path, **options)


class TestGoingOn:
    def test_a_run_in_pieces_is_the_run(self, tmp_path, begin):
        whole = begin()
        records = go(whole, None).records
        for n_pieces in (2, 4):
            folder = tmp_path / str(n_pieces)
            history = None
            for piece in range(n_pieces):
                state = begin(seed=piece)  # the first decides
                path = newest(folder)
                assert (path is None) == (piece == 0)
                history = go_on(state, path) if path else None
                checkpoints = Checkpoints(folder, every=1)
                stop = (piece + 1) * PLAN.steps // n_pieces

                def loss(model, batch, stop=stop, state=state):
                    if state.step + 1 == stop:
                        signal.raise_signal(signal.SIGTERM)
                    return next_token_loss(model, batch)

                state.objective.loss = loss
                history = go(state, checkpoints, history=history)
            assert state.step == PLAN.steps and same_weights(whole, state)
            assert [dataclasses.replace(r, seconds=0) for r in history.records] == [
                dataclasses.replace(r, seconds=0) for r in records
            ]

    def test_a_damaged_newest_is_named_and_so_is_what_is_whole(self, tmp_path, begin):
        go(begin(), Checkpoints(tmp_path, every=4, keep_last=3))
        assert list(steps(tmp_path)) == [4, 8, 12]
        for kind in ("weights-*", "training-*", "checkpoint.json"):
            path = damage(tmp_path / "step-00000012", kind)
            with pytest.raises(CheckpointError) as refused:
                newest(tmp_path)
            assert str(path) in str(refused.value) and "damaged" in str(refused.value)
            whole, bad = tmp_path / "step-00000008", tmp_path / "step-00000012"
            assert str(refused.value).endswith(
                f"{whole} is whole: delete {bad} to go on from there"
            )
            damage(tmp_path / "step-00000012", kind)  # and back again
        assert newest(tmp_path).name == "step-00000012"
        damage(tmp_path / "step-00000012")
        damage(tmp_path / "step-00000008", "training-*")
        with pytest.raises(
            CheckpointError, match=r"step-00000004 is whole: delete .*step-00000012"
        ):
            newest(tmp_path)
        damage(tmp_path / "step-00000004")
        with pytest.raises(CheckpointError, match=r"damaged.*; no older one is whole"):
            newest(tmp_path)

    def test_a_missing_file(self, tmp_path, begin):
        go(begin(), Checkpoints(tmp_path, every=6))
        [path] = (tmp_path / "step-00000012").glob("training-*")
        path.unlink()
        with pytest.raises(
            CheckpointError, match=rf"{path.name} is missing.*step-00000006 is whole"
        ):
            newest(tmp_path)

    def test_going_on_from_an_older_one(self, tmp_path, begin):
        """As the message advises; and the run ends where it would have ended."""
        whole = begin()
        go(whole, Checkpoints(tmp_path, every=4, keep_last=3))
        damage(tmp_path / "step-00000012")
        for path in (tmp_path / "step-00000012").iterdir():
            path.unlink()
        (tmp_path / "step-00000012").rmdir()
        state = begin(seed=4)
        go_on(state, newest(tmp_path))
        assert state.step == 8
        go(state, Checkpoints(tmp_path, every=4, keep_last=3))
        assert same_weights(whole, state) and list(steps(tmp_path)) == [4, 8, 12]

    def test_a_damaged_old_one_does_not_stop_the_run(self, tmp_path, begin):
        config = dataclasses.replace(PLAN, evaluate_every=4)
        state = begin(config)
        updates = training_steps(
            state.model, state.batches, config, state=state, evaluate=lambda model: 9.0
        )
        checkpoints = Checkpoints(tmp_path, every=4, keep_last=2)
        for record in itertools.islice(updates, 8):
            checkpoints.consider(state.model, state, record)
        path = damage(tmp_path / "step-00000004", "checkpoint.json")
        with pytest.raises(CheckpointError, match=rf"{path} is damaged"):
            best(tmp_path)  # it may well have been that one
        for record in updates:
            checkpoints.consider(state.model, state, record)
        assert list(steps(tmp_path)) == [8, 12] and best(tmp_path).name == "step-00000008"

    def test_a_damaged_best(self, tmp_path, begin):
        config = dataclasses.replace(PLAN, evaluate_every=4)
        state = begin(config)
        losses = iter([3.0, 1.0, 2.0])
        go(state, Checkpoints(tmp_path, keep_last=1), evaluate=lambda model: next(losses))
        assert list(steps(tmp_path)) == [8]
        path = damage(tmp_path / "step-00000008")
        with pytest.raises(CheckpointError, match=rf"{path.name} is damaged"):
            best(tmp_path)

    def test_nothing_to_go_on_from(self, tmp_path):
        (tmp_path / "file").write_text("x")
        (tmp_path / "step-0000001").mkdir()  # seven digits: not ours
        (tmp_path / "step-00000002").mkdir()  # a crash before anything was written
        (tmp_path / "step-000000003").mkdir()
        for folder in (tmp_path, tmp_path / "nowhere", tmp_path / "file"):
            assert newest(folder) is None and best(folder) is None and steps(folder) == {}


class TestWhatCrashesLeave:
    def test_it_is_cleared_and_other_files_are_not(self, tmp_path, begin):
        go(begin(dataclasses.replace(PLAN, steps=4)), Checkpoints(tmp_path, every=4))
        stale = tmp_path / "step-00000003"
        stale.mkdir()
        (stale / "weights-0123456789abcdef.safetensors").write_bytes(b"half")
        (stale / ".training-0123456789abcdef.safetensors.x1.tmp").write_bytes(b"half")
        mixed = tmp_path / "step-00000002"
        mixed.mkdir()
        (mixed / ".checkpoint.json.abc.tmp").write_bytes(b"{")
        (mixed / "diary.txt").write_text("mine")
        (tmp_path / "notes.txt").write_text("mine")
        (tmp_path / "step-9").mkdir()
        assert list(steps(tmp_path)) == [4]
        state = begin(dataclasses.replace(PLAN, steps=4))
        go_on(state, newest(tmp_path))
        go(state, Checkpoints(tmp_path, every=4))  # nothing is left to do, and yet it is cleared
        assert not stale.exists()
        assert os.listdir(mixed) == ["diary.txt"]
        assert {"notes.txt", "step-9"} <= set(os.listdir(tmp_path))
        assert list(steps(tmp_path)) == [4]

    @pytest.mark.parametrize("step", ["mkstemp", "fsync", "replace"])
    @pytest.mark.parametrize("nth", [1, 3])
    def test_a_full_disk(self, tmp_path, begin, monkeypatch, step, nth):
        """The run ends with a plain error, and goes on from the last one when there is room."""
        whole = begin()
        go(whole, None)
        state = begin()
        checkpoints = Checkpoints(tmp_path, every=4)
        module = files.tempfile if step == "mkstemp" else files.os
        real, calls = getattr(module, step), []

        def full(*arguments, **options):
            if state.step == 8:
                calls.append(step)
            if len(calls) == nth:
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(*arguments, **options)

        with monkeypatch.context() as broken:
            broken.setattr(module, step, full)
            message = r"No space left on device: .*step-00000008 was not saved"
            with pytest.raises(OSError, match=message) as refused:
                go(state, checkpoints)
        assert refused.value.errno == errno.ENOSPC
        assert os.listdir(tmp_path) == ["step-00000004"], "what was half written takes no room"
        state = begin(seed=5)
        go_on(state, newest(tmp_path))
        go(state, Checkpoints(tmp_path, every=4))
        assert same_weights(whole, state)


class TestAnotherRunsFolder:
    def test_a_new_run_does_not_mix_with_an_old_one(self, tmp_path, begin):
        """It would remove its own as the oldest, and be resumed as the other."""
        go(begin(), Checkpoints(tmp_path, every=6))
        before = sorted(os.listdir(tmp_path))
        message = r"holds checkpoints of another run, beyond step 0: step-00000006, step-00000012; "
        state = begin(seed=1)
        with pytest.raises(CheckpointError, match=message):
            go(state, Checkpoints(tmp_path, every=6))
        assert state.step == 0, "refused before any work is done"
        record = next(training_steps(state.model, state.batches, PLAN, state=state))
        with pytest.raises(CheckpointError, match="another run, beyond step 1"):
            Checkpoints(tmp_path, every=1).consider(state.model, state, record)
        assert sorted(os.listdir(tmp_path)) == before

    def test_batches_that_cannot_be_resumed_are_refused_at_once(self, tmp_path, make_model):
        model = make_model()
        batches = sliding_window(TEXT, 12, 2, torch.Generator())
        with pytest.raises(ValueError, match="cannot say where they stand"):
            train(model, batches, PLAN, checkpoints=Checkpoints(tmp_path), progress=False)
        assert torch.equal(model.embedding.weight, make_model().embedding.weight)


class TestSignals:
    def interrupted(self, state: TrainState, at: int, number: int, times: int = 1) -> None:
        """The signal comes in the middle of update `at`."""

        def loss(model, batch):
            if state.step + 1 == at:
                for _ in range(times):
                    signal.raise_signal(number)
            return next_token_loss(model, batch)

        state.objective.loss = loss

    @pytest.mark.parametrize("number", HANDLED)
    @pytest.mark.parametrize("at", [1, 7, 12])
    def test_the_update_is_finished_and_saved(self, tmp_path, begin, number, at):
        before = [signal.getsignal(s) for s in HANDLED]
        whole = begin()
        go(whole, None)
        state = begin()
        self.interrupted(state, at, number)
        checkpoints = Checkpoints(tmp_path, every=0)
        history = go(state, checkpoints)
        assert checkpoints.stopped and checkpoints.signal == number
        assert history.steps == list(range(1, at + 1)) and list(steps(tmp_path)) == [at]
        assert [signal.getsignal(s) for s in HANDLED] == before
        state = begin(seed=9)
        history = go_on(state, newest(tmp_path))
        checkpoints = Checkpoints(tmp_path)
        history = go(state, checkpoints, history=history)
        assert history.steps == list(range(1, 13)) and same_weights(whole, state)
        assert not checkpoints.stopped and checkpoints.signal is None

    def test_a_real_one_from_outside(self, tmp_path, begin):
        state = begin(dataclasses.replace(PLAN, steps=100_000))
        timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM))
        timer.start()
        checkpoints = Checkpoints(tmp_path)
        history = go(state, checkpoints)
        timer.join()
        assert checkpoints.stopped and 0 < len(history.records) < 100_000
        assert checkpoint.load(newest(tmp_path)).training.step == len(history.records)

    def test_the_second_does_what_it_always_does(self, tmp_path, begin):
        """Ctrl-C twice: whoever asks twice does not want to wait for the update and the save."""
        state = begin()
        self.interrupted(state, 5, signal.SIGINT, times=2)
        checkpoints = Checkpoints(tmp_path, every=2)
        assert go(state, checkpoints).steps == [1, 2, 3, 4]
        assert not checkpoints.stopped and list(steps(tmp_path)) == [2, 4]
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler

    def test_during_a_save(self, tmp_path, begin, monkeypatch):
        """The save is completed, and no further update is made."""
        state = begin()
        real = os.replace

        def replace(source, target):
            if state.step == 4:
                signal.raise_signal(signal.SIGTERM)
            return real(source, target)

        # More than one signal comes, and the second may do what it always does: nothing, here.
        monkeypatch.setattr(files.os, "replace", replace)
        old = signal.signal(signal.SIGTERM, lambda *_: None)
        try:
            checkpoints = Checkpoints(tmp_path, every=2)
            assert go(state, checkpoints).steps == [1, 2, 3, 4]
        finally:
            signal.signal(signal.SIGTERM, old)
        assert checkpoints.stopped and newest(tmp_path).name == "step-00000004"

    def test_handlers_are_given_back_when_training_fails(self, tmp_path, begin):
        before = [signal.getsignal(s) for s in HANDLED]
        state = begin()
        state.objective.loss = lambda model, batch: next_token_loss(model, batch) * math.nan
        with pytest.raises(FloatingPointError):
            go(state, Checkpoints(tmp_path))
        assert [signal.getsignal(s) for s in HANDLED] == before

    def test_they_can_be_left_alone(self, tmp_path, begin):
        state = begin()
        self.interrupted(state, 3, signal.SIGINT)
        checkpoints = Checkpoints(tmp_path, on_signal=False)
        assert go(state, checkpoints).steps == [1, 2]  # KeyboardInterrupt, as without checkpoints
        assert checkpoints.signal is None and steps(tmp_path) == {}

    def test_outside_the_main_thread_they_are(self, tmp_path, begin):
        before = [signal.getsignal(s) for s in HANDLED]
        seen, state = [], begin()

        def loss(model, batch):
            seen.append([signal.getsignal(s) for s in HANDLED] == before)
            return next_token_loss(model, batch)

        state.objective.loss = loss
        thread = threading.Thread(target=go, args=(state, Checkpoints(tmp_path, every=12)))
        thread.start()
        thread.join()
        assert seen == [True] * 12 and list(steps(tmp_path)) == [12]


class TestSeveralProcesses:
    class Two(Processes):
        """One of two, as the manager sees it; the other says yes as often as it is told to."""

        world_size, data_size = 2, 2

        def __init__(self, rank: int, other: bool = False) -> None:
            super().__init__(torch.device("cpu"))
            self.rank, self.other = rank, other
            self.asked = 0

        def all(self, flag: bool) -> bool:
            self.asked += 1
            return flag and not self.other

    def consider(self, folder: Path, state: TrainState, processes: Processes) -> list[int]:
        records = list(training_steps(state.model, state.batches, PLAN, state=state))
        state.processes = processes
        checkpoints = Checkpoints(folder, every=5)
        stopped = []
        for record in records:
            checkpoints.consider(state.model, state, record)
            stopped += [record.step] if checkpoints.stopped else []
        self.asked.append(processes.asked)
        return stopped

    def test_only_the_main_one_writes(self, tmp_path, begin):
        self.asked = []
        assert self.consider(tmp_path / "a", begin(), self.Two(rank=1)) == []
        assert not (tmp_path / "a").exists()
        assert self.consider(tmp_path / "b", begin(), self.Two(rank=0)) == []
        assert list(steps(tmp_path / "b")) == [5, 10]
        # Each question is a sum over all processes: they must ask equally often, or wait for ever.
        assert self.asked[0] == self.asked[1] >= PLAN.steps

    def test_a_signal_to_one_stops_all(self, tmp_path, begin):
        self.asked = []
        stopped = self.consider(tmp_path / "a", begin(), self.Two(rank=1, other=True))
        assert stopped == list(range(1, 13))


class TestChangedRuns:
    SAVED = {  # noqa: RUF012
        "training": {"steps": 100, "learning_rate": 1e-3, "evaluate_every": 10},
        "model": {"preset": "showcase", "d_model": None, "rope": {"base": 10000.0}},
        "corpus": "tales",
        "seed": 0,
        "device": "auto",
        "threads": None,
        "out": "runs/a",
        "tracking": {"kind": "console"},
        "checkpoints": {"every": 10},
        "betas": [0.9, 0.99],
    }

    def changed(self, **changes) -> dict:
        now = {k: dict(v) if isinstance(v, dict) else v for k, v in self.SAVED.items()}
        for path, value in changes.items():
            *parts, name = path.split("__")
            inner = now
            for part in parts:
                inner[part] = dict(inner[part])
                inner = inner[part]
            inner[name] = value
        return now

    @pytest.mark.parametrize(
        "changes",
        [
            {},
            {"device": "cuda", "threads": 2, "out": "runs/b"},
            {"training__evaluate_every": 3, "training__sample_every": 5},
            {"tracking": {"kind": "jsonl", "folder": "x"}, "checkpoints": None},
            {"betas": (0.9, 0.99)},  # JSON knows no tuples
        ],
    )
    def test_what_may_change(self, changes):
        refuse_changed_run(self.SAVED, self.changed(**changes))

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"seed": 1}, "a changed seed: it was 0 and is 1"),
            ({"corpus": "docs"}, "a changed corpus: it was 'tales' and is 'docs'"),
            (
                {"training__learning_rate": 0.002},
                r"training.learning_rate: it was 0.001 and is 0.002",
            ),
            ({"training__steps": 200}, r"training.steps: it was 100 and is 200"),
            ({"model__rope__base": 5e5}, r"model.rope.base: it was 10000.0 and is 500000.0"),
            ({"model__d_model": 64}, r"model.d_model: it was None and is 64"),
            ({"model__dropout": 0.5}, r"model.dropout: it was None and is 0.5"),
            ({"betas": (0.9, 0.95)}, r"betas: it was \[0.9, 0.99\] and is \[0.9, 0.95\]"),
        ],
    )
    def test_what_may_not(self, changes, message):
        with pytest.raises(CheckpointError, match=message):
            refuse_changed_run(self.SAVED, self.changed(**changes))

    def test_what_has_gone(self):
        now = {k: v for k, v in self.SAVED.items() if k != "corpus"}
        with pytest.raises(CheckpointError, match="corpus: it was 'tales' and is None"):
            refuse_changed_run(self.SAVED, now)

    def test_another_list(self):
        refuse_changed_run(self.SAVED, self.changed(seed=4), may_change=("seed",))
        with pytest.raises(CheckpointError, match="out: it was 'runs/a' and is 'x'"):
            refuse_changed_run(self.SAVED, self.changed(out="x"), may_change=("seed",))
