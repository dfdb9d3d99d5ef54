"""One run of Part 5's evidence: a small model, trained and looked into along the way."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from llmcourse.evaluate.specialisation import Routed, specialisation
from llmcourse.evaluate.token_classes import CLASSES
from llmcourse.evidence import part05_world as world
from llmcourse.evidence.part05_world import Rows, World
from llmcourse.evidence.recipes import stated
from llmcourse.model import ModelConfig, Transformer
from llmcourse.model.experts_config import Experts
from llmcourse.model.routing import Routing, record_routing
from llmcourse.model.upcycle import experts_apart, upcycle
from llmcourse.train import StepRecord, TrainConfig, cross_entropy, training_steps


@dataclass(frozen=True)
class Setting:
    """What all arms of a comparison share."""

    world: World
    steps: int  # updates
    training: dict[str, Any]
    width: int  # inside the dense feed-forward network; a token meets as much of any mixture
    model: dict[str, Any]  # what differs from MODEL
    experts: dict[str, Any]

    def recipe(self) -> dict[str, Any]:
        config = dataclasses.asdict(self.schedule())
        return {
            "world": self.world.recipe(),
            "training": stated(config, TrainConfig),
            "model": MODEL | self.model | {"d_ff": self.width},
            "experts": self.experts,
        }

    def config_of(
        self, changes: dict[str, Any] | None, model: dict[str, Any] | None = None
    ) -> ModelConfig:
        """The model of an arm.

        Args:
            changes: in the experts; None for a dense model.
            model: changes in the model.
        """
        experts = None if changes is None else Experts(**(self.experts | changes))
        own = {"context_length": self.world.context, "d_ff": self.width, "experts": experts}
        size = world.tokenizer(self.world).vocab_size
        return ModelConfig(vocab_size=size, **(MODEL | self.model | own | (model or {})))

    def schedule(self, steps: int | None = None, rate: float = 1.0) -> TrainConfig:
        """The training of a run of so many updates, at the setting's learning rate times `rate`."""
        rates = {
            name: rate * self.training[name] for name in ("learning_rate", "min_learning_rate")
        }
        return TrainConfig(steps=steps or self.steps, **(self.training | rates))

    def steps_of(self, model: Transformer, seed: int, config: TrainConfig) -> Iterator[StepRecord]:
        """A model's training, one update per iteration; all models of a seed see the same."""
        return training_steps(model, world.training_batches(self.world, seed), config)


MODEL: dict[str, Any] = {
    "n_layers": 3,
    "n_heads": 4,
    "positions": "rope",
    "norm": "rms",
    "feed_forward": "gated",
    "activation": "silu",
    "attention_bias": False,
    "feed_forward_bias": False,
    "init_std": 0.05,
}
EARLY = (0, 5, 10, 20, 30, 50)  # updates after which a run is looked into, and every ...
EVERY = 50
CURVE_STEP = 20  # updates that are averaged into one point of a training curve
PREFIXES = 12  # rows that are scored with every token alone after its own past
FEWEST = 60  # tokens: classes with fewer are left out of the tables
SAMPLES = 100  # shufflings of each kind


def untrained(config: ModelConfig, seed: int) -> Transformer:
    return Transformer(config, torch.Generator().manual_seed(seed))


def train_and_watch(
    setting: Setting, model: Transformer, seed: int, config: TrainConfig
) -> dict[str, Any]:
    """Train, look into the model along the way and at the end; what a figure needs, as plain data.

    "load", "entropy" and the rest are of held-out text: by point and layer, or by layer under
    "final". A dense model has losses only.
    """
    points = [p for p in points_of(config.steps) if p < config.steps]
    seen = [observe(setting.world, model, setting.world.along)] if 0 in points else []
    history = []
    for record in setting.steps_of(model, seed, config):
        history.append(record)
        if record.step in points:
            seen.append(observe(setting.world, model, setting.world.along))
    seen.append(observe(setting.world, model, setting.world.along))
    found: dict[str, Any] = {
        "seed": seed,
        "steps": [*points, config.steps],
        "validation": [one["nats_per_byte"] for one in seen],
        "curve": curve([record.loss for record in history]),
        "seconds": round(history[-1].seconds, 1),
        "tokens": history[-1].tokens,
    }
    for name in ("load", "entropy", "token_entropy", "confidence", "log_sum_exp"):
        if name in seen[0]:
            found[name] = [one[name] for one in seen]
    final = observe(setting.world, model)
    return found | {name: final[name] for name in ("nats_per_byte", "by_corpus")} | {"final": final}


def points_of(steps: int) -> list[int]:
    """Updates after which a run is looked into: often at first, when routers decide."""
    return sorted({*(p for p in EARLY if p < steps), *range(EVERY, steps, EVERY), steps})


