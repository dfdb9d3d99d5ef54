"""The sparse layer against all experts on all tokens, and what it promises inside a model."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from llmcourse.generate.cache import DenseCache
from llmcourse.model import ModelConfig, Transformer
from llmcourse.model.config import Latent
from llmcourse.model.experts_config import Experts
from llmcourse.model.moe import ExpertStack, MixtureOfExperts
from llmcourse.model.routing import record_routing
from llmcourse.train.losses import cross_entropy

SIZES = {"vocab_size": 13, "context_length": 24, "n_layers": 3, "n_heads": 2, "d_model": 12}
LLAMA = {
    "positions": "rope", "norm": "rms", "feed_forward": "gated", "activation": "silu",
    "attention_bias": False, "feed_forward_bias": False,
}  # fmt: skip
# name: (the experts, other fields of the model)
KINDS = {
    "mixtral": (Experts(4, 2), LLAMA),
    "one expert": (Experts(1, 1), LLAMA),
    "all experts": (Experts(3, 3, d_ff=5), LLAMA),
    "switch": (Experts(5, 1, renormalise=False), {}),
    "plain with biases": (Experts(4, 2, d_ff=7, scale=1.5), {"activation": "gelu_tanh"}),
    "gated with biases": (Experts(4, 3), {"feed_forward": "gated"}),
    "deepseek": (
        Experts(
            8, 3, d_ff=4, n_shared=2, score="sigmoid", scale=2.5, selection_bias=True, n_groups=4,
            n_active_groups=2, layers=(1, 2),
        ),
        LLAMA | {"latent": Latent(5, 6, 4, 2, 3)},
    ),
    "arctic": (Experts(4, 2, d_ff=5, dense_branch=True), LLAMA | {"d_ff": 9}),
    "capacity": (Experts(4, 2, capacity=0.6), LLAMA),
    "expert choice": (Experts(4, 2, choice="expert", d_ff=6), LLAMA),
    "sandwich": (Experts(4, 2, n_shared=1, dense_branch=True), LLAMA | {
        "norm_placement": "sandwich", "window": 5}),
    "post": (Experts(4, 2), {"norm_placement": "post"}),
}  # fmt: skip
TOKEN_CHOICE = [name for name in KINDS if name not in ("capacity", "expert choice")]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def random(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=seeded(seed))


def tokens(b=2, t=11, seed=5):
    return torch.randint(13, (b, t), generator=seeded(seed))


def config_of(name, **changes):
    experts, fields = KINDS[name]
    experts = experts.replace(**changes.pop("experts", {}))
    return ModelConfig(**SIZES | {"init_std": 0.3} | fields | changes, experts=experts)


def build(name="mixtral", seed=0, **changes):
    """In float64, with weights large enough for every part to matter, biases too."""
    model = Transformer(config_of(name, **changes), seeded(seed)).double().eval()
    for number, (leaf, parameter) in enumerate(model.named_parameters()):
        if leaf.endswith("bias"):
            parameter.data += 0.2 * random(*parameter.shape, seed=number)
    return model


def layer_of(name, **changes):
    model = build(name, **changes)
    return next(b.feed_forward for b in model.blocks if b.sparse)


def every_expert_on_every_token(layer, config, x, real=None):
    """Σ over all experts of gate × expert, with gates of zero: nothing is sorted or left out."""
    experts, n = config.experts, x.shape[0] * x.shape[1]
    rows = x.reshape(n, -1)
    real = torch.ones(n, dtype=torch.bool) if real is None else real.reshape(-1)
    w = dict(layer.named_parameters())
    logits = rows @ w["router.weight"].T
    scores = torch.softmax(logits, 1) if experts.score == "softmax" else torch.sigmoid(logits)
    e, k = experts.n_experts, experts.n_active
    chosen = torch.zeros(n, e, dtype=torch.bool)
    ranked = scores.detach() + w.get("router.selection_bias", torch.zeros(e))
    if experts.choice == "expert":
        taken = math.ceil(int(real.sum()) * k / e)
        column = ranked.masked_fill(~real[:, None], -1)
        chosen.scatter_(0, column.topk(taken, 0).indices, True)
        gates = scores * chosen
    else:
        size = e // experts.n_groups
        for i in range(n):
            groups = ranked[i].view(experts.n_groups, size).topk(min(2, size), 1).values.sum(1)
            best = groups.topk(experts.n_active_groups).indices
            allowed = torch.isin(torch.arange(e) // size, best)
            chosen[i, ranked[i].masked_fill(~allowed, -9).topk(k).indices] = real[i]
        gates = scores * chosen
        if experts.renormalise:
            gates = gates / gates.sum(1, keepdim=True).clamp(min=1e-300)
        if experts.capacity is not None:
            kept = chosen.clone()
            most = math.ceil(experts.capacity * int(real.sum()) * k / e)
            left = [most] * e
            order = ranked.masked_fill(~chosen, -9).topk(k, 1).indices
            for rank in range(k):
                for i in range(n):
                    expert = int(order[i, rank])
                    if real[i] and left[expert] > 0:
                        left[expert] -= 1
                    elif real[i]:
                        kept[i, expert] = False
            gates = gates * kept
    gates = gates * experts.scale

    def network(z, up, down, up_bias, down_bias):
        activate = {"silu": F.silu, "gelu": F.gelu, "gelu_tanh": lambda z: F.gelu(
            z, approximate="tanh")}[config.activation]  # fmt: skip
        hidden = F.linear(z, up, up_bias)
        if config.feed_forward == "gated":
            gate, other = hidden.chunk(2, 1)
            hidden = activate(gate) * other
        else:
            hidden = activate(hidden)
        return F.linear(hidden, down, down_bias)

    y = torch.zeros_like(rows)
    for i in range(e):
        biases = (w.get("experts.up_bias"), w.get("experts.down_bias"))
        biases = [None if b is None else b[i] for b in biases]
        made = network(rows, w["experts.up"][i], w["experts.down"][i], *biases)
        y = y + gates[:, i, None] * made
    first = "gate_up" if config.feed_forward == "gated" else "up"
    for beside in ("shared", "dense"):
        if f"{beside}.down.weight" in w:
            y = y + network(
                rows,
                w[f"{beside}.{first}.weight"],
                w[f"{beside}.down.weight"],
                w.get(f"{beside}.{first}.bias"),
                w.get(f"{beside}.down.bias"),
            )
    return y.view(x.shape), gates


class TestTheLayer:
    @pytest.mark.parametrize("dispatch", ["loop", "grouped"])
    @pytest.mark.parametrize("padded", [False, True])
    @pytest.mark.parametrize("name", KINDS)
    def test_equals_all_experts_on_all_tokens(self, name, padded, dispatch):
        """Output, and the gradient of the input and of every parameter, router included."""
        layer = layer_of(name, experts={"dispatch": dispatch})
        config = config_of(name)
        x = random(2, 7, 12, seed=3).requires_grad_()
        real = torch.rand(2, 7, generator=seeded(4)) < 0.7 if padded else None
        slope = random(2, 7, 12, seed=6)
        wanted = [x, *(p for p in layer.parameters() if p.requires_grad)]
        with record_routing(layer) as routings:
            y = layer(x, real)
        exact, gates = every_expert_on_every_token(layer, config, x, real)
        torch.testing.assert_close(y, exact, rtol=0, atol=1e-11)
        torch.testing.assert_close(routings[0].gates(), gates, rtol=0, atol=1e-12)
        found = torch.autograd.grad((y * slope).sum(), wanted)
        right = torch.autograd.grad((exact * slope).sum(), wanted)
        for a, b in zip(found, right, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-10)
        assert name == "one expert" or right[1].abs().max() > 1e-3, "the router did not learn"
        if name == "capacity":
            assert len(routings[0].dropped_tokens) > 0

    @pytest.mark.parametrize("shape", [(1, 1), (1, 5), (4, 1), (3, 8)])
    @pytest.mark.parametrize("name", KINDS)
    def test_shapes(self, name, shape):
        layer, x = layer_of(name), random(*shape, 12)
        y = layer(x)
        assert y.shape == x.shape and y.dtype == x.dtype
        exact, _ = every_expert_on_every_token(layer, config_of(name), x)
        torch.testing.assert_close(y, exact, rtol=0, atol=1e-11)

    @pytest.mark.parametrize("dispatch", ["loop", "grouped"])
    @pytest.mark.parametrize("name", KINDS)
    def test_nothing_but_padding(self, name, dispatch):
        layer = layer_of(name, experts={"dispatch": dispatch})
        x = random(2, 3, 12).requires_grad_()
        y = layer(x, torch.zeros(2, 3, dtype=torch.bool))
        beside = [b for b in (layer.shared, layer.dense) if b is not None]
        assert torch.equal(y, sum((b(x) for b in beside), torch.zeros_like(x)))
        if y.requires_grad:
            y.sum().backward()
            assert x.grad.isfinite().all()

    @pytest.mark.parametrize("dispatch", ["loop", "grouped"])
    @pytest.mark.parametrize("name", TOKEN_CHOICE)
    def test_a_bad_number_stays_with_its_token(self, name, dispatch):
        layer, x = layer_of(name, experts={"dispatch": dispatch}), random(1, 6, 12)
        wanted = layer(x)
        x[0, 3, 2] = torch.nan
        y, others = layer(x), [0, 1, 2, 4, 5]
        assert y[0, 3].isnan().all()
        torch.testing.assert_close(y[0, others], wanted[0, others], rtol=0, atol=1e-12)

    def test_the_routing_is_float64_in_a_float64_model(self):
        layer = layer_of("deepseek")
        with record_routing(layer) as routings:
            layer(random(1, 4, 12))
            layer.bfloat16()(random(1, 4, 12).bfloat16())
        assert [r.logits.dtype for r in routings] == [torch.float64, torch.float32]
        assert [r.weights.dtype for r in routings] == [torch.float64, torch.float32]

    def test_what_it_is_made_of(self):
        layer = layer_of("deepseek")
        shapes = {name: tuple(p.shape) for name, p in layer.named_parameters()}
        assert shapes == {
            "router.weight": (8, 12),
            "router.selection_bias": (8,),
            "experts.up": (8, 2 * 4, 12),
            "experts.down": (8, 12, 4),
            "shared.gate_up.weight": (2 * 8, 12),
            "shared.down.weight": (12, 8),
        }
        arctic = layer_of("arctic")
        assert arctic.dense.down.weight.shape == (12, 9) and arctic.experts.down.shape == (4, 12, 5)
        plain = layer_of("plain with biases").experts
        assert plain.up_bias.shape == (4, 7) and plain.down_bias.shape == (4, 12)

    def test_it_starts_as_dense_networks_do(self):
        config = ModelConfig(
            **SIZES | LLAMA | {"d_model": 64}, experts=Experts(8, 2, selection_bias=True)
        )
        stack = ExpertStack(config, 0.005, seeded())
        assert stack.up.std().item() == pytest.approx(0.02, rel=0.02)
        assert stack.down.std().item() == pytest.approx(0.005, rel=0.02)
        one, two = (MixtureOfExperts(config, 0.005, seeded(3)) for _ in range(2))
        before = torch.random.get_rng_state()
        MixtureOfExperts(config, 0.005, seeded(4))
        assert torch.equal(before, torch.random.get_rng_state())
        for a, b in zip(one.parameters(), two.parameters(), strict=True):
            assert torch.equal(a, b)
        assert not torch.equal(one.experts.up[0], one.experts.up[1]), "all experts are alike"

    def test_dropout_acts_in_training_only(self):
        layer = MixtureOfExperts(config_of("mixtral", dropout=0.5), 0.3, seeded())
        x = random(2, 9, 12).float()
        assert torch.equal(layer.eval()(x), layer(x))
        y = layer.train()(x)
        zero = y == 0
        assert 0.3 < zero.double().mean() < 0.7
        torch.testing.assert_close(y[~zero], 2 * layer.eval()(x)[~zero])

    def test_what_it_prints(self):
        assert "4 experts, 12 -> 32 -> 12, gated=True" in str(layer_of("mixtral"))


class TestCasting:
    def test_the_selection_bias_is_never_less_than_float32(self):
        """Steps of 0.001 would be swallowed by bfloat16 from 0.25 on."""
        model = build("deepseek").float()
        router = model.blocks[1].feed_forward.router
        router.selection_bias.data.fill_(0.3 + 1e-4)
        before = router.selection_bias.clone()
        for cast in (model.bfloat16, model.half, lambda: model.to(torch.bfloat16)):
            cast()
            assert router.selection_bias.dtype == torch.float32
            assert torch.equal(router.selection_bias, before)
            assert router.weight.dtype in (torch.bfloat16, torch.float16)
        assert not router.selection_bias.requires_grad
        assert model.double() is model and router.selection_bias.dtype == torch.float64
        assert model.to("meta").blocks[1].feed_forward.router.selection_bias.is_meta

    @pytest.mark.parametrize("name", KINDS)
    def test_bfloat16_and_autocast_stay_close(self, name):
        """Where rounding lets a token go to another expert, it may be off: the median is not."""
        model, ids = build(name).float(), tokens(4, 20)
        with torch.no_grad():
            exact = model(ids)
            with torch.autocast("cpu", torch.bfloat16):
                mixed = model(ids)
            low = model.bfloat16()(ids)
        for found in (mixed, low):
            off = (found.float() - exact).abs().mean(-1) / exact.std()
            assert off.median() < 0.05 and found.isfinite().all()


class TestInsideAModel:
    @pytest.mark.parametrize("name", KINDS)
    def test_it_stands_where_the_config_says(self, name):
        model = build(name)
        for i, block in enumerate(model.blocks):
            assert isinstance(block.feed_forward, MixtureOfExperts) == model.config.is_sparse(i)
        logits = model(tokens())
        assert logits.isfinite().all()
        cross_entropy(logits, tokens(seed=6)).backward()
        for leaf, parameter in model.named_parameters():
            assert (parameter.grad is None) == leaf.endswith("selection_bias"), leaf

    @pytest.mark.parametrize("name", KINDS)
    def test_loop_and_grouped_agree(self, name):
        found = []
        for dispatch in ("loop", "grouped"):
            model = build(name, experts={"dispatch": dispatch})
            loss = cross_entropy(model(tokens()), tokens(seed=6))
            learned = [p for p in model.parameters() if p.requires_grad]
            found.append([loss.detach(), *torch.autograd.grad(loss, learned)])
        for a, b in zip(*found, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-11)

    @pytest.mark.parametrize("name", TOKEN_CHOICE)
    def test_a_later_token_changes_nothing_before_it(self, name):
        model, ids = build(name), tokens(1, 10) % 12
        before = model(ids)
        for position in range(10):
            changed = ids.clone()
            changed[0, position] = 12
            after = model(changed)
            torch.testing.assert_close(
                after[:, :position], before[:, :position], rtol=0, atol=1e-12
            )
            assert (after[:, position] - before[:, position]).abs().max() > 1e-6

    @pytest.mark.parametrize("name", ["expert choice", "capacity"])
    def test_these_two_look_ahead(self, name):
        """Expert choice: a later token takes an earlier one's place at an expert. A capacity: so
        does a later token's first choice to an earlier one's second. Both leak the future."""
        model, leaks = build(name), 0
        for seed in range(5):
            ids = tokens(1, 16, seed) % 12
            before = model(ids)
            changed = ids.clone()
            changed[0, -1] = 12
            leaks += not torch.allclose(model(changed)[:, :-1], before[:, :-1], rtol=0, atol=1e-9)
        assert leaks > 0

    def test_the_first_choice_alone_does_not_look_ahead_within_a_row(self):
        """With one expert per token, places are given in order: nobody later can take one away."""
        model = build("mixtral", experts={"n_active": 1, "capacity": 4.0 * 3 / 16})
        ids = tokens(1, 16) % 12
        before = model(ids)
        changed = ids.clone()
        changed[0, -1] = 12
        with record_routing(model) as routings:
            after = model(changed)
        assert all(len(r.dropped_tokens) for r in routings)
        torch.testing.assert_close(after[:, :-1], before[:, :-1], rtol=0, atol=1e-12)

    @pytest.mark.parametrize("name", TOKEN_CHOICE)
    def test_rows_do_not_see_each_other(self, name):
        model, ids = build(name), tokens(4, 8)
        for row in range(4):
            alone = model(ids[row : row + 1])[0]
            torch.testing.assert_close(alone, model(ids)[row], rtol=0, atol=1e-12)

    @pytest.mark.parametrize("dispatch", ["loop", "grouped"])
    @pytest.mark.parametrize("name", TOKEN_CHOICE)
    def test_cached_decoding_equals_the_whole(self, name, dispatch):
        model, ids = build(name, experts={"dispatch": dispatch}), tokens(2, 12)
        wanted = model(ids)
        with torch.no_grad():
            for steps in ([1] * 12, [5, 1, 1, 1, 4]):
                cache, found, start = DenseCache(model.config, 2, 24, dtype=torch.float64), [], 0
                for step in steps:
                    found.append(model(ids[:, start : start + step], cache=cache))
                    start += step
                torch.testing.assert_close(torch.cat(found, 1), wanted, rtol=0, atol=1e-11)

    def test_a_decoded_token_reads_its_experts_only(self):
        """All others hold NaN while it is decoded, in both dispatches."""
        model, ids = build("deepseek"), tokens(1, 6)
        with record_routing(model) as routings:
            wanted = model(ids)
        hit = [set(r.experts.view(6, 3)[-1].tolist()) for r in routings]
        for dispatch in ("loop", "grouped"):
            free = model.config.experts.replace(dispatch=dispatch)
            other = model.with_options(experts=free)
            cache = DenseCache(model.config, 1, 24, dtype=torch.float64)
            with torch.no_grad():
                other(ids[:, :-1], cache=cache)
                kept = {n: p.clone() for n, p in model.named_parameters() if ".experts." in n}
                for layer, experts in zip(model.blocks[1:], hit, strict=True):
                    others = [e for e in range(8) if e not in experts]
                    assert len(others) == 5
                    for parameter in layer.feed_forward.experts.parameters():
                        parameter[others] = torch.nan
                last = other(ids[:, -1:], cache=cache)
                for name, tensor in kept.items():
                    model.get_parameter(name).copy_(tensor)
            torch.testing.assert_close(last[:, 0], wanted[:, -1], rtol=0, atol=1e-11)


class TestPadding:
    @pytest.mark.parametrize("side", ["left", "right"])
    @pytest.mark.parametrize("name", TOKEN_CHOICE)
    def test_a_padded_batch_equals_its_rows_alone(self, name, side):
        model = build(name)
        rows = [tokens(1, n, seed=n)[0] for n in (3, 8, 1)]
        ids, padding = torch.full((3, 8), 5), torch.zeros(3, 8, dtype=torch.bool)
        for i, row in enumerate(rows):
            place = slice(8 - len(row), 8) if side == "left" else slice(0, len(row))
            ids[i, place], padding[i, place] = row, True
        with record_routing(model) as routings:
            logits = model(ids, padding=padding)
        assert logits.isfinite().all()
        for i, row in enumerate(rows):
            alone = model(row[None])[0]
            torch.testing.assert_close(logits[i, padding[i]], alone, rtol=0, atol=1e-11)
        for routing in routings:
            assert padding.reshape(-1)[routing.tokens].all(), "padding took an expert"
            assert torch.equal(routing.load(), routing.load(padding))
            assert int(routing.load().sum()) == 12 * model.config.experts.n_active

    @pytest.mark.parametrize("name", ["capacity", "expert choice"])
    def test_padding_takes_no_place(self, name):
        """Who finds a place hangs on the other real tokens, and on no padding."""
        model = build(name)
        ids, padding = tokens(3, 9), torch.rand(3, 9, generator=seeded(2)) < 0.6
        padding[:, 0] = True
        logits = model(ids, padding=padding)
        other = model(torch.where(padding, ids, (ids + 3) % 13), padding=padding)
        torch.testing.assert_close(other[padding], logits[padding], rtol=0, atol=1e-12)
        # One row, with and without filling behind it.
        row = tokens(1, 7, seed=7)
        filled = torch.cat([row, row.new_full((1, 9), 3)], 1)
        real = torch.arange(16)[None] < 7
        torch.testing.assert_close(
            model(filled, padding=real)[:, :7], model(row), rtol=0, atol=1e-11
        )

    def test_a_whole_batch_of_padding(self):
        for name in KINDS:
            logits = build(name)(tokens(), padding=torch.zeros(2, 11, dtype=torch.bool))
            assert logits.isfinite().all(), name

    @pytest.mark.parametrize("name", ["mixtral", "deepseek"])
    def test_padding_with_a_cache(self, name):
        """Rows of different lengths, filled on the left, decoded together."""
        model = build(name)
        row, short = tokens(1, 7), tokens(1, 4, seed=8)
        ids = torch.cat([row, torch.cat([short.new_full((1, 3), 9), short], 1)])
        padding = torch.arange(7)[None] >= torch.tensor([[0], [3]])
        cache = DenseCache(model.config, 2, 24, dtype=torch.float64)
        with torch.no_grad(), record_routing(model) as routings:
            model(ids[:, :6], padding=padding[:, :6], cache=cache)
            last = model(ids[:, 6:], padding=padding[:, 6:], cache=cache)[:, 0]
        assert int(routings[0].load().sum()) == 9 * model.config.experts.n_active
        torch.testing.assert_close(last[0], model(row)[0, -1], rtol=0, atol=1e-11)
        torch.testing.assert_close(last[1], model(short)[0, -1], rtol=0, atol=1e-11)


class TestNoise:
    NOISY = Experts(4, 2, noise=True)

    def build(self, seed=0):
        return Transformer(ModelConfig(**SIZES, experts=self.NOISY), seeded(seed))

    def test_in_training_only_and_from_the_generator(self):
        ids, one, two = tokens(), self.build(3), self.build(3)
        assert torch.equal(one.eval()(ids), one(ids))
        first, again, other = one.train()(ids), two.train()(ids), two(ids)
        assert torch.equal(first, again) and not torch.equal(first, other)
        assert not torch.equal(first, one.eval()(ids))

    def test_it_sends_a_token_here_and_there(self):
        model, ids = self.build().train(), tokens(4, 20)
        found = []
        with record_routing(model) as routings:
            for _ in range(3):
                model(ids)
        found = [tuple(r.experts.tolist()) for r in routings[::3]]
        assert len(set(found)) == 3

    def test_the_spread_learns(self):
        model = self.build().train()
        cross_entropy(model(tokens()), tokens(seed=6)).backward()
        assert model.blocks[0].feed_forward.router.noise_weight.grad.abs().max() > 0
        assert model.config.draws and not ModelConfig(**SIZES, experts=Experts(4, 2)).draws


def test_expert_choice_loads_are_exactly_even():
    model = build("expert choice")
    for b, t in ((2, 10), (3, 7), (1, 1)):
        with record_routing(model) as routings:
            model(tokens(b, t))
        for routing in routings:
            taken = min(math.ceil(b * t * 2 / 4), b * t)
            assert routing.load().tolist() == [taken] * 4
            assert routing.statistics().dropped == 0
