"""The report on the village against models that know it perfectly, partly and not at all."""

from __future__ import annotations

import math

import pytest
import torch

from llmcourse.data import tales
from llmcourse.evaluate.tales_report import tales_report, write_stories
from llmcourse.generate import Sampling
from llmcourse.model import ModelConfig, Transformer
from llmcourse.tokenizers import END_OF_TEXT, ByteTokenizer

TOKENIZER = ByteTokenizer((END_OF_TEXT,))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def stories():
    """Short ones, so that the tests are quick."""
    return sorted(set(tales.sample_stories(60, seed=5)), key=len)[:6]


def reciter(trie_model, texts):
    rows = [[256, *TOKENIZER.encode(text), 256] for text in texts]
    return trie_model(rows, 257, max(map(len, rows)))


def test_a_model_that_recites_true_stories(trie_model, stories):
    report = tales_report(reciter(trie_model, stories), TOKENIZER, stories, 12, seeded())
    assert set(report.stories) <= set(stories) and len(set(report.stories)) > 2
    assert report.grammatical == report.sentences > 12
    assert report.sentences == sum(len(tales.split_sentences(s)) for s in report.stories)
    assert report.consistent == len(report.stories) == 12
    assert report.grammatical_share == report.consistent_share == 1.0
    # It knows that the story is one of six, which the village process does not.
    size = sum(len(s.encode()) for s in stories)
    assert report.score.bytes == size
    assert report.score.nats == pytest.approx(6 * math.log(6), abs=1e-3)
    floor = -sum(tales.log_probability(s) for s in stories)
    assert report.floor_nats_per_byte == pytest.approx(floor / size)
    assert report.gap_nats_per_byte == pytest.approx((6 * math.log(6) - floor) / size)
    assert report.relative_gap == pytest.approx((6 * math.log(6) - floor) / floor)
    assert report.relative_gap < 0


def test_each_kind_of_fault_is_counted_where_it_belongs(trie_model, stories):
    story = stories[-1]
    sentences = tales.split_sentences(story)
    assert len(sentences) >= 3
    cut = " ".join(sentences[:-1])  # consistent as far as it goes, but without an ending
    broken = " ".join([sentences[0], "Cat the on sat.", *sentences[1:]])
    for text, n_sentences, grammatical, consistent in (
        (story, len(sentences), len(sentences), 1),
        (cut, len(sentences) - 1, len(sentences) - 1, 0),
        (broken, len(sentences) + 1, len(sentences), 0),
        ("zzz", 1, 0, 0),
    ):
        model = reciter(trie_model, [text])
        model.config = ModelConfig(257, 2000, n_layers=1, n_heads=1, d_model=1)
        report = tales_report(model, TOKENIZER, [story][:1] if text == story else stories[:1], 2)
        assert report.stories == (text, text)
        assert report.sentences == 2 * n_sentences, text
        assert report.grammatical == 2 * grammatical, text
        assert report.consistent == 2 * consistent, text


def test_an_untrained_model(stories):
    longest = max(len(s.encode()) for s in stories) + 2
    config = ModelConfig(257, longest, n_layers=1, n_heads=1, d_model=16)
    report = tales_report(
        Transformer(config, seeded()), TOKENIZER, stories, n_stories=3, generator=seeded()
    )
    tokens_per_byte = report.score.tokens / report.score.bytes
    assert report.score.nats_per_byte == pytest.approx(math.log(257) * tokens_per_byte, rel=0.01)
    assert report.relative_gap > 5
    assert report.grammatical == report.consistent == 0
    assert len(report.stories) == 3
    text = str(report)
    assert f"loss          {report.score.nats_per_byte:.4f} nats per byte" in text
    assert f"({report.relative_gap:.1%} of the floor)" in text
    assert "consistent    0 of 3 stories (0.0%)" in text


def test_writing_is_reproducible_and_follows_the_sampling(trie_model, stories):
    model = reciter(trie_model, stories)
    first, again = (write_stories(model, TOKENIZER, 5, seeded(1)) for _ in range(2))
    assert first == again
    greedy = write_stories(model, TOKENIZER, 3, seeded(1), Sampling.greedy())
    assert len(set(greedy)) == 1 and greedy[0] in stories


def test_a_story_longer_than_the_context(stories):
    model = Transformer(ModelConfig(257, 20, n_layers=1, n_heads=1, d_model=4))
    with pytest.raises(ValueError, match=r"document 0 has \d+ tokens, but context_length 20"):
        tales_report(model, TOKENIZER, stories, 1)


def test_no_stories_to_score():
    model = Transformer(ModelConfig(257, 20, n_layers=1, n_heads=1, d_model=4))
    with pytest.raises(ValueError, match="no documents to score"):
        tales_report(model, TOKENIZER, [], 1)