@torch.no_grad()
def observe(text: World, model: Transformer, tokens: int | None = None) -> dict[str, Any]:
    """The loss on about so many held-out tokens of each corpus, and what sparse layers did."""
    rows, sizes = world.held_out(text, tokens or text.held_out)
    was_training = model.training
    model.eval()
    nats = torch.zeros(len(sizes), dtype=torch.float64)
    noted: list[list[tuple[Routing, Tensor]]] = [[] for _ in range(model.config.n_sparse_layers)]
    for row in rows:
        with record_routing(model) as routings:
            losses = _losses(model, row)  # (B, T)
        nats.index_add_(0, row.corpora, losses.sum(1).double())
        for place, routing in enumerate(routings):
            noted[place].append((routing, row.real))
    model.train(was_training)
    found: dict[str, Any] = {
        "nats_per_byte": round(float(nats.sum()) / sum(sizes), 5),
        "by_corpus": {
            name: round(float(own) / size, 5) for name, own, size in zip(text.kinds, nats, sizes)
        },
    }
    if noted:
        layers = [_of_layer(one) for one in noted]
        found |= {name: [layer[name] for layer in layers] for name in layers[0]}
    return found


def _losses(model: Transformer, row: Rows) -> Tensor:
    """(B, T) nats, zero where nothing is predicted."""
    logits = model(row.inputs, row.real)
    return cross_entropy(logits, row.targets, reduction="none").view(row.targets.shape)


def _of_layer(noted: Sequence[tuple[Routing, Tensor]]) -> dict[str, Any]:
    """One layer's routings of several batches in a few numbers."""
    p = torch.cat([r.probabilities()[m.reshape(-1)] for r, m in noted]).double()  # (N, E)
    logits = torch.cat([r.logits[m.reshape(-1)] for r, m in noted]).double()
    load = torch.stack([r.load(m) for r, m in noted]).sum(0)  # (E,)
    mean = p.mean(0)
    return {
        "load": [round(share, 4) for share in (load / load.sum()).tolist()],
        "entropy": round(float(-torch.special.xlogy(mean, mean).sum()), 4),
        "token_entropy": round(float(-torch.special.xlogy(p, p).sum(1).mean()), 4),
        "confidence": round(float(p.amax(1).mean()), 4),
        "log_sum_exp": round(float(logits.logsumexp(1).square().mean().sqrt()), 3),
        "dropped": round(sum(len(r.dropped_tokens) for r, _ in noted) / int(load.sum()), 5),
    }


@torch.no_grad()
def dropped_by_position(text: World, model: Transformer) -> list[float]:
    """(T,) share of the assignments at each position that found their expert full, all layers."""
    model.eval()
    lost, wanted = torch.zeros(text.context), torch.zeros(text.context)
    for row in world.held_out(text, text.held_out)[0]:
        with record_routing(model) as routings:
            model(row.inputs, row.real)
        t = row.inputs.shape[1]
        for routing in routings:
            lost[:t] += torch.bincount(routing.dropped_tokens % t, minlength=t)
            wanted[:t] += torch.bincount(routing.wanted()[0] % t, minlength=t)
    return [round(share, 4) for share in (lost / wanted.clamp(min=1)).tolist()]


@torch.no_grad()
def score_prefixes(text: World, model: Transformer) -> dict[str, Any]:
    """Nats per token of a few rows twice: as one batch, and every token after its past alone.

    A model that looks ahead is better in the first than in the second; in the second it is used as
    one uses it to write.
    """
    model.eval()
    row = world.held_out(text, text.held_out)[0][0]
    row = Rows(*(part[:PREFIXES] for part in row))
    together = float(_losses(model, row).sum()) / int(row.real.sum())
    alone = 0.0
    for ids, targets, real in zip(row.inputs, row.targets, row.real):
        for end in range(1, int(real.sum()) + 1):
            logits = model(ids[None, :end])[:, -1]
            alone += float(cross_entropy(logits, targets[end - 1 : end]))
    other = row.inputs.clone()
    half = row.inputs.shape[1] // 2
    other[:, half:] = other[:, half:].flip(0)  # each row goes on as another one does
    changed = (model(row.inputs) - model(other))[:, :half].abs().max()
    return {
        "together": round(together, 5),
        "alone": round(alone / int(row.real.sum()), 5),
        # By how much logits change when only later tokens do: rounding, if none is seen.
        "change_by_the_future": float(f"{float(changed):.3g}"),
    }


