"""Mixture of experts: this package's layer beside transformers' blocks and a dense layer.

    python benchmarks/moe.py layer                   # some four minutes on two cores
    python benchmarks/moe.py growth                  # one minute
    python benchmarks/moe.py shares                  # half a minute
    python benchmarks/moe.py decode                  # some three minutes
    python benchmarks/moe.py layer --json notebooks/evidence/part05_speed.json

`layer`: forward plus backward of one sparse layer (width 512, 8 experts of width 1,024, two per
token, 4,096 tokens): ours with either dispatch, transformers' Mixtral and Qwen3-MoE blocks with
either of theirs, and a dense layer of the same arithmetic (width 2 times 1,024), all with the same
activation. Before anything is timed, all sparse ones are given the same weights and must return the
same outputs and gradients. In float32 ours and the dense layer are timed with both ways to multiply
of `llmcourse.model.products`; in bfloat16 once as training runs it, under autocast with weights in
float32, and once with the weights themselves in bfloat16.

`growth`: the same layer with more and more experts, two of them active.

`shares`: where the time of one layer goes: routing, gathering, products, combining.

`decode`: tokens per second, one at a time, of a model with experts, of a dense one with the same
active parameters and of one with the same total, and of transformers' Mixtral with the same
weights; bytes that a token reads, against the memory's speed; and what routing one token costs.

The contenders take turns, so that a machine that slows down slows all of them; each lives in a
process of its own, since what one has allocated and freed decides how fast another gets memory.
Ratios are those of the medians, and the spread is the middle half of the times. Each part writes
its section of the JSON file and leaves the others.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import multiprocessing
import platform
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from llmcourse.generate import Sampling, generate
from llmcourse.generate.prepare import prepare_for_inference
from llmcourse.model import ModelConfig, Transformer
from llmcourse.model.expert_dispatch import _Combine, _Gather, group
from llmcourse.model.experts_config import Experts
from llmcourse.model.feed_forward import GatedFeedForward
from llmcourse.model.moe import MixtureOfExperts
from llmcourse.model.products import set_products
from llmcourse.model.summary import summary as config_summary
from llmcourse.train.speed import matmul_peak

N, C, E, K, F = 4096, 512, 8, 2, 1024  # tokens, width, experts, active ones, width of an expert
WARM = 3  # runs of each contender before any is timed


@dataclasses.dataclass(frozen=True)
class Case:
    """One table of `layer`."""

    name: str
    precision: str  # whose matrix peak is the measure
    weights: torch.dtype = torch.float32
    autocast: bool = False


CASES = (
    Case("float32", "float32"),
    Case("bfloat16, autocast", "bfloat16", autocast=True),
    Case("bfloat16, weights too", "bfloat16", weights=torch.bfloat16),
)


def config_of(n_experts: int = E, dispatch: str = "grouped", **changes: Any) -> ModelConfig:
    """A model whose layers have the size that is measured."""
    sizes = {"vocab_size": 256, "context_length": N, "n_layers": 1, "n_heads": 8, "d_model": C}
    kind = {"feed_forward": "gated", "activation": "silu", "feed_forward_bias": False}
    experts = Experts(n_experts, K, d_ff=F, dispatch=dispatch)
    return ModelConfig(**sizes | kind | {"d_ff": K * F, "experts": experts} | changes)


def sparse(
    n_experts: int = E, dispatch: str = "grouped", products: str = "plain"
) -> MixtureOfExperts:
    generator = torch.Generator().manual_seed(0)
    module = MixtureOfExperts(config_of(n_experts, dispatch), 0.02, generator)
    set_products(module, products)
    return module


def dense(products: str = "plain") -> GatedFeedForward:
    module = GatedFeedForward(config_of(), 0.02, torch.Generator().manual_seed(0))
    set_products(module, products)
    return module


THEIRS = tuple(
    f"{block}, {way}" for block in ("Mixtral", "Qwen3-MoE") for way in ("eager", "grouped_mm")
)


def their_block(name: str) -> nn.Module:
    """One of transformers' blocks with one of its ways to run experts, and our weights."""
    from transformers import MixtralConfig, Qwen3MoeConfig
    from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock
    from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeSparseMoeBlock

    kind, way = name.split(", ")
    options: dict[str, Any] = {"hidden_size": C, "num_experts_per_tok": K}
    if kind == "Mixtral":
        config = MixtralConfig(intermediate_size=F, num_local_experts=E, **options)
        make = MixtralSparseMoeBlock
    else:
        config = Qwen3MoeConfig(
            moe_intermediate_size=F, num_experts=E, norm_topk_prob=True, **options
        )
        make = Qwen3MoeSparseMoeBlock
    config._experts_implementation = way  # as a model that holds the block sets it
    block, ours = make(config), sparse()
    if block.experts.config._experts_implementation != way:
        raise RuntimeError(f"transformers did not take experts_implementation={way!r}")
    with torch.no_grad():
        block.gate.weight.copy_(ours.router.weight)
        block.experts.gate_up_proj.copy_(ours.experts.up)
        block.experts.down_proj.copy_(ours.experts.down)
    return block


