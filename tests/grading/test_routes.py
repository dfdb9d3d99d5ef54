"""The routers that exercises hand out do what they are called, on texts small enough to see it."""

from __future__ import annotations

import pytest
import torch

from llmcourse.grading import routes

# Everybody wants expert 0; token 2 only a little.
LOGITS = torch.tensor([[3.0, 1.0, 0.0], [4.0, 0.0, 1.0], [1.0, 0.5, 0.0], [5.0, 0.0, 1.0]]).double()


def places(weights):
    return (weights > 0).int().tolist()


def test_tokens_choose_for_themselves():
    weights = routes.tokens_choose(2)(LOGITS)
    assert places(weights) == [[1, 1, 0], [1, 0, 1], [1, 1, 0], [1, 0, 1]]
    assert weights.sum(1).tolist() == pytest.approx([1] * 4)
    rounded = routes.tokens_choose(2, rounding=1e-9)(LOGITS)
    assert rounded.sum(1).tolist() == pytest.approx([1 + 4e-9] * 4, abs=1e-12)


def test_experts_take_their_best_tokens():
    weights = routes.experts_choose(1)(LOGITS)
    assert places(weights) == [[0, 0, 0], [0, 0, 0], [0, 1, 1], [1, 0, 0]]
    assert float(weights[3, 0]) == pytest.approx(float(LOGITS[3].softmax(0)[0]))
    assert places(routes.experts_choose(9)(LOGITS)) == [[1, 1, 1]] * 4


@pytest.mark.parametrize(("room", "kept"), [(1, 1), (3, 3), (9, 4), (0.75, 1), (1.5, 2), (4.0, 4)])
def test_first_come_first_served(room, kept):
    weights = routes.in_line(1, room)(LOGITS)
    assert places(weights) == [[1, 0, 0]] * kept + [[0, 0, 0]] * (4 - kept)


def test_second_choices_stand_behind_all_first_ones():
    logits = LOGITS[:, [1, 0, 2]].clone()  # now expert 1 is everybody's first choice
    logits[3] = torch.tensor([9.0, 1.0, 0.0])  # but for the last: first 0, second 1
    weights = routes.first_choices_first(1)(logits)
    # Expert 1's place goes to token 0, expert 0's to token 3 before all second choices.
    assert places(weights) == [[0, 1, 0], [0, 0, 1], [0, 0, 0], [1, 0, 0]]
    assert places(routes.first_choices_first(4)(logits)) == places(routes.tokens_choose(2)(logits))


def test_over_tokens_every_expert_is_shared_out():
    assert routes.over_tokens()(LOGITS).sum(0).tolist() == pytest.approx([1] * 3)


def test_experts_count_their_rows():
    bank = routes.times([2, 0, 1])
    assert bank(0, torch.ones(2, 3)).tolist() == [[1.0] * 3] * 2
    assert bank(torch.tensor(2), torch.ones(1, 1)).tolist() == [[100.0]]
    assert bank(1, torch.ones(0, 3)).shape == (0, 3)
    with pytest.raises(routes.WrongRows, match=r"expert 1 was called with 2 .* 0 chose it"):
        bank(1, torch.ones(2, 3))
