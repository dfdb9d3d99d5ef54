"""Exercise 3.8 Attention of a chunk over a key-value cache."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from llmcourse.grading.inputs import Draw, rotation
from llmcourse.grading.part01.attention import attention_loops
from llmcourse.grading.records import Answer, Arguments, Exercise, Property, WrongAnswer

Rotate = Callable[[Tensor, Tensor], Tensor]
Result = tuple[Tensor, Tensor, Tensor]


def _cached_inputs(draw: Draw, size: int) -> Arguments:
    old, t, d = [(1, 1, 2), (2, 1, 2), (1, 2, 2), (2, 3, 2), (3, 4, 4), (5, 3, 6)][size]
    q, k, v = draw.normal(t, d), draw.normal(t, d), draw.normal(t, d)
    return draw.rotation(d), q, k, v, draw.normal(old, d), draw.normal(old, d)


def _cached_oracle(
    rotate: Rotate, q: Tensor, k: Tensor, v: Tensor, keys: Tensor, values: Tensor
) -> Result:
    old = len(keys)
    turned_q, all_keys, all_values = [], list(keys), list(values)
    for i in range(len(q)):  # one token at a time, as in plain decoding
        place = torch.tensor([old + i])
        turned_q.append(rotate(q[i : i + 1], place)[0])
        all_keys.append(rotate(k[i : i + 1], place)[0])
        all_values.append(v[i])
    new_keys, new_values = torch.stack(all_keys), torch.stack(all_values)
    rows = attention_loops(
        torch.stack(turned_q), new_keys, new_values, lambda t, s: s <= len(keys) + t
    )
    return torch.tensor(rows, dtype=torch.float64), new_keys, new_values


def _attend(q: Tensor, keys: Tensor, values: Tensor, visible: Tensor) -> Result:
    scores = (q @ keys.T / math.sqrt(q.shape[-1])).masked_fill(~visible, -math.inf)
    return torch.softmax(scores, dim=-1) @ values, keys, values


def _visible(old: int, t: int) -> Tensor:
    return torch.ones(t, old + t, dtype=torch.bool).tril(old)


def _chunk(
    rotate: Rotate, q: Tensor, k: Tensor, v: Tensor, keys: Tensor, values: Tensor, start: int
) -> tuple[Tensor, Tensor, Tensor]:
    places = torch.arange(start, start + len(q))
    return rotate(q, places), torch.cat([keys, rotate(k, places)]), torch.cat([values, v])


def _cached_no_mask(
    rotate: Rotate, q: Tensor, k: Tensor, v: Tensor, keys: Tensor, values: Tensor
) -> Result:
    chunk = _chunk(rotate, q, k, v, keys, values, len(keys))
    return _attend(*chunk, torch.ones(len(q), len(keys) + len(q), dtype=torch.bool))


def _cached_upper_left(
    rotate: Rotate, q: Tensor, k: Tensor, v: Tensor, keys: Tensor, values: Tensor
) -> Result:
    chunk = _chunk(rotate, q, k, v, keys, values, len(keys))
    return _attend(*chunk, torch.ones(len(q), len(keys) + len(q), dtype=torch.bool).tril())


def _cached_inverted(
    rotate: Rotate, q: Tensor, k: Tensor, v: Tensor, keys: Tensor, values: Tensor
) -> Result:
    chunk = _chunk(rotate, q, k, v, keys, values, len(keys))
    return _attend(*chunk, ~_visible(len(keys), len(q)))


def _cached_inverted_zero(
    rotate: Rotate, q: Tensor, k: Tensor, v: Tensor, keys: Tensor, values: Tensor
) -> Result:
    out, *rest = _cached_inverted(rotate, q, k, v, keys, values)
    return out.nan_to_num(0.0), *rest


def _cached_restart(
    rotate: Rotate, q: Tensor, k: Tensor, v: Tensor, keys: Tensor, values: Tensor
) -> Result:
    return _attend(*_chunk(rotate, q, k, v, keys, values, 0), _visible(len(keys), len(q)))


def _cached_one_late(
    rotate: Rotate, q: Tensor, k: Tensor, v: Tensor, keys: Tensor, values: Tensor
) -> Result:
    chunk = _chunk(rotate, q, k, v, keys, values, len(keys) + 1)
    return _attend(*chunk, _visible(len(keys), len(q)))


def _cached_turned_again(
    rotate: Rotate, q: Tensor, k: Tensor, v: Tensor, keys: Tensor, values: Tensor
) -> Result:
    old, every = len(keys), torch.cat([keys, k])
    turned = rotate(every, torch.arange(len(every)))
    q = rotate(q, torch.arange(old, len(every)))
    return _attend(q, turned, torch.cat([values, v]), _visible(old, len(q)))


def _cached_keys_unturned(
    rotate: Rotate, q: Tensor, k: Tensor, v: Tensor, keys: Tensor, values: Tensor
) -> Result:
    q = rotate(q, torch.arange(len(keys), len(keys) + len(q)))
    return _attend(q, torch.cat([keys, k]), torch.cat([values, v]), _visible(len(keys), len(q)))


def _cached_queries_unturned(
    rotate: Rotate, q: Tensor, k: Tensor, v: Tensor, keys: Tensor, values: Tensor
) -> Result:
    _, every, every_value = _chunk(rotate, q, k, v, keys, values, len(keys))
    return _attend(q, every, every_value, _visible(len(keys), len(q)))


def _cached_values_turned(
    rotate: Rotate, q: Tensor, k: Tensor, v: Tensor, keys: Tensor, values: Tensor
) -> Result:
    v = rotate(v, torch.arange(len(keys), len(keys) + len(q)))
    return _attend(*_chunk(rotate, q, k, v, keys, values, len(keys)), _visible(len(keys), len(q)))


def _cached_only_cache(
    rotate: Rotate, q: Tensor, k: Tensor, v: Tensor, keys: Tensor, values: Tensor
) -> Result:
    q, every, every_value = _chunk(rotate, q, k, v, keys, values, len(keys))
    out, _, _ = _attend(q, keys, values, torch.ones(len(q), len(keys), dtype=torch.bool))
    return out, every, every_value


def _cached_in_front(
    rotate: Rotate, q: Tensor, k: Tensor, v: Tensor, keys: Tensor, values: Tensor
) -> Result:
    t, old = len(q), len(keys)
    places = torch.arange(old, old + t)
    mask = _visible(old, t)
    mask = torch.cat([mask[:, old:], mask[:, :old]], dim=1)
    every, every_value = torch.cat([rotate(k, places), keys]), torch.cat([v, values])
    return _attend(
        rotate(q, places), every, every_value, torch.cat([mask[:, old:], mask[:, :old]], 1)
    )


def _cached_as_without(
    rotate: Rotate, q: Tensor, k: Tensor, v: Tensor, keys: Tensor, values: Tensor
) -> Result:
    mask = torch.ones(len(q), len(keys) + len(q), dtype=torch.bool).tril()
    return _attend(*_chunk(rotate, q, k, v, keys, values, 0), mask)


def _cached_not_itself(
    rotate: Rotate, q: Tensor, k: Tensor, v: Tensor, keys: Tensor, values: Tensor
) -> Result:
    mask = torch.ones(len(q), len(keys) + len(q), dtype=torch.bool).tril(len(keys) - 1)
    return _attend(*_chunk(rotate, q, k, v, keys, values, len(keys)), mask)


def _cached_unscaled(
    rotate: Rotate, q: Tensor, k: Tensor, v: Tensor, keys: Tensor, values: Tensor
) -> Result:
    chunk = _chunk(rotate, q * math.sqrt(q.shape[-1]), k, v, keys, values, len(keys))
    return _attend(*chunk, _visible(len(keys), len(q)))


def _cached_new_only(
    rotate: Rotate, q: Tensor, k: Tensor, v: Tensor, keys: Tensor, values: Tensor
) -> Result:
    out, every, every_value = _cached_in_two_parts(rotate, q, k, v, keys, values)
    return out, every[len(keys) :], every_value[len(keys) :]


def _cached_in_two_parts(
    rotate: Rotate, q: Tensor, k: Tensor, v: Tensor, keys: Tensor, values: Tensor
) -> Result:
    # Cache and chunk attended apart: only the chunk needs a mask.
    t, scale = len(q), q.shape[-1] ** -0.5
    places = torch.arange(len(keys), len(keys) + t)
    q, k = rotate(q, places), rotate(k, places)
    later = torch.full((t, t), -math.inf, dtype=q.dtype).triu(1)
    scores = torch.cat([q @ keys.T * scale, q @ k.T * scale + later], dim=1)
    weights = (scores - scores.logsumexp(dim=1, keepdim=True)).exp()
    out = weights[:, : len(keys)] @ values + weights[:, len(keys) :] @ v
    return out, torch.cat([keys, k]), torch.cat([values, v])


def _chunk_is_causal(got: Result, arguments: Arguments, call: Answer) -> str | None:
    rotate, q, k, v, keys, values = arguments
    if len(q) < 2:
        return None
    changed = v.clone()
    changed[-1] += 100.0
    if float((call(rotate, q, k, changed, keys, values)[0] - got[0])[:-1].abs().max()) > 1e-6:
        return "changing the value of the chunk's last token changed the outputs before it"
    return None


def _whole_past_counts(got: Result, arguments: Arguments, call: Answer) -> str | None:
    rotate, q, k, v, keys, values = arguments
    for place in range(len(values)):
        changed = values.clone()
        changed[place] += 100.0
        moved = (call(rotate, q, k, v, keys, changed)[0] - got[0]).abs().amax(dim=-1)
        if bool((moved < 1e-9).any()):
            token = int((moved < 1e-9).nonzero()[0])
            return f"token {token} of the chunk does not look at cached position {place}"
    return None


def _cache_is_kept(got: Result, arguments: Arguments, call: Answer) -> str | None:
    *_, keys, values = arguments
    for name, new, old in (("keys", got[1], keys), ("values", got[2], values)):
        if not torch.equal(new[: len(old)], old):
            return f"the cached {name} must come back first and unchanged, the new ones after them"
    if not torch.equal(got[2][len(values) :], arguments[3]):
        return "the new values must be stored as they are"
    return None


def _new_keys_are_turned(got: Result, arguments: Arguments, call: Answer) -> str | None:
    rotate, _, k, _, keys, _ = arguments
    places = torch.arange(len(keys), len(keys) + len(k))
    for place, stored, wanted in zip(places.tolist(), got[1][len(keys) :], rotate(k, places)):
        if float((stored - wanted).abs().max()) > 1e-9:
            return f"the key stored for position {place} is not k turned by position {place}"
    return None


INVERTED = (
    "The mask is inverted: each token attends only to the future, and the last one to nothing. "
    "masked_fill wants True where to hide, scaled_dot_product_attention True where to look."
)

CACHED_ATTENTION = Exercise(
    id="3.8",
    title="a chunk of tokens over a cache",
    name="cached_attention",
    signature=(
        "cached_attention(rotate, q: Tensor, k: Tensor, v: Tensor, keys: Tensor, values: Tensor)"
        " -> tuple[Tensor, Tensor, Tensor]"
    ),
    taught="Part 3, the key-value cache",
    difficulty=4,
    minutes=20,
    make_inputs=_cached_inputs,
    oracle=_cached_oracle,
    statement="the chunk attends as if its tokens had come one by one, after the cached ones",
    properties=(
        Property("the cache is kept as it is", _cache_is_kept),
        Property("new keys are stored turned by their positions", _new_keys_are_turned),
        Property("no token of the chunk sees a later one", _chunk_is_causal),
        Property("every token sees the whole cache", _whole_past_counts),
    ),
    forbidden=(
        "torch.nn.functional.scaled_dot_product_attention",
        "torch.nn.functional.multi_head_attention_forward",
    ),
    wrong_answers=(
        WrongAnswer(
            "no mask in the chunk",
            _cached_no_mask,
            "Nothing is masked: right for one new token, and with several at once each sees the "
            "later ones of its own chunk. Token i sees the P cached positions and the first i + 1 "
            "new ones.",
        ),
        WrongAnswer(
            "mask aligned to the upper left",
            _cached_upper_left,
            "The causal mask starts in the upper left corner, as is_causal=True has it, so token i "
            "sees only positions 0 to i. It stands at P + i: tril(diagonal=P).",
        ),
        WrongAnswer(
            "as without a cache",
            _cached_as_without,
            "Positions and mask both start at 0, as if there were no cache. With P tokens before "
            "it the chunk starts at position P, and token i sees all keys up to P + i.",
        ),
        WrongAnswer(
            "the token itself not seen",
            _cached_not_itself,
            "The diagonal is one short: token i sees the cache and the chunk before it, not "
            "itself. tril(diagonal=P) includes it.",
        ),
        WrongAnswer("inverted mask", _cached_inverted, INVERTED),
        WrongAnswer("inverted mask, empty rows zero", _cached_inverted_zero, INVERTED),
        WrongAnswer(
            "positions start again",
            _cached_restart,
            "The chunk's positions start at 0 again. Its first token comes after the P cached "
            "ones: position P.",
        ),
        WrongAnswer(
            "positions one too late",
            _cached_one_late,
            "The positions are one too large: P cached tokens hold positions 0 to P - 1, so the "
            "chunk starts at P.",
        ),
        WrongAnswer(
            "cached keys turned again",
            _cached_turned_again,
            "The cached keys are rotated a second time. They were stored with their rotation: turn "
            "only the new ones, before appending them.",
        ),
        WrongAnswer(
            "keys not turned",
            _cached_keys_unturned,
            "The new keys are stored without their rotation, beside cached ones that have it. "
            "Turn queries and keys.",
        ),
        WrongAnswer(
            "queries not turned",
            _cached_queries_unturned,
            "The keys are rotated and the queries are not, so the scores depend on where the text "
            "stands. Turn both by their positions.",
        ),
        WrongAnswer(
            "values turned",
            _cached_values_turned,
            "The values are rotated too. Position enters through the scores alone: only queries "
            "and keys turn.",
        ),
        WrongAnswer(
            "the chunk itself not attended",
            _cached_only_cache,
            "The tokens attend to the cache only, not to themselves and the chunk. Append first, "
            "then attend over all P + T keys.",
        ),
        WrongAnswer(
            "only the new ones returned",
            _cached_new_only,
            "The outputs are right, and only the new keys and values come back. Return the whole "
            "grown cache, P + T of each.",
        ),
        WrongAnswer(
            "unscaled",
            _cached_unscaled,
            "The scores are not divided by sqrt(D).",
        ),
        WrongAnswer(
            "new tokens in front",
            _cached_in_front,
            "The new keys and values stand in front of the old ones. The cache is in the order of "
            "the text: torch.cat([keys, new]).",
        ),
    ),
    alternatives=(_cached_in_two_parts,),
    examples=(
        (
            rotation(torch.tensor([math.pi / 2], dtype=torch.float64)),
            torch.zeros(2, 2, dtype=torch.float64),
            torch.tensor([[1.0, 0.0], [1.0, 0.0]], dtype=torch.float64),
            torch.tensor([[4.0, 0.0], [9.0, 0.0]], dtype=torch.float64),
            torch.tensor([[1.0, 0.0]], dtype=torch.float64),
            torch.tensor([[2.0, 0.0]], dtype=torch.float64),
        ),
    ),
)
