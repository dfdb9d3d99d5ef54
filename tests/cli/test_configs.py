"""The configs that come with the course: they load, and they state every choice."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import yaml

from llmcourse.model import ModelConfig, Transformer
from llmcourse.options import as_dict, read_options
from llmcourse.runs import TrainRun
from llmcourse.train import TrainConfig

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))


PARTS_1_AND_2 = {
    "vocab_size", "context_length", "n_layers", "n_heads", "d_model", "d_ff", "positions", "norm",
    "norm_placement", "residual", "activation", "attention_bias", "feed_forward_bias",
    "tie_embeddings", "dropout", "norm_eps", "init_std", "attention",
}  # fmt: skip
# What Part 4 adds to a run is stated where it is used.
TRAINING_OF_PART_2 = {
    "steps", "learning_rate", "min_learning_rate", "optimizer", "muon_learning_rate",
    "warmup_steps", "weight_decay", "beta1", "beta2", "clip_norm", "evaluate_every",
    "sample_every", "precision",
}  # fmt: skip
RUN_OF_PART_2 = {
    "training", "model", "corpus", "tokenizer", "batching", "batch_size", "validation_tokens",
    "prompt", "sample_length", "judged_stories", "seed", "device", "threads", "out",
}  # fmt: skip


def load(path: Path) -> TrainRun:
    return read_options(TrainRun, ["--config", str(path)], "train", config_file=True)


def parameters(config: ModelConfig) -> int:
    return sum(p.numel() for p in Transformer(config).parameters())


def test_they_are_there():
    assert {path.name for path in CONFIGS} >= {"showcase.yaml", "tales.yaml"}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_a_config_states_every_choice(path: Path):
    data = yaml.safe_load(path.read_text(encoding="utf-8"))
    top = {field.name for field in dataclasses.fields(TrainRun)}
    wanted = RUN_OF_PART_2 | ({"tales"} if data["corpus"] == "tales" else set())
    assert top >= data.keys() >= wanted
    # A tokenizer that learns has a vocabulary that is known only when it has read the text.
    open_ended = {"vocab_size"} if data["tokenizer"] in ("words", "bpe") else set()
    fields = {f.name for f in dataclasses.fields(ModelConfig)}
    assert data["model"].keys() <= fields | {"preset"}
    assert data["model"].keys() >= (PARTS_1_AND_2 | {"preset"}) - open_ended
    training = {f.name for f in dataclasses.fields(TrainConfig)}
    assert training >= data["training"].keys() >= TRAINING_OF_PART_2
    run = load(path)
    assert as_dict(run)["training"].items() >= data["training"].items()
    # What is stated is what is built: no default steps in.
    built = run.model_config(data["model"].get("vocab_size", 900)).to_dict()
    said = {"vocab_size": 900} | {k: v for k, v in data["model"].items() if k != "preset"}
    experts = said.pop("experts", {})  # of which only the named fields are stated
    assert {key: built[key] for key in said} == said
    assert {key: (built["experts"] or {}).get(key) for key in experts} == experts
    # And what later parts have added is switched off.
    sizes = ("vocab_size", "context_length", "n_layers", "n_heads", "d_model", "attention_bias")
    plain = ModelConfig(**{name: built[name] for name in sizes}).to_dict()
    later = fields - said.keys() - ({"experts"} if experts else set())
    assert {k: built[k] for k in later} == {k: plain[k] for k in later}


def test_the_showcase_has_its_exact_size():
    run = load(ROOT / "configs/showcase.yaml")
    config = run.model_config(256)
    shape = (config.n_layers, config.d_model, config.n_heads, config.context_length)
    assert shape == (4, 128, 8, 256)
    assert config.tie_embeddings
    assert not config.attention_bias
    assert parameters(config) == 856_832
    assert run.corpus == "docs"


def test_the_tales_model_stays_within_its_size():
    run = load(ROOT / "configs/tales.yaml")
    assert parameters(run.model_config(1024)) <= 1_500_000
    assert (run.corpus, run.batching) == ("tales", "documents")


def test_experts_on_the_laptop_are_as_active_as_the_dense_model():
    dense = load(ROOT / "configs/laptop.yaml").model_config(1024)
    config = load(ROOT / "configs/laptop_experts.yaml").model_config(1024)
    experts = config.experts
    assert config.replace(experts=None) == dense
    assert experts.n_active * experts.d_ff == dense.d_ff
    counted = Transformer(config).summary()
    routers = config.n_layers * experts.n_experts * config.d_model
    biases = config.n_layers * config.d_model  # of every expert's output, where a network has one
    assert counted.active_parameters == parameters(dense) + routers + biases
    assert counted.total_parameters == parameters(config)
