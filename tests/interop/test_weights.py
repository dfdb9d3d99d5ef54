"""Renaming, stacking and reordering, each against a loop, and back without losing a bit."""

from __future__ import annotations

import torch

from llmcourse.interop.huggingface.weights import (
    Piece,
    Rule,
    neighbours_apart,
    one,
    to_ours,
    to_published,
)


def test_pieces_lie_one_under_another():
    rule = Rule("qkv", (Piece("q", 4), Piece("k", 2), Piece("v", 2)))
    published = {"q": torch.randn(4, 3), "k": torch.randn(2, 3), "v": torch.randn(2, 3)}
    ours = to_ours([rule], published)["qkv"]
    assert ours.shape == (8, 3) and rule.rows == 8
    assert torch.equal(ours[4:6], published["k"])
    filled = torch.empty(8, 3)
    rule.fill(filled, published.__getitem__)
    assert torch.equal(filled, ours)
    back = to_published([rule], {"qkv": ours})
    assert all(torch.equal(back[name], published[name]) for name in published)


def test_transposed():
    rule = one("down", "c_proj", 5, transpose=True)
    published = torch.randn(7, 5)
    ours = to_ours([rule], {"c_proj": published})["down"]
    assert torch.equal(ours, published.T)
    assert rule.pieces[0].shape((5, 7)) == (7, 5)
    assert torch.equal(to_published([rule], {"down": ours})["c_proj"], published)


def test_neighbours_apart():
    assert neighbours_apart(2, 1, 4) == (0, 1, 3, 2, 4, 5, 6, 8, 7, 9)
    order = neighbours_apart(3, 2, 6)
    assert sorted(order) == list(range(24))
    published = torch.randn(24, 5)
    rule = one("query", "q_proj", 24, order=order)
    ours = to_ours([rule], {"q_proj": published})["query"]
    for head in range(3):
        for pair in range(3):
            first = head * 8 + 2 + 2 * pair
            assert torch.equal(ours[head * 8 + 2 + pair], published[first])
            assert torch.equal(ours[head * 8 + 2 + pair + 3], published[first + 1])
    assert torch.equal(to_published([rule], {"query": ours})["q_proj"], published)


def expert_rule(experts=3, rows=2):
    pieces = tuple(Piece(f"{e}.{name}", rows) for e in range(experts) for name in ("gate", "up"))
    return Rule("up", pieces, experts, "stack")


def test_stacked_experts():
    """One expert under the other, its gate above its up projection; two forms, the same numbers."""
    rule = expert_rule()
    published = {piece.name: torch.randn(2, 5) for piece in rule.pieces}
    ours = to_ours([rule], published)["up"]
    assert ours.shape == (3, 4, 5)
    for e in range(3):
        wanted = torch.cat([published[f"{e}.gate"], published[f"{e}.up"]])
        assert torch.equal(ours[e], wanted)
    filled = torch.empty(3, 4, 5)
    rule.fill(filled, published.__getitem__)
    assert torch.equal(filled, ours)
    back = to_published([rule], {"up": ours})
    assert back.keys() == published.keys()
    assert all(torch.equal(back[name], published[name]) for name in published)
    assert {piece.shape((3, 4, 5)) for piece in rule.pieces} == {(2, 5)}

    assert rule.held(published) is rule
    whole = rule.held({"stack", "other"})
    assert [piece.name for piece in whole.pieces] == ["stack"]
    assert whole.pieces[0].shape((3, 4, 5)) == (3, 4, 5)
    assert torch.equal(to_ours([whole], {"stack": ours})["up"], ours)
    assert torch.equal(to_published([whole], {"up": ours})["stack"], ours)


def test_one_tensor_is_read_at_a_time():
    """What was read before is no longer held when the next is asked for."""
    import weakref

    rule, before, alive = expert_rule(), [], []

    def read(name):
        alive.append(sum(reference() is not None for reference in before))
        tensor = torch.ones(2, 5)
        before.append(weakref.ref(tensor))
        return tensor

    rule.fill(torch.empty(3, 4, 5), read)
    assert alive == [0] * 6
