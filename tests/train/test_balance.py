"""What a mixture of experts adds to training: routers' losses in the gradient, biases that move.

The value stays the cross-entropy; the gradient is that of the cross-entropy and the routers' losses
together; the selection bias moves once per update, by everything the update has seen.
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
from typing import ClassVar, NamedTuple

import pytest
import torch
from torch import Tensor

from llmcourse.data import Batch
from llmcourse.data.batches import sliding_window
from llmcourse.data.resumable import Replayed
from llmcourse.model import ModelConfig, Transformer
from llmcourse.model.experts_config import Experts
from llmcourse.model.router_losses import routing_loss
from llmcourse.model.routing import record_routing, sparse_layers
from llmcourse.train import (
    TrainConfig,
    TrainState,
    checkpoint,
    next_token_loss,
    train,
    training_steps,
)
from llmcourse.train.balance import count, move_selection_biases, with_routing_loss
from llmcourse.train.chunked_loss import chunked_next_token_loss
from llmcourse.train.objective import Objective
from llmcourse.train.processes import Processes

SIZES = {"vocab_size": 31, "context_length": 12, "n_layers": 3, "n_heads": 2, "d_model": 24}
LOSSES = {"balance_weight": 0.3, "z_weight": 0.1, "importance_weight": 0.2}
BIASED = Experts(4, 2, d_ff=10, selection_bias=True, bias_rate=0.01, **LOSSES, layers=(0, 2))
KINDS = {
    "batch": Experts(4, 2, d_ff=10, **LOSSES),
    "sequence": Experts(4, 2, d_ff=10, balance_over="sequence", **LOSSES),
    "model": Experts(4, 2, d_ff=10, balance_over="model", layers=(0, 2), **LOSSES),
    "sigmoid": Experts(6, 3, d_ff=10, score="sigmoid", selection_bias=True, **LOSSES),
    "capacity": Experts(4, 2, d_ff=10, capacity=0.75, **LOSSES),
    "experts choose": Experts(4, 2, d_ff=10, choice="expert", **LOSSES),
}
MODERN = {"positions": "rope", "norm": "rms", "feed_forward": "gated", "activation": "silu"}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def build(experts: Experts | None, seed: int = 0, dtype=torch.float64, **changes) -> Transformer:
    config = ModelConfig(**SIZES | {"init_std": 0.2} | changes, experts=experts)
    return Transformer(config, seeded(seed)).to(dtype).train()


def batches_of(n: int, rows: int = 3, length: int = 9, ragged: bool = True) -> list[Batch]:
    """Each row with another number of targets that count, in each batch another."""
    out = []
    for k in range(n):
        ids = torch.randint(31, (rows, length + 1), generator=seeded(50 + k))
        targets = ids[:, 1:].clone()
        if ragged:
            for row in range(rows):
                left = 1 + (7 * k + row + 2 * k * row) % length
                targets[row, left:] = -100
        out.append(Batch(ids[:, :-1], targets))
    return out


def joined(batches: list[Batch]) -> Batch:
    return Batch(*(torch.cat(fields) for fields in zip(*batches)))


def learned(model) -> list[Tensor]:
    return [p for p in model.parameters() if p.requires_grad]


def biases(model) -> list[Tensor]:
    return [layer.router.selection_bias.clone() for layer in sparse_layers(model)]


def composed(model, batch, mask=...):
    """Cross-entropy, and the routers' losses, apart."""
    with record_routing(model) as routings:
        value = next_token_loss(model, batch)
    mask = batch.targets != -100 if mask is ... else mask
    return value, routing_loss(routings, model.config.experts, mask)


