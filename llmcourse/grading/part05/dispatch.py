"""Exercise 5.11 Dispatch: every expert runs once."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from llmcourse.grading.inputs import Draw
from llmcourse.grading.records import Answer, Arguments, Exercise, Property, WrongAnswer
from llmcourse.grading.routes import Bank, times


def _dispatch_inputs(draw: Draw, size: int) -> Arguments:
    n, c, e, k = [
        (1, 1, 2, 1),
        (2, 2, 2, 2),
        (3, 2, 3, 1),
        (4, 2, 4, 2),
        (5, 3, 4, 2),
        (7, 3, 5, 3),
    ][size]
    chosen = [draw.distinct(k, 0, e - 1) for _ in range(n)]
    if size in (2, 3):  # all tokens to the same experts: others get none
        chosen = [draw.pick([chosen[0], chosen[0][::-1]]) for _ in range(n)]
        chosen[-1] = chosen[0][::-1]
    weights = draw.uniform(0.2, 1.0, n, k)
    counts = [sum(expert in row for row in chosen) for expert in range(e)]
    bank = Bank([draw.map(c) for _ in range(e)], counts)
    return draw.normal(n, c), torch.tensor(chosen), weights, e, bank


def _dispatch_oracle(
    x: Tensor, experts: Tensor, weights: Tensor, n_experts: int, run: Bank
) -> Tensor:
    out = []
    for token, row in enumerate(x):
        parts = [run.functions[e](row[None])[0].tolist() for e in experts[token].tolist()]
        columns = zip(*([w * y for y in part] for w, part in zip(weights[token].tolist(), parts)))
        out.append([math.fsum(column) for column in columns])
    return torch.tensor(out, dtype=torch.float64)


def _ran(
    x: Tensor, experts: Tensor, n_experts: int, run: Bank, scale: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """All experts on their tokens: the order of the assignments, their tokens, the outputs."""
    flat = experts.reshape(-1)  # (A,)
    order = flat.argsort(stable=True)
    tokens = order // experts.shape[1]
    rows = x[tokens] if scale is None else x[tokens] * scale.reshape(-1)[order][:, None]
    parts = rows.split(torch.bincount(flat, minlength=n_experts).tolist())
    return order, tokens, torch.cat([run(e, part) for e, part in enumerate(parts)])


def _dispatch_sorted_order(
    x: Tensor, experts: Tensor, weights: Tensor, n_experts: int, run: Bank
) -> Tensor:
    order, _, y = _ran(x, experts, n_experts, run)
    y = y * weights.reshape(-1)[order][:, None]
    return y.view(*experts.shape, -1).sum(1)


def _dispatch_wrong_inverse(
    x: Tensor, experts: Tensor, weights: Tensor, n_experts: int, run: Bank
) -> Tensor:
    order, _, y = _ran(x, experts, n_experts, run)
    y = y * weights.reshape(-1)[order][:, None]
    return y[order].view(*experts.shape, -1).sum(1)


def _dispatch_unsorted_weights(
    x: Tensor, experts: Tensor, weights: Tensor, n_experts: int, run: Bank
) -> Tensor:
    _, tokens, y = _ran(x, experts, n_experts, run)
    return torch.zeros_like(x).index_add(0, tokens, y * weights.reshape(-1)[:, None])


def _dispatch_first_weight(
    x: Tensor, experts: Tensor, weights: Tensor, n_experts: int, run: Bank
) -> Tensor:
    _, tokens, y = _ran(x, experts, n_experts, run)
    return torch.zeros_like(x).index_add(0, tokens, y * weights[tokens, 0][:, None])


def _dispatch_weights_by_columns(
    x: Tensor, experts: Tensor, weights: Tensor, n_experts: int, run: Bank
) -> Tensor:
    order, tokens, y = _ran(x, experts, n_experts, run)
    return torch.zeros_like(x).index_add(0, tokens, y * weights.T.reshape(-1)[order][:, None])


def _dispatch_overwritten(
    x: Tensor, experts: Tensor, weights: Tensor, n_experts: int, run: Bank
) -> Tensor:
    out = torch.zeros_like(x)
    for e in range(n_experts):
        tokens, slots = (experts == e).nonzero(as_tuple=True)
        out[tokens] = run(e, x[tokens]) * weights[tokens, slots][:, None]
    return out


def _dispatch_without_an_axis(
    x: Tensor, experts: Tensor, weights: Tensor, n_experts: int, run: Bank
) -> Tensor:
    out = torch.zeros_like(x)
    for e in range(n_experts):
        mine = (experts == e).any(dim=1)
        out[mine] += weights[experts == e] * run(e, x[mine])
    return out


def _dispatch_unweighted(
    x: Tensor, experts: Tensor, weights: Tensor, n_experts: int, run: Bank
) -> Tensor:
    _, tokens, y = _ran(x, experts, n_experts, run)
    return torch.zeros_like(x).index_add(0, tokens, y)


def _dispatch_mean(
    x: Tensor, experts: Tensor, weights: Tensor, n_experts: int, run: Bank
) -> Tensor:
    return _dispatch_unweighted(x, experts, weights, n_experts, run) / experts.shape[1]


def _dispatch_renormalised(
    x: Tensor, experts: Tensor, weights: Tensor, n_experts: int, run: Bank
) -> Tensor:
    weights = weights / weights.sum(-1, keepdim=True)
    return _dispatch_by_slots(x, experts, weights, n_experts, run)


def _dispatch_weights_inside(
    x: Tensor, experts: Tensor, weights: Tensor, n_experts: int, run: Bank
) -> Tensor:
    _, tokens, y = _ran(x, experts, n_experts, run, weights)
    return torch.zeros_like(x).index_add(0, tokens, y)


def _dispatch_wrong_rows(
    x: Tensor, experts: Tensor, weights: Tensor, n_experts: int, run: Bank
) -> Tensor:
    # Tokens repeated as a block, where the assignments stand token by token.
    k = experts.shape[1]
    flat = experts.reshape(-1)
    order = flat.argsort(stable=True)
    rows = x.repeat(k, 1)[order].split(torch.bincount(flat, minlength=n_experts).tolist())
    y = torch.cat([run(e, part) for e, part in enumerate(rows)])
    y = y * weights.reshape(-1)[order][:, None]
    return torch.zeros_like(x).index_add(0, order // k, y)


def _dispatch_residual(
    x: Tensor, experts: Tensor, weights: Tensor, n_experts: int, run: Bank
) -> Tensor:
    return x + _dispatch_by_slots(x, experts, weights, n_experts, run)


def _dispatch_all_tokens(
    x: Tensor, experts: Tensor, weights: Tensor, n_experts: int, run: Bank
) -> Tensor:
    table = torch.zeros(len(x), n_experts, dtype=x.dtype).scatter(1, experts, weights)
    return sum(table[:, e, None] * run(e, x) for e in range(n_experts))


def _dispatch_one_by_one(
    x: Tensor, experts: Tensor, weights: Tensor, n_experts: int, run: Bank
) -> Tensor:
    out = torch.zeros_like(x)
    for token in range(len(x)):
        for e, weight in zip(experts[token], weights[token]):
            out[token] += weight * run(int(e), x[token : token + 1])[0]
    return out


def _dispatch_first_expert(
    x: Tensor, experts: Tensor, weights: Tensor, n_experts: int, run: Bank
) -> Tensor:
    return _dispatch_by_slots(x, experts[:, :1], weights[:, :1], n_experts, run)


def _dispatch_by_slots(
    x: Tensor, experts: Tensor, weights: Tensor, n_experts: int, run: Bank
) -> Tensor:
    out = torch.zeros_like(x)
    for e in range(n_experts):
        tokens, slots = torch.where(experts == e)
        if len(tokens):
            out[tokens] += weights[tokens, slots, None] * run(e, x[tokens])
    return out


def _dispatch_put_back(
    x: Tensor, experts: Tensor, weights: Tensor, n_experts: int, run: Bank
) -> Tensor:
    n, k = experts.shape
    flat = experts.flatten()
    order = torch.argsort(flat)
    inverse = torch.empty_like(order)
    inverse[order] = torch.arange(n * k)
    sent = x.repeat_interleave(k, dim=0)[order]
    ends = torch.bincount(flat, minlength=n_experts).cumsum(0).tolist()
    parts = [run(e, sent[a:b]) for e, (a, b) in enumerate(zip([0, *ends], ends)) if b > a]
    y = torch.cat(parts)[inverse].view(n, k, -1)  # token by token again
    return torch.einsum("nk,nkc->nc", weights, y)


def _doubling(got: Tensor, arguments: Arguments, call: Answer) -> str | None:
    x, experts, weights, e, run = arguments
    if float((call(x, experts, 2 * weights, e, run) - 2 * got).abs().max()) > 1e-9:
        return "twice the weights must give twice the output: they multiply what experts return"
    return None


def _slots_do_not_matter(got: Tensor, arguments: Arguments, call: Answer) -> str | None:
    x, experts, weights, e, run = arguments
    other = call(x, experts.flip(1), weights.flip(1), e, run)
    if float((other - got).abs().max()) > 1e-9:
        return (
            "the output changes when each token's experts are listed in another order, weights "
            "with them"
        )
    return None


DISPATCH = Exercise(
    id="5.11",
    title="dispatch: every expert runs once",
    name="dispatch",
    signature=(
        "dispatch(x: Tensor, experts: Tensor, weights: Tensor, n_experts: int, run) -> Tensor"
    ),
    taught="Part 5, dispatch",
    difficulty=4,
    minutes=25,
    make_inputs=_dispatch_inputs,
    oracle=_dispatch_oracle,
    statement="each token's weighted sum of the outputs of its experts",
    properties=(
        Property("the weights multiply the outputs", _doubling),
        Property("the order of a token's experts does not matter", _slots_do_not_matter),
    ),
    wrong_answers=(
        WrongAnswer(
            "left in sorted order",
            _dispatch_sorted_order,
            "The outputs are left in the order of the experts. Bring each back to its token, by "
            "the inverse of the sorting or by index_add with the token numbers.",
        ),
        WrongAnswer(
            "sorted instead of put back",
            _dispatch_wrong_inverse,
            "The outputs are indexed with `order` once more, which sorts them a second time. To "
            "put back is the inverse: out[order] = y, or y[order.argsort()].",
        ),
        WrongAnswer(
            "weights not sorted",
            _dispatch_unsorted_weights,
            "The outputs are sorted by expert and the weights are not: each meets another's "
            "weight. Sort the flat weights by the same order.",
        ),
        WrongAnswer(
            "weight of the first slot",
            _dispatch_first_weight,
            "Every output of a token gets the weight of its first expert. Each of its k has one of "
            "its own.",
        ),
        WrongAnswer(
            "weights flattened the other way",
            _dispatch_weights_by_columns,
            "Experts are flattened token by token and weights slot by slot. Flatten both alike.",
        ),
        WrongAnswer(
            "overwritten",
            _dispatch_overwritten,
            "A token's later expert overwrites what its earlier ones gave (out[tokens] = ...). "
            "With k above 1 outputs are added: out[tokens] += ... one expert at a time, or "
            "index_add for all at once.",
        ),
        WrongAnswer(
            "weights without an axis",
            _dispatch_without_an_axis,
            "The weights (n,) meet the outputs (n, C) without an axis of their own, so they line "
            "up with the channels where sizes fit and fail where they do not: weights[..., None].",
        ),
        WrongAnswer(
            "not weighted",
            _dispatch_unweighted,
            "The outputs are added without their weights.",
        ),
        WrongAnswer(
            "a mean",
            _dispatch_mean,
            "This is the plain mean of the experts' outputs. Each counts by its weight.",
        ),
        WrongAnswer(
            "weights renormalised",
            _dispatch_renormalised,
            "The weights are made to sum to 1. Take them as they come: whether they sum to 1 is "
            "the router's business.",
        ),
        WrongAnswer(
            "weights on the inputs",
            _dispatch_weights_inside,
            "The inputs are multiplied by the weights. Experts are not linear: multiply their "
            "outputs.",
        ),
        WrongAnswer(
            "another token's rows",
            _dispatch_wrong_rows,
            "The experts get other tokens' rows: x is repeated as a block (repeat), and the "
            "choices are flattened token by token. Row i of those is token i // k.",
        ),
        WrongAnswer(
            "residual added",
            _dispatch_residual,
            "x is added to the result. The residual connection is the block's.",
        ),
        WrongAnswer(
            "all tokens to all experts",
            _dispatch_all_tokens,
            "Every expert runs on all tokens, and most of it is multiplied by 0. Give each only "
            "the tokens that chose it: that is what makes the mixture cheap.",
        ),
        WrongAnswer(
            "one token at a time",
            _dispatch_one_by_one,
            "Experts are called token by token. One large product is many times faster than many "
            "small ones: collect an expert's tokens and call it once.",
        ),
        WrongAnswer(
            "the first expert only",
            _dispatch_first_expert,
            "Only each token's first expert is run. All k of them take part.",
        ),
    ),
    alternatives=(_dispatch_by_slots, _dispatch_put_back),
    examples=(
        (
            torch.tensor([[1.0], [2.0], [3.0]], dtype=torch.float64),
            torch.tensor([[2, 0], [0, 1], [2, 1]]),
            torch.tensor([[0.75, 0.25], [0.5, 0.5], [1.0, 0.0]], dtype=torch.float64),
            4,
            times([2, 2, 2, 0]),
        ),
    ),
)
