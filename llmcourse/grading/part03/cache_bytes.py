"""Exercise 3.6 The size of a key-value cache."""

from __future__ import annotations

import torch

from llmcourse.grading.inputs import Draw
from llmcourse.grading.records import Answer, Arguments, Exercise, Property, WrongAnswer


def _bytes_inputs(draw: Draw, size: int) -> Arguments:
    # tokens, layers, query heads, key heads, head width, bits, window
    fixed = [
        (1, 1, 2, 1, 2, 8, 4),
        (3, 1, 4, 2, 2, 16, 2),
        (2, 2, 4, 2, 4, 16, 5),
        (draw.integer(20, 90), 3, 8, 2, 16, 32, 16),
        (draw.integer(300, 900), draw.integer(4, 12), 12, 4, 64, 16, 4096),
        (draw.integer(40_000, 90_000), 32, 32, 8, 128, 16, 4096),
    ]
    return fixed[size]


def _bytes_oracle(
    tokens: int, n_layers: int, n_heads: int, n_kv_heads: int, d_head: int, bits: int, window: int
) -> int:
    dtype = {8: torch.uint8, 16: torch.bfloat16, 32: torch.float32}[bits]
    with torch.device("meta"):  # shapes without memory
        layers = [
            (
                torch.empty(n_kv_heads, tokens, d_head, dtype=dtype)[:, -window:],
                torch.empty(n_kv_heads, tokens, d_head, dtype=dtype)[:, -window:],
            )
            for _ in range(n_layers)
        ]
    return sum(each.numel() * each.element_size() for pair in layers for each in pair)


def _bytes(
    tokens: int, n_layers: int, n_heads: int, n_kv_heads: int, d_head: int, bits: int, window: int
) -> int:
    return 2 * n_layers * n_kv_heads * min(tokens, window) * d_head * bits // 8


def _bytes_keys_only(
    tokens: int, n_layers: int, n_heads: int, n_kv_heads: int, d_head: int, bits: int, window: int
) -> int:
    return n_layers * n_kv_heads * min(tokens, window) * d_head * bits // 8


def _bytes_query_heads(
    tokens: int, n_layers: int, n_heads: int, n_kv_heads: int, d_head: int, bits: int, window: int
) -> int:
    return _bytes(tokens, n_layers, n_heads, n_heads, d_head, bits, window)


def _bytes_as_bits(
    tokens: int, n_layers: int, n_heads: int, n_kv_heads: int, d_head: int, bits: int, window: int
) -> int:
    return _bytes(tokens, n_layers, n_heads, n_kv_heads, d_head, 8 * bits, window)


def _bytes_numbers(
    tokens: int, n_layers: int, n_heads: int, n_kv_heads: int, d_head: int, bits: int, window: int
) -> int:
    return _bytes(tokens, n_layers, n_heads, n_kv_heads, d_head, 8, window)


def _bytes_one_layer(
    tokens: int, n_layers: int, n_heads: int, n_kv_heads: int, d_head: int, bits: int, window: int
) -> int:
    return _bytes(tokens, 1, n_heads, n_kv_heads, d_head, bits, window)


def _bytes_no_window(
    tokens: int, n_layers: int, n_heads: int, n_kv_heads: int, d_head: int, bits: int, window: int
) -> int:
    return _bytes(tokens, n_layers, n_heads, n_kv_heads, d_head, bits, tokens)


def _bytes_always_window(
    tokens: int, n_layers: int, n_heads: int, n_kv_heads: int, d_head: int, bits: int, window: int
) -> int:
    return _bytes(window, n_layers, n_heads, n_kv_heads, d_head, bits, window)


def _bytes_table(
    tokens: int, n_layers: int, n_heads: int, n_kv_heads: int, d_head: int, bits: int, window: int
) -> int:
    return _bytes(
        min(tokens, window), n_layers, n_heads, n_kv_heads, min(tokens, window), bits, window
    )


def _bytes_per_token(
    tokens: int, n_layers: int, n_heads: int, n_kv_heads: int, d_head: int, bits: int, window: int
) -> int:
    one = sum(n_kv_heads * d_head * (bits // 8) for _ in ("key", "value"))
    kept = window if tokens > window else tokens
    return sum(kept * one for _ in range(n_layers))


def _independent_of_query_heads(got: int, arguments: Arguments, call: Answer) -> str | None:
    tokens, n_layers, n_heads, *rest = arguments
    if call(tokens, n_layers, 2 * n_heads, *rest) != got:
        return "twice as many query heads changed the size; only key and value heads are stored"
    return None


def _bounded_by_the_window(got: int, arguments: Arguments, call: Answer) -> str | None:
    _, *rest = arguments
    window = rest[-1]
    if call(window + 1, *rest) != call(10 * window, *rest):
        return f"past the window of {window} tokens the cache must not grow any more"
    return None


CACHE_BYTES = Exercise(
    id="3.6",
    title="the size of a key-value cache",
    name="cache_bytes",
    signature=(
        "cache_bytes(tokens: int, n_layers: int, n_heads: int, n_kv_heads: int, d_head: int, "
        "bits: int, window: int) -> int"
    ),
    taught="Part 3, the cache and its memory",
    difficulty=2,
    minutes=10,
    make_inputs=_bytes_inputs,
    oracle=_bytes_oracle,
    tolerance=1e-12,  # whole numbers: any difference counts
    statement="bytes for the keys and values of the tokens within the window, in every layer",
    properties=(
        Property("query heads cost nothing", _independent_of_query_heads),
        Property("the window bounds the cache", _bounded_by_the_window),
    ),
    wrong_answers=(
        WrongAnswer(
            "values forgotten",
            _bytes_keys_only,
            "This is half of it: keys and values are stored, two numbers for each channel.",
        ),
        WrongAnswer(
            "query heads counted",
            _bytes_query_heads,
            "The query heads are counted. Queries are used once and not kept: only the "
            "n_kv_heads key and value heads are stored. This is the point of grouped queries.",
        ),
        WrongAnswer(
            "bits rather than bytes",
            _bytes_as_bits,
            "The result is in bits, eight times the bytes: divide by 8.",
        ),
        WrongAnswer(
            "numbers rather than bytes",
            _bytes_numbers,
            "These are numbers, not bytes: each takes bits // 8 bytes.",
        ),
        WrongAnswer(
            "one layer",
            _bytes_one_layer,
            "This is the cache of one layer. Every layer has keys and values of its own.",
        ),
        WrongAnswer(
            "window ignored",
            _bytes_no_window,
            "All tokens are counted. Those beyond the window are never looked at again and a "
            "rolling buffer has dropped them: min(tokens, window).",
        ),
        WrongAnswer(
            "always a full window",
            _bytes_always_window,
            "The window is counted even while fewer tokens are there: min(tokens, window).",
        ),
        WrongAnswer(
            "a table of scores",
            _bytes_table,
            "The size grows with the square of the tokens, like a table of scores. What is cached "
            "is one vector of d_head numbers for each token and head.",
        ),
    ),
    alternatives=(_bytes_per_token,),
    examples=((8_192, 32, 32, 8, 128, 16, 4_096),),
)
