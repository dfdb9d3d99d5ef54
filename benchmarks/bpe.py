"""Byte-pair encoding: this package's trainer and encoder beside their peers, in one run.

    python benchmarks/bpe.py                       # train on 2 MB to 2,048 tokens, and encode
    python benchmarks/bpe.py --growth              # also how training grows, to 30 MB and 32,000

The text is on every machine: Python's language reference and the sources of its library. Ours and
Hugging Face's Rust trainer take turns and cut the text by the same pattern; theirs may use all
cores for cutting and counting. The textbook loop counts all pairs anew for every merge. It would
take minutes to hours here, so single steps of it are timed at places along the way (and must choose
the pair that our trainer chose), and the time between them is interpolated. It is timed on unique
words with counts, as Sennrich et al. 2015 (arXiv 1508.07909) print it, and on all words in a row,
as most tutorials have it.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import statistics
import sysconfig
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from llmcourse.data import load_corpus
from llmcourse.tokenizers import BPETokenizer
from llmcourse.tokenizers.bpe_merge import merge
from llmcourse.tokenizers.bpe_train import count_words, learn_merges
from llmcourse.tokenizers.pretokenize import GPT4_PATTERN, split


def corpus(n_bytes: int) -> list[str]:
    """About `n_bytes`: the corpora docs and code, then all else in the standard library.

    Documents in turn, as long as they fit; less where the library is smaller.
    """
    library = Path(sysconfig.get_paths()["stdlib"])
    taken: set[str] = set()
    room = n_bytes
    for text in _documents(library):
        if room < 1000:
            break
        size = len(text.encode())
        if 0 < size <= room and text not in taken:
            taken.add(text)
            room -= size
    return sorted(taken)


def _documents(library: Path) -> Iterator[str]:
    yield from load_corpus("docs").train
    yield from load_corpus("code", max_bytes=4_000_000).train
    for path in sorted(library.rglob("*.py")):
        if "site-packages" not in path.parts:
            with contextlib.suppress(UnicodeDecodeError):
                yield path.read_text(encoding="utf-8")


def size_of(texts: list[str]) -> int:
    return sum(len(text.encode()) for text in texts)


def train_theirs(texts: list[str], vocab_size: int) -> object:
    """Hugging Face's trainer on the same cuts; returns the `tokenizers.Tokenizer`."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    cut = pre_tokenizers.Split(Regex(GPT4_PATTERN), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([cut, level])
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        show_progress=False,
        initial_alphabet=level.alphabet(),
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def seconds_of(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def in_turns(runs: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """The median seconds of each run, after one to warm up, interleaved."""
    for run in runs.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            seconds[name].append(seconds_of(run))
    return {name: statistics.median(times) for name, times in seconds.items()}


def textbook_step(words: list[tuple[list[int], int]], new: int) -> tuple[int, int]:
    """One merge of the textbook: counts every pair, joins the best; returns which it was."""
    pairs: Counter[tuple[int, int]] = Counter()
    for ids, count in words:
        for pair in itertools.pairwise(ids):
            pairs[pair] += count
    best = min(pairs, key=lambda pair: (-pairs[pair], pair))
    for place, (ids, count) in enumerate(words):
        joined, at = [], 0
        while at < len(ids):
            if at + 1 < len(ids) and (ids[at], ids[at + 1]) == best:
                joined.append(new)
                at += 2
            else:
                joined.append(ids[at])
                at += 1
        words[place] = (joined, count)
    return best


def textbook_seconds(texts: list[str], tokenizer: BPETokenizer, steps: int, unique: bool) -> float:
    """What the textbook loop would take, from `steps` single merges along the way."""
    n_merges = len(tokenizer.merges)
    ranks = {token: rank for rank, token in enumerate(tokenizer.tokens)}
    counts = count_words(texts)
    row = list(counts) if unique else [word for text in texts for word in split(text, GPT4_PATTERN)]
    places = np.unique(np.linspace(0, n_merges - 1, steps).astype(int)).tolist()
    seconds = []
    for place in places:
        spelled = {
            word: [ranks[part] for part in merge(word.encode(), ranks, below=256 + place)]
            for word in counts
        }
        words = [(spelled[word], counts[word] if unique else 1) for word in row]
        start = time.perf_counter()
        best = textbook_step(words, 256 + place)
        seconds.append(time.perf_counter() - start)
        if best != tokenizer.merges[place]:
            raise SystemExit(
                f"merge {place}: {best}, but our trainer chose {tokenizer.merges[place]}"
            )
    return float(np.trapezoid(seconds, places) + seconds[-1])


def training(args: argparse.Namespace) -> dict[str, float]:
    texts = corpus(args.bytes)
    tokenizer = BPETokenizer.train(texts, args.vocab_size)
    runs = {
        "ours": lambda: BPETokenizer.train(texts, args.vocab_size),
        "Rust (tokenizers)": lambda: train_theirs(texts, args.vocab_size),
    }
    seconds = in_turns(runs, args.rounds)
    words = count_words(texts)
    seconds["of ours: cutting"] = seconds_of(lambda: count_words(texts))
    seconds["of ours: merging"] = seconds_of(lambda: learn_merges(words, args.vocab_size - 256))
    if args.steps:
        for name, unique in (("textbook, unique words", True), ("textbook, all words", False)):
            seconds[name] = textbook_seconds(texts, tokenizer, args.steps, unique)
    print(f"training, {size_of(texts):,} bytes to {tokenizer.vocab_size:,} tokens")
    for name, median in seconds.items():
        print(f"  {name:<24}{median:10.2f} s{median / seconds['ours']:10.2f} x our time")
    return seconds


def encoding(args: argparse.Namespace) -> dict[str, float]:
    texts = corpus(args.bytes)
    ours = BPETokenizer.train(texts, args.vocab_size)
    fast, theirs = ours.to_tiktoken(), train_theirs(texts, args.vocab_size)

    def cold() -> None:
        fresh = BPETokenizer(ours.tokens, ours.special_tokens, ours.pattern)
        for text in texts:
            fresh.encode_reference(text)

    runs = {
        "ours": lambda: [ours.encode(text) for text in texts],
        "ours, reference": lambda: [ours.encode_reference(text) for text in texts],
        "reference, cold cache": cold,
        "tiktoken": lambda: [fast.encode_ordinary(text) for text in texts],
        "Rust (tokenizers)": lambda: [theirs.encode(text).ids for text in texts],
    }
    seconds = in_turns(runs, args.rounds)
    print(f"encoding the same, {ours.vocab_size:,} tokens")
    for name, median in seconds.items():
        print(f"  {name:<24}{size_of(texts) / median / 1e6:10.2f} MB/s")
    return seconds


def growth(args: argparse.Namespace) -> list[dict[str, float]]:
    """Seconds by size of the text and of the vocabulary, ours and the Rust trainer's."""
    largest = max(args.sizes)
    shapes = [(size, args.vocab_size) for size in args.sizes]
    shapes += [(largest, vocab) for vocab in args.vocabularies if vocab != args.vocab_size]
    rows = []
    print("growth       bytes    words    tokens   ours (s)   Rust (s)")
    for size, vocab in shapes:
        texts = corpus(size)
        made: list[BPETokenizer] = []
        ours = seconds_of(lambda t=texts, v=vocab, m=made: m.append(BPETokenizer.train(t, v)))
        theirs = seconds_of(lambda t=texts, v=vocab: train_theirs(t, v))
        row = {"bytes": size_of(texts), "words": len(count_words(texts))}
        row |= {"tokens": made[0].vocab_size, "ours": ours, "rust": theirs}
        rows.append(row)
        print(
            f"  {row['bytes']:16,}{row['words']:9,}{row['tokens']:10,}{ours:11.2f}{theirs:11.2f}",
            flush=True,
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bytes", type=int, default=2_000_000, help="of text")
    parser.add_argument("--vocab-size", type=int, default=2048, help="tokens")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=9, help="of the textbook loop; 0: none")
    parser.add_argument("--growth", action="store_true", help="also by size and vocabulary")
    sizes = [500_000, 1_000_000, 2_000_000, 4_000_000, 8_000_000, 16_000_000, 30_000_000]
    parser.add_argument("--sizes", type=int, nargs="+", default=sizes, help="bytes, for --growth")
    vocabularies = [1024, 4096, 8192, 16_384, 32_000]
    parser.add_argument("--vocabularies", type=int, nargs="+", default=vocabularies)
    parser.add_argument("--out", type=Path, help="write the results as JSON")
    args = parser.parse_args()
    results: dict[str, object] = {"cores": os.cpu_count(), "numpy": np.__version__}
    results["training"] = training(args)
    results["encoding"] = encoding(args)
    if args.growth:
        results["growth"] = growth(args)
    if args.out:
        args.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
