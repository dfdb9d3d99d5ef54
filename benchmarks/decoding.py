"""Decoding GPT-2-small's shape: this package beside transformers, in one run.

    python benchmarks/decoding.py                         # float32 and bfloat16, batch 1 and 8
    python benchmarks/decoding.py --compiled              # also transformers' compiled static cache

Both models have the same shape and random weights, continue the same prompt greedily, and never
stop early. The contenders take turns, so that a busy machine is busy for all; medians are printed,
and beside them the memory's speed, measured in the same run by reading 500 MB with all threads: a
token cannot be decoded faster than the weights can be read.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from llmcourse.generate import Sampling, generate
from llmcourse.generate.prepare import prepare_for_inference
from llmcourse.model import ModelConfig, Transformer

GREEDY = Sampling.greedy()


def memory_speed(repeats: int = 7) -> float:
    """Bytes per second that all threads together read from a 500 MB array; the best of some."""
    array = torch.ones(125_000_000)  # float32
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        array.sum()
        seconds.append(time.perf_counter() - start)
    return array.numel() * 4 / min(seconds)


def peer(dtype: torch.dtype) -> torch.nn.Module:
    """transformers' GPT-2 of the same shape."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(bos_token_id=None, eos_token_id=None)
    return GPT2LMHeadModel(config).eval().to(dtype)


def contenders(
    dtype: torch.dtype, prompt: Tensor, new: int, uncached: bool, compiled: bool
) -> dict[str, Callable[[], object]]:
    """What takes turns: name -> a run that writes `new` tokens after `prompt`."""
    torch.manual_seed(0)
    model = Transformer(ModelConfig.preset("gpt2")).eval().to(dtype)
    ready, theirs = prepare_for_inference(model, dtype), peer(dtype)
    options = {"max_new_tokens": new, "min_new_tokens": new, "do_sample": False, "pad_token_id": 0}
    runs: dict[str, Callable[[], object]] = {
        "ours": lambda: generate(ready, prompt, new, sampling=GREEDY),
        "ours, not packed": lambda: generate(model, prompt, new, sampling=GREEDY),
        "transformers": lambda: theirs.generate(prompt, **options),
    }
    if uncached:
        runs["ours, no cache"] = lambda: generate(ready, prompt, new, sampling=GREEDY, cache="none")
    if compiled:
        static = peer(dtype)
        static.generation_config.cache_implementation = "static"
        static.forward = torch.compile(static.forward, dynamic=False)
        runs["transformers, compiled"] = lambda: static.generate(prompt, **options)
    return runs


def prefills(dtype: torch.dtype, prompt: Tensor) -> dict[str, Callable[[], object]]:
    """The first step alone: the whole prompt into a cache, and one token's scores."""
    torch.manual_seed(0)
    ready = prepare_for_inference(Transformer(ModelConfig.preset("gpt2")), dtype)
    theirs = peer(dtype)

    @torch.no_grad()
    def run_theirs() -> object:
        return theirs(prompt, use_cache=True, logits_to_keep=1)

    return {"ours": lambda: generate(ready, prompt, 1, sampling=GREEDY), "transformers": run_theirs}


def in_turns(runs: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each run, after one to warm up, interleaved."""
    for run in runs.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def weight_bytes(dtype: torch.dtype) -> int:
    """What decoding one token reads: every matrix once, the output layer among them."""
    with torch.device("meta"):
        model = Transformer(ModelConfig.preset("gpt2"))
    positions = model.positions.weight.numel()
    return (model.n_parameters() - positions) * dtype.itemsize


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--dtype", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--prompt", type=int, default=32, help="tokens")
    parser.add_argument("--new", type=int, default=200, help="tokens")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--prefill", type=int, default=512, help="tokens of the prefill run; 0: no")
    parser.add_argument("--uncached", action="store_true", help="also decode without a cache")
    parser.add_argument("--compiled", action="store_true", help="also transformers, compiled")
    parser.add_argument("--out", type=Path, help="write the results as JSON")
    args = parser.parse_args()
    rows = []
    for name in args.dtype:
        dtype = getattr(torch, name)
        for b in args.batch:
            ids = torch.randint(50257, (b, args.prompt), generator=torch.Generator().manual_seed(1))
            speed = memory_speed()
            runs = contenders(dtype, ids, args.new, args.uncached, args.compiled)
            with torch.inference_mode():
                seconds = in_turns(runs, args.rounds)
            middle = {run: statistics.median(times) for run, times in seconds.items()}
            ours = b * args.new / middle["ours"]
            share = weight_bytes(dtype) * args.new / middle["ours"] / speed
            print(f"{name}, batch {b}, prompt {args.prompt}, {args.new} new tokens")
            for run, median in middle.items():
                ratio = median / middle["ours"]
                print(f"  {run:<24}{b * args.new / median:9.1f} tokens/s{ratio:8.2f} x our time")
            print(f"  weights read at {share:.0%} of the memory's {speed / 1e9:.1f} GB/s")
            rows.append(
                {"dtype": name, "batch": b, "seconds": seconds, "tokens_per_second": ours,
                 "memory_bytes_per_second": speed, "share_of_memory_speed": share}
            )  # fmt: skip
        if args.prefill:
            ids = torch.randint(50257, (1, args.prefill))
            seconds = in_turns(prefills(dtype, ids), 2 * args.rounds + 1)
            middle = {run: statistics.median(times) for run, times in seconds.items()}
            print(f"{name}, prefill of {args.prefill} tokens")
            for run, median in middle.items():
                print(f"  {run:<24}{1000 * median:9.1f} ms{median / middle['ours']:8.2f} x")
            rows.append({"dtype": name, "prefill": args.prefill, "seconds": seconds})
    if args.out:
        machine = {"torch": torch.__version__, "threads": torch.get_num_threads()}
        args.out.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
