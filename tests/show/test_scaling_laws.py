"""Scaling figures: every run, law and interval that is given is drawn where it belongs."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest

from llmcourse.evaluate.scaling_law import ScalingLaw
from llmcourse.show.scaling_laws import count_text, plot_bpe_growth, plot_scaling_law

LAW = ScalingLaw(0.24, 1.0, 0.3, 300.0, 0.7)
SIZES, TOKENS = (10_000, 40_000, 160_000), (240_000, 480_000, 960_000)


def run(parameters, tokens, shift=0.0):
    loss = LAW.loss(parameters, tokens) + shift
    return {"parameters": parameters, "tokens": tokens, "nats_per_byte": loss}


def said(parameters, tokens):
    loss = LAW.loss(parameters, tokens)
    one = {"loss": loss, "low": loss - 0.01, "high": loss + 0.02, "level": 0.9}
    return {"free": one, "fixed": one | {"low": loss - 0.004}, "naive": 0.33}


SCALING = {
    "floor": 0.24,
    "runs": [run(n, d) for n in SIZES for d in TOKENS],
    "large": [run(500_000, 2_000_000, 0.003), run(160_000, 2_000_000, -0.002)],
    "foretold": [said(500_000, 2_000_000), said(160_000, 2_000_000)],
    "fits": {
        name: {"law": dataclasses.asdict(dataclasses.replace(LAW, floor=floor))}
        for name, floor in (("fixed", 0.24), ("free", 0.2))
    },
}


def marked(ax, stars):
    """(x, y) of all dots, or of all stars."""
    lines = [x for x in ax.lines if x.get_linestyle() == "None"]
    chosen = [x for x in lines if (x.get_marker() == "*") == stars]
    return sorted((x, y) for one in chosen for x, y in zip(one.get_xdata(), one.get_ydata()))


def test_runs_lie_at_what_they_are_above_the_floor(drawn):
    left = drawn(plot_scaling_law, SCALING).axes[0]
    for kind, stars in (("runs", False), ("large", True)):
        expected = sorted((r["tokens"], r["nats_per_byte"] - 0.24) for r in SCALING[kind])
        np.testing.assert_allclose(marked(left, stars), expected, rtol=1e-12)
    curves = [line for line in left.lines if line.get_linestyle() == "-"]
    assert len(curves) == 4  # a line for each size, those foretold among them
    ends = sorted(line.get_ydata()[-1] for line in curves)
    expected = [LAW.loss(n, 2_000_000) - 0.24 for n in (500_000, *SIZES[::-1])]
    np.testing.assert_allclose(ends, expected, rtol=1e-9)
    texts = {text.get_text() for text in left.texts}
    assert {"10k", "40k", "160k", "500k"} <= texts
    assert left.get_xscale() == left.get_yscale() == "log"


def test_predictions_have_their_intervals_and_what_came(drawn):
    right = drawn(plot_scaling_law, SCALING).axes[1]
    bars = [x for x in right.lines if len(x.get_xdata()) == 2 and x.get_linewidth() == 4]
    ends = [tuple(line.get_xdata()) for line in bars]
    expected = [(s[n]["low"], s[n]["high"]) for s in SCALING["foretold"] for n in ("fixed", "free")]
    assert ends == expected
    stars = [x for x in right.lines if x.get_marker() == "*"]
    assert [x.get_xdata()[0] for x in stars] == [r["nats_per_byte"] for r in SCALING["large"]]
    assert [label.get_text() for label in right.get_yticklabels()] == [
        "N 500k\nD 2M", "N 160k\nD 2M",
    ]  # fmt: skip
    assert {t.get_text() for t in right.get_legend().get_texts()} == {
        "law, floor known", "law, floor found", "best small run", "came",
    }  # fmt: skip
    assert "90% intervals" in right.get_xlabel()


def test_a_law_with_another_floor_may_be_drawn(drawn):
    left = drawn(plot_scaling_law, SCALING, "free", title="free").axes[0]
    lowest = min(np.nanmin(line.get_ydata()) for line in left.lines if len(line.get_xdata()) == 60)
    assert lowest > 0, "what is below the true floor has no logarithm and is left out"


def test_bad_evidence_is_refused():
    with pytest.raises(ValueError, match="law='both' is unknown"):
        plot_scaling_law(SCALING, "both")
    with pytest.raises(ValueError, match="no runs"):
        plot_scaling_law(SCALING | {"runs": []})
    below = copy.deepcopy(SCALING)
    below["large"][0]["nats_per_byte"] = 0.23
    with pytest.raises(ValueError, match=r"500,000 parameters has 0\.23 nats"):
        plot_scaling_law(below)


def row(size, tokens):
    cut, merge = size * 1e-7, size**0.5 * tokens * 1e-6
    return {
        "bytes": size, "tokens": tokens, "cutting": cut, "merging": merge, "ours": cut + merge,
        "rust": 2 * cut + merge,
    }  # fmt: skip


ROWS = [row(s, 2048) for s in (4_000_000, 1_000_000, 30_000_000)]
ROWS += [row(30_000_000, v) for v in (32_000, 8192)]


def test_growth_has_a_panel_for_each_cause(drawn):
    exponents = {"ours by bytes": 0.83, "merging by merges": 1.0}
    figure = drawn(plot_bpe_growth, ROWS, exponents, title="growth")
    left, right = figure.axes
    assert all(list(x.get_xdata()) == [1_000_000, 4_000_000, 30_000_000] for x in left.lines)
    assert all(list(x.get_xdata()) == [2048, 8192, 32_000] for x in right.lines)
    ours = [line for line in left.lines if line.get_label().startswith("this package")]
    assert list(ours[0].get_ydata()) == [row(s, 2048)["ours"] for s in ours[0].get_xdata()]
    assert ours[0].get_label() == "this package, power 0.83"
    labels = [line.get_label() for line in right.lines]
    assert labels == [
        "this package", "tokenizers (Rust)", "ours: cutting", "ours: merging, power 1.00",
    ]  # fmt: skip
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["2,048 tokens", "30M bytes of text"]


def test_growth_without_rows_is_refused():
    with pytest.raises(ValueError, match="no rows"):
        plot_bpe_growth([])
    with pytest.raises(ValueError, match="there is 1 of 30,000,000 bytes"):
        plot_bpe_growth(ROWS[:3])


@pytest.mark.parametrize(
    ("number", "text"),
    [(999, "999"), (1000, "1k"), (9_960, "10k"), (10_096, "10k"), (1_440_000, "1.4M"), (2e9, "2B")],
)
def test_counts_in_words(number, text):
    assert count_text(number) == text
