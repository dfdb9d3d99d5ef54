"""Every published family: 64 greedy tokens, with and without a cache, are those of transformers."""

from __future__ import annotations

import pytest
import torch

from llmcourse.generate import Sampling, generate

NEW, PROMPT = 64, 11  # the prompt is longer than the windows of 8


def their_tokens(pair, ids, **options):
    return pair.theirs.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=NEW,
        do_sample=False,
        pad_token_id=0,
        eos_token_id=None,
        **options,
    )


def test_greedy_tokens(pair):
    ids = torch.randint(101, (2, PROMPT))
    wanted = their_tokens(pair, ids)
    assert wanted.shape == (2, PROMPT + NEW)
    assert len(wanted[:, PROMPT:].unique()) > 5
    ours, greedy = pair.ours(), Sampling(temperature=0.0)
    caches = ["none", "dense", "paged"] + (["rolling"] if ours.config.window else [])
    for cache in caches:
        assert torch.equal(generate(ours, ids, NEW, sampling=greedy, cache=cache), wanted), cache


def test_their_own_cache_changes_nothing(make_pair):
    """The reference is not an accident of its cache."""
    pair = make_pair("gemma3")
    ids = torch.randint(101, (2, PROMPT))
    assert torch.equal(their_tokens(pair, ids), their_tokens(pair, ids, use_cache=False))


@pytest.mark.parametrize(
    "name", ["gpt2", "mistral", "gemma3", "deepseek-v3", "mixtral-windowed", "deepseek-v3-experts"]
)
def test_ragged_prompts(make_pair, name):
    """Left-padded prompts of unequal length, each as if it were alone."""
    pair = make_pair(name)
    ids = torch.randint(101, (2, PROMPT))
    padding = torch.ones(2, PROMPT, dtype=torch.bool)
    padding[1, :6] = False
    out = generate(pair.ours(), ids, NEW, sampling=Sampling(temperature=0.0), padding=padding)
    assert torch.equal(out[:1], their_tokens(pair, ids[:1]))
    assert torch.equal(out[1:, 6:], their_tokens(pair, ids[1:, 6:]))
