"""Text in pieces: whole characters only, and together exactly what decoding at once gives."""

from __future__ import annotations

import random

import pytest
import torch

from llmcourse.generate import Sampling, generate_text, stream_text
from llmcourse.generate.streaming import TextPieces, stream_texts
from llmcourse.model import ModelConfig, Transformer
from llmcourse.tokenizers import (
    END_OF_TEXT,
    ByteTokenizer,
    CharacterTokenizer,
    WordTokenizer,
)

BYTES = ByteTokenizer((END_OF_TEXT,))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def model():
    config = ModelConfig(
        vocab_size=257, context_length=40, n_layers=1, n_heads=2, d_model=16, init_std=1.0
    )
    return Transformer(config, seeded(1)).double()


class TestTextPieces:
    def test_bytes_wait_for_their_character(self):
        pieces = TextPieces(BYTES)
        assert [pieces.add(id) for id in BYTES.encode("aé€😀")] == [
            "a", "", "é", "", "", "€", "", "", "", "😀",
        ]  # fmt: skip
        assert pieces.end() == ""

    def test_a_character_that_never_ends_is_a_mark_at_the_end(self):
        pieces = TextPieces(BYTES)
        assert [pieces.add(id) for id in "😀".encode()[:3]] == ["", "", ""]
        assert pieces.end() == "\N{REPLACEMENT CHARACTER}"

    @pytest.mark.parametrize(
        "tokenizer",
        [
            BYTES,
            CharacterTokenizer.train(["aé€😀 "], (END_OF_TEXT,)),
            WordTokenizer.train(["the naïve café", "the naïve café"], (END_OF_TEXT,)),
        ],
    )
    def test_joined_they_are_what_decoding_at_once_gives(self, tokenizer):
        chance = random.Random(0)
        for _ in range(300):
            # Random ids: mostly broken UTF-8, and characters cut anywhere.
            ids = [chance.randrange(tokenizer.vocab_size) for _ in range(chance.randrange(12))]
            if tokenizer is BYTES and chance.random() < 0.5:
                data = list("aé€😀".encode())
                ids = data[chance.randrange(4) : chance.randrange(4, 10)] + ids
            pieces = TextPieces(tokenizer)
            assert "".join(map(pieces.add, ids)) + pieces.end() == tokenizer.decode(ids)


class TestStreamText:
    @pytest.mark.parametrize("seed", range(5))
    def test_the_pieces_are_the_text(self, model, seed):
        pieces = list(stream_text(model, BYTES, "aé", 30, generator=seeded(seed)))
        [text] = generate_text(model, BYTES, ["aé"], 30, generator=seeded(seed))
        assert "".join(pieces) == text and len(pieces) > 10 and all(pieces)

    def test_many_prompts_and_a_stop(self, model):
        prompts, options = ["a", "longer é", "xyz"], {"stop": (END_OF_TEXT,), "overflow": "slide"}
        # Make the end likely enough that some rows meet it and others do not.
        model.embedding.weight.data[256] *= 1.5
        steps = list(stream_texts(model, BYTES, prompts, 60, generator=seeded(3), **options))
        texts = generate_text(model, BYTES, prompts, 60, generator=seeded(3), **options)
        assert ["".join(pieces) for pieces in zip(*steps)] == texts
        assert not any(END_OF_TEXT in text for text in texts)
        assert len(set(map(len, texts))) == 3, "all ended together"

    def test_one_prompt_forked(self, model):
        options = {"n_completions": 3, "sampling": Sampling(temperature=2.0)}
        steps = list(stream_texts(model, BYTES, ["ab"], 20, generator=seeded(3), **options))
        texts = generate_text(model, BYTES, ["ab"], 20, generator=seeded(3), **options)
        assert ["".join(pieces) for pieces in zip(*steps)] == texts and len(set(texts)) == 3

    def test_mistakes_are_named_at_once(self, model):
        with pytest.raises(ValueError, match="at least one token to continue from"):
            stream_text(model, BYTES, "", 5)
        with pytest.raises(ValueError, match="no special token '<end>'"):
            stream_text(model, BYTES, "a", 5, stop=("<end>",))
        with pytest.raises(ValueError, match="overflow the context of 40"):
            stream_text(model, BYTES, "a", 40)
        with pytest.raises(ValueError, match="put it in a list"):
            stream_texts(model, BYTES, "abc", 5)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_rows_that_only_pad_the_table_are_never_written(temperature):
    config = ModelConfig(vocab_size=300, context_length=40, n_layers=1, n_heads=2, d_model=16)
    model = Transformer(config, seeded(1))
    with torch.no_grad():  # they would win every time
        model.embedding.weight[257:] = 100 * model.embedding.weight[65]
    sampling = Sampling(temperature=temperature)
    options = {"sampling": sampling, "generator": seeded(2)}
    [text] = generate_text(model, BYTES, ["abc"], 20, **options)
    options = {"sampling": sampling, "generator": seeded(2)}
    assert "".join(stream_text(model, BYTES, "abc", 20, **options)) == text
