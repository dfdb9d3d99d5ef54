"""Exercise 3.7 The mask of a sliding window with sinks."""

from __future__ import annotations

import torch
from torch import Tensor

from llmcourse.grading.inputs import Draw
from llmcourse.grading.records import Answer, Arguments, Exercise, Property, WrongAnswer


def _window_inputs(draw: Draw, size: int) -> Arguments:
    t, s, window, sinks = [
        (2, 2, 1, 0),
        (1, 3, 2, 0),
        (3, 4, 1, 2),
        (3, 6, 2, 1),
        (6, 6, 2, 2),
        (4, draw.integer(9, 12), 3, 2),
    ][size]
    return t, s, window, sinks


def _window_oracle(t: int, s: int, window: int, sinks: int) -> Tensor:
    rows = []
    for i in range(t):
        own, row = s - t + i, [False] * s
        for back in range(window):
            if own - back >= 0:
                row[own - back] = True
        for j in range(min(sinks, own + 1)):
            row[j] = True
        rows.append(row)
    return torch.tensor(rows, dtype=torch.bool)


def _places(t: int, s: int) -> tuple[Tensor, Tensor]:
    return torch.arange(s - t, s)[:, None], torch.arange(s)[None, :]


def _rule(q: Tensor, k: Tensor, window: int, sinks: int) -> Tensor:
    return (k <= q) & ((q - k < window) | (k < sinks))


def _window_one_more(t: int, s: int, window: int, sinks: int) -> Tensor:
    return _rule(*_places(t, s), window + 1, sinks)


def _window_without_itself(t: int, s: int, window: int, sinks: int) -> Tensor:
    q, k = _places(t, s)
    return (k < q) & ((q - k <= window) | (k < sinks))


def _window_upper_left(t: int, s: int, window: int, sinks: int) -> Tensor:
    return _rule(torch.arange(t)[:, None], torch.arange(s)[None, :], window, sinks)


def _window_from_first_query(t: int, s: int, window: int, sinks: int) -> Tensor:
    q, k = _places(t, s)
    return (k <= q) & ((s - t - k < window) | (k < sinks))


def _window_from_last_query(t: int, s: int, window: int, sinks: int) -> Tensor:
    q, k = _places(t, s)
    return (k <= q) & ((k >= s - window) | (k < sinks))


def _window_future(t: int, s: int, window: int, sinks: int) -> Tensor:
    q, k = _places(t, s)
    return (q - k < window) | (k < sinks)


def _window_both_sides(t: int, s: int, window: int, sinks: int) -> Tensor:
    q, k = _places(t, s)
    return ((q - k).abs() < window) | ((k < sinks) & (k <= q))


def _window_no_sinks(t: int, s: int, window: int, sinks: int) -> Tensor:
    return _rule(*_places(t, s), window, 0)


def _window_early_sinks(t: int, s: int, window: int, sinks: int) -> Tensor:
    q, k = _places(t, s)
    return ((k <= q) & (q - k < window)) | (k < sinks)


def _window_inverted(t: int, s: int, window: int, sinks: int) -> Tensor:
    return ~_rule(*_places(t, s), window, sinks)


def _window_only_causal(t: int, s: int, window: int, sinks: int) -> Tensor:
    q, k = _places(t, s)
    return k <= q


def _window_by_bands(t: int, s: int, window: int, sinks: int) -> Tensor:
    whole = torch.ones(t, s, dtype=torch.bool)
    causal = whole.tril(s - t)
    old = whole.tril(s - t - window)  # what has left the window
    old[:, :sinks] = False
    return causal & ~old


def _no_future(got: Tensor, arguments: Arguments, call: Answer) -> str | None:
    t, s, _, _ = arguments
    for i, row in enumerate(got.tolist()):
        for j in range(s - t + i + 1, s):
            if row[j]:
                return f"query {i}, at position {s - t + i}, may look at position {j}: its future"
    return None


