"""`llmcourse train` and `llmcourse generate`, on a few hundred kilobytes of nothing much."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from pathlib import Path

import pytest
import torch

from llmcourse.runs import read_run, steps_of
from llmcourse.runs.perform import printable
from llmcourse.train import checkpoint

TINY = [
    *("--device", "cpu", "--model.n_layers", "1", "--model.d_model", "16"),
    *("--model.n_heads", "2", "--model.context_length", "32", "--batch_size", "8"),
    *("--training.warmup_steps", "2", "--sample_length", "8"),
]


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of text files in which one line repeats: something to learn in a few steps."""
    folder = tmp_path_factory.mktemp("texts")
    for n in range(40):
        (folder / f"{n}.txt").write_text(f"file {n}\n" + "abcdefgh " * 40, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory, texts: Path) -> Path:
    path = tmp_path_factory.mktemp("configs") / "tiny.yaml"
    path.write_text(
        f"corpus: 'file:{texts.as_posix()}'\n"
        "training: {steps: 60, learning_rate: 1.0e-2, warmup_steps: 2}\n",
        encoding="utf-8",
    )
    return path


@pytest.fixture
def train(llmcourse, config: Path, tmp_path: Path):
    def call(*arguments: object):
        out = tmp_path / "out"
        answer = llmcourse("train", "--config", config, *TINY, "--out", out, *arguments)
        assert answer.code == 0, answer.err
        return answer.out, out

    return call


def printed(text: str, label: str) -> str:
    (line,) = [line for line in text.splitlines() if line.startswith(label)]
    return line.removeprefix(label).strip()


def test_it_learns_and_says_so(train):
    text, out = train()
    assert printed(text, "device").startswith("cpu (")
    assert "file" in printed(text, "corpus")
    loaded = checkpoint.load(out)
    size = sum(p.numel() for p in loaded.model.parameters())
    assert printed(text, "model").startswith(f"{size:,} parameters: 1 layers, 2 heads, width 16")
    score = re.match(r"([\d.]+) nats per byte \(([\d.]+) bits\)", printed(text, "validation"))
    nats, bits = score[1], score[2]
    assert float(bits) == pytest.approx(float(nats) / math.log(2), abs=2e-4)
    assert float(nats) < 1.0  # ln 256 = 5.55 at the start
    assert re.search(r"\d+ s, [\d,]+ tokens/s, peak memory [\d,]+ MB", printed(text, "time"))
    assert f'llmcourse generate --checkpoint "{out}"' in text
    # The number it printed is the one it kept, and the run is written down whole.
    kept = loaded.notes["validation"]["nats_per_byte"]
    assert kept == pytest.approx(float(nats), abs=1e-4)
    assert loaded.notes["run"]["training"]["steps"] == 60
    assert loaded.notes["run"]["batch_size"] == 8
    assert len(loaded.history.records) == 60
    assert json.dumps(loaded.notes)


def test_the_steps_alone_are_those_of_the_run(train, config):
    out = train("--training.steps", "6")[1]
    flags = [*TINY, "--training.steps", "6"]
    steps = list(steps_of(read_run(config, flags)))
    recorded = checkpoint.load(out).history.losses
    assert [record.loss for record in steps] == recorded


def test_the_same_seed_writes_the_same_weights(train):
    def weights(out: Path) -> torch.Tensor:
        return torch.cat([p.flatten() for p in checkpoint.load(out).model.parameters()])

    first = weights(train("--training.steps", "5")[1])
    assert torch.equal(first, weights(train("--training.steps", "5")[1]))
    assert not torch.equal(first, weights(train("--training.steps", "5", "--seed", "1")[1]))


def test_characters(train, texts: Path):
    text, out = train("--tokenizer", "characters", "--training.steps", "5")
    tokenizer = checkpoint.load(out).tokenizer
    letters = Counter("".join(path.read_text() for path in texts.iterdir()))
    assert tokenizer.vocab_size == len(letters)
    assert f"vocabulary {len(letters)}" in printed(text, "model")


def test_whole_documents_need_a_context_that_holds_them(train, mistake, config, tmp_path):
    text, out = train(
        *("--batching", "documents", "--model.context_length", "400", "--training.steps", "3")
    )
    assert checkpoint.load(out).tokenizer.vocab_size == 257
    assert "nats per byte" in printed(text, "validation")
    said = mistake(
        *("train", "--config", config, *TINY, "--batching", "documents", "--out", tmp_path / "no")
    )
    assert "context_length 32" in said
    assert not (tmp_path / "no").exists()


