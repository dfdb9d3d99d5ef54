"""Exercise 4.13 Cross-entropy and its gradients, without all the logits."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from llmcourse.grading.inputs import Draw, bounded
from llmcourse.grading.records import Answer, Arguments, Exercise, Property, WrongAnswer

Result = tuple[Tensor, Tensor, Tensor]
IGNORED = -100


def _room(n: int, c: int, v: int, chunk: int) -> int:
    """Numbers in the largest tensor that is needed."""
    return max(chunk * v, v * c, n * c)


def _chunked_inputs(draw: Draw, size: int) -> Arguments:
    n, c, v, chunk = [
        (2, 1, 3, 1),
        (2, 2, 4, 2),
        (4, 1, 5, 2),
        (5, 2, 6, 2),
        (5, 3, 6, 3),
        (9, 3, 8, 4),
    ][size]
    hidden, weight = draw.normal(n, c), draw.normal(v, c)
    targets = draw.integers(0, v - 1, n)
    if size == 0:
        hidden = hidden.sign() * (hidden.abs() + 0.5)
    if size in (2, 5):  # chunks with different numbers of targets
        targets[0] = IGNORED
    if size == 4:  # a chunk with none at all, and logits in the thousands
        targets[:chunk] = IGNORED
        hidden = 2000.0 * hidden
    # One chunk for everything is allowed where that is the size of a chunk.
    return bounded(hidden, _room(n, c, v, min(chunk, n))), weight, targets, chunk


def _chunked_oracle(hidden: Tensor, weight: Tensor, targets: Tensor, chunk: int) -> Result:
    states, rows = hidden.as_subclass(Tensor).tolist(), weight.tolist()
    counted = [i for i, target in enumerate(targets.tolist()) if target != IGNORED]
    loss = 0.0
    d_hidden = [[0.0] * hidden.shape[1] for _ in states]
    d_weight = [[0.0] * weight.shape[1] for _ in rows]
    for i in counted:
        target = int(targets[i])
        logits = [math.fsum(a * b for a, b in zip(states[i], row)) for row in rows]
        top = max(logits)
        powers = [math.exp(logit - top) for logit in logits]
        total = math.fsum(powers)
        loss += (math.log(total) + top - logits[target]) / len(counted)
        for j, row in enumerate(rows):
            slope = (powers[j] / total - (1.0 if j == target else 0.0)) / len(counted)
            for k in range(len(row)):
                d_hidden[i][k] += slope * row[k]
                d_weight[j][k] += slope * states[i][k]
    return (
        torch.tensor(loss, dtype=torch.float64),
        torch.tensor(d_hidden, dtype=torch.float64),
        torch.tensor(d_weight, dtype=torch.float64),
    )


def _loss_and_slope(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Sum of the losses of the labels that count, and its gradient by the logits."""
    counted = labels != IGNORED
    safe = labels.clamp_min(0)
    each = logits.logsumexp(dim=-1) - logits.gather(-1, safe[:, None])[:, 0]
    slope = logits.softmax(dim=-1) - torch.nn.functional.one_hot(safe, logits.shape[-1])
    return each[counted].sum(), slope * counted[:, None]


def _chunked(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    chunk: int,
    *,
    minus_one: bool = True,
    overwrite: bool = False,
    only_whole: bool = False,
    ignored_slope: bool = False,
) -> Result:
    total = torch.zeros((), dtype=hidden.dtype)
    d_hidden, d_weight = torch.zeros(hidden.shape, dtype=hidden.dtype), torch.zeros_like(weight)
    last = len(targets) - chunk + 1 if only_whole else len(targets)
    for start in range(0, last, chunk):
        h, labels = hidden[start : start + chunk], targets[start : start + chunk]
        logits = h @ weight.T  # (n, V)
        loss, slope = _loss_and_slope(logits, labels)
        if ignored_slope:
            slope = _loss_and_slope(logits, labels.clamp_min(0))[1]
        if not minus_one:
            slope = logits.softmax(dim=-1) * (labels != IGNORED)[:, None]
        total = total + loss
        d_hidden[start : start + chunk] = slope @ weight
        d_weight = slope.T @ h + (0.0 if overwrite else d_weight)
    return total, d_hidden, d_weight