def _sees_itself(got: Tensor, arguments: Arguments, call: Answer) -> str | None:
    t, s, _, _ = arguments
    for i, row in enumerate(got.tolist()):
        if not row[s - t + i]:
            return f"query {i} stands at position {s - t + i} and may not look at it"
    return None


def _sinks_stay(got: Tensor, arguments: Arguments, call: Answer) -> str | None:
    t, s, _, sinks = arguments
    for i, row in enumerate(got.tolist()):
        for j in range(min(sinks, s - t + i + 1)):
            if not row[j]:
                return f"query {i}, at position {s - t + i}, has lost the sink at position {j}"
    return None


def _as_many_as_the_window(got: Tensor, arguments: Arguments, call: Answer) -> str | None:
    t, s, window, sinks = arguments
    for i, row in enumerate(got.tolist()):
        seen = sum(row[sinks:])
        most = min(window, max(0, s - t + i + 1 - sinks))
        if seen > most:
            return (
                f"query {i}, at position {s - t + i}, looks at {seen} positions beside the sinks; "
                f"the window leaves {most}"
            )
    return None


WINDOW_MASK = Exercise(
    id="3.7",
    title="a sliding window with sinks",
    name="window_mask",
    signature="window_mask(t: int, s: int, window: int, sinks: int) -> Tensor",
    taught="Part 3, windows and sinks",
    difficulty=3,
    minutes=15,
    make_inputs=_window_inputs,
    oracle=_window_oracle,
    statement="True where key j <= position p of the query and (p - j < window or j < sinks)",
    properties=(
        Property("no query sees the future", _no_future),
        Property("every query sees itself", _sees_itself),
        Property("the sinks stay visible", _sinks_stay),
        Property("the window is as wide as it says", _as_many_as_the_window),
    ),
    wrong_answers=(
        WrongAnswer(
            "window one too wide",
            _window_one_more,
            "The window is one too wide: it counts the query's own position, so p - j < window, "
            "not <=.",
        ),
        WrongAnswer(
            "the query itself left out",
            _window_without_itself,
            "The query's own position is hidden and the window reaches one further back instead. A "
            "token always sees itself: j <= p.",
        ),
        WrongAnswer(
            "aligned to the upper left",
            _window_upper_left,
            "Query i is taken to stand at position i. The queries are the last T of S positions: "
            "query i stands at S - T + i. With keys from a cache, this slip looks at the wrong "
            "tokens.",
        ),
        WrongAnswer(
            "window of the first query",
            _window_from_first_query,
            "All queries share the first query's window, so later ones see too much. Each query "
            "has a window of its own.",
        ),
        WrongAnswer(
            "window of the last query",
            _window_from_last_query,
            "The keys are cropped to the last query's window, and earlier queries of the chunk "
            "have lost theirs. Each query has a window of its own.",
        ),
        WrongAnswer(
            "causality forgotten",
            _window_future,
            "p - j < window holds for every later key as well: p - j is negative there. Add "
            "j <= p.",
        ),
        WrongAnswer(
            "a window to both sides",
            _window_both_sides,
            "|p - j| < window looks ahead as far as back. The window reaches back only: "
            "0 <= p - j < window.",
        ),
        WrongAnswer(
            "sinks lost",
            _window_no_sinks,
            "The sinks are hidden once they leave the window. They are the exception: j < sinks "
            "stays visible for good.",
        ),
        WrongAnswer(
            "sinks before their time",
            _window_early_sinks,
            "A sink is visible even to queries that stand before it. Causality holds for sinks "
            "too: j <= p and (near or sink).",
        ),
        WrongAnswer(
            "True means forbidden",
            _window_inverted,
            "The mask is inverted. For scaled_dot_product_attention True means that the query may "
            "look; handed this mask, it attends to exactly what should be hidden.",
        ),
        WrongAnswer(
            "no window at all",
            _window_only_causal,
            "This is the plain causal mask: `window` changes nothing.",
        ),
    ),
    alternatives=(_window_by_bands,),
    examples=((2, 5, 2, 1),),
)
