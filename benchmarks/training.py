"""Training throughput: this package beside transformers, and what each step of Part 4 brings.

    python benchmarks/training.py peers              # some six minutes on two cores
    python benchmarks/training.py ladder             # some five minutes
    python benchmarks/training.py curves             # some three minutes
    python benchmarks/training.py peers --json training.json

`peers`: models of the same shape and random weights, each trained by the same loop (autocast where
the row says bfloat16, AdamW fused, no clipping), ours of GPT-2's kind beside transformers' GPT-2,
ours of Llama's kind beside transformers' Llama. The contenders take turns, so that a machine that
slows down slows all of them; the ratio is that of the medians, and the spread is the middle half of
the times. The losses of the first step and the parameter counts are printed, so that one can see
that the contenders do the same work.

`ladder`: the plain loop of Part 2, then one choice of `TrainConfig` more on every line: time and
peak memory of each line (memory in a fresh process each), and how much of the machine is used.

`curves`: the same few hundred updates in each precision, against float32.

Each part writes its section of the JSON file and leaves the others.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from llmcourse.data.batches import Batch
from llmcourse.model import ModelConfig, Transformer
from llmcourse.model.products import choose_products, set_products
from llmcourse.train import TrainConfig, cross_entropy, training_steps
from llmcourse.train.speed import matmul_peak, training_flops

# Layers, width, heads, context and batch size; of nanoGPT's character model, and a small one.
SHAPES = {"large": (6, 384, 6, 256, 12), "small": (4, 128, 4, 128, 32)}
LLAMA_D_FF = {"large": 1024, "small": 344}  # 8/3 of the width, so that parameters are about equal


@dataclasses.dataclass(frozen=True)
class Case:
    """One table of `peers`."""

    shape: str
    precision: str
    compiled: bool


CASES = (
    Case("large", "float32", False),
    Case("large", "bfloat16", False),
    Case("large", "bfloat16", True),
    Case("small", "float32", False),
    Case("small", "bfloat16", False),
    Case("small", "bfloat16", True),
)


def ours(kind: str, shape: str, vocab: int) -> Transformer:
    layers, width, heads, context, _ = SHAPES[shape]
    sizes = {"vocab_size": vocab, "context_length": context, "n_layers": layers, "n_heads": heads}
    if kind == "GPT-2":
        changes: dict[str, Any] = {"activation": "gelu_tanh", "norm_eps": 1e-5}
    else:
        changes = {
            "positions": "rope", "norm": "rms", "feed_forward": "gated", "activation": "silu",
            "d_ff": LLAMA_D_FF[shape], "attention_bias": False, "feed_forward_bias": False,
            "tie_embeddings": False, "norm_eps": 1e-6,
        }  # fmt: skip
    config = ModelConfig(**sizes, d_model=width, **changes)
    return Transformer(config, torch.Generator().manual_seed(0))


def theirs(kind: str, shape: str, vocab: int) -> nn.Module:
    """transformers' model of the same shape, through its Auto class, with its default attention."""
    from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

    layers, width, heads, context, _ = SHAPES[shape]
    torch.manual_seed(0)
    # Dropout off, as in ours; a cache is of no use in training and would only cost time.
    options: dict[str, Any] = {
        "vocab_size": vocab, "bos_token_id": None, "eos_token_id": None, "use_cache": False,
    }  # fmt: skip
    if kind == "GPT-2":
        options |= {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
        config = GPT2Config(
            n_positions=context, n_embd=width, n_layer=layers, n_head=heads, **options
        )
    else:
        config = LlamaConfig(
            hidden_size=width,
            intermediate_size=LLAMA_D_FF[shape],
            num_hidden_layers=layers,
            num_attention_heads=heads,
            max_position_embeddings=context,
            **options,
        )
    return AutoModelForCausalLM.from_config(config)


def our_loss(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    return cross_entropy(model(inputs), targets)


def their_loss(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    return model(input_ids=inputs, labels=inputs).loss  # they shift by one themselves


def updater(
    model: nn.Module, loss: Callable[..., Tensor], case: Case, data: tuple[Tensor, Tensor]
) -> Callable[[], float]:
    """A call that makes one update and returns the loss before it."""
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    forward = torch.compile(model) if case.compiled else model

    def update() -> float:
        with torch.autocast("cpu", torch.bfloat16, enabled=case.precision == "bfloat16"):
            value = loss(forward, *data)
        value.backward()
        optimizer.step()
        optimizer.zero_grad()
        return value.item()

    return update


def peers(case: Case, vocab: int, seconds: float) -> dict[str, Any]:
    """One table: our two models and their two, in turns."""
    context, batch = SHAPES[case.shape][3:]
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(vocab, (batch, context + 1), generator=generator)
    data = ids[:, :-1].contiguous(), ids[:, 1:].contiguous()
    models, runs = {}, {}
    for kind in ("GPT-2", "Llama"):
        mine, peer = ours(kind, case.shape, vocab), theirs(kind, case.shape, vocab)
        set_products(mine, "auto")
        models |= {f"ours, {kind}": mine, f"transformers, {kind}": peer}
        runs[f"ours, {kind}"] = updater(mine, our_loss, case, data)
        runs[f"transformers, {kind}"] = updater(peer, their_loss, case, data)
    losses = {name: run() for name, run in runs.items()}  # the first update compiles, too
    times = in_turns(runs, seconds)
    rows = {}
    for name, taken in times.items():
        kind = name.split(", ")[1]
        rows[name] = {
            **spread(taken),
            "tokens_per_second": batch * context / statistics.median(taken),
            "ratio": statistics.median(times[f"transformers, {kind}"]) / statistics.median(taken),
            "parameters": sum(p.numel() for p in models[name].parameters()),
            "first_loss": losses[name],
        }
    return {**dataclasses.asdict(case), "vocab": vocab, "rows": rows}


def in_turns(runs: dict[str, Callable[[], float]], seconds: float) -> dict[str, list[float]]:
    """Seconds of each run, in turns, for about so many seconds in all and at least three rounds."""
    for run in runs.values():
        run()
    taken: dict[str, list[float]] = {name: [] for name in runs}
    begun, rounds = time.perf_counter(), 0
    while rounds < 3 or time.perf_counter() - begun < seconds:
        rounds += 1
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            taken[name].append(time.perf_counter() - start)
    return taken


def spread(taken: list[float]) -> dict[str, Any]:
    quarter, middle, last = statistics.quantiles(taken, n=4)
    best = min(taken)
    return {"seconds": middle, "low": quarter, "high": last, "best": best, "rounds": len(taken)}


def print_peers(table: dict[str, Any]) -> None:
    layers, width, _, context, batch = SHAPES[table["shape"]]
    way = "compiled" if table["compiled"] else "eager"
    print(
        f"\n{layers} layers, {width} wide, context {context}, batch {batch}, vocabulary "
        f"{table['vocab']}, {table['precision']}, {way}"
    )
    print(
        f"{'':<22}{'tokens/s':>10}{'ms':>9}{'middle half':>16}{'ratio':>8}{'parameters':>13}",
        end="",
    )
    print(f"{'first loss':>12}")
    for name, row in table["rows"].items():
        half = f"{1e3 * row['low']:.0f} to {1e3 * row['high']:.0f}"
        print(
            f"{name:<22}{row['tokens_per_second']:>10,.0f}{1e3 * row['seconds']:>9.1f}{half:>16}"
            f"{row['ratio']:>8.2f}{row['parameters']:>13,}{row['first_loss']:>12.3f}",
            flush=True,
        )


def print_compiled(tables: list[dict[str, Any]]) -> None:
    """What torch.compile alone brings, to us and to them."""
    print("\ntorch.compile alone: eager time / compiled time")
    for shape in SHAPES:
        pair = [t for t in tables if t["shape"] == shape and t["precision"] == "bfloat16"]
        if len(pair) != 2:
            continue
        eager, compiled = sorted(pair, key=lambda table: table["compiled"])
        for name, row in compiled["rows"].items():
            gain = eager["rows"][name]["seconds"] / row["seconds"]
            row["compile_gain"] = gain
            print(f"  {shape:<8}{name:<22}{gain:6.2f}" + ("   (below 2)" if gain < 2 else ""))


# The ladder: each line keeps what the ones before it brought.
LADDER: tuple[tuple[str, dict[str, Any]], ...] = (
    ("plain Part 2 loop", {}),
    ("float32 products by measurement", {"products": "auto"}),
    ("bfloat16 autocast", {"precision": "bfloat16"}),
    ("loss in chunks", {"loss_chunk": 1024}),
    ("torch.compile", {"compile": True}),
    ("recomputed blocks", {"recompute": True}),
)


def rungs(steps: int) -> dict[str, TrainConfig]:
    config = TrainConfig(steps=steps, warmup_steps=0)
    found = {}
    for name, change in LADDER:
        config = dataclasses.replace(config, **change)
        found[name] = config
    return found


def endless(vocab: int, shape: str) -> Iterator[Batch]:
    context, batch = SHAPES[shape][3:]
    generator = torch.Generator().manual_seed(1)
    while True:
        ids = torch.randint(vocab, (batch, context + 1), generator=generator)
        yield Batch(ids[:, :-1].contiguous(), ids[:, 1:].contiguous())


def ladder_steps(name: str, shape: str, vocab: int) -> Callable[[], float]:
    config = rungs(10_000)[name]
    steps = training_steps(ours("GPT-2", shape, vocab), endless(vocab, shape), config)
    return lambda: next(steps).loss


def ladder(shape: str, vocab: int, seconds: float, n_rungs: int) -> dict[str, Any]:
    """Time in this process, in turns; memory in a fresh one each."""
    names = list(rungs(10))[:n_rungs]
    runs = {name: ladder_steps(name, shape, vocab) for name in names}
    losses = {name: run() for name, run in runs.items()}
    times = in_turns(runs, seconds)
    model = ours("GPT-2", shape, vocab)
    choice = choose_products(model)
    context, batch = SHAPES[shape][3:]
    flops = training_flops(model.config, batch * context)
    peaks = {
        "float32": matmul_peak("cpu", "float32"),
        "float32, convolution": matmul_peak("cpu", "float32", "convolution"),
        "bfloat16": matmul_peak("cpu", "bfloat16"),
    }
    rows, before = {}, None
    first = statistics.median(times[names[0]])
    for name in names:
        row = spread(times[name])
        peak = peaks["bfloat16" if rungs(10)[name].precision == "bfloat16" else "float32"]
        row |= {
            "tokens_per_second": batch * context / row["seconds"],
            "speed": first / row["seconds"],
            "step": 1.0 if before is None else before / row["seconds"],
            "flops_per_second": flops / row["seconds"],
            "utilisation": flops / row["seconds"] / peak,
            "bytes": in_fresh_process(name, shape, vocab),
            "first_loss": losses[name],
        }
        rows[name], before = row, row["seconds"]
    for row in rows.values():
        row["memory"] = row["bytes"] / rows[names[0]]["bytes"]
    return {
        "shape": shape, "vocab": vocab, "peaks": peaks, "rows": rows,
        "products": choice._asdict(),
    }  # fmt: skip


def print_ladder(table: dict[str, Any]) -> None:
    layers, width, _, context, batch = SHAPES[table["shape"]]
    print(
        f"\n{layers} layers, {width} wide, context {context}, batch {batch}, vocabulary "
        f"{table['vocab']:,}; each line keeps what those before it brought"
    )
    print(f"{'':<34}{'tokens/s':>10}{'ms':>8}{'middle half':>14}{'step':>7}{'in all':>8}", end="")
    print(f"{'MFU':>6}{'memory MB':>11}{'share':>7}{'first loss':>12}")
    for name, row in table["rows"].items():
        half = f"{1e3 * row['low']:.0f} to {1e3 * row['high']:.0f}"
        print(
            f"{name:<34}{row['tokens_per_second']:>10,.0f}{1e3 * row['seconds']:>8.0f}{half:>14}"
            f"{row['step']:>7.2f}{row['speed']:>8.2f}{row['utilisation']:>6.0%}"
            f"{row['bytes'] / 1e6:>11,.0f}{row['memory']:>7.0%}{row['first_loss']:>12.3f}",
            flush=True,
        )
    peaks = ", ".join(f"{name} {peak / 1e9:.0f}" for name, peak in table["peaks"].items())
    print(f"large products reach, GFLOP/s: {peaks}")
    print(f"products: {table['products']['product']} ({table['products']['reason']})")


def in_fresh_process(name: str, shape: str, vocab: int) -> int:
    """Bytes that three updates add to the peak of a process that has loaded all it needs."""
    command = [sys.executable, __file__, "memory", "--of", name, "--shape", shape]
    command += ["--vocab", str(vocab), "--threads", str(torch.get_num_threads())]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def memory(name: str, shape: str, vocab: int) -> int:
    """What training takes: weights, gradients, optimiser, activations."""
    config = dataclasses.replace(rungs(10)[name], products="convolution")  # measured elsewhere
    if rungs(10)[name].products == "plain":
        config = dataclasses.replace(config, products="plain")
    before = peak_bytes()
    steps = training_steps(ours("GPT-2", shape, vocab), endless(vocab, shape), config)
    next(steps)
    if config.compile:
        # The compiler's own memory, of the first update, is none of the training's.
        reset_peak()
    for _ in range(2):
        next(steps)
    return peak_bytes() - before


def peak_bytes() -> int:
    """The most memory this process has held since it began, or since `reset_peak`."""
    status = Path("/proc/self/status").read_text()
    (line,) = [x for x in status.splitlines() if x.startswith("VmHWM")]
    return int(line.split()[1]) * 1024


def reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak is now what is held now


CURVES: dict[str, dict[str, Any]] = {
    "float32": {},
    "float32, convolution": {"products": "convolution"},
    "bfloat16": {"precision": "bfloat16"},
    "bfloat16, loss in chunks": {"precision": "bfloat16", "loss_chunk": 1024},
    "float32, another seed": {},
}


def curves(steps: int) -> dict[str, Any]:
    """Losses of the same updates, computed in several ways; a second seed shows what is noise."""
    from llmcourse.data import load_corpus
    from llmcourse.data.batches import sliding_window

    text = load_corpus("tales").train_text.encode()
    ids = torch.tensor(list(text))
    context, batch = SHAPES["small"][3:]
    found = {}
    for name, change in CURVES.items():
        seed = 1 if "seed" in name else 0
        model = ours("Llama", "small", 256)
        batches = sliding_window(
            ids, batch_size=batch, context_length=context,
            generator=torch.Generator().manual_seed(seed),
        )  # fmt: skip
        config = TrainConfig(steps=steps, learning_rate=3e-3, warmup_steps=steps // 10, **change)
        found[name] = [record.loss for record in training_steps(model, batches, config)]
        print(f"  {name:<28} last loss {found[name][-1]:.4f}", flush=True)
    base = torch.tensor(found["float32"])
    rows = {}
    for name, losses in found.items():
        gap = (torch.tensor(losses) - base).abs()
        rows[name] = {"losses": losses, "mean_gap": gap.mean().item(), "last": losses[-1]}
        print(f"  {name:<28} mean distance from float32 {gap.mean():.4f} nats")
    return {"steps": steps, "rows": rows}


def write(path: Path | None, section: str, value: object) -> None:
    """Put one section into the JSON file and leave the others."""
    if path is None:
        return
    held = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    held[section] = value
    held["machine"] = {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "machine": platform.machine(),
    }
    path.write_text(json.dumps(held, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("peers", "ladder", "curves", "memory"))
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    parser.add_argument("--quick", action="store_true", help="few rounds; small shape, no compiler")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, help="of every table's rounds")
    parser.add_argument("--vocab", type=int, help="tokens; peers: 65 as nanoGPT, ladder: 50,304")
    parser.add_argument("--shape", choices=tuple(SHAPES), default="large", help="of the ladder")
    parser.add_argument("--case", type=int, nargs="+", help=f"of peers: 0 to {len(CASES) - 1}")
    parser.add_argument("--rungs", type=int, help="only so many of the ladder, from the bottom")
    parser.add_argument("--steps", type=int, default=300, help="of the curves")
    parser.add_argument("--of", help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.what == "memory":
        print(memory(args.of, args.shape, args.vocab))
    elif args.what == "peers":
        chosen = args.case or range(len(CASES))
        cases = [CASES[i] for i in chosen]
        if args.quick:
            cases = [case for case in cases if case.shape == "small" and not case.compiled]
        tables = []
        for case in cases:
            torch.compiler.reset()
            tables.append(peers(case, args.vocab or 65, args.seconds or (5 if args.quick else 20)))
            print_peers(tables[-1])
            print_compiled(tables) if case.compiled else None
            write(args.json, "peers", tables)
    elif args.what == "ladder":
        shape = "small" if args.quick else args.shape
        seconds = args.seconds or (5 if args.quick else 40)
        n_rungs = args.rungs or (4 if args.quick else len(LADDER))
        table = ladder(shape, args.vocab or 50_304, seconds, n_rungs)
        print_ladder(table)
        write(args.json, "ladder", table)
    else:
        write(args.json, "curves", curves(20 if args.quick else args.steps))


if __name__ == "__main__":
    main()
