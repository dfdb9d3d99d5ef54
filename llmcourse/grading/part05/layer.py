"""Exercise 5.12 The whole layer: a mixture of experts."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from llmcourse.grading.inputs import Draw
from llmcourse.grading.records import Answer, Arguments, Exercise, Property, WrongAnswer


def _layer_inputs(draw: Draw, size: int) -> Arguments:
    b, t, c, e, k, f, s = [
        (1, 1, 1, 2, 1, 1, 1),
        (1, 1, 2, 3, 2, 1, 2),
        (1, 3, 2, 2, 2, 2, 1),
        (2, 2, 2, 4, 2, 3, 2),
        (2, 3, 3, 4, 2, 2, 3),
        (2, 5, 4, 6, 3, 3, 2),
    ][size]
    x, router = draw.normal(b, t, c), draw.normal(e, c)
    if size in (0, 3):  # everybody to the same experts, so that others have no token
        x = x.abs() + 0.3
        router[0], router[1:k] = 2.0, 1.0
        router[k:] = -1.0 + 0.1 * draw.normal(e - k, c)
    return (
        x,
        router,
        draw.normal(e, 2 * f, c),
        draw.normal(e, c, f),
        draw.normal(2 * s, c),
        draw.normal(c, s),
        k,
        draw.number(1.5, 2.5),
    )


def _swiglu_loops(
    token: list[float], up: list[list[float]], down: list[list[float]]
) -> list[float]:
    half = len(up) // 2
    sums = [math.fsum(a * b for a, b in zip(row, token)) for row in up]
    hidden = [sums[i] / (1 + math.exp(-sums[i])) * sums[half + i] for i in range(half)]
    return [math.fsum(a * b for a, b in zip(row, hidden)) for row in down]


def _layer_oracle(
    x: Tensor,
    router: Tensor,
    up: Tensor,
    down: Tensor,
    shared_up: Tensor,
    shared_down: Tensor,
    k: int,
    scale: float,
) -> Tensor:
    out = []
    for token in x.reshape(-1, x.shape[-1]).tolist():
        logits = [math.fsum(a * b for a, b in zip(row, token)) for row in router.tolist()]
        chosen = sorted(range(len(logits)), key=lambda expert: -logits[expert])[:k]
        powers = [math.exp(logits[expert] - max(logits)) for expert in chosen]
        parts = [_swiglu_loops(token, shared_up.tolist(), shared_down.tolist())]
        for expert, power in zip(chosen, powers):
            part = _swiglu_loops(token, up[expert].tolist(), down[expert].tolist())
            parts.append([scale * power / math.fsum(powers) * value for value in part])
        out.append([math.fsum(column) for column in zip(*parts)])
    return torch.tensor(out, dtype=torch.float64).reshape(x.shape)


def _swiglu(x: Tensor, up: Tensor, down: Tensor) -> Tensor:
    gate, linear = (x @ up.mT).chunk(2, dim=-1)
    return (torch.nn.functional.silu(gate) * linear) @ down.mT


def _table(logits: Tensor, k: int) -> Tensor:
    best = logits.topk(k)
    return torch.zeros_like(logits).scatter(-1, best.indices, best.values.softmax(-1))


def _mixed(x: Tensor, table: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """Weighted sum over all experts: x (N, C), table (N, E) -> (N, C)."""
    parts = torch.stack([_swiglu(x, u, d) for u, d in zip(up, down)], dim=1)  # (N, E, C)
    return (table[:, :, None] * parts).sum(1)


def _layer(
    x: Tensor,
    router: Tensor,
    up: Tensor,
    down: Tensor,
    shared_up: Tensor,
    shared_down: Tensor,
    k: int,
    scale: float,
) -> Tensor:
    flat = x.flatten(0, 1)
    out = scale * _mixed(flat, _table(flat @ router.T, k), up, down)
    return (out + _swiglu(flat, shared_up, shared_down)).view_as(x)


def _layer_no_shared(*arguments: Any) -> Tensor:
    return _layer(*arguments) - _swiglu(arguments[0], arguments[4], arguments[5])


def _layer_shared_scaled(*arguments: Any) -> Tensor:
    return arguments[-1] * _layer(*arguments[:-1], 1.0)


def _layer_scale_forgotten(*arguments: Any) -> Tensor:
    return _layer(*arguments[:-1], 1.0)


def _layer_not_renormalised(*arguments: Any) -> Tensor:
    x, router, up, down, shared_up, shared_down, k, scale = arguments
    flat = x.flatten(0, 1)
    logits = flat @ router.T
    table = logits.softmax(-1) * (_table(logits, k) > 0)
    out = scale * _mixed(flat, table, up, down)
    return (out + _swiglu(flat, shared_up, shared_down)).view_as(x)


def _halves_swapped(up: Tensor) -> Tensor:
    return torch.cat(up.chunk(2, dim=-2)[::-1], dim=-2)


def _layer_halves_swapped(*arguments: Any) -> Tensor:
    x, router, up, down, shared_up, *rest = arguments
    return _layer(x, router, _halves_swapped(up), down, _halves_swapped(shared_up), *rest)


def _rows_in_turn(up: Tensor) -> Tensor:
    return torch.cat([up[..., ::2, :], up[..., 1::2, :]], dim=-2)


def _layer_rows_in_turn(*arguments: Any) -> Tensor:
    x, router, up, down, shared_up, *rest = arguments
    return _layer(x, router, _rows_in_turn(up), down, _rows_in_turn(shared_up), *rest)


def _layer_one_choice(*arguments: Any) -> Tensor:
    # The experts are chosen once for each text, by its mean token.
    x, router, up, down, shared_up, shared_down, k, scale = arguments
    table = _table(x.mean(1, keepdim=True) @ router.T, k).expand(*x.shape[:2], -1)
    out = scale * _mixed(x.flatten(0, 1), table.flatten(0, 1), up, down)
    return out.view_as(x) + _swiglu(x, shared_up, shared_down)


def _layer_overwritten(*arguments: Any) -> Tensor:
    x, router, up, down, shared_up, shared_down, k, scale = arguments
    flat = x.flatten(0, 1)
    table = _table(flat @ router.T, k)
    out = torch.zeros_like(flat)
    for e in range(len(router)):
        tokens = table[:, e] > 0
        out[tokens] = scale * table[tokens, e, None] * _swiglu(flat[tokens], up[e], down[e])
    return (out + _swiglu(flat, shared_up, shared_down)).view_as(x)


def _layer_best_only(*arguments: Any) -> Tensor:
    return _layer(*arguments[:6], 1, arguments[7])


def _layer_all_experts(*arguments: Any) -> Tensor:
    return _layer(*arguments[:6], len(arguments[1]), arguments[7])


def _layer_unweighted(*arguments: Any) -> Tensor:
    x, router, up, down, shared_up, shared_down, k, scale = arguments
    flat = x.flatten(0, 1)
    table = (_table(flat @ router.T, k) > 0).to(x.dtype)
    out = scale * _mixed(flat, table, up, down)
    return (out + _swiglu(flat, shared_up, shared_down)).view_as(x)


def _layer_sigmoid(*arguments: Any) -> Tensor:
    x, _, up, down, *_ = arguments
    gates, linear = (torch.einsum("btc,efc->btef", x, up)).chunk(2, dim=-1)
    wrong = torch.einsum("btef,ecf->btec", gates.sigmoid() * linear, down)
    return _from_parts(wrong, *arguments, activation=torch.sigmoid)


def _layer_no_activation(*arguments: Any) -> Tensor:
    x, _, up, down, *_ = arguments
    gates, linear = (torch.einsum("btc,efc->btef", x, up)).chunk(2, dim=-1)
    wrong = torch.einsum("btef,ecf->btec", gates * linear, down)
    return _from_parts(wrong, *arguments, activation=lambda z: z)


def _from_parts(parts: Tensor, *arguments: Any, activation: Any) -> Tensor:
    """The layer from all experts' outputs (B, T, E, C)."""
    x, router, _, _, shared_up, shared_down, k, scale = arguments
    gate, linear = (x @ shared_up.T).chunk(2, dim=-1)
    shared = (activation(gate) * linear) @ shared_down.T
    return scale * (_table(x @ router.T, k)[..., None] * parts).sum(-2) + shared


