"""Exercise 1.10 The pre-norm block."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from llmcourse.grading.inputs import Draw
from llmcourse.grading.records import Answer, Arguments, Exercise, Property, WrongAnswer


def _block_inputs(draw: Draw, size: int) -> Arguments:
    b, t, c = [(1, 1, 1), (1, 1, 2), (1, 2, 1), (2, 1, 3), (1, 3, 4), (2, 3, 5)][size]
    return draw.normal(b, t, c), draw.map(c), draw.map(c), draw.map(c), draw.map(c)


def _block_oracle(
    x: Tensor, attention: Answer, feed_forward: Answer, norm_1: Answer, norm_2: Answer
) -> Tensor:
    first = attention(norm_1(x)).numpy()
    middle = x.numpy() + first
    second = feed_forward(norm_2(torch.from_numpy(middle))).numpy()
    return torch.from_numpy(middle + second)


def _block_post_norm(x: Tensor, attention: Any, feed_forward: Any, norm_1: Any, norm_2: Any) -> Any:
    x = norm_1(x + attention(x))
    return norm_2(x + feed_forward(x))


def _block_no_residual(
    x: Tensor, attention: Any, feed_forward: Any, norm_1: Any, norm_2: Any
) -> Any:
    return feed_forward(norm_2(attention(norm_1(x))))


def _block_parallel(x: Tensor, attention: Any, feed_forward: Any, norm_1: Any, norm_2: Any) -> Any:
    return x + attention(norm_1(x)) + feed_forward(norm_2(x))


def _block_normed_stream(
    x: Tensor, attention: Any, feed_forward: Any, norm_1: Any, norm_2: Any
) -> Any:
    x = norm_1(x)
    x = x + attention(x)
    x = norm_2(x)
    return x + feed_forward(x)


def _block_one_residual(
    x: Tensor, attention: Any, feed_forward: Any, norm_1: Any, norm_2: Any
) -> Any:
    return x + feed_forward(norm_2(attention(norm_1(x))))


def _block_first_residual(
    x: Tensor, attention: Any, feed_forward: Any, norm_1: Any, norm_2: Any
) -> Any:
    return feed_forward(norm_2(x + attention(norm_1(x))))


def _block_one_norm(x: Tensor, attention: Any, feed_forward: Any, norm_1: Any, norm_2: Any) -> Any:
    x = x + attention(norm_1(x))
    return x + feed_forward(norm_1(x))


def _block_by_loop(x: Tensor, attention: Any, feed_forward: Any, norm_1: Any, norm_2: Any) -> Any:
    for norm, layer in ((norm_1, attention), (norm_2, feed_forward)):
        x = torch.add(layer(norm(x)), x)
    return x


def _silent_layers_pass_through(got: Tensor, arguments: Arguments, call: Answer) -> str | None:
    x, _, _, norm_1, norm_2 = arguments
    if float((call(x, torch.zeros_like, torch.zeros_like, norm_1, norm_2) - x).abs().max()) > 1e-9:
        return "with attention and feed-forward that return zeros, x must come out unchanged"
    return None


PRE_NORM_BLOCK = Exercise(
    id="1.10",
    title="the pre-norm block",
    name="pre_norm_block",
    signature="pre_norm_block(x: Tensor, attention, feed_forward, norm_1, norm_2) -> Tensor",
    taught="Part 1, the full block",
    difficulty=3,
    minutes=10,
    make_inputs=_block_inputs,
    oracle=_block_oracle,
    statement="x <- x + attention(norm_1(x)), then x <- x + feed_forward(norm_2(x))",
    properties=(
        Property("the residual stream passes through untouched", _silent_layers_pass_through),
    ),
    wrong_answers=(
        WrongAnswer(
            "post-norm",
            _block_post_norm,
            "This is post-norm, the order of the 2017 paper: the norms sit on the residual stream. "
            "Here each norm comes before its layer and the stream itself is never normalised.",
        ),
        WrongAnswer(
            "no residuals",
            _block_no_residual,
            "Both residual connections are missing: each layer's output is added to its input.",
        ),
        WrongAnswer(
            "in parallel",
            _block_parallel,
            "Both layers read the same x, side by side (as GPT-J does). Here the feed-forward "
            "layer reads what attention has already written: x + attention(norm_1(x)).",
        ),
        WrongAnswer(
            "the stream itself normalised",
            _block_normed_stream,
            "The stream is replaced by its norm before the addition. Add to the x from before the "
            "norm: x + layer(norm(x)).",
        ),
        WrongAnswer(
            "only one residual around both",
            _block_one_residual,
            "One residual connection spans both layers. Each of the two layers has its own.",
        ),
        WrongAnswer(
            "second residual forgotten",
            _block_first_residual,
            "The second residual connection is missing: the feed-forward layer's output replaces "
            "the stream instead of being added to it.",
        ),
        WrongAnswer(
            "norm_1 used twice",
            _block_one_norm,
            "norm_1 is used twice. The feed-forward layer has a norm of its own, norm_2.",
        ),
    ),
    alternatives=(_block_by_loop,),
    examples=(
        (
            torch.tensor([[[1.0, 2.0]]], dtype=torch.float64),
            torch.neg,
            torch.ones_like,
            torch.square,
            torch.exp,
        ),
    ),
)
