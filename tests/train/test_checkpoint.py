"""Checkpoints: what is saved comes back, and no crash and no stranger can do harm."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save as save_safetensors

from llmcourse import files
from llmcourse.data.batches import sliding_window
from llmcourse.data.resumable import Replayed
from llmcourse.errors import CheckpointError
from llmcourse.tokenizers import END_OF_TEXT, ByteTokenizer, CharacterTokenizer
from llmcourse.train import (
    History,
    StepRecord,
    TrainConfig,
    TrainState,
    checkpoint,
    training_steps,
)

IDS = torch.tensor([[1, 2, 3, 30]])
SEAL = "manifest_sha256"
TEXT = torch.randint(0, 31, (300,), generator=torch.Generator().manual_seed(5))
HISTORY = History(
    [StepRecord(1, 5.5, 1e-3, 0.1, 10, 0.5, 5.25, "once"), StepRecord(2, 5, 0, 0, 20, 1)]
)


KILLED_IN_MID_SAVE = """
import os, signal, sys
import torch
from llmcourse import files
from llmcourse.model import Transformer
from llmcourse.train import checkpoint

real, calls = os.replace, []
def replace(source, target):
    calls.append(target)
    if len(calls) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(source, target)
files.os.replace = replace
model = Transformer(checkpoint.load(sys.argv[1]).model.config, torch.Generator().manual_seed(1))
checkpoint.save(sys.argv[1], model)
"""


def weights_file(folder: Path, kind: str = "weights") -> Path:
    [path] = folder.glob(f"{kind}-*.safetensors")
    return path


def make_batches(seed: int = 0) -> Replayed:
    return Replayed(lambda g: sliding_window(TEXT, 12, 2, g), torch.Generator().manual_seed(seed))


def trained(model, updates: int = 2, **changes) -> TrainState:
    """A run in its middle."""
    config = TrainConfig(**{"steps": 9, "warmup_steps": 2} | changes)
    state = TrainState(model, make_batches(), config)
    steps = training_steps(model, state.batches, config, state=state)
    for _ in range(updates):
        next(steps)
    return state


def rewrite(folder: Path, change, seal: bool = True) -> None:
    """Change the manifest of a checkpoint as a stranger would who knows how it is sealed."""
    path = folder / checkpoint.MANIFEST
    manifest = json.loads(path.read_text(encoding="utf-8"))
    changed = change(manifest)
    if changed is not None:
        manifest = changed
    if seal:
        del manifest[SEAL]
        text = json.dumps(manifest, sort_keys=True, separators=(",", ":"))
        manifest[SEAL] = hashlib.sha256(text.encode()).hexdigest()
    path.write_text(json.dumps(manifest), encoding="utf-8")


def flip(path: Path, place: int, bit: int = 0) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1 << bit
    path.write_bytes(data)


@pytest.fixture
def saved(tmp_path, make_model):
    return checkpoint.save(tmp_path / "run", make_model(), tokenizer=ByteTokenizer())


class TestRoundTrip:
    @pytest.mark.parametrize(
        "changes",
        [
            {},
            {"tie_embeddings": False},
            {"positions": "sinusoidal", "norm_placement": "post"},
            {"positions": "none", "norm": "none", "attention_bias": False},
            {"dropout": 0.5},
        ],
    )
    def test_logits_are_identical(self, tmp_path, make_model, changes):
        model = make_model(**changes).eval()
        checkpoint.save(tmp_path / "run", model)
        loaded = checkpoint.load(tmp_path / "run").model
        assert loaded.config == model.config
        assert not loaded.training
        assert torch.equal(loaded(IDS), model(IDS))
        assert all(p.requires_grad for p in loaded.parameters())
        loaded(IDS).sum().backward()  # it can be trained on

    @pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
    @pytest.mark.parametrize("positions", ["learned", "sinusoidal"])
    def test_the_dtype_is_kept(self, tmp_path, make_model, dtype, positions):
        model = make_model(positions=positions).to(dtype).eval()
        checkpoint.save(tmp_path / "run", model)
        loaded = checkpoint.load(tmp_path / "run").model
        assert {p.dtype for p in loaded.parameters()} == {dtype}
        assert torch.equal(loaded(IDS), model(IDS))

    def test_all_that_was_put_beside_it(self, tmp_path, make_model):
        for tokenizer in (
            ByteTokenizer((END_OF_TEXT,)),
            CharacterTokenizer.train(["héllo wörld\n"], special_tokens=("<x>",)),
        ):
            notes = {"corpus": "docs", "seed": 3, "scores": [1.5, None], "ü": {"a": True}}
            checkpoint.save(
                tmp_path / "run", make_model(), tokenizer=tokenizer, history=HISTORY, notes=notes
            )
            loaded = checkpoint.load(tmp_path / "run")
            assert loaded.tokenizer.to_dict() == tokenizer.to_dict()
            assert loaded.tokenizer.encode("hö wöl") == tokenizer.encode("hö wöl")
            assert loaded.history == HISTORY and loaded.notes == notes

    def test_nothing_beside_it_is_nothing(self, saved, make_model):
        folder = checkpoint.save(saved, make_model())
        loaded = checkpoint.load(str(folder))
        assert (loaded.tokenizer, loaded.history, loaded.notes) == (None, None, {})
        checkpoint.save(saved, make_model(), history=History())
        assert checkpoint.load(saved).history == History()

    def test_loading_takes_no_random_numbers(self, saved):
        before = torch.random.get_rng_state()
        checkpoint.load(saved)
        assert torch.equal(before, torch.random.get_rng_state())

    def test_a_second_save_replaces_the_first_and_its_files(self, saved, make_model):
        second = make_model(seed=1).eval()
        checkpoint.save(saved, second)
        assert torch.equal(checkpoint.load(saved).model(IDS), second(IDS))
        assert len(os.listdir(saved)) == 2
        checkpoint.save(saved, second, notes={"again": 1})  # the very same weights
        assert checkpoint.load(saved).notes == {"again": 1} and len(os.listdir(saved)) == 2

    def test_other_files_in_the_folder_are_left_alone(self, saved, make_model):
        for name in ("notes.txt", "weights.safetensors", ".keep.tmp"):
            (saved / name).write_text("mine")
        checkpoint.save(saved, make_model(seed=1))
        assert {"notes.txt", "weights.safetensors", ".keep.tmp"} <= set(os.listdir(saved))

    def test_it_is_plain_data(self, saved):
        manifest = json.loads((saved / checkpoint.MANIFEST).read_text(encoding="utf-8"))
        data = weights_file(saved).read_bytes()
        assert manifest["weights"]["sha256"] == hashlib.sha256(data).hexdigest()
        assert manifest["weights"]["bytes"] == len(data)
        # safetensors: eight bytes of length, then JSON that names every tensor.
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        assert header["embedding.weight"]["shape"] == [31, 24]

    def test_nothing_is_unpickled(self, saved, make_model, monkeypatch):
        def refuse(*arguments, **options):
            raise AssertionError("something was unpickled")

        for name in ("load", "loads", "Unpickler"):
            monkeypatch.setattr(pickle, name, refuse)
        monkeypatch.setattr(torch, "load", refuse)
        checkpoint.save(saved, make_model(seed=1), history=HISTORY)
        checkpoint.load(saved)


class TestRefusedSaves:
    def test_notes_that_json_cannot_say(self, saved, make_model):
        before = sorted(os.listdir(saved))
        with pytest.raises(TypeError, match="not JSON serializable"):
            checkpoint.save(saved, make_model(seed=1), notes={"model": object()})
        assert sorted(os.listdir(saved)) == before
        assert checkpoint.load(saved).tokenizer == ByteTokenizer()

    def test_a_file_in_the_way(self, tmp_path, make_model):
        (tmp_path / "run").write_text("not a folder")
        with pytest.raises(FileExistsError, match="run is a file; a checkpoint is a folder"):
            checkpoint.save(tmp_path / "run", make_model())
        assert (tmp_path / "run").read_text() == "not a folder"


class TestInterruptedSaves:
    """Whatever is interrupted, the old checkpoint loads, whole."""

    STEPS = ("mkstemp", "fdopen", "fsync", "chmod", "replace")

    @pytest.mark.parametrize("step", STEPS)
    @pytest.mark.parametrize("nth", [1, 2, 3, 4])
    def test_at_every_step_of_every_file(self, saved, make_model, monkeypatch, step, nth):
        old, new = make_model().eval(), make_model(seed=1).eval()
        module = files.tempfile if step == "mkstemp" else files.os
        real, calls = getattr(module, step), []

        def crash(*arguments, **options):
            calls.append(step)
            if len(calls) == nth:
                raise KeyboardInterrupt
            return real(*arguments, **options)

        with monkeypatch.context() as broken:
            broken.setattr(module, step, crash)
            try:
                checkpoint.save(saved, new, notes={"new": True})
                crashed = False
            except KeyboardInterrupt:
                crashed = True
        # Two files are written, and each write syncs the file and then its folder.
        assert crashed == (nth <= (4 if step == "fsync" else 2))
        loaded = checkpoint.load(saved)
        if loaded.notes == {"new": True}:
            # Only a crash after the rename of the manifest may leave the new one.
            assert not crashed or (step, nth) == ("fsync", 4)
            assert torch.equal(loaded.model(IDS), new(IDS))
        else:
            assert crashed
            assert torch.equal(loaded.model(IDS), old(IDS))
        checkpoint.save(saved, new)
        assert torch.equal(checkpoint.load(saved).model(IDS), new(IDS))
        assert len(os.listdir(saved)) == 2, "the next save clears away what a crash left"

    def test_a_full_disk(self, saved, make_model, monkeypatch):
        def full(descriptor):
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as broken:
            broken.setattr(files.os, "fsync", full)
            with pytest.raises(OSError, match="No space left"):
                checkpoint.save(saved, make_model(seed=1))
        assert torch.equal(checkpoint.load(saved).model(IDS), make_model().eval()(IDS))
        assert len(os.listdir(saved)) == 2

    @pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs a signal that always kills")
    def test_a_process_killed_in_mid_save(self, saved, make_model):
        """Killed for real, without a chance to tidy up, as the manifest is about to be renamed."""
        done = subprocess.run(
            [sys.executable, "-c", KILLED_IN_MID_SAVE, str(saved)],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == -signal.SIGKILL, done.stderr
        assert torch.equal(checkpoint.load(saved).model(IDS), make_model().eval()(IDS))
        # The old two, the new weights that nothing names yet, and the manifest's temporary file.
        assert len(os.listdir(saved)) == 4
        new = make_model(seed=1).eval()
        checkpoint.save(saved, new)
        assert torch.equal(checkpoint.load(saved).model(IDS), new(IDS))
        assert len(os.listdir(saved)) == 2

    def test_a_first_save_that_is_interrupted_leaves_no_checkpoint(
        self, tmp_path, make_model, monkeypatch
    ):
        with monkeypatch.context() as broken:
            broken.setattr(files.os, "replace", lambda a, b: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                checkpoint.save(tmp_path / "run", make_model())
        with pytest.raises(CheckpointError, match="no checkpoint at"):
            checkpoint.load(tmp_path / "run")


class TestDamage:
    def test_nothing_there(self, tmp_path):
        with pytest.raises(CheckpointError, match=r"no checkpoint at .*nowhere: expected a folder"):
            checkpoint.load(tmp_path / "nowhere")
        (tmp_path / "file").write_text("x")
        with pytest.raises(CheckpointError, match="no checkpoint at"):
            checkpoint.load(tmp_path / "file")

    @pytest.mark.parametrize("keep", [0, 7, 100, -1])
    def test_truncated_weights(self, saved, keep):
        path = weights_file(saved)
        data = path.read_bytes()
        path.write_bytes(data[:keep])
        size = len(data[:keep])
        with pytest.raises(CheckpointError, match=rf"truncated: {size:,} bytes of {len(data):,}"):
            checkpoint.load(saved)

    @pytest.mark.parametrize("place", [0, 3, 9, 200, -1])
    def test_one_flipped_bit_anywhere(self, saved, place):
        path = weights_file(saved)
        flip(path, place)
        with pytest.raises(CheckpointError, match=rf"{path.name} is damaged: its checksum is not "):
            checkpoint.load(saved)

    def test_missing_weights(self, saved):
        weights_file(saved).unlink()
        with pytest.raises(CheckpointError, match=r"safetensors is missing; .*incomplete"):
            checkpoint.load(saved)

    @pytest.mark.parametrize("cut", [0, 1, 50, -1])
    def test_a_truncated_manifest(self, saved, cut):
        path = saved / checkpoint.MANIFEST
        path.write_bytes(path.read_bytes()[:cut])
        with pytest.raises(CheckpointError, match=r"checkpoint.json is damaged: it is not JSON"):
            checkpoint.load(saved)

    @pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"PK\x03\x04", b"[" * 200_000])
    def test_a_manifest_that_is_no_json(self, saved, content):
        (saved / checkpoint.MANIFEST).write_bytes(content)
        with pytest.raises(CheckpointError, match="is not JSON"):
            checkpoint.load(saved)

    @pytest.mark.parametrize("content", ["[]", "3", "{}", '{"format": 1, "config": {}}', "null"])
    def test_json_that_is_no_checkpoint(self, saved, content):
        (saved / checkpoint.MANIFEST).write_text(content)
        with pytest.raises(CheckpointError, match="is not a checkpoint"):
            checkpoint.load(saved)

    def test_a_format_from_the_future(self, saved):
        rewrite(saved, lambda m: m.update(format=2))
        with pytest.raises(CheckpointError, match=r"has format 2; this version .* reads 1"):
            checkpoint.load(saved)

    @pytest.mark.parametrize("entry", [None, [], "x", {}, {"file": "a"}, {"file": "a", "bytes": 1}])
    def test_a_manifest_that_names_no_weights(self, saved, entry):
        rewrite(saved, lambda m: m.update(weights=entry))
        with pytest.raises(CheckpointError, match="does not say which weights belong to it"):
            checkpoint.load(saved)

    @pytest.mark.parametrize(
        "change",
        [
            {"n_heads": 5},
            {"n_head": 2},
            {"activation": "swish"},
            {"d_model": "24"},
        ],
    )
    def test_an_impossible_config(self, saved, change):
        rewrite(saved, lambda m: m["config"].update(change))
        with pytest.raises(CheckpointError, match=r"holds an impossible config: .*n_head|swish|24"):
            checkpoint.load(saved)

    @pytest.mark.parametrize("config", [None, 3, [], "x", {}])
    def test_no_config_at_all(self, saved, config):
        rewrite(saved, lambda m: m.update(config=config))
        with pytest.raises(CheckpointError, match="holds an impossible config"):
            checkpoint.load(saved)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"n_layers": 3}, r"do not fit: missing \['blocks.2.attention.out.bias'"),
            ({"n_layers": 1}, r"do not fit: unexpected \['blocks.1.attention.out.bias'"),
            ({"vocab_size": 32}, r"embedding.weight has shape \(31, 24\), expected \(32, 24\)"),
            ({"tie_embeddings": False}, r"missing \['head.weight'\]"),
        ],
    )
    def test_a_config_of_another_model(self, saved, change, message):
        rewrite(saved, lambda m: m["config"].update(change))
        with pytest.raises(CheckpointError, match=message):
            checkpoint.load(saved)

    @pytest.mark.parametrize(
        "change",
        [
            {"tokenizer": {"kind": "nonsense"}},
            {"tokenizer": 5},
            {"tokenizer": {"kind": "bytes"}},
            {"history": {"columns": ["step"], "rows": [[1]]}},
            {"history": {"columns": ["nonsense"], "rows": [[1]]}},
            {"history": [1]},
        ],
    )
    def test_a_damaged_tokenizer_or_history(self, saved, change):
        rewrite(saved, lambda m: m.update(change))
        with pytest.raises(CheckpointError, match="damaged tokenizer or history"):
            checkpoint.load(saved)


class TestHostileCheckpoints:
    def swap(self, folder: Path, data: bytes) -> None:
        """Other weights, with a checksum that agrees."""
        path = weights_file(folder)
        path.write_bytes(data)
        rewrite(
            folder,
            lambda m: m["weights"].update(bytes=len(data), sha256=hashlib.sha256(data).hexdigest()),
        )

    @pytest.mark.parametrize("name", ["../secret", "/etc/hostname", "a/../../secret", "..\\secret"])
    def test_a_name_cannot_point_out_of_the_folder(self, saved, name):
        secret = saved.parent / "secret"
        shutil.copy(weights_file(saved), secret)
        rewrite(saved, lambda m: m["weights"].update(file=name))
        with pytest.raises(CheckpointError, match="is missing"):
            checkpoint.load(saved)

    @pytest.mark.parametrize("name", ["", ".", "..", "/", 5, None, {}])
    def test_a_name_that_is_none(self, saved, name):
        rewrite(saved, lambda m: m["weights"].update(file=name))
        with pytest.raises(CheckpointError, match="is missing"):
            checkpoint.load(saved)

    def test_a_pickle_in_place_of_the_weights_is_not_run(self, saved, tmp_path):
        class Trap:
            def __reduce__(self):
                return (Path.touch, (tmp_path / "ran",))

        self.swap(saved, pickle.dumps(Trap()))
        with pytest.raises(CheckpointError, match="is not a safetensors file"):
            checkpoint.load(saved)
        assert not (tmp_path / "ran").exists()

    @pytest.mark.parametrize("data", [b"", b"\xff" * 8, b"\x02" + b"\0" * 7 + b"{}"])
    def test_files_that_only_look_like_weights(self, saved, data):
        self.swap(saved, data)
        with pytest.raises(CheckpointError, match=r"not a safetensors file|do not fit: 0 tensors"):
            checkpoint.load(saved)

    def test_a_tensor_too_many(self, saved, make_model):
        tensors = dict(make_model().state_dict()) | {"extra": torch.zeros(3)}
        self.swap(saved, save_safetensors(tensors))
        with pytest.raises(CheckpointError, match=r"unexpected \['extra'\]"):
            checkpoint.load(saved)

    @pytest.mark.parametrize("changes", [{"n_layers": 10**9}, {"d_model": 2 * 10**9, "n_heads": 1}])
    def test_a_config_too_large_for_any_machine_is_refused_at_once(self, saved, changes):
        rewrite(saved, lambda m: m["config"].update(changes))
        started = time.perf_counter()
        with pytest.raises(CheckpointError, match=r"do not fit|impossible"):
            checkpoint.load(saved)
        assert time.perf_counter() - started < 20


@pytest.fixture
def running(tmp_path, make_model):
    """A checkpoint with its training state."""
    model = make_model(dropout=0.1)
    state = trained(model)
    return checkpoint.save(tmp_path / "run", model, state=state, notes={"n": 1})


class TestTrainingState:
    def test_it_comes_back(self, tmp_path, make_model):
        model = make_model(dropout=0.1)
        state = trained(model)
        tensors, facts = state.tensors(), state.facts()
        checkpoint.save(tmp_path / "run", model, state=state)
        saved = checkpoint.load(tmp_path / "run").training
        assert saved.tensors.keys() == tensors.keys()
        for name, tensor in tensors.items():
            assert saved.tensors[name].dtype == tensor.dtype
            assert torch.equal(saved.tensors[name], tensor), name
        assert saved.facts == json.loads(json.dumps(facts)) and saved.step == 2

    def test_weights_and_state_are_restored_together(self, running, make_model):
        before = checkpoint.load(running)
        model = make_model(seed=8, dropout=0.1)  # other weights
        state = TrainState(model, make_batches(7), TrainConfig(steps=9, warmup_steps=2))
        before.restore(state)
        assert state.step == 2
        for name, tensor in before.model.state_dict().items():
            assert torch.equal(model.state_dict()[name], tensor)
        for name, tensor in before.training.tensors.items():
            assert torch.equal(state.tensors()[name], tensor), name

    def test_the_state_alone_can_be_restored(self, running, make_model):
        state = TrainState(
            make_model(dropout=0.1), make_batches(), TrainConfig(steps=9, warmup_steps=2)
        )
        checkpoint.load(running).training.restore(state)
        assert state.step == 2

    def test_it_need_not_be_read(self, running, make_model):
        path = weights_file(running, "training")
        path.unlink()
        loaded = checkpoint.load(running, training=False)
        assert loaded.training is None and loaded.notes == {"n": 1}
        with pytest.raises(CheckpointError, match=rf"{path.name} is missing"):
            checkpoint.load(running)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
    def test_other_dtypes(self, tmp_path, make_model, dtype):
        model = make_model().to(dtype)
        state = trained(model)
        checkpoint.save(tmp_path / "run", model, state=state)
        loaded = checkpoint.load(tmp_path / "run")
        other = make_model(seed=3).to(dtype)
        again = TrainState(other, make_batches(), state.config)
        loaded.restore(again)
        for name, tensor in model.state_dict().items():
            assert tensor.dtype == dtype and torch.equal(other.state_dict()[name], tensor)
        for name, tensor in state.tensors().items():
            assert torch.equal(again.tensors()[name], tensor), name

    def test_a_later_save_without_it_forgets_it(self, running, make_model):
        checkpoint.save(running, make_model())
        assert checkpoint.load(running).training is None
        assert len(os.listdir(running)) == 2

    def test_nothing_is_unpickled(self, running, make_model, monkeypatch):
        def refuse(*arguments, **options):
            raise AssertionError("something was unpickled")

        for name in ("load", "loads", "Unpickler", "dump", "dumps", "Pickler"):
            monkeypatch.setattr(pickle, name, refuse)
        monkeypatch.setattr(torch, "load", refuse)
        monkeypatch.setattr(torch, "save", refuse)
        state = TrainState(
            make_model(dropout=0.1), make_batches(), TrainConfig(steps=9, warmup_steps=2)
        )
        checkpoint.load(running).restore(state)
        checkpoint.save(running, state.model, state=state)

    def test_notes_with_numbers_for_keys(self, tmp_path, make_model):
        # JSON makes them text and would sort them otherwise: the seal must not mind.
        checkpoint.save(tmp_path / "run", make_model(), notes={10: "a", 9: (1, 2), "x": None})
        assert checkpoint.load(tmp_path / "run").notes == {"10": "a", "9": [1, 2], "x": None}


class TestRefusedRestores:
    def refused(self, saved: checkpoint.Checkpoint, state: TrainState, message: str) -> None:
        """Refused, and nothing is changed."""
        weights = {n: t.clone() for n, t in state.model.state_dict().items()}
        tensors, facts = state.tensors(), state.facts()
        with pytest.raises(CheckpointError, match=message):
            saved.restore(state)
        assert all(torch.equal(t, weights[n]) for n, t in state.model.state_dict().items())
        after = state.tensors()
        assert all(torch.equal(t, after[n]) for n, t in tensors.items())
        assert state.facts() == facts

    def test_a_checkpoint_without_it(self, saved, make_model):
        state = trained(make_model())
        self.refused(checkpoint.load(saved), state, "holds a model but no training state")

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"n_heads": 3}, "another model: n_heads was 2 and is 3"),
            ({"dropout": 0.2}, "another model: dropout was 0.1 and is 0.2"),
            ({"context_length": 13}, "another model: context_length was 12 and is 13"),
        ],
    )
    def test_another_model(self, running, make_model, changes, message):
        state = trained(make_model(**{"dropout": 0.1} | changes), 1)
        self.refused(checkpoint.load(running), state, message)

    def test_another_dtype(self, running, make_model):
        state = trained(make_model(dropout=0.1).bfloat16(), 1)
        message = r"embedding.weight was torch.float32 and is torch.bfloat16"
        self.refused(checkpoint.load(running), state, message)

    def test_a_model_of_another_kind(self, running):
        model = torch.nn.Linear(2, 2)
        state = TrainState(model, make_batches(), TrainConfig(steps=9, warmup_steps=2))
        self.refused(checkpoint.load(running), state, "another model: it was a Transformer")

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"learning_rate": 2e-3}, r"learning_rate: it was 0.001 and is 0.002"),
            ({"steps": 10}, "steps: it was 9 and is 10"),
            ({"schedule": "linear"}, "schedule: it was 'cosine' and is 'linear'"),
            ({"optimizer": "muon"}, "optimizer: it was 'adamw' and is 'muon'"),
            ({"accumulate": 2}, "accumulate: it was 1 and is 2"),
            ({"precision": "bfloat16"}, "precision: it was 'float32' and is 'bfloat16'"),
        ],
    )
    def test_another_config(self, running, make_model, changes, message):
        state = trained(make_model(dropout=0.1), 1, **changes)
        self.refused(checkpoint.load(running), state, message)

    def test_other_data(self, running, make_model):
        model = make_model(dropout=0.1)
        other = Replayed(
            lambda g: sliding_window(TEXT.flip(0), 12, 2, g), torch.Generator().manual_seed(0)
        )
        state = TrainState(model, other, TrainConfig(steps=9, warmup_steps=2))
        self.refused(checkpoint.load(running), state, "the text, the tokenizer or a size has chang")


class TestDamageToTheWhole:
    """A training state is another file, and facts in the manifest: nothing in either is trusted."""

    @pytest.mark.parametrize("kind", ["weights", "training"])
    @pytest.mark.parametrize("place", [0, 8, 300, -1])
    def test_one_flipped_bit_is_found_and_its_file_named(self, running, kind, place):
        path = weights_file(running, kind)
        flip(path, place)
        for read in (checkpoint.load, checkpoint.verify):
            with pytest.raises(CheckpointError, match=rf"{path.name} is damaged: its checksum"):
                read(running)

    @pytest.mark.parametrize("kind", ["weights", "training"])
    @pytest.mark.parametrize("keep", [0, 9, -1])
    def test_truncated(self, running, kind, keep):
        path = weights_file(running, kind)
        path.write_bytes(path.read_bytes()[:keep])
        for read in (checkpoint.load, checkpoint.verify):
            with pytest.raises(CheckpointError, match=rf"{path.name} is truncated: "):
                read(running)

    def test_too_long(self, running):
        path = weights_file(running, "training")
        path.write_bytes(path.read_bytes() + b"\0")
        for read in (checkpoint.load, checkpoint.verify):
            with pytest.raises(CheckpointError, match=rf"{path.name} is too long: "):
                read(running)

    def test_flipped_bits_all_over_the_manifest(self, tmp_path, make_model):
        """Either it is refused by name or it says the very same: e and E in a number."""
        model = make_model(d_model=2, n_heads=1, n_layers=1, vocab_size=31)
        folder = checkpoint.save(tmp_path / "run", model, notes={"run": {"lr": 1e-9, "x": [True]}})
        path = folder / checkpoint.MANIFEST
        whole = path.read_bytes()
        said, harmless = json.loads(whole), 0
        for place in range(0, len(whole), 3):
            flip(path, place, bit=place % 8)
            try:
                checkpoint.verify(folder)
            except CheckpointError as error:
                assert str(path) in str(error)
            else:
                harmless += 1
                assert json.loads(path.read_bytes()) == said, place
            path.write_bytes(whole)
        assert harmless < 5
        checkpoint.verify(folder)

    def test_a_number_changed_by_hand(self, running):
        rewrite(running, lambda m: m["training"]["facts"].update(step=1), seal=False)
        with pytest.raises(
            CheckpointError, match=r"checkpoint.json is damaged or was changed by ha"
        ):
            checkpoint.load(running)

    def test_a_broken_seal(self, running):
        rewrite(running, lambda m: m.pop(SEAL) and None, seal=False)
        with pytest.raises(
            CheckpointError, match=r"checkpoint.json is damaged or was changed by ha"
        ):
            checkpoint.load(running)

    @pytest.mark.parametrize("entry", [3, {}, {"file": "a", "bytes": 1, "sha256": "x"}])
    def test_a_manifest_that_names_no_training_state(self, running, entry):
        rewrite(running, lambda m: m.update(training=entry))
        with pytest.raises(CheckpointError, match="does not say which training state belongs"):
            checkpoint.load(running)

    @pytest.mark.parametrize(
        "change",
        [
            lambda facts: facts.pop("optimizers") and None,
            lambda facts: facts.update(step="two"),
            lambda facts: facts.update(step=-1),
            lambda facts: facts.update(batches={}),
            lambda facts: facts.update(optimizers=[]),
            lambda facts: facts.update(python=[1]),
            lambda facts: facts.update(config=None),
        ],
    )
    def test_facts_of_a_stranger(self, running, make_model, change):
        rewrite(running, lambda m: change(m["training"]["facts"]))
        state = TrainState(
            make_model(dropout=0.1), make_batches(), TrainConfig(steps=9, warmup_steps=2)
        )
        with pytest.raises(CheckpointError):
            checkpoint.load(running).restore(state)
        assert state.step == 0

    def test_line_ends_of_another_system_do_no_harm(self, running):
        path = running / checkpoint.MANIFEST
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
        assert checkpoint.load(running).training.step == 2

    def test_a_checkpoint_from_before_there_were_training_states(self, saved, make_model):
        """As Part 2 wrote them: no seal, nothing about training."""

        def as_it_was(manifest):
            del manifest[SEAL]
            assert "training" not in manifest

        rewrite(saved, as_it_was, seal=False)
        loaded = checkpoint.load(saved)
        assert loaded.training is None
        assert torch.equal(loaded.model(IDS), make_model().eval()(IDS))
        checkpoint.verify(saved)


class TestDiskFull:
    """`No space left on device`, wherever it comes, leaves the old checkpoint and no litter."""

    FULL = (errno.ENOSPC, "No space left on device")

    @pytest.mark.parametrize("with_state", [False, True])
    @pytest.mark.parametrize("step", ["mkstemp", "write", "fsync", "replace"])
    def test_at_every_step(self, tmp_path, make_model, monkeypatch, step, with_state):
        old, new = make_model(dropout=0.1).eval(), make_model(seed=1, dropout=0.1)
        before, after = trained(old, 1), trained(new, 3) if with_state else None
        folder = checkpoint.save(tmp_path / "run", old, state=before, notes={"old": True})
        files_before = sorted(os.listdir(folder))
        # Each file is synced, and after it its folder, where a refusal is passed over.
        n_files = 3 if with_state else 2
        for nth in range(1, 2 * n_files if step == "fsync" else n_files + 1, 1 + (step == "fsync")):
            with monkeypatch.context() as broken:
                self.fail_at(broken, step, nth)
                with pytest.raises(
                    OSError, match=r"No space left.* was not saved; .*untouc"
                ) as info:
                    checkpoint.save(folder, new, state=after)
            assert info.value.errno == errno.ENOSPC and str(folder) in str(info.value)
            assert sorted(os.listdir(folder)) == files_before
            loaded = checkpoint.load(folder)
            assert loaded.notes == {"old": True} and loaded.training.step == 1
            assert torch.equal(loaded.model(IDS), old.eval()(IDS))
        checkpoint.save(folder, new, state=after)
        assert len(os.listdir(folder)) == n_files, "all steps of all files were tried"
        with monkeypatch.context() as broken:
            self.fail_at(broken, step, 2 * n_files + 1)
            checkpoint.save(folder, new, state=after)

    def fail_at(self, patch, step: str, nth: int) -> None:
        """From now on the disk is full at the nth `step`."""
        calls: list[str] = []

        def counted(real):
            def wrapper(*arguments, **options):
                calls.append(step)
                if len(calls) == nth:
                    raise OSError(*self.FULL)
                return real(*arguments, **options)

            return wrapper

        if step != "write":
            module = files.tempfile if step == "mkstemp" else files.os
            patch.setattr(module, step, counted(getattr(module, step)))
            return
        real_open = files.os.fdopen

        def fdopen(*arguments, **options):
            handle = real_open(*arguments, **options)
            handle_write = counted(handle.write)

            class Half:
                """Writes half of what it is given before the disk is full."""

                def __enter__(self):
                    return self

                def __exit__(self, *_):
                    handle.close()

                def __getattr__(self, attribute):
                    return getattr(handle, attribute)

                def write(self, data):
                    if len(calls) + 1 == nth:
                        handle.write(data[: len(data) // 2])
                    return handle_write(data)

            return Half()

        patch.setattr(files.os, "fdopen", fdopen)

    def test_a_first_save_leaves_nothing(self, tmp_path, make_model, monkeypatch):
        with monkeypatch.context() as broken:
            self.fail_at(broken, "fsync", 3)
            with pytest.raises(OSError, match="there was no checkpoint there before"):
                checkpoint.save(tmp_path / "run", make_model(), state=trained(make_model()))
        assert os.listdir(tmp_path) == []

    def test_a_damaged_manifest_costs_no_file(self, running, make_model, monkeypatch):
        """Which files belong to it cannot be known, so a failed save deletes none of them."""
        names = set(os.listdir(running))
        flip(running / checkpoint.MANIFEST, 30)
        with monkeypatch.context() as broken:
            self.fail_at(broken, "replace", 3)
            with pytest.raises(OSError, match="No space left"):
                checkpoint.save(running, make_model(seed=2), state=trained(make_model(seed=2)))
        assert names <= set(os.listdir(running))