def _layer_weights_inside(*arguments: Any) -> Tensor:
    x, router, up, down, shared_up, shared_down, k, scale = arguments
    table = scale * _table(x @ router.T, k)  # (B, T, E)
    parts = [_swiglu(table[..., e, None] * x, up[e], down[e]) for e in range(len(router))]
    return torch.stack(parts).sum(0) + _swiglu(x, shared_up, shared_down)


def _layer_residual(*arguments: Any) -> Tensor:
    return arguments[0] + _layer(*arguments)


def _layer_softmax_twice(*arguments: Any) -> Tensor:
    x, router, up, down, shared_up, shared_down, k, scale = arguments
    flat = x.flatten(0, 1)
    table = _table((flat @ router.T).softmax(-1), k)
    out = scale * _mixed(flat, table, up, down)
    return (out + _swiglu(flat, shared_up, shared_down)).view_as(x)


def _layer_by_experts(
    x: Tensor,
    router: Tensor,
    up: Tensor,
    down: Tensor,
    shared_up: Tensor,
    shared_down: Tensor,
    k: int,
    scale: float,
) -> Tensor:
    def network(rows: Tensor, first: Tensor, second: Tensor) -> Tensor:
        gate, linear = torch.tensor_split(rows @ first.T, 2, dim=-1)
        return (gate * gate.sigmoid() * linear) @ second.T

    flat = x.reshape(-1, x.shape[-1])
    weights, experts = torch.topk(torch.softmax(flat @ router.T, dim=-1), k)
    weights = scale * weights / weights.sum(dim=-1, keepdim=True)
    out = network(flat, shared_up, shared_down)
    for e in range(len(router)):
        tokens, slots = (experts == e).nonzero(as_tuple=True)
        out = out.index_add(
            0, tokens, weights[tokens, slots, None] * network(flat[tokens], up[e], down[e])
        )
    return out.reshape(x.shape)