# What is timed in `layer`: a name and how it is made. The products of ours are in the name where
# they matter.
def makers(case: Case) -> dict[str, Callable[[], nn.Module]]:
    wide = case.precision == "float32"
    found: dict[str, Callable[[], nn.Module]] = {}
    for products in ("plain", "convolution") if wide else ("plain",):
        note = f", {products}" if wide else ""
        found[f"ours, grouped{note}"] = partial(sparse, products=products)
        found[f"ours, loop{note}"] = partial(sparse, dispatch="loop", products=products)
        found[f"dense{note}"] = partial(dense, products)
    for name in THEIRS:
        found[name] = partial(their_block, name)
    return found


def tokens_of(case: Case) -> tuple[Tensor, Tensor]:
    """What a layer reads, and the slope of what it writes: (1, N, C) each."""
    generator = torch.Generator().manual_seed(1)
    x, slope = (torch.randn(1, N, C, generator=generator).to(case.weights) for _ in range(2))
    return x.requires_grad_(), slope


def passing(make: Callable[[], nn.Module], case: Case) -> Callable[[], tuple[Tensor, Tensor]]:
    """A call that goes forward and backward: the output and the gradient of the input."""
    module = make().to(case.weights)
    x, slope = tokens_of(case)

    def run() -> tuple[Tensor, Tensor]:
        x.grad = None
        module.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=case.autocast):
            y = module(x)
        y.backward(slope.to(y.dtype))
        return y.detach(), x.grad

    return run


def timing(make: Callable[[], nn.Module], case: Case) -> Callable[[], None]:
    run = passing(make, case)

    def quietly() -> None:
        run()  # and nothing goes through the pipe but the time

    return quietly


def checking(case: Case) -> Callable[[], dict[str, float]]:
    """A call that says how far every sparse contender is from the definition in float32.

    In bfloat16 the scores of two experts can be so near that a block that scores in half precision
    takes the other one: there the middle token of all is compared, in float32 the worst. Outputs
    and gradients of the input are.

    Raises:
        RuntimeError: they do not compute the same.
    """

    def run() -> dict[str, float]:
        wanted = passing(partial(sparse, dispatch="loop"), CASES[0])()
        limit = 1e-4 if case.precision == "float32" else 0.03
        found = {}
        for name, make in makers(case).items():
            if name.startswith("dense"):
                continue
            gaps = []
            for mine, right in zip(passing(make, case)(), wanted, strict=True):
                each = (mine.float() - right).norm(dim=-1) / right.norm(dim=-1)
                gaps.append(each.max() if case.precision == "float32" else each.median())
            found[name] = max(float(gap) for gap in gaps)
            if not found[name] < limit:
                raise RuntimeError(f"{name} is {found[name]:.1e} off the definition, {case.name}")
        return found

    return run


def peaking(precision: str, products: str) -> Callable[[], float]:
    return lambda: matmul_peak("cpu", precision, products)


