"""Which device computes: asked for by name, refused when it is not there.

Every command takes `--device auto|cpu|cuda|mps`. A device that was asked for and is absent is an
error, never a silent fall back to the CPU: the reader would wait for an hour without knowing why.
"""

from __future__ import annotations

import os
import platform
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

DEVICES = ("auto", "cpu", "cuda", "mps")


def available() -> list[str]:
    """The devices torch can use here, fastest first; "cpu" is always the last."""
    import torch

    found = []
    if torch.cuda.is_available():
        found.append("cuda")
    if torch.backends.mps.is_available():
        found.append("mps")
    return [*found, "cpu"]


def resolve_device(name: str = "auto") -> torch.device:
    """The device of that name; "auto" takes the fastest there is.

    Raises:
        ValueError: an unknown name, or a device that this machine or this torch does not have.
    """
    import torch

    if name not in DEVICES:
        raise ValueError(f"device={name!r} is unknown; choose one of {', '.join(DEVICES)}")
    there = available()
    if name == "auto":
        return torch.device(there[0])
    if name not in there:
        raise ValueError(f"device={name!r} is not available: {_why_not(name)}; here: {there}")
    return torch.device(name)


def describe_device(device: torch.device) -> str:
    """One line for the person waiting: "cpu (AMD EPYC, 2 threads)", "cuda (NVIDIA H200)"."""
    import torch

    if device.type == "cuda":
        return f"cuda ({torch.cuda.get_device_name(device)})"
    if device.type == "mps":
        return "mps (Apple GPU)"
    threads = torch.get_num_threads()
    plural = "" if threads == 1 else "s"
    return f"cpu ({_processor()}, {threads} thread{plural} of {os.cpu_count()})"


def _why_not(name: str) -> str:
    import torch

    if name == "cuda":
        if torch.version.cuda is None and torch.version.hip is None:
            return "this build of torch is for the CPU only"
        return "no GPU was found, or its driver is missing"
    if platform.system() != "Darwin":
        return "mps exists on Apple silicon only"
    return "this Mac, or this build of torch, has no Metal support"


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return " ".join(line.split(":", 1)[1].split())
    except OSError:
        pass
    return platform.processor() or platform.machine()


def provenance() -> dict[str, dict[str, str | int]]:
    """What a measurement or a model was made with: to be kept beside it."""
    import numpy
    import torch

    return {
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__.split("+")[0],
            "numpy": numpy.__version__,
        },
        "machine": {"architecture": platform.machine(), "threads": torch.get_num_threads()},
    }
