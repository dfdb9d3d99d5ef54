"""Exercise 3.9 A rolling buffer with sinks."""

from __future__ import annotations

from llmcourse.grading.inputs import Draw
from llmcourse.grading.records import Answer, Arguments, Exercise, Property, WrongAnswer

Result = tuple[list[list[int]], list[int]]
EMPTY = -1


def _held_after(n: int, window: int, sinks: int) -> list[int]:
    """Which position each slot holds once n tokens were written, one by one."""
    slots = [EMPTY] * (sinks + window)
    for p in range(n):
        slots[p if p < sinks else sinks + (p - sinks) % window] = p
    return slots


def _rolling_inputs(draw: Draw, size: int) -> Arguments:
    n, count, window, sinks = [
        (0, 2, 2, 0),
        (2, 1, 2, 0),
        (3, 1, 2, 1),
        (5, 3, 3, 2),
        (draw.integer(7, 9), 4, 3, 1),
        (draw.integer(12, 20), 5, 4, 2),
    ][size]
    return _held_after(n, window, sinks), n, count, window, sinks


def _rolling_oracle(slots: list[int], n: int, count: int, window: int, sinks: int) -> Result:
    seen = [[j for j in range(p + 1) if p - j < window or j < sinks] for p in range(n, n + count)]
    return seen, _held_after(n + count, window, sinks)


def _sees(p: int, positions: list[int], window: int, sinks: int) -> list[int]:
    near = {j for j in positions if 0 <= j <= p and (p - j < window or j < sinks)}
    return sorted(near)


def _written(slots: list[int], n: int, count: int, window: int, sinks: int) -> list[int]:
    new = list(slots)
    for p in range(n, n + count):
        new[p if p < sinks else sinks + (p - sinks) % window] = p
    return new


def _rolling_too_soon(slots: list[int], n: int, count: int, window: int, sinks: int) -> Result:
    new = _written(slots, n, count, window, sinks)
    return [_sees(p, new, window, sinks) for p in range(n, n + count)], new


def _rolling_grows(slots: list[int], n: int, count: int, window: int, sinks: int) -> Result:
    seen, _ = _rolling_by_steps(slots, n, count, window, sinks)
    return seen, [p for p in slots if p != EMPTY] + list(range(n, n + count))


def _rolling_no_sink_slots(slots: list[int], n: int, count: int, window: int, sinks: int) -> Result:
    seen, _ = _rolling_by_steps(slots, n, count, window, sinks)
    new = list(slots)
    for p in range(n, n + count):
        new[p % (sinks + window)] = p
    return seen, new


def _rolling_shifted_wrap(slots: list[int], n: int, count: int, window: int, sinks: int) -> Result:
    seen, _ = _rolling_by_steps(slots, n, count, window, sinks)
    new = list(slots)
    for p in range(n, n + count):
        new[p if p < sinks else sinks + p % window] = p
    return seen, new


def _rolling_by_age(slots: list[int], n: int, count: int, window: int, sinks: int) -> Result:
    seen, _ = _rolling_by_steps(slots, n, count, window, sinks)
    every = range(n + count)
    held = [p for p in every if p < sinks or p >= n + count - window]
    # Where fewer tokens came than there are slots nothing has moved yet.
    return seen, (held + [EMPTY] * (sinks + window))[: sinks + window]


def _rolling_future(slots: list[int], n: int, count: int, window: int, sinks: int) -> Result:
    there = [j for j in slots if j != EMPTY] + list(range(n, n + count))
    seen = [sorted(j for j in there if p - j < window or j < sinks) for p in range(n, n + count)]
    return seen, _written(slots, n, count, window, sinks)


def _rolling_wide(slots: list[int], n: int, count: int, window: int, sinks: int) -> Result:
    there = [*slots, *range(n, n + count)]
    seen = [_sees(p, there, window + 1, sinks) for p in range(n, n + count)]
    return seen, _written(slots, n, count, window, sinks)


def _rolling_whole_buffer(slots: list[int], n: int, count: int, window: int, sinks: int) -> Result:
    there = [j for j in slots if j != EMPTY] + list(range(n, n + count))
    seen = [sorted(j for j in there if j <= p) for p in range(n, n + count)]
    return seen, _written(slots, n, count, window, sinks)


def _rolling_sinks_unseen(slots: list[int], n: int, count: int, window: int, sinks: int) -> Result:
    there = [*slots, *range(n, n + count)]
    seen = [_sees(p, there, window, 0) for p in range(n, n + count)]
    return seen, _written(slots, n, count, window, sinks)


def _rolling_itself_unseen(slots: list[int], n: int, count: int, window: int, sinks: int) -> Result:
    seen, new = _rolling_by_steps(slots, n, count, window, sinks)
    return [[j for j in row if j != p] for p, row in zip(range(n, n + count), seen)], new


def _rolling_plain_ring(slots: list[int], n: int, count: int, window: int, sinks: int) -> Result:
    new, seen = list(slots), []
    for p in range(n, n + count):
        new[p % (sinks + window)] = p
        seen.append(sorted(j for j in new if j != EMPTY))
    return seen, new


def _rolling_slot_order(slots: list[int], n: int, count: int, window: int, sinks: int) -> Result:
    new, seen = list(slots), []
    for p in range(n, n + count):
        new[p if p < sinks else sinks + (p - sinks) % window] = p
        seen.append([j for j in new if j != EMPTY])
    return seen, new


def _rolling_empty_seen(slots: list[int], n: int, count: int, window: int, sinks: int) -> Result:
    new, seen = list(slots), []
    for p in range(n, n + count):
        new[p if p < sinks else sinks + (p - sinks) % window] = p
        seen.append(sorted(new))
    return seen, new


