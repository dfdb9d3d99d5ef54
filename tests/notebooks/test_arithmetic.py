"""The chapters on another CPU's arithmetic: the stored outputs must hold there too.

`ATEN_CPU_CAPABILITY=default` makes torch use its plain kernels, whose sums run in another order
than those for AVX2 or AVX-512; one thread cuts the work differently from two. The ordinary run of
the notebooks, in the main pytest process, covers the machine's own arithmetic and thread count.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from llmcourse.parts import PARTS

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.parametrize("path", [part.notebook for part in PARTS if part.ready])
def test_outputs_hold_on_plain_kernels_and_one_thread(path: str):
    environment = os.environ | {
        "ATEN_CPU_CAPABILITY": "default",
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--nbval", "-q", "-p", "no:cacheprovider", path],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment,
    )
    assert done.returncode == 0, done.stdout[-5000:]
