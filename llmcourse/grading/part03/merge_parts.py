"""Exercise 3.10 Merging two parts of a softmax."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from llmcourse.grading.inputs import Draw
from llmcourse.grading.records import Answer, Arguments, Exercise, Property, WrongAnswer

Part = tuple[Tensor, Tensor, Tensor]


def _summary(scores: Tensor, values: Tensor) -> Part:
    """(T, S), (S, D) -> maximum (T,), sum (T,), unnormalised output (T, D), in plain loops."""
    tops, sums, outs = [], [], []
    columns = values.T.tolist()
    for row in scores.tolist():
        top = max(row)
        powers = [math.exp(score - top) for score in row]
        tops.append(top)
        sums.append(math.fsum(powers))
        outs.append([math.fsum(p * x for p, x in zip(powers, column)) for column in columns])
    return tuple(torch.tensor(x, dtype=torch.float64) for x in (tops, sums, outs))


def _merge_inputs(draw: Draw, size: int) -> Arguments:
    t, s, d = [(1, 2, 1), (1, 2, 2), (2, 3, 2), (3, 2, 2), (4, 3, 3), (6, 4, 3)][size]
    left, right = draw.normal(t, s), draw.normal(t, s)
    # By turns the first and the second part hold the larger maximum.
    right = right + torch.where(torch.arange(t) % 2 == size % 2, 1.5, -1.5)[:, None]
    if size == 5:  # exp() of these by themselves is infinite
        left, right = left + 2_000.0, right + 2_000.0
    first = _summary(left, draw.normal(s, d) + 1.0)
    if size == 3:  # nothing has been seen yet, as before the first tile
        first = (
            torch.full((t,), -math.inf, dtype=torch.float64),
            torch.zeros(t, dtype=torch.float64),
            torch.zeros(t, d, dtype=torch.float64),
        )
    return (*first, *_summary(right, draw.normal(s, d) + 1.0))


def _merge_oracle(
    max_a: Tensor, sum_a: Tensor, out_a: Tensor, max_b: Tensor, sum_b: Tensor, out_b: Tensor
) -> Part:
    tops, sums, outs = [], [], []
    for t in range(len(max_a)):
        top = max(float(max_a[t]), float(max_b[t]))
        a, b = math.exp(float(max_a[t]) - top), math.exp(float(max_b[t]) - top)
        tops.append(top)
        sums.append(a * float(sum_a[t]) + b * float(sum_b[t]))
        outs.append([a * x + b * y for x, y in zip(out_a[t].tolist(), out_b[t].tolist())])
    return tuple(torch.tensor(x, dtype=torch.float64) for x in (tops, sums, outs))


def _scales(max_a: Tensor, max_b: Tensor) -> Part:
    top = torch.maximum(max_a, max_b)
    return top, (max_a - top).exp(), (max_b - top).exp()


def _merge_output_forgotten(
    max_a: Tensor, sum_a: Tensor, out_a: Tensor, max_b: Tensor, sum_b: Tensor, out_b: Tensor
) -> Part:
    top, a, b = _scales(max_a, max_b)
    return top, a * sum_a + b * sum_b, out_a + out_b


def _merge_sum_forgotten(
    max_a: Tensor, sum_a: Tensor, out_a: Tensor, max_b: Tensor, sum_b: Tensor, out_b: Tensor
) -> Part:
    top, a, b = _scales(max_a, max_b)
    return top, sum_a + sum_b, a[:, None] * out_a + b[:, None] * out_b


def _merge_nothing_scaled(
    max_a: Tensor, sum_a: Tensor, out_a: Tensor, max_b: Tensor, sum_b: Tensor, out_b: Tensor
) -> Part:
    return torch.maximum(max_a, max_b), sum_a + sum_b, out_a + out_b


def _merge_new_forgotten(
    max_a: Tensor, sum_a: Tensor, out_a: Tensor, max_b: Tensor, sum_b: Tensor, out_b: Tensor
) -> Part:
    top, a, _ = _scales(max_a, max_b)
    return top, a * sum_a + sum_b, a[:, None] * out_a + out_b


def _merge_maxima_added(
    max_a: Tensor, sum_a: Tensor, out_a: Tensor, max_b: Tensor, sum_b: Tensor, out_b: Tensor
) -> Part:
    top = max_a + max_b
    a, b = (max_a - top).exp(), (max_b - top).exp()
    return top, a * sum_a + b * sum_b, a[:, None] * out_a + b[:, None] * out_b


def _merge_upside_down(
    max_a: Tensor, sum_a: Tensor, out_a: Tensor, max_b: Tensor, sum_b: Tensor, out_b: Tensor
) -> Part:
    top = torch.maximum(max_a, max_b)
    a, b = (top - max_a).exp(), (top - max_b).exp()
    return top, a * sum_a + b * sum_b, a[:, None] * out_a + b[:, None] * out_b


def _merge_divided(
    max_a: Tensor, sum_a: Tensor, out_a: Tensor, max_b: Tensor, sum_b: Tensor, out_b: Tensor
) -> Part:
    top, a, b = _scales(max_a, max_b)
    total = a * sum_a + b * sum_b
    return top, total, (a[:, None] * out_a + b[:, None] * out_b) / total[:, None]


def _merge_averages(
    max_a: Tensor, sum_a: Tensor, out_a: Tensor, max_b: Tensor, sum_b: Tensor, out_b: Tensor
) -> Part:
    top, a, b = _scales(max_a, max_b)
    a, b = a * sum_a, b * sum_b
    return top, a + b, (a[:, None] * out_a + b[:, None] * out_b) / (a + b)[:, None]


def _merge_wrong_axis(
    max_a: Tensor, sum_a: Tensor, out_a: Tensor, max_b: Tensor, sum_b: Tensor, out_b: Tensor
) -> Part:
    top, a, b = _scales(max_a, max_b)
    return top, a * sum_a + b * sum_b, a * out_a + b * out_b


def _merge_first_maximum(
    max_a: Tensor, sum_a: Tensor, out_a: Tensor, max_b: Tensor, sum_b: Tensor, out_b: Tensor
) -> Part:
    b = (max_b - max_a).exp()
    return max_a.clone(), sum_a + b * sum_b, out_a + b[:, None] * out_b


def _merge_raw(
    max_a: Tensor, sum_a: Tensor, out_a: Tensor, max_b: Tensor, sum_b: Tensor, out_b: Tensor
) -> Part:
    top = torch.maximum(max_a, max_b)
    a, b = max_a.exp(), max_b.exp()
    total = (a * sum_a + b * sum_b) / top.exp()
    return top, total, (a[:, None] * out_a + b[:, None] * out_b) / top.exp()[:, None]


def _merge_newest_maximum(
    max_a: Tensor, sum_a: Tensor, out_a: Tensor, max_b: Tensor, sum_b: Tensor, out_b: Tensor
) -> Part:
    a = (max_a - max_b).exp()
    return max_b, a * sum_a + sum_b, a[:, None] * out_a + out_b


def _merge_one_maximum(
    max_a: Tensor, sum_a: Tensor, out_a: Tensor, max_b: Tensor, sum_b: Tensor, out_b: Tensor
) -> Part:
    top = torch.cat([max_a, max_b]).max().expand_as(max_a)
    a, b = (max_a - top).exp(), (max_b - top).exp()
    return top, a * sum_a + b * sum_b, a[:, None] * out_a + b[:, None] * out_b


def _merge_stacked(
    max_a: Tensor, sum_a: Tensor, out_a: Tensor, max_b: Tensor, sum_b: Tensor, out_b: Tensor
) -> Part:
    tops = torch.stack([max_a, max_b])  # (2, T)
    top = tops.amax(dim=0)
    scale = torch.exp(tops - top)
    total = (scale * torch.stack([sum_a, sum_b])).sum(dim=0)
    return top, total, torch.einsum("pt,ptd->td", scale, torch.stack([out_a, out_b]))


def _the_average_comes_out(got: Part, arguments: Arguments, call: Answer) -> str | None:
    max_a, sum_a, _, max_b, sum_b, _ = arguments
    width = arguments[2].shape[1]
    ones = [total[:, None].expand(-1, width).clone() for total in (sum_a, sum_b)]
    _, total, out = call(max_a, sum_a, ones[0], max_b, sum_b, ones[1])
    worst = float((out / total[:, None] - 1).abs().max())
    if not worst < 1e-6:
        return (
            "with all values equal to 1, output / sum must be 1 after merging: output and sum are "
            "scaled differently"
        )
    return None


def _maximum_is_one_of_them(got: Part, arguments: Arguments, call: Answer) -> str | None:
    for t, (new, a, b) in enumerate(zip(got[0], arguments[0], arguments[3])):
        if float(new) != max(float(a), float(b)):
            return (
                f"row {t} has maxima {float(a):.4g} and {float(b):.4g}; the merged maximum must be "
                f"the larger, and is {float(new):.4g}"
            )
    return None


def _order_is_free(got: Part, arguments: Arguments, call: Answer) -> str | None:
    swapped = call(*arguments[3:], *arguments[:3])
    for one, other in zip(got, swapped):
        if float((one - other).abs().max()) > 1e-9:
            return "merging b with a gives another result than merging a with b"
    return None


MERGE_PARTS = Exercise(
    id="3.10",
    title="merge two parts of a softmax",
    name="merge_parts",
    signature=(
        "merge_parts(max_a: Tensor, sum_a: Tensor, out_a: Tensor, max_b: Tensor, sum_b: Tensor, "
        "out_b: Tensor) -> tuple[Tensor, Tensor, Tensor]"
    ),
    taught="Part 3, the online softmax",
    difficulty=3,
    minutes=15,
    make_inputs=_merge_inputs,
    oracle=_merge_oracle,
    statement="maximum, sum and output are those of both parts' scores taken together",
    properties=(
        Property("the maximum is the larger of the two", _maximum_is_one_of_them),
        Property("output and sum stay on one scale", _the_average_comes_out),
        Property("the order of the parts does not matter", _order_is_free),
    ),
    wrong_answers=(
        WrongAnswer(
            "output not rescaled",
            _merge_output_forgotten,
            "The sums are rescaled to the new maximum and the outputs are not: early tiles keep "
            "too much weight. Both are sums of exp(score - max), so both get the same factors.",
        ),
        WrongAnswer(
            "sum not rescaled",
            _merge_sum_forgotten,
            "The outputs are rescaled to the new maximum and the sums are not. Both are sums of "
            "exp(score - max): multiply both by exp(old max - new max).",
        ),
        WrongAnswer(
            "nothing rescaled",
            _merge_nothing_scaled,
            "Sums and outputs are added as they are, though each is relative to its own maximum. "
            "Bring both to the new maximum first: times exp(old max - new max).",
        ),
        WrongAnswer(
            "only the first part rescaled",
            _merge_new_forgotten,
            "Only part a is rescaled. When a has the larger maximum it is b that must shrink: "
            "times exp(max_b - new max).",
        ),
        WrongAnswer(
            "maxima added",
            _merge_maxima_added,
            "The maxima are added. The maximum of all scores is the larger of the two.",
        ),
        WrongAnswer(
            "factor upside down",
            _merge_upside_down,
            "The factor is upside down: exp(new max - old max) grows. Relative to a larger maximum "
            "every term is smaller: exp(old max - new max).",
        ),
        WrongAnswer(
            "divided already",
            _merge_divided,
            "The output is divided by the sum here, and will be again when the last tile is done. "
            "Leave it unnormalised until then.",
        ),
        WrongAnswer(
            "outputs taken for averages",
            _merge_averages,
            "The outputs are weighted by their sums, as averages would be. They are not divided "
            "yet: multiply each by exp(old max - new max) and add.",
        ),
        WrongAnswer(
            "factors along the wrong axis",
            _merge_wrong_axis,
            "The factors (T,) run along the channels of the outputs (T, D) instead of the queries. "
            "Make them columns: a[:, None].",
        ),
        WrongAnswer(
            "back to plain exponentials",
            _merge_raw,
            "exp(max) is computed by itself and overflows for scores of 2000. Only differences of "
            "maxima, which are at most 0, may be exponentiated.",
        ),
        WrongAnswer(
            "the newest maximum",
            _merge_newest_maximum,
            "The new maximum is that of part b, even where a's is larger. Then exp(max_a - max_b) "
            "can overflow: take the larger of the two in each row.",
        ),
        WrongAnswer(
            "the first maximum",
            _merge_first_maximum,
            "The new maximum is that of part a, even where b's is larger. Then exp(max_b - max_a) "
            "can overflow: take the larger of the two in each row.",
        ),
        WrongAnswer(
            "one maximum for all rows",
            _merge_one_maximum,
            "One maximum is taken over all rows. Each row is a softmax of its own: "
            "torch.maximum(max_a, max_b), row by row.",
        ),
    ),
    alternatives=(_merge_stacked,),
    examples=(
        (
            torch.tensor([0.0], dtype=torch.float64),
            torch.tensor([1.0], dtype=torch.float64),
            torch.tensor([[8.0]], dtype=torch.float64),
            torch.tensor([math.log(4.0)], dtype=torch.float64),
            torch.tensor([1.0], dtype=torch.float64),
            torch.tensor([[3.0]], dtype=torch.float64),
        ),
    ),
)