class TestObjective:
    @pytest.mark.parametrize("name", KINDS)
    def test_the_value_is_the_cross_entropy_and_the_gradient_the_sum(self, name):
        model, [batch] = build(KINDS[name]), batches_of(1)
        value = Objective(model, next_token_loss)(batch)
        plain, extra = composed(model, batch)
        assert torch.equal(value, plain) and extra.item() > 0.1
        found = torch.autograd.grad(value, learned(model))
        wanted = torch.autograd.grad(plain + extra, learned(model))
        for a, b in zip(found, wanted, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-12)
        alone = torch.autograd.grad(next_token_loss(model, batch), learned(model))
        assert any((a - b).abs().max() > 1e-3 for a, b in zip(found, alone))

    @pytest.mark.parametrize("name", ["batch", "sequence", "model", "sigmoid"])
    def test_gradient_by_finite_differences(self, name):
        """Of the sum, along steps too small to send a token elsewhere."""
        model, [batch] = build(KINDS[name], **MODERN), batches_of(1)
        Objective(model, next_token_loss)(batch).backward()
        for parameter in learned(model):
            direction = torch.randn(parameter.shape, dtype=torch.float64, generator=seeded(9))
            ends = []
            for sign in (1, -1):
                parameter.data += sign * 1e-6 * direction
                ends.append(sum(composed(model, batch)).item())
                parameter.data -= sign * 1e-6 * direction
            slope = (ends[0] - ends[1]) / 2e-6
            wanted = (parameter.grad * direction).sum().item()
            assert slope == pytest.approx(wanted, rel=1e-4, abs=1e-7)

    def test_padding_does_not_count(self):
        """Filling behind the text, which has no target, is nothing to balance."""
        model, [batch] = build(KINDS["batch"]), batches_of(1)
        other = batch.inputs.masked_fill(batch.targets == -100, 7)
        found = [
            torch.autograd.grad(Objective(model, next_token_loss)(b), learned(model))
            for b in (batch, Batch(other, batch.targets))
        ]
        for a, b in zip(*found, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-12)

    def test_batches_that_do_not_say_what_counts(self):
        class Bare(NamedTuple):
            inputs: Tensor

        class Other(NamedTuple):
            inputs: Tensor
            targets: Tensor  # one per row: not about tokens

        model, ids = build(KINDS["batch"]), torch.randint(31, (3, 9), generator=seeded(1))
        with record_routing(model) as routings:
            model(ids)
        extra = routing_loss(routings, model.config.experts)
        wanted = torch.autograd.grad(extra, model.blocks[0].feed_forward.router.weight)[0]
        for batch in (Bare(ids), Other(ids, torch.tensor([1, -100, 1]))):
            value = Objective(model, lambda m, b: m(b.inputs).sum() * 0)(batch)
            [found] = torch.autograd.grad(value, model.blocks[0].feed_forward.router.weight)
            torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)

    def test_a_loss_may_call_the_model_several_times(self):
        """As preferences do, on texts of other lengths: then the targets say nothing."""
        model, [batch] = build(KINDS["batch"]), batches_of(1)
        other = torch.randint(31, (2, 5), generator=seeded(1))

        def loss(m, b):
            return next_token_loss(m, b) + m(other).square().mean()

        value = Objective(model, loss)(batch)
        with record_routing(model) as routings:
            plain = loss(model, batch)
        assert torch.equal(value, plain) and len(routings) == 6
        extra = routing_loss(routings, model.config.experts)
        wanted = torch.autograd.grad(plain + extra, learned(model))
        for a, b in zip(torch.autograd.grad(value, learned(model)), wanted, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-12)

    def test_chunks_of_logits_make_no_difference(self):
        model, [batch] = build(KINDS["batch"]), batches_of(1)
        found = []
        for loss in (next_token_loss, lambda m, b: chunked_next_token_loss(m, b, chunk_tokens=4)):
            value = Objective(model, loss)(batch)
            found.append([value.detach(), *torch.autograd.grad(value, learned(model))])
        for a, b in zip(*found, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-12)

    def test_evaluation_is_the_loss_alone(self):
        model, [batch] = build(BIASED), batches_of(1)
        objective = Objective(model, next_token_loss)
        for ready in (model.eval, objective.eval):
            objective.train()
            ready()
            found = torch.autograd.grad(objective(batch), learned(model))
            alone = torch.autograd.grad(next_token_loss(model, batch), learned(model))
            assert all(torch.equal(a, b) for a, b in zip(found, alone))
            assert all(layer.seen is None for layer in sparse_layers(model))
        model.train()  # as the loop does, which knows nothing of the objective's own mode
        objective(batch)
        assert all(layer.seen is not None for layer in sparse_layers(model))

    def test_a_dense_model_is_left_alone(self):
        model, [batch] = build(None), batches_of(1)
        value = Objective(model, next_token_loss)(batch)
        found = torch.autograd.grad(value, learned(model))
        alone = torch.autograd.grad(next_token_loss(model, batch), learned(model))
        assert all(torch.equal(a, b) for a, b in zip(found, alone))
        loss = torch.tensor(2.5, requires_grad=True)
        assert with_routing_loss(loss, [], batch) is loss

    def test_it_can_be_looked_at_from_outside(self):
        model, [batch] = build(BIASED), batches_of(1)
        with record_routing(model) as routings:
            Objective(model, next_token_loss)(batch)
        assert [r.layer for r in routings] == sparse_layers(model)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_autocast_and_half_weights(self, dtype):
        model, [batch] = build(BIASED, dtype=dtype), batches_of(1)
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.float32):
            value = Objective(model, next_token_loss)(batch)
            wanted = next_token_loss(model, batch)
        assert torch.equal(value, wanted)
        value.backward()
        assert all(p.grad.isfinite().all() for p in learned(model))


