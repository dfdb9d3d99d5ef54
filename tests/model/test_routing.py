"""A routing as data: its tables and statistics against loops, and recording it."""

from __future__ import annotations

import math

import pytest
import torch

from llmcourse.model import ModelConfig, Transformer
from llmcourse.model.experts_config import Experts
from llmcourse.model.moe import MixtureOfExperts
from llmcourse.model.routing import Routing, SparseLayer, record_routing, sparse_layers

SMALL = {"vocab_size": 13, "context_length": 10, "n_layers": 4, "n_heads": 2, "d_model": 8}
E = 4
# (token, expert, weight), and those an expert was too full for: 2 sequences of 3 tokens.
TAKEN = [(0, 1, 0.5), (0, 3, 0.25), (1, 1, 1.0), (3, 1, 0.75), (3, 0, 0.125), (5, 3, 2.0)]
DROPPED = [(1, 2), (4, 1), (5, 1)]
MASKS = [None, [1, 1, 1, 1, 1, 1], [1, 0, 1, 1, 0, 1], [0, 0, 1, 0, 0, 0], [0, 0, 0, 0, 0, 1]]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def make(score="softmax", taken=TAKEN, dropped=DROPPED, batch=(2, 3)):
    n = batch[0] * batch[1]
    logits = torch.randn(n, E, dtype=torch.float64, generator=seeded())
    scores = torch.softmax(logits, 1) if score == "softmax" else torch.sigmoid(logits)
    return Routing(
        logits,
        scores,
        torch.tensor([t for t, _, _ in taken], dtype=torch.int64),
        torch.tensor([e for _, e, _ in taken], dtype=torch.int64),
        torch.tensor([w for *_, w in taken], dtype=torch.float64),
        torch.tensor([t for t, _ in dropped], dtype=torch.int64),
        torch.tensor([e for _, e in dropped], dtype=torch.int64),
        batch,
        SparseLayer(),
    )


def as_mask(bits):
    return None if bits is None else torch.tensor(bits, dtype=torch.bool)


class TestTables:
    def test_gates(self):
        wanted = [[0.0] * E for _ in range(6)]
        for token, expert, weight in TAKEN:
            wanted[token][expert] = weight
        assert make().gates().tolist() == wanted

    def test_gates_have_the_gradient_of_the_weights(self):
        routing = make()
        routing.weights.requires_grad_()
        slope = torch.randn(6, E, dtype=torch.float64, generator=seeded(1))
        (routing.gates() * slope).sum().backward()
        assert torch.equal(routing.weights.grad, slope[routing.tokens, routing.experts])

    @pytest.mark.parametrize("bits", MASKS)
    def test_load_counts_what_was_wanted(self, bits):
        counted = bits or [1] * 6
        pairs = [(t, e) for t, e, _ in TAKEN] + DROPPED
        wanted = [sum(1 for t, e in pairs if e == i and counted[t]) for i in range(E)]
        assert make().load(as_mask(bits)).tolist() == wanted
        assert make().load(as_mask(bits)).dtype == torch.int64
        tokens, experts = make().wanted(as_mask(bits))
        found = sorted(zip(tokens.tolist(), experts.tolist()))
        assert found == sorted(pair for pair in pairs if counted[pair[0]])

    def test_dropped(self):
        assert make().dropped.tolist() == [0, 2, 1, 0]
        assert make(dropped=[]).dropped.tolist() == [0] * E

    def test_a_mask_may_have_any_shape(self):
        mask = as_mask(MASKS[2])
        assert torch.equal(make().load(mask.view(2, 3)), make().load(mask))

    @pytest.mark.parametrize(
        ("mask", "message"),
        [
            (
                torch.ones(5, dtype=torch.bool),
                "a mask of 6 tokens must hold so many bools, got (5,) of torch.bool",
            ),
            (
                torch.ones(2, 3),
                "a mask of 6 tokens must hold so many bools, got (2, 3) of torch.float32",
            ),
        ],
    )
    @pytest.mark.parametrize("use", ["load", "statistics", "wanted"])
    def test_a_mask_that_does_not_fit(self, mask, message, use):
        with pytest.raises(ValueError) as refused:
            getattr(make(), use)(mask)
        assert str(refused.value) == message

    @pytest.mark.parametrize("score", ["softmax", "sigmoid"])
    def test_probabilities(self, score):
        routing = make(score)
        for row, found in zip(routing.scores.tolist(), routing.probabilities().tolist()):
            assert found == pytest.approx([s / sum(row) for s in row], abs=1e-15)
            assert sum(found) == pytest.approx(1)

    def test_probabilities_of_vanishing_scores(self):
        routing = make("sigmoid")
        routing.scores.zero_()
        assert (routing.probabilities() == 0).all()


