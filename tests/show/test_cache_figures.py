"""Cache sizes, against the counts of the model's own summary, of real tensors, and by hand."""

from __future__ import annotations

import numpy as np
import pytest

from llmcourse.model import ModelConfig, Transformer
from llmcourse.model.config import PRESETS, Latent
from llmcourse.model.summary import summary
from llmcourse.show import plot_cache_memory
from llmcourse.show.cache import (
    DTYPES,
    cache_rows,
    contexts_around,
    groups_between,
    kept_tokens,
    size_text,
    weights_bytes,
)

SMALL = ModelConfig(
    vocab_size=64, context_length=32, n_layers=3, n_heads=8, d_model=64, positions="rope"
)


def by_name(rows):
    return {row.name: row for row in rows}


def test_rows_by_hand():
    rows = by_name(cache_rows(SMALL, 10, batch_size=2, dtype="bfloat16", kv_heads=4))
    # D = 8; bytes: 2 per number, 2 rows, 3 layers, 10 tokens.
    numbers = {"MHA": 2 * 8 * 8, "GQA (4 heads)": 2 * 4 * 8, "MQA": 2 * 8, "MLA": 4 * 8 + 4}
    assert {name: row.numbers for name, row in rows.items()} == numbers
    assert {name: row.n_bytes for name, row in rows.items()} == {
        name: 2 * 2 * 3 * 10 * count for name, count in numbers.items()
    }
    assert [name for name, row in rows.items() if row.own] == ["MHA"]


@pytest.mark.parametrize("kv_heads", [8, 4, 2, 1])
@pytest.mark.parametrize("tokens", [1, 7, 32])
def test_the_models_own_row_agrees_with_its_config(kv_heads, tokens):
    config = SMALL.replace(n_kv_heads=kv_heads)
    [own] = [row for row in cache_rows(config, tokens, dtype="float32") if row.own]
    assert own.n_bytes == summary(config).cache_bytes(1, tokens)


@pytest.mark.parametrize("tokens", [1, 5, 6, 7, 32])
def test_windowed_layers_keep_window_and_sinks(tokens):
    config = SMALL.replace(window=4, sinks=2, global_every=3)
    [own] = [row for row in cache_rows(config, tokens, batch_size=3, dtype="float32") if row.own]
    assert own.name == "MHA + window"
    assert own.kept == (min(tokens, 6), min(tokens, 6), tokens)
    assert own.n_bytes == summary(config).cache_bytes(3, tokens)


def test_latent_attention_is_its_own_row():
    latent = Latent(d_latent=24, d_nope=8, d_rope=4, d_value=6)
    config = SMALL.replace(latent=latent, d_head=None)
    rows = by_name(cache_rows(config, 16, dtype="float32"))
    assert rows["MLA"].own and rows["MLA"].numbers == 24 + 4
    assert rows["MLA"].n_bytes == summary(config).cache_bytes(1, 16)
    assert rows["MHA"].numbers == 8 * (12 + 6) and rows["MHA"].formula == "8 · (12 + 6)"


def test_every_preset_has_one_own_row_that_its_summary_confirms():
    for name in PRESETS:
        config = ModelConfig.preset(name)
        own = [row for row in cache_rows(config, 9000, dtype="float32") if row.own]
        assert len(own) == 1, name
        assert own[0].n_bytes == summary(config).cache_bytes(1, 9000), name


def test_weights_are_those_of_a_built_model():
    model = Transformer(SMALL)
    count = sum(parameter.numel() for parameter in model.parameters())
    for dtype, width in DTYPES.items():
        assert weights_bytes(SMALL, dtype) == width * count


def test_a_window_can_be_tried_on_a_model_without_one():
    rows = by_name(cache_rows(SMALL, 32, window=8, sinks=4, dtype="float32"))
    assert rows["MHA + window"].n_bytes * 32 == rows["MHA"].n_bytes * 12
    assert not rows["MHA + window"].own and rows["MHA"].own


def test_another_number_of_groups_stands_beside_the_models_own():
    config = SMALL.replace(n_kv_heads=4)
    rows = by_name(cache_rows(config, kv_heads=2))
    assert list(rows) == ["MHA", "GQA (4 heads)", "GQA (2 heads)", "MQA", "MLA"]
    assert [name for name, row in rows.items() if row.own] == ["GQA (4 heads)"]


@pytest.mark.parametrize(("heads", "between"), [(1, []), (2, []), (7, []), (12, [2, 3, 4, 6])])
def test_heads_that_cannot_be_shared_have_no_such_row(heads, between):
    config = ModelConfig(vocab_size=8, context_length=8, n_layers=1, n_heads=heads, d_model=84)
    assert groups_between(config) == between
    names = list(by_name(cache_rows(config)))
    assert ("GQA (3 heads)" in names) == (heads == 12)
    assert ("MQA" in names) == (heads > 1)


def test_figure_shows_bars_and_growth(drawn):
    figure = drawn(plot_cache_memory, SMALL, 16, batch_size=4, window=8, dtype="float32")
    left, right = figure.axes
    rows = cache_rows(SMALL, 16, batch_size=4, window=8, dtype="float32")
    widths = [bar.get_width() for bar in left.patches]
    sizes = [*(row.n_bytes for row in rows), weights_bytes(SMALL, "float32")]
    assert left.get_xlabel() == "memory (KB)"
    np.testing.assert_allclose(widths, np.array(sizes) / 1000)
    assert [text.get_text() for text in left.texts] == [size_text(size) for size in sizes]
    mha, window = right.lines[0], right.lines[len(rows) - 1]
    per_token = 4 * 4 * 3 * 128
    np.testing.assert_array_equal(mha.get_ydata(), np.array(contexts_around(16)) * per_token)
    assert set(window.get_ydata()) == {8 * per_token}  # a window does not grow


def test_contexts_reach_beyond_what_is_asked():
    assert contexts_around(1)[0] == 128 and contexts_around(1)[-1] == 2048
    assert contexts_around(32_768)[-1] == 131_072


def test_kept_tokens_of_mixed_layers():
    assert kept_tokens((4, None, 4), 1, 100) == (5, 100, 5)
    assert kept_tokens((4, None), 1, 3) == (3, 3)


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 bytes"), (999, "999 bytes"), (1000, "1 KB"), (999_600, "1 MB"), (37_748_736, "37.7 MB"),
     (1.7e12, "1.7 TB"), (5e15, "5,000 TB")],
)  # fmt: skip
def test_sizes_in_words(size, text):
    assert size_text(size) == text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tokens": 0}, "tokens=0"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"window": 0}, "window=0"),
        ({"sinks": -1}, "sinks=-1"),
        ({"kv_heads": 3}, r"kv_heads=3 is no GQA of 8 heads; choose one of \[2, 4\]"),
        ({"dtype": "float13"}, "dtype 'float13' is unknown"),
    ],
)
def test_bad_input_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        cache_rows(SMALL, **options)
    with pytest.raises(ValueError, match=message):
        plot_cache_memory(SMALL, **options)