class TestRecompute:
    @pytest.mark.parametrize("noise", [False, True])
    @pytest.mark.parametrize("dropout", [0.0, 0.2])
    def test_same_gradients_bit_for_bit_and_counted_once(self, noise, dropout):
        """The second run of a block must route as the first, and must not count again."""
        found = []
        for recompute in (False, True):
            experts = BIASED.replace(noise=noise)
            model = build(experts, dtype=torch.float32, dropout=dropout)
            model.recompute = recompute
            objective = Objective(model, next_token_loss)
            for batch in batches_of(2):  # the generator must stand where it would have stood
                value = objective(batch)
                value.backward()
            seen = [layer.seen for layer in sparse_layers(model)]
            found.append([value.detach(), *(p.grad for p in learned(model)), *seen])
        for a, b in zip(*found, strict=True):
            assert torch.equal(a, b)
        counted = sum(int((b.targets != -100).sum()) for b in batches_of(2))
        assert [int(load.sum()) for load in seen] == [2 * counted] * 2


class TestSelectionBias:
    def wanted(self, model, batches) -> list[Tensor]:
        """The biases after an update, from the loads that the model would give, counted here."""
        loads = [[0] * 4 for _ in sparse_layers(model)]
        probe = copy.deepcopy(model).train()
        for batch in batches:
            with record_routing(probe) as routings:
                probe(batch.inputs)
            counts = (batch.targets != -100).flatten().tolist()
            for load, routing in zip(loads, routings, strict=True):
                for token, expert in zip(routing.tokens.tolist(), routing.experts.tolist()):
                    load[expert] += counts[token]
        out = []
        for bias, load in zip(biases(model), loads):
            steps = [(sum(load) > 4 * n) - (sum(load) < 4 * n) for n in load]
            out.append(bias + 0.01 * torch.tensor(steps, dtype=bias.dtype))
        return out

    @pytest.mark.parametrize("optimizer", ["adamw", "muon", "sgd"])
    @pytest.mark.parametrize("accumulate", [1, 3])
    def test_moves_once_per_update_by_all_of_its_batches(self, accumulate, optimizer):
        model, batches = build(BIASED), batches_of(5 * accumulate)
        config = TrainConfig(
            steps=5, warmup_steps=1, accumulate=accumulate, optimizer=optimizer, evaluate_every=1
        )
        steps = training_steps(
            model,
            batches,
            config,
            evaluate=lambda m: next_token_loss(m, batches[0]).item(),  # moves nothing
        )
        for step in range(5):
            expected = self.wanted(model, batches[step * accumulate : (step + 1) * accumulate])
            next(steps)
            for bias, wanted in zip(biases(model), expected, strict=True):
                assert torch.allclose(bias, wanted, rtol=0, atol=1e-15)
            assert all(layer.seen is None for layer in sparse_layers(model))
        assert all((bias != 0).any() for bias in biases(model))

    def test_single_batches_would_move_it_otherwise(self):
        """The accumulated load is not the last batch's: the test above can tell."""
        model, batches = build(BIASED), batches_of(15)
        differ = 0
        for start in range(0, 15, 3):
            group = batches[start : start + 3]
            pair = zip(self.wanted(model, group), self.wanted(model, group[-1:]))
            differ += any(not torch.equal(together, last) for together, last in pair)
        assert differ >= 2

    def test_no_optimiser_and_no_decay_touches_it(self):
        model = build(BIASED.replace(bias_rate=0.0))
        for layer in sparse_layers(model):
            layer.router.selection_bias.data.fill_(0.5)
        config = TrainConfig(steps=3, warmup_steps=0, weight_decay=10.0)
        train(model, batches_of(3), config, progress=False)
        assert all((bias == 0.5).all() for bias in biases(model))

    def test_dropped_assignments_count_as_demand(self):
        model, [batch] = build(BIASED.replace(capacity=0.3)), batches_of(1)
        with record_routing(model) as routings:
            model(batch.inputs)
        assert all(len(r.dropped_tokens) for r in routings)
        for routing in routings:
            count(routing)
        assert [layer.seen.tolist() for layer in sparse_layers(model)] == (
            [r.load().tolist() for r in routings]
        )
        assert all(int(layer.seen.sum()) == 27 * 2 for layer in sparse_layers(model))

    def test_loads_of_all_processes_are_added(self):
        class Two(Processes):
            def total(self, tensor):
                return tensor + torch.tensor([[0, 0, 0, 100], [100, 0, 0, 0]])

        model = build(BIASED)
        for layer in sparse_layers(model):
            layer.seen = torch.tensor([6, 1, 1, 1])
        move_selection_biases(model, Two(torch.device("cpu")))
        signs = [torch.sign(bias).tolist() for bias in biases(model)]
        assert signs == [[1, 1, 1, -1], [-1, 1, 1, 1]]

    def test_models_without_one(self):
        for experts in (None, KINDS["batch"]):
            model, [batch] = build(experts), batches_of(1)
            Objective(model, next_token_loss)(batch)
            move_selection_biases(model, Processes(torch.device("cpu")))
            assert all(layer.seen is None for layer in sparse_layers(model))

    def test_what_was_left_over_from_another_experiment_is_forgotten(self):
        found = []
        for leftover in (None, torch.tensor([1000, 0, 0, 0])):
            model = build(BIASED)
            for layer in sparse_layers(model):
                layer.seen = leftover
            next(training_steps(model, batches_of(1), TrainConfig(steps=1, warmup_steps=0)))
            found.append(biases(model))
        assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))

    def test_a_step_that_overflowed_moves_nothing(self):
        """In float16 such a step is left out: its loads are, too."""
        model = build(BIASED, dtype=torch.float32)
        config = TrainConfig(steps=12, warmup_steps=0, precision="float16")

        def loud(m, b):
            return next_token_loss(m, b) * 200

        skipped, before = 0, biases(model)
        for record in training_steps(model, batches_of(12), config, loss=loud):
            after = biases(model)
            same = all(torch.equal(a, b) for a, b in zip(before, after))
            assert same == (record.gradient_norm is None), record.step
            assert all(layer.seen is None for layer in sparse_layers(model))
            skipped, before = skipped + same, after
        assert 1 <= skipped < 12

    def test_a_step_that_failed_moves_nothing(self):
        model, before = build(BIASED), {}
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        steps = training_steps(
            model,
            batches_of(1),
            TrainConfig(steps=1, warmup_steps=0),
            loss=lambda m, b: next_token_loss(m, b) * torch.nan,
        )
        with pytest.raises(FloatingPointError, match="the loss became nan at step 1"):
            next(steps)
        assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
        assert all(layer.seen is None for layer in sparse_layers(model))


