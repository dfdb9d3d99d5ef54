"""The choice of a device: told, and refused when it is absent."""

from __future__ import annotations

import pytest
import torch

from llmcourse import devices


def test_auto_takes_the_fastest_there_is(monkeypatch):
    assert devices.resolve_device("auto").type == devices.available()[0]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert devices.available() == ["cuda", "cpu"]
    assert devices.resolve_device("auto") == torch.device("cuda")
    assert devices.resolve_device("cpu") == torch.device("cpu")


def test_an_absent_device_is_refused_with_its_reason(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch.version, "hip", None)
    with pytest.raises(ValueError, match=r"'cuda' is not available: this build of torch is for"):
        devices.resolve_device("cuda")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    with pytest.raises(ValueError, match="no GPU was found"):
        devices.resolve_device("cuda")
    monkeypatch.setattr("platform.system", lambda: "Linux")
    with pytest.raises(ValueError, match="Apple silicon only"):
        devices.resolve_device("mps")


def test_an_unknown_device_names_the_choices():
    with pytest.raises(ValueError, match="auto, cpu, cuda, mps"):
        devices.resolve_device("tpu")


def test_the_cpu_is_described_with_its_threads():
    text = devices.describe_device(torch.device("cpu"))
    assert text.startswith("cpu (")
    assert f"{torch.get_num_threads()} thread" in text
