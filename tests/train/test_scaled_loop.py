"""What Part 4 adds to the loop: accumulation, loss scaling, schedules, chunks, packed rows."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from llmcourse.data import Batch
from llmcourse.data.packing import PackedBatch
from llmcourse.train import TrainConfig, TrainState, next_token_loss, train, training_steps
from llmcourse.train.objective import Objective, n_targets
from llmcourse.train.processes import Processes
from llmcourse.train.schedules import SCHEDULES, learning_rate


def ragged_batches(n, rows=2, length=8, vocab=31, seed=0):
    """Each with another number of targets that count, from 1 upwards."""
    generator = torch.Generator().manual_seed(seed)
    out = []
    for k in range(n):
        ids = torch.randint(vocab, (rows, length + 1), generator=generator)
        targets = ids[:, 1:].clone()
        targets.view(-1)[1 + 5 * k % (rows * length) :] = -100
        out.append(Batch(ids[:, :-1], targets))
    return out


def joined(batches):
    return Batch(*(torch.cat(fields) for fields in zip(*batches)))


def weights(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


class TestAccumulation:
    @pytest.mark.parametrize("optimizer", ["adamw", "muon", "sgd"])
    @pytest.mark.parametrize("accumulate", [2, 3])
    def test_equals_the_large_batch(self, make_model, optimizer, accumulate):
        small = ragged_batches(4 * accumulate)
        groups = [small[i : i + accumulate] for i in range(0, len(small), accumulate)]
        common = {"steps": 4, "warmup_steps": 1, "optimizer": optimizer, "learning_rate": 1e-2}
        many, one = make_model().double(), make_model().double()
        config = TrainConfig(**common, accumulate=accumulate)
        a = train(many, small, config, progress=False)
        b = train(one, [joined(g) for g in groups], TrainConfig(**common), progress=False)
        assert a.losses == pytest.approx(b.losses, abs=1e-12)
        assert [r.tokens for r in a.records] == [r.tokens for r in b.records]
        norms = [[r.gradient_norm for r in h.records] for h in (a, b)]
        assert norms[0] == pytest.approx(norms[1], rel=1e-10)
        for (name, p), q in zip(many.named_parameters(), one.parameters()):
            torch.testing.assert_close(p, q, rtol=0, atol=1e-9, msg=name)

    def test_a_mean_of_means_would_not(self, make_model):
        """The mistake the weights are there for: it must be visible on these batches."""
        model, batches = make_model().double(), ragged_batches(3)
        plain = sum(next_token_loss(model, batch) for batch in batches).item() / 3
        whole = next_token_loss(model, joined(batches)).item()
        assert abs(plain - whole) > 1e-3
        config = TrainConfig(steps=1, warmup_steps=0, accumulate=3)
        assert next(training_steps(model, batches, config)).loss == pytest.approx(whole, abs=1e-12)

    def test_batches_that_run_out_within_an_update(self, make_model):
        config = TrainConfig(steps=3, warmup_steps=0, accumulate=2)
        steps = training_steps(make_model(), ragged_batches(3), config)
        assert next(steps).step == 1
        with pytest.raises(ValueError, match=r"ran out after 1 of 3 steps"):
            next(steps)

    def test_a_batch_without_targets_weighs_one(self):
        class Pair(tuple):
            pass

        assert n_targets(Pair((torch.zeros(3),))) == 1
        assert n_targets(ragged_batches(1)[0]) == 1
        assert n_targets(ragged_batches(2)[1]) == 6


class TestFloat16:
    def test_an_overflow_skips_the_step_and_halves_the_scale(self, make_model):
        model, before = make_model(), []

        def loss(model, batch):
            value = next_token_loss(model, batch)
            return value * (math.inf if len(before) == 1 else 1.0)

        config = TrainConfig(steps=3, warmup_steps=0, precision="float16")
        records = []
        # Full rows: the first batches have so few targets that their gradients overflow anyway.
        batches = [Batch(b.inputs, b.inputs) for b in ragged_batches(3)]
        for record in training_steps(model, batches, config, loss=loss):
            records.append(record)
            before.append(weights(model))
        assert [r.skipped for r in records] == [False, True, False]
        assert [r.loss_scale for r in records] == [65536.0, 65536.0, 32768.0]
        assert records[1].gradient_norm is None
        assert all(torch.equal(p, before[0][name]) for name, p in before[1].items())
        assert not all(torch.equal(p, before[1][name]) for name, p in before[2].items())

    def test_stays_close_to_float32(self, make_model):
        losses = {}
        for precision in ("float32", "float16"):
            config = TrainConfig(steps=15, warmup_steps=2, precision=precision)
            batches = itertools.cycle(ragged_batches(5)[2:])
            losses[precision] = train(make_model(), batches, config, progress=False).losses
        assert losses["float16"] != losses["float32"]
        assert losses["float16"] == pytest.approx(losses["float32"], abs=0.02)

    def test_in_other_precisions_there_is_no_scale(self, make_model):
        config = TrainConfig(steps=1, warmup_steps=0, precision="bfloat16")
        record = next(training_steps(make_model(), ragged_batches(1), config))
        assert record.loss_scale is None and not record.skipped


class TestSchedules:
    @pytest.mark.parametrize("schedule", SCHEDULES)
    def test_the_loop_follows(self, make_model, schedule):
        config = TrainConfig(steps=9, warmup_steps=2, schedule=schedule, learning_rate=1e-2)
        history = train(make_model(), ragged_batches(9), config, progress=False)
        wanted = [
            learning_rate(
                n, schedule=schedule, peak=1e-2, warmup_steps=2, total_steps=9, floor=1e-4
            )
            for n in range(9)
        ]
        assert [r.learning_rate for r in history.records] == wanted


class TestLoss:
    @pytest.mark.parametrize("chunk", [1, 5, 1000])
    def test_in_chunks_it_is_the_same_run(self, make_model, chunk):
        runs = []
        for loss_chunk in (0, chunk):
            model = make_model().double()
            config = TrainConfig(steps=4, warmup_steps=0, loss_chunk=loss_chunk)
            runs.append((train(model, ragged_batches(4), config, progress=False), weights(model)))
        assert runs[1][0].losses == pytest.approx(runs[0][0].losses, abs=1e-12)
        for name, p in runs[0][1].items():
            torch.testing.assert_close(runs[1][1][name], p, rtol=0, atol=1e-9)

    def test_chunks_are_not_for_a_loss_of_ones_own(self, make_model):
        config = TrainConfig(steps=1, warmup_steps=0, loss_chunk=4)
        with pytest.raises(ValueError, match="loss_chunk=4 is about the next-token loss"):
            next(training_steps(make_model(), ragged_batches(1), config, loss=next_token_loss))

    @pytest.mark.parametrize("chunk", [0, 3])
    def test_packed_documents_do_not_see_each_other(self, make_model, chunk):
        generator = torch.Generator().manual_seed(1)
        ids = torch.randint(31, (2, 5), generator=generator)
        apart = Batch(ids[:, :-1], ids[:, 1:])
        packed = PackedBatch(
            apart.inputs.reshape(1, 8),
            apart.targets.reshape(1, 8),
            torch.tensor([[0] * 4 + [1] * 4]),
        )
        config = TrainConfig(steps=1, warmup_steps=0, loss_chunk=chunk)
        losses = [
            next(training_steps(make_model().double(), [batch], config)).loss
            for batch in (apart, packed)
        ]
        assert losses[0] == pytest.approx(losses[1], abs=1e-12)
        unaware = Batch(packed.inputs, packed.targets)
        crossed = next(training_steps(make_model().double(), [unaware], config)).loss
        assert abs(crossed - losses[0]) > 1e-6


class TestState:
    def test_must_belong_to_the_run(self, make_model):
        model, batches = make_model(), ragged_batches(2)
        config = TrainConfig(steps=2, warmup_steps=0)
        state = TrainState(model, batches, config)
        with pytest.raises(ValueError, match="made for another model or config"):
            next(training_steps(make_model(), batches, config, state=state))
        with pytest.raises(ValueError, match="made for another model or config"):
            next(training_steps(model, batches, TrainConfig(steps=3, warmup_steps=0), state=state))

    def test_describes_the_updates_made(self, make_model):
        model, batches = make_model(), ragged_batches(3)
        config = TrainConfig(steps=3, warmup_steps=0)
        state = TrainState(model, batches, config)
        for record in training_steps(model, batches, config, state=state):
            assert (state.step, state.tokens, state.seconds) == (
                record.step,
                record.tokens,
                record.seconds,
            )

    def test_batches_without_a_place_cannot_be_saved(self, make_model):
        state = TrainState(make_model(), ragged_batches(1), TrainConfig(1, warmup_steps=0))
        with pytest.raises(ValueError, match=r"list_iterator.*cannot say where they stand"):
            state.facts()

    def test_recompute_needs_a_model_that_can(self):
        model = torch.nn.Linear(2, 2)
        config = TrainConfig(steps=1, warmup_steps=0, recompute=True)
        with pytest.raises(ValueError, match="recompute=True needs a Transformer, got Linear"):
            TrainState(model, [], config)


class TestObjective:
    def test_is_the_loss_of_the_model(self, make_model):
        model, [batch] = make_model(), ragged_batches(1)
        objective = Objective(model, next_token_loss)
        assert torch.equal(objective(batch), next_token_loss(model, batch))
        assert {id(p) for p in objective.parameters()} == {id(p) for p in model.parameters()}

    def test_one_process_is_alone(self):
        alone = Processes(torch.device("cpu"))
        assert alone.main and alone.sum(2.5) == 2.5 and alone.world_size == alone.data_size == 1

    @pytest.mark.slow
    def test_compiled_it_trains_alike(self, make_model):
        runs = []
        for compiled in (False, True):
            config = TrainConfig(steps=3, warmup_steps=0, compile=compiled)
            batches = ragged_batches(6)[3:]
            runs.append(train(make_model(), batches, config, progress=False).losses)
        assert runs[1] == pytest.approx(runs[0], abs=1e-4)


class TestBar:
    def test_shows_the_share_of_the_machine(self, make_model, capsys):
        config = TrainConfig(steps=1, warmup_steps=0)
        train(make_model(), ragged_batches(2)[1:], config, peak_flops=1e9)
        assert "MFU" in capsys.readouterr().err