class TestAccumulation:
    """One update of several batches is that of the joint batch where the routers' losses are means
    over tokens or over sequences. Exactly:

    - no loss, or the z-loss: always, as a batch is weighted by its targets;
    - balance over sequences: if all batches have equally many targets for each of their rows;
    - balance over a batch or the model, importance: never, since products of means are not means
      of products. The same holds for a capacity and for experts that choose: who finds a place
      depends on the batch.
    """

    def run(self, experts, batches, accumulate):
        model = build(experts)
        common = {"steps": 3, "warmup_steps": 0, "learning_rate": 1e-2, "optimizer": "sgd"}
        many = copy.deepcopy(model)
        history = train(many, batches, TrainConfig(**common, accumulate=accumulate), progress=False)
        groups = [batches[i : i + accumulate] for i in range(0, len(batches), accumulate)]
        one = copy.deepcopy(model)
        other = train(one, [joined(g) for g in groups], TrainConfig(**common), progress=False)
        first = history.losses[0] - other.losses[0]
        off = max((a - b).abs().max().item() for a, b in zip(many.parameters(), one.parameters()))
        return abs(first), off

    PLAIN = Experts(4, 2, d_ff=10, balance_weight=0.0, selection_bias=True, bias_rate=0.01)

    @pytest.mark.parametrize(
        ("changes", "ragged"),
        [
            ({}, True),
            ({"z_weight": 0.3}, True),
            ({"z_weight": 0.3, "balance_weight": 0.3, "balance_over": "sequence"}, False),
        ],
    )
    def test_equals_the_large_batch(self, changes, ragged):
        first, off = self.run(self.PLAIN.replace(**changes), batches_of(6, ragged=ragged), 2)
        assert first < 1e-13 and off < 1e-9

    @pytest.mark.parametrize(
        ("changes", "ragged"),
        [
            ({"balance_weight": 0.3, "balance_over": "sequence"}, True),
            ({"balance_weight": 0.3}, False),
            ({"balance_weight": 0.3, "balance_over": "model"}, False),
            ({"importance_weight": 0.3}, False),
        ],
    )
    def test_does_not_where_the_losses_look_at_the_batch(self, changes, ragged):
        first, off = self.run(self.PLAIN.replace(**changes), batches_of(6, ragged=ragged), 2)
        assert first < 1e-13, "the first value is the cross-entropy all the same"
        assert off > 1e-6

    def test_does_not_with_a_capacity(self):
        first, _ = self.run(self.PLAIN.replace(capacity=0.75), batches_of(6, ragged=False), 2)
        assert first > 1e-4


