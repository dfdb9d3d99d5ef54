"""Every test starts from the same random state and writes to a home of its own."""

from __future__ import annotations

import os
import random

import pytest


@pytest.fixture(autouse=True)
def same_start(tmp_path_factory, monkeypatch):
    """Seeds, threads, dtype and home; what a test changes does not reach the next one."""
    import numpy
    import torch

    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(min(2, os.cpu_count() or 1))
    random.seed(0)
    numpy.random.seed(0)
    torch.manual_seed(0)
    # The folder itself is made when a test asks for it.
    home = tmp_path_factory.getbasetemp() / "homes" / f"{os.getpid()}-{next(_numbers)}"
    monkeypatch.setenv("LLMCOURSE_HOME", str(home))
    yield
    assert torch.get_default_dtype() == torch.float32, "a test left another default dtype behind"
    assert torch.is_grad_enabled(), "a test left gradients switched off"


_numbers = iter(range(10**9))