def _layer_by_gathering(*arguments: Any) -> Tensor:
    x, router, up, down, shared_up, shared_down, k, scale = arguments
    best = (x @ router.T).topk(k)  # (B, T, k)
    first = torch.einsum("btc,btkfc->btkf", x, up[best.indices])
    gate, linear = first.chunk(2, dim=-1)
    parts = torch.einsum(
        "btkf,btkcf->btkc", torch.nn.functional.silu(gate) * linear, down[best.indices]
    )
    shared = _swiglu(x, shared_up, shared_down)
    return shared + scale * torch.einsum("btk,btkc->btc", best.values.softmax(-1), parts)


def _tokens_apart(got: Tensor, arguments: Arguments, call: Answer) -> str | None:
    x, *rest = arguments
    alone = call(x[-1:, -1:], *rest)
    if float((alone[0, 0] - got[-1, -1]).abs().max()) > 1e-9:
        return "the last token comes out otherwise when it is alone: no token may know of another"
    return None


def _names_do_not_matter(got: Tensor, arguments: Arguments, call: Answer) -> str | None:
    x, router, up, down, *rest = arguments
    if float((call(x, router.flip(0), up.flip(0), down.flip(0), *rest) - got).abs().max()) > 1e-9:
        return (
            "numbering the experts the other way round (with their router rows) changes the output"
        )
    return None


