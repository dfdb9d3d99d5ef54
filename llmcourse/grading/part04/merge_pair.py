"""Exercise 4.1 One merge of byte-pair encoding."""

from __future__ import annotations

from itertools import pairwise

from llmcourse.grading.inputs import Draw
from llmcourse.grading.records import Answer, Arguments, Exercise, Property, WrongAnswer

Pair = tuple[int, int]


def _merge_inputs(draw: Draw, size: int) -> Arguments:
    a, b, c = draw.distinct(3, 97, 122)
    new_id = draw.integer(256, 999)
    if size == 5:
        ids = [draw.pick([a, b, b, c]) for _ in range(16)] + [a, b, c, b, b, b, a, b, a]
        return ids, (b, draw.pick([a, b])), new_id
    ids, pair = [
        ([a, b], (a, b)),
        ([c, a, b, c, a, b], (a, b)),
        ([a, a, a], (a, a)),
        ([b, a, c, a, b, a], (a, b)),
        ([c, a, a, a, a, b, a, c, a], (a, a)),
    ][size]
    return ids, pair, new_id


def _merge_oracle(ids: list[int], pair: Pair, new_id: int) -> list[int]:
    # As text: str.replace works from the left and without overlap.
    text = "".join(chr(i) for i in ids).replace(chr(pair[0]) + chr(pair[1]), chr(new_id))
    return [ord(character) for character in text]


def _merge_overlapping(ids: list[int], pair: Pair, new_id: int) -> list[int]:
    starts = [i for i in range(len(ids) - 1) if (ids[i], ids[i + 1]) == pair]
    covered = {i + 1 for i in starts}
    return [
        new_id if i in starts else token
        for i, token in enumerate(ids)
        if i in starts or i not in covered
    ]


def _merge_second_kept(ids: list[int], pair: Pair, new_id: int) -> list[int]:
    found = [tuple(ids[i : i + 2]) == pair for i in range(len(ids))]
    return [new_id if here else token for here, token in zip(found, ids)]


def _merge_from_the_right(ids: list[int], pair: Pair, new_id: int) -> list[int]:
    merged, i = [], len(ids) - 1
    while i >= 0:
        if i > 0 and (ids[i - 1], ids[i]) == pair:
            merged.insert(0, new_id)
            i -= 2
        else:
            merged.insert(0, ids[i])
            i -= 1
    return merged


def _merge_first_only(ids: list[int], pair: Pair, new_id: int) -> list[int]:
    for i in range(len(ids) - 1):
        if (ids[i], ids[i + 1]) == pair:
            return [*ids[:i], new_id, *ids[i + 2 :]]
    return list(ids)


def _merge_either_order(ids: list[int], pair: Pair, new_id: int) -> list[int]:
    merged, i = [], 0
    while i < len(ids):
        if sorted(ids[i : i + 2]) == sorted(pair):
            merged.append(new_id)
            i += 2
        else:
            merged.append(ids[i])
            i += 1
    return merged


def _merge_last_lost(ids: list[int], pair: Pair, new_id: int) -> list[int]:
    merged, i = [], 0
    while i < len(ids) - 1:
        if (ids[i], ids[i + 1]) == pair:
            merged.append(new_id)
            i += 2
        else:
            merged.append(ids[i])
            i += 1
    return merged


def _merge_past_the_end(ids: list[int], pair: Pair, new_id: int) -> list[int]:
    merged, i = [], 0
    while i < len(ids):
        if ids[i] == pair[0] and ids[i + 1] == pair[1]:
            merged.append(new_id)
            i += 2
        else:
            merged.append(ids[i])
            i += 1
    return merged


def _merge_one_by_one(ids: list[int], pair: Pair, new_id: int) -> list[int]:
    # A stack: a token that completes the pair takes its left neighbour back.
    merged: list[int] = []
    for token in ids:
        if merged and (merged[-1], token) == pair:
            merged[-1] = new_id
        else:
            merged.append(token)
    return merged


def _spells_the_same(got: list[int], arguments: Arguments, call: Answer) -> str | None:
    ids, pair, new_id = arguments
    spelled = [one for token in got for one in (pair if token == new_id else (token,))]
    if spelled != ids:
        return (
            f"with {new_id} written out as {pair[0]}, {pair[1]} again, the result spells "
            f"{spelled}, not {ids}"
        )
    return None


def _none_left(got: list[int], arguments: Arguments, call: Answer) -> str | None:
    _, pair, _ = arguments
    if pair in list(pairwise(got)):
        return f"the result still holds {pair[0]} followed by {pair[1]}"
    return None


MERGE_PAIR = Exercise(
    id="4.1",
    title="one merge",
    name="merge_pair",
    signature="merge_pair(ids: list[int], pair: tuple[int, int], new_id: int) -> list[int]",
    taught="Part 4, byte-pair encoding",
    difficulty=1,
    minutes=10,
    make_inputs=_merge_inputs,
    oracle=_merge_oracle,
    tolerance=1e-12,  # whole numbers: any difference counts
    statement="every occurrence of the pair, from the left and without overlap, is the new token",
    properties=(
        Property("the merged tokens spell the same text", _spells_the_same),
        Property("the pair is gone", _none_left),
    ),
    wrong_answers=(
        WrongAnswer(
            "overlapping merges",
            _merge_overlapping,
            "Overlapping pairs are merged as well, so a token goes into two merges and the text "
            "changes: in a a a, only the first two become one. After a merge go on behind both of "
            "its tokens.",
        ),
        WrongAnswer(
            "second token kept",
            _merge_second_kept,
            "The new token replaces the first of the two only: the second is still there. A merge "
            "takes two tokens and leaves one, so move on by two.",
        ),
        WrongAnswer(
            "from the right",
            _merge_from_the_right,
            "Runs are merged from the right. The rule is from the left: a a a becomes the new "
            "token, then a. Training and encoding must agree on it.",
        ),
        WrongAnswer(
            "first occurrence only",
            _merge_first_only,
            "Only the first occurrence is merged. One merge joins the pair everywhere in the text.",
        ),
        WrongAnswer(
            "either order",
            _merge_either_order,
            "The pair is merged in either order. (a, b) and (b, a) are different pairs: 'no' is "
            "not 'on'.",
        ),
        WrongAnswer(
            "last token lost",
            _merge_last_lost,
            "The last token is lost: the loop ends at the last pair, and a token that closes no "
            "pair still belongs to the text.",
        ),
        WrongAnswer(
            "past the end",
            _merge_past_the_end,
            "At the last token there is no next one to look at. Ask first whether i + 1 < "
            "len(ids), or compare slices: they end by themselves.",
        ),
    ),
    alternatives=(_merge_one_by_one,),
    examples=(([97, 97, 97, 98, 97, 97], (97, 97), 256),),
)
