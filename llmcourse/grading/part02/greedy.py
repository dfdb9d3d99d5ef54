"""Exercise 2.11 Greedy decoding."""

from __future__ import annotations

import torch
from torch import Tensor

from llmcourse.grading.inputs import Draw
from llmcourse.grading.records import Answer, Arguments, Exercise, Property, WrongAnswer


def _greedy_inputs(draw: Draw, size: int) -> Arguments:
    b, t, v, new = [
        (1, 1, 3, 1),
        (1, 2, 3, 2),
        (1, 1, 4, 4),
        (2, 2, 4, 4),
        (3, 2, 5, 5),
        (3, 3, 6, 6),
    ][size]
    for _ in range(200):
        scores, ids = draw.scores(v), draw.integers(0, v - 1, b, t)
        # The stop token is one that the model does say, but not as the very last word.
        said = [row[t:] for row in _greedy_rows(scores, ids, new, stop=-1)]
        early = [token for row in said for token in row[:-1]]
        stop = draw.pick(early) if early else said[0][0]
        if size in (3, 4):
            ids[:, 0] = stop  # a stop token in the prompt stops nothing
        if size < 3:
            break
        # In a batch: some row stops before the others and would have had more to say.
        rows = _greedy_rows(scores, ids, new, stop)
        free = _greedy_rows(scores, ids, new, stop=-1)
        longest = max(len(row) for row in rows)
        talks_on = any(set(f[len(r) : longest]) - {stop} for r, f in zip(rows, free))
        if talks_on and (size != 3 or _all_stop_apart(scores, ids, new, stop)):
            break
    return scores, ids, new, stop


def _all_stop_apart(scores: Answer, ids: Tensor, new: int, stop: int) -> bool:
    """Whether all rows stop before the last step, and never all in one step."""
    together = _greedy_together(scores, ids, new, stop)
    return together.shape[1] > _greedy_goes_on(scores, ids, new, stop).shape[1]


def _greedy_rows(scores: Answer, ids: Tensor, new: int, stop: int) -> list[list[int]]:
    """Each row decoded by itself, which batched decoding must agree with."""
    rows = []
    for prompt in ids.tolist():
        row = list(prompt)
        for _ in range(new):
            last = scores(torch.tensor([row]))[0, -1].tolist()
            row.append(last.index(max(last)))
            if row[-1] == stop:
                break
        rows.append(row)
    return rows


def _greedy_oracle(next_logits: Answer, ids: Tensor, max_new_tokens: int, stop: int) -> Tensor:
    rows = _greedy_rows(next_logits, ids, max_new_tokens, stop)
    longest = max(len(row) for row in rows)
    return torch.tensor([row + [stop] * (longest - len(row)) for row in rows])


def _greedy_general(
    scores: Answer,
    ids: Tensor,
    new: int,
    stop: int,
    *,
    freeze: bool = True,
    end: str = "all",
    position: int = -1,
    append: bool = True,
    done_at_start: bool = False,
) -> Tensor:
    done = (ids == stop).any(1) if done_at_start else torch.zeros(len(ids), dtype=torch.bool)
    for _ in range(new):
        token = scores(ids)[:, position].argmax(-1)
        if freeze:
            token = torch.where(done, stop, token)
        after = done | (token == stop)
        if not append and bool(after.all()):
            break
        done = after
        ids = torch.cat([ids, token[:, None]], dim=1)
        ended = {"all": done.all(), "any": done.any(), "together": (token == stop).all()}
        if end in ended and bool(ended[end]):
            break
    return ids


def _greedy_never_stops(scores: Answer, ids: Tensor, new: int, stop: int) -> Tensor:
    return _greedy_general(scores, ids, new, stop, freeze=False, end="never")


def _greedy_goes_on(scores: Answer, ids: Tensor, new: int, stop: int) -> Tensor:
    return _greedy_general(scores, ids, new, stop, freeze=False)


def _greedy_together(scores: Answer, ids: Tensor, new: int, stop: int) -> Tensor:
    return _greedy_general(scores, ids, new, stop, freeze=False, end="together")


def _greedy_any(scores: Answer, ids: Tensor, new: int, stop: int) -> Tensor:
    return _greedy_general(scores, ids, new, stop, end="any")


def _greedy_first_position(scores: Answer, ids: Tensor, new: int, stop: int) -> Tensor:
    return _greedy_general(scores, ids, new, stop, position=0)


