"""Evidence for Part 3: one change at a time from GPT-2 to today, and what an evicted sink costs.

Taught in Part 3. Two experiments, five seeds each.

`ablations`: the village tales, read word by word by a small model in the manner of GPT-2, and the
same model with one thing changed, or all of them. Runs are matched: the same number of steps, and
for each seed the same batches in the same order; the width of the feed-forward network is set so
that all have the same number of parameters within a few in a thousand. The learning rate is the one
that suited the unchanged model best, of those in RATES_TRIED. The result is the held-out loss in
nats per byte, for which `tales` knows the floor. A verdict is a statement about these seeds: a
change wins or loses when the 95% interval of its mean paired difference leaves out zero.

`sinks`: a model of the echo language, trained with full attention, scored under a window that holds
everything the language needs, without and with its first token; once with all channels of a head
turning with position, once with half of them.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from multiprocessing import get_context
from typing import Any

import torch
from torch import Tensor

from llmcourse.data import Batch, Corpus, document_aligned, encode_documents, load_corpus, tales
from llmcourse.data.echoes import MARK, VOCAB_SIZE, Echoes
from llmcourse.evaluate import score_documents
from llmcourse.evidence.recipes import stated
from llmcourse.model import ModelConfig, Transformer
from llmcourse.model.rotary import Rope
from llmcourse.tokenizers import END_OF_TEXT, WordTokenizer
from llmcourse.train import StepRecord, TrainConfig, cross_entropy, training_steps

SEEDS = (0, 1, 2, 3, 4)
BASELINE = "GPT-2's choices"

# What each variant changes in the baseline. Only the feed-forward width follows, to match sizes.
VARIANTS: dict[str, dict[str, Any]] = {
    BASELINE: {},
    "RMSNorm": {"norm": "rms"},
    "RoPE": {"positions": "rope"},
    "sinusoidal": {"positions": "sinusoidal"},
    "no positions": {"positions": "none"},
    "SwiGLU": {"feed_forward": "gated", "activation": "silu"},
    "GQA (2 heads)": {"n_kv_heads": 2},
    "MQA (1 head)": {"n_kv_heads": 1},
    "all modern": {
        "norm": "rms",
        "positions": "rope",
        "feed_forward": "gated",
        "activation": "silu",
        "n_kv_heads": 2,
    },
}
STORIES = {"n_stories": 5000, "n_validation": 150, "seed": 0}
BATCH_SIZE = 16  # stories
BASE_MODEL = {
    "context_length": 128,
    "n_layers": 3,
    "n_heads": 4,
    "d_model": 96,
    "attention_bias": False,
    "feed_forward_bias": False,
    "init_std": 0.05,
}
TRAINING = TrainConfig(
    steps=300, learning_rate=1.2e-2, min_learning_rate=4e-4, warmup_steps=20, weight_decay=0.05,
    beta2=0.95,
)  # fmt: skip
RATES_TRIED = (6e-3, 1.2e-2, 2.4e-2)  # for the baseline, seed 0; the best is used for all
CURVE_STEP = 20  # steps that are averaged into one point of a training curve

# Two-sided 95% points of Student's t by degrees of freedom.
STUDENT = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306}

SINK_ROPES = {"all channels turn": 1.0, "half of them turn": 0.5}  # name -> share that turns
SINK_MODEL = {
    "vocab_size": VOCAB_SIZE,
    "context_length": 32,
    "n_layers": 1,
    "n_heads": 2,
    "d_model": 64,
    "d_ff": 128,
    "positions": "rope",
    "norm": "rms",
    "feed_forward": "gated",
    "activation": "silu",
    "attention_bias": False,
    "feed_forward_bias": False,
    "init_std": 0.05,
}
SINK_TRAINING = TrainConfig(
    steps=600, learning_rate=2e-2, min_learning_rate=1e-3, warmup_steps=20, weight_decay=0.0,
    beta2=0.95,
)  # fmt: skip
SINK_BATCH_SIZE = 32  # texts
SINK_WINDOW = 8  # tokens
SCORED_FROM = 16  # the first positions, where a window hides little or nothing, are not scored
FAR = 2000  # tokens of a stream, for which a sink is far away


@dataclass(frozen=True)
class Comparison:
    """A variant against the baseline, seed by seed."""

    mean: float  # nats per byte, variant minus baseline; below 0 the variant is better
    spread: float  # standard deviation of the paired differences
    margin: float  # half the width of the 95% interval of the mean
    verdict: str  # "wins", "loses" or "undecided"


def compare(variant: Sequence[float], baseline: Sequence[float]) -> Comparison:
    """The paired differences of two lists of losses, one per seed, and what they allow to say.

    Raises:
        ValueError: lists of different lengths, or fewer than 2 or more than 9 seeds.
    """
    if len(variant) != len(baseline) or len(variant) - 1 not in STUDENT:
        raise ValueError(
            f"{len(variant)} and {len(baseline)} losses; need the same 2 to 9 seeds in both"
        )
    differences = [a - b for a, b in zip(variant, baseline)]
    mean, spread = statistics.fmean(differences), statistics.stdev(differences)
    margin = STUDENT[len(differences) - 1] * spread / math.sqrt(len(differences))
    if abs(mean) <= margin:
        verdict = "undecided"
    else:
        verdict = "wins" if mean < 0 else "loses"
    return Comparison(mean, spread, margin, verdict)


def losses(evidence: dict[str, Any], name: str) -> list[float]:
    """Held-out nats per byte of a variant, one per seed, from a loaded evidence file."""
    return [run["nats_per_byte"] for run in evidence["ablations"]["runs"][name]]


def recipe() -> dict[str, Any]:
    """Everything the numbers hang on, apart from the machine and the Python release."""
    return {
        "seeds": list(SEEDS),
        "variants": VARIANTS,
        "stories": STORIES,
        "batch_size": BATCH_SIZE,
        "model": BASE_MODEL,
        "training": stated(dataclasses.asdict(TRAINING), TrainConfig),
        "rates_tried": list(RATES_TRIED),
        "village": tales.fingerprint(),
        "sink_ropes": SINK_ROPES,
        "sink_model": SINK_MODEL,
        "sink_training": stated(dataclasses.asdict(SINK_TRAINING), TrainConfig),
        "sink_batch_size": SINK_BATCH_SIZE,
        "sink_scoring": [SINK_WINDOW, SCORED_FROM, FAR],
        "echoes": dataclasses.asdict(Echoes()),
    }


def measure(say: Callable[[str], None]) -> dict[str, Any]:
    """Train everything; about eight minutes on two cores."""
    jobs = {(name, seed): partial(run_variant, name, seed) for name in VARIANTS for seed in SEEDS}
    for rate in RATES_TRIED:
        if rate != TRAINING.learning_rate:
            jobs["rate", rate] = partial(run_variant, BASELINE, SEEDS[0], learning_rate=rate)
    for name in SINK_ROPES:
        jobs |= {(name, seed): partial(run_sinks, name, seed) for seed in SEEDS}
    # Models this small gain little from a second thread; two of them side by side gain nearly all.
    results: dict[Any, dict[str, Any]] = {}
    with ProcessPoolExecutor(2, get_context("spawn"), initializer=_one_thread) as workers:
        futures = {key: workers.submit(job) for key, job in jobs.items()}
        for key, future in futures.items():
            results[key] = future.result()
            say(f"{key[0]}, {key[1]}: {_headline(results[key])}")
    runs = {name: [results[name, seed] for seed in SEEDS] for name in VARIANTS}
    base = [run["nats_per_byte"] for run in runs[BASELINE]]
    rates = {
        str(rate): (results["rate", rate] if rate != TRAINING.learning_rate else runs[BASELINE][0])[
            "nats_per_byte"
        ]
        for rate in RATES_TRIED
    }
    return {
        "ablations": {
            "floor": round(village_floor(), 5),
            "corpus_fingerprint": stories().fingerprint,
            "baseline_by_rate": rates,
            "runs": runs,
            "comparisons": {
                name: dataclasses.asdict(compare([r["nats_per_byte"] for r in own], base))
                for name, own in runs.items()
                if name != BASELINE
            },
        },
        "sinks": {name: [results[name, seed] for seed in SEEDS] for name in SINK_ROPES},
    }


def variant_config(name: str, vocab_size: int) -> ModelConfig:
    """The variant's config, its feed-forward width set to match the baseline's parameter count."""
    base = ModelConfig(vocab_size=vocab_size, **BASE_MODEL)
    config = base.replace(**VARIANTS[name])
    if name == BASELINE:
        return config
    return match_parameters(config, _count(base))


def match_parameters(config: ModelConfig, target: int) -> ModelConfig:
    """`config` with the feed-forward width that brings its parameters nearest to `target`."""
    narrow, wide = (_count(config.replace(d_ff=width)) for width in (1, 2))
    width = 1 + round((target - narrow) / (wide - narrow))
    return config.replace(d_ff=max(1, width))


@cache
def stories() -> Corpus:
    """The tales all variants read."""
    return load_corpus("tales", **STORIES)


@cache
def words() -> WordTokenizer:
    return WordTokenizer.train(stories().train, (END_OF_TEXT,))


def village_floor() -> float:
    """Entropy of the held-out stories in nats per byte."""
    return tales.entropy_floor(stories().validation).nats_per_byte


def variant_steps(
    name: str, seed: int, **training: Any
) -> tuple[Transformer, Iterator[StepRecord]]:
    """The untrained model of a recorded run, and its training, one update per iteration."""
    generator = torch.Generator().manual_seed(seed)
    model = Transformer(variant_config(name, words().vocab_size), generator)
    rows = encode_documents(stories().train, words(), end_of_text=True, start_of_text=True)
    # A generator of its own, so that models with other shapes see the same batches.
    order = torch.Generator().manual_seed(1000 + seed)
    width = BASE_MODEL["context_length"]
    batches = document_aligned(rows, width, BATCH_SIZE, order, width_multiple=16)
    setting = dataclasses.replace(TRAINING, **training)
    return model, training_steps(model, batches, setting)


def run_variant(name: str, seed: int, **training: Any) -> dict[str, Any]:
    """Train one variant with one seed and score it on the held-out stories."""
    model, steps = variant_steps(name, seed, **training)
    history = list(steps)
    score = score_documents(model, words(), stories().validation)
    return {
        "seed": seed,
        "parameters": model.n_parameters(),
        "d_ff": model.config.d_ff,
        "nats_per_byte": round(score.nats_per_byte, 5),
        "curve": curve([record.loss for record in history]),
        "gradient_norm": curve([record.gradient_norm for record in history]),
        "seconds": round(history[-1].seconds, 1),
    }


def curve(values: Sequence[float]) -> list[float]:
    """Means over CURVE_STEP steps, rounded: enough for a picture."""
    parts = [values[i : i + CURVE_STEP] for i in range(0, len(values), CURVE_STEP)]
    return [round(statistics.fmean(part), 4) for part in parts]


def sink_steps(name: str, seed: int) -> tuple[Transformer, Iterator[StepRecord]]:
    """The untrained model of a recorded run on the echo language, and its training."""
    config = ModelConfig(**SINK_MODEL, rope=Rope(fraction=SINK_ROPES[name]))
    generator = torch.Generator().manual_seed(seed)
    model = Transformer(config, generator)
    length = config.context_length + 1
    texts = Echoes().sample(SINK_TRAINING.steps * SINK_BATCH_SIZE, length, generator)
    batches = (Batch(t[:, :-1], t[:, 1:]) for t in texts.split(SINK_BATCH_SIZE))
    return model, training_steps(model, batches, SINK_TRAINING)


def run_sinks(name: str, seed: int) -> dict[str, Any]:
    """Train with full attention, then take the sink away."""
    model, steps = sink_steps(name, seed)
    history = list(steps)
    return {"seed": seed, "curve": curve([r.loss for r in history])} | score_sinks(model)


@torch.no_grad()
def score_sinks(model: Transformer) -> dict[str, float]:
    """Nats per token above the exact surprise, for each view of a text, and where heads look."""
    context, window = model.config.context_length, SINK_WINDOW
    generator = torch.Generator().manual_seed(99)
    texts = Echoes().sample(256, context + 1, generator)
    stream = Echoes().sample(4, FAR + 1, generator)
    views = {
        "full": model,
        "window": model.with_options(window=window),
        "window_and_one_more": model.with_options(window=window + 1),
        "window_and_sink": model.with_options(window=window, sinks=1),
    }
    found = {
        name: excess(view, texts)[:, SCORED_FROM:].mean().item() for name, view in views.items()
    }
    for name in ("window", "window_and_sink"):
        found[f"far_{name}"] = excess(views[name], stream)[:, FAR // 2 :].mean().item()
    # At the marks a head must fetch; everywhere else it has nothing to do.
    maps = model.attention_maps(texts[:, :-1])[0, :, :, SCORED_FROM:, 0]  # (B, H, T')
    marks = texts[:, None, SCORED_FROM:-1] == MARK  # (B, 1, T')
    at_marks = (maps * marks).sum(dim=(0, 2)) / marks.sum()  # (H,)
    found["weight_on_first"] = at_marks.max().item()
    return {name: round(value, 4) for name, value in found.items()}


def excess(model: Transformer, texts: Tensor) -> Tensor:
    """(n, T) nats by which the model's surprise exceeds the exact one, token by token."""
    felt = cross_entropy(model(texts[:, :-1]), texts[:, 1:], reduction="none")
    return felt - Echoes().surprise(texts).to(felt.dtype)


def _count(config: ModelConfig) -> int:
    with torch.device("meta"):
        return Transformer(config).n_parameters()


def _one_thread() -> None:
    torch.set_num_threads(1)


def _headline(run: dict[str, Any]) -> str:
    if "nats_per_byte" in run:
        return f"{run['nats_per_byte']:.4f} nats per byte, {run['seconds']} s"
    return f"full {run['full']:.3f}, window {run['window']:.3f}, sink {run['window_and_sink']:.3f}"
