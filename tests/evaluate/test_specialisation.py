"""Specialisation: tables counted by hand, information with known values, chance recognised."""

from __future__ import annotations

import math

import pytest
import torch

from llmcourse.evaluate.specialisation import (
    Routed,
    class_counts,
    mutual_information,
    route,
    specialisation,
)
from llmcourse.model import ModelConfig, Transformer
from llmcourse.model.experts_config import Experts
from llmcourse.model.routing import record_routing


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def one_hot(experts, n_experts):
    """(1, N, E): each token to one expert."""
    return torch.nn.functional.one_hot(torch.as_tensor(experts), n_experts).bool()[None]


def made_up(n=1200, n_words=60, by="class", seed=0):
    """Tokens of `n_words` words in 3 classes, routed to 4 experts by a rule that is known."""
    generator = seeded(seed)
    ids = torch.randint(n_words, (n,), generator=generator)
    classes = ids % 3
    table = torch.randint(4, (n_words,), generator=generator)
    experts = {
        "class": classes,
        "word": table[ids],
        "chance": torch.randint(4, (n,), generator=generator),
    }[by]
    return Routed(one_hot(experts, 4), ids, classes)


def test_counts_are_those_of_a_loop():
    chosen = torch.rand(50, 5, generator=seeded(1)) < 0.4
    classes = torch.randint(3, (50,), generator=seeded(2))
    table = class_counts(chosen, classes, 3)
    for e in range(5):
        for c in range(3):
            wanted = sum(bool(chosen[n, e]) and int(classes[n]) == c for n in range(50))
            assert int(table[e, c]) == wanted


@pytest.mark.parametrize(
    ("counts", "wanted"),
    [
        ([[5, 5], [5, 5]], 0.0),
        ([[8, 2], [4, 1]], 0.0),  # rows in proportion
        ([[7, 0], [0, 7]], math.log(2)),
        ([[3, 0, 0], [0, 3, 0], [0, 0, 3]], math.log(3)),
        ([[9], [1]], 0.0),  # one class says nothing
    ],
)
def test_information_where_it_is_known(counts, wanted):
    assert mutual_information(torch.tensor(counts)) == pytest.approx(wanted, abs=1e-12)


def test_information_is_what_entropies_say():
    """I(e; c) = H(e) + H(c) - H(e, c), by another way than the module's."""
    counts = torch.randint(1, 40, (6, 5), generator=seeded(3)).double()
    p = counts / counts.sum()

    def entropy(q):
        return -sum(x * math.log(x) for x in q.flatten().tolist())

    wanted = entropy(p.sum(1)) + entropy(p.sum(0)) - entropy(p)
    assert mutual_information(counts) == pytest.approx(wanted, abs=1e-12)


def test_routing_by_class_passes_both_comparisons():
    [found] = specialisation(made_up(by="class"), 3, seeded(), samples=50)
    assert found.by_text and found.by_class
    assert found.information == pytest.approx(found.word_information)
    assert found.information > 0.9 * math.log(3)
    assert torch.equal(found.shares[:3], torch.eye(3, dtype=torch.float64))
    assert found.shares[3].sum() == 0


def test_routing_by_word_is_told_from_routing_by_class():
    """Words have experts of their own, drawn by lot: that has to do with the text, not with the
    classes. By lot alone a class would pass one time in 51, so several worlds are tried."""
    found = [
        specialisation(made_up(by="word", seed=seed), 3, seeded(9), samples=50)[0]
        for seed in range(6)
    ]
    assert all(one.by_text for one in found)
    assert sum(one.by_class for one in found) <= 1


def test_chance_passes_neither():
    found = [
        specialisation(made_up(by="chance", seed=seed), 3, seeded(9), samples=50)[0]
        for seed in range(6)
    ]
    assert sum(one.by_text for one in found) <= 1
    assert sum(one.by_class for one in found) <= 1
    assert all(0 < one.information < 0.02 for one in found), "a table is never quite even"
    assert all(min(one.shuffled_tokens) > 0 for one in found)


def test_shufflings_keep_what_they_should():
    routed = made_up(by="class")
    [first] = specialisation(routed, 3, seeded(4), samples=8)
    [same] = specialisation(routed, 3, seeded(4), samples=8)
    [other] = specialisation(routed, 3, seeded(5), samples=8)
    assert torch.equal(first.counts, same.counts) and torch.equal(first.counts, other.counts)
    assert first.shuffled_tokens == same.shuffled_tokens != other.shuffled_tokens
    assert first.shuffled_words == same.shuffled_words != other.shuffled_words
    # Sixty words, a third of them in each class: no shuffling puts a class together again.
    assert max(first.shuffled_words) < first.word_information


def small_model(**experts):
    config = ModelConfig(
        vocab_size=30, context_length=16, n_layers=3, n_heads=2, d_model=16, d_ff=16,
        experts=Experts(**({"n_experts": 4, "n_active": 2, "layers": (0, 2)} | experts)),
    )  # fmt: skip
    return Transformer(config, seeded(7))


def test_routes_are_those_the_layers_record():
    model = small_model()
    documents = [([1, 2, 3, 4, 5], torch.tensor([0, 1, 0, 1, 2])), ([6, 7], torch.tensor([2, 2]))]
    routed = route(model, documents)
    assert routed.chosen.shape == (2, 7, 4)
    assert routed.ids.tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert routed.classes.tolist() == [0, 1, 0, 1, 2, 2, 2]
    assert (routed.chosen.sum(2) == 2).all()
    model.eval()
    with record_routing(model) as routings:
        model(torch.tensor([documents[0][0]]))
    for layer, routing in enumerate(routings):
        for token, expert in zip(routing.tokens.tolist(), routing.experts.tolist()):
            assert routed.chosen[layer, token, expert]
    assert torch.equal(route(model, documents, skip=1).ids, torch.tensor([2, 3, 4, 5, 7]))


def test_noise_is_off_and_the_mode_comes_back():
    model = small_model(noise=True).train()
    documents = [([1, 2, 3], torch.tensor([0, 1, 0]))]
    assert torch.equal(route(model, documents).chosen, route(model, documents).chosen)
    assert model.training


def test_what_an_expert_was_too_full_for_still_counts_as_wanted():
    model = small_model(capacity=0.5)
    documents = [([1, 2, 3, 4, 5, 6, 7, 8], torch.zeros(8, dtype=torch.int64))]
    assert (route(model, documents).chosen.sum(2) == 2).all()


def test_bad_input_is_refused_by_name():
    dense = Transformer(
        ModelConfig(vocab_size=30, context_length=16, n_layers=1, n_heads=2, d_model=16)
    )
    document = ([1, 2], torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="no sparse layer"):
        route(dense, [document])
    with pytest.raises(ValueError, match="no documents"):
        route(small_model(), [])
    with pytest.raises(ValueError, match="3 ids, but classes of 2"):
        route(small_model(), [([1, 2, 3], torch.tensor([0, 1]))])
    with pytest.raises(ValueError, match="0 to 1"):
        class_counts(torch.ones(2, 3), torch.tensor([0, 2]), 2)
    with pytest.raises(ValueError, match="3 tokens for 2"):
        class_counts(torch.ones(2, 3), torch.tensor([0, 1, 1]), 2)
    with pytest.raises(ValueError, match="no assignments"):
        mutual_information(torch.zeros(3, 2))
    with pytest.raises(ValueError, match="samples=0"):
        specialisation(made_up(), 3, seeded(), samples=0)
    with pytest.raises(ValueError, match="N = 3"):
        Routed(torch.ones(1, 2, 4, dtype=torch.bool), torch.arange(3), torch.arange(3))