class TestStatistics:
    @pytest.mark.parametrize("score", ["softmax", "sigmoid"])
    @pytest.mark.parametrize("bits", MASKS)
    def test_by_hand(self, score, bits):
        routing, counted = make(score), bits or [1] * 6
        found = routing.statistics(as_mask(bits))
        rows = [
            [s / sum(row) for s in row]
            for row, counts in zip(routing.scores.tolist(), counted)
            if counts
        ]
        pairs = [(t, e) for t, e, _ in TAKEN if counted[t]]
        left = [(t, e) for t, e in DROPPED if counted[t]]
        wanted = pairs + left

        def entropy(p):
            return -sum(x * math.log(x) for x in p)

        mean = [sum(row[e] for row in rows) / len(rows) for e in range(E)]
        total = max(len(wanted), 1)
        load = [sum(1 for _, e in wanted if e == i) / total for i in range(E)]
        assert found.load.tolist() == pytest.approx(load)
        assert found.entropy == pytest.approx(entropy(mean))
        assert found.token_entropy == pytest.approx(sum(map(entropy, rows)) / len(rows))
        assert found.confidence == pytest.approx(sum(max(row) for row in rows) / len(rows))
        assert found.dropped == pytest.approx(len(left) / total)
        assert found.n_tokens == len(rows)

    def test_extremes(self):
        routing = make(taken=[(t, 2, 1.0) for t in range(6)], dropped=[])
        routing.scores.copy_(torch.eye(E, dtype=torch.float64)[2].expand(6, E))
        sure = routing.statistics()
        assert sure.load.tolist() == [0, 0, 1, 0]
        assert (sure.entropy, sure.token_entropy, sure.confidence) == (0, 0, 1)
        routing.scores.fill_(1 / E)
        even = routing.statistics()
        assert even.entropy == pytest.approx(math.log(E)) == pytest.approx(even.token_entropy)
        assert even.confidence == pytest.approx(1 / E)
        # Every token sure, and every expert as often: the mean is even though no token is.
        routing = make(batch=(2, 2), taken=[(t, t, 1.0) for t in range(4)], dropped=[])
        routing.scores.copy_(torch.eye(E, dtype=torch.float64))
        both = routing.statistics()
        assert both.entropy == pytest.approx(math.log(E)) and both.token_entropy == 0
        assert both.load.tolist() == [0.25] * 4

    def test_of_no_token(self):
        nothing = make(dropped=[]).statistics(torch.zeros(6, dtype=torch.bool))
        assert nothing.load.tolist() == [0] * E and nothing.n_tokens == 0 == nothing.dropped
        assert math.isnan(nothing.entropy) and math.isnan(nothing.confidence)

    def test_it_is_data(self, capsys):
        found = make().statistics()
        assert not found.load.requires_grad
        for name in ("entropy", "token_entropy", "confidence", "dropped"):
            assert isinstance(getattr(found, name), float)
        assert capsys.readouterr().out == ""


def build(**changes):
    experts = changes.pop("experts", Experts(4, 2, layers=(1, 3)))
    return Transformer(ModelConfig(**SMALL, experts=experts, **changes), seeded())


class TestRecord:
    ids = torch.randint(13, (2, 5), generator=seeded(5))

    def test_layer_by_layer_at_each_forward(self):
        model = build()
        layers = [model.blocks[1].feed_forward, model.blocks[3].feed_forward]
        assert sparse_layers(model) == layers
        assert all(isinstance(layer, MixtureOfExperts) for layer in layers)
        with record_routing(model) as routings:
            assert routings == []
            model(self.ids)
            assert [routing.layer for routing in routings] == layers
            model(self.ids[:1])
        assert [routing.layer for routing in routings] == layers * 2
        assert [routing.batch for routing in routings] == [(2, 5)] * 2 + [(1, 5)] * 2
        assert [len(routing.logits) for routing in routings] == [10, 10, 5, 5]
        model(self.ids)
        assert len(routings) == 4, "recorded after the end"

    def test_it_changes_nothing(self):
        model = build()
        wanted = model(self.ids)
        with record_routing(model):
            assert torch.equal(model(self.ids), wanted)

    def test_a_dense_model_has_none(self):
        model = build(experts=None)
        with record_routing(model) as routings:
            model(self.ids)
        assert routings == [] and sparse_layers(model) == []

    def test_an_error_ends_it(self):
        model = build()
        with pytest.raises(RuntimeError, match="stop"), record_routing(model) as routings:
            model(self.ids)
            raise RuntimeError("stop")
        model(self.ids)
        assert len(routings) == 2
        assert all(layer.record is None for layer in sparse_layers(model))

    def test_nested(self):
        """Both see what happens inside, and the outer one what happens around as well."""
        model = build()
        with record_routing(model) as outer:
            model(self.ids)
            with record_routing(model) as inner:
                model(self.ids[:1])
            with record_routing(model.blocks[3]) as part:
                model(self.ids[:, :2])
            model(self.ids[:, :3])
        assert [r.batch for r in inner] == [(1, 5)] * 2
        assert [r.batch for r in part] == [(2, 2)]
        batches = [(2, 5)] * 2 + [(1, 5)] * 2 + [(2, 2)] * 2 + [(2, 3)] * 2
        assert [r.batch for r in outer] == batches
        assert all(layer.record is None for layer in sparse_layers(model))

    def test_gradients_flow_through_it(self):
        model = build()
        with record_routing(model) as routings:
            model(self.ids)
        sum(routing.logits.square().sum() for routing in routings).backward()
        for layer in (1, 3):
            assert model.blocks[layer].feed_forward.router.weight.grad.abs().sum() > 0
        assert model.embedding.weight.grad.abs().sum() > 0

    def test_recomputed_blocks_are_recorded_once(self):
        model = build().train()
        model.recompute = True
        with record_routing(model) as routings:
            loss = model(self.ids).sum()
        loss.backward()
        assert len(routings) == 2