def _greedy_prompt_stops(scores: Answer, ids: Tensor, new: int, stop: int) -> Tensor:
    return _greedy_general(scores, ids, new, stop, done_at_start=True)


def _greedy_stop_not_appended(scores: Answer, ids: Tensor, new: int, stop: int) -> Tensor:
    return _greedy_general(scores, ids, new, stop, append=False)


def _greedy_new_only(scores: Answer, ids: Tensor, new: int, stop: int) -> Tensor:
    return _greedy_general(scores, ids, new, stop)[:, ids.shape[1] :]


def _greedy_in_place(next_logits: Answer, ids: Tensor, max_new_tokens: int, stop: int) -> Tensor:
    b, t = ids.shape
    out = torch.full((b, t + max_new_tokens), stop)
    out[:, :t] = ids
    alive = torch.ones(b, dtype=torch.bool)
    length = t
    while length < t + max_new_tokens and alive.any():
        # only the rows that are still running are scored
        token = next_logits(out[alive, :length])[:, -1].max(dim=-1).indices
        out[alive, length] = token
        alive[alive.clone()] = token != stop
        length += 1
    return out[:, :length]


def _prompt_is_kept(got: Tensor, arguments: Arguments, call: Answer) -> str | None:
    _, ids, _, _ = arguments
    if not torch.equal(got[:, : ids.shape[1]], ids):
        return "the result must begin with the prompt"
    return None


def _stopped_stays_stopped(got: Tensor, arguments: Arguments, call: Answer) -> str | None:
    _, ids, _, stop = arguments
    for index, row in enumerate(got[:, ids.shape[1] :].tolist()):
        if stop in row and any(token != stop for token in row[row.index(stop) :]):
            return f"row {index} goes on talking after its stop token"
    return None


def _stops_when_all_have(got: Tensor, arguments: Arguments, call: Answer) -> str | None:
    _, ids, _, stop = arguments
    if got.shape[1] > ids.shape[1] + 1 and bool((got[:, -2] == stop).all()):
        before = got[:, ids.shape[1] : -1]
        if bool((before == stop).any(1).all()):
            return "all rows had stopped and the loop went on"
    return None


GREEDY = Exercise(
    id="2.11",
    title="greedy decoding of a batch",
    name="greedy_decode",
    signature=("greedy_decode(next_logits, ids: Tensor, max_new_tokens: int, stop: int) -> Tensor"),
    taught="Part 2, sampling",
    difficulty=4,
    minutes=20,
    make_inputs=_greedy_inputs,
    oracle=_greedy_oracle,
    statement="each row is what greedy decoding of it alone gives, filled up with the stop token",
    properties=(
        Property("the prompt is kept", _prompt_is_kept),
        Property("a row that has stopped stays stopped", _stopped_stays_stopped),
        Property("the loop ends when every row has stopped", _stops_when_all_have),
    ),
    forbidden=(),
    wrong_answers=(
        WrongAnswer(
            "never stops",
            _greedy_never_stops,
            "The stop token is ignored: max_new_tokens are generated every time.",
        ),
        WrongAnswer(
            "stopped rows go on",
            _greedy_goes_on,
            "Rows that have stopped go on while others are running. Once a row has said stop, "
            "every later token of it is stop.",
        ),
        WrongAnswer(
            "ends when all rows say stop at once",
            _greedy_together,
            "The loop ends only when all rows say stop in the same step, and until then rows that "
            "have stopped talk on. Remember for each row whether it has stopped.",
        ),
        WrongAnswer(
            "stops with the first row",
            _greedy_any,
            "The whole batch ends as soon as one row stops. Go on until all rows have.",
        ),
        WrongAnswer(
            "logits of the first position",
            _greedy_first_position,
            "The next token is read off the first position. The prediction of what comes next "
            "stands at the last one: [:, -1].",
        ),
        WrongAnswer(
            "a stop token in the prompt counts",
            _greedy_prompt_stops,
            "A stop token in the prompt ends the row at once. Only generated tokens count.",
        ),
        WrongAnswer(
            "last stop token missing",
            _greedy_stop_not_appended,
            "The loop ends before the stop token is appended. It belongs to the result, so that "
            "the reader sees that the text is finished.",
        ),
        WrongAnswer(
            "prompt left out",
            _greedy_new_only,
            "Only the new tokens are returned; the result starts with the prompt.",
        ),
    ),
    alternatives=(_greedy_in_place,),
    examples=((torch.nn.functional.one_hot, torch.tensor([[0, 2, 1]]), 2, 0),),
)
