"""Exercise 5.6 Who finds a place: capacity and dropped tokens."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from llmcourse.grading.inputs import Draw
from llmcourse.grading.records import Answer, Arguments, Exercise, Property, WrongAnswer

# Choices of each token, E and the factor. Which expert has which number is drawn.
_FIXED = [
    ([[0], [0]], 2, 1.0),  # one place each
    ([[0], [0], [0], [1], [0], [0], [2]], 4, 1.0),  # ceil(1.75) = 2
    ([[0, 1], [1, 0], [1, 2]], 4, 1.25),  # ceil(1.875) = 2
    ([[0, 1], [2, 1], [1, 3], [0, 3], [1, 0]], 4, 0.5),  # ceil(1.25) = 2
]


def _capacity_inputs(draw: Draw, size: int) -> Arguments:
    if size < len(_FIXED):
        rows, e, factor = _FIXED[size]
        names = draw.distinct(e, 0, e - 1)
        return torch.tensor([[names[x] for x in row] for row in rows]), e, factor
    n, e, k, factor = [(8, 4, 2, 0.75), (9, 4, 3, draw.pick([0.75, 1.25]))][size - len(_FIXED)]
    favourite = draw.integer(0, e - 1)
    rows = []
    for token in range(n):
        row = draw.distinct(k, 0, e - 1)
        if favourite in row and token % 3:  # nearly everybody's first or second wish
            row.insert(token % 2, row.pop(row.index(favourite)))
        rows.append(row)
    return torch.tensor(rows), e, factor


def _capacity_oracle(experts: Tensor, n_experts: int, factor: float) -> Tensor:
    n, k = experts.shape
    places = [math.ceil(factor * n * k / n_experts)] * n_experts
    kept = [[False] * k for _ in range(n)]
    for choice in range(k):
        for token in range(n):
            expert = int(experts[token, choice])
            if places[expert] > 0:
                places[expert] -= 1
                kept[token][choice] = True
    return torch.tensor(kept)


def _room(experts: Tensor, n_experts: int, factor: float) -> int:
    return math.ceil(factor * experts.numel() / n_experts)


def _seated(queue: Tensor, n_experts: int, room: int) -> Tensor:
    """(A,) experts in the order in which they are asked -> (A,) whether there was a place."""
    one_hot = torch.nn.functional.one_hot(queue, n_experts)  # (A, E)
    place = (one_hot.cumsum(0) * one_hot).sum(-1)  # from 1
    return place <= room


def _first_choices_first(experts: Tensor, n_experts: int, room: int) -> Tensor:
    n, k = experts.shape
    return _seated(experts.T.reshape(-1), n_experts, room).view(k, n).T.contiguous()


def _capacity_token_by_token(experts: Tensor, n_experts: int, factor: float) -> Tensor:
    room = _room(experts, n_experts, factor)
    return _seated(experts.reshape(-1), n_experts, room).view_as(experts)


def _capacity_rounded_down(experts: Tensor, n_experts: int, factor: float) -> Tensor:
    return _first_choices_first(experts, n_experts, int(factor * experts.numel() / n_experts))


def _capacity_rounded(experts: Tensor, n_experts: int, factor: float) -> Tensor:
    return _first_choices_first(experts, n_experts, round(factor * experts.numel() / n_experts))


def _capacity_earliest_dropped(experts: Tensor, n_experts: int, factor: float) -> Tensor:
    room = _room(experts, n_experts, factor)
    return _first_choices_first(experts.flip(0), n_experts, room).flip(0)


def _capacity_without_k(experts: Tensor, n_experts: int, factor: float) -> Tensor:
    return _first_choices_first(experts, n_experts, math.ceil(factor * len(experts) / n_experts))


def _capacity_without_factor(experts: Tensor, n_experts: int, factor: float) -> Tensor:
    return _first_choices_first(experts, n_experts, math.ceil(experts.numel() / n_experts))


def _capacity_room_per_choice(experts: Tensor, n_experts: int, factor: float) -> Tensor:
    room = _room(experts, n_experts, factor)
    columns = [_seated(column, n_experts, room) for column in experts.T]
    return torch.stack(columns, dim=1)


def _capacity_all_or_nothing(experts: Tensor, n_experts: int, factor: float) -> Tensor:
    kept = _first_choices_first(experts, n_experts, _room(experts, n_experts, factor))
    return kept.all(-1, keepdim=True).expand_as(kept).clone()


def _capacity_one_more(experts: Tensor, n_experts: int, factor: float) -> Tensor:
    return _first_choices_first(experts, n_experts, _room(experts, n_experts, factor) + 1)


def _capacity_dropped(experts: Tensor, n_experts: int, factor: float) -> Tensor:
    return ~_first_choices_first(experts, n_experts, _room(experts, n_experts, factor))


def _capacity_full_experts_out(experts: Tensor, n_experts: int, factor: float) -> Tensor:
    counts = torch.bincount(experts.reshape(-1), minlength=n_experts)
    return (counts <= _room(experts, n_experts, factor))[experts]


def _capacity_last_choices_first(experts: Tensor, n_experts: int, factor: float) -> Tensor:
    room = _room(experts, n_experts, factor)
    return _first_choices_first(experts.flip(1), n_experts, room).flip(1)


def _capacity_shared(experts: Tensor, n_experts: int, factor: float) -> Tensor:
    # One room for all experts together.
    n, k = experts.shape
    places = torch.arange(n * k) < _room(experts, n_experts, factor)
    return places.view(k, n).T.contiguous()


def _capacity_by_sorting(experts: Tensor, n_experts: int, factor: float) -> Tensor:
    n, k = experts.shape
    room = math.ceil(factor * n * k / n_experts)
    queue = experts.t().flatten()
    order = torch.argsort(queue, stable=True)  # expert by expert, in the order of the queue
    begins = torch.searchsorted(queue[order], torch.arange(n_experts))
    kept = torch.zeros(n * k, dtype=torch.bool)
    kept[order] = torch.arange(n * k) - begins[queue[order]] < room
    return kept.reshape(k, n).t()


def _capacity_by_counting(experts: Tensor, n_experts: int, factor: float) -> Tensor:
    room = math.ceil(factor * experts.numel() / n_experts)
    taken = torch.zeros(n_experts, dtype=torch.int64)
    kept = torch.empty(experts.shape, dtype=torch.bool)
    for choice in range(experts.shape[1]):
        for token, expert in enumerate(experts[:, choice]):
            kept[token, choice] = taken[expert] < room
            taken[expert] += 1
    return kept


def _nobody_overfull(got: Tensor, arguments: Arguments, call: Answer) -> str | None:
    experts, n_experts, factor = arguments
    room = _room(experts, n_experts, factor)
    for expert in range(n_experts):
        count = int(((experts == expert) & got).sum())
        if count > room:
            return f"expert {expert} takes {count} tokens and has room for {room}"
    return None


def _no_place_wasted(got: Tensor, arguments: Arguments, call: Answer) -> str | None:
    experts, n_experts, factor = arguments
    room = _room(experts, n_experts, factor)
    for expert in range(n_experts):
        asked = experts == expert
        taken = int((asked & got).sum())
        if taken < min(room, int(asked.sum())):
            return (
                f"expert {expert} turns tokens away: it takes {taken} of {int(asked.sum())} and "
                f"has room for {room}"
            )
    return None


CAPACITY = Exercise(
    id="5.6",
    title="capacity: who finds a place",
    name="within_capacity",
    signature="within_capacity(experts: Tensor, n_experts: int, factor: float) -> Tensor",
    taught="Part 5, capacity, and who is dropped",
    difficulty=3,
    minutes=20,
    make_inputs=_capacity_inputs,
    oracle=_capacity_oracle,
    statement="which choices find a place: first choices first, in the order of the tokens",
    properties=(
        Property("no expert takes more than it has room for", _nobody_overfull),
        Property("no place stays empty while a token asks for it", _no_place_wasted),
    ),
    wrong_answers=(
        WrongAnswer(
            "token by token",
            _capacity_token_by_token,
            "The places go to one token after the other, all its choices at once. First all first "
            "choices are served, then the second ones: a second choice must not push out a later "
            "token's first.",
        ),
        WrongAnswer(
            "rounded down",
            _capacity_rounded_down,
            "The room is rounded down. It is rounded up, so that with factor 1 everybody has a "
            "place when the load is even.",
        ),
        WrongAnswer(
            "rounded to the nearest",
            _capacity_rounded,
            "The room is rounded to the nearest whole number. It is always rounded up: math.ceil.",
        ),
        WrongAnswer(
            "the earliest dropped",
            _capacity_earliest_dropped,
            "The latest tokens find a place and the earliest are dropped. Places go in the order "
            "of the tokens.",
        ),
        WrongAnswer(
            "k forgotten",
            _capacity_without_k,
            "The room is that for one choice per token: k is missing. There are N k assignments to "
            "seat.",
        ),
        WrongAnswer(
            "factor forgotten",
            _capacity_without_factor,
            "The factor is not used: the room is factor * N * k / E, rounded up.",
        ),
        WrongAnswer(
            "room for each choice",
            _capacity_room_per_choice,
            "First and second choices have a room each, so an expert can be filled k times over. "
            "Second choices find what the first ones have left.",
        ),
        WrongAnswer(
            "all or nothing",
            _capacity_all_or_nothing,
            "A token that loses one of its choices loses all. Each choice stands for itself.",
        ),
        WrongAnswer(
            "one place too many",
            _capacity_one_more,
            "Every expert has one place too many: counted from 0, the places are those below the "
            "room.",
        ),
        WrongAnswer(
            "those dropped",
            _capacity_dropped,
            "The mask is inverted: True is for choices that find a place.",
        ),
        WrongAnswer(
            "overfull experts take nobody",
            _capacity_full_experts_out,
            "An expert that too many ask for takes nobody at all. It takes as many as it has room "
            "for.",
        ),
        WrongAnswer(
            "last choices first",
            _capacity_last_choices_first,
            "The last choices are served before the first ones.",
        ),
        WrongAnswer(
            "one room for all",
            _capacity_shared,
            "All experts share one room. Each has its own: count the places expert by expert.",
        ),
    ),
    alternatives=(_capacity_by_sorting, _capacity_by_counting),
    examples=((torch.tensor([[0, 1], [1, 0], [1, 2]]), 4, 1.25),),
)
