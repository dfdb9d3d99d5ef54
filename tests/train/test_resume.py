"""Exact resume: a run that was stopped and taken up again is the run that never stopped.

Equal means equal: every bit of the weights, of the optimisers' averages, of the loss scale and of
every source of random numbers, and every loss and rate on the way. The last class takes away one
ingredient after another and shows that each is needed: the comparison would notice.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from llmcourse.data.batches import document_aligned, sliding_window
from llmcourse.data.loader import LoaderConfig, ShardLoader
from llmcourse.data.resumable import Replayed
from llmcourse.data.shard_writer import ShardWriter
from llmcourse.data.shards import Shards, tokenizer_fingerprint
from llmcourse.errors import CheckpointError
from llmcourse.model import ModelConfig, Transformer
from llmcourse.tokenizers import ByteTokenizer
from llmcourse.train import TrainConfig, TrainState, checkpoint, next_token_loss, training_steps
from llmcourse.train.checkpoint import SavedTraining

STEPS = 12
TEXT = torch.randint(0, 31, (400,), generator=torch.Generator().manual_seed(5))
DOCUMENTS = [[n % 31] * (2 + n % 11) for n in range(1, 40)]  # 10 batches an epoch
SIZES = {"vocab_size": 31, "context_length": 12, "n_layers": 2, "n_heads": 2, "d_model": 24}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def sliding(seed: int = 0) -> Replayed:
    return Replayed(lambda g: sliding_window(TEXT, 12, 3, g), seeded(seed))


def documents(seed: int = 0) -> Replayed:
    return Replayed(lambda g: document_aligned(DOCUMENTS, 12, 4, g), seeded(seed))


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Shards:
    folder = tmp_path_factory.mktemp("shards")
    header = {
        "dtype": "uint16",
        "vocab_size": 31,
        "tokenizer": {"kind": "bytes", "special_tokens": []},
        "tokenizer_fingerprint": tokenizer_fingerprint(ByteTokenizer()),
    }
    writer = ShardWriter(folder, header, 100)
    for number, document in enumerate(DOCUMENTS):
        writer.add(np.array(document), number)
    writer.finish(len(DOCUMENTS))
    return Shards(folder)


def noisy_loss(model, batch):
    """Draws from every global source: torch's, NumPy's and Python's."""
    noise = torch.rand(()) + np.random.rand() + np.random.randn() + random.random()
    return next_token_loss(model, batch) * (1 + 0.1 * noise + 0.1 * random.gauss(0, 1))


class Run:
    """A run that can be begun anew, as a second process would begin it."""

    def __init__(self, make_batches=sliding, *, loss=None, dtype=None, model=None, **config):
        self.config = TrainConfig(**{"steps": STEPS, "warmup_steps": 3} | config)
        self.make_batches, self.loss, self.dtype = make_batches, loss, dtype
        self.model_changes = {"dropout": 0.2} | (model or {})

    def begin(self, seed: int = 0) -> TrainState:
        model = Transformer(ModelConfig(**SIZES | self.model_changes), seeded(seed))
        model = model.to(self.dtype or torch.float32)
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)
        return TrainState(model, self.make_batches(seed), self.config, loss=self.loss)

    def go(self, state: TrainState, until: int | None = None) -> list:
        """The records of the updates that are left, or of those up to `until`."""
        steps = training_steps(state.model, state.batches, self.config, state=state)
        left = None if until is None else until - state.step
        return [dataclasses.replace(r, seconds=0.0) for r in itertools.islice(steps, left)]

    def resumed(self, folder: Path, stops: list[int]) -> tuple[TrainState, list]:
        """The run with a stop after each of `stops` updates."""
        state, records = self.begin(), []
        for number, stop in enumerate(stops, start=1):
            records += self.go(state, stop)
            checkpoint.save(folder, state.model, state=state)
            # As another process: other weights, other random numbers, other data at hand.
            state = self.begin(seed=100 + number)
            checkpoint.load(folder).restore(state)
        return state, records + self.go(state)


def assert_same(first: TrainState, second: TrainState) -> None:
    weights = second.model.state_dict()
    for name, tensor in first.model.state_dict().items():
        assert tensor.dtype == weights[name].dtype and torch.equal(tensor, weights[name]), name
    one, two = first.tensors(), second.tensors()
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        assert tensor.dtype == two[name].dtype and torch.equal(tensor, two[name]), name
    for facts in zip(*(json.loads(json.dumps(s.facts())).items() for s in (first, second))):
        assert facts[0] == facts[1] or facts[0][0] == "seconds"


