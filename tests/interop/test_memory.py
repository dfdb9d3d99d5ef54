"""Loading a model takes the memory of one model, measured by the system in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from llmcourse.interop.huggingface import save_huggingface
from llmcourse.model import Transformer
from llmcourse.model.experts_config import Experts

MEASURE = """
import math
import sys
import torch
from pathlib import Path
from llmcourse.interop.huggingface import load_huggingface
from llmcourse.interop.huggingface.files import tensors_of

def peak(field="VmHWM"):
    for line in open("/proc/self/status"):
        if line.startswith(field):
            return int(line.split()[1]) * 1024

small, large = sys.argv[1], sys.argv[2]
load_huggingface(small)  # whatever importing and the first use of everything take
before = peak("VmRSS")
model = load_huggingface(large)
highest = peak()
n_bytes = sum(p.nbytes for p in model.parameters())
largest = max(4 * math.prod(entry.shape) for entry in tensors_of(Path(large)).values())
assert "transformers" not in sys.modules  # it is a peer in tests, never needed
print(highest - before, n_bytes, largest)
"""


# Dense, and nearly everything in two stacks of 16 experts that lie in 96 published tensors.
LARGE = {
    "dense": {"vocab_size": 8000, "d_model": 768, "d_ff": 2048, "n_heads": 12},
    "experts": {
        "d_model": 512,
        "d_ff": 480,
        "experts": Experts(n_experts=16, n_active=2),
    },
}


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc, which is Linux's")
@pytest.mark.parametrize("kind", list(LARGE))
def test_peak_memory_is_one_copy(make_llama, saved, tmp_path, kind):
    config = make_llama(n_layers=2, **LARGE[kind])
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
    assert kind == "dense" or largest < n_bytes / 90
    # The model, one published tensor (mapped), and a few megabytes of everything else.
    assert peak < n_bytes + largest + 16_000_000
    assert peak > 0.9 * n_bytes  # or nothing was measured


def test_loading_leaves_the_random_state_alone(saved):
    before = torch.random.get_rng_state()
    from llmcourse.interop.huggingface import load_huggingface

    load_huggingface(saved[2])
    assert torch.equal(torch.random.get_rng_state(), before)
