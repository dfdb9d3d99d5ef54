"""Exercise 5.8 Experts in groups."""

from __future__ import annotations

import torch
from torch import Tensor

from llmcourse.grading.inputs import Draw
from llmcourse.grading.records import Answer, Arguments, Exercise, Property, WrongAnswer


def _groups_inputs(draw: Draw, size: int) -> Arguments:
    n, e, groups, active, k = [
        (1, 4, 2, 1, 1),
        (1, 6, 3, 1, 2),
        (2, 6, 2, 1, 2),
        (3, 6, 3, 2, 3),
        (8, 8, 4, 2, 3),
        (12, 9, 3, 2, 4),
    ][size]
    scores = draw.normal(n, e)
    if size == 2:  # two good experts and a hopeless one; a bias can push all below zero
        rows = [[-1.0, -1.5, -9.0, -2.0, -2.5, -3.0], [-2.0, -2.5, -3.0, -1.0, -1.5, -9.0]]
        rows = torch.tensor(rows if draw.integer(0, 1) else rows[::-1], dtype=torch.float64)
        scores = rows + draw.uniform(-0.2, 0.2, n, e)
    if size == 5:  # two best 3.1, 2.0, 3.2; all 3.1, 2.9, 2.7; two worst 0.1, 1.9, 1.0
        row = torch.tensor([3.0, 0.1, 0.0, 1.0, 1.0, 0.9, 1.7, 1.5, -0.5], dtype=torch.float64)
        scores[0] = row + draw.uniform(0.0, 0.02, e)
    if size in (0, 1):  # the best expert stands in a group that is not the best
        scores = draw.uniform(0.0, 0.2, n, e)
        one, other = draw.distinct(2, 0, groups - 1)
        scores[:, one * (e // groups)] = 1.0
        scores[:, other * (e // groups) : (other + 1) * (e // groups)] += 0.7
    return scores, groups, active, k


def _groups_oracle(scores: Tensor, n_groups: int, n_active: int, k: int) -> Tensor:
    width = scores.shape[1] // n_groups
    table = []
    for row in scores.tolist():
        ranks = [sum(sorted(row[g * width : (g + 1) * width])[-2:]) for g in range(n_groups)]
        best = sorted(range(n_groups), key=lambda g: -ranks[g])[:n_active]
        allowed = [j for j in range(len(row)) if j // width in best]
        chosen = sorted(allowed, key=lambda j: -row[j])[:k]
        table.append([j in chosen for j in range(len(row))])
    return torch.tensor(table)


def _mask(scores: Tensor, indices: Tensor) -> Tensor:
    return torch.zeros_like(scores, dtype=torch.bool).scatter(-1, indices, True)


def _allowed(scores: Tensor, ranks: Tensor, n_active: int, largest: bool = True) -> Tensor:
    """(N, G) ranks -> (N, E), True for experts of the best groups, which are neighbours."""
    groups = _mask(ranks, ranks.topk(n_active, largest=largest).indices)
    return groups.repeat_interleave(scores.shape[1] // ranks.shape[1], dim=1)


def _two_best(scores: Tensor, n_groups: int) -> Tensor:
    return scores.view(len(scores), n_groups, -1).topk(2).values.sum(-1)  # (N, G)


def _best_of(scores: Tensor, allowed: Tensor, k: int, out: float = -torch.inf) -> Tensor:
    return _mask(scores, scores.masked_fill(~allowed, out).topk(k).indices)


def _groups_by_best(scores: Tensor, n_groups: int, n_active: int, k: int) -> Tensor:
    ranks = scores.view(len(scores), n_groups, -1).amax(-1)
    return _best_of(scores, _allowed(scores, ranks, n_active), k)


def _groups_by_sum(scores: Tensor, n_groups: int, n_active: int, k: int) -> Tensor:
    ranks = scores.view(len(scores), n_groups, -1).sum(-1)
    return _best_of(scores, _allowed(scores, ranks, n_active), k)


def _groups_interleaved(scores: Tensor, n_groups: int, n_active: int, k: int) -> Tensor:
    # Expert j in group j modulo G.
    ranks = scores.view(len(scores), -1, n_groups).topk(2, dim=1).values.sum(1)
    groups = _mask(ranks, ranks.topk(n_active).indices)
    return _best_of(scores, groups.repeat(1, scores.shape[1] // n_groups), k)


def _groups_ignored(scores: Tensor, n_groups: int, n_active: int, k: int) -> Tensor:
    return _mask(scores, scores.topk(k).indices)


def _groups_k_of_each(scores: Tensor, n_groups: int, n_active: int, k: int) -> Tensor:
    width = scores.shape[1] // n_groups
    inside = scores.view(len(scores), n_groups, -1)
    best = _mask(inside, inside.topk(min(k, width)).indices).view_as(scores)
    return best & _allowed(scores, _two_best(scores, n_groups), n_active)


def _groups_same_for_all(scores: Tensor, n_groups: int, n_active: int, k: int) -> Tensor:
    ranks = _two_best(scores, n_groups).sum(0, keepdim=True).expand(len(scores), n_groups)
    return _best_of(scores, _allowed(scores, ranks, n_active), k)


def _groups_zero_for_infinity(scores: Tensor, n_groups: int, n_active: int, k: int) -> Tensor:
    return _best_of(scores, _allowed(scores, _two_best(scores, n_groups), n_active), k, 0.0)


def _groups_chosen_then_cut(scores: Tensor, n_groups: int, n_active: int, k: int) -> Tensor:
    chosen = _mask(scores, scores.topk(k).indices)
    return chosen & _allowed(scores, _two_best(scores, n_groups), n_active)


def _groups_worst(scores: Tensor, n_groups: int, n_active: int, k: int) -> Tensor:
    ranks = _two_best(scores, n_groups)
    return _best_of(scores, _allowed(scores, ranks, n_active, largest=False), k)


def _groups_whole(scores: Tensor, n_groups: int, n_active: int, k: int) -> Tensor:
    return _allowed(scores, _two_best(scores, n_groups), n_active)


def _groups_of_so_many(scores: Tensor, n_groups: int, n_active: int, k: int) -> Tensor:
    # n_groups taken for the number of experts in a group.
    ranks = scores.view(len(scores), -1, n_groups).topk(2).values.sum(-1)
    return _best_of(scores, _allowed(scores, ranks, n_active), k)


def _groups_by_two_worst(scores: Tensor, n_groups: int, n_active: int, k: int) -> Tensor:
    inside = scores.view(len(scores), n_groups, -1)
    ranks = inside.topk(2, largest=False).values.sum(-1)
    return _best_of(scores, _allowed(scores, ranks, n_active), k)


def _groups_inverted(scores: Tensor, n_groups: int, n_active: int, k: int) -> Tensor:
    return ~_best_of(scores, _allowed(scores, _two_best(scores, n_groups), n_active), k)


def _groups_by_sorting(scores: Tensor, n_groups: int, n_active: int, k: int) -> Tensor:
    n, e = scores.shape
    ordered = scores.reshape(n, n_groups, e // n_groups).sort(dim=-1, descending=True).values
    ranks = ordered[..., 0] + ordered[..., 1]
    least = ranks.sort(dim=1, descending=True).values[:, n_active - 1, None]
    out = ranks < least  # (N, G)
    group = torch.arange(e) // (e // n_groups)  # (E,) each expert's group
    left = torch.where(out[:, group], torch.full_like(scores, -torch.inf), scores)
    return left >= left.sort(dim=1, descending=True).values[:, k - 1, None]


def _groups_in_a_loop(scores: Tensor, n_groups: int, n_active: int, k: int) -> Tensor:
    chosen = torch.zeros(scores.shape, dtype=torch.bool)
    for i, row in enumerate(scores):
        groups = row.split(len(row) // n_groups)
        ranks = torch.stack([group.topk(2).values.sum() for group in groups])
        best = ranks.topk(n_active).indices.tolist()
        experts = torch.arange(len(row)).split(len(row) // n_groups)
        allowed = torch.cat([experts[g] for g in best])
        chosen[i, allowed[row[allowed].topk(k).indices]] = True
    return chosen


def _k_chosen(got: Tensor, arguments: Arguments, call: Answer) -> str | None:
    k = arguments[3]
    for token, count in enumerate(got.sum(-1).tolist()):
        if count != k:
            return f"token {token} has {count} experts; k = {k}"
    return None


def _few_groups(got: Tensor, arguments: Arguments, call: Answer) -> str | None:
    scores, n_groups, n_active, _ = arguments
    used = got.view(len(scores), n_groups, -1).any(-1).sum(-1)
    for token, count in enumerate(used.tolist()):
        if count > n_active:
            return f"token {token} has experts in {count} groups; {n_active} at most are allowed"
    return None


GROUPS = Exercise(
    id="5.8",
    title="experts in groups",
    name="choose_in_groups",
    signature=("choose_in_groups(scores: Tensor, n_groups: int, n_active: int, k: int) -> Tensor"),
    taught="Part 5, the gate and its variants",
    difficulty=3,
    minutes=20,
    make_inputs=_groups_inputs,
    oracle=_groups_oracle,
    statement="the k best experts among those of the n_active best groups",
    properties=(
        Property("each token has k experts", _k_chosen),
        Property("they come from the best groups only", _few_groups),
    ),
    wrong_answers=(
        WrongAnswer(
            "groups by their best expert",
            _groups_by_best,
            "Groups are ranked by their best expert alone, as in DeepSeek-V2. Here the sum of the "
            "two best decides.",
        ),
        WrongAnswer(
            "groups by the sum of all",
            _groups_by_sum,
            "Groups are ranked by the sum (or mean) of all their experts, so many middling ones "
            "beat two good ones. Only the two best of a group count.",
        ),
        WrongAnswer(
            "every n-th expert",
            _groups_interleaved,
            "Expert j is put in group j modulo n_groups. Groups are neighbours: the first E / "
            "n_groups experts are group 0, since these live on one machine.",
        ),
        WrongAnswer(
            "groups ignored",
            _groups_ignored,
            "These are the k best of all experts: the groups are not used.",
        ),
        WrongAnswer(
            "k of each group",
            _groups_k_of_each,
            "The k best of every chosen group are taken. k is the number for the token, from all "
            "its groups together.",
        ),
        WrongAnswer(
            "the same groups for all",
            _groups_same_for_all,
            "All tokens get the same groups, ranked over the batch. Each token ranks groups by its "
            "own scores.",
        ),
        WrongAnswer(
            "zero for minus infinity",
            _groups_zero_for_infinity,
            "Experts of other groups get the score 0. With a bias scores can be below 0, and then "
            "these win: use -inf.",
        ),
        WrongAnswer(
            "chosen, then cut",
            _groups_chosen_then_cut,
            "The k best of all experts are chosen and those outside the groups are thrown away, so "
            "some tokens have fewer than k. First the groups, then the k best in them.",
        ),
        WrongAnswer(
            "the worst groups",
            _groups_worst,
            "The worst groups are kept and the best ones masked out.",
        ),
        WrongAnswer(
            "all of the groups",
            _groups_whole,
            "All experts of the best groups are chosen. Among them, the k best are wanted.",
        ),
        WrongAnswer(
            "groups of so many",
            _groups_of_so_many,
            "n_groups is taken for the number of experts in a group. It is the number of groups: "
            "each has E / n_groups experts.",
        ),
        WrongAnswer(
            "the two worst of a group",
            _groups_by_two_worst,
            "Groups are ranked by their two lowest scores. The two highest decide.",
        ),
        WrongAnswer(
            "inverted",
            _groups_inverted,
            "The mask is inverted: True is for experts that are chosen.",
        ),
    ),
    alternatives=(_groups_by_sorting, _groups_in_a_loop),
    examples=((torch.tensor([[0.9, 0.1, 0.6, 0.5, 0.8, 0.0]], dtype=torch.float64), 3, 1, 1),),
)