CASES = {
    "adamw": Run(),
    "muon": Run(optimizer="muon"),
    "sgd": Run(optimizer="sgd", learning_rate=0.1),
    "linear": Run(schedule="linear", weight_decay=0.3),
    "wsd": Run(schedule="wsd", optimizer="muon"),
    "constant": Run(schedule="constant", optimizer="sgd", learning_rate=0.1),
    "accumulation": Run(accumulate=3, clip_norm=0.1),
    "accumulation of unequal batches": Run(documents, accumulate=2, optimizer="muon"),
    "documents": Run(documents),
    "bfloat16": Run(precision="bfloat16", optimizer="muon"),
    "weights in bfloat16": Run(dtype=torch.bfloat16),
    "float16": Run(precision="float16", accumulate=2),
    "float16 with muon": Run(precision="float16", optimizer="muon", schedule="wsd"),
    "chunked loss": Run(loss_chunk=7),
    "recomputed": Run(recompute=True),
    "convolution": Run(products="convolution"),
    "random losses": Run(loss=noisy_loss),
    "modern": Run(
        model={"positions": "rope", "norm": "rms", "feed_forward": "gated", "activation": "silu"}
    ),
    "no dropout": Run(model={"dropout": 0.0}),
}


class TestBitIdentical:
    @pytest.mark.parametrize("name", CASES)
    def test_however_it_is_trained(self, tmp_path, name):
        run = CASES[name]
        whole = run.begin()
        records = run.go(whole)
        assert [record.step for record in records] == list(range(1, STEPS + 1))
        stops = sorted(random.Random(name).sample(range(1, STEPS), 3))
        resumed, again = run.resumed(tmp_path / "run", stops)
        assert_same(whole, resumed)
        assert again == records

    @pytest.mark.parametrize("packed", [False, True])
    @pytest.mark.parametrize("prefetch", [0, 3])
    def test_on_token_shards(self, tmp_path, shards, packed, prefetch):
        loader = LoaderConfig(12, 3, packed=packed, look_ahead=5, prefetch=prefetch)
        run = Run(lambda seed: ShardLoader(shards, loader, seeded(seed)), accumulate=2)
        whole = run.begin()
        records = run.go(whole)
        assert whole.batches.epoch > 0, "too short to see a second epoch"
        resumed, again = run.resumed(tmp_path / "run", [1, 4, 9])
        assert_same(whole, resumed)
        assert again == records
        for state in (whole, resumed):
            state.batches.close()

    def test_after_every_single_update(self, tmp_path):
        run = Run(documents, optimizer="muon")
        whole = run.begin()
        run.go(whole)
        resumed, _ = run.resumed(tmp_path / "run", list(range(1, STEPS)))
        assert_same(whole, resumed)

    def test_before_the_first_update_and_after_the_last(self, tmp_path):
        run = Run()
        whole = run.begin()
        run.go(whole)
        resumed, records = run.resumed(tmp_path / "run", [0, STEPS])
        assert_same(whole, resumed)
        assert len(records) == STEPS and run.go(resumed) == []

    def test_validation_and_samples_between_do_not_matter(self, tmp_path):
        """What is seen of a run may change when it is resumed; what it computes does not."""
        run = Run()
        whole = run.begin()
        run.go(whole)
        state = run.begin()
        run.go(state, 5)
        checkpoint.save(tmp_path / "run", state.model, state=state)
        run.config = dataclasses.replace(run.config, evaluate_every=2, sample_every=3)
        state = run.begin(seed=9)
        checkpoint.load(tmp_path / "run").restore(state)
        steps = training_steps(
            state.model,
            state.batches,
            run.config,
            state=state,
            evaluate=lambda model: model(TEXT[None, :12]).sum().item(),
            sample=lambda model: "text",
        )
        assert [r.step for r in steps if r.validation_loss is not None] == [6, 8, 10, 12]
        for name, tensor in whole.model.state_dict().items():
            assert torch.equal(tensor, state.model.state_dict()[name])

    def test_float16_overflowed_on_the_way(self, tmp_path):
        """The loss scale is moved before, at and after the stop, and goes on from where it was."""
        run = Run(precision="float16", loss=lambda m, b: next_token_loss(m, b) * 200)
        whole = run.begin()
        records = run.go(whole)
        skipped = [record.step for record in records if record.gradient_norm is None]
        assert 3 <= len(skipped) <= STEPS - 4 and skipped[0] == 1
        for stop in (1, 2, len(skipped)):
            resumed, again = run.resumed(tmp_path / "run", [stop])
            assert_same(whole, resumed)
            assert again == records

    def test_a_saved_run_goes_on_undisturbed(self, tmp_path):
        """Saving reads and changes nothing."""
        run = Run(documents)
        whole = run.begin()
        run.go(whole)
        saving = run.begin()
        for step in range(1, STEPS + 1):
            run.go(saving, step)
            checkpoint.save(tmp_path / "run", saving.model, state=saving)
            checkpoint.load(tmp_path / "run")
        assert_same(whole, saving)


