"""Exercise 4.12 A feed-forward layer over several ranks."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from llmcourse.grading.inputs import Draw
from llmcourse.grading.records import Answer, Arguments, Exercise, Property, WrongAnswer


def _split_inputs(draw: Draw, size: int) -> Arguments:
    t, c, f, ranks = [
        (1, 1, 2, 2),
        (1, 2, 2, 1),
        (1, 2, 2, 2),
        (2, 2, 4, 2),
        (2, 4, 8, 4),
        (3, 4, 6, 2),
    ][size]
    x, up, down = draw.normal(t, c), draw.normal(f, c), draw.normal(c, f)
    up_bias, down_bias = draw.normal(f), draw.normal(c) + 2.0
    if size == 0:  # both channels open
        x, up, down = x.abs() + 0.5, up.abs() + 0.5, down.sign() * (down.abs() + 0.5)
        up_bias = up_bias.abs() + 0.3
    return x, up, up_bias, down, down_bias, ranks


def _split_oracle(
    x: Tensor, up: Tensor, up_bias: Tensor, down: Tensor, down_bias: Tensor, ranks: int
) -> list[Tensor]:
    each = len(up) // ranks
    parts = []
    for rank in range(ranks):
        part = []
        for token in x.tolist():
            row = down_bias.tolist() if rank == 0 else [0.0] * down.shape[0]
            for channel in range(rank * each, (rank + 1) * each):
                value = float(up_bias[channel])
                value += math.fsum(a * b for a, b in zip(token, up[channel].tolist()))
                for i in range(len(row)):
                    row[i] += max(0.0, value) * float(down[i, channel])
            part.append(row)
        parts.append(torch.tensor(part, dtype=torch.float64))
    return parts


def _layer(x: Tensor, up: Tensor, up_bias: Tensor | float, down: Tensor) -> Tensor:
    return torch.relu(x @ up.T + up_bias) @ down.T


def _split(
    x: Tensor,
    up: Tensor,
    up_bias: Tensor,
    down: Tensor,
    down_bias: Tensor,
    ranks: int,
) -> list[Tensor]:
    each = len(up) // ranks
    parts = []
    for rank in range(ranks):
        own = slice(rank * each, (rank + 1) * each)
        parts.append(_layer(x, up[own], up_bias[own], down[:, own]))
    return parts


def _split_bias_everywhere(*arguments: Any) -> list[Tensor]:
    return [part + arguments[4] for part in _split(*arguments)]


def _split_bias_nowhere(*arguments: Any) -> list[Tensor]:
    return _split(*arguments)


def _split_bias_shared(*arguments: Any) -> list[Tensor]:
    return [part + arguments[4] / arguments[5] for part in _split(*arguments)]


def _split_bias_last(*arguments: Any) -> list[Tensor]:
    parts = _split(*arguments)
    return [*parts[:-1], parts[-1] + arguments[4]]


def _with_bias(parts: list[Tensor], down_bias: Tensor) -> list[Tensor]:
    return [parts[0] + down_bias, *parts[1:]]


def _split_every_so_many(
    x: Tensor, up: Tensor, up_bias: Tensor, down: Tensor, down_bias: Tensor, ranks: int
) -> list[Tensor]:
    parts = [
        _layer(x, up[rank::ranks], up_bias[rank::ranks], down[:, rank::ranks])
        for rank in range(ranks)
    ]
    return _with_bias(parts, down_bias)


def _split_whole_each(
    x: Tensor, up: Tensor, up_bias: Tensor, down: Tensor, down_bias: Tensor, ranks: int
) -> list[Tensor]:
    whole = _layer(x, up, up_bias, down) + down_bias
    return [whole.clone() for _ in range(ranks)]


def _split_share_of_whole(
    x: Tensor, up: Tensor, up_bias: Tensor, down: Tensor, down_bias: Tensor, ranks: int
) -> list[Tensor]:
    whole = _layer(x, up, up_bias, down) + down_bias
    return [whole / ranks for _ in range(ranks)]


def _split_by_input(
    x: Tensor, up: Tensor, up_bias: Tensor, down: Tensor, down_bias: Tensor, ranks: int
) -> list[Tensor]:
    parts = [
        torch.relu(a @ b.T + (up_bias if rank == 0 else 0.0)) @ down.T
        for rank, (a, b) in enumerate(
            zip(x.tensor_split(ranks, dim=1), up.tensor_split(ranks, dim=1))
        )
    ]
    return _with_bias(parts, down_bias)


def _split_down_by_rows(
    x: Tensor, up: Tensor, up_bias: Tensor, down: Tensor, down_bias: Tensor, ranks: int
) -> list[Tensor]:
    ups, biases, downs = up.chunk(ranks), up_bias.chunk(ranks), down.chunk(ranks)
    parts = [torch.relu(x @ ups[r].T + biases[r]) @ downs[r].T for r in range(ranks)]
    return _with_bias(parts, down_bias)


def _split_by_output(
    x: Tensor, up: Tensor, up_bias: Tensor, down: Tensor, down_bias: Tensor, ranks: int
) -> list[Tensor]:
    hidden = torch.relu(x @ up.T + up_bias)
    pairs = zip(down.tensor_split(ranks), down_bias.tensor_split(ranks))
    return [hidden @ rows.T + bias for rows, bias in pairs]


def _split_by_token(
    x: Tensor, up: Tensor, up_bias: Tensor, down: Tensor, down_bias: Tensor, ranks: int
) -> list[Tensor]:
    return [_layer(own, up, up_bias, down) + down_bias for own in x.tensor_split(ranks)]


def _split_no_up_bias(
    x: Tensor, up: Tensor, up_bias: Tensor, down: Tensor, down_bias: Tensor, ranks: int
) -> list[Tensor]:
    return _with_bias(_split(x, up, torch.zeros_like(up_bias), down, down_bias, ranks), down_bias)


def _split_up_bias_once(
    x: Tensor, up: Tensor, up_bias: Tensor, down: Tensor, down_bias: Tensor, ranks: int
) -> list[Tensor]:
    own = up_bias.clone()
    own[len(up) // ranks :] = 0.0
    return _with_bias(_split(x, up, own, down, down_bias, ranks), down_bias)


def _split_activated_late(
    x: Tensor, up: Tensor, up_bias: Tensor, down: Tensor, down_bias: Tensor, ranks: int
) -> list[Tensor]:
    each = len(up) // ranks
    parts = []
    for start in range(0, len(up), each):
        own = slice(start, start + each)
        parts.append(torch.relu((x @ up[own].T + up_bias[own]) @ down[:, own].T))
    return _with_bias(parts, down_bias)


def _split_not_activated(
    x: Tensor, up: Tensor, up_bias: Tensor, down: Tensor, down_bias: Tensor, ranks: int
) -> list[Tensor]:
    each = len(up) // ranks
    parts = []
    for start in range(0, len(up), each):
        own = slice(start, start + each)
        parts.append((x @ up[own].T + up_bias[own]) @ down[:, own].T)
    return _with_bias(parts, down_bias)


def _split_running_sum(*arguments: Any) -> list[Tensor]:
    parts = _with_bias(_split(*arguments), arguments[4])
    return list(torch.stack(parts).cumsum(dim=0))


def _split_by_masking(
    x: Tensor, up: Tensor, up_bias: Tensor, down: Tensor, down_bias: Tensor, ranks: int
) -> list[Tensor]:
    # The whole hidden layer once; each rank keeps its channels and zeros for the others.
    hidden = torch.relu(torch.addmm(up_bias, x, up.T))  # (T, F)
    owner = torch.arange(len(up)) // (len(up) // ranks)  # (F,)
    parts = [torch.where(owner == rank, hidden, 0.0) @ down.T for rank in range(ranks)]
    parts[0] += down_bias
    return parts


def _sums_to_the_layer(got: list[Tensor], arguments: Arguments, call: Answer) -> str | None:
    x, up, up_bias, down, down_bias, _ = arguments
    whole = _layer(x, up, up_bias, down) + down_bias
    total = torch.stack(got).sum(dim=0)
    worst = int((total - whole).abs().argmax())
    if float((total - whole).abs().max()) > 1e-9:
        return (
            f"the parts of all ranks together are not the layer's result: a number is "
            f"{float(total.reshape(-1)[worst]):.4g} and should be "
            f"{float(whole.reshape(-1)[worst]):.4g}"
        )
    return None


def _own_channels_only(got: list[Tensor], arguments: Arguments, call: Answer) -> str | None:
    x, up, up_bias, down, down_bias, ranks = arguments
    if ranks == 1:
        return None
    each = len(up) // ranks
    other = down.clone()
    other[:, -each:] += 1.0  # only the last rank has these
    if float((call(x, up, up_bias, other, down_bias, ranks)[0] - got[0]).abs().max()) > 1e-9:
        return f"rank 0's part changes with channels that belong to rank {ranks - 1}"
    return None


SPLIT_LAYER = Exercise(
    id="4.12",
    title="a layer over several processes",
    name="split_layer",
    signature=(
        "split_layer(x: Tensor, up: Tensor, up_bias: Tensor, down: Tensor, down_bias: Tensor, "
        "ranks: int) -> list[Tensor]"
    ),
    taught="Part 4, several processes",
    difficulty=4,
    minutes=20,
    make_inputs=_split_inputs,
    oracle=_split_oracle,
    statement="rank r's part: its block of hidden channels through down; rank 0 adds the bias",
    properties=(
        Property("the parts add up to the layer", _sums_to_the_layer),
        Property("a rank needs only its own weights", _own_channels_only),
    ),
    wrong_answers=(
        WrongAnswer(
            "bias on every rank",
            _split_bias_everywhere,
            "Every rank adds down_bias, so in the sum it is there once for each of them. Rank 0 "
            "alone adds it.",
        ),
        WrongAnswer(
            "bias on no rank",
            _split_bias_nowhere,
            "down_bias is missing: rank 0 adds it, once.",
        ),
        WrongAnswer(
            "bias in shares",
            _split_bias_shared,
            "Every rank adds its share of down_bias. The sum is right; asked for is that rank 0 "
            "adds all of it, so that the others need not hold it.",
        ),
        WrongAnswer(
            "bias on the last rank",
            _split_bias_last,
            "The last rank adds down_bias. The sum is right; asked for is that rank 0 does.",
        ),
        WrongAnswer(
            "every so many channels",
            _split_every_so_many,
            "Rank r has channels r, r + ranks, ... The sum is right, but weights are cut into "
            "blocks of neighbours: rank r holds channels r * F / ranks and the following.",
        ),
        WrongAnswer(
            "the whole layer on every rank",
            _split_whole_each,
            "Every rank computes the whole layer: nothing is split, and the sum is `ranks` times "
            "too large.",
        ),
        WrongAnswer(
            "shares of the whole",
            _split_share_of_whole,
            "Every rank computes the whole layer and hands out a share of it. The sum is right and "
            "nothing is saved: a rank must need only its own block of the weights.",
        ),
        WrongAnswer(
            "split along the input",
            _split_by_input,
            "`up` is split along its input, so no rank knows a whole hidden value and relu comes "
            "too early: relu(a) + relu(b) is not relu(a + b). Split along the hidden channels.",
        ),
        WrongAnswer(
            "down split by rows",
            _split_down_by_rows,
            "`down` is split along its first axis, the outputs. Its hidden channels are the second "
            "axis: a rank takes columns of `down` and rows of `up`.",
        ),
        WrongAnswer(
            "split along the output",
            _split_by_output,
            "Each rank makes some of the output channels, for which it needs all of the hidden "
            "layer. Each is to make a part of every output, from its own hidden channels.",
        ),
        WrongAnswer(
            "split along the tokens",
            _split_by_token,
            "The tokens are shared out: that is data parallelism, with the whole layer on every "
            "rank. Here every rank sees all tokens and has a part of the weights.",
        ),
        WrongAnswer(
            "up_bias left out",
            _split_no_up_bias,
            "up_bias is missing. Each rank adds its own block of it, before relu.",
        ),
        WrongAnswer(
            "up_bias on one rank",
            _split_up_bias_once,
            "Only rank 0 adds up_bias. That holds for down_bias; each hidden channel has its own "
            "entry of up_bias and lives on one rank, which adds it.",
        ),
        WrongAnswer(
            "relu after down",
            _split_activated_late,
            "relu comes after `down`. It belongs to the hidden channels, between the two matrices.",
        ),
        WrongAnswer(
            "no relu",
            _split_not_activated,
            "relu is missing: two matrices in a row are no more than one.",
        ),
        WrongAnswer(
            "running sums",
            _split_running_sum,
            "Each rank returns what has been summed so far. It returns its own part; adding them "
            "up is the all-reduce that comes afterwards.",
        ),
    ),
    alternatives=(_split_by_masking,),
    examples=(
        (
            torch.tensor([[2.0]], dtype=torch.float64),
            torch.tensor([[1.0], [-1.0]], dtype=torch.float64),
            torch.tensor([1.0, 5.0], dtype=torch.float64),
            torch.tensor([[10.0, 100.0]], dtype=torch.float64),
            torch.tensor([7.0], dtype=torch.float64),
            2,
        ),
    ),
)
