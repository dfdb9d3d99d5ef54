"""The whole decoder against a forward pass written out by hand, and the promises it makes."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch.nn import functional as F

from llmcourse.model import ModelConfig, Transformer
from llmcourse.model.experts_config import Experts
from llmcourse.model.masks import causal_mask, padding_mask
from llmcourse.model.positions import sinusoidal_positions
from llmcourse.train.losses import cross_entropy

SMALL = {"vocab_size": 13, "context_length": 10, "n_layers": 2, "n_heads": 3, "d_model": 12}
VARIANTS = [
    {},
    {"positions": "sinusoidal"},
    {"positions": "none", "activation": "relu"},
    {"norm_placement": "post", "activation": "gelu_tanh"},
    {"norm_placement": "post", "positions": "sinusoidal", "residual": False},
    {"norm": "none"},
    {"residual": False},
    {"attention_bias": False, "feed_forward_bias": False, "d_ff": 7},
    {"tie_embeddings": False, "norm_eps": 0.1},
]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def small(seed=0, **changes):
    """In float64, with weights large enough for every part to matter; biases too."""
    model = Transformer(ModelConfig(**SMALL | changes), seeded(seed)).double().eval()
    generator = seeded(seed + 1)
    for parameter in model.parameters():
        noise = torch.empty_like(parameter).normal_(0, 0.3, generator=generator)
        parameter.data += noise
    return model


def by_hand(model, ids):
    """logits of one row, written as the equations, from the state dict alone."""
    c, w = model.config, {k: v.detach() for k, v in model.state_dict().items()}
    activation = {
        "gelu": lambda x: 0.5 * x * (1 + torch.erf(x / 2**0.5)),
        "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
        "relu": lambda x: torch.maximum(x, torch.zeros_like(x)),
    }[c.activation]

    def norm(x, name):
        if c.norm == "none":
            return x
        variance = x.var(-1, unbiased=False, keepdim=True)
        x = (x - x.mean(-1, keepdim=True)) / (variance + c.norm_eps).sqrt()
        return x * w[f"{name}.weight"] + w[f"{name}.bias"]

    def linear(x, name):
        y = x @ w[f"{name}.weight"].T
        return y + w[f"{name}.bias"] if f"{name}.bias" in w else y

    def attention(x, name):
        q, k, v = linear(x, f"{name}.qkv").split(c.d_model, dim=-1)
        heads = []
        for h in range(c.n_heads):
            part = slice(h * c.d_head, (h + 1) * c.d_head)
            rows = []
            for t in range(len(x)):
                scores = torch.stack([q[t, part] @ k[s, part] for s in range(t + 1)])
                weights = torch.exp(scores / c.d_head**0.5)
                rows.append((weights / weights.sum()) @ v[: t + 1, part])
            heads.append(torch.stack(rows))
        return linear(torch.cat(heads, dim=-1), f"{name}.out")

    def feed_forward(x, name):
        return linear(activation(linear(x, f"{name}.up")), f"{name}.down")

    x = w["embedding.weight"][ids]
    if c.positions == "learned":
        x = x + w["positions.weight"][: len(ids)]
    elif c.positions == "sinusoidal":
        x = x * c.d_model**0.5 + sinusoidal_positions(c.context_length, c.d_model)[: len(ids)]
    for layer in range(c.n_layers):
        for part, name in ((attention, "attention"), (feed_forward, "feed_forward")):
            full = f"blocks.{layer}.{name}"
            if c.norm_placement == "pre":
                update = part(norm(x, full + "_norm"), full)
                x = x + update if c.residual else update
            else:
                update = part(x, full)
                x = norm(x + update if c.residual else update, full + "_norm")
    if c.norm_placement == "pre":
        x = norm(x, "final_norm")
    return x @ (w["embedding.weight"] if c.tie_embeddings else w["head.weight"]).T


@pytest.mark.parametrize("changes", VARIANTS)
@pytest.mark.parametrize("attention", ["naive", "sdpa"])
@pytest.mark.parametrize("t", [1, 7, 10])
def test_every_variant_equals_the_equations(changes, attention, t):
    model = small(attention=attention, **changes)
    ids = torch.randint(13, (2, t), generator=seeded(5))
    wanted = torch.stack([by_hand(model, row) for row in ids])
    assert wanted.std() > 0.1
    torch.testing.assert_close(model(ids), wanted, rtol=0, atol=1e-10)
    torch.testing.assert_close(model.logits(model.hidden(ids)), wanted, rtol=0, atol=1e-10)
    assert torch.equal(model(ids.int()), model(ids))


@pytest.mark.parametrize("changes", VARIANTS)
def test_naive_and_sdpa_give_the_same_gradients(changes):
    ids = torch.randint(13, (2, 9), generator=seeded(5))
    slopes = []
    for attention in ("naive", "sdpa"):
        model = small(attention=attention, **changes)
        cross_entropy(model(ids[:, :-1]), ids[:, 1:]).backward()
        slopes.append([p.grad for p in model.parameters()])
    for a, b in zip(*slopes, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


@pytest.mark.parametrize("changes", VARIANTS)
def test_gradients_agree_with_finite_differences(changes):
    model = small(**changes)
    ids = torch.randint(13, (2, 6), generator=seeded(5))
    loss = cross_entropy(model(ids[:, :-1]), ids[:, 1:])
    loss.backward()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            direction = torch.randn(parameter.shape, dtype=torch.float64, generator=seeded(9))
            ends = []
            for sign in (1, -1):
                parameter.data += sign * 1e-5 * direction
                ends.append(cross_entropy(model(ids[:, :-1]), ids[:, 1:]).item())
                parameter.data -= sign * 1e-5 * direction
            slope = (ends[0] - ends[1]) / 2e-5
            wanted = (parameter.grad * direction).sum().item()
            assert slope == pytest.approx(wanted, rel=1e-5, abs=1e-7), name


@pytest.mark.parametrize("changes", VARIANTS)
def test_a_later_token_changes_nothing_before_it(changes):
    model = small(**changes)
    ids = torch.randint(12, (1, 10), generator=seeded(5))
    before = model(ids)
    for position in range(10):
        changed = ids.clone()
        changed[0, position] = 12
        after = model(changed)
        assert torch.equal(after[:, :position], before[:, :position])
        assert (after[:, position] - before[:, position]).abs().max() > 1e-6


def test_rows_of_a_batch_do_not_see_each_other():
    model = small()
    ids = torch.randint(13, (4, 8), generator=seeded(5))
    for row in range(4):
        torch.testing.assert_close(
            model(ids[row : row + 1])[0], model(ids)[row], rtol=0, atol=1e-13
        )


class TestInitialisation:
    def test_standard_deviations(self):
        config = ModelConfig.preset("showcase", n_layers=8, positions="learned")
        model = Transformer(config, seeded())
        residual = 0.02 / math.sqrt(2 * 8)
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2:
                scaled = name.endswith(("attention.out.weight", "feed_forward.down.weight"))
                wanted = residual if scaled else 0.02
                assert parameter.std().item() == pytest.approx(wanted, rel=0.03), name
                assert parameter.mean().item() == pytest.approx(0, abs=wanted / 20), name
            elif "norm" in name and name.endswith("weight"):
                assert (parameter == 1).all(), name
            else:
                assert (parameter == 0).all(), name

    @pytest.mark.parametrize("changes", [{}, {"tie_embeddings": False}, {"vocab_size": 1000}])
    def test_the_first_loss_is_that_of_guessing(self, changes):
        config = ModelConfig.preset("showcase", n_layers=2, **changes)
        model = Transformer(config, seeded())
        ids = torch.randint(config.vocab_size, (32, 65), generator=seeded(1))
        loss = cross_entropy(model(ids[:, :-1]), ids[:, 1:]).item()
        # ln V plus half the variance of the logits, here 128 * 0.02² / 2 = 0.026.
        assert loss == pytest.approx(math.log(config.vocab_size) + 0.026, abs=0.02)

    def test_the_stream_starts_equally_large_at_any_depth(self):
        sizes = []
        for n_layers in (2, 32):
            config = ModelConfig.preset("showcase", n_layers=n_layers)
            model = Transformer(config, seeded())
            ids = torch.randint(256, (2, 32), generator=seeded(1))
            stream = []
            model.final_norm.register_forward_hook(lambda m, x, y, s=stream: s.append(x[0].std()))
            model(ids)
            sizes.append(stream[0].item())
        assert sizes[1] == pytest.approx(sizes[0], rel=0.1)

    def test_a_generator_fixes_every_weight_and_spares_the_global_state(self):
        before = torch.random.get_rng_state()
        first, second = (Transformer(ModelConfig(**SMALL), seeded(3)) for _ in range(2))
        assert torch.equal(before, torch.random.get_rng_state())
        other = Transformer(ModelConfig(**SMALL), seeded(4))
        for name, tensor in first.state_dict().items():
            assert torch.equal(tensor, second.state_dict()[name])
        assert not torch.equal(first.embedding.weight, other.embedding.weight)

    def test_without_one_the_global_seed_decides(self):
        torch.manual_seed(8)
        first = Transformer(ModelConfig(**SMALL))
        torch.manual_seed(8)
        assert torch.equal(first.embedding.weight, Transformer(first.config).embedding.weight)


class TestTying:
    def test_tied_weights_are_one_tensor_that_learns_from_both_ends(self):
        model = small()
        assert model.head is None and "head.weight" not in model.state_dict()
        hidden = model.hidden(torch.tensor([[1, 2]]))
        assert torch.equal(model.logits(hidden), hidden @ model.embedding.weight.T)
        # Token 7 is neither read nor a target, and still gets a gradient: through the softmax.
        cross_entropy(model(torch.tensor([[1, 2]])), torch.tensor([[2, 3]])).backward()
        assert model.embedding.weight.grad[7].abs().max() > 0

    def test_untied_weights_are_two(self):
        model = small(tie_embeddings=False)
        cross_entropy(model(torch.tensor([[1, 2]])), torch.tensor([[2, 3]])).backward()
        assert (model.embedding.weight.grad[7] == 0).all()
        assert model.head.weight.grad[7].abs().max() > 0
        assert model.head.bias is None

    def test_the_tied_table_counts_once(self):
        tied, untied = small(), small(tie_embeddings=False)
        assert untied.n_parameters() - tied.n_parameters() == 13 * 12


class TestPadding:
    @pytest.mark.parametrize("changes", VARIANTS)
    @pytest.mark.parametrize("attention", ["naive", "sdpa"])
    @pytest.mark.parametrize("side", ["left", "right"])
    def test_a_padded_batch_equals_its_rows_alone(self, changes, attention, side):
        model = small(attention=attention, **changes)
        lengths, longest = [3, 8, 1], 8
        rows = [torch.randint(13, (n,), generator=seeded(n)) for n in lengths]
        ids = torch.full((3, longest), 5)
        padding = padding_mask(torch.tensor(lengths), longest)
        if side == "left":
            padding = padding.flip(1)
        for i, row in enumerate(rows):
            ids[i, padding[i]] = row
        logits = model(ids, padding=padding)
        assert logits.isfinite().all()
        for i, row in enumerate(rows):
            alone = model(row[None])[0]
            torch.testing.assert_close(logits[i, padding[i]], alone, rtol=0, atol=1e-12)
        other = model(torch.where(padding, ids, 9), padding=padding)
        torch.testing.assert_close(other[padding], logits[padding], rtol=0, atol=0)

    @pytest.mark.parametrize("attention", ["naive", "sdpa"])
    def test_gradients_stay_finite_and_ignore_what_is_padding(self, attention):
        model = small(attention=attention)
        ids = torch.tensor([[5, 5, 1, 2], [5, 5, 5, 5]])
        padding = torch.tensor([[False, False, True, True], [False] * 4])
        targets = torch.tensor([[-100, -100, 2, 3], [-100] * 4])
        cross_entropy(model(ids, padding=padding), targets).backward()
        padded = [p.grad.clone() for p in model.parameters()]
        model.zero_grad()
        cross_entropy(model(torch.tensor([[1, 2]])), torch.tensor([[2, 3]])).backward()
        for a, parameter in zip(padded, model.parameters()):
            torch.testing.assert_close(a, parameter.grad, rtol=0, atol=1e-12)

    def test_all_real_is_no_padding(self):
        model, ids = small(), torch.tensor([[1, 2, 3]])
        all_real = torch.ones(1, 3, dtype=torch.bool)
        torch.testing.assert_close(model(ids, padding=all_real), model(ids), rtol=0, atol=1e-13)


class TestRecord:
    @pytest.mark.parametrize("attention", ["naive", "auto"])
    def test_maps_are_the_record_and_change_nothing(self, attention):
        model = small(attention=attention)
        ids = torch.randint(13, (2, 7), generator=seeded(5))
        record = []
        logits = model(ids, record=record)
        torch.testing.assert_close(logits, model(ids), rtol=0, atol=1e-13)
        maps = model.attention_maps(ids)
        assert maps.shape == (2, 2, 3, 7, 7) and not maps.requires_grad
        assert torch.equal(maps, torch.stack(record))
        torch.testing.assert_close(maps.sum(-1), torch.ones_like(maps[..., 0]))
        assert (maps[..., ~causal_mask(7)] == 0).all()
        # The very first token can only look at itself.
        assert (maps[..., 0, 0] == 1).all()

    def test_maps_are_there_whatever_the_implementation(self):
        ids = torch.randint(13, (2, 7), generator=seeded(5))
        wanted = small(attention="naive").attention_maps(ids)
        maps = small(attention="sdpa").attention_maps(ids)
        torch.testing.assert_close(maps, wanted, rtol=0, atol=1e-12)

    def test_padding_rows_of_the_record_are_zero(self):
        record = []
        padding = torch.tensor([[False, True, True]])
        small()(torch.tensor([[0, 1, 2]]), padding=padding, record=record)
        assert (record[0][..., 0, :] == 0).all() and (record[0][..., 0] == 0).all()


def test_without_positions_order_is_invisible_except_through_the_mask():
    """The last token sees the same set whatever the order before it, so one layer cannot tell."""
    blind = small(positions="none", n_layers=1)
    ids, mixed = torch.tensor([[1, 2, 3, 4, 5]]), torch.tensor([[3, 1, 4, 2, 5]])
    torch.testing.assert_close(blind(ids)[:, -1], blind(mixed)[:, -1], rtol=0, atol=1e-12)
    for positions in ("learned", "sinusoidal"):
        sees = small(positions=positions, n_layers=1)
        assert (sees(ids)[:, -1] - sees(mixed)[:, -1]).abs().max() > 1e-3


def test_dropout_acts_in_training_only_and_comes_from_the_generator():
    ids = torch.tensor([[1, 2, 3]])
    one, two = (Transformer(ModelConfig(**SMALL, dropout=0.5), seeded(3)) for _ in range(2))
    assert torch.equal(one.eval()(ids), one(ids))
    first, again, other = one.train()(ids), two.train()(ids), two(ids)
    assert torch.equal(first, again) and not torch.equal(first, other)
    # The mean over many drops comes near the undropped output's size: nothing is lost on average.
    assert one.eval()(ids).std() > 0


class TestBadInput:
    @pytest.mark.parametrize(
        ("ids", "message"),
        [
            (torch.zeros(11, dtype=torch.int64)[None], r"11 tokens overflow the context of 10"),
            (torch.zeros(1, 0, dtype=torch.int64), r"at least one token, got shape \(1, 0\)"),
            (torch.zeros(3, dtype=torch.int64), r"ids must be \(batch, time\).*got shape \(3,\)"),
            (torch.zeros(1, 2, 3, dtype=torch.int64), r"got shape \(1, 2, 3\)"),
            (torch.zeros(1, 3), r"int64 or int32, got torch.float32; use .long\(\)"),
            (torch.tensor([[1, 13]]), r"token id 13 at position \(0, 1\).*run from 0 to 12"),
            (torch.tensor([[1, 2], [-1, 3]]), r"token id -1 at position \(1, 0\)"),
        ],
    )
    def test_ids(self, ids, message):
        with pytest.raises(ValueError, match=message):
            small()(ids)

    @pytest.mark.parametrize("positions", ["sinusoidal", "none"])
    def test_the_context_is_a_limit_whatever_the_positions(self, positions):
        model = small(positions=positions)
        model(torch.zeros(1, 10, dtype=torch.int64))
        with pytest.raises(ValueError, match="11 tokens overflow"):
            model(torch.zeros(1, 11, dtype=torch.int64))

    def test_padding(self):
        ids = torch.tensor([[1, 2, 3]])
        with pytest.raises(ValueError, match=r"shape of ids \(1, 3\), got \(1, 2\)"):
            small()(ids, padding=torch.ones(1, 2, dtype=torch.bool))
        with pytest.raises(ValueError, match=r"padding must be bool"):
            small()(ids, padding=torch.ones(1, 3))

    def test_an_error_leaves_the_model_as_it_was(self):
        model, ids = small(), torch.tensor([[1, 2, 3]])
        before = model(ids)
        with pytest.raises(ValueError):
            model(torch.tensor([[99]]))
        assert torch.equal(model(ids), before)


def test_float32_and_bfloat16_stay_close_to_float64():
    model = small()
    ids = torch.randint(13, (2, 10), generator=seeded(5))
    exact = model(ids)
    assert (model.float()(ids).double() - exact).abs().max() < 1e-4
    low = model.bfloat16()(ids)
    assert low.dtype == torch.bfloat16
    assert (low.double() - exact).abs().max() < 0.15 * exact.std()


class TestExperts:
    """What a mixture of experts asks of the whole model; the layer itself is in test_moe.py."""

    EXPERTS = Experts(4, 2, d_ff=9, selection_bias=True, capacity=1.0, layers=(1,))

    def test_standard_deviations(self):
        config = ModelConfig.preset("showcase", n_layers=8, experts=Experts(4, 2, n_shared=1))
        model = Transformer(config, seeded())
        for name, parameter in model.named_parameters():
            if ".feed_forward." in name and not name.endswith("bias"):
                scaled = ".down" in name
                wanted = 0.02 / math.sqrt(2 * 8) if scaled else 0.02
                tolerance = 0.1 if ".router." in name else 0.02
                assert parameter.std().item() == pytest.approx(wanted, rel=tolerance), name

    def test_the_first_loss_is_that_of_guessing(self):
        config = ModelConfig.preset("showcase", n_layers=2, experts=Experts(8, 2))
        ids = torch.randint(config.vocab_size, (32, 65), generator=seeded(1))
        loss = cross_entropy(Transformer(config, seeded())(ids[:, :-1]), ids[:, 1:]).item()
        assert loss == pytest.approx(math.log(config.vocab_size) + 0.026, abs=0.02)

    def test_with_options_shares_the_weights(self):
        model, ids = small(experts=self.EXPERTS), torch.randint(13, (2, 9), generator=seeded(5))
        free = self.EXPERTS.replace(
            capacity=None, dispatch="loop", balance_weight=0.5, balance_over="model",
            z_weight=1.0, importance_weight=1.0, bias_rate=0.5,
        )  # fmt: skip
        for given in (free, dataclasses.asdict(free)):
            other = model.with_options(experts=given)
            assert other.config.experts == free and other.training == model.training
            mine, theirs = dict(model.named_parameters()), dict(other.named_parameters())
            assert mine.keys() == theirs.keys()
            assert all(tensor is theirs[name] for name, tensor in mine.items())
        assert not torch.allclose(other(ids), model(ids)), "there is no capacity any more"
        same = other.with_options(experts=self.EXPERTS)
        torch.testing.assert_close(same(ids), model(ids), rtol=0, atol=1e-13)
        assert torch.equal(model.with_options(window=3).with_options(window=None)(ids), model(ids))

    @pytest.mark.parametrize(
        "experts",
        [
            None,
            Experts(4, 2),
            EXPERTS.replace(n_active=1),
            EXPERTS.replace(score="sigmoid"),
            EXPERTS.replace(layers=None),
            dataclasses.asdict(EXPERTS) | {"d_ff": 8},
            7,
        ],
    )
    def test_with_options_refuses_what_changes_weights(self, experts):
        model = small(experts=self.EXPERTS)
        with pytest.raises(ValueError) as refused:
            model.with_options(experts=experts)
        assert str(refused.value) == (
            "experts cannot change under trained weights, apart from ['bias_rate', 'capacity', "
            "'balance_weight', 'balance_over', 'z_weight', 'importance_weight', 'dispatch']"
        )

    def test_a_dense_model_stays_dense(self):
        with pytest.raises(ValueError, match="experts cannot change under trained weights"):
            small().with_options(experts=self.EXPERTS)
        assert small().with_options(experts=None).config.experts is None

    def test_gradients_agree_with_finite_differences(self):
        """Where no token changes its experts on the way."""
        model = small(experts=self.EXPERTS.replace(capacity=None))
        ids = torch.randint(13, (2, 6), generator=seeded(5))
        cross_entropy(model(ids[:, :-1]), ids[:, 1:]).backward()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if not parameter.requires_grad:
                    continue
                direction = torch.randn(parameter.shape, dtype=torch.float64, generator=seeded(9))
                ends = []
                for sign in (1, -1):
                    parameter.data += sign * 1e-6 * direction
                    ends.append(cross_entropy(model(ids[:, :-1]), ids[:, 1:]).item())
                    parameter.data -= sign * 1e-6 * direction
                slope = (ends[0] - ends[1]) / 2e-6
                wanted = (parameter.grad * direction).sum().item()
                assert slope == pytest.approx(wanted, rel=1e-4, abs=1e-7), name