def _rolling_by_steps(slots: list[int], n: int, count: int, window: int, sinks: int) -> Result:
    # One token at a time: write it, then look at everything the buffer holds.
    new, seen = list(slots), []
    for p in range(n, n + count):
        new[p if p < sinks else sinks + (p - sinks) % window] = p
        seen.append(sorted(j for j in new if j != EMPTY and (p - j < window or j < sinks)))
    return seen, new


def _bounded(got: Result, arguments: Arguments, call: Answer) -> str | None:
    slots = arguments[0]
    if len(got[1]) != len(slots):
        return f"the buffer has {len(slots)} slots for ever; {len(got[1])} came back"
    return None


def _sinks_stay(got: Result, arguments: Arguments, call: Answer) -> str | None:
    _, n, count, _, sinks = arguments
    for slot in range(min(sinks, n + count)):
        if got[1][slot] != slot:
            return f"slot {slot} must hold the sink at position {slot} for good; it holds " + str(
                got[1][slot]
            )
    return None


def _exact_window(got: Result, arguments: Arguments, call: Answer) -> str | None:
    _, n, count, window, sinks = arguments
    for p, row in zip(range(n, n + count), got[0]):
        if any(j > p for j in row):
            return f"the token at position {p} sees position {max(row)}, which is its future"
        missing = [j for j in range(max(0, p - window + 1), p + 1) if j not in row]
        if missing:
            return f"the token at position {p} has lost position {missing[0]}, inside its window"
        lost = [j for j in range(min(sinks, p + 1)) if j not in row]
        if lost:
            return f"the token at position {p} does not see the sink at position {lost[0]}"
        extra = [j for j in row if p - j >= window and j >= sinks]
        if extra:
            return f"the token at position {p} sees position {extra[0]}, outside its window"
    return None


ROLLING_BUFFER = Exercise(
    id="3.9",
    title="a rolling buffer with sinks",
    name="rolling_step",
    signature=(
        "rolling_step(slots: list[int], n: int, count: int, window: int, sinks: int)"
        " -> tuple[list[list[int]], list[int]]"
    ),
    taught="Part 3, endless streaming",
    difficulty=4,
    minutes=20,
    make_inputs=_rolling_inputs,
    oracle=_rolling_oracle,
    tolerance=1e-12,  # whole numbers: any difference counts
    statement="every token sees its window and the sinks; then slot sinks + (p - sinks) % window",
    properties=(
        Property("the buffer never grows", _bounded),
        Property("the sinks are never overwritten", _sinks_stay),
        Property("every token sees exactly its window and the sinks", _exact_window),
    ),
    wrong_answers=(
        WrongAnswer(
            "overwritten too soon",
            _rolling_too_soon,
            "The whole chunk is written before its first tokens have looked, and what they needed "
            "is overwritten. Look over the old slots and the chunk together, then write.",
        ),
        WrongAnswer(
            "a buffer that grows",
            _rolling_grows,
            "The buffer grows with the text: nothing is ever overwritten. It has sinks + window "
            "slots, and a new token takes the place of the one that left the window.",
        ),
        WrongAnswer(
            "sinks overwritten",
            _rolling_no_sink_slots,
            "The wrap goes round all slots, so the sinks are overwritten. The first `sinks` slots "
            "are theirs; the others take turns: sinks + (p - sinks) % window.",
        ),
        WrongAnswer(
            "a plain ring",
            _rolling_plain_ring,
            "This is a plain ring over all slots: the sinks are overwritten, and ordinary tokens "
            "stay visible past the window. The first `sinks` slots are theirs for good; the others "
            "take turns.",
        ),
        WrongAnswer(
            "in the order of the slots",
            _rolling_slot_order,
            "The right positions, in the order of the slots. Asked for is increasing order: "
            "sorted(...).",
        ),
        WrongAnswer(
            "empty slots seen",
            _rolling_empty_seen,
            "Empty slots (-1) are among what the tokens see. Nothing is stored there: leave them "
            "out.",
        ),
        WrongAnswer(
            "the wrap starts elsewhere",
            _rolling_shifted_wrap,
            "The right positions are kept and the wrap is shifted: sinks + p % window does not put "
            "the first token after the sinks into the first slot after them. Use "
            "(p - sinks) % window.",
        ),
        WrongAnswer(
            "kept in order of age",
            _rolling_by_age,
            "The right positions are kept, in order of age: that moves every key at every step. A "
            "rolling buffer writes one slot and leaves the rest where it is.",
        ),
        WrongAnswer(
            "the chunk sees its future",
            _rolling_future,
            "A token sees later tokens of its own chunk: j <= p is missing.",
        ),
        WrongAnswer(
            "window one too wide",
            _rolling_wide,
            "The window is one too wide: the token itself counts, so p - j < window.",
        ),
        WrongAnswer(
            "everything in the buffer",
            _rolling_whole_buffer,
            "A token sees all that the buffer and the chunk hold up to itself. While it is a "
            "chunk's third token, two of the old ones have left its window already.",
        ),
        WrongAnswer(
            "sinks not seen",
            _rolling_sinks_unseen,
            "The sinks are stored and nobody looks at them. j < sinks is visible whatever the "
            "distance.",
        ),
        WrongAnswer(
            "the token itself not seen",
            _rolling_itself_unseen,
            "A token does not see itself. It belongs to its own window, as in every causal mask.",
        ),
    ),
    alternatives=(_rolling_by_steps,),
    examples=(([0, 4, 2, 3], 5, 2, 3, 1),),
)
