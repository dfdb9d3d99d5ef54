"""`llmcourse doctor`: is this machine ready for the course, and if not, what to do.

Each check is a function that returns what it found or raises `Sick` with the advice. All of them
run, whatever the first ones say.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from llmcourse import paths
from llmcourse.options import read_options

OLDEST, NEWEST = (3, 11), (3, 13)
# What the ten notebooks import; the rest is optional and never a reason to fail.
CORE = (
    "torch",
    "numpy",
    "matplotlib",
    "tiktoken",
    "regex",
    "safetensors",
    "tqdm",
    "jsonargparse",
    "jupyterlab",
    "ipykernel",
    "ipywidgets",
)
INSTALL = "in the course's folder, run: make lab"
KERNEL_SECONDS = 60
# The check-up training: its loss after 200 steps, measured over seeds, threads and Python releases.
STEPS, BAND = 200, (2.2, 2.75)


class Sick(Exception):
    """A check failed; the message says what was found and what to do."""


@dataclass(frozen=True)
class Doctor:
    """Check this machine: versions, device, kernel and a short training."""

    device: str = "auto"  # auto, cpu, cuda or mps


def run(argv: Sequence[str]) -> int:
    options = read_options(Doctor, argv, "doctor")
    checks: list[tuple[str, Callable[[], str]]] = [
        ("python", check_python),
        ("packages", check_packages),
        ("device", lambda: check_device(options.device)),
        ("offline", check_offline),
        ("home", check_home),
        ("kernel", check_kernel),
        ("training", lambda: check_training(options.device)),
    ]
    failed = sum(not _perform(name, check) for name, check in checks)
    if failed:
        print(f"\n{failed} of {len(checks)} checks failed; the lines above say what to do.")
        return 1
    print("\nAll is well. Start with: llmcourse lab")
    return 0


def _perform(name: str, check: Callable[[], str]) -> bool:
    try:
        found, well = check(), True
    except Sick as error:
        found, well = str(error), False
    except Exception as error:  # a check must not hide the others, however it breaks
        found, well = f"{type(error).__name__}: {' '.join(str(error).split())}", False
    print(f"{'ok  ' if well else 'FAIL'}  {name:<9} {found}", flush=True)
    return well


def check_python(running: tuple[int, int] = sys.version_info[:2]) -> str:
    """3.11 to 3.13."""
    if not OLDEST <= running <= NEWEST:
        raise Sick(f"Python {running[0]}.{running[1]}; the course needs 3.11, 3.12 or 3.13")
    return f"{sys.version.split()[0]} ({sys.executable})"


def check_packages(pins: dict[str, str] | None = None) -> str:
    """The core is there; what differs from the pins is told, and is no failure."""
    pins = read_pins() if pins is None else pins
    there, missing = {}, []
    for name in CORE:
        try:
            there[name] = version(name)
        except PackageNotFoundError:
            missing.append(name)
    if missing:
        raise Sick(f"missing: {', '.join(missing)}; {INSTALL}")
    # "2.13.0+cpu" is a build of 2.13.0.
    other = [
        f"{name} {found} (pinned {pins[name]})"
        for name, found in there.items()
        if name in pins and found.partition("+")[0] != pins[name]
    ]
    core = f"torch {there['torch']}, numpy {there['numpy']}, jupyterlab {there['jupyterlab']}"
    if other:
        return f"{core}; other than pinned, so numbers may differ: {', '.join(other)}"
    return f"{core}; {'all as pinned' if pins else 'no pins here to compare with'}"


def read_pins() -> dict[str, str]:
    """constraints.txt of the course, or nothing where only the package is installed."""
    root = paths.course_root()
    file = root / "constraints.txt" if root else None
    if file is None or not file.is_file():
        return {}
    lines = file.read_text(encoding="utf-8").splitlines()
    return dict(line.strip().split("==") for line in lines if "==" in line and line[0] != "#")


def check_device(name: str) -> str:
    """The device that was asked for."""
    from llmcourse.devices import available, describe_device, resolve_device

    try:
        device = resolve_device(name)
    except ValueError as error:
        raise Sick(f"{error}; use --device auto") from error
    return f"{describe_device(device)}; available: {', '.join(available())}"


def check_offline() -> str:
    """The course's own texts, which need no network."""
    from llmcourse.data import load_corpus, tales

    docs = load_corpus("docs").bytes
    words = len(tales.sample_story(seed=0).text.split())
    mode = "set to stay offline" if os.environ.get("HF_HUB_OFFLINE") == "1" else "no network needed"
    return f"{mode}: docs has {sum(docs):,} bytes, and a tale of {words} words was told"


