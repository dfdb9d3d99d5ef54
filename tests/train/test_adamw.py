"""AdamW, reference and foreach, against torch's and against what bias correction promises."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llmcourse.train.adamw import AdamW, adamw_step, adamw_step_foreach_
from llmcourse.train.optimizers import decay_groups

SHAPES = ((3, 4), (5,), (), (2, 1, 3))


@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"weight_decay": 0.0},
        {"betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.3},
        {"betas": (0.0, 0.0)},
    ],
)
def test_equals_torch_step_by_step(options, foreach, parameters, give_gradients, assert_same):
    ours, theirs = parameters(), parameters()
    mine = AdamW(ours, lr=0.1, foreach=foreach, **options)
    other = torch.optim.AdamW(theirs, lr=0.1, **options)
    for step in range(12):
        give_gradients(step, ours, theirs)
        kept = [None if p.grad is None else p.grad.clone() for p in ours]
        for optimizer in (mine, other):
            optimizer.param_groups[0]["lr"] = 0.1 / (step + 1)  # as a schedule would
            optimizer.step()
        assert_same(ours, theirs)
        for p, gradient in zip(ours, kept):
            assert (p.grad is None and gradient is None) or torch.equal(p.grad, gradient)
    for a, b in zip(ours, theirs):
        for name in ("exp_avg", "exp_avg_sq", "step"):
            torch.testing.assert_close(
                mine.state[a][name], other.state[b][name], atol=1e-13, rtol=0
            )


@pytest.mark.parametrize("foreach", [False, True])
def test_several_groups(foreach, parameters, give_gradients, assert_same):
    ours, theirs = parameters(), parameters()

    def groups(p):
        first, second = decay_groups(p, 0.4)
        second["params"], rest = second["params"][:1], second["params"][1:]
        return [first, second, {"params": rest, "lr": 0.3, "betas": (0.5, 0.6), "eps": 1e-2}]

    optimizers = (
        AdamW(groups(ours), lr=0.05, foreach=foreach),
        torch.optim.AdamW(groups(theirs), lr=0.05),
    )
    for step in range(8):
        give_gradients(step, ours, theirs)
        for optimizer in optimizers:
            optimizer.step()
        assert_same(ours, theirs)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    steps=st.lists(st.integers(1, 10**6), min_size=1, max_size=4),
    lr=st.floats(0, 1),
    beta1=st.floats(0, 0.9999),
    beta2=st.floats(0, 0.9999),
    decay=st.floats(0, 1),
    size=st.sampled_from([1e-6, 1.0, 1e6]),
)
def test_foreach_equals_the_reference(steps, lr, beta1, beta2, decay, size):
    generator = torch.Generator().manual_seed(len(steps))

    def draw():
        shapes = SHAPES[: len(steps)]
        return [torch.randn(s, dtype=torch.float64, generator=generator) for s in shapes]

    p, m, v = draw(), draw(), [x.square() for x in draw()]
    g = [x * size for x in draw()]
    options = {"lr": lr, "betas": (beta1, beta2), "weight_decay": decay}
    before = [x.clone() for x in (*p, *g, *m, *v)]
    wanted = [adamw_step(*tensors, **options) for tensors in zip(p, g, m, v, steps)]
    assert all(torch.equal(a, b) for a, b in zip(before, (*p, *g, *m, *v))), "the reference wrote"
    adamw_step_foreach_(p, g, m, v, steps, **options)
    for found, expected in zip(zip(p, m, v), wanted):
        for a, b in zip(found, expected):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize("kind", ["ours to ours", "ours to torch", "torch to ours"])
def test_the_state_goes_round(kind, foreach, parameters, give_gradients, assert_same):
    settings = {"lr": 0.1, "betas": (0.7, 0.9), "weight_decay": 0.2}

    def make(kind, tensors, **options):
        if kind == "torch":
            return torch.optim.AdamW(tensors, **options)
        return AdamW(tensors, foreach=foreach, **options)

    before, after = kind.split(" to ")
    whole, first = parameters(), parameters()
    straight, stopped = torch.optim.AdamW(whole, **settings), make(before, first, **settings)
    for step in range(5):
        give_gradients(step, whole, first)
        straight.step()
        stopped.step()
    second = [p.detach().clone().requires_grad_() for p in first]
    resumed = make(after, second, lr=7.0)
    resumed.load_state_dict(stopped.state_dict())
    for step in range(5, 10):
        give_gradients(step, whole, second)
        straight.step()
        resumed.step()
        assert_same(second, whole)


@pytest.mark.parametrize("foreach", [False, True])
def test_a_run_that_was_stopped_is_bit_identical(foreach, parameters, give_gradients):
    whole, part = parameters(), parameters()
    straight, stopped = AdamW(whole, foreach=foreach), AdamW(part, foreach=foreach)
    for step in range(10):
        give_gradients(step, whole, part)
        straight.step()
        if step == 4:
            fresh = AdamW(part, foreach=foreach)
            fresh.load_state_dict(stopped.state_dict())
            stopped = fresh
        stopped.step()
    assert all(torch.equal(a, b) for a, b in zip(whole, part))


@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize("size", [1e-4, 1.0, 1e6])
def test_the_first_steps_are_one_learning_rate_whatever_the_gradient(foreach, size):
    p = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    optimizer = AdamW([p], lr=0.01, eps=0.0, weight_decay=0.0, foreach=foreach)
    for step in range(1, 6):
        p.grad = torch.tensor([size, -size], dtype=torch.float64)
        optimizer.step()
        # A gradient that never changes: m and v are exactly its mean and square, corrected.
        assert p.tolist() == pytest.approx([-0.01 * step, 0.01 * step], rel=1e-12)


@pytest.mark.parametrize("foreach", [False, True])
def test_decay_does_not_depend_on_the_gradient(foreach):
    # The point of the paper: as an L2 term in the gradient it would be divided by its size.
    changes = []
    for size in (1e-3, 1e3):
        ends = []
        for decay in (0.0, 0.5):
            p = torch.tensor([2.0], dtype=torch.float64, requires_grad=True)
            optimizer = AdamW([p], lr=0.1, weight_decay=decay, foreach=foreach)
            p.grad = torch.full_like(p, size)
            optimizer.step()
            ends.append(p.item())
        changes.append(ends[1] - ends[0])
    assert changes == pytest.approx([-0.1 * 0.5 * 2.0] * 2, abs=1e-12)


def test_a_state_that_means_something_else_is_refused():
    p = torch.zeros(2, requires_grad=True)
    optimizer = AdamW([p], lr=0.5)
    for option in ("amsgrad", "maximize"):
        with pytest.raises(ValueError, match=rf"made with \['{option}'\], which AdamW does not"):
            optimizer.load_state_dict(torch.optim.AdamW([p], **{option: True}).state_dict())
    with pytest.raises(ValueError, match=r"not the state of AdamW: its groups lack \['betas'"):
        optimizer.load_state_dict(torch.optim.SGD([p]).state_dict())
    damaged = optimizer.state_dict()
    damaged["param_groups"][0]["betas"] = [0.9, 1.0]
    with pytest.raises(ValueError, match=r"betas=\(0.9, 1.0\)"):
        optimizer.load_state_dict(damaged)
    assert optimizer.param_groups[0]["lr"] == 0.5


def test_the_closure_is_called_with_gradients_on():
    x = torch.tensor(2.0, requires_grad=True)
    optimizer = AdamW([x], lr=0.5, weight_decay=0.0)

    def closure():
        optimizer.zero_grad()
        loss = x.square()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 4.0
    assert x.item() == pytest.approx(1.5)


def test_nothing_with_a_gradient():
    p = torch.ones(3, requires_grad=True)
    optimizer = AdamW([p])
    assert optimizer.step() is None
    assert torch.equal(p, torch.ones(3)) and not optimizer.state


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": -1.0}, "lr=-1.0"),
        ({"lr": math.nan}, "lr=nan"),
        ({"betas": (1.0, 0.9)}, r"betas=\(1.0, 0.9\)"),
        ({"betas": (0.9, -0.1)}, r"betas=\(0.9, -0.1\)"),
        ({"betas": (0.9,)}, r"betas=\(0.9,\) must be two numbers"),
        ({"eps": -1e-8}, "eps=-1e-08"),
        ({"weight_decay": -0.1}, "weight_decay=-0.1"),
    ],
)
def test_impossible_settings_are_named(options, message):
    parameter = torch.zeros(2, requires_grad=True)
    with pytest.raises(ValueError, match=message):
        AdamW([parameter], **options)
    with pytest.raises(ValueError, match=message):
        AdamW([{"params": [parameter], **options}])
