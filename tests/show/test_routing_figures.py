"""Pictures of a router's choice, of dispatch and of a text's routing agree with the routing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from llmcourse.model import ModelConfig, Transformer
from llmcourse.model.experts_config import Experts
from llmcourse.model.router import Router
from llmcourse.model.routing import Routing
from llmcourse.show import choice_of, collect_routing, plot_choice, plot_dispatch, plot_text_routing
from llmcourse.show.text_routing import expert_loads


class Layer(nn.Module):
    def __init__(self, router):
        super().__init__()
        self.router = router


def routed(n=8, bias=None, batch=None, **experts) -> Routing:
    """A real router's decision about random tokens."""
    config = Experts(**{"n_experts": 4, "n_active": 2, **experts})
    router = Router(16, config, std=0.5, generator=torch.Generator().manual_seed(1))
    if bias is not None:
        router.selection_bias.data[:] = torch.tensor(bias)
    x = torch.randn(n, 16, generator=torch.Generator().manual_seed(2))
    return router(x, batch or (1, n), Layer(router))  # with its graph of gradients


def words(ax):
    return [text.get_text() for text in ax.texts]


def test_choice_is_the_routers(drawn):
    routing = routed()
    for token in range(8):
        choice = choice_of(routing, token)
        best = torch.softmax(routing.logits[token].detach(), 0).topk(2)
        torch.testing.assert_close(choice["scores"][choice["chosen"]], best.values)
        torch.testing.assert_close(choice["weights"], best.values / best.values.sum())
        assert choice["chosen"].tolist() == best.indices.tolist() and len(choice) == 3
    left, right = drawn(plot_choice, **choice_of(routing, 3), label="$cook", title="t").axes
    scores, chosen = routing.scores[3].detach().numpy(), choice_of(routing, 3)["chosen"].tolist()
    heights = {round(bar.get_x() + bar.get_width() / 2): bar for bar in left.patches}
    np.testing.assert_allclose([heights[e].get_height() for e in range(4)], scores)
    hatched = sorted(e for e, bar in heights.items() if bar.get_hatch())
    assert hatched == sorted(set(range(4)) - set(chosen))
    assert [tick.get_text() for tick in right.get_xticklabels()] == [str(e) for e in chosen]
    assert words(right) == [f"{w:.2f}" for w in choice_of(routing, 3)["weights"].tolist()]
    assert "2 of 4 experts" in left.get_title("left") and "sum 1.00" in right.get_title("left")


def test_choice_by_a_biased_score_ranks_by_what_was_ranked(drawn):
    bias = [0.0, 0.0, 0.9, 0.0]
    routing = routed(score="sigmoid", selection_bias=True, bias=bias, renormalise=False)
    token = int(torch.where(routing.scores[:, 2] < routing.scores[:, 0])[0][0])
    choice = choice_of(routing, token)
    scores = routing.scores[token].detach()
    torch.testing.assert_close(choice["selection"], scores + torch.tensor(bias))
    assert 2 in choice["chosen"].tolist()
    torch.testing.assert_close(choice["weights"], scores[choice["chosen"]])  # without the bias
    left = drawn(plot_choice, **choice).axes[0]
    [marks] = [line for line in left.lines if line.get_marker() == "D"]
    np.testing.assert_allclose(marks.get_ydata(), choice["selection"])
    ranks = {round(text.xy[0]): text.get_text() for text in left.texts}
    order = sorted(choice["chosen"].tolist(), key=lambda e: -choice["selection"][e])
    assert ranks == {e: f"{n}." for n, e in enumerate(order, start=1)}
    assert left.get_ylim()[0] < min(0, float(choice["selection"].min())) or min(scores) >= 0


def test_choice_of_dropped_and_unknown_tokens_is_refused():
    routing = routed(n=12, n_active=1, capacity=0.5)
    lost = sorted(set(range(12)) - set(routing.tokens.tolist()))
    with pytest.raises(ValueError, match=f"token {lost[0]} was taken by no expert"):
        choice_of(routing, lost[0])
    for token in (-1, 12, True, 1.0):
        with pytest.raises(ValueError, match="the routing has tokens 0 to 11"):
            choice_of(routing, token)