def test_on_the_tales_the_floor_is_told(llmcourse, tmp_path):
    answer = llmcourse(
        *("train", "--corpus", "tales", "--batching", "documents", *TINY),
        *("--model.preset", "tales", "--model.context_length", "1024", "--training.steps", "3"),
        *("--tales.n_stories", "40", "--tales.n_validation", "8", "--judged_stories", "1"),
        *("--out", tmp_path / "out"),
    )
    assert answer.code == 0, answer.err
    notes = checkpoint.load(tmp_path / "out").notes["validation"]
    assert 0 < notes["floor_nats_per_byte"] < notes["nats_per_byte"]
    assert f"{notes['floor_nats_per_byte']:.4f}" in answer.out
    assert "grammatical" in answer.out


def test_mistakes_are_one_line_and_leave_nothing(mistake, config, tmp_path):
    def said(*arguments: object) -> str:
        out = tmp_path / "never"
        message = mistake("train", "--config", config, *TINY, "--out", out, *arguments)
        assert not out.exists()
        return message

    assert "'cuda' is not available" in said("--device", "cuda") or torch.cuda.is_available()
    assert "device='tpu' is unknown" in said("--device", "tpu")
    assert "did you mean 'showcase'" in said("--model.preset", "showcas")
    assert "n_heads=3 does not divide" in said("--model.n_heads", "3")
    assert "vocab_size=400 is not the vocabulary" in said("--model.vocab_size", "400")
    assert "tokenizer='unigram' is unknown" in said("--tokenizer", "unigram")
    assert "batching='random' is unknown" in said("--batching", "random")
    assert "steps=0" in said("--training.steps", "0")
    assert "did you mean 'docs'" in said("--corpus", "dosc").lower()
    assert "nowhere.txt" in said("--corpus", "file:nowhere.txt")
    assert "threads=0" in said("--threads", "0")
    assert "did you mean '--training.learning_rate'" in said("--training.learnin_rate", "1")
    assert "training.steps" in mistake("train")


def test_a_file_in_the_way_is_seen_before_training(mistake, config, tmp_path):
    taken = tmp_path / "taken"
    taken.write_text("mine")
    assert "is a file" in mistake("train", "--config", config, *TINY, "--out", taken)
    assert taken.read_text() == "mine"


def test_generate_continues_a_prompt(train, llmcourse):
    out = train("--training.steps", "300")[1]
    words = ["generate", "--checkpoint", out, "--device", "cpu", "--max-new-tokens", "16"]
    greedy = llmcourse(*words, "--prompt", "abcdefgh abc", "--temperature", "0")
    assert greedy.code == 0
    assert greedy.out.startswith("device cpu (")
    assert "abcdefgh abcdefgh abcdefgh a" in greedy.out
    # The flags reach the sampling, and the seed the randomness.
    hot = [*words, "--prompt", "abc", "--temperature", "5"]
    assert llmcourse(*hot).out == llmcourse(*hot).out
    assert llmcourse(*hot).out != llmcourse(*hot, "--seed", "1").out
    assert (
        llmcourse(*hot, "--top_k", "1").out
        == llmcourse(*words, "--prompt", "abc", "--temperature", "0").out
    )
    several = llmcourse(*words, "--samples", "3").out
    assert several.count("\n---\n") == 2


def test_generate_mistakes(mistake, train):
    out = train("--training.steps", "3")[1]
    assert "no checkpoint at nowhere" in mistake("generate", "--checkpoint", "nowhere")
    assert "checkpoint" in mistake("generate")
    call = ["generate", "--checkpoint", out]
    assert "temperature=-1" in mistake(*call, "--temperature", "-1")
    assert "top_p=2" in mistake(*call, "--top_p", "2")
    assert "did you mean '--sampling.top_k'" in mistake(*call, "--sampling.topk", "2")
    assert "samples=0" in mistake(*call, "--samples", "0")
    weights = next(out.glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-10])
    assert "truncated" in mistake(*call)


def test_what_a_model_writes_cannot_upset_a_terminal():
    assert (
        printable("a\tb\n\x1b[2Jc\x07é")
        == "a\tb\n\N{REPLACEMENT CHARACTER}[2Jc\N{REPLACEMENT CHARACTER}é"
    )
