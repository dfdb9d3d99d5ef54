"""Loading a model takes the memory of one model, measured by the system in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from llmcourse.interop.huggingface import save_huggingface
from llmcourse.model import Transformer

MEASURE = """
import sys
import torch
from llmcourse.interop.huggingface import load_huggingface

def peak(field="VmHWM"):
    for line in open("/proc/self/status"):
        if line.startswith(field):
            return int(line.split()[1]) * 1024

small, large = sys.argv[1], sys.argv[2]
load_huggingface(small)  # whatever importing and the first use of everything take
before = peak("VmRSS")
model = load_huggingface(large)
n_bytes = sum(p.nbytes for p in model.parameters())
largest = max(p.nbytes for p in model.parameters())
assert "transformers" not in sys.modules  # it is a peer in tests, never needed
print(peak() - before, n_bytes, largest)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc, which is Linux's")
def test_peak_memory_is_one_copy(make_llama, saved, tmp_path):
    config = make_llama(vocab_size=8000, d_model=768, d_ff=2048, n_heads=12, n_layers=2)
    # Float32 as loaded: a file left open would count as a second copy.
    folder = save_huggingface(Transformer(config), tmp_path / "large")
    out = subprocess.run(
        [sys.executable, "-c", MEASURE, str(saved[2]), str(folder)],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    peak, n_bytes, largest = map(int, out.stdout.split())
    assert n_bytes > 90_000_000
    # The model, one published tensor (mapped), and a few megabytes of everything else.
    assert peak < n_bytes + largest + 16_000_000
    assert peak > 0.9 * n_bytes  # or nothing was measured


def test_loading_leaves_the_random_state_alone(saved):
    before = torch.random.get_rng_state()
    from llmcourse.interop.huggingface import load_huggingface

    load_huggingface(saved[2])
    assert torch.equal(torch.random.get_rng_state(), before)