def _over(result: Result, divisor: float | Tensor) -> Result:
    return result[0] / divisor, result[1] / divisor, result[2] / divisor


def _count(targets: Tensor) -> int:
    return int((targets != IGNORED).sum())


def _chunked_all_at_once(hidden: Tensor, weight: Tensor, targets: Tensor, chunk: int) -> Result:
    loss, slope = _loss_and_slope(hidden @ weight.T, targets)
    return _over((loss, slope @ weight, slope.T @ hidden), _count(targets))


def _chunked_mean_of_means(hidden: Tensor, weight: Tensor, targets: Tensor, chunk: int) -> Result:
    total = torch.zeros((), dtype=hidden.dtype)
    d_hidden, d_weight = torch.zeros(hidden.shape, dtype=hidden.dtype), torch.zeros_like(weight)
    starts = range(0, len(targets), chunk)
    for start in starts:
        h, labels = hidden[start : start + chunk], targets[start : start + chunk]
        loss, slope = _loss_and_slope(h @ weight.T, labels)
        divisor = max(_count(labels), 1) * len(starts)
        total = total + loss / divisor
        d_hidden[start : start + chunk] = slope @ weight / divisor
        d_weight = d_weight + slope.T @ h / divisor
    return total, d_hidden, d_weight


def _chunked_nan_of_means(hidden: Tensor, weight: Tensor, targets: Tensor, chunk: int) -> Result:
    total = torch.zeros((), dtype=hidden.dtype)
    d_hidden, d_weight = torch.zeros(hidden.shape, dtype=hidden.dtype), torch.zeros_like(weight)
    starts = range(0, len(targets), chunk)
    for start in starts:
        h, labels = hidden[start : start + chunk], targets[start : start + chunk]
        loss, slope = _loss_and_slope(h @ weight.T, labels)
        divisor = torch.tensor(float(_count(labels) * len(starts)))
        total = total + loss / divisor
        d_hidden[start : start + chunk] = slope @ weight / divisor
        d_weight = d_weight + slope.T @ h / divisor
    return total, d_hidden, d_weight


def _chunked_nan_loss(hidden: Tensor, weight: Tensor, targets: Tensor, chunk: int) -> Result:
    # As by autograd, where the mean of nothing is NaN and its gradient 0.
    _, d_hidden, d_weight = _chunked_mean_of_means(hidden, weight, targets, chunk)
    return _chunked_nan_of_means(hidden, weight, targets, chunk)[0], d_hidden, d_weight


def _chunked_all_counted(hidden: Tensor, weight: Tensor, targets: Tensor, chunk: int) -> Result:
    return _over(_chunked(hidden, weight, targets, chunk), len(targets))


def _chunked_sum(hidden: Tensor, weight: Tensor, targets: Tensor, chunk: int) -> Result:
    return _chunked(hidden, weight, targets, chunk)


def _chunked_gradients_of_sum(
    hidden: Tensor, weight: Tensor, targets: Tensor, chunk: int
) -> Result:
    loss, d_hidden, d_weight = _chunked(hidden, weight, targets, chunk)
    return loss / _count(targets), d_hidden, d_weight


def _chunked_softmax_only(hidden: Tensor, weight: Tensor, targets: Tensor, chunk: int) -> Result:
    return _over(_chunked(hidden, weight, targets, chunk, minus_one=False), _count(targets))


def _chunked_last_weight(hidden: Tensor, weight: Tensor, targets: Tensor, chunk: int) -> Result:
    return _over(_chunked(hidden, weight, targets, chunk, overwrite=True), _count(targets))


def _chunked_rest_lost(hidden: Tensor, weight: Tensor, targets: Tensor, chunk: int) -> Result:
    return _over(_chunked(hidden, weight, targets, chunk, only_whole=True), _count(targets))


