"""Models whose probabilities are known without running a network."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from llmcourse.model import ModelConfig


class TrieModel(nn.Module):
    """Writes one of some given sequences, each as likely as the others, and nothing else.

    What comes next after a prefix is known by counting: the share of the sequences with this
    prefix that go on with each token (none may be the prefix of another). It has the interface of
    a `Transformer`; the hidden state of a position is the number of the prefix that ends there.
    """

    def __init__(self, sequences, vocab_size: int, context_length: int) -> None:
        super().__init__()
        self.config = ModelConfig(vocab_size, context_length, n_layers=1, n_heads=1, d_model=1)
        self.weight = nn.Parameter(torch.zeros(1))
        self.branches = {}  # (prefix, token) -> prefix; 0 is the empty one
        passed = [{}]  # for each prefix, how many sequences go on with each token
        for sequence in sequences:
            prefix = 0
            for token in sequence:
                passed[prefix][token] = passed[prefix].get(token, 0) + 1
                if (prefix, token) not in self.branches:
                    self.branches[prefix, token] = len(passed)
                    passed.append({})
                prefix = self.branches[prefix, token]
        self.table = torch.full((len(passed) + 1, vocab_size), -1e4)  # the last row: no prefix
        for prefix, counts in enumerate(passed):
            for token, n in counts.items():
                self.table[prefix, token] = torch.tensor(n / sum(counts.values())).log()

    def hidden(self, ids, padding=None, record=None, *, cache=None, documents=None):
        t = ids.shape[1]
        if cache is not None:
            # What came before is kept as this model's "keys": the tokens themselves.
            cache.begin(*ids.shape, padding)
            kept, _ = cache.update(0, *[ids[:, None, :, None].float()] * 2)  # (B, 1, S, 1)
            cache.commit()
            ids = kept[:, 0, :, 0].long()
        rows = []
        for row in ids.tolist():
            prefix, prefixes = 0, []
            for token in row:
                prefix = self.branches.get((prefix, token), -1)  # -1: the last row of the table
                prefixes.append(prefix)
            rows.append(prefixes)
        return torch.tensor(rows)[:, -t:, None]

    def logits(self, hidden):
        return self.table[hidden[..., 0]]

    def forward(self, ids, padding=None, record=None):
        return self.logits(self.hidden(ids))


@pytest.fixture
def trie_model():
    return TrieModel
