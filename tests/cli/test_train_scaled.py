"""`llmcourse train` with what Part 4 adds: resuming, shards, packed rows, BPE, trackers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from llmcourse.runs import read_run, steps_of
from llmcourse.train import checkpoint
from llmcourse.train.checkpoints import newest
from llmcourse.train.tracking import read_jsonl

ROOT = Path(__file__).resolve().parents[2]
TINY = [
    *("--device", "cpu", "--model.n_layers", "1", "--model.d_model", "16"),
    *("--model.n_heads", "2", "--model.context_length", "32", "--batch_size", "4"),
    *("--training.warmup_steps", "2", "--sample_length", "8"),
]


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("texts")
    for n in range(40):
        (folder / f"{n}.txt").write_text(f"file {n}\n" + "abcdefgh " * 20, encoding="utf-8")
    return folder


@pytest.fixture
def train(llmcourse, texts: Path, tmp_path: Path):
    """Train on the texts; returns what was printed and the folder."""
    config = tmp_path / "tiny.yaml"
    config.write_text(
        f"corpus: 'file:{texts.as_posix()}'\n"
        "training: {steps: 12, learning_rate: 1.0e-2, warmup_steps: 2}\n",
        encoding="utf-8",
    )

    def call(*arguments: object, out: str = "out", code: int = 0):
        folder = tmp_path / out
        answer = llmcourse("train", "--config", config, *TINY, "--out", folder, *arguments)
        assert answer.code == code, answer.err
        return (answer.out if code == 0 else answer.err), folder

    return call


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return checkpoint.load(folder, training=False).model.state_dict()


def same(a: Path, b: Path) -> bool:
    left, right = weights(a), weights(b)
    return left.keys() == right.keys() and all(torch.equal(left[n], right[n]) for n in left)


class TestResume:
    def test_goes_on_where_it_was(self, train):
        every = ("--checkpoints.every", 5)
        text, whole = train(*every, out="whole")
        assert "resumed" not in text
        assert newest(whole / "checkpoints").name == "step-00000010"
        # A run that got to step 10: what is after it is taken away, and made again.
        (whole / "checkpoint.json").unlink()
        before = weights(whole / "checkpoints" / "step-00000010")
        text, again = train(*every, "--resume", out="whole")
        assert "after 10 of 12 steps" in text
        assert [r.step for r in checkpoint.load(again).history.records] == list(range(1, 13))
        _, straight = train(out="straight")
        assert same(again, straight)
        assert not all(torch.equal(before[n], p) for n, p in weights(again).items())

    def test_with_nothing_there_it_begins(self, train):
        text, _ = train("--checkpoints.every", 5, "--resume")
        assert "resumed" not in text and "saved" in text

    @pytest.mark.parametrize(
        ("change", "named"),
        [
            (("--training.learning_rate", "2e-2"), r"training.learning_rate: it was 0.01 and is"),
            (("--training.schedule", "linear"), r"training.schedule: it was 'cosine' and is"),
            (("--batch_size", "5"), r"batch_size of all processes: it was 4 and is 5"),
            (("--seed", "1"), r"seed: it was 0 and is 1"),
            (("--model.d_ff", "48"), r"model.d_ff: it was None and is 48"),
        ],
    )
    def test_a_changed_choice_is_refused_by_name(self, train, change, named):
        train("--checkpoints.every", 5)
        err, _ = train("--checkpoints.every", 5, "--resume", *change, code=2)
        assert "cannot resume with a changed " + named in " ".join(err.split())

    def test_what_does_not_matter_may_change(self, train):
        train("--checkpoints.every", 5)
        text, _ = train("--checkpoints.every", 3, "--resume", "--training.evaluate_every", 6)
        assert "after 10 of 12 steps" in text

    def test_changed_text_is_refused(self, train, texts, tmp_path):
        copy = tmp_path / "copy"
        copy.mkdir()
        for path in texts.iterdir():
            (copy / path.name).write_text(path.read_text())
        corpus = ("--corpus", f"file:{copy}")
        train("--checkpoints.every", 5, *corpus)
        (copy / "1.txt").write_text("another text entirely " * 9)
        err, _ = train("--checkpoints.every", 5, *corpus, "--resume", code=2)
        assert "trained on another text" in " ".join(err.split())

    def test_a_new_run_does_not_walk_over_an_old_one(self, train):
        train("--checkpoints.every", 5)
        err, _ = train("--checkpoints.every", 5, code=2)
        assert "holds checkpoints of another run" in " ".join(err.split())

    def test_a_damaged_checkpoint_is_named(self, train):
        _, out = train("--checkpoints.every", 5)
        (path,) = (out / "checkpoints" / "step-00000010").glob("training-*.safetensors")
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
        err, _ = train("--checkpoints.every", 5, "--resume", code=2)
        assert path.name in err and "step-00000005 is whole" in " ".join(err.split())

    @pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGTERM to catch")
    def test_a_signal_saves_and_stops(self, texts, tmp_path, train):
        arguments = ["train", "--corpus", f"file:{texts}", *TINY, "--out", str(tmp_path / "asked")]
        arguments += ["--training.learning_rate", "1e-2", "--checkpoints.every", "100000"]
        process = subprocess.Popen(
            [sys.executable, "-m", "llmcourse", *arguments, "--training.steps", "200000"],
            cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        seen = ""
        while "step/s" not in seen:  # the bar moves: it trains
            letter = process.stderr.read(1)
            assert letter, f"it ended before it trained: {seen}"
            seen += letter
        time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=60)
        assert process.returncode == 0 and "by a signal after" in out
        path = newest(tmp_path / "asked" / "checkpoints")
        saved = checkpoint.load(path)
        assert saved.training.step == saved.history.records[-1].step > 0


class TestText:
    def test_bpe_and_packed_rows(self, train):
        tokenizer = ("--tokenizer", "bpe", "--bpe_vocab_size", "275")
        text, out = train(*tokenizer, "--batching", "packed")
        loaded = checkpoint.load(out)
        assert loaded.tokenizer.vocab_size == 275 == loaded.model.config.vocab_size
        assert "<|thought|>" in loaded.tokenizer.special_tokens
        assert loaded.history.losses[-1] < loaded.history.losses[0]
        assert "nats per byte" in text

    def test_arithmetic_has_a_dial(self, llmcourse, tmp_path):
        sizes = ("--arithmetic.n_problems", 60, "--arithmetic.n_validation", 9)
        answer = llmcourse(
            "train", "--corpus", "arithmetic", *TINY, "--batching", "packed", *sizes,
            "--arithmetic.hardest", 2, "--training.steps", 4, "--out", tmp_path / "sums",
        )  # fmt: skip
        assert answer.code == 0, answer.err
        assert "60 documents" in answer.out
        hard = ("--arithmetic.easiest", 9, "--training.steps", 60)
        answer = llmcourse("train", "--corpus", "arithmetic", *hard)
        assert answer.code == 2 and "easiest=9" in answer.err

    def test_shards(self, llmcourse, texts, tmp_path):
        files = sorted(texts.iterdir())
        folders = []
        for name, some in (("train", files[:30]), ("validation", files[30:])):
            folders.append(tmp_path / name)
            answer = llmcourse("data", "prepare", *some, "--output", folders[-1], "--workers", 1)
            assert answer.code == 0, answer.err
        corpora = (
            "--corpus", f"shards:{folders[0]}", "--validation_corpus", f"shards:{folders[1]}",
            "--tokenizer", "shards", "--training.steps", 12,
        )  # fmt: skip
        sizes = (*TINY, "--model.vocab_size", 272)  # 257 tokens, and rows that stand for none
        for batching in ("packed", "sliding"):
            out = tmp_path / batching
            answer = llmcourse("train", *corpora, *sizes, "--batching", batching, "--out", out)
            assert answer.code == 0, answer.err
            assert "30 documents" in answer.out and "nats per byte" in answer.out
            loaded = checkpoint.load(out)
            assert loaded.model.config.vocab_size == 272 and loaded.tokenizer.vocab_size == 257
        answer = llmcourse("train", *corpora, *sizes, "--batching", "documents")
        assert answer.code == 2 and "not for shards" in answer.err
        # A damaged shard is named before anything is trained.
        shard = folders[0] / "shard-00000.bin"
        shard.write_bytes(shard.read_bytes()[:-2])
        answer = llmcourse("train", *corpora, *sizes)
        assert answer.code == 2 and "shard-00000.bin" in answer.err

    @pytest.mark.parametrize(
        ("flags", "named"),
        [
            (("--tokenizer", "shards"), "shards bring their own"),
            (("--corpus", "shards:x"), "shards bring their own"),
            (("--corpus", "shards:x", "--tokenizer", "shards"), "need shards:FOLDER to be scored"),
            (("--validation_corpus", "shards:x"), "holds out text of its own"),
            (("--model.vocab_size", "255"), "not the vocabulary of the tokenizer"),
            (("--model.vocab_size", "385"), "not the vocabulary of the tokenizer"),
            (("--checkpoints.keep_last", "0"), "keep_last=0"),
            (("--parallel.data", "pipeline"), "data='pipeline' is unknown"),
        ],
    )
    def test_choices_that_do_not_go_together(self, train, flags, named):
        err, _ = train(*flags, code=2)
        assert named in " ".join(err.split())


class TestTracking:
    def test_jsonl_and_tensorboard(self, train):
        pytest.importorskip("tensorboard")
        flags = ("--tracking.jsonl", "true", "--tracking.tensorboard", "true")
        _, out = train(*flags, "--checkpoints.every", 5, "--training.evaluate_every", 4)
        config, *records = read_jsonl(out / "tracking.jsonl")
        assert config["config"]["training"]["steps"] == 12
        values = [r["values"] for r in records if "values" in r]
        assert len(values) == 12 and {"loss", "learning_rate", "tokens_per_second"} <= set(
            values[0]
        )
        history = checkpoint.load(out).history
        assert [v["loss"] for v in values] == history.losses
        assert [v["validation_loss"] for v in values if "validation_loss" in v] == [
            loss for _, loss in history.validation
        ]
        assert [r["name"] for r in records if "name" in r] == ["sample"]
        assert list((out / "tensorboard").glob("*tfevents*"))
        # Resumed from step 10: the two records after it are made again, and are not there twice.
        train(*flags, "--checkpoints.every", 5, "--resume", "--training.evaluate_every", 4)
        steps = [r["step"] for r in read_jsonl(out / "tracking.jsonl") if "values" in r]
        assert steps == list(range(1, 13))

    def test_the_console(self, train):
        text, _ = train("--tracking.console_every", 6)
        assert sum("loss" in line and "learning_rate" in line for line in text.splitlines()) >= 2


class TestNumbers:
    def test_accumulated_batches_are_the_large_batch(self, tmp_path, texts):
        path = tmp_path / "run.yaml"
        path.write_text(
            f"corpus: 'file:{texts.as_posix()}'\nout: {tmp_path.as_posix()}/out\n"
            "model: {n_layers: 1, d_model: 16, n_heads: 2, context_length: 32}\n"
            "training: {steps: 4, warmup_steps: 1}\n"
        )
        flags = ["--batch_size", "4", "--training.accumulate", "2"]
        records = list(steps_of(read_run(path, flags)))
        assert [r.tokens for r in records] == [256, 512, 768, 1024]
        assert json.dumps([r.loss for r in records])
