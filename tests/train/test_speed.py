"""Counting operations, measuring the machine's peak, and the share of it that a model uses."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from llmcourse.model import ModelConfig, Transformer
from llmcourse.train import cross_entropy, speed
from llmcourse.train.speed import matmul_peak, training_flops, utilisation

SIZES = {"vocab_size": 31, "context_length": 12, "n_layers": 2, "n_heads": 2, "d_model": 24}


@pytest.mark.parametrize("changes", [{}, {"feed_forward": "gated", "n_kv_heads": 1}])
def test_operations_are_those_that_torch_counts(changes):
    config = ModelConfig(**SIZES, **changes, attention="naive")
    model = Transformer(config)
    ids = torch.randint(31, (3, 12))
    with FlopCounterMode(display=False) as counter:
        cross_entropy(model(ids), ids).backward()
    assert training_flops(config, 36) == counter.get_total_flops()


def test_recomputation_does_not_count():
    config = ModelConfig(**SIZES, attention="naive")
    model = Transformer(config)
    model.recompute = True
    ids = torch.randint(31, (3, 12))
    with FlopCounterMode(display=False) as counter:
        cross_entropy(model(ids), ids).backward()
    assert counter.get_total_flops() > 1.2 * training_flops(config, 36)


def test_close_to_the_formula_of_the_paper():
    # 6 N + 12 L H Q T per token, N without the tables that are looked up; GPT-2's head is tied.
    config = ModelConfig.preset("gpt2")
    n = Transformer(config.replace(n_layers=1)).n_parameters() - 1024 * 768
    per_layer = 12 * 768 * 768
    n += 11 * per_layer
    formula = 6 * n + 12 * 12 * 768 * 1024
    assert training_flops(config, 1) == pytest.approx(formula, rel=0.001)


def test_the_share_of_a_machine():
    config = ModelConfig(**SIZES)
    flops = training_flops(config, 1000)
    assert utilisation(config, 1000, 2.0, flops) == pytest.approx(0.5)
    assert training_flops(config, 0) == 0


def test_the_peak_follows_from_the_time_of_a_product(monkeypatch):
    clock = iter(range(1000))
    monkeypatch.setattr(speed.time, "perf_counter", lambda: next(clock) * 0.01)
    # Every product seems to take 0.01 s.
    assert matmul_peak("cpu", size=100) == pytest.approx(2 * 100**3 / 0.01)


@pytest.mark.parametrize(
    ("precision", "products"),
    [("float32", "plain"), ("float32", "convolution"), ("bfloat16", "plain")],
)
def test_a_peak_is_measured(precision, products, monkeypatch):
    monkeypatch.setattr(speed, "SECONDS", 0.01)
    assert 1e8 < matmul_peak("cpu", precision, products, size=128) < 1e15


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: matmul_peak("cpu", "int8"), "precision='int8' is unknown; choose .*'float16'"),
        (lambda: matmul_peak("cpu", products="auto"), "products='auto' is unknown; choose one of"),
        (lambda: training_flops(ModelConfig(**SIZES), -1), "tokens=-1 must be at least 0"),
        (lambda: utilisation(ModelConfig(**SIZES), 1, 0.0, 1.0), "must be above 0"),
        (lambda: utilisation(ModelConfig(**SIZES), 1, 1.0, 0.0), "must be above 0"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
