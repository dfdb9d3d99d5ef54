"""Scores of text against one naive pass, and against probabilities known beforehand."""

from __future__ import annotations

import math

import pytest
import torch

from llmcourse.data import Batch
from llmcourse.evaluate import Score, score_documents, score_text, total_loss
from llmcourse.model import ModelConfig, Transformer
from llmcourse.tokenizers import END_OF_TEXT, ByteTokenizer, CharacterTokenizer

TOKENIZER = ByteTokenizer((END_OF_TEXT,))
TEXT = "The cat – a grey one – sat on the mat. Ünïcode counts by bytes, not by letters."


@pytest.fixture(scope="module")
def model():
    config = ModelConfig(
        vocab_size=257, context_length=16, n_layers=1, n_heads=2, d_model=8, init_std=0.5
    )
    return Transformer(config, torch.Generator().manual_seed(0)).double()


@torch.no_grad()
def surprise(model, ids):
    """-log p of ids[1:], each given those before it, one at a time."""
    model.eval()
    nats = []
    for n in range(1, len(ids)):
        logits = model(torch.tensor([ids[:n]]))[0, -1].tolist()
        highest = max(logits)
        total = highest + math.log(math.fsum(math.exp(x - highest) for x in logits))
        nats.append(total - logits[ids[n]])
    return math.fsum(nats)


class TestScoreText:
    @pytest.mark.parametrize("length", [2, 5, 16, 17])
    def test_a_text_within_the_context_equals_one_naive_pass(self, model, length):
        text = TEXT[:length].encode()[:length].decode(errors="ignore")
        ids = TOKENIZER.encode(text)
        score = score_text(model, TOKENIZER, text)
        assert score.nats == pytest.approx(surprise(model, ids), abs=1e-4)
        assert score.tokens == score.bytes == len(ids) - 1

    @pytest.mark.parametrize("batch_size", [1, 3, 16])
    def test_a_longer_text_is_scored_in_windows_each_token_once(self, model, batch_size):
        ids = TOKENIZER.encode(TEXT)
        wanted = sum(
            surprise(model, ids[start : start + 17]) for start in range(0, len(ids) - 1, 16)
        )
        score = score_text(model, TOKENIZER, TEXT, batch_size=batch_size)
        assert score.nats == pytest.approx(wanted, rel=1e-6)
        assert score.tokens == len(ids) - 1 == len(TEXT.encode()) - 1

    def test_bytes_of_another_tokenizer(self, model):
        tokenizer = CharacterTokenizer.train(["–éab"])
        score = score_text(model, tokenizer, "–ab–é")
        assert score.tokens == 4
        assert score.bytes == len("ab–é".encode()) == 7  # the first character is given

    @pytest.mark.parametrize("text", ["", "a"])
    def test_too_short(self, model, text):
        with pytest.raises(ValueError):
            score_text(model, TOKENIZER, text)


