"""Attention maps: what is drawn is what was given."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from llmcourse.show import plot_attention, style
from llmcourse.show.attention import check_weights
from llmcourse.show.tokens import readable, token_labels


def causal_weights(heads: int, time: int, source: int | None = None, seed: int = 0) -> torch.Tensor:
    source = time if source is None else source
    scores = torch.randn(heads, time, source, generator=torch.Generator().manual_seed(seed))
    mask = torch.ones(time, source, dtype=torch.bool).tril(source - time)
    return scores.masked_fill(~mask, -torch.inf).softmax(-1)


def maps(figure):
    return [ax for ax in figure.axes if ax.get_visible() and ax.images]


@pytest.mark.parametrize(("heads", "time"), [(1, 1), (3, 5), (8, 17), (5, 64)])
def test_drawn_image_is_the_weights(drawn, heads, time):
    weights = causal_weights(heads, time)
    axes = maps(drawn(plot_attention, weights, "x" * time))
    assert len(axes) == heads
    for ax, wanted in zip(axes, weights, strict=True):
        np.testing.assert_array_equal(ax.images[0].get_array(), wanted.double().numpy())
        assert ax.images[0].get_clim() == (0.0, 1.0)  # the same colour means the same everywhere


def test_chosen_heads_in_the_order_given(drawn):
    weights = causal_weights(4, 6)
    axes = maps(drawn(plot_attention, weights, "abcdef", heads=[3, 1]))
    assert [ax.get_title("left") for ax in axes] == ["head 3", "head 1"]
    np.testing.assert_array_equal(axes[0].images[0].get_array(), weights[3].double())


def masked_cells(ax) -> set[tuple[int, int]]:
    """(query, source) of every hatched cell, from the patch's own corners."""
    patches = [p for p in ax.patches if p.get_label() == "masked"]
    if not patches:
        return set()
    [patch] = patches
    assert patch.get_hatch()
    corners = patch.get_path().vertices.reshape(-1, 5, 2)
    return {(int(y), int(x)) for x, y in corners[:, :4].mean(axis=1)}


@pytest.mark.parametrize(("time", "source"), [(5, 5), (2, 5), (1, 1)])
def test_masked_cells_are_hatched_and_no_others(drawn, time, source):
    weights = causal_weights(2, time, source)
    figure = drawn(plot_attention, weights, "q" * time, source_tokens="s" * source)
    wanted = {(t, s) for t in range(time) for s in range(source) if s > t + source - time}
    for ax in maps(figure):
        assert masked_cells(ax) == wanted


def test_full_attention_has_no_hatching(drawn):
    weights = torch.full((4, 4), 0.25)
    [ax] = maps(drawn(plot_attention, weights, "abcd"))
    assert masked_cells(ax) == set()


def test_given_mask_is_drawn_even_where_causal_would_allow(drawn):
    mask = torch.eye(3, dtype=torch.bool)
    [ax] = maps(drawn(plot_attention, torch.eye(3), "abc", mask=mask))
    assert masked_cells(ax) == {(t, s) for t in range(3) for s in range(3) if t != s}


def test_small_single_head_shows_its_numbers(drawn):
    weights = causal_weights(1, 4)
    [ax] = maps(drawn(plot_attention, weights, "abcd"))
    numbers = {(t.get_position()[1], t.get_position()[0]): t.get_text() for t in ax.texts}
    assert numbers == {(t, s): f"{weights[0, t, s]:.2f}" for t in range(4) for s in range(t + 1)}


def test_numbers_can_be_read_on_their_cells(drawn):
    from matplotlib.colors import to_hex

    [ax] = maps(drawn(plot_attention, causal_weights(1, 8), "abcdefgh"))
    image = ax.images[0]
    for text in ax.texts:
        source, query = (int(i) for i in text.get_position())
        cell = style.lightness(to_hex(image.cmap(image.norm(image.get_array()[query, source]))))
        assert abs(style.lightness(to_hex(text.get_color())) - cell) > 35


