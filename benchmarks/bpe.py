"""Byte-pair encoding: this package's trainer and encoder beside their peers, in one run.

    python benchmarks/bpe.py                       # train on 2 MB to 2,048 tokens, and encode
    python benchmarks/bpe.py --growth              # also how training grows, to 30 MB and 32,000
    python benchmarks/bpe.py --growth --out notebooks/evidence/part04_bpe.json   # what Part 4 shows

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
import json
import os
import platform
import statistics
import sysconfig
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from llmcourse.data import load_corpus
from llmcourse.tokenizers import BPETokenizer
from llmcourse.tokenizers.bpe_merge import merge
from llmcourse.tokenizers.bpe_textbook import textbook_step
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


def train_theirs(texts: list[str], vocab_size: int, threads: bool = True) -> object:
    """Hugging Face's trainer on the same cuts; returns the `tokenizers.Tokenizer`.

    Without `threads` it keeps to one core, as ours does.
    """
    os.environ["TOKENIZERS_PARALLELISM"] = str(threads).lower()
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


def quickest(run: Callable[[], object], rounds: int) -> float:
    return min(seconds_of(run) for _ in range(rounds))


def in_turns(runs: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """The median seconds of each run, after one to warm up, interleaved."""
    for run in runs.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            seconds[name].append(seconds_of(run))
    return {name: statistics.median(times) for name, times in seconds.items()}


def textbook_seconds(texts: list[str], tokenizer: BPETokenizer, steps: int, unique: bool) -> float:
    """What the textbook loop would take, from `steps` single merges along the way."""
    n_merges = len(tokenizer.merges)
    ranks = {token: rank for rank, token in enumerate(tokenizer.tokens)}
    counts = count_words(texts)
    row = list(counts) if unique else [word for text in texts for word in split(text, GPT4_PATTERN)]
    # Closer together at the start, where the text shortens fastest.
    places = np.unique((np.linspace(0, 1, steps) ** 2 * (n_merges - 1)).astype(int)).tolist()
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
        "Rust, one thread": lambda: train_theirs(texts, args.vocab_size, threads=False),
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
    """Seconds by size of the text and of the vocabulary, ours (in its two halves) and Rust's."""
    largest = max(args.sizes)
    shapes = [(size, args.vocab_size) for size in sorted(args.sizes)]
    shapes += [(largest, vocab) for vocab in args.vocabularies if vocab != args.vocab_size]
    rows: list[dict[str, float]] = []
    print("growth       bytes    words    tokens   cut (s)  merge (s)   ours (s)   Rust (s)")
    for size, vocab in shapes:
        rounds = 3 if size <= 4_000_000 else 1  # short times are told from noise by repeating
        if not rows or size != shapes[len(rows) - 1][0]:
            texts = corpus(size)
            words = count_words(texts)
            cutting = quickest(lambda t=texts: count_words(t), rounds)
        made: list[list[tuple[int, int]]] = []
        merging = quickest(
            lambda w=words, v=vocab, m=made: m.append(learn_merges(w, v - 256)), rounds
        )
        theirs = quickest(lambda t=texts, v=vocab: train_theirs(t, v), rounds)
        row = {"bytes": size_of(texts), "words": len(words), "tokens": 256 + len(made[0])}
        row |= {"cutting": cutting, "merging": merging, "ours": cutting + merging, "rust": theirs}
        rows.append(row)
        print(
            f"  {row['bytes']:16,}{row['words']:9,}{row['tokens']:10,}{cutting:10.2f}"
            f"{merging:11.2f}{row['ours']:11.2f}{theirs:11.2f}",
            flush=True,
        )
    return rows


def exponents(rows: list[dict[str, float]], vocab_size: int) -> dict[str, float]:
    """The powers with which time grows: straight lines through the logarithms, least squares.

    By bytes at `vocab_size` tokens, and by merges at the largest text. Cutting does not depend on
    the vocabulary, so that only merging is fitted there.
    """
    by_size = [row for row in rows if row["tokens"] == vocab_size]
    largest = max(row["bytes"] for row in rows)
    by_vocab = [row for row in rows if row["bytes"] == largest]
    found = {}
    for name in ("cutting", "merging", "ours", "rust"):
        if len(by_size) > 1:
            found[f"{name} by bytes"] = _slope([(row["bytes"], row[name]) for row in by_size])
    if len(by_size) > 1:
        found["words by bytes"] = _slope([(row["bytes"], row["words"]) for row in by_size])
    if len(by_vocab) > 1:
        for name in ("merging", "rust"):
            found[f"{name} by merges"] = _slope([(r["tokens"] - 256, r[name]) for r in by_vocab])
    return {name: round(value, 3) for name, value in found.items()}


def _slope(pairs: list[tuple[float, float]]) -> float:
    x, y = np.log(np.array(pairs)).T
    return float(np.polyfit(x, y, 1)[0])


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
    results: dict[str, object] = {
        "text": "Python's language reference, then the sources of its standard library",
        "versions": {"python": platform.python_version(), "numpy": np.__version__},
        "cores": os.cpu_count(),
        "vocab_size": args.vocab_size,
        "bytes": args.bytes,
    }
    results["training"] = training(args)
    results["encoding"] = encoding(args)
    if args.growth:
        rows = growth(args)
        results["growth"] = rows
        results["exponents"] = exponents(rows, args.vocab_size)
        for name, value in results["exponents"].items():
            print(f"  {name:<24}{value:10.2f} (power of growth)")
    if args.out:
        args.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