def layer(case: Case, seconds: float, threads: int) -> dict[str, Any]:
    """One table: everyone in turns, and how much of the machine each uses."""
    gaps = apart(partial(checking, case), threads)
    ways = ("plain", "convolution") if case.precision == "float32" else ("plain",)
    builds = {name: partial(timing, make, case) for name, make in makers(case).items()}
    peaks = {f"peak, {way}": partial(peaking, case.precision, way) for way in ways}
    times, values = in_turns(builds | peaks, seconds, threads)
    middle = {name: statistics.median(taken) for name, taken in times.items()}
    theirs = min(middle[name] for name in THEIRS)
    peak = {way: statistics.median(values[f"peak, {way}"]) for way in ways}
    flops = 3 * 2 * N * K * 3 * C * F  # three passes; gate, up and down of two experts per token
    rows = {}
    for name in builds:
        way = "convolution" if name.endswith("convolution") else "plain"
        beside = f"dense, {way}" if len(ways) > 1 else "dense"
        rows[name] = {
            **spread(times[name]),
            "of_theirs": theirs / middle[name],
            "of_dense": middle[beside] / middle[name],
            "utilisation": flops / middle[name] / peak[way],
            "gap": gaps.get(name),
        }
    return {"case": case.name, "flops": flops, "peaks": peak, "rows": rows}


def print_layer(table: dict[str, Any]) -> None:
    print(f"\n{table['case']}: width {C}, {E} experts of {F}, top-{K}, {N:,} tokens, both passes")
    print(
        f"{'':<28}{'ms':>8}{'middle half':>16}{'x theirs':>10}{'x dense':>9}{'of peak':>9}"
        f"{'gap':>9}"
    )
    for name, row in table["rows"].items():
        half = f"{1e3 * row['low']:.0f} to {1e3 * row['high']:.0f}"
        gap = "" if row["gap"] is None else f"{row['gap']:.0e}"
        print(
            f"{name:<28}{1e3 * row['seconds']:>8.1f}{half:>16}{row['of_theirs']:>10.2f}"
            f"{row['of_dense']:>9.2f}{row['utilisation']:>9.0%}{gap:>9}",
            flush=True,
        )
    peaks = ", ".join(f"{way} {peak / 1e9:.0f}" for way, peak in table["peaks"].items())
    print(f"large products reach, GFLOP/s: {peaks}")


GROWTH = (2, 4, 8, 16, 32)  # experts, two of them active


def growth(case: Case, seconds: float, threads: int) -> dict[str, Any]:
    """Forward and backward with more and more experts: arithmetic stays, weights grow."""
    products = "convolution" if case.precision == "float32" else "plain"
    makes = {str(e): partial(sparse, e, products=products) for e in GROWTH}
    makes["dense"] = partial(dense, products)
    builds = {name: partial(timing, make, case) for name, make in makes.items()}
    times, _ = in_turns(builds, seconds, threads)
    base = statistics.median(times["dense"])
    rows = {}
    for name, taken in times.items():
        n = K if name == "dense" else int(name)
        rows[name] = spread(taken) | {"parameters": 3 * n * C * F}
        rows[name]["of_dense"] = base / rows[name]["seconds"]
    return {"case": case.name, "products": products, "rows": rows}


def print_growth(table: dict[str, Any]) -> None:
    print(f"\n{table['case']}, {table['products']}: {K} experts active of more and more")
    print(f"{'experts':<12}{'parameters':>13}{'ms':>9}{'middle half':>16}{'x dense':>9}")
    for name, row in table["rows"].items():
        half = f"{1e3 * row['low']:.0f} to {1e3 * row['high']:.0f}"
        print(
            f"{name:<12}{row['parameters']:>13,}{1e3 * row['seconds']:>9.1f}{half:>16}"
            f"{row['of_dense']:>9.2f}",
            flush=True,
        )