LAYER = Exercise(
    id="5.12",
    title="a mixture of experts",
    name="moe_layer",
    signature=(
        "moe_layer(x: Tensor, router: Tensor, up: Tensor, down: Tensor, shared_up: Tensor, "
        "shared_down: Tensor, k: int, scale: float) -> Tensor"
    ),
    taught="Part 5, dispatch, and shared experts",
    difficulty=5,
    minutes=25,
    make_inputs=_layer_inputs,
    oracle=_layer_oracle,
    statement="the shared expert, plus `scale` times the weighted sum of the k best experts",
    properties=(
        Property("no token knows of another", _tokens_apart),
        Property("experts have no order", _names_do_not_matter),
    ),
    wrong_answers=(
        WrongAnswer(
            "shared expert left out",
            _layer_no_shared,
            "The shared expert is missing: every token takes it, besides those it chooses.",
        ),
        WrongAnswer(
            "shared expert scaled",
            _layer_shared_scaled,
            "The shared expert is multiplied by `scale` too. It belongs to the chosen experts "
            "only.",
        ),
        WrongAnswer(
            "scale forgotten",
            _layer_scale_forgotten,
            "`scale` is not used: it multiplies the weighted sum of the chosen experts.",
        ),
        WrongAnswer(
            "not renormalised",
            _layer_not_renormalised,
            "The weights of the chosen experts do not sum to 1: divide them by their sum, or take "
            "the softmax over the k chosen logits.",
        ),
        WrongAnswer(
            "halves swapped",
            _layer_halves_swapped,
            "The halves of `up` are swapped: the first F rows are the gate, which goes through "
            "silu.",
        ),
        WrongAnswer(
            "rows in turn",
            _layer_rows_in_turn,
            "Gate and up are taken from every other row. The first F rows are the gate, the last F "
            "rows are up.",
        ),
        WrongAnswer(
            "one choice for a text",
            _layer_one_choice,
            "The experts are chosen once for each text, by its mean. Each token chooses for "
            "itself.",
        ),
        WrongAnswer(
            "overwritten",
            _layer_overwritten,
            "A token's later expert overwrites what its earlier ones gave. Add the k weighted "
            "outputs.",
        ),
        WrongAnswer(
            "the best expert only",
            _layer_best_only,
            "Only each token's best expert is used. Its k best take part, each with its weight.",
        ),
        WrongAnswer(
            "all experts",
            _layer_all_experts,
            "All experts take part, weighted by softmax. Only the k best may: the others get "
            "weight 0 and need not run.",
        ),
        WrongAnswer(
            "not weighted",
            _layer_unweighted,
            "The chosen experts are added without their weights. Then the router has no gradient "
            "to learn from.",
        ),
        WrongAnswer(
            "sigmoid for silu",
            _layer_sigmoid,
            "The gate goes through a sigmoid. silu(z) is z times sigmoid(z).",
        ),
        WrongAnswer(
            "no silu",
            _layer_no_activation,
            "silu is missing: the gate multiplies as it is.",
        ),
        WrongAnswer(
            "weights on the inputs",
            _layer_weights_inside,
            "The inputs are multiplied by the weights. Experts are not linear: multiply their "
            "outputs.",
        ),
        WrongAnswer(
            "residual added",
            _layer_residual,
            "x is added to the result. The residual connection is the block's.",
        ),
        WrongAnswer(
            "softmax twice",
            _layer_softmax_twice,
            "Softmax is applied to probabilities, which flattens the weights. Either softmax over "
            "the k chosen logits, or divide the chosen probabilities by their sum.",
        ),
    ),
    alternatives=(_layer_by_experts, _layer_by_gathering),
    examples=(
        (
            torch.tensor([[[1.0]]], dtype=torch.float64),
            torch.tensor([[0.0], [math.log(3.0)], [-1.0]], dtype=torch.float64),
            torch.tensor([[[50.0], [2.0]], [[50.0], [4.0]], [[50.0], [9.0]]]).double(),
            torch.tensor([[[0.02]]] * 3, dtype=torch.float64),
            torch.tensor([[50.0], [0.1]], dtype=torch.float64),
            torch.tensor([[0.2]], dtype=torch.float64),
            2,
            2.0,
        ),
    ),
)
