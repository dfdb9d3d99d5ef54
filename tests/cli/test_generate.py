"""`llmcourse generate` shows a text while it is written, and it is the text that was asked for."""

from __future__ import annotations

import sys
from itertools import pairwise

import pytest
import torch

from llmcourse.cli import generate as command
from llmcourse.generate import generate_text
from llmcourse.model import ModelConfig, Transformer
from llmcourse.runs.perform import printable
from llmcourse.tokenizers import END_OF_TEXT, ByteTokenizer
from llmcourse.train import checkpoint

TOKENIZER = ByteTokenizer((END_OF_TEXT,))


@pytest.fixture
def saved(tmp_path):
    config = ModelConfig(
        vocab_size=257, context_length=24, n_layers=1, n_heads=2, d_model=16, init_std=0.5
    )
    model = Transformer(config, torch.Generator().manual_seed(0))
    return model.eval(), str(checkpoint.save(tmp_path / "model", model, tokenizer=TOKENIZER))


class Terminal:
    """Notes what is visible after each flush."""

    def __init__(self):
        self.text, self.seen = "", []

    def write(self, text):
        self.text += text

    def flush(self):
        self.seen.append(self.text)


def test_each_piece_is_visible_at_once_and_the_whole_is_the_text(saved, monkeypatch):
    model, path = saved
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    words = ["--checkpoint", path, "--device", "cpu", "--prompt", "é", "--samples", "2"]
    assert command.run([*words, "--max-new-tokens", "40", "--seed", "3"]) == 0
    texts = generate_text(
        model, TOKENIZER, [END_OF_TEXT + "é"] * 2, 40, stop=(END_OF_TEXT,),
        generator=torch.Generator().manual_seed(3), overflow="slide",
    )  # fmt: skip
    first, second = (printable("é" + text) for text in texts)
    head, _, rest = terminal.text.partition("\n\n")
    assert head.startswith("device cpu") and rest == f"{first}\n\n---\n\n{second}\n"
    lengths = [len(text) - len(head) - 2 for text in terminal.seen]
    grown = [b - a for a, b in pairwise(lengths) if a >= 0 and b <= len(first)]
    assert lengths[0] == 1, "the prompt stands there before anything is computed"
    assert len(grown) >= 40 and max(grown) <= 4 and sum(grown) == len(first) - 1
