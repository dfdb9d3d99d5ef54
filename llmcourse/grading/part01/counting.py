"""Exercise 1.11 Counting parameters."""

from __future__ import annotations

import math

import torch

from llmcourse.grading.inputs import Draw
from llmcourse.grading.records import Answer, Arguments, Exercise, Property, WrongAnswer


def _count_inputs(draw: Draw, size: int) -> Arguments:
    if size == 0:
        return (2, 1, 1, 1)
    top = [0, 5, 9, 20, 60, 300][size]
    return (
        draw.integer(3, top),
        draw.integer(2, top),
        draw.integer(1, min(top, 12)),
        draw.integer(2, min(top, 48)),
    )


def _count_oracle(vocab_size: int, context_length: int, n_layers: int, d_model: int) -> int:
    c = d_model
    shapes = [(vocab_size, c), (context_length, c), (c,), (c,)]
    for _ in range(n_layers):
        shapes += [(c,), (c,), (c,), (c,)]  # two norms, weight and bias each
        shapes += [(c, c), (c,)] * 4  # query, key, value, output
        shapes += [(4 * c, c), (4 * c,), (c, 4 * c), (c,)]
    return sum(math.prod(shape) for shape in shapes)


def _count(v: int, t: int, n: int, c: int, per_layer: int, rest: int = 0) -> int:
    return v * c + t * c + 2 * c + n * per_layer + rest


def _count_untied(vocab_size: int, context_length: int, n_layers: int, d_model: int) -> int:
    c = d_model
    return _count(vocab_size, context_length, n_layers, c, 12 * c * c + 13 * c, vocab_size * c)


def _count_no_biases(vocab_size: int, context_length: int, n_layers: int, d_model: int) -> int:
    c = d_model
    return _count(vocab_size, context_length, n_layers, c, 12 * c * c + 4 * c)


def _count_no_final_norm(vocab_size: int, context_length: int, n_layers: int, d_model: int) -> int:
    c = d_model
    return _count(vocab_size, context_length, n_layers, c, 12 * c * c + 13 * c, -2 * c)


def _count_no_positions(vocab_size: int, context_length: int, n_layers: int, d_model: int) -> int:
    c = d_model
    return _count(vocab_size, 0, n_layers, c, 12 * c * c + 13 * c)


def _count_no_output(vocab_size: int, context_length: int, n_layers: int, d_model: int) -> int:
    c = d_model
    return _count(vocab_size, context_length, n_layers, c, 11 * c * c + 12 * c)


def _count_no_norms(vocab_size: int, context_length: int, n_layers: int, d_model: int) -> int:
    c = d_model
    return _count(vocab_size, context_length, n_layers, c, 12 * c * c + 9 * c, -2 * c)


def _count_by_building(vocab_size: int, context_length: int, n_layers: int, d_model: int) -> int:
    c = d_model
    with torch.device("meta"):  # shapes without memory
        layer = torch.nn.TransformerEncoderLayer(c, 1, 4 * c)  # the same pieces, other wiring
        tables = [torch.empty(vocab_size, c), torch.empty(context_length, c), torch.empty(2, c)]
    inner = sum(parameter.numel() for parameter in layer.parameters())
    return n_layers * inner + sum(table.numel() for table in tables)


def _affine_in_depth(got: int, arguments: Arguments, call: Answer) -> str | None:
    v, t, n, c = arguments
    one = call(v, t, n + 1, c) - got
    if one != 12 * c * c + 13 * c:
        return f"one more layer adds {one} parameters here; it should add {12 * c * c + 13 * c}"
    return None


PARAMETER_COUNT = Exercise(
    id="1.11",
    title="count a GPT's parameters",
    name="parameter_count",
    signature=(
        "parameter_count(vocab_size: int, context_length: int, n_layers: int, d_model: int) -> int"
    ),
    taught="Part 1, where the parameters are",
    difficulty=3,
    minutes=15,
    make_inputs=_count_inputs,
    oracle=_count_oracle,
    tolerance=1e-12,  # whole numbers: any difference counts
    statement="the number is that of GPT-2's layout, tied head included",
    properties=(Property("each layer has the right number", _affine_in_depth),),
    wrong_answers=(
        WrongAnswer(
            "head counted again",
            _count_untied,
            "The output head is counted as well. It is tied: the same matrix as the token "
            "embedding, counted once.",
        ),
        WrongAnswer(
            "no biases",
            _count_no_biases,
            "The biases of the linear layers are missing: four of width C in attention, 4C and C "
            "in the feed-forward layer.",
        ),
        WrongAnswer(
            "no final norm",
            _count_no_final_norm,
            "The LayerNorm after the last layer is missing: 2C more.",
        ),
        WrongAnswer(
            "no positions",
            _count_no_positions,
            "The learned positions are missing: one vector of width C for each place in the "
            "context.",
        ),
        WrongAnswer(
            "no output projection",
            _count_no_output,
            "Attention has four projections and you count three: query, key, value, and the output "
            "projection after the heads are merged.",
        ),
        WrongAnswer(
            "no norms",
            _count_no_norms,
            "The LayerNorms are missing: two per layer and one at the end, weight and bias each.",
        ),
    ),
    alternatives=(_count_by_building,),
    examples=((50_257, 1_024, 12, 768),),
)
