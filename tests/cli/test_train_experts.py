"""`llmcourse train` and `llmcourse generate` with a mixture of experts, by flags and by YAML."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from llmcourse.model import ModelConfig
from llmcourse.runs import read_run
from llmcourse.train import checkpoint

TINY = [
    *("--device", "cpu", "--model.n_layers", "2", "--model.d_model", "16"),
    *("--model.n_heads", "2", "--model.context_length", "32", "--batch_size", "4"),
    *("--training.warmup_steps", "2", "--training.steps", "4", "--sample_length", "8"),
    *("--validation_tokens", "64"),
]
EXPERTS = ["--model.experts.n_experts", "8", "--model.experts.n_active", "2"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    for n in range(40):
        (folder / f"{n}.txt").write_text(f"file {n}\n" + "abcdefgh " * 40, encoding="utf-8")
    return f"file:{folder.as_posix()}"


def test_it_trains_saves_and_writes(llmcourse, corpus, tmp_path):
    out = tmp_path / "out"
    answer = llmcourse(
        *("train", "--corpus", corpus, *TINY, *EXPERTS, "--out", out),
        *("--model.experts.layers", "[1]", "--model.experts.selection_bias", "true"),
        *("--model.experts.d_ff", "24"),
    )
    assert answer.code == 0, answer.err
    model = checkpoint.load(out).model
    experts = model.config.experts
    assert (experts.n_experts, experts.n_active, experts.d_ff) == (8, 2, 24)
    assert experts.layers == (1,) and [b.sparse for b in model.blocks] == [False, True]
    bias = model.blocks[1].feed_forward.router.selection_bias
    assert bias.dtype == torch.float32 and not bias.requires_grad
    # Four updates moved it by a thousandth each, up or down, and it came back from the file.
    steps = bias / 1e-3
    assert bias.abs().max() > 0
    torch.testing.assert_close(steps, steps.round(), atol=1e-3, rtol=0)
    assert steps.abs().max() < 4.5
    written = llmcourse("generate", "--checkpoint", out, "--device", "cpu")
    assert written.code == 0 and written.out


def test_yaml_says_the_same_as_flags(corpus, tmp_path):
    path = tmp_path / "experts.yaml"
    path.write_text(
        f"corpus: {corpus!r}\n"
        "training: {steps: 4, warmup_steps: 2}\n"
        "model: {n_layers: 2, experts: {n_experts: 8, n_active: 2, layers: [1], z_weight: 0.001}}\n"
    )
    experts = read_run(path).model_config(256).experts
    assert (experts.n_experts, experts.n_active, experts.layers) == (8, 2, (1,))
    assert experts.z_weight == 0.001
    # A flag changes one field of it and leaves the others.
    changed = read_run(path, ["--model.experts.capacity", "1.25"]).model_config(256).experts
    assert changed == dataclasses.replace(experts, capacity=1.25)


def test_a_flag_changes_one_field_of_a_preset_with_experts(corpus, tmp_path):
    path = tmp_path / "mixtral.yaml"
    path.write_text(
        f"corpus: {corpus!r}\ntraining: {{steps: 4, warmup_steps: 2}}\n"
        "model: {preset: mixtral-8x7b}\n"
    )
    preset = ModelConfig.preset("mixtral-8x7b").experts
    run = read_run(path, ["--model.experts.z_weight", "0.5", "--model.vocab_size", "256"])
    assert run.model_config(256).experts == dataclasses.replace(preset, z_weight=0.5)


def test_a_short_flag_is_the_models_not_the_experts(corpus, tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(f"corpus: {corpus!r}\ntraining: {{steps: 4, warmup_steps: 2}}\n")
    config = read_run(path, ["--d_ff", "48", *EXPERTS]).model_config(256)
    assert config.d_ff == 48 and config.experts.d_ff is None and config.expert_width == 48


def test_mistakes_are_named(mistake, corpus, tmp_path):
    def said(*arguments: str) -> str:
        out = tmp_path / "never"
        message = mistake("train", "--corpus", corpus, *TINY, "--out", out, *arguments)
        assert not out.exists()
        return message

    assert "n_active=9 is more than n_experts=8" in said(*EXPERTS[:2], EXPERTS[2], "9")
    assert "needs a value for n_active as well" in said(*EXPERTS[:2])
    assert "capacity=0.0 must be a number above 0" in said(
        *EXPERTS, "--model.experts.capacity", "0"
    )
    assert "layer 5, but n_layers=2" in said(*EXPERTS, "--model.experts.layers", "[5]")
    assert "did you mean '--model.experts.n_experts'" in said("--model.experts.n_expert", "8")
    assert "must be a whole number, or null, got 'x'" in said("--model.experts.n_experts", "x")
    assert "score='tanh' is unknown" in said(*EXPERTS, "--model.experts.score", "tanh")
