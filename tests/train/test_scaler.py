"""The loss scaler against torch.amp.GradScaler on scripted overflows, and over a restart."""

from __future__ import annotations

import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llmcourse.train.scaler import (
    LossScaler,
    ScalerConfig,
    ScalerState,
    next_state,
)


def run(script, config, *, ours):
    """Scales and weights after each step of a script: "." a good step, "i" an inf, "n" a nan."""
    weights = [torch.zeros(3, requires_grad=True), torch.zeros(2, 2, requires_grad=True)]
    optimizer = torch.optim.SGD([*weights, torch.zeros(1, requires_grad=True)], lr=0.1)
    if ours:
        scaler = LossScaler(config)
    else:
        scaler = torch.amp.GradScaler(
            "cpu",
            init_scale=config.initial,
            growth_factor=config.growth,
            backoff_factor=config.backoff,
            growth_interval=config.interval,
        )
    path = []
    for n, event in enumerate(script):
        optimizer.zero_grad()
        loss = sum((w * (n + 1) * 1e-3).sum() for w in weights)
        scaler.scale(loss).backward()
        bad = {".": None, "i": math.inf, "n": math.nan}[event]
        if bad is not None:
            weights[n % 2].grad.view(-1)[0] = bad
        if ours:
            finite = scaler.unscale_(weights)
            if finite:
                optimizer.step()
            scaler.update(finite)
            scale = scaler.state.scale
        else:
            scaler.step(optimizer)
            scaler.update()
            scale = scaler.get_scale()
        path.append((scale, [w.tolist() for w in weights]))
    return path


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    script=st.text(alphabet="....in", min_size=1, max_size=25),
    initial=st.sampled_from([65536.0, 8.0, 2.0**120]),
    factors=st.sampled_from([(2.0, 0.5), (4.0, 0.25), (2.0, 0.25)]),
    interval=st.integers(1, 5),
)
def test_equals_torch(script, initial, factors, interval):
    # 2^120 grows past float32 when left alone: there torch stays where it is.
    if initial < 1e3 and script.count("i") + script.count("n") > 12:
        script = script[:12]
    config = ScalerConfig(initial, *factors, interval)
    # Exactly: powers of two lose nothing.
    assert run(script, config, ours=True) == run(script, config, ours=False)


def test_a_script_by_hand():
    config = ScalerConfig(initial=8.0, interval=3)
    path = run("..i....i.n", config, ours=True)
    assert [scale for scale, _ in path] == [8, 8, 4, 4, 4, 8, 8, 4, 4, 2]
    skipped = [n for n in range(1, 10) if path[n][1] == path[n - 1][1]]
    assert skipped == [2, 7, 9]


def test_the_scale_never_leaves_float32():
    config = ScalerConfig(initial=2.0**127, interval=1)
    assert next_state(ScalerState(2.0**127), True, config) == ScalerState(2.0**127)


def test_overflow_for_ever_is_refused():
    config, state = ScalerConfig(initial=2.0), ScalerState(2.0)
    for _ in range(25):
        state = next_state(state, False, config)
    assert state == ScalerState(2.0**-24)
    with pytest.raises(FloatingPointError, match=r"overflow even at a loss scale of 5.96e-08"):
        next_state(state, False, config)


def test_small_gradients_survive_float16_only_when_scaled():
    # d(loss)/dw passes through a float16 tensor, where 1e-8 is nothing.
    def gradient(scaler):
        w = torch.ones(4, requires_grad=True)
        loss = (w.half().float() * 1e-8).sum()
        if scaler is None:
            loss.backward()
        else:
            scaler.scale(loss).backward()
            assert scaler.unscale_([w])
        return w.grad.tolist()

    assert gradient(None) == [0.0] * 4
    assert gradient(LossScaler()) == pytest.approx([1e-8] * 4, rel=1e-3)


def test_trains_in_float16_as_in_float32(make_model):
    from llmcourse.train import cross_entropy

    tokens = torch.randint(31, (4, 13))
    losses = {}
    for half in (False, True):
        model, scaler, path = make_model(), LossScaler(ScalerConfig(interval=4)), []
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        for _ in range(10):
            with torch.autocast("cpu", torch.float16, enabled=half):
                loss = cross_entropy(model(tokens[:, :-1]), tokens[:, 1:])
            scaler.scale(loss).backward()
            finite = scaler.unscale_(model.parameters())
            if finite:
                optimizer.step()
            optimizer.zero_grad()
            scaler.update(finite)
            path.append(loss.item())
        assert scaler.state.scale >= 65536.0
        losses[half] = path
    assert losses[False][-1] < losses[False][0] - 0.5
    assert losses[True] == pytest.approx(losses[False], abs=0.02)


def test_a_float16_loss_is_scaled_in_float32():
    loss = torch.tensor(3.0, dtype=torch.float16)
    assert LossScaler().scale(loss).item() == 3 * 65536.0


def test_parameters_without_a_gradient():
    scaler = LossScaler()
    assert scaler.unscale_([torch.zeros(2, requires_grad=True)])
    assert scaler.unscale_(iter([]))


def test_float16_gradients_are_refused_before_anything_changes():
    good, bad = torch.zeros(2, requires_grad=True), torch.zeros(3).half().requires_grad_()
    good.grad, bad.grad = torch.ones(2), torch.ones(3).half()
    with pytest.raises(ValueError, match=r"gradient of shape \(3,\) is float16"):
        LossScaler().unscale_([good, bad])
    assert torch.equal(good.grad, torch.ones(2))


class TestRestart:
    def test_goes_on_where_it_was(self):
        scaler = LossScaler(ScalerConfig(initial=8.0, growth=3.0, backoff=0.1, interval=3))
        events = [True, True, False, True, True, True, True, False, True, True]
        states = []
        for n, finite in enumerate(events):
            if n % 3 == 2:
                text = json.dumps(scaler.to_dict())
                scaler = LossScaler.from_dict(json.loads(text))
            scaler.update(finite)
            states.append(scaler.state)
        straight = LossScaler(ScalerConfig(initial=8.0, growth=3.0, backoff=0.1, interval=3))
        for finite, state in zip(events, states):
            straight.update(finite)
            assert straight.state == state
        assert straight.config == scaler.config

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"scale": 0.0}, "scale=0.0 must lie between"),
            ({"scale": math.inf}, "scale=inf must lie between"),
            ({"scale": math.nan}, "scale=nan must lie between"),
            ({"scale": "8"}, "scale must be a number, got '8'"),
            ({"scale": True}, "scale must be a number, got True"),
            ({"good_steps": 1.5}, "good_steps must be a whole number, got 1.5"),
            ({"good_steps": -1}, "good_steps=-1 must be at least 0"),
            ({"growth": 1.0}, "growth=1.0 must be a number above 1"),
            ({"backoff": 1.0}, "backoff=1.0 must lie between 0 and 1"),
            ({"interval": 0}, "interval=0 must be at least 1 step"),
            ({"initial": -1.0}, "initial=-1.0 must lie between"),
            ({"extra": 1}, "a loss scaler is made of .*'scale'.*, got .*'extra'"),
        ],
    )
    def test_damage_is_named(self, changes, message):
        with pytest.raises(ValueError, match=message):
            LossScaler.from_dict(LossScaler().to_dict() | changes)

    def test_a_missing_key_is_named(self):
        values = LossScaler().to_dict()
        del values["scale"]
        with pytest.raises(ValueError, match="a loss scaler is made of"):
            LossScaler.from_dict(values)