class TestItBalances:
    """Each cure alone, on tokens that a router at first sends nearly all to one expert."""

    def skewed(self, **changes):
        model = build(Experts(4, 1, d_ff=10, layers=(1,), renormalise=False, **changes))
        router = model.blocks[1].feed_forward.router
        common = {}

        def look(module, inputs):
            common["mean"] = inputs[0].mean((0, 1))

        handle = model.blocks[1].feed_forward.register_forward_pre_hook(look)
        model(joined(batches_of(4)).inputs)
        handle.remove()
        with torch.no_grad():
            router.weight[2] += 2 * common["mean"] / common["mean"].norm()
        return model, router

    def loads(self, model):
        with record_routing(model) as routings:
            model(joined(batches_of(4, ragged=False)).inputs)
        return routings[0].statistics().load

    @pytest.mark.parametrize(
        ("changes", "steps"),
        [
            ({"balance_weight": 1.0}, 60),
            ({"balance_weight": 0.0, "importance_weight": 1.0}, 60),
            # It ends in swinging to and fro around even loads, by a step of its own.
            ({"balance_weight": 0.0, "selection_bias": True, "bias_rate": 0.01}, 80),
        ],
    )
    def test_a_collapsed_router_recovers(self, changes, steps):
        model, router = self.skewed(**changes)
        before = self.loads(model)
        objective = Objective(model, lambda m, b: m(b.inputs).sum() * 0)
        optimizer = torch.optim.Adam([router.weight], lr=0.02)
        batches, after = batches_of(4, ragged=False), []
        for _ in range(steps):
            optimizer.zero_grad()
            objective(joined(batches)).backward()
            optimizer.step()
            move_selection_biases(model, Processes(torch.device("cpu")))
            after.append(self.loads(model))
        after = torch.stack(after[-12:]).mean(0)
        assert before.max() > 0.6
        assert after.min() > 0.125 and after.max() < 0.5, "within a factor of 2 of uniform"


