"""Exercise 5.10 A dense network becomes a mixture that says the same."""

from __future__ import annotations

import torch
from torch import Tensor

from llmcourse.grading.inputs import Draw
from llmcourse.grading.records import Answer, Arguments, Exercise, Property, WrongAnswer

Result = tuple[Tensor, Tensor, Tensor, Tensor]


def _upcycle_inputs(draw: Draw, size: int) -> Arguments:
    c, f, slices, copies = [
        (1, 2, 2, 1),
        (2, 2, 1, 2),
        (2, 4, 2, 2),
        (3, 6, 3, 2),
        (2, 6, 2, 3),
        (4, 12, 4, 3),
    ][size]
    return (
        draw.normal(f, c),
        draw.normal(f, c),
        draw.normal(c, f),
        draw.normal(copies, c),
        slices,
    )


def _upcycle_oracle(gate: Tensor, up: Tensor, down: Tensor, rows: Tensor, slices: int) -> Result:
    (f, c), copies = gate.shape, len(rows)
    width = f // slices
    router = torch.zeros(copies * slices, c, dtype=torch.float64)
    gates = torch.zeros(copies * slices, width, c, dtype=torch.float64)
    ups, downs = torch.zeros_like(gates), torch.zeros_like(gates.mT)
    for copy in range(copies):
        for channel in range(f):
            expert, inside = copy * slices + channel // width, channel % width
            for i in range(c):
                router[expert, i] = rows[copy, i]
                gates[expert, inside, i] = gate[channel, i]
                ups[expert, inside, i] = up[channel, i]
                downs[expert, i, inside] = down[i, channel] * slices
    return router, gates, ups, downs.contiguous()


def _cut(
    gate: Tensor, up: Tensor, down: Tensor, rows: Tensor, slices: int, factor: float | None = None
) -> Result:
    copies, factor = len(rows), slices if factor is None else factor

    def slabs(matrix: Tensor) -> Tensor:  # (F, C) -> (E, F / slices, C)
        return torch.stack(matrix.chunk(slices)).repeat(copies, 1, 1)

    downs = factor * torch.stack(down.chunk(slices, dim=1)).repeat(copies, 1, 1)
    return rows.repeat_interleave(slices, dim=0), slabs(gate), slabs(up), downs


def _upcycle_not_scaled(*arguments: Tensor) -> Result:
    return _cut(*arguments, factor=1.0)


def _upcycle_divided(*arguments: Tensor) -> Result:
    return _cut(*arguments, factor=1.0 / arguments[4])


def _upcycle_times_experts(*arguments: Tensor) -> Result:
    return _cut(*arguments, factor=arguments[4] * len(arguments[3]))


def _upcycle_times_copies(*arguments: Tensor) -> Result:
    return _cut(*arguments, factor=len(arguments[3]))


def _upcycle_all_scaled(*arguments: Tensor) -> Result:
    router, gates, ups, downs = _cut(*arguments)
    return router, arguments[4] * gates, arguments[4] * ups, downs