def check_home() -> str:
    """Where progress is kept."""
    try:
        folder = paths.home()
        probe = folder / ".doctor"
        probe.write_text("well", encoding="utf-8")
        probe.unlink()
    except (OSError, ValueError) as error:
        raise Sick(f"{error}; set LLMCOURSE_HOME to a folder you can write") from error
    return f"{folder} is writable"


def check_kernel() -> str:
    """A notebook's kernel starts, in this environment, and imports the course."""
    from jupyter_client.manager import start_new_kernel

    started = time.perf_counter()
    # Its own log is for developers; what matters comes back as a message.
    manager, client = start_new_kernel(startup_timeout=KERNEL_SECONDS, stderr=subprocess.DEVNULL)
    try:
        said: list[str] = []
        code = "import sys, llmcourse; print(sys.prefix); print(llmcourse.__file__)"
        reply = client.execute_interactive(
            code, timeout=KERNEL_SECONDS, output_hook=lambda message: said.append(_text(message))
        )
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    if reply["content"]["status"] != "ok":
        raise Sick(f"the kernel cannot import llmcourse; {INSTALL}")
    prefix, file = "".join(said).split("\n")[:2]
    if Path(prefix) != Path(sys.prefix):
        raise Sick(f"the kernel runs in another environment, {prefix}; {INSTALL}")
    here = Path(paths.__file__).parent
    if Path(file).parent != here:
        raise Sick(f"the kernel finds another llmcourse, {Path(file).parent}, not {here}")
    return f"started and imported the course in {time.perf_counter() - started:.1f} s"


def check_training(name: str) -> str:
    """A small model on `docs`; the loss at the end of the same 200 steps lies within a band."""
    import torch

    from llmcourse.data import load_corpus, sliding_window
    from llmcourse.devices import resolve_device
    from llmcourse.model import ModelConfig, Transformer
    from llmcourse.tokenizers import ByteTokenizer
    from llmcourse.train import TrainConfig, train

    try:
        device = resolve_device(name)
    except ValueError as error:
        raise Sick("not tried: there is no such device") from error
    tokenizer = ByteTokenizer()
    generator = torch.Generator().manual_seed(0)
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size, context_length=128, n_layers=2, n_heads=4, d_model=96
    )
    model = Transformer(config, generator=generator).to(device)
    ids = torch.tensor(tokenizer.encode(load_corpus("docs").train_text))
    plan = TrainConfig(steps=STEPS, learning_rate=3e-3, warmup_steps=30)
    started = time.perf_counter()
    threads = torch.get_num_threads()
    # One thread: so small a model gains nothing from more, and on a busy machine loses much.
    torch.set_num_threads(1)
    try:
        history = train(model, sliding_window(ids, 128, 8, generator), plan, progress=False)
    finally:
        torch.set_num_threads(threads)
    seconds = time.perf_counter() - started
    return judge(history.losses, seconds)


def judge(losses: Sequence[float], seconds: float) -> str:
    """Whether a training went as it goes elsewhere; the last 20 steps count."""
    last = sum(losses[-20:]) / len(losses[-20:])
    low, high = BAND
    story = f"loss {losses[0]:.2f} to {last:.2f} nats per byte in {seconds:.0f} s"
    if not low <= last <= high:  # also when it is not a number
        raise Sick(
            f"{story}; expected to end between {low} and {high}. The arithmetic here differs: "
            f"compare the versions above with constraints.txt, and try --device cpu"
        )
    return f"{story}, expected between {low} and {high}"


def _text(message: dict) -> str:
    return message["content"].get("text", "") if message["msg_type"] == "stream" else ""