class TestTheScheduleGoesOn:
    """A resume that starts the warm-up again is the commonest mistake of all."""

    PEAK, FLOOR, WARMUP = 1e-3, 1e-4, 3

    def rate(self, schedule: str, update: int) -> float:
        """The rate of an update, 1 for the first, from the definitions."""
        peak, floor, warmup, done = self.PEAK, self.FLOOR, self.WARMUP, update - 1
        if done < warmup:
            return peak * (done + 1) / (warmup + 1)
        progress = (done - warmup) / (STEPS - warmup)
        return {
            "cosine": floor + (peak - floor) * (1 + math.cos(math.pi * progress)) / 2,
            "linear": peak + (floor - peak) * progress,
            "wsd": peak
            if done <= 10
            else floor + (peak - floor) * (1 - math.sqrt((done - 10) / 2)),
            "constant": peak,
        }[schedule]

    @pytest.mark.parametrize("schedule", ["cosine", "linear", "wsd", "constant"])
    @pytest.mark.parametrize("stop", [1, 2, 7])
    def test_rates(self, tmp_path, schedule, stop):
        run = Run(schedule=schedule, optimizer="muon")
        state = run.begin()
        run.go(state, stop)
        checkpoint.save(tmp_path / "run", state.model, state=state)
        state = run.begin(seed=1)
        checkpoint.load(tmp_path / "run").restore(state)
        records = run.go(state)
        assert [record.step for record in records] == list(range(stop + 1, STEPS + 1))
        for record in records:
            expected = self.rate(schedule, record.step)
            assert record.learning_rate == pytest.approx(expected, rel=1e-12)
        # And it is what the optimisers step by: Muon's in proportion to its own peak.
        assert [group["lr"] / peak for group, peak in zip(state.groups, state.peaks)] == (
            pytest.approx([self.rate(schedule, STEPS) / self.PEAK] * len(state.groups))
        )


class TestEveryIngredientIsNeeded:
    """What resumes without one of them ends elsewhere: the comparison above can fail."""

    def final(self, folder: Path, run: Run, spoil=None, **spoil_saved) -> TrainState:
        state = run.begin()
        run.go(state, 6)
        checkpoint.save(folder, state.model, state=state)
        saved = checkpoint.load(folder)
        state = run.begin(seed=0)  # even with the right seed
        training = saved.training
        facts = training.facts | spoil_saved.get("facts", {})
        tensors = training.tensors | spoil_saved.get("tensors", {})
        dataclasses.replace(saved, training=SavedTraining(tensors, facts)).restore(state)
        if spoil is not None:
            spoil(state)
        run.go(state)
        return state

    def differs(self, run: Run, state: TrainState) -> bool:
        whole = run.begin()
        run.go(whole)
        found = state.model.state_dict()
        return any(not torch.equal(t, found[n]) for n, t in whole.model.state_dict().items())

    def test_with_all_of_them_it_is_the_same(self, tmp_path):
        run = Run(loss=noisy_loss)
        assert not self.differs(run, self.final(tmp_path / "run", run))

    def test_the_step(self, tmp_path):
        run = Run()
        restarted = self.final(tmp_path / "run", run, facts={"step": 0})
        assert self.differs(run, restarted)

    def test_the_optimisers_averages(self, tmp_path):
        def forget(state):
            for optimizer in state.optimizers:
                optimizer.state.clear()

        for optimizer in ("adamw", "muon", "sgd"):
            run = Run(optimizer=optimizer)
            assert self.differs(run, self.final(tmp_path / "run", run, forget)), optimizer

    def test_the_data_position(self, tmp_path):
        def restart(state):
            state.batches.load_state_dict(sliding(0).state_dict())

        run = Run(model={"dropout": 0.0})
        assert self.differs(run, self.final(tmp_path / "run", run, restart))

    @pytest.mark.parametrize("name", ["random.generator.model.0", "random.torch"])
    def test_the_random_state(self, tmp_path, name):
        run = Run(loss=noisy_loss)
        other = {"tensors": {name: seeded(0).get_state()}}
        assert self.differs(run, self.final(tmp_path / "run", run, **other))

    def test_the_random_state_of_numpy_and_python(self, tmp_path):
        run = Run(loss=noisy_loss)
        for forget in (lambda state: np.random.seed(0), lambda state: random.seed(0)):
            assert self.differs(run, self.final(tmp_path / "run", run, forget))

    def test_the_loss_scale(self, tmp_path):
        run = Run(precision="float16", loss=lambda m, b: next_token_loss(m, b) * 200)
        fresh = {"facts": {"scaler": run.begin().scaler.to_dict()}}
        assert self.differs(run, self.final(tmp_path / "run", run, **fresh))

    def test_batches_that_cannot_say_where_they_stand_are_refused(self, tmp_path):
        run = Run(lambda seed: sliding_window(TEXT, 12, 3, seeded(seed)))
        state = run.begin()
        run.go(state, 2)
        with pytest.raises(ValueError, match="cannot say where they stand, so a run on them could"):
            checkpoint.save(tmp_path / "run", state.model, state=state)
        assert not (tmp_path / "run").exists()

    def test_a_generator_that_was_not_saved_is_refused(self, tmp_path):
        run = Run(model={"dropout": 0.0})
        state = run.begin()
        checkpoint.save(tmp_path / "run", state.model, state=state)
        saved = checkpoint.load(tmp_path / "run").training
        tensors = {n: t for n, t in saved.tensors.items() if not n.startswith("random.generator")}
        if tensors.keys() == saved.tensors.keys():
            pytest.fail("a model keeps its generator even where it does not draw from it")
        with pytest.raises(CheckpointError, match=r"lacks the random generator 'model.0'"):
            SavedTraining(tensors, saved.facts).restore(run.begin())