def _upcycle_down_reshaped(
    gate: Tensor, up: Tensor, down: Tensor, rows: Tensor, slices: int
) -> Result:
    router, gates, ups, _ = _cut(gate, up, down, rows, slices)
    c, f = down.shape
    return router, gates, ups, slices * down.reshape(slices, c, f // slices).repeat(len(rows), 1, 1)


def _upcycle_down_by_rows(
    gate: Tensor, up: Tensor, down: Tensor, rows: Tensor, slices: int
) -> Result:
    router, gates, ups, _ = _cut(gate, up, down, rows, slices)
    return router, gates, ups, slices * torch.stack(down.chunk(slices)).repeat(len(rows), 1, 1)


def _upcycle_every_so_many(
    gate: Tensor, up: Tensor, down: Tensor, rows: Tensor, slices: int
) -> Result:
    order = torch.arange(len(gate)).view(-1, slices).T.reshape(-1)
    return _cut(gate[order], up[order], down[:, order], rows, slices)


def _upcycle_other_order(
    gate: Tensor, up: Tensor, down: Tensor, rows: Tensor, slices: int
) -> Result:
    _, *weights = _cut(gate, up, down, rows[:1], slices)
    gates, ups, downs = (w.repeat_interleave(len(rows), dim=0) for w in weights)
    return rows.repeat_interleave(slices, dim=0), gates, ups, downs


def _upcycle_slice_by_slice(
    gate: Tensor, up: Tensor, down: Tensor, rows: Tensor, slices: int
) -> Result:
    _, gates, ups, downs = _upcycle_other_order(gate, up, down, rows, slices)
    return rows.repeat(slices, 1), gates, ups, downs


def _upcycle_rows_in_turn(
    gate: Tensor, up: Tensor, down: Tensor, rows: Tensor, slices: int
) -> Result:
    _, *weights = _cut(gate, up, down, rows, slices)
    return (rows.repeat(slices, 1), *weights)


def _upcycle_whole_copies(
    gate: Tensor, up: Tensor, down: Tensor, rows: Tensor, slices: int
) -> Result:
    experts = len(rows) * slices
    whole = (w.repeat(experts, 1, 1) for w in (gate, up, down))
    return (rows.repeat_interleave(slices, dim=0), *whole)


def _upcycle_one_copy(gate: Tensor, up: Tensor, down: Tensor, rows: Tensor, slices: int) -> Result:
    return _cut(gate, up, down, rows[:1], slices)


def _upcycle_router_of_zeros(*arguments: Tensor) -> Result:
    router, *weights = _cut(*arguments)
    return (torch.zeros_like(router), *weights)


def _upcycle_router_of_copies(*arguments: Tensor) -> Result:
    _, *weights = _cut(*arguments)
    return (arguments[3].clone(), *weights)


def _upcycle_swapped(gate: Tensor, up: Tensor, down: Tensor, rows: Tensor, slices: int) -> Result:
    return _cut(up, gate, down, rows, slices)


def _upcycle_by_views(gate: Tensor, up: Tensor, down: Tensor, rows: Tensor, slices: int) -> Result:
    (f, c), copies = gate.shape, len(rows)
    experts, width = copies * slices, f // slices
    gates = gate.view(1, slices, width, c).expand(copies, -1, -1, -1).reshape(experts, width, c)
    ups = torch.cat([up.view(slices, width, c)] * copies)
    downs = down.view(c, slices, width).permute(1, 0, 2)  # (slices, C, width)
    router = rows[torch.arange(experts) // slices]
    return router, gates, ups, torch.cat([downs * slices] * copies)


def _dense(x: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
    return (torch.nn.functional.silu(x @ gate.mT) * (x @ up.mT)) @ down.mT


def _says_the_same(got: Result, arguments: Arguments, call: Answer) -> str | None:
    gate, up, down, _, slices = arguments
    router, gates, ups, downs = got
    x = torch.linspace(-1.0, 2.0, 3 * gate.shape[1], dtype=torch.float64).sin().view(3, -1)
    for token in x:
        experts = (router @ token).argsort(descending=True, stable=True)[:slices]
        weights = (router @ token)[experts].softmax(0)
        parts = [_dense(token, gates[e], ups[e], downs[e]) for e in experts]
        mixed = sum(weight * part for weight, part in zip(weights, parts))
        wanted = _dense(token, gate, up, down)
        if float((mixed - wanted).abs().max()) > 1e-6:
            return (
                f"for the token {[round(v, 2) for v in token.tolist()]} the dense network gives "
                f"{[round(v, 4) for v in wanted.tolist()]}, the mixture "
                f"{[round(v, 4) for v in mixed.tolist()]}"
            )
    return None


UPCYCLE = Exercise(
    id="5.10",
    title="from dense to sparse",
    name="upcycle",
    signature=(
        "upcycle(gate: Tensor, up: Tensor, down: Tensor, rows: Tensor, slices: int) "
        "-> tuple[Tensor, Tensor, Tensor, Tensor]"
    ),
    taught="Part 5, from dense to sparse",
    difficulty=4,
    minutes=20,
    make_inputs=_upcycle_inputs,
    oracle=_upcycle_oracle,
    statement="router and experts: copies of the slices, copy by copy, with down times `slices`",
    properties=(Property("the mixture says what the dense network says", _says_the_same),),
    wrong_answers=(
        WrongAnswer(
            "down not scaled",
            _upcycle_not_scaled,
            "down is copied as it is. The chosen slices each get the weight 1 / slices, so their "
            "sum is that much too small: multiply down by slices.",
        ),
        WrongAnswer(
            "divided",
            _upcycle_divided,
            "down is divided by slices. The weights 1 / slices already make everything smaller: "
            "multiply.",
        ),
        WrongAnswer(
            "times all experts",
            _upcycle_times_experts,
            "down is multiplied by the number of experts. Only `slices` of them are active and "
            "share the weight.",
        ),
        WrongAnswer(
            "times the copies",
            _upcycle_times_copies,
            "down is multiplied by the number of copies. One copy is active; its `slices` experts "
            "share the weight.",
        ),
        WrongAnswer(
            "all three scaled",
            _upcycle_all_scaled,
            "gate and up are multiplied as well. Behind silu and a product that comes out quite "
            "different: only down, which is last and linear.",
        ),
        WrongAnswer(
            "down reshaped",
            _upcycle_down_reshaped,
            "down was reshaped to (slices, C, F / slices), which mixes channels. Its hidden "
            "channels are columns: cut it along dim 1, or move that axis to the front.",
        ),
        WrongAnswer(
            "rows of down",
            _upcycle_down_by_rows,
            "down is cut along its rows, the outputs. Its hidden channels are the columns.",
        ),
        WrongAnswer(
            "every n-th channel",
            _upcycle_every_so_many,
            "Slice g has every slices-th channel. A slice is a block of neighbours: the first F / "
            "slices channels are slice 0.",
        ),
        WrongAnswer(
            "router and experts in different orders",
            _upcycle_other_order,
            "The experts stand slice by slice and the router's rows copy by copy, so that a token "
            "gets one slice several times and misses others. Expert copy * slices + slice belongs "
            "to row `copy`.",
        ),
        WrongAnswer(
            "slice by slice",
            _upcycle_slice_by_slice,
            "The experts stand slice by slice. Asked for is copy by copy: expert copy * slices + "
            "slice, with neighbours that belong together.",
        ),
        WrongAnswer(
            "rows in turn",
            _upcycle_rows_in_turn,
            "The rows come in turn (repeat), so experts of equal logits are the same slice of "
            "different copies. Those of one copy must go together: repeat_interleave.",
        ),
        WrongAnswer(
            "whole copies",
            _upcycle_whole_copies,
            "Every expert is a copy of the whole network. Each is one slice, F / slices wide, so "
            "that the active parameters stay as many as they were.",
        ),
        WrongAnswer(
            "one copy",
            _upcycle_one_copy,
            "Only one copy is made, slices experts. Each row of `rows` gets a copy of its own: "
            "there are len(rows) * slices experts.",
        ),
        WrongAnswer(
            "router of zeros",
            _upcycle_router_of_zeros,
            "The router is zero: all experts tie, and which are chosen is left to chance. Use "
            "`rows`, once for each expert of a copy.",
        ),
        WrongAnswer(
            "a row for each copy",
            _upcycle_router_of_copies,
            "The router has a row for each copy. It needs one for each expert: every row slices "
            "times.",
        ),
        WrongAnswer(
            "gate and up swapped",
            _upcycle_swapped,
            "gate and up are swapped in the result: router, gates, ups, downs.",
        ),
    ),
    alternatives=(_upcycle_by_views,),
    examples=(
        (
            torch.tensor([[1.0], [2.0]], dtype=torch.float64),
            torch.tensor([[3.0], [4.0]], dtype=torch.float64),
            torch.tensor([[5.0, 6.0]], dtype=torch.float64),
            torch.tensor([[0.5], [-0.5]], dtype=torch.float64),
            2,
        ),
    ),
)
