"""Every test starts from the same random state and writes to a home of its own."""

from __future__ import annotations

import itertools
import random
import signal

import pytest

# Their tensors are tiny: two threads would spend their time waiting for each other.
ONE_THREAD = ("model", "train", "generate", "evaluate", "parity")

_numbers = itertools.count()


def pytest_configure(config):
    # A command in the background of a script is started deaf to Ctrl-C, and so would be every
    # process that a test starts and then interrupts.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def same_start(request, tmp_path_factory, monkeypatch):
    """Seeds, threads and home; and nothing global that a test changes reaches the next one."""
    import numpy
    import torch

    random.seed(0)
    numpy.random.seed(0)
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    if request.path.relative_to(request.config.rootpath).parts[1] in ONE_THREAD:
        torch.set_num_threads(1)
    # A folder of its own, made when a test first asks for it.
    home = tmp_path_factory.getbasetemp() / f"home-{next(_numbers)}"
    monkeypatch.setenv("LLMCOURSE_HOME", str(home))
    yield
    torch.set_num_threads(threads)
    assert torch.get_default_dtype() == torch.float32, "a test left another default dtype behind"
    assert torch.is_grad_enabled(), "a test left gradients switched off"
