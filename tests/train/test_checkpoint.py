"""Checkpoints: what is saved comes back, and no crash and no stranger can do harm."""

from __future__ import annotations

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
from llmcourse.errors import CheckpointError
from llmcourse.tokenizers import END_OF_TEXT, ByteTokenizer, CharacterTokenizer
from llmcourse.train import History, StepRecord, checkpoint

IDS = torch.tensor([[1, 2, 3, 30]])
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


def weights_file(folder: Path) -> Path:
    [path] = folder.glob("weights-*.safetensors")
    return path


def rewrite(folder: Path, change) -> None:
    """Change the manifest of a checkpoint as a stranger with an editor would."""
    path = folder / checkpoint.MANIFEST
    manifest = json.loads(path.read_text(encoding="utf-8"))
    changed = change(manifest)
    path.write_text(json.dumps(manifest if changed is None else changed), encoding="utf-8")


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
        data = bytearray(path.read_bytes())
        data[place] ^= 1
        path.write_bytes(data)
        with pytest.raises(CheckpointError, match="damaged: its checksum is not the one"):
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
