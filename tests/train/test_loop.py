"""The loop against a plain one with torch's own parts, number by number, and its promises."""

from __future__ import annotations

import itertools
import json
import math

import pytest
import torch
from torch.nn import functional as F

from llmcourse.data import Batch
from llmcourse.train import (
    History,
    StepRecord,
    TrainConfig,
    cross_entropy,
    next_token_loss,
    train,
    training_steps,
)
from llmcourse.train.muon import Muon


def make_batches(n, rows=3, length=9, vocab=31, seed=0):
    generator = torch.Generator().manual_seed(seed)
    out = []
    for _ in range(n):
        ids = torch.randint(vocab, (rows, length + 1), generator=generator)
        targets = ids[:, 1:].clone()
        targets[0, -2:] = -100  # a padded row
        out.append(Batch(ids[:, :-1], targets))
    return out


def state(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same_state(model, before):
    return all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def plain_loop(model, batches, config):
    """Twenty lines of torch that share no code with the loop under test."""
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim == 1]
    muon = None
    if config.optimizer == "muon":
        inside = [p for n, p in model.named_parameters() if n.startswith("blocks") and p.ndim > 1]
        matrices = [p for p in matrices if not any(p is q for q in inside)]
        muon = Muon(inside, weight_decay=config.weight_decay)
    optimizer = torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": config.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ],
        betas=(config.beta1, config.beta2),
        fused=False,
        foreach=False,
    )
    out = []
    for step, batch in zip(range(config.steps), batches):
        if step < config.warmup_steps:
            share = (step + 1) / (config.warmup_steps + 1)
            rate = config.learning_rate * share
        else:
            done = (step - config.warmup_steps) / (config.steps - config.warmup_steps)
            low, high = config.min_learning_rate, config.learning_rate
            rate = low + (high - low) * (1 + math.cos(math.pi * done)) / 2
        for group in optimizer.param_groups:
            group["lr"] = rate
        if muon:
            muon.param_groups[0]["lr"] = config.muon_learning_rate * rate / config.learning_rate
        loss = F.cross_entropy(model(batch.inputs).transpose(1, 2), batch.targets)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
        optimizer.step()
        if muon:
            muon.step()
        model.zero_grad()
        out.append((loss.item(), rate, norm.item()))
    return out


CONFIGS = [
    TrainConfig(steps=15, warmup_steps=4, learning_rate=5e-3, min_learning_rate=1e-3),
    TrainConfig(steps=8, warmup_steps=0, weight_decay=1.0, clip_norm=0.05, beta1=0.5, beta2=0.9),
    TrainConfig(steps=8, warmup_steps=2, learning_rate=3e-3, optimizer="muon"),
]