def stages(case: Case) -> Callable[[], dict[str, float]]:
    """A call that takes one layer apart and gives the seconds of each stage, both passes."""
    products = "convolution" if case.precision == "float32" else "plain"
    module = sparse(products=products).to(case.weights)
    x, slope = tokens_of(case)
    rows_in, slope = x.detach()[0], slope[0]

    def run() -> dict[str, float]:
        taken: dict[str, float] = {}

        def stage(name: str, work: Callable[[], Any]) -> Any:
            start = time.perf_counter()
            with torch.autocast("cpu", torch.bfloat16, enabled=case.autocast):
                made = work()
            taken[name] = taken.get(name, 0.0) + time.perf_counter() - start
            return made

        def back(name: str, out: Tensor, leaves: list[Tensor], gradient: Tensor) -> Any:
            return stage(name, lambda: torch.autograd.grad(out, leaves, gradient.to(out.dtype)))

        leaf = rows_in.clone().requires_grad_()
        routing = stage("routing", lambda: module.router(leaf, (1, N), module))
        groups = stage("sorting", lambda: group(routing))
        places = groups.rows, groups.bag, groups.offsets
        rows = stage("gathering", lambda: _Gather.apply(leaf, *places))
        cut = rows.detach().requires_grad_()
        made = stage("networks", lambda: module.experts(cut, groups.counts))
        made_cut = made.detach().requires_grad_()
        chosen = stage("combining", lambda: routing.weights[groups.order])
        chosen_cut = chosen.detach().requires_grad_()
        y = stage("combining", lambda: _Combine.apply(made_cut, chosen_cut, *places))
        to_made, to_chosen = back("combining", y, [made_cut, chosen_cut], slope)
        to_rows = back("networks", made, [cut, *module.experts.parameters()], to_made)[0]
        back("gathering", rows, [leaf], to_rows)
        back("routing", chosen, [leaf, module.router.weight], to_chosen)
        return taken

    return run


def shares(case: Case, seconds: float, threads: int) -> dict[str, Any]:
    """Where the time of one layer goes."""
    _, values = in_turns({"stages": partial(stages, case)}, seconds, threads)
    names = values["stages"][0]
    middle = {name: statistics.median(v[name] for v in values["stages"]) for name in names}
    whole = sum(middle.values())
    rows = {name: {"seconds": s, "share": s / whole} for name, s in middle.items()}
    return {"case": case.name, "seconds": whole, "rounds": len(values["stages"]), "rows": rows}


def print_shares(table: dict[str, Any]) -> None:
    print(f"\n{table['case']}: {1e3 * table['seconds']:.1f} ms, of which")
    for name, row in table["rows"].items():
        print(f"  {name:<12}{1e3 * row['seconds']:>8.2f} ms{row['share']:>8.1%}", flush=True)


# A small model of Mixtral's kind: 12 layers, every one sparse.
DECODER: dict[str, Any] = {
    "vocab_size": 8192, "context_length": 512, "n_layers": 12, "n_heads": 8, "d_model": C,
    "positions": "rope", "norm": "rms", "feed_forward": "gated", "activation": "silu",
    "d_ff": K * F, "attention_bias": False, "feed_forward_bias": False, "tie_embeddings": False,
}  # fmt: skip
PROMPT, NEW = 16, 64  # tokens


def decoder(kind: str) -> ModelConfig:
    """The sparse model, or a dense one with the same active parameters or with the same total."""
    if kind == "experts":
        return ModelConfig(**DECODER, experts=Experts(E, K, d_ff=F))
    return ModelConfig(**DECODER | {"d_ff": (K if kind == "dense, same active" else E) * F})


def writing(kind: str, dtype: torch.dtype, packed: bool) -> Callable[[], Any]:
    """A call that continues a prompt greedily, one token at a time."""
    ids = torch.randint(8192, (1, PROMPT), generator=torch.Generator().manual_seed(1))
    if kind == "transformers, Mixtral":
        theirs = their_mixtral(dtype)
        options = {"max_new_tokens": NEW, "min_new_tokens": NEW, "do_sample": False}
        options |= {"attention_mask": torch.ones_like(ids), "pad_token_id": 0}
        return lambda: len(theirs.generate(ids, **options))
    model = Transformer(decoder(kind), torch.Generator().manual_seed(0)).eval()
    ready = prepare_for_inference(model, dtype) if packed else model.to(dtype)

    def run() -> None:
        with torch.inference_mode():
            generate(ready, ids, NEW, sampling=Sampling.greedy())

    return run


