"""Exercise 4.8 A step with loss scaling."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from llmcourse.grading.inputs import Draw
from llmcourse.grading.records import Answer, Arguments, Exercise, Property, WrongAnswer

Tensors = list[Tensor]
Result = tuple[Tensors, float, int]


def _scaling_inputs(draw: Draw, size: int) -> Arguments:
    # At a scale of 2^20 float16 cannot hold the unscaled gradients.
    shapes, power = [
        ([(2,)], 3),
        ([(1,), (2,)], 4),
        ([(2,)], 5),
        ([(3,), (2,)], 20),
        ([(2, 2), (2,), (1,)], 10),
        ([(2, 3), (3,)], 12),
        ([(2,), (1,)], 8),
    ][size]
    interval = draw.integer(4, 8)
    good_steps = [1, 1, interval - 1, 0, interval - 1, 2, 1][size]
    weights = [draw.normal(*shape) for shape in shapes]
    # float16 in, as the backward pass would leave them; between 1 and 3 in size.
    gradients = [
        (draw.uniform(1.0, 3.0, *shape) * draw.pick([-1.0, 1.0])).half() for shape in shapes
    ]
    if size == 1:  # one number of one tensor has overflowed
        gradients[1][0] = draw.pick([math.inf, -math.inf])
    if size == 4:  # inf - inf, somewhere on the way
        gradients[2][0] = math.nan
    if size == 6:
        gradients[0][1] = math.inf
    lr = 2.0**power * draw.number(0.05, 0.2)
    return weights, gradients, 2.0**power, good_steps, lr, interval


def _scaling_oracle(
    weights: Tensors, gradients: Tensors, scale: float, good_steps: int, lr: float, interval: int
) -> Result:
    numbers = [number for gradient in gradients for number in gradient.reshape(-1).tolist()]
    if not all(math.isfinite(number) for number in numbers):
        return [weight.clone() for weight in weights], scale / 2, 0
    moved = []
    for weight, gradient in zip(weights, gradients):
        pairs = zip(weight.reshape(-1).tolist(), gradient.reshape(-1).tolist())
        flat = [w - lr * (g / scale) for w, g in pairs]
        moved.append(torch.tensor(flat, dtype=weight.dtype).reshape(weight.shape))
    if good_steps + 1 == interval:
        return moved, 2 * scale, 0
    return moved, scale, good_steps + 1


def _stepped(weights: Tensors, gradients: Tensors, scale: float, lr: float) -> Tensors:
    return [w - lr * (g.double() / scale) for w, g in zip(weights, gradients)]


def _finite(gradients: Tensors) -> bool:
    return all(bool(g.isfinite().all()) for g in gradients)


def _scaling(
    weights: Tensors,
    gradients: Tensors,
    scale: float,
    good_steps: int,
    lr: float,
    interval: int,
    *,
    finite: bool | None = None,
    moved: Tensors | None = None,
    left: Tensors | None = None,
) -> Result:
    if not (_finite(gradients) if finite is None else finite):
        return list(weights) if left is None else left, scale / 2, 0
    moved = _stepped(weights, gradients, scale, lr) if moved is None else moved
    grown = good_steps + 1 >= interval
    return moved, scale * 2 if grown else scale, 0 if grown else good_steps + 1


def _scaling_not_unscaled(
    weights: Tensors, gradients: Tensors, scale: float, good_steps: int, lr: float, interval: int
) -> Result:
    moved = _stepped(weights, gradients, 1.0, lr)
    return _scaling(weights, gradients, scale, good_steps, lr, interval, moved=moved)


def _scaling_multiplied(
    weights: Tensors, gradients: Tensors, scale: float, good_steps: int, lr: float, interval: int
) -> Result:
    moved = _stepped(weights, gradients, 1 / scale, lr)
    return _scaling(weights, gradients, scale, good_steps, lr, interval, moved=moved)


def _scaling_in_float16(
    weights: Tensors, gradients: Tensors, scale: float, good_steps: int, lr: float, interval: int
) -> Result:
    moved = [w - lr * (g / scale).double() for w, g in zip(weights, gradients)]
    return _scaling(weights, gradients, scale, good_steps, lr, interval, moved=moved)


def _scaling_step_in_float16(
    weights: Tensors, gradients: Tensors, scale: float, good_steps: int, lr: float, interval: int
) -> Result:
    moved = [w - lr * (g / scale) for w, g in zip(weights, gradients)]
    return _scaling(weights, gradients, scale, good_steps, lr, interval, moved=moved)


def _scaling_rate_in_float16(
    weights: Tensors, gradients: Tensors, scale: float, good_steps: int, lr: float, interval: int
) -> Result:
    moved = [w - lr / scale * g for w, g in zip(weights, gradients)]
    return _scaling(weights, gradients, scale, good_steps, lr, interval, moved=moved)


def _scaling_never_checked(
    weights: Tensors, gradients: Tensors, scale: float, good_steps: int, lr: float, interval: int
) -> Result:
    return _scaling(weights, gradients, scale, good_steps, lr, interval, finite=True)


def _scaling_steps_anyway(
    weights: Tensors, gradients: Tensors, scale: float, good_steps: int, lr: float, interval: int
) -> Result:
    left = _stepped(weights, gradients, scale, lr)
    return _scaling(weights, gradients, scale, good_steps, lr, interval, left=left)


def _scaling_one_tensor_skipped(
    weights: Tensors, gradients: Tensors, scale: float, good_steps: int, lr: float, interval: int
) -> Result:
    left = [
        _stepped([w], [g], scale, lr)[0] if _finite([g]) else w for w, g in zip(weights, gradients)
    ]
    return _scaling(weights, gradients, scale, good_steps, lr, interval, left=left)


def _scaling_zeroed(
    weights: Tensors, gradients: Tensors, scale: float, good_steps: int, lr: float, interval: int
) -> Result:
    clean = [g.nan_to_num(0.0, 0.0, 0.0) for g in gradients]
    left = _stepped(weights, clean, scale, lr)
    return _scaling(weights, gradients, scale, good_steps, lr, interval, left=left)


def _scaling_only_infinite(
    weights: Tensors, gradients: Tensors, scale: float, good_steps: int, lr: float, interval: int
) -> Result:
    finite = not any(bool(g.isinf().any()) for g in gradients)
    return _scaling(weights, gradients, scale, good_steps, lr, interval, finite=finite)


def _scaling_only_nan(
    weights: Tensors, gradients: Tensors, scale: float, good_steps: int, lr: float, interval: int
) -> Result:
    finite = not any(bool(g.isnan().any()) for g in gradients)
    return _scaling(weights, gradients, scale, good_steps, lr, interval, finite=finite)


def _scaling_first_tensor(
    weights: Tensors, gradients: Tensors, scale: float, good_steps: int, lr: float, interval: int
) -> Result:
    finite = _finite(gradients[:1])
    return _scaling(weights, gradients, scale, good_steps, lr, interval, finite=finite)


def _scaling_never_halved(
    weights: Tensors, gradients: Tensors, scale: float, good_steps: int, lr: float, interval: int
) -> Result:
    moved, new, good = _scaling(weights, gradients, scale, good_steps, lr, interval)
    return moved, max(new, scale), good


def _scaling_keeps_counting(
    weights: Tensors, gradients: Tensors, scale: float, good_steps: int, lr: float, interval: int
) -> Result:
    moved, new, good = _scaling(weights, gradients, scale, good_steps, lr, interval)
    return moved, new, good_steps if new < scale else good


def _scaling_never_restarts(
    weights: Tensors, gradients: Tensors, scale: float, good_steps: int, lr: float, interval: int
) -> Result:
    moved, new, good = _scaling(weights, gradients, scale, good_steps, lr, interval)
    return moved, new, good_steps + 1 if new > scale else good


def _scaling_never_grows(
    weights: Tensors, gradients: Tensors, scale: float, good_steps: int, lr: float, interval: int
) -> Result:
    moved, new, good = _scaling(weights, gradients, scale, good_steps, lr, interval)
    return moved, min(new, scale), good_steps + 1 if new > scale else good


def _scaling_always_grows(
    weights: Tensors, gradients: Tensors, scale: float, good_steps: int, lr: float, interval: int
) -> Result:
    return _scaling(weights, gradients, scale, good_steps, lr, interval=1)


def _scaling_moved_first(
    weights: Tensors, gradients: Tensors, scale: float, good_steps: int, lr: float, interval: int
) -> Result:
    _, new, good = _scaling(weights, gradients, scale, good_steps, lr, interval)
    return _stepped(weights, gradients, new, lr) if new >= scale else list(weights), new, good


def _scaling_by_norm(
    weights: Tensors, gradients: Tensors, scale: float, good_steps: int, lr: float, interval: int
) -> Result:
    # One number tells: a sum over everything is not finite if a single part is not.
    total = sum(g.double().abs().sum() for g in gradients)
    if not math.isfinite(total):
        return weights, 0.5 * scale, 0
    scales = {True: (2.0 * scale, 0), False: (scale, good_steps + 1)}
    scale_after, good_after = scales[good_steps == interval - 1]
    moved = [w.add(g.to(w.dtype), alpha=-lr / scale) for w, g in zip(weights, gradients)]
    return moved, scale_after, good_after


def _stays_finite(got: Result, arguments: Arguments, call: Answer) -> str | None:
    if not _finite(got[0]):
        return "a weight is no finite number any more, and no later step will mend it"
    return None


def _all_or_nothing(got: Result, arguments: Arguments, call: Answer) -> str | None:
    weights, gradients, *_ = arguments
    if not _finite(gradients) and any(
        not torch.equal(new, old) for new, old in zip(got[0], weights)
    ):
        return "a gradient has overflowed and yet a weight has moved: the whole step is left out"
    return None


def _moves_by_halves(got: Result, arguments: Arguments, call: Answer) -> str | None:
    scale = arguments[2]
    if got[1] not in (scale / 2, scale, 2 * scale):
        return f"the scale was {scale:g} and is {got[1]:g}: it halves, stays or doubles"
    return None


LOSS_SCALING = Exercise(
    id="4.8",
    title="a step with loss scaling",
    name="scaled_step",
    signature=(
        "scaled_step(weights: list[Tensor], gradients: list[Tensor], scale: float, "
        "good_steps: int, lr: float, interval: int) -> tuple[list[Tensor], float, int]"
    ),
    taught="Part 4, precision",
    difficulty=4,
    minutes=20,
    sizes=7,
    make_inputs=_scaling_inputs,
    oracle=_scaling_oracle,
    tolerance=1e-11,
    statement="an overflow skips the step and halves the scale; else a step, and growth in time",
    properties=(
        Property("the weights stay finite", _stays_finite),
        Property("an overflow leaves the whole step out", _all_or_nothing),
        Property("the scale halves, stays or doubles", _moves_by_halves),
    ),
    forbidden=("torch.amp.GradScaler",),
    wrong_answers=(
        WrongAnswer(
            "not unscaled",
            _scaling_not_unscaled,
            "The gradients are used as they come, scale times too large. Divide by the scale "
            "first.",
        ),
        WrongAnswer(
            "scaled once more",
            _scaling_multiplied,
            "The gradients are multiplied by the scale a second time. The loss has been multiplied "
            "already: divide.",
        ),
        WrongAnswer(
            "unscaled in float16",
            _scaling_in_float16,
            "The division is done in float16, where small results round to 0: just what the scale "
            "was to prevent. Turn the gradients into the weights' dtype first, then divide.",
        ),
        WrongAnswer(
            "division and step in float16",
            _scaling_step_in_float16,
            "The division is done in float16, where small results round to 0: just what the scale "
            "was to prevent. Turn the gradients into the weights' dtype first, then divide.",
        ),
        WrongAnswer(
            "product with the rate in float16",
            _scaling_rate_in_float16,
            "The product with the rate is worked out in float16, which has only three digits. Turn "
            "the gradients into the weights' dtype first.",
        ),
        WrongAnswer(
            "overflow not noticed",
            _scaling_never_checked,
            "Overflow goes unnoticed. If any number of any gradient is inf or NaN, the step is "
            "left out, the scale halved and the count set to 0.",
        ),
        WrongAnswer(
            "steps all the same",
            _scaling_steps_anyway,
            "The overflow is noticed, the scale is halved, and the step is done all the same. "
            "Return the weights as they were.",
        ),
        WrongAnswer(
            "only the bad tensor left out",
            _scaling_one_tensor_skipped,
            "Only the tensor that overflowed is left out and the others step. One overflow spoils "
            "the direction of all: leave out the whole step.",
        ),
        WrongAnswer(
            "inf replaced by 0",
            _scaling_zeroed,
            "The numbers that overflowed are replaced by 0 and the rest steps: the largest "
            "gradients of all are then treated as none. Leave out the whole step.",
        ),
        WrongAnswer(
            "NaN not noticed",
            _scaling_only_infinite,
            "inf is noticed, NaN is not. An overflow soon becomes NaN (inf - inf): ask for "
            "isfinite.",
        ),
        WrongAnswer(
            "inf not noticed",
            _scaling_only_nan,
            "NaN is noticed, inf is not. An overflow is inf at first: ask for isfinite.",
        ),
        WrongAnswer(
            "only the first tensor checked",
            _scaling_first_tensor,
            "Only the first tensor is checked. An overflow in any of them counts.",
        ),
        WrongAnswer(
            "scale not halved",
            _scaling_never_halved,
            "The step is left out and the scale stays, so the next one overflows as well, for "
            "ever. Halve it.",
        ),
        WrongAnswer(
            "count not set back",
            _scaling_keeps_counting,
            "After an overflow the good steps start again from 0: only so many *in a row* let the "
            "scale grow.",
        ),
        WrongAnswer(
            "count goes on after growing",
            _scaling_never_restarts,
            "When the scale has grown the count starts again from 0. As it is, the scale would "
            "double at every step from now on.",
        ),
        WrongAnswer(
            "never grows",
            _scaling_never_grows,
            "The scale does not grow when it should. After `interval` good steps in a row, this "
            "one included, it doubles and the count starts again from 0.",
        ),
        WrongAnswer(
            "grows at once",
            _scaling_always_grows,
            "The scale doubles at every good step. It waits for `interval` of them in a row.",
        ),
        WrongAnswer(
            "divided by the new scale",
            _scaling_moved_first,
            "The gradients are divided by the new scale. They were made with the old one.",
        ),
    ),
    alternatives=(_scaling_by_norm,),
    examples=(
        (
            [torch.tensor([1.0, 2.0], dtype=torch.float64)],
            [torch.tensor([4.0, -8.0], dtype=torch.float16)],
            4.0,
            2,
            0.5,
            3,
        ),
    ),
)
