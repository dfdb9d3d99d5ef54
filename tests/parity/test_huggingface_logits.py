"""Every published family: the same weights give the same logits, in float32 and in float64."""

from __future__ import annotations

import pytest
import torch

VOCABULARY, WINDOW = 101, 8


@pytest.mark.parametrize("shape", [(1, 1), (2, WINDOW), (2, WINDOW + 1), (3, 40)])
def test_float32(pair, shape):
    ids = torch.randint(VOCABULARY, shape)
    with torch.no_grad():
        wanted = pair.theirs(ids).logits
        assert wanted.std() > 0.3
        torch.testing.assert_close(pair.ours()(ids), wanted, rtol=0, atol=1e-4)


@pytest.mark.parametrize("implementation", ["naive", "flash", "sdpa"])
def test_float64(pair, float64, implementation):
    """As exact as the arithmetic allows, past the window and with every implementation."""
    ids = torch.randint(VOCABULARY, (2, 40))
    ours = pair.ours(dtype=torch.float64, attention=implementation)
    if implementation == "sdpa" and ours.config.attention_softcap is not None:
        with pytest.raises(ValueError, match="softcap"):  # torch's kernel has none
            ours(ids)
        return
    with torch.no_grad():
        with float64():
            wanted = pair.theirs64(ids).logits
        torch.testing.assert_close(ours(ids), wanted, rtol=0, atol=1e-10)


def test_float64_as_transformers_runs_it(pair):
    """Without help its angles and norms are float32, and so is the agreement."""
    ids = torch.randint(VOCABULARY, (2, 40))
    ours = pair.ours(dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(ours(ids), pair.theirs64(ids).logits, rtol=0, atol=1e-4)


def test_left_padded_rows(pair, float64):
    ids = torch.randint(VOCABULARY, (2, 20))
    padding = torch.ones(2, 20, dtype=torch.bool)
    padding[0, :7] = False
    ours = pair.ours(dtype=torch.float64)
    with torch.no_grad():
        positions = (padding.long().cumsum(-1) - 1).clamp(min=0)
        with float64():
            wanted = pair.theirs64(
                ids, attention_mask=padding.long(), position_ids=positions
            ).logits
        out = ours(ids, padding=padding)
    torch.testing.assert_close(out[padding], wanted[padding], rtol=0, atol=1e-10)


def test_loading_in_bfloat16(pair):
    """Rounded weights, the same tables of angles: near, and not the same.

    Where experts are nearly equal, rounding sends some tokens to others; so it is farther then.
    """
    ids = torch.randint(VOCABULARY, (2, 40))
    ours, exact = pair.ours(dtype=torch.bfloat16), pair.ours()
    for name, parameter in ours.named_parameters():
        wide = name.endswith("selection_bias")  # which decides between scores that nearly tie
        assert parameter.dtype == (torch.float32 if wide else torch.bfloat16), name
    with torch.no_grad():
        wanted = exact(ids)
        off = (ours(ids).float() - wanted).std() / wanted.std()
    assert 1e-4 < off < (0.15 if ours.config.experts is None else 0.3)


@pytest.mark.parametrize(
    "name", ["mistral", "gemma2", "gemma3", "qwen2-windowed", "mixtral-windowed"]
)
def test_the_window_is_where_theirs_is(make_pair, name):
    """One token more or less in the window is a difference that the comparison above would see."""
    pair = make_pair(name)
    ids = torch.randint(VOCABULARY, (2, 40))
    with torch.no_grad():
        wanted = pair.theirs(ids).logits
        for window in (WINDOW - 1, WINDOW + 1):
            assert (pair.ours(window=window)(ids) - wanted).abs().max() > 1e-2


def test_rotary_rows_must_be_reordered(make_pair):
    """Without it, DeepSeek's neighbours would turn as halves: far off, and still fluent."""
    pair = make_pair("deepseek-v3")
    ids = torch.randint(VOCABULARY, (2, 40))
    ours = pair.ours()
    state = pair.theirs.state_dict()
    with torch.no_grad():
        wanted = pair.theirs(ids).logits
        ours.blocks[0].attention.down.weight.copy_(
            state["model.layers.0.self_attn.kv_a_proj_with_mqa.weight"]
        )
        assert (ours(ids) - wanted).abs().max() > 1e-2
