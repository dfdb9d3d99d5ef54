"""The report on the base model: windows that lose nothing, problems that were not trained on."""

from __future__ import annotations

import json

import pytest
import torch

from llmcourse.data import Corpus, load_corpus, tales
from llmcourse.data.arithmetic.corpus import is_held_out
from llmcourse.data.batches import encode_documents
from llmcourse.evaluate import base_report as module
from llmcourse.evaluate.base_report import (
    as_markdown,
    base_report,
    held_out_problems,
    score_long,
    score_sums,
)
from llmcourse.evaluate.language import score_documents
from llmcourse.model import ModelConfig, Transformer
from llmcourse.tokenizers import END_OF_TEXT, ByteTokenizer
from llmcourse.train.losses import cross_entropy

TOKENIZER = ByteTokenizer((END_OF_TEXT,))


@pytest.fixture(scope="module")
def model():
    config = ModelConfig(
        257, context_length=16, n_layers=1, n_heads=2, d_model=16, positions="rope", init_std=0.3
    )
    return Transformer(config, generator=torch.Generator().manual_seed(0)).eval()


class TestScoreLong:
    def test_short_documents_are_scored_as_ever(self, model):
        texts = ["abc", "a longer one", "x" * 15]
        assert score_long(model, TOKENIZER, texts) == score_documents(model, TOKENIZER, texts)

    def test_long_documents_token_by_token(self, model):
        texts = ["the quick brown fox jumps over the lazy dog", "short", "y" * 16]
        nats = 0.0
        for [*row] in encode_documents(texts, TOKENIZER, True, start_of_text=True):
            for place in range(1, len(row)):
                # Windows of 16 that begin every 8: the first that reaches this target scores it.
                start = 0 if place <= 16 else 8 * -(-(place - 16) // 8)
                logits = model(torch.tensor([row[start:place]]))[:, -1:]
                nats += cross_entropy(logits, torch.tensor([[row[place]]])).item()
        score = score_long(model, TOKENIZER, texts)
        assert score.nats == pytest.approx(nats, rel=1e-5)
        assert score.tokens == sum(len(text) + 1 for text in texts)
        assert score.bytes == sum(map(len, texts))


class TestSums:
    def test_the_problems_are_held_out_distinct_and_always_the_same(self):
        corpus = load_corpus("arithmetic", n_problems=3000, difficulty=(1, 4))
        asked = {text.split("\n")[0] for text in corpus.train}
        for level in module.LEVELS:
            problems = held_out_problems(level, 40)
            assert problems == held_out_problems(level, 40)
            assert len({p.question for p in problems}) == len(problems)
            assert all(is_held_out(p) for p in problems)
            assert not asked & {p.prompt.strip() for p in problems}
        assert len(held_out_problems(4, 40)) == 40

    def test_they_are_judged(self, model, monkeypatch):
        problems = held_out_problems(2, 12)
        answers = [p.text.removeprefix(p.prompt) for p in problems]
        assert len(answers) >= 10
        answers[0] = f"Answer: {problems[0].answer}"  # right, but no step shown
        answers[1] = "Answer: 9999999"
        answers[2] = "I do not know"
        prompts = []

        def write(model, tokenizer, given, n, **options):
            prompts.extend(given)
            assert options["sampling"].temperature == 0
            return answers

        monkeypatch.setattr(module, "generate_text", write)
        score = score_sums(model, TOKENIZER, 2, 12)
        assert prompts == [END_OF_TEXT + p.prompt for p in problems]
        n = len(problems)
        assert (score.asked, score.right, score.worked) == (n, n - 2, n - 3)
        assert score.share == (n - 2) / n

    def test_a_model_that_knows_nothing_knows_no_sums(self, model):
        score = score_sums(model, TOKENIZER, 1, 3)
        assert score.right == score.worked == 0 < score.asked


class TestReport:
    @pytest.fixture(scope="class")
    @classmethod
    def report(cls):
        config = ModelConfig(257, 768, 1, 2, 16, positions="rope")
        model = Transformer(config, generator=torch.Generator().manual_seed(0)).eval()
        stories = [tales.sample_story(seed).text for seed in range(60)]
        stories = sorted(stories, key=len)[:4]
        corpora = {
            "tales": Corpus("tales", stories[:1], stories[1:], ""),
            "docs": Corpus("docs", ["a"], ["some words " * 100], ""),
        }
        trained_on = {
            "tales": {"fingerprint": corpora["tales"].fingerprint},
            "docs": {"fingerprint": "another"},
        }
        return base_report(model, TOKENIZER, corpora, trained_on, n_stories=2, n_problems=2)

    def test_every_corpus_has_its_bits(self, report):
        assert report.scores.keys() == {"tales", "docs"}
        assert report.scores["tales"] == report.tales.score
        assert report.scores["docs"].bytes == 1100
        assert report.same_text == {"tales": True, "docs": False}

    def test_an_untrained_model_is_as_bad_as_it_should_be(self, report):
        assert report.scores["tales"].bits_per_byte == pytest.approx(8, abs=0.3)
        assert report.tales.relative_gap > 10
        assert report.right_share == 0

    def test_it_can_be_kept_and_printed(self, report):
        kept = report.to_dict()
        assert json.loads(json.dumps(kept)) == kept
        assert kept["corpora"]["docs"]["bits_per_byte"] == round(
            report.scores["docs"].bits_per_byte, 4
        )
        page, table = str(report), as_markdown(kept)
        assert "not the release trained on" in page.split("docs")[1].split("\n")[0]
        assert report.python in page
        assert f"{report.scores['docs'].bits_per_byte:.3f}" in page
        assert f"{report.tales.relative_gap:.1%}" in page
        # The table is made of what was kept, so that it can be made again from a saved report.
        assert f"| {kept['corpora']['docs']['bits_per_byte']:.3f} |" in table
        assert f"| {kept['tales']['relative_gap']:.1%} |" in table
        assert table == as_markdown(json.loads(json.dumps(kept))) == report.markdown()

    def test_without_tales_there_is_no_report(self, report):
        with pytest.raises(ValueError, match="needs the corpus 'tales'"):
            base_report(None, TOKENIZER, {})