@pytest.mark.parametrize(
    ("scores", "chosen", "weights", "options", "message"),
    [
        ([[0.5, 0.5]], [0], [1.0], {}, r"shape \(E,\)"),
        ([0.5] * 65, [0], [1.0], {}, "1 to 64"),
        ([0.5, 0.5], [0, 1], [1.0], {}, r"must both have shape \(K,\)"),
        ([0.5, 0.5], [], [], {}, r"must both have shape \(K,\)"),
        ([0.5, 0.5], [0, 0], [0.5, 0.5], {}, "different experts, from 0 to 1"),
        ([0.5, 0.5], [2], [1.0], {}, "different experts, from 0 to 1"),
        ([0.5, float("nan")], [0], [1.0], {}, "scores holds 1 NaN"),
        ([0.5, 0.5], [0], [1.0], {"selection": [0.5]}, "selection has shape"),
    ],
)
def test_impossible_choices_are_refused(scores, chosen, weights, options, message):
    with pytest.raises(ValueError, match=message):
        plot_choice(scores, chosen, weights, **options)


def dispatched(ax):
    """Words of the rows between tokens and experts, top to bottom, and of the experts."""
    texts = [(text.get_position(), text.get_text()) for text in ax.texts]
    rows = [(y, t) for (x, y), t in texts if 3.0 < x < 4.25 and y > -1]
    experts = [(y, t) for (x, y), t in texts if 5.2 < x < 6.9 and y > -1]
    weights = [(y, t) for (x, y), t in texts if 6.9 < x < 7.4]
    return tuple([t for _, t in sorted(group)] for group in (rows, experts, weights))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("options", [{}, {"n_active": 1, "n_experts": 7}, {"capacity": 0.75},
                                     {"choice": "expert"}])  # fmt: skip
def test_dispatch_has_a_row_for_every_assignment_sorted_by_expert(drawn, options):
    routing = routed(n=6, **options)
    e = routing.n_experts
    ax = drawn(plot_dispatch, routing, "abcdef", title="t").axes[0]
    rows, experts, weights = dispatched(ax)
    parts = (routing.tokens, routing.experts, routing.weights)
    assignments = list(zip(*(part.tolist() for part in parts), strict=True))
    by_expert = [[(t, w) for t, x, w in assignments if x == expert] for expert in range(e)]
    assert rows == ["abcdef"[token] for group in by_expert for token, _ in group]
    assert weights == [f"{weight:.2f}" for group in by_expert for _, weight in group]
    for expert, (text, group) in enumerate(zip(experts, by_expert, strict=True)):
        assert text.split()[:2] == ["expert", str(expert)] and f"({len(group)} row" in text
        lost = int(routing.dropped[expert])
        assert (f"{lost} dropped" in text) == (lost > 0)
    ways = [line for line in ax.lines if len(line.get_xdata()) == 24]
    assert len(ways) == 2 * len(routing.tokens)  # there and back
    column = {
        left: {round(y, 6): t.get_text() for t in ax.texts for x, y in [t.get_position()]
               if left < x < left + 1.25 and y > -1}
        for left in (0.0, 3.0, 8.4)
    }  # fmt: skip
    there = [line for line in ways if line.get_xdata()[0] == 1.25]
    back = [line for line in ways if line.get_xdata()[-1] == 8.4]
    for lines, start, end in ((there, 0.0, 3.0), (back, 3.0, 8.4)):  # to its row, and to itself
        assert len(lines) == len(routing.tokens)
        for line in lines:
            first, last = (round(line.get_ydata()[place], 6) for place in (0, -1))
            assert column[start][first] == column[end][last]


def test_dispatch_shows_who_was_left_out(drawn):
    routing = routed(n=8, n_active=1, n_experts=2, capacity=0.5)
    lost = set(range(8)) - set(routing.tokens.tolist())
    ax = drawn(plot_dispatch, routing).axes[0]
    boxes = [p for p in ax.patches if hasattr(p, "get_x") and p.get_x() in (0.0, 8.4)]
    assert len(boxes) == 16
    tokens = [p for p in boxes if p.get_linestyle() not in ("-", "solid")]
    assert len(tokens) == 2 * len(lost) > 0
    assert f"{len(routing.tokens)} rows ({len(lost)} dropped)" in " ".join(words(ax))


@pytest.mark.parametrize(
    ("n", "options", "labels", "message"),
    [(17, {}, None, "17 tokens in 34 rows"), (4, {"n_experts": 9}, None, "9 experts are too many"),
     (16, {"n_active": 3}, None, "48 rows"), (4, {}, "abc", "3 labels for 4 tokens")],
)  # fmt: skip
def test_dispatch_refuses_what_cannot_be_drawn(n, options, labels, message):
    with pytest.raises(ValueError, match=message):
        plot_dispatch(routed(n=n, **options), labels)