def their_mixtral(dtype: torch.dtype) -> nn.Module:
    """transformers' Mixtral of the same shape."""
    from transformers import MixtralConfig, MixtralForCausalLM

    config = MixtralConfig(
        vocab_size=8192, hidden_size=C, intermediate_size=F, num_hidden_layers=12,
        num_attention_heads=8, num_key_value_heads=8, num_local_experts=E, num_experts_per_tok=K,
        max_position_embeddings=512, sliding_window=None, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    torch.manual_seed(0)
    return MixtralForCausalLM(config).eval().to(dtype)


def overhead() -> Callable[[], dict[str, float]]:
    """A call that times the parts of one sparse layer for one token: seconds of each."""
    module = prepare_for_inference(
        Transformer(ModelConfig(**DECODER | {"n_layers": 1}, experts=Experts(E, K, d_ff=F)))
    )
    layer = module.blocks[0].feed_forward
    x = torch.randn(1, C, generator=torch.Generator().manual_seed(1))

    def least(work: Callable[[], Any]) -> float:
        taken = []
        for _ in range(200):
            start = time.perf_counter()
            work()
            taken.append(time.perf_counter() - start)
        return statistics.median(taken)

    def run() -> dict[str, float]:
        with torch.inference_mode():
            routing = layer.router(x, (1, 1), layer)
            chosen = routing.experts.tolist()
            return {
                "layer": least(lambda: layer(x[None])),
                "router": least(lambda: layer.router(x, (1, 1), layer)),
                "networks": least(lambda: [layer.experts.one(e, x) for e in chosen]),
            }

    return run


def reading() -> float:
    """Bytes per second that all threads together read from a 500 MB array; the best of some."""
    array = torch.ones(125_000_000)  # float32
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        array.sum()
        seconds.append(time.perf_counter() - start)
    return array.numel() * 4 / min(seconds)


def decode(case: Case, seconds: float, threads: int) -> dict[str, Any]:
    """Tokens per second, one at a time, and bytes of weights read per token."""
    dtype = getattr(torch, case.precision)
    builds = {kind: partial(writing, kind, dtype, True) for kind in
              ("experts", "dense, same active", "dense, same total")}  # fmt: skip
    builds["experts, not packed"] = partial(writing, "experts", dtype, False)
    builds["transformers, Mixtral"] = partial(writing, "transformers, Mixtral", dtype, False)
    speed = apart(lambda: reading, threads)
    parts = apart(overhead, threads)
    times, _ = in_turns(builds, seconds, threads)
    middle = {name: statistics.median(taken) for name, taken in times.items()}
    rows = {}
    for name, taken in times.items():
        config = decoder(name if name.startswith("dense") else "experts")
        counted = config_summary(config)
        table = config.vocab_size * config.d_model  # the embedding: one row of it is read
        read = (counted.active_parameters - table) * dtype.itemsize
        rows[name] = {
            **spread(taken),
            "tokens_per_second": NEW / middle[name],
            "of_theirs": middle["transformers, Mixtral"] / middle[name],
            "parameters": counted.total_parameters,
            "bytes_per_token": read,
            "share_of_memory_speed": read * NEW / middle[name] / speed,
        }
    return {"case": case.name, "memory": speed, "one_token": parts, "rows": rows}


def print_decode(table: dict[str, Any]) -> None:
    print(f"\n{table['case']}: 12 layers, width {C}, {E} experts of {F}, top-{K}, {NEW} tokens")
    print(
        f"{'':<24}{'tokens/s':>9}{'x theirs':>10}{'parameters':>13}{'MB/token':>10}"
        f"{'of memory':>11}"
    )
    for name, row in table["rows"].items():
        print(
            f"{name:<24}{row['tokens_per_second']:>9.1f}{row['of_theirs']:>10.2f}"
            f"{row['parameters']:>13,}{row['bytes_per_token'] / 1e6:>10.0f}"
            f"{row['share_of_memory_speed']:>11.0%}",
            flush=True,
        )
    parts = ", ".join(f"{name} {1e6 * s:.0f}" for name, s in table["one_token"].items())
    print(
        f"memory reads {table['memory'] / 1e9:.1f} GB/s; one token, one layer, float32, us: {parts}"
    )


class Contender:
    """A process that builds something once and runs it whenever asked to.

    Args:
        build: called in the process; what it returns is what is timed.
        threads: of torch in that process.
    """

    def __init__(self, build: Callable[[], Callable[[], Any]], threads: int) -> None:
        # Forked where that can be: this process computes nothing before, and has all imported.
        way = "fork" if sys.platform == "linux" else "spawn"
        context = multiprocessing.get_context(way)
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_contend, args=(build, threads, theirs), daemon=True)
        self.process.start()
        theirs.close()

    def run(self) -> tuple[float, Any]:
        """Seconds that one run takes, and what it returns.

        Raises:
            RuntimeError: the process has died; it has said why.
        """
        try:
            self.pipe.send("run")
            return self.pipe.recv()
        except (EOFError, BrokenPipeError, ConnectionResetError):
            raise RuntimeError("a contender has died; its error is above") from None

    def end(self) -> None:
        self.pipe.send(None)
        self.process.join()


