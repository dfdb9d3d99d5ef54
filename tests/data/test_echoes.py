"""The echo language: what it promises about its texts, and its exact surprise."""

from __future__ import annotations

import math

import pytest
import torch

from llmcourse.data.echoes import LETTERS, MARK, START, VOCAB_SIZE, Echoes, text_of


def texts(n=200, length=40, seed=0, **options):
    return Echoes(**options).sample(n, length, torch.Generator().manual_seed(seed))


def test_every_text_keeps_the_rules():
    for row in texts().tolist():
        assert row[0] == START and START not in row[1:] and row[1] < LETTERS
        assert max(row) < VOCAB_SIZE
        for two, one, now in zip(row, row[1:], row[2:]):
            if one == MARK:
                assert now == two < LETTERS, "after a mark the letter before it comes again"


def test_marks_and_letters_come_as_often_as_the_table_says():
    language = Echoes(mark_share=0.25, sharpness=1.0, seed=3)
    ids = language.sample(4000, 20, torch.Generator().manual_seed(1))
    before, now = ids[:, 1:-1], ids[:, 2:]
    after_letter = now[before < LETTERS]
    assert (after_letter == MARK).double().mean().item() == pytest.approx(0.25, abs=0.01)
    follows = (before == 4) & (now < LETTERS)
    counted = torch.bincount(now[follows], minlength=LETTERS) / follows.sum()
    assert (counted - language.table[4]).abs().max() < 0.03
    assert torch.allclose(language.table.sum(-1), torch.ones(LETTERS, dtype=torch.float64))


def test_the_surprise_is_that_of_every_text():
    """Over all texts of three tokens the probabilities sum to one: nothing is left out."""
    language = Echoes(mark_share=0.4, sharpness=2.0)
    firsts = range(LETTERS)
    all_texts = [[START, a, b] for a in firsts for b in (*range(LETTERS), MARK)]
    surprise = language.surprise(torch.tensor(all_texts))
    assert (-surprise.sum(1)).exp().sum().item() == pytest.approx(1.0, abs=1e-12)
    assert surprise[0, 0].item() == pytest.approx(math.log(26))


def test_the_surprise_of_one_text_by_hand():
    language = Echoes(mark_share=0.3)
    chance = language.table
    ids = torch.tensor([[START, 0, MARK, 0, 5]])  # "^a!af"
    expected = [math.log(26), -math.log(0.3), 0.0, -math.log(0.7 * chance[0, 5].item())]
    assert language.surprise(ids)[0].tolist() == pytest.approx(expected)
    assert text_of(ids[0]) == "^a!af"


def test_the_same_seed_gives_the_same_texts():
    assert torch.equal(texts(seed=5), texts(seed=5))
    assert not torch.equal(texts(seed=5), texts(seed=6))


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="mark_share"):
        Echoes(mark_share=1.0)
    with pytest.raises(ValueError, match="sharpness"):
        Echoes(sharpness=-1)
    with pytest.raises(ValueError, match="at least 1"):
        texts(n=0)
    with pytest.raises(ValueError, match="start token"):
        Echoes().surprise(torch.tensor([[0, 1]]))