class TestTrajectory:
    @pytest.mark.parametrize("config", CONFIGS, ids=["usual", "extreme", "muon"])
    def test_equals_a_plain_loop_step_by_step(self, make_model, config):
        ours, theirs = make_model().double(), make_model().double()
        batches = make_batches(config.steps)
        wanted = plain_loop(theirs, batches, config)
        records = list(training_steps(ours, batches, config))
        assert [r.step for r in records] == list(range(1, config.steps + 1))
        for record, (loss, rate, norm) in zip(records, wanted, strict=True):
            assert record.loss == pytest.approx(loss, abs=1e-6)
            assert record.learning_rate == pytest.approx(rate, rel=1e-12)
            assert record.gradient_norm == pytest.approx(norm, rel=1e-5)
        for (name, a), b in zip(ours.named_parameters(), theirs.parameters()):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-6, msg=name)
        assert records[-1].loss < records[0].loss or config.steps < 10

    def test_pinned(self, make_model):
        """A whole run, written down once: a change to any part of it shows here."""
        config = TrainConfig(steps=20, warmup_steps=3, learning_rate=1e-2, min_learning_rate=1e-3)
        model = make_model().double()
        for n, parameter in enumerate(model.parameters()):
            # Weights from a formula: torch's normal numbers differ a little between processors,
            # and AdamW's first steps make a lot of a little.
            angles = torch.arange(parameter.numel(), dtype=torch.float64) * (n + 1)
            parameter.data = 0.1 * torch.sin(angles).reshape(parameter.shape)
        batches = [
            Batch(ids[:, :-1], ids[:, 1:])
            for ids in (torch.arange(30).reshape(3, 10) * k % 31 for k in (3, 7))
        ]
        history = train(model, itertools.cycle(batches), config, progress=False)
        picked = [history.losses[i] for i in (0, 1, 5, 10, 19)]
        assert picked == pytest.approx(PINNED, abs=1e-8)

    def test_two_runs_are_bit_identical(self, make_model):
        config = TrainConfig(steps=6, warmup_steps=1)
        runs = []
        for _ in range(2):
            model = make_model(dropout=0.3)
            history = train(model, make_batches(6), config, progress=False)
            runs.append((history.losses, state(model)))
        assert runs[0][0] == runs[1][0] and same_state(model, runs[0][1])

    @pytest.mark.parametrize("optimizer", ["adamw", "muon"])
    def test_overfits_one_batch(self, make_model, optimizer):
        config = TrainConfig(
            steps=120,
            warmup_steps=10,
            learning_rate=2e-2 if optimizer == "adamw" else 1e-2,
            weight_decay=0.0,
            optimizer=optimizer,
        )
        [batch] = make_batches(1)
        history = train(make_model(), itertools.repeat(batch), config, progress=False)
        assert history.losses[0] == pytest.approx(math.log(31), abs=0.1)
        assert history.losses[-1] < 0.05

    def test_bfloat16_stays_close_to_float32(self, make_model):
        losses = []
        for precision in ("float32", "bfloat16"):
            config = TrainConfig(steps=15, warmup_steps=2, precision=precision)
            seen = []

            def loss(model, batch, seen=seen):
                logits = model(batch.inputs)
                seen.append(logits.dtype)
                return cross_entropy(logits, batch.targets)

            model = make_model()
            batches = itertools.cycle(make_batches(2))
            losses.append(train(model, batches, config, loss=loss, progress=False).losses)
            assert set(seen) == {getattr(torch, precision)}
            assert all(p.dtype == torch.float32 for p in model.parameters())
        assert losses[0] != losses[1]
        assert losses[1] == pytest.approx(losses[0], abs=0.02)


