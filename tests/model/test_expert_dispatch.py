"""The two dispatches against the definition written out token by token, in float64.

Outputs and every gradient: of the inputs, of the assignments' weights, and of the experts' own
weights and biases; on random routings and on extreme ones.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from llmcourse.model import ModelConfig
from llmcourse.model import moe as moe_module
from llmcourse.model.expert_dispatch import (
    DISPATCH,
    _Combine,
    _Gather,
    can_group_products,
    dispatch_grouped,
    dispatch_loop,
    group,
    grouped_product,
    slices,
)
from llmcourse.model.experts_config import Experts
from llmcourse.model.moe import ExpertStack
from llmcourse.model.products import convolution_product
from llmcourse.model.routing import Routing, SparseLayer

C, F, E = 6, 5, 4
NETWORKS = {
    "gated": {"feed_forward": "gated", "activation": "silu", "feed_forward_bias": False},
    "gated with biases": {"feed_forward": "gated", "activation": "gelu"},
    "plain": {"feed_forward": "plain", "activation": "relu2", "feed_forward_bias": False},
    "plain with biases": {"feed_forward": "plain", "activation": "gelu_tanh"},
}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def random(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=seeded(seed))


def make_stack(e=E, c=C, f=F, seed=0, **network):
    """Experts whose every number matters, biases too."""
    network = network or NETWORKS["gated"]
    config = ModelConfig(
        vocab_size=5,
        context_length=4,
        n_layers=1,
        n_heads=1,
        d_model=c,
        experts=Experts(e, 1, d_ff=f),
        **network,
    )
    stack = ExpertStack(config, 0.5, seeded(seed)).double()
    for number, parameter in enumerate(stack.parameters()):
        parameter.data = 0.5 * random(*parameter.shape, seed=seed + number)
    return stack


def routing_of(pairs, n, e=E, seed=3):
    """A routing of (token, expert) pairs in this order, with weights that want gradients."""
    tokens = torch.tensor([t for t, _ in pairs], dtype=torch.int64)
    experts = torch.tensor([x for _, x in pairs], dtype=torch.int64)
    none = torch.empty(0, dtype=torch.int64)
    weights = random(len(pairs), seed=seed).requires_grad_()
    logits = torch.zeros(n, e, dtype=torch.float64)
    return Routing(logits, logits, tokens, experts, weights, none, none, (1, n), SparseLayer())


def top(n, e, k, seed=0):
    chosen = random(n, e, seed=seed).topk(k, dim=1).indices.tolist()
    return [(t, x) for t, row in enumerate(chosen) for x in row]


def shuffled(pairs, seed=0):
    return [pairs[i] for i in torch.randperm(len(pairs), generator=seeded(seed)).tolist()]


# name: (assignments, tokens, experts)
ROUTINGS = {
    "random": (top(11, E, 2), 11, E),
    "many": (top(70, 13, 5), 70, 13),
    "one token": (top(1, E, 2), 1, E),
    "one assignment": ([(0, 2)], 1, E),
    "one token without an expert": ([], 1, E),
    "one token, out of order": ([(0, 3), (0, 0), (0, 2)], 1, E),
    "one expert": ([(t, 0) for t in range(7)], 7, 1),
    "all to one expert": ([(t, 2) for t in range(7)], 7, E),
    "all to the last": ([(t, E - 1) for t in range(7)], 7, E),
    "all tokens to all experts": (top(5, E, E), 5, E),
    "two of four never met": ([(t, x) for t in range(5) for x in (3, 1)], 5, E),
    "dropped": ([p for i, p in enumerate(top(11, E, 2)) if i % 3], 11, E),
    "most tokens without an expert": ([(8, 1), (2, 3)], 11, E),
    "as experts choose": ([(t, x) for x in range(E) for t in (9, x, 0)], 11, E),
    "one token taken by all": ([(4, x) for x in range(E)], 11, E),
    "any order": (shuffled(top(23, E, 3)), 23, E),
    "the same expert twice": ([(0, 1), (0, 1), (1, 1)], 2, E),
    "nothing": ([], 5, E),
    "no tokens": ([], 0, E),
}


def by_hand(x, routing, stack):
    """Σ over the assignments, one at a time, from the parameters alone."""
    activate = {
        "silu": lambda z: z / (1 + torch.exp(-z)),
        "gelu": lambda z: 0.5 * z * (1 + torch.erf(z / math.sqrt(2))),
        "gelu_tanh": lambda z: (
            0.5 * z * (1 + torch.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)))
        ),
        "relu2": lambda z: torch.clamp(z, min=0) ** 2,
    }[stack.named]
    rows = [torch.zeros(x.shape[1], dtype=x.dtype) for _ in range(len(x))]
    f = stack.down.shape[2]
    for a, (n, e) in enumerate(zip(routing.tokens.tolist(), routing.experts.tolist())):
        hidden = stack.up[e] @ x[n]
        if stack.up_bias is not None:
            hidden = hidden + stack.up_bias[e]
        hidden = activate(hidden[:f]) * hidden[f:] if stack.gated else activate(hidden)
        made = stack.down[e] @ hidden
        if stack.down_bias is not None:
            made = made + stack.down_bias[e]
        rows[n] = rows[n] + routing.weights[a] * made
    return torch.stack(rows) if rows else torch.zeros_like(x)


def with_gradients(way, routing, stack, x):
    """Output and the gradients of inputs, assignment weights and all parameters."""
    x = x.clone().requires_grad_()
    y = way(x, routing, stack)
    slope = random(*y.shape, seed=8)
    wanted = [x, routing.weights, *stack.parameters()]
    if not y.requires_grad:
        return [y, *(torch.zeros_like(w) for w in wanted)]
    found = torch.autograd.grad((y * slope).sum(), wanted, allow_unused=True)
    return [y.detach(), *(torch.zeros_like(w) if g is None else g for g, w in zip(found, wanted))]


class TestEqualTheDefinition:
    @pytest.mark.parametrize("network", NETWORKS)
    @pytest.mark.parametrize("name", ROUTINGS)
    @pytest.mark.parametrize("way", DISPATCH)
    def test_outputs_and_gradients(self, way, name, network):
        pairs, n, e = ROUTINGS[name]
        stack = make_stack(e, **NETWORKS[network])
        stack.named = NETWORKS[network]["activation"]
        routing, x = routing_of(pairs, n, e), random(n, C, seed=5)
        found = with_gradients(DISPATCH[way], routing, stack, x)
        exact = with_gradients(by_hand, routing, stack, x)
        assert len(found) == len(exact) == 3 + len(list(stack.parameters()))
        for mine, wanted in zip(found, exact):
            assert mine.dtype == torch.float64 and mine.shape == wanted.shape
            torch.testing.assert_close(mine, wanted, rtol=0, atol=1e-11)
        if pairs:
            assert all(wanted.abs().max() > 1e-3 for wanted in exact)

    @pytest.mark.parametrize("seed", range(12))
    def test_random_sizes_agree(self, seed):
        """Fast against slow, from a token to hundreds, any mix of experts per token."""
        draw = lambda top: int(torch.randint(1, top, (1,), generator=generator))  # noqa: E731
        generator = seeded(seed)
        n, e, c, f = draw(300), draw(20), draw(20), draw(20)
        hit = torch.rand(n, e, generator=generator) < draw(10) / 10
        pairs = shuffled([tuple(pair) for pair in hit.nonzero().tolist()], seed)
        stack, routing = make_stack(e, c, f, seed), routing_of(pairs, n, e)
        x = random(n, c, seed=seed)
        slow = with_gradients(dispatch_loop, routing, stack, x)
        fast = with_gradients(dispatch_grouped, routing, stack, x)
        for a, b in zip(slow, fast, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-9)

    def test_order_of_the_assignments_does_not_matter(self):
        pairs = top(23, E, 3)
        x, stack = random(23, C), make_stack()
        routing = routing_of(pairs, 23)
        wanted = dispatch_grouped(x, routing, stack)
        order = torch.randperm(len(pairs), generator=seeded(1))
        other = routing_of([pairs[i] for i in order.tolist()], 23)
        with torch.no_grad():
            other.weights.copy_(routing.weights[order])
        torch.testing.assert_close(dispatch_grouped(x, other, stack), wanted, rtol=0, atol=1e-13)

    @pytest.mark.parametrize("way", DISPATCH)
    def test_tokens_without_an_expert_are_zero(self, way):
        y = DISPATCH[way](random(11, C), routing_of([(8, 1), (2, 3)], 11), make_stack())
        empty = [n for n in range(11) if n not in (2, 8)]
        assert (y[empty] == 0).all() and (y[[2, 8]] != 0).all()

    @pytest.mark.parametrize("way", DISPATCH)
    @pytest.mark.parametrize("name", ["random", "nothing", "no tokens"])
    def test_inputs_are_not_changed(self, way, name):
        pairs, n, e = ROUTINGS[name]
        routing, stack, x = routing_of(pairs, n, e), make_stack(), random(n, C, seed=5)
        before = [t.detach().clone() for t in (x, routing.weights, *stack.parameters())]
        with_gradients(DISPATCH[way], routing, stack, x)
        for a, b in zip(before, (x, routing.weights, *stack.parameters())):
            assert torch.equal(a, b)

    @pytest.mark.parametrize("way", DISPATCH)
    def test_strided_inputs(self, way):
        routing, stack = routing_of(top(11, E, 2), 11), make_stack()
        x = random(11, C)
        wanted = DISPATCH[way](x, routing, stack)
        for strided in (x.T.contiguous().T, torch.cat([x, x], 1)[:, :C]):
            torch.testing.assert_close(DISPATCH[way](strided, routing, stack), wanted)
        x = x.requires_grad_()
        slope = random(C, 11).T  # a gradient whose memory runs the other way
        [found] = torch.autograd.grad(DISPATCH[way](x, routing, stack), x, slope)
        [exact] = torch.autograd.grad(DISPATCH[way](x, routing, stack), x, slope.contiguous())
        torch.testing.assert_close(found, exact)
        # One number for all, expanded: the gradient of a plain sum.
        [found] = torch.autograd.grad(DISPATCH[way](x, routing, stack).sum(), x)
        ones = torch.ones(11, C, dtype=torch.float64)
        [exact] = torch.autograd.grad(DISPATCH[way](x, routing, stack), x, ones)
        torch.testing.assert_close(found, exact)


class TestGradientsOfTheParts:
    @pytest.mark.parametrize("name", [n for n, (pairs, *_) in ROUTINGS.items() if len(pairs) < 30])
    def test_gradcheck(self, name):
        pairs, n, e = ROUTINGS[name]
        groups = group(routing_of(pairs, n, e))
        x, made = random(n, 3).requires_grad_(), random(len(pairs), 3, seed=1).requires_grad_()
        weights = random(len(pairs), seed=2).requires_grad_()
        rows, bag, offsets = groups.rows, groups.bag, groups.offsets
        if n:
            assert torch.autograd.gradcheck(lambda x: _Gather.apply(x, rows, bag, offsets), (x,))
            assert torch.autograd.gradcheck(
                lambda m, w: _Combine.apply(m, w, rows, bag, offsets), (made, weights)
            )

    def test_a_second_derivative_is_refused_rather_than_wrong(self):
        groups = group(routing_of(top(5, E, 2), 5))
        x = random(5, 3).requires_grad_()
        y = _Gather.apply(x, groups.rows, groups.bag, groups.offsets)
        [slope] = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        with pytest.raises(RuntimeError, match="once_differentiable"):
            slope.sum().backward()

    @pytest.mark.parametrize("name", ROUTINGS)
    def test_groups_by_hand(self, name):
        pairs, n, e = ROUTINGS[name]
        groups = group(routing_of(pairs, n, e))
        order = sorted(range(len(pairs)), key=lambda a: (pairs[a][1], a))
        assert groups.order.tolist() == order
        assert groups.rows.tolist() == [pairs[a][0] for a in order]
        assert groups.counts.tolist() == [sum(x == i for _, x in pairs) for i in range(e)]
        places = [[p for p, a in enumerate(order) if pairs[a][0] == t] for t in range(n)]
        assert groups.bag.tolist() == [p for mine in places for p in mine]
        assert groups.offsets.tolist() == [sum(map(len, places[:t])) for t in range(n)]

    def test_slices_leave_out_the_empty(self):
        rows = torch.arange(6)[:, None]
        found = [(e, piece[:, 0].tolist()) for e, piece in slices(rows, torch.tensor([0, 2, 0, 4]))]
        assert found == [(1, [0, 1]), (3, [2, 3, 4, 5])]


class TestEmptyExperts:
    @pytest.mark.parametrize("name", NETWORKS)
    @pytest.mark.parametrize("way", DISPATCH)
    def test_they_get_gradients_of_zero(self, way, name):
        """Not None: an optimiser with momentum, and processes that add up, go on as usual."""
        stack = make_stack(**NETWORKS[name])
        routing = routing_of([(t, 2) for t in range(7)], 7)
        DISPATCH[way](random(7, C), routing, stack).square().sum().backward()
        for parameter in stack.parameters():
            others = [e for e in range(E) if e != 2]
            assert (parameter.grad[others] == 0).all() and parameter.grad[2].abs().max() > 0

    @pytest.mark.parametrize("n", [1, 3])
    def test_without_any_token_too(self, n):
        stack = make_stack(**NETWORKS["gated with biases"])
        x = random(n, C).requires_grad_()
        dispatch_grouped(x, routing_of([], n), stack).sum().backward()
        for tensor in (x, *stack.parameters()):
            assert tensor.grad is not None and (tensor.grad == 0).all()


class Reads(TorchDispatchMode):
    """Notes of which experts' weights an operation was given memory to read."""

    VIEWS = ("unbind", "select", "detach", "alias", "as_strided", "view", "slice", "t", "permute")
    VIEWS += ("transpose", "expand", "unsqueeze", "_unsafe_view", "split", "chunk")

    def __init__(self, stack):
        super().__init__()
        self.tensors = {p.untyped_storage().data_ptr(): p for p in stack.parameters()}
        self.seen = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        if name not in self.VIEWS:
            flat = torch.utils._pytree.tree_leaves((args, kwargs or {}))
            for tensor in flat:
                if isinstance(tensor, torch.Tensor):
                    self.note(tensor)
        return function(*args, **(kwargs or {}))

    def note(self, tensor):
        whole = self.tensors.get(tensor.untyped_storage().data_ptr())
        if whole is not None:
            first = tensor.storage_offset()
            last = first + sum((s - 1) * d for s, d in zip(tensor.shape, tensor.stride()))
            size = whole[0].numel()
            self.seen |= set(range(first // size, last // size + 1))


class TestOnlyHitExpertsAreRead:
    PAIRS = ((0, 1), (1, 1), (1, 3), (4, 3))

    @pytest.mark.parametrize("network", NETWORKS)
    @pytest.mark.parametrize("way", DISPATCH)
    def test_the_others_may_hold_nan(self, way, network):
        stack = make_stack(**NETWORKS[network])
        routing, x = routing_of(self.PAIRS, 5), random(5, C, seed=5)
        wanted = with_gradients(DISPATCH[way], routing, stack, x)
        for parameter in stack.parameters():
            parameter.data[[0, 2]] = torch.nan
        found = with_gradients(DISPATCH[way], routing, stack, x)
        for a, b in zip(found, wanted):
            assert torch.equal(a, b), "outputs and all gradients are untouched"

    @pytest.mark.parametrize("autocast", [False, True])
    @pytest.mark.parametrize("network", NETWORKS)
    @pytest.mark.parametrize("way", DISPATCH)
    @pytest.mark.parametrize("pairs", [PAIRS, ((0, 2), (0, 0)), ((0, 3),)])
    def test_their_memory_is_given_to_no_operation(self, pairs, way, network, autocast):
        """Stronger: a cast of all weights reads them too, and no NaN would tell."""
        stack = make_stack(**NETWORKS[network]).float()
        n = pairs[-1][0] + 1
        routing, x = routing_of(pairs, n), random(n, C).float()
        reads = Reads(stack)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=autocast), reads:
            DISPATCH[way](x, routing, stack)
        assert reads.seen == {e for _, e in pairs}

    def test_the_notes_can_tell(self):
        stack = make_stack()
        reads = Reads(stack)
        with torch.no_grad(), reads:
            stack.up + 1
        assert reads.seen == set(range(E))


class TestPrecision:
    def test_dtypes(self):
        for dtype in (torch.float32, torch.bfloat16):
            stack = make_stack().to(dtype)
            for way in DISPATCH.values():
                y = way(random(11, C).to(dtype), routing_of(top(11, E, 2), 11), stack)
                assert y.dtype == dtype

    @pytest.mark.parametrize("network", NETWORKS)
    @pytest.mark.parametrize("way", DISPATCH)
    def test_autocast_is_close(self, way, network):
        """bfloat16 has 8 bits: within a hundredth of the sizes, gradients included."""
        n, e, c, f = 40, 4, 32, 48
        stack = make_stack(e, c, f, **NETWORKS[network]).float()
        for parameter in stack.parameters():
            parameter.data *= 0.3
        routing = routing_of(top(n, e, 2), n, e)
        x = random(n, c).float()

        def half(x, routing, stack):
            with torch.autocast("cpu", torch.bfloat16):
                y = DISPATCH[way](x, routing, stack)
            assert y.dtype == torch.float32
            return y

        exact = with_gradients(DISPATCH[way], routing, stack, x)
        low = with_gradients(half, routing, stack, x)
        for a, b in zip(low, exact, strict=True):
            assert a.dtype == b.dtype
            off = ((a - b).square().mean() / b.square().mean()).sqrt()
            assert 1e-5 < off < 1.2e-2

    def test_products_as_convolutions(self):
        """What `set_products` may choose, in float32, against the plain ones in float64."""
        stack, routing, x = make_stack(), routing_of(top(11, E, 2), 11), random(11, C)
        wanted = with_gradients(dispatch_grouped, routing, stack, x)
        stack = stack.float()
        stack.product = convolution_product
        for way in DISPATCH.values():
            for a, b in zip(with_gradients(way, routing, stack, x.float()), wanted, strict=True):
                torch.testing.assert_close(a.double(), b, rtol=1e-4, atol=1e-4)


class TestGroupedProducts:
    def test_a_cpu_has_no_use_for_them(self):
        rows = torch.zeros(4, 8, dtype=torch.bfloat16)
        assert not can_group_products(rows, torch.bfloat16, 16)

    @pytest.mark.skipif(not hasattr(torch.nn.functional, "grouped_mm"), reason="torch lacks it")
    @pytest.mark.parametrize("counts", [[3, 0, 5, 2], [0, 0, 0, 10], [10, 0, 0, 0]])
    def test_each_group_meets_its_matrix(self, counts):
        rows = random(10, 16).bfloat16()
        weight = random(4, 24, 16, seed=1).bfloat16()
        found = grouped_product(rows, weight, torch.tensor(counts))
        start = 0
        for e, count in enumerate(counts):
            mine = rows[start : start + count].double() @ weight[e].double().T
            torch.testing.assert_close(
                found[start : start + count].double(), mine, rtol=1e-2, atol=1e-2
            )
            start += count

    @pytest.mark.skipif(not hasattr(torch.nn.functional, "grouped_mm"), reason="torch lacks it")
    @pytest.mark.parametrize("network", ["gated", "plain"])
    def test_the_whole_stack_through_them(self, network, monkeypatch):
        """What a GPU does, by torch's version for CPUs, gradients included."""
        n, e, c, f = 30, 4, 16, 24
        stack = make_stack(e, c, f, **NETWORKS[network]).bfloat16()
        for parameter in stack.parameters():
            parameter.data *= 0.5
        routing, x = routing_of(top(n, e, 2), n, e), random(n, c).bfloat16()
        exact = with_gradients(dispatch_grouped, routing, stack, x)
        asked = []
        monkeypatch.setattr(moe_module, "can_group_products", lambda *_: asked.append(1) or True)
        found = with_gradients(dispatch_grouped, routing, stack, x)
        assert asked
        for a, b in zip(found, exact, strict=True):
            off = (a.double() - b.double()).norm() / b.double().norm()
            assert off < 1e-2

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
    def test_on_a_gpu(self):
        n, e, c, f = 300, 8, 64, 96
        stack = make_stack(e, c, f).bfloat16().cuda()
        pairs = top(n, e, 2)
        routing = routing_of(pairs, n, e)
        moved = {
            name: getattr(routing, name).detach().cuda()
            for name in ("tokens", "experts", "weights", "logits", "scores")
        }
        none = torch.empty(0, dtype=torch.int64, device="cuda")
        weights = moved["weights"].requires_grad_()
        routing = Routing(
            moved["logits"],
            moved["scores"],
            moved["tokens"],
            moved["experts"],
            weights,
            none,
            none,
            (1, n),
            SparseLayer(),
        )
        x = random(n, c).bfloat16().cuda()
        assert can_group_products(x, stack.up.dtype, stack.up.shape[1])
        y = dispatch_grouped(x, routing, stack)
        exact = dispatch_loop(x.double(), routing, stack.double())
        assert (y.double() - exact).norm() / exact.norm() < 2e-2