def _contend(build: Callable[[], Callable[[], Any]], threads: int, pipe: Connection) -> None:
    torch.set_num_threads(threads)
    run = build()
    while pipe.recv() is not None:
        start = time.perf_counter()
        value = run()
        pipe.send((time.perf_counter() - start, value))


def apart(build: Callable[[], Callable[[], Any]], threads: int) -> Any:
    """What one run returns, computed in a process of its own."""
    contender = Contender(build, threads)
    _, value = contender.run()
    contender.end()
    return value


def in_turns(
    builds: dict[str, Callable[[], Callable[[], Any]]], seconds: float, threads: int
) -> tuple[dict[str, list[float]], dict[str, list[Any]]]:
    """Seconds and results of each run, in turns: so many seconds, and at least three rounds."""
    runs = {name: Contender(build, threads) for name, build in builds.items()}
    for run in runs.values():
        for _ in range(WARM):
            run.run()
    taken: dict[str, list[float]] = {name: [] for name in runs}
    values: dict[str, list[Any]] = {name: [] for name in runs}
    begun, rounds = time.perf_counter(), 0
    while rounds < 3 or time.perf_counter() - begun < seconds:
        rounds += 1
        for name, run in runs.items():
            second, value = run.run()
            taken[name].append(second)
            values[name].append(value)
    for run in runs.values():
        run.end()
    return taken, values


def spread(taken: list[float]) -> dict[str, Any]:
    quarter, middle, last = statistics.quantiles(taken, n=4)
    best = min(taken)
    return {"seconds": middle, "low": quarter, "high": last, "best": best, "rounds": len(taken)}


def write(path: Path | None, section: str, value: object, threads: int) -> None:
    """Put one section into the JSON file and leave the others."""
    if path is None:
        return
    held = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    held[section] = value
    held["machine"] = {
        "torch": torch.__version__,
        "threads": threads,
        "capability": torch.backends.cpu.get_cpu_capability(),
        "machine": platform.machine(),
    }
    path.write_text(json.dumps(held, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("layer", "growth", "shares", "decode"))
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, help="of every table's rounds")
    parser.add_argument("--case", type=int, nargs="+", help=f"tables: 0 to {len(CASES) - 1}")
    args = parser.parse_args()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    chosen = [CASES[i] for i in args.case] if args.case else CASES
    parts = {"layer": (layer, print_layer, 30), "growth": (growth, print_growth, 20),
             "shares": (shares, print_shares, 8), "decode": (decode, print_decode, 30)}  # fmt: skip
    measure, show, seconds = parts[args.what]
    if args.what == "decode":  # weights are what is read, so their dtype is the case
        chosen = [case for case in chosen if not case.autocast]
    if args.what in ("layer", "decode"):
        import transformers.models.mixtral.modeling_mixtral
        import transformers.models.qwen3_moe.modeling_qwen3_moe  # noqa: F401 - before any fork
    tables = []
    for case in chosen:
        tables.append(measure(case, args.seconds or seconds, args.threads))
        show(tables[-1])
        write(args.json, args.what, tables, args.threads)


if __name__ == "__main__":
    main()