class TestRecords:
    def test_the_first_holds_the_untouched_models_loss(self, make_model):
        model, batches = make_model(), make_batches(3)
        wanted = next_token_loss(model, batches[0]).item()
        first = next(iter(training_steps(model, batches, TrainConfig(steps=3, warmup_steps=0))))
        assert first.step == 1 and first.loss == pytest.approx(wanted, abs=1e-7)

    def test_tokens_count_targets_that_count(self, make_model):
        history = train(
            make_model(), make_batches(3), TrainConfig(steps=3, warmup_steps=0), progress=False
        )
        assert [r.tokens for r in history.records] == [25, 50, 75]  # 27 less 2 ignored, each
        assert all(a.seconds < b.seconds for a, b in itertools.pairwise(history.records))
        assert history.tokens_per_second == pytest.approx(75 / history.records[-1].seconds)

    def test_the_norm_is_the_one_before_clipping(self, make_model):
        model, batches = make_model(), make_batches(1)
        next_token_loss(model, batches[0]).backward()
        wanted = math.sqrt(sum(p.grad.square().sum().item() for p in model.parameters()))
        model.zero_grad()
        config = TrainConfig(steps=1, warmup_steps=0, clip_norm=1e-3)
        [record] = training_steps(model, batches, config)
        assert record.gradient_norm == pytest.approx(wanted, rel=1e-5) and wanted > 1e-3

    @pytest.mark.parametrize(
        ("every", "due"), [(0, [7]), (1, [1, 2, 3, 4, 5, 6, 7]), (3, [3, 6, 7]), (7, [7]), (9, [7])]
    )
    def test_cadence_of_validation_and_samples(self, make_model, every, due):
        config = TrainConfig(steps=7, warmup_steps=0, evaluate_every=every, sample_every=every)
        steps = itertools.count(1)
        history = train(
            make_model(),
            make_batches(7),
            config,
            evaluate=lambda model: float(next(steps)),
            sample=lambda model: "text",
            progress=False,
        )
        assert history.validation == [(step, n) for n, step in enumerate(due, 1)]
        assert history.samples == [(step, "text") for step in due]

    def test_validation_is_after_the_update_without_gradients_or_dropout(self, make_model):
        model, [batch] = make_model(dropout=0.5), make_batches(1)
        seen = []

        def evaluate(model):
            seen.append((model.training, torch.is_grad_enabled()))
            value = next_token_loss(model, batch)
            assert not value.requires_grad
            return value.item()

        def sample(model):
            seen.append((model.training, torch.is_grad_enabled()))
            return "x"

        config = TrainConfig(steps=2, warmup_steps=0, evaluate_every=1, sample_every=1)
        for record in training_steps(
            model, [batch, batch], config, evaluate=evaluate, sample=sample
        ):
            assert torch.is_grad_enabled()
            with torch.no_grad():
                after = next_token_loss(model.eval(), batch).item()
            assert record.validation_loss == pytest.approx(after)
        assert seen == [(False, False)] * 4

    def test_training_steps_run_in_training_mode(self, make_model):
        model, modes = make_model().eval(), []

        def loss(model, batch):
            modes.append(model.training)
            return next_token_loss(model, batch)

        train(
            model,
            make_batches(2),
            TrainConfig(steps=2, warmup_steps=0),
            loss=loss,
            evaluate=lambda m: 0.0,
            progress=False,
        )
        assert modes == [True, True]

    def test_seconds_leave_evaluation_and_samples_out(self, make_model, monkeypatch):
        clock = [0.0]
        monkeypatch.setattr("llmcourse.train.loop.time.perf_counter", lambda: clock[0])

        def takes(seconds, result):
            clock[0] += seconds
            return result

        history = train(
            make_model(),
            make_batches(3),
            TrainConfig(steps=3, warmup_steps=0, evaluate_every=1, sample_every=1),
            loss=lambda model, batch: takes(2.0, next_token_loss(model, batch)),
            evaluate=lambda model: takes(100.0, 1.0),
            sample=lambda model: takes(1000.0, "text"),
            progress=False,
        )
        assert [r.seconds for r in history.records] == [2.0, 4.0, 6.0]
        assert history.tokens_per_second == 75 / 6

    def test_json_round_trip(self):
        records = [
            StepRecord(1, 5.5, 1e-3, 2.25, 100, 0.125),
            StepRecord(2, 1 / 3, 1e-4, 0.1, 200, 0.25, validation_loss=4.5, sample='é "\n'),
        ]
        text = History(records).to_json()
        assert History.from_json(text) == History(records)
        data = json.loads(text)
        assert data["rows"][1][data["columns"].index("sample")] == 'é "\n'
        assert History.from_json(History().to_json()).records == []
        assert History().tokens_per_second == 0.0
        assert History(records).steps == [1, 2] and History(records).losses == [5.5, 1 / 3]


