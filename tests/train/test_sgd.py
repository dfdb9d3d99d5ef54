"""SGD against torch's, step by step, and against a quadratic solved by hand."""

from __future__ import annotations

import math

import pytest
import torch

from llmcourse.train.sgd import SGD, sgd_step

SETTINGS = [
    {},
    {"momentum": 0.9},
    {"weight_decay": 0.3},
    {"momentum": 0.9, "weight_decay": 0.3},
    {"momentum": 0.9, "nesterov": True},
    {"momentum": 0.5, "weight_decay": 0.1, "nesterov": True},
]


@pytest.mark.parametrize("settings", SETTINGS)
def test_equals_torch_step_by_step(settings, parameters, give_gradients, assert_same):
    ours, theirs = parameters(), parameters()
    mine, other = SGD(ours, lr=0.1, **settings), torch.optim.SGD(theirs, lr=0.1, **settings)
    for step in range(12):
        give_gradients(step, ours, theirs)
        kept = [None if p.grad is None else p.grad.clone() for p in ours]
        for optimizer in (mine, other):
            optimizer.param_groups[0]["lr"] = 0.1 / (step + 1)  # as a schedule would
            optimizer.step()
        assert_same(ours, theirs)
        for p, gradient in zip(ours, kept):
            assert (p.grad is None and gradient is None) or torch.equal(p.grad, gradient)


def test_several_groups(parameters, give_gradients, assert_same):
    ours, theirs = parameters(), parameters()

    def groups(p):
        return [
            {"params": p[:2], "lr": 0.3, "momentum": 0.8, "nesterov": True},
            {"params": p[2:3], "weight_decay": 0.2},
            {"params": p[3:]},
        ]

    optimizers = SGD(groups(ours), lr=0.05), torch.optim.SGD(groups(theirs), lr=0.05)
    for step in range(8):
        give_gradients(step, ours, theirs)
        for optimizer in optimizers:
            optimizer.step()
        assert_same(ours, theirs)


@pytest.mark.parametrize("before", [SGD, torch.optim.SGD])
def test_the_state_goes_round(before, parameters, give_gradients, assert_same):
    settings = {"lr": 0.1, "momentum": 0.9, "nesterov": True}
    whole = parameters()
    straight = torch.optim.SGD(whole, **settings)
    first = parameters()
    stopped = before(first, **settings)
    for step in range(5):
        give_gradients(step, whole, first)
        straight.step()
        stopped.step()
    second = [p.detach().clone().requires_grad_() for p in first]
    resumed = SGD(second, lr=7.0, momentum=0.1)
    resumed.load_state_dict(stopped.state_dict())
    for step in range(5, 10):
        give_gradients(step, whole, second)
        straight.step()
        resumed.step()
        assert_same(second, whole)


def test_the_step_is_pure_and_says_what_it_should():
    p, g, v = (torch.tensor([x], dtype=torch.float64) for x in (2.0, 3.0, 5.0))
    changed, velocity = sgd_step(p, g, v, lr=0.1, momentum=0.5, weight_decay=0.25)
    # g = 3 + 0.25 * 2 = 3.5, v = 0.5 * 5 + 3.5 = 6, p = 2 - 0.1 * 6
    assert velocity.item() == pytest.approx(6.0) and changed.item() == pytest.approx(1.4)
    changed, _ = sgd_step(p, g, v, lr=0.1, momentum=0.5, weight_decay=0.25, nesterov=True)
    assert changed.item() == pytest.approx(2 - 0.1 * (3.5 + 0.5 * 6))
    assert (p.item(), g.item(), v.item()) == (2.0, 3.0, 5.0)
    _, velocity = sgd_step(p, g, None, lr=0.1, momentum=0.5)
    assert velocity.item() == 3.0 and velocity.data_ptr() != g.data_ptr()
    assert sgd_step(p, g, None, lr=0.1)[1] is None


def test_momentum_on_a_quadratic_follows_its_recurrence():
    # f = ½ a x²: x_{t+1} = (1 + μ - lr a) x_t - μ x_{t-1}, worked out in plain floats.
    a, lr, mu = 3.0, 0.2, 0.7
    x = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    optimizer = SGD([x], lr=lr, momentum=mu)
    path = [1.0]
    for _ in range(20):
        optimizer.zero_grad()
        (0.5 * a * x.square()).backward()
        optimizer.step()
        previous = path[-2] if len(path) > 1 else path[-1]
        path.append((1 + mu - lr * a) * path[-1] - mu * previous)
        assert x.item() == pytest.approx(path[-1], abs=1e-14)
    assert abs(path[-1]) < 0.1


def test_the_closure_is_called_with_gradients_on():
    x = torch.tensor(2.0, requires_grad=True)
    optimizer = SGD([x], lr=0.5)

    def closure():
        optimizer.zero_grad()
        loss = x.square()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 4.0
    assert x.item() == 0.0


@pytest.mark.parametrize(
    "options",
    [
        {"lr": -1.0},
        {"lr": math.nan},
        {"momentum": 1.0},
        {"momentum": -0.1},
        {"weight_decay": -0.1},
    ],
)
def test_impossible_settings_are_named(options):
    [(name, value)] = options.items()
    parameter = torch.zeros(2, requires_grad=True)
    with pytest.raises(ValueError, match=rf"{name}={value}"):
        SGD([parameter], **options)
    with pytest.raises(ValueError, match=rf"{name}={value}"):
        SGD([{"params": [parameter], **options}])


def test_a_state_that_means_something_else_is_refused():
    p = torch.zeros(2, requires_grad=True)
    optimizer = SGD([p], lr=0.5)
    with pytest.raises(ValueError, match=r"made with \['dampening'\], which SGD does not have"):
        optimizer.load_state_dict(
            torch.optim.SGD([p], lr=0.1, momentum=0.9, dampening=0.1).state_dict()
        )
    with pytest.raises(ValueError, match=r"not the state of SGD: its groups lack \['momentum'"):
        optimizer.load_state_dict(torch.optim.AdamW([p]).state_dict())
    damaged = optimizer.state_dict()
    damaged["param_groups"][0]["lr"] = math.nan
    with pytest.raises(ValueError, match="lr=nan"):
        optimizer.load_state_dict(damaged)


def test_nesterov_needs_momentum():
    with pytest.raises(ValueError, match="nesterov=True looks ahead along the momentum"):
        SGD([torch.zeros(2, requires_grad=True)], nesterov=True)