def _chunked_ignored_learn(hidden: Tensor, weight: Tensor, targets: Tensor, chunk: int) -> Result:
    return _over(_chunked(hidden, weight, targets, chunk, ignored_slope=True), _count(targets))


def _chunked_uphill(hidden: Tensor, weight: Tensor, targets: Tensor, chunk: int) -> Result:
    loss, d_hidden, d_weight = _over(_chunked(hidden, weight, targets, chunk), _count(targets))
    return loss, -d_hidden, -d_weight


def _chunked_ignored_looked_up(
    hidden: Tensor, weight: Tensor, targets: Tensor, chunk: int
) -> Result:
    logits = hidden[:chunk] @ weight.T
    logits.gather(-1, targets[:chunk, None])  # -100 is no id: an error where one is met
    if (targets == IGNORED).any():
        raise RuntimeError("index -100 is out of bounds")
    return _over(_chunked(hidden, weight, targets, chunk), len(targets))


def _chunked_plain_exp(hidden: Tensor, weight: Tensor, targets: Tensor, chunk: int) -> Result:
    total = torch.zeros((), dtype=hidden.dtype)
    d_hidden, d_weight = torch.zeros(hidden.shape, dtype=hidden.dtype), torch.zeros_like(weight)
    for start in range(0, len(targets), chunk):
        h, labels = hidden[start : start + chunk], targets[start : start + chunk]
        powers = (h @ weight.T).exp()
        shares = powers / powers.sum(dim=-1, keepdim=True)
        counted, safe = labels != IGNORED, labels.clamp_min(0)
        total = total - shares.gather(-1, safe[:, None])[:, 0].log()[counted].sum()
        one_hot = torch.nn.functional.one_hot(safe, shares.shape[-1])
        slope = (shares - one_hot) * counted[:, None]
        d_hidden[start : start + chunk] = slope @ weight
        d_weight = d_weight + slope.T @ h
    return _over((total, d_hidden, d_weight), _count(targets))


def _chunked_by_autograd(hidden: Tensor, weight: Tensor, targets: Tensor, chunk: int) -> Result:
    # Each chunk goes forwards and backwards at once, so its logits are gone before the next.
    states, matrix = (x.detach().clone().requires_grad_() for x in (hidden, weight))
    count, total = (targets != IGNORED).sum(), 0.0
    for h, labels in zip(states.split(chunk), targets.split(chunk)):
        kept = labels != IGNORED
        surprise = (h[kept] @ matrix.T).log_softmax(-1).gather(-1, labels[kept][:, None])
        loss = -surprise.sum() / count
        loss.backward()
        total = total + loss.detach()
    return total, states.grad, matrix.grad


def _ignored_get_nothing(got: Result, arguments: Arguments, call: Answer) -> str | None:
    targets = arguments[2]
    for i in (targets == IGNORED).nonzero()[:, 0].tolist():
        if bool(got[1][i].any()):
            return f"token {i} has the target -100, and its hidden state gets a gradient"
    return None


def _chunks_do_not_matter(got: Result, arguments: Arguments, call: Answer) -> str | None:
    hidden, weight, targets, chunk = arguments
    if chunk == 1:
        return None
    others = call(hidden, weight, targets, 1)
    names = ("loss", "gradient of hidden", "gradient of weight")
    for name, one, other in zip(names, got, others):
        if float((one - other).abs().max()) > 1e-9:
            return f"with chunks of 1 rather than {chunk} tokens the {name} is another"
    return None