def hybrid(**experts) -> Transformer:
    settings = {"n_experts": 5, "n_active": 2, "layers": (1, 2), **experts}
    config = ModelConfig(
        vocab_size=64, context_length=12, n_layers=4, n_heads=2, d_model=16,
        experts=Experts(**settings),
    )  # fmt: skip
    return Transformer(config, generator=torch.Generator().manual_seed(0))


def test_collected_routing_is_the_forward_pass():
    model, seen = hybrid(noise=True), {}
    ids = torch.arange(9)
    for number in (1, 2):
        layer = model.blocks[number].feed_forward
        layer.register_forward_pre_hook(lambda m, x, number=number: seen.update({number: x[0]}))
    model.train()
    found = collect_routing(model, ids.tolist())
    assert model.training and [one.layer for one in found] == [1, 2]
    for one in found:
        router = model.blocks[one.layer].feed_forward.router
        logits = seen[one.layer].reshape(9, 16) @ router.weight.T  # without noise
        scores = torch.softmax(logits.detach().double(), 1)
        np.testing.assert_allclose(one.scores, scores, atol=1e-6)
        best = scores.topk(2, 1)
        expected = torch.zeros(9, 5, dtype=torch.float64).scatter(
            1, best.indices, best.values / best.values.sum(1, keepdim=True)
        )
        np.testing.assert_allclose(one.gates, expected, atol=1e-6)
        assert (one.taken == (expected > 0).numpy()).all() and one.dropped == 0
        np.testing.assert_allclose(one.load, one.taken.sum(0) / 18)
    model.eval()
    collect_routing(model, ids[None])
    assert not model.training


def test_loads_of_a_longer_text_are_those_of_its_pieces():
    model = hybrid()
    ids = [(7 * i) % 64 for i in range(41)]  # three pieces of 12, and 5 that are left out
    pieces = [collect_routing(model, ids[start : start + 12]) for start in (0, 12, 24)]
    expected = np.mean([[layer.load for layer in piece] for piece in pieces], axis=0)
    np.testing.assert_allclose(expert_loads(model, ids), expected, atol=1e-12)
    np.testing.assert_allclose(expert_loads(model, ids, most=25), expert_loads(model, ids[:24]))
    short = np.stack([layer.load for layer in collect_routing(model, ids[:3])])
    np.testing.assert_array_equal(expert_loads(model, ids[:3]), short)
    with pytest.raises(ValueError, match="has no tokens"):
        expert_loads(model, [])


def test_a_dense_model_has_no_routing():
    config = ModelConfig(vocab_size=64, context_length=12, n_layers=1, n_heads=2, d_model=16)
    with pytest.raises(ValueError, match="has no sparse layers"):
        collect_routing(Transformer(config), [1, 2])


@pytest.mark.filterwarnings("error")
def test_text_routing_draws_a_map_and_loads_for_each_layer(drawn):
    model = hybrid(layers=(0, 3))
    layers = collect_routing(model, list(range(6)))
    reference = expert_loads(model, list(range(24)))
    figure = drawn(plot_text_routing, layers, list("a$c ef"), reference=reference, title="t")
    maps = [ax for ax in figure.axes if ax.images]
    assert [ax.get_title("left") for ax in maps] == ["layer 0", "layer 3"]
    loads = [ax for ax in figure.axes if any(line.get_marker() == "D" for line in ax.lines)]
    for ax, side, layer, row in zip(maps, loads, layers, reference, strict=True):
        np.testing.assert_allclose(ax.images[0].get_array(), layer.gates.T)
        bars = [patch.get_width() for patch in side.patches if patch.get_height() == 0.62]
        np.testing.assert_allclose(bars, 100 * layer.load)
        [marks] = [line for line in side.lines if line.get_marker() == "D"]
        np.testing.assert_allclose(marks.get_xdata(), 100 * row)
    labels = [tick.get_text() for tick in maps[-1].get_xticklabels()]
    assert labels[:3] == ["a", r"\$", "c"]


def test_text_routing_refuses_what_does_not_fit():
    layers = collect_routing(hybrid(), [1, 2, 3])
    for arguments, message in (
        (([], "abc"), "no layers"),
        ((layers, "ab"), "2 labels for 3 tokens"),
        ((layers, "abc", np.ones((1, 5))), r"\(L, E\) = \(2, 5\)"),
    ):
        with pytest.raises(ValueError, match=message):
            plot_text_routing(*arguments[:2], reference=arguments[2] if arguments[2:] else None)