@torch.no_grad()
def specialists(text: World, model: Transformer) -> dict[str, Any]:
    """Which expert takes which token on held-out text, by class and by corpus, all layers."""
    model.eval()
    chosen, ids, classes, corpus = [], [], [], []
    for row in world.held_out(text, text.held_out)[0]:
        with record_routing(model) as routings:
            model(row.inputs, row.real)
        real = row.real.reshape(-1)
        chosen.append(torch.stack([routing.wanted_table() for routing in routings])[:, real])
        ids.append(row.inputs.reshape(-1)[real])
        classes.append(row.classes.reshape(-1)[real])
        corpus.append(row.corpora[:, None].expand_as(row.inputs).reshape(-1)[real])
    routed = Routed(torch.cat(chosen, 1), torch.cat(ids), torch.cat(classes))
    by_corpus = Routed(routed.chosen, routed.ids, torch.cat(corpus))
    return {"by_class": _table(routed, CLASSES), "by_corpus": _table(by_corpus, text.kinds)}


def _table(routed: Routed, names: Sequence[str]) -> dict[str, Any]:
    tokens = torch.bincount(routed.classes, minlength=len(names))
    kept = [i for i in range(len(names)) if tokens[i] >= FEWEST]
    own = torch.isin(routed.classes, torch.tensor(kept))
    part = Routed(routed.chosen[:, own], routed.ids[own], routed.classes[own])
    layers = specialisation(part, len(names), torch.Generator().manual_seed(0), SAMPLES)
    found: dict[str, Any] = {
        "classes": [names[i] for i in kept],
        "tokens": tokens[kept].tolist(),
        "shares": [_rounded(layer.shares[:, kept]) for layer in layers],  # (L, E, c)
    }
    for name, null in (("information", "shuffled_tokens"), ("word_information", "shuffled_words")):
        found[name] = [round(getattr(layer, name), 5) for layer in layers]
        chance = [getattr(layer, null) for layer in layers]
        found[null] = [
            {"mean": round(statistics.fmean(one), 5), "largest": round(max(one), 5)}
            for one in chance
        ]
    return found | {
        "depends_on_the_text": [layer.by_text for layer in layers],
        "depends_on_the_class": [layer.by_class for layer in layers],
    }


def seconds_per_step(
    setting: Setting, configs: Sequence[ModelConfig], steps: int = 10, rounds: int = 6
) -> list[float]:
    """Median seconds of an update of each model, measured in turns so that none has a worse hour.

    Processor time of one thread, not the clock's: what else runs here does not count. On an idle
    machine the two are the same.
    """
    config = setting.schedule(10_000)
    runs = [setting.steps_of(untrained(one, 0), 0, config) for one in configs]
    taken: list[list[float]] = [[] for _ in configs]
    for number in range(rounds + 1):
        for run, times in zip(runs, taken, strict=True):
            start = time.process_time()
            for _ in range(steps):
                next(run)
            if number:  # the first round warms up
                times.append((time.process_time() - start) / steps)
    return [round(statistics.median(times), 5) for times in taken]


def upcycling(
    setting: Setting, seed: int, before: int, after: int, changes: dict[str, Any]
) -> dict[str, Any]:
    """A dense model trained for `before` updates, and three ways to go on for `after` more.

    "dense": itself; "upcycled": a mixture of its copies; "from scratch": such a mixture, untrained.
    All see the same batches and the same rates.
    """
    model = untrained(setting.config_of(None), seed)
    history = list(setting.steps_of(model, seed, setting.schedule(before)))
    start = observe(setting.world, model)["nats_per_byte"]
    experts = Experts(**(setting.experts | changes | {"d_ff": setting.width}))
    made = upcycle(model, experts, torch.Generator().manual_seed(seed))
    found: dict[str, Any] = {
        "seed": seed,
        "start": start,
        "upcycled_start": observe(setting.world, made)["nats_per_byte"],
        "curve": curve([record.loss for record in history]),
    }
    ways = {
        "dense": model,
        "upcycled": made,
        "from scratch": untrained(made.config, seed),
    }
    for name, way in ways.items():
        found[name] = train_and_watch(setting, way, seed + 500, setting.schedule(after))
    found["experts_apart"] = [round(share, 4) for share in experts_apart(made).tolist()]
    return found


def curve(values: Sequence[float]) -> list[float]:
    """Means over CURVE_STEP updates, rounded: enough for a picture."""
    parts = [values[i : i + CURVE_STEP] for i in range(0, len(values), CURVE_STEP)]
    return [round(statistics.fmean(part), 4) for part in parts]


def starving(final: dict[str, Any], below: float) -> int:
    """How many experts, of all layers, take less than `below` of the assignments."""
    return sum(share < below for layer in final["load"] for share in layer)


def within(final: dict[str, Any], factor: float) -> bool:
    """Whether every expert's load is within `factor` of uniform, both ways, in every layer."""
    return all(
        1 / factor <= share * len(layer) <= factor for layer in final["load"] for share in layer
    )


def _rounded(table: Tensor) -> list[list[float]]:
    return [[round(value, 4) for value in row] for row in table.tolist()]