def test_large_map_has_no_numbers_and_counts_positions(drawn):
    [ax] = maps(drawn(plot_attention, causal_weights(1, 60)[0], "z" * 60))
    assert not ax.texts
    assert "z" not in {label.get_text() for label in ax.get_xticklabels()}


def test_labels_stand_on_both_axes(drawn):
    figure = drawn(plot_attention, causal_weights(1, 3), ["the", " cat", "\n"])
    [ax] = maps(figure)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["the", "␣cat", "↵"]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["the", "␣cat", "↵"]
    assert "source token" in figure.get_supxlabel() and "query token" in figure.get_supylabel()


@pytest.mark.parametrize(
    ("weights", "tokens", "options", "message"),
    [
        (torch.ones(3, 3), "abc", {}, "head 0, query 0 sum to 3.000, not to 1"),
        (torch.eye(3), "ab", {}, "2 query labels for 3 query positions"),
        (torch.eye(3), "abc", {"source_tokens": "ab"}, "2 source labels for 3"),
        (torch.eye(3)[None, None], "abc", {}, r"pick one row: weights\[0\]"),
        (torch.eye(3), "abc", {"heads": 1}, "head 1 does not exist; there are 1 heads"),
        (torch.eye(3), "abc", {"heads": []}, "heads is empty"),
        (torch.eye(3), "abc", {"titles": ["a", "b"]}, "2 titles for 1 heads"),
        (torch.eye(3), "abc", {"mask": torch.ones(2, 3)}, r"\(T, S\) = \(3, 3\)"),
        (torch.eye(3), [1, 2, 3], {}, "pass tokenizer="),
        (torch.full((2, 2), float("nan")), "ab", {}, "4 NaN"),
        (torch.tensor([[2.0, -1.0], [0.5, 0.5]]), "ab", {}, "negative value -1"),
        ([[1.0], [0.5, 0.5]], "ab", {}, "rectangular"),
    ],
)
def test_bad_input_says_what_is_wrong(weights, tokens, options, message):
    with pytest.raises(ValueError, match=message):
        plot_attention(weights, tokens, **options)


def test_softmax_over_the_query_axis_is_named():
    scores = torch.randn(4, 4, generator=torch.Generator().manual_seed(3))
    with pytest.raises(ValueError, match="ran over the query axis"):
        check_weights(scores.softmax(0))


def test_weight_on_a_forbidden_cell_is_named():
    with pytest.raises(ValueError, match=r"weight 0\.5 to source 1 from query 0"):
        check_weights(torch.full((2, 2), 0.5), mask=torch.ones(2, 2).tril().bool())


def test_row_that_may_look_nowhere_may_be_zero():
    weights = torch.tensor([[0.0, 0.0], [0.0, 1.0]])
    mask = torch.tensor([[False, False], [False, True]])
    array, allowed = check_weights(weights, mask)
    assert array.shape == (1, 2, 2) and not allowed[0].any()


def test_bfloat16_weights_are_accepted():
    check_weights(causal_weights(2, 40).bfloat16())


@pytest.mark.parametrize(
    ("token", "label"),
    [
        (" ", "␣"),
        ("\n", "↵"),
        (b"\xe2", "E2"),
        (b"caf\xc3\xa9", "café"),
        ("<|endoftext|>", "⟨endoftext⟩"),
        ("\x00", "00"),
        ("", "∅"),
    ],
)
def test_every_token_is_visible(token, label):
    assert readable(token) == label


def test_ids_are_named_by_the_tokenizer():
    from llmcourse.tokenizers import ByteTokenizer

    tokenizer = ByteTokenizer(("<|endoftext|>",))
    ids = torch.tensor([*tokenizer.encode("a é"), 256])
    assert token_labels(ids, tokenizer) == ["a", "␣", "C3", "A9", "⟨endoftext⟩"]
