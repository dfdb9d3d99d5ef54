"""The showcase of Part 2 against nanoGPT's CPU recipe: same text, same seconds, same bytes scored.

    python benchmarks/showcase.py                    # about five minutes on two cores
    python benchmarks/showcase.py --output showcase.json

Ours is trained first, exactly as `llmcourse train --config configs/showcase.yaml` does it; the peer
then gets the wall-clock time that ours took. Both are scored on every held-out byte but the first.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
from pathlib import Path

import torch
from recipe_nanogpt import PARAMETERS, score_peer, train_peer

from llmcourse.data import load_corpus
from llmcourse.options import read_options
from llmcourse.runs import TrainRun, perform
from llmcourse.train import checkpoint

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default=str(ROOT / "configs" / "showcase.yaml"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", help="also write the result as JSON to this file")
    arguments = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        flags = ["--config", arguments.config, "--out", folder, "--seed", str(arguments.seed)]
        result = perform(read_options(TrainRun, flags, "train", config_file=True))
        history = checkpoint.load(folder).history
    seconds = history.records[-1].seconds

    corpus = load_corpus("docs")
    training = torch.tensor(list(corpus.train_text.encode()))
    held_out = torch.tensor(list(corpus.validation_text.encode()))
    peer, facts = train_peer(training, seconds, arguments.seed)
    parameters = sum(p.numel() for p in peer.parameters())
    assert parameters == PARAMETERS, f"the peer has {parameters:,} parameters, not {PARAMETERS:,}"
    nats, tokens = score_peer(peer, held_out)
    assert tokens == result.score.tokens, "both must be scored on the same bytes"

    ours, theirs = result.score.nats_per_byte, nats / tokens
    print(f"\n{'':<24}{'llmcourse':>12}{'nanoGPT CPU':>14}")
    print(f"{'parameters':<24}{856_832:>12,}{parameters:>14,}")
    print(f"{'first loss, nats':<24}{history.losses[0]:>12.3f}{facts['first_loss']:>14.3f}")
    print(f"{'training seconds':<24}{seconds:>12.1f}{facts['seconds']:>14.1f}")
    print(f"{'training tokens':<24}{history.records[-1].tokens:>12,}{facts['tokens']:>14,}")
    print(f"{'held-out nats per byte':<24}{ours:>12.4f}{theirs:>14.4f}")
    print(f"{'scored bytes':<24}{tokens:>12,}{tokens:>14,}")
    if arguments.output:
        record = {
            "seconds": seconds,
            "nats_per_byte": {"llmcourse": ours, "nanogpt_cpu": theirs},
            "scored_bytes": tokens,
            "peer": facts | {"parameters": parameters},
            "seed": arguments.seed,
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "machine": platform.machine(),
            "corpus_fingerprint": corpus.fingerprint,
        }
        Path(arguments.output).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