class TestScoreDocuments:
    def test_sums_minus_log_p_of_whole_documents_ends_included(self, model):
        texts = ["one", "Ü two", "", "fourteen bytes"]
        score = score_documents(model, TOKENIZER, texts)
        wanted = sum(surprise(model, [256, *TOKENIZER.encode(t), 256]) for t in texts)
        assert score.nats == pytest.approx(wanted, rel=1e-6)
        assert score.tokens == sum(len(t.encode()) + 1 for t in texts)
        assert score.bytes == sum(len(t.encode()) for t in texts)
        assert score_documents(model, TOKENIZER, texts, batch_size=1).nats == pytest.approx(
            score.nats, rel=1e-6
        )

    def test_a_known_distribution_gets_exactly_its_entropy(self, trie_model):
        """One of 8 texts, all equally likely: ln 8 each, however the letters share it."""
        texts = ["a", "ab", "abc", "abd", "b", "xyz", "xyw", ""]
        rows = [[256, *TOKENIZER.encode(t), 256] for t in texts]
        model = trie_model(rows, 257, 8)
        score = score_documents(model, TOKENIZER, texts)
        assert score.nats == pytest.approx(8 * math.log(8), abs=1e-4)
        assert score.nats_per_byte == pytest.approx(8 * math.log(8) / 16, abs=1e-5)
        twice = score_documents(model, TOKENIZER, ["abc"] * 5)
        assert twice.nats == pytest.approx(5 * math.log(8), abs=1e-4)

    def test_a_long_one_can_be_cut_and_short_ones_share_rows(self, model):
        short, long = "a cat", TEXT[:40]
        with pytest.raises(ValueError, match="context_length 16"):
            score_documents(model, TOKENIZER, [short, long])
        score = score_documents(model, TOKENIZER, [short, long, short], batch_size=2, cut=True)
        end = [TOKENIZER.special_id(END_OF_TEXT)]
        nats, tokens = 0.0, 0
        for text in (short, long, short):
            ids = end + TOKENIZER.encode(text) + end
            for start in range(0, len(ids) - 1, 16):  # neighbours share a token
                nats += surprise(model, ids[start : start + 17])
            tokens += len(ids) - 1
        assert score.nats == pytest.approx(nats, abs=1e-4)
        assert score.tokens == tokens
        assert score.bytes == sum(len(t.encode()) for t in (short, long, short))

    def test_what_cannot_be_scored(self, model):
        for texts in ([], ["", ""]):
            with pytest.raises(ValueError, match="no documents to score"):
                score_documents(model, TOKENIZER, texts)
        with pytest.raises(ValueError, match=r"document 0 has 19 tokens"):
            score_documents(model, TOKENIZER, ["x" * 17])
        with pytest.raises(ValueError, match=r"endoftext"):
            score_documents(model, ByteTokenizer(), ["abc"])
        with pytest.raises(ValueError, match="put it in a list"):
            score_documents(model, TOKENIZER, "abc")


class TestTotalLoss:
    def test_batches_of_unequal_size_are_weighed_by_their_targets(self, model):
        inputs = torch.randint(256, (3, 9))
        targets = torch.randint(256, (3, 9))
        targets[1, 2:] = -100
        whole = total_loss(model, [Batch(inputs, targets)])
        parts = total_loss(
            model, [Batch(inputs[:1], targets[:1]), Batch(inputs[1:, :], targets[1:, :])]
        )
        assert whole[1] == parts[1] == 20
        assert parts[0] == pytest.approx(whole[0], rel=1e-6)

    def test_no_gradients_no_dropout_and_the_mode_is_put_back(self):
        config = ModelConfig(257, 16, n_layers=1, n_heads=1, d_model=8, dropout=0.5)
        model = Transformer(config).train()
        batch = Batch(torch.randint(256, (1, 9)), torch.randint(256, (1, 9)))
        first, second = total_loss(model, [batch]), total_loss(model, [batch])
        assert first == second and model.training
        with pytest.raises(ValueError):
            total_loss(model, [Batch(torch.tensor([[999]]), torch.tensor([[1]]))])
        assert model.training

    def test_nothing_to_score(self, model):
        ignored = Batch(torch.tensor([[1, 2]]), torch.tensor([[-100, -100]]))
        for batches in ([], [ignored]):
            with pytest.raises(ValueError, match="nothing to score"):
                total_loss(model, batches)


def test_a_score_quotes_itself_in_every_unit():
    score = Score(nats=60 * math.log(2), tokens=20, bytes=30)
    assert score.nats_per_token == pytest.approx(3 * math.log(2))
    assert score.nats_per_byte == pytest.approx(2 * math.log(2))
    assert score.bits_per_byte == pytest.approx(2)
    assert score.perplexity == pytest.approx(8)
    assert str(score) == (
        "1.3863 nats per byte (2.0000 bits), perplexity 8.00 per token over 20 tokens"
    )
