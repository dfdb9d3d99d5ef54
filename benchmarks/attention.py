"""Our flash attention beside naive attention and torch's fused kernel: time and memory.

    python benchmarks/attention.py                   # some three minutes on two cores
    python benchmarks/attention.py --tokens 1024 2048 4096 --output attention.json

Times are causal self-attention in float32 with GPT-2's heads, batch 1. The implementations take
turns in one process, so that a machine that slows down slows all of them; medians are compared.
Memory is what one forward and backward pass adds to a fresh process, of 2 heads, so that the
tables of naive attention fit: a doubling of T should double it, or, for naive, multiply it by 4.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

from llmcourse.model.attention import attend

NAMES = ("naive", "flash", "sdpa")
MEMORY_HEADS = 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, nargs="+", default=[1024, 2048, 4096])
    parser.add_argument("--memory-tokens", type=int, nargs="*", default=[1024, 2048, 4096, 8192])
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--width", type=int, default=64, help="of a head")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--output", help="also write the result as JSON to this file")
    parser.add_argument("--memory-of", choices=NAMES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    if arguments.memory_of:  # we are the fresh process
        print(memory(arguments.memory_of, arguments.memory_tokens[0], arguments.width))
        return

    print(f"{'':<16}{'naive ms':>10}{'flash ms':>10}{'sdpa ms':>10}", end="")
    print(f"{'naive/flash':>13}{'sdpa/flash':>12}")
    times = {}
    for t in arguments.tokens:
        times[t] = timed(t, arguments.heads, arguments.width, arguments.repeats)
        for kind, took in times[t].items():
            print(
                f"{t:>6} {kind:<9}" + "".join(f"{took[name] * 1e3:10.1f}" for name in NAMES), end=""
            )
            print(f"{took['naive'] / took['flash']:13.2f}{took['sdpa'] / took['flash']:12.2f}")

    extra: dict[int, dict[str, float]] = {}
    if arguments.memory_tokens:
        print(f"\n{'extra memory':<16}" + "".join(f"{name + ' MB':>10}" for name in NAMES))
    for t in arguments.memory_tokens:
        extra[t] = {name: in_fresh_process(name, t, arguments.width) for name in NAMES}
        print(f"{t:>6}{'':<10}" + "".join(f"{extra[t][name] / 1e6:10.1f}" for name in NAMES))
    if arguments.output:
        record = {
            "seconds": times,
            "extra_bytes": extra,
            "heads": arguments.heads,
            "memory_heads": MEMORY_HEADS,
            "width": arguments.width,
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "machine": platform.machine(),
        }
        Path(arguments.output).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def inputs(t: int, heads: int, width: int) -> list[torch.Tensor]:
    """q, k, v that want gradients, and a gradient for the output, each (1, H, T, D)."""
    generator = torch.Generator().manual_seed(0)
    q, k, v, slope = (torch.randn(1, heads, t, width, generator=generator) for _ in range(4))
    return [*(x.requires_grad_() for x in (q, k, v)), slope]


def forward(name: str, q, k, v, slope) -> torch.Tensor:
    with torch.no_grad():
        return attend(q, k, v, implementation=name)


def both(name: str, q, k, v, slope) -> tuple[torch.Tensor, ...]:
    return torch.autograd.grad(attend(q, k, v, implementation=name), (q, k, v), slope)


def timed(t: int, heads: int, width: int, repeats: int) -> dict[str, dict[str, float]]:
    """Median seconds of the forward pass and of both, by implementation, after checking them."""
    data = inputs(t, heads, width)
    truth = both("naive", *data)
    for name in NAMES[1:]:
        for mine, theirs in zip(both(name, *data), truth):
            torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-4)
    del truth
    works = {"forward": forward, "both": both}
    taken = {kind: {name: [] for name in NAMES} for kind in works}
    for _ in range(repeats):
        for kind, work in works.items():
            for name in NAMES:
                start = time.perf_counter()
                work(name, *data)
                taken[kind][name].append(time.perf_counter() - start)
    return {
        kind: {name: statistics.median(seconds) for name, seconds in by_name.items()}
        for kind, by_name in taken.items()
    }


def memory(name: str, t: int, width: int) -> int:
    """Bytes that one forward and backward pass adds to the peak of this process."""
    both(name, *inputs(16, MEMORY_HEADS, width))  # what is loaded once is no extra memory
    data = inputs(t, MEMORY_HEADS, width)
    before = peak_bytes()
    both(name, *data)
    return peak_bytes() - before


def peak_bytes() -> int:
    """The most memory this process has held."""
    status = Path("/proc/self/status")
    if status.exists():  # Linux, where a child's ru_maxrss would begin at its parent's
        (line,) = [x for x in status.read_text().splitlines() if x.startswith("VmHWM")]
        return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def in_fresh_process(name: str, t: int, width: int) -> int:
    command = [sys.executable, __file__, "--memory-of", name, "--memory-tokens", str(t)]
    command += ["--width", str(width), "--threads", str(torch.get_num_threads())]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


if __name__ == "__main__":
    main()