class TestWhatGoesWrong:
    def test_batches_that_run_out(self, make_model):
        config = TrainConfig(steps=5, warmup_steps=0)
        steps = training_steps(make_model(), make_batches(2), config)
        assert [next(steps).step, next(steps).step] == [1, 2]
        with pytest.raises(ValueError, match=r"ran out after 2 of 5 steps; pass an endless"):
            next(steps)

    def test_no_batches_at_all(self, make_model):
        with pytest.raises(ValueError, match="ran out after 0 of 1 steps"):
            next(training_steps(make_model(), [], TrainConfig(steps=1, warmup_steps=0)))

    @pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
    def test_a_loss_that_is_no_number_leaves_the_model_alone(self, make_model, bad):
        model, calls = make_model(), itertools.count()

        def loss(model, batch):
            value = next_token_loss(model, batch)
            return value * bad if next(calls) == 2 else value

        steps = training_steps(
            model, make_batches(5), TrainConfig(steps=5, warmup_steps=0), loss=loss
        )
        next(steps), next(steps)
        before = state(model)
        with pytest.raises(FloatingPointError, match=r"loss became -?(nan|inf) at step 3"):
            next(steps)
        assert same_state(model, before)
        assert all(p.grad is None for p in model.parameters())

    def test_a_gradient_that_is_no_number_leaves_the_model_alone(self, make_model):
        model = make_model()

        def loss(model, batch):
            value = next_token_loss(model, batch)
            return value + (value - value).sqrt()  # finite, with the slope of a root at zero

        before = state(model)
        with pytest.raises(FloatingPointError, match=r"gradient became (nan|inf) at step 1"):
            next(training_steps(model, make_batches(1), TrainConfig(1, warmup_steps=0), loss=loss))
        assert same_state(model, before)
        assert all(p.grad is None for p in model.parameters())

    def test_gradients_left_by_an_experiment_do_not_join_the_first_step(self, make_model):
        config, results = TrainConfig(steps=2, warmup_steps=0), []
        for left_over in (False, True):
            model = make_model()
            if left_over:
                (next_token_loss(model, make_batches(1, seed=5)[0]) * 1000).backward()
            train(model, make_batches(2), config, progress=False)
            results.append(state(model))
        assert same_state(model, results[0])
        assert all(p.grad is None for p in model.parameters()), "gradients were left behind"

    def test_stopping_by_hand_keeps_what_was_learned(self, make_model):
        model, stopped = make_model(), make_model()
        config, calls = TrainConfig(steps=6, warmup_steps=0), itertools.count()

        def loss(model, batch):
            if next(calls) == 3:
                raise KeyboardInterrupt
            return next_token_loss(model, batch)

        history = train(stopped, make_batches(6), config, loss=loss, progress=False)
        assert history.steps == [1, 2, 3]
        for _, _record in zip(range(3), training_steps(model, make_batches(6), config)):
            pass
        assert same_state(stopped, state(model))

    def test_whoever_iterates_may_stop(self, make_model):
        taken = []

        def source():
            for batch in make_batches(50):
                taken.append(batch)
                yield batch

        for record in training_steps(make_model(), source(), TrainConfig(50, warmup_steps=0)):
            if record.step == 3:
                break
        assert len(taken) == 3, "batches were drawn ahead of the steps"

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"steps": 0}, r"steps=0 must be at least 1"),
            ({"steps": 10, "warmup_steps": 10}, r"warmup_steps=10 .*below steps=10"),
            ({"warmup_steps": -1}, r"warmup_steps=-1"),
            ({"learning_rate": 0.0}, r"learning_rate=0.0 must be a number above 0"),
            ({"learning_rate": math.nan}, r"learning_rate=nan must be a number above 0"),
            ({"learning_rate": math.inf}, r"learning_rate=inf must be a number above 0"),
            ({"min_learning_rate": 1.0}, r"min_learning_rate=1.0 must lie between 0 and learning"),
            ({"min_learning_rate": -1.0}, r"min_learning_rate=-1.0 must lie between"),
            ({"beta1": 1.0}, r"beta1=1.0 must be in \[0, 1\)"),
            ({"beta2": -0.1}, r"beta2=-0.1 must be in"),
            ({"weight_decay": -0.1}, r"weight_decay must be at least 0"),
            ({"clip_norm": 0.0}, r"clip_norm greater than 0"),
            ({"evaluate_every": -1}, r"evaluate_every=-1 must be at least 0"),
            ({"accumulate": 0}, r"accumulate=0 must be at least 1"),
            ({"loss_chunk": -1}, r"loss_chunk=-1 must be at least 0"),
            ({"precision": "float8"}, r"precision='float8' is unknown; choose .*'bfloat16'"),
            (
                {"optimizer": "lion"},
                r"optimizer='lion' is unknown; choose one of \['adamw'",
            ),
            ({"schedule": "steps"}, r"schedule='steps' is unknown; choose one of \['cosine'"),
            ({"products": "magic"}, r"products='magic' is unknown; choose one of \['plain'"),
            ({"muon_learning_rate": 0.0}, r"muon_learning_rate=0.0 must be above 0"),
        ],
    )
    def test_impossible_settings_are_named(self, options, message):
        with pytest.raises(ValueError, match=message):
            TrainConfig(**{"steps": 100} | options)


class TestProgress:
    def test_a_bar_shows_loss_and_validation(self, make_model, capsys):
        config = TrainConfig(steps=3, warmup_steps=0)
        train(make_model(), make_batches(3), config, evaluate=lambda model: 1.25)
        err = capsys.readouterr().err
        assert "3/3" in err and "validation 1.250" in err and "tokens/s" in err

    def test_without_it_nothing_is_printed(self, make_model, capsys):
        train(make_model(), make_batches(1), TrainConfig(1, warmup_steps=0), progress=False)
        assert capsys.readouterr() == ("", "")


PINNED = [3.4321075196, 3.4330112871, 3.392061908, 3.2160172839, 3.1623972775]