CHUNKED_LOSS = Exercise(
    id="4.13",
    title="the loss in chunks",
    name="chunked_loss",
    signature=(
        "chunked_loss(hidden: Tensor, weight: Tensor, targets: Tensor, chunk: int) "
        "-> tuple[Tensor, Tensor, Tensor]"
    ),
    taught="Part 4, the chunked loss",
    difficulty=5,
    minutes=30,
    make_inputs=_chunked_inputs,
    oracle=_chunked_oracle,
    statement="the mean loss over the targets that count, and its gradients by hidden and weight",
    properties=(
        Property("a token that does not count gets no gradient", _ignored_get_nothing),
        Property("the size of the chunks does not matter", _chunks_do_not_matter),
    ),
    forbidden=(
        "torch.nn.functional.cross_entropy",
        "torch.nn.functional.nll_loss",
        "torch.nn.CrossEntropyLoss",
        "torch.nn.NLLLoss",
    ),
    wrong_answers=(
        WrongAnswer(
            "all logits at once",
            _chunked_all_at_once,
            "All the logits are made at once: tokens times vocabulary, the largest tensor of the "
            "whole model. Make those of one chunk, use them up, and go on to the next.",
        ),
        WrongAnswer(
            "mean of the chunks' means",
            _chunked_mean_of_means,
            "Each chunk's mean weighs the same, though chunks differ in how many targets count. "
            "Sum over all, and divide once by the number of all that count.",
        ),
        WrongAnswer(
            "mean of the chunks' means, one of them empty",
            _chunked_nan_of_means,
            "Each chunk is divided by its own number of targets, which weighs chunks the same and "
            "is 0 / 0 where none counts. Sum over all, and divide once by the number of all that "
            "count.",
        ),
        WrongAnswer(
            "mean of the chunks' means, the loss of one NaN",
            _chunked_nan_loss,
            "Each chunk is divided by its own number of targets, which weighs chunks the same and "
            "is 0 / 0 where none counts. Sum over all, and divide once by the number of all that "
            "count.",
        ),
        WrongAnswer(
            "ignored targets counted",
            _chunked_all_counted,
            "The sum is divided by the number of all tokens. Only those whose target is not -100 "
            "count, above and below the line.",
        ),
        WrongAnswer(
            "a sum",
            _chunked_sum,
            "Loss and gradients are those of the sum. Divide all three by the number of targets "
            "that count.",
        ),
        WrongAnswer(
            "gradients of the sum",
            _chunked_gradients_of_sum,
            "The loss is right. The gradients are those of the sum: they have to be divided by the "
            "number of targets that count as well.",
        ),
        WrongAnswer(
            "softmax alone",
            _chunked_softmax_only,
            "The loss is right. The gradient by the logits is softmax minus 1 at the target; the "
            "minus 1 is missing, and nothing pulls the right token up.",
        ),
        WrongAnswer(
            "only the last chunk's gradient",
            _chunked_last_weight,
            "The gradient of `weight` is that of the last chunk alone. Every chunk uses the whole "
            "matrix: add them up.",
        ),
        WrongAnswer(
            "the last chunk lost",
            _chunked_rest_lost,
            "A last chunk that is not full is left out. It is shorter, and its tokens count.",
        ),
        WrongAnswer(
            "ignored tokens learn",
            _chunked_ignored_learn,
            "The loss is right. Tokens whose target is -100 still get a gradient (and hand one to "
            "`weight`): set their rows to 0.",
        ),
        WrongAnswer(
            "uphill",
            _chunked_uphill,
            "The loss is right, the gradients have the wrong sign: softmax minus 1 at the target, "
            "not the other way round.",
        ),
        WrongAnswer(
            "-100 looked up",
            _chunked_ignored_looked_up,
            "The target -100 is looked up like a token id. Take these tokens out first, or look up "
            "a harmless id such as 0 there and set the rows to 0.",
        ),
        WrongAnswer(
            "overflow",
            _chunked_plain_exp,
            "Large logits overflow: exp of them is infinite, or all of them round to 0. Subtract "
            "the largest first, or use logsumexp and softmax.",
        ),
    ),
    alternatives=(_chunked_by_autograd,),
    examples=(
        (
            bounded(torch.tensor([[1.0], [2.0], [0.0]], dtype=torch.float64), 3),
            torch.tensor([[0.0], [math.log(3.0)]], dtype=torch.float64),
            torch.tensor([1, -100, 0]),
            1,
        ),
    ),
)