TEXT = torch.randint(0, 31, (400,), generator=torch.Generator().manual_seed(5))


class TestResume:
    """Stopped and taken up again, with the checkpoint on the disk between: the same bits."""

    RUNS: ClassVar = {
        "bias and losses": ({"experts": BIASED}, {"accumulate": 2}),
        "noise": (
            {"experts": BIASED.replace(noise=True, capacity=1.0), "dropout": 0.1},
            {"optimizer": "muon", "recompute": True},
        ),
        "sigmoid": ({"experts": KINDS["sigmoid"], **MODERN}, {"precision": "bfloat16"}),
        "weights in bfloat16": ({"experts": BIASED}, {}),
        "float16": ({"experts": BIASED}, {"precision": "float16"}),
    }

    def begin(self, name, seed=0):
        model_changes, changes = self.RUNS[name]
        dtype = torch.bfloat16 if name.endswith("in bfloat16") else torch.float32
        model = build(seed=seed, dtype=dtype, **model_changes)
        batches = Replayed(lambda g: sliding_window(TEXT, 12, 3, g), seeded(seed))
        loss = None
        if name == "float16":

            def loss(m, b):
                return next_token_loss(m, b) * 200

        config = TrainConfig(steps=8, warmup_steps=2, **changes)
        return TrainState(model, batches, config, loss=loss)

    def go(self, state, until=None):
        steps = training_steps(state.model, state.batches, state.config, state=state)
        left = None if until is None else until - state.step
        return [dataclasses.replace(r, seconds=0.0) for r in itertools.islice(steps, left)]

    @pytest.mark.parametrize("name", RUNS)
    def test_bit_identical(self, tmp_path, name):
        whole = self.begin(name)
        records = self.go(whole)
        state, again = self.begin(name), []
        for number, stop in enumerate((1, 4, 6), start=1):
            again += self.go(state, stop)
            checkpoint.save(tmp_path / "run", state.model, state=state)
            state = self.begin(name, seed=100 + number)
            checkpoint.load(tmp_path / "run").restore(state)
        again += self.go(state)
        assert again == records
        found = state.model.state_dict()
        for leaf, tensor in whole.model.state_dict().items():
            assert tensor.dtype == found[leaf].dtype and torch.equal(tensor, found[leaf]), leaf
        moved = biases(whole.model)
        assert all(bias.dtype == torch.float32 and (bias != 0).any() for bias in moved)

    def test_the_bias_is_needed(self, tmp_path):
        """A checkpoint that left it out would end elsewhere: the comparison above can tell."""
        whole = self.begin("bias and losses")
        self.go(whole)
        state = self.begin("bias and losses")
        self.go(state, 4)
        checkpoint.save(tmp_path / "run", state.model, state=state)
        state = self.begin("bias and losses")
        checkpoint.load(tmp_path / "run").restore(state)
        for layer in sparse_layers(state.model):
            layer.router.selection_bias.data.zero_()
        self.go(state)
        weights = state.model.state_dict()
        assert any(not torch.equal(t, weights[n]) for n, t in whole.model.state_dict().items())

    def test_a_loaded_model_chooses_as_the_saved_one(self, tmp_path):
        state = self.begin("bias and losses")
        self.go(state)
        checkpoint.save(tmp_path / "model", state.model)
        loaded, model = checkpoint.load(tmp_path / "model").model, state.model.eval()
        assert loaded.config == model.config
        assert torch.equal(loaded(TEXT[None, :12]), model(TEXT[None, :12]))
        for name, parameter in loaded.named_parameters():
            assert parameter.requires_grad != name.endswith("selection_bias"), name


@pytest.mark.slow
def test_compiled():
    """The objective as the loop compiles it: the same loss and gradients, routing loss included."""
    found = []
    for compiled in (False, True):
        model = build(BIASED.replace(layers=(0,)), n_layers=1)
        objective = Objective(model, next_token_loss)
        run = torch.compile(objective, backend="aot_eager") if compiled else objective
        for batch in batches_of(2):
            value = run(batch)
            value.backward()
        found.append([value.detach(), *(p.grad for p in learned(model))])
        found[-1] += [layer.seen for layer in sparse_layers(model)]
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10)
