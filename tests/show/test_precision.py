"""Number formats against torch's own arithmetic; the pictures against the formats."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from llmcourse.show import plot_formats, plot_gradient_range, plot_spacing
from llmcourse.show.gradient_range import magnitudes_of, overflowed, vanished
from llmcourse.show.precision import FORMATS, gap_curve

NAMES = list(FORMATS)


@pytest.mark.parametrize("name", NAMES)
def test_limits_are_those_of_torch(name):
    form, info = FORMATS[name], torch.finfo(getattr(torch, name))
    assert form.bits == info.bits
    assert form.largest == info.max
    assert form.smallest_normal == info.smallest_normal
    assert form.spacing(1.0) == info.eps
    assert 2.0 ** round(math.log2(form.smallest)) == form.smallest
    dtype = getattr(torch, name)
    assert torch.tensor(form.smallest, dtype=torch.float64).to(dtype).item() == form.smallest
    assert torch.tensor(form.smallest / 2, dtype=torch.float64).to(dtype).item() == 0


@pytest.mark.parametrize("name", NAMES)
def test_spacing_is_the_distance_to_the_next_number(name):
    form, dtype = FORMATS[name], getattr(torch, name)
    generator = torch.Generator().manual_seed(0)
    exponents = torch.rand(200, generator=generator) * 40 - 28
    values = torch.exp2(exponents).to(dtype)
    values = torch.cat([values, torch.tensor([0.0, form.smallest, form.smallest_normal]).to(dtype)])
    values = values[values.double() < form.largest]
    following = torch.nextafter(values, torch.full_like(values, math.inf))
    wanted = following.double() - values.double()
    np.testing.assert_array_equal(form.spacing(values.double().numpy()), wanted.numpy())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [0.1, -2.5, 1e-6, 0.0, 3e4])
def test_bits_read_back_as_the_number(name, value):
    form = FORMATS[name]
    bits = form.bit_string(value)
    assert len(bits) == form.bits and set(bits) <= {"0", "1"}
    exponent = int(bits[1 : 1 + form.exponent_bits], 2)
    mantissa = int(bits[1 + form.exponent_bits :], 2) / 2**form.mantissa_bits
    lead = 1 if exponent else 0
    power = max(exponent, 1) + form.lowest_exponent - 1
    read = (-1) ** int(bits[0]) * (lead + mantissa) * 2.0**power
    assert read == form.rounded(value)
    assert abs(read - value) <= form.spacing(abs(value)) / 2


def test_formats_figure_draws_every_bit(drawn):
    ax = drawn(plot_formats, 0.1).axes[0]
    assert len(ax.patches) == 32 + 16 + 16
    words = [text.get_text() for text in ax.texts]
    assert "".join(w for w in words if w in "01")[:32] == FORMATS["float32"].bit_string(0.1)
    assert "0.1 is kept as 0.100097656; error 0.001" in words
    assert [label.get_text() for label in ax.get_yticklabels()] == NAMES
    assert len({p.get_facecolor() for p in ax.patches}) == 3


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", [0.0, 1e6, -1e-12])  # 0, above float16's end, below it
def test_formats_at_the_edges(drawn, value):
    words = [text.get_text() for text in drawn(plot_formats, value, ["float16"]).axes[0].texts]
    kept = torch.tensor(value, dtype=torch.float16).item()
    assert any(word.startswith(f"{value:g} is kept as {kept:.9g}") for word in words)


def test_spacing_figure_ends_where_the_formats_end(drawn):
    left, right = drawn(plot_spacing).axes
    lines = [line for line in left.lines if line.get_marker() == "None"]
    for line, form in zip(lines, FORMATS.values(), strict=True):
        x, y = line.get_xdata(), line.get_ydata()
        assert x[0] == form.smallest and x[-1] <= form.largest < 2 * x[-1]
        assert y[0] == 1 and y[-1] == 2.0**-form.mantissa_bits
    assert left.get_xscale() == right.get_yscale() == "log"
    steps = right.lines[1].get_ydata()  # bfloat16: eight powers of two, each with its own gap
    assert len(set(steps)) == 8 and set(np.diff(np.log2(sorted(set(steps))))) == {1.0}


def test_gap_curve_falls_until_all_digits_are_there():
    magnitudes, gaps = gap_curve(FORMATS["float16"])
    normal = magnitudes >= FORMATS["float16"].smallest_normal
    assert set(gaps[normal]) == {2.0**-10}
    np.testing.assert_array_equal(gaps[~normal], 2.0**-24 / magnitudes[~normal])


@pytest.fixture
def gradients() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    spread = torch.exp2(torch.randn(5000, generator=generator) * 4 - 18)
    values = torch.randn(5000, generator=generator) * spread
    values[:500] = 0
    values[500:503] = torch.tensor([2.0**-25, -(2.0**-25), 2.0**-24])  # half the smallest; itself
    return values


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
@pytest.mark.parametrize("scale", [1.0, 1024.0, 2.0**24])
def test_shares_are_those_of_a_cast(gradients, name, scale):
    magnitudes = magnitudes_of(gradients) * scale
    cast = torch.from_numpy(magnitudes).to(getattr(torch, name))
    known = magnitudes > 0
    form = FORMATS[name]
    assert vanished(magnitudes, form) == (cast[torch.from_numpy(known)] == 0).double().mean()
    assert overflowed(magnitudes, form) == cast.isinf().double().mean()


def test_a_number_just_too_large_overflows():
    largest = torch.tensor([65519.9, 65520.0], dtype=torch.float64)
    assert largest.to(torch.float16).isinf().tolist() == [False, True]
    assert overflowed(largest.numpy(), FORMATS["float16"]) == 0.5


def test_gradient_figure_moves_with_the_scale(drawn, gradients):
    figure = drawn(plot_gradient_range, [gradients[:700].reshape(7, 100), gradients[700:]],
                   loss_scale=1024.0)  # fmt: skip
    ax = figure.axes[0]
    plain, scaled = (patch.get_data() for patch in ax.patches)
    np.testing.assert_array_equal(scaled.values, plain.values)
    np.testing.assert_array_equal(scaled.edges, plain.edges + 10)
    assert plain.values.sum() == pytest.approx(1)
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    share = vanished(magnitudes_of(gradients), FORMATS["float16"])
    assert labels[0] == f"as they are: {share:.1%} vanish in float16"
    assert labels[1].startswith("of the loss × 1,024: ")
    assert -25.0 in [line.get_xdata()[0] for line in ax.lines]  # half of 2^-24
    assert "10.0% are 0" in ax.get_xlabel()
    assert any("bfloat16: 0 from $2^{-134}$ down" in text.get_text() for text in ax.texts)


@pytest.mark.filterwarnings("error")
def test_a_single_gradient_is_drawn(drawn):
    ax = drawn(plot_gradient_range, np.array([3.0]), formats=["float32"], title="one").axes[0]
    assert len(ax.patches) == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: plot_formats(0.1, []), "at least one format"),
        (lambda: plot_formats(0.1, ["float8"]), "format 'float8' is unknown"),
        (lambda: plot_formats(math.inf), "value=inf"),
        (lambda: plot_spacing(["int8"]), "format 'int8' is unknown"),
        (lambda: plot_gradient_range([]), "there are no gradients"),
        (lambda: plot_gradient_range(torch.zeros(0)), "there are no gradients"),
        (lambda: plot_gradient_range(torch.zeros(3)), "all gradients are 0"),
        (lambda: plot_gradient_range(torch.tensor([1.0, math.nan])), "1 gradients are infinite"),
        (lambda: plot_gradient_range(torch.ones(3), loss_scale=0.0), "loss_scale=0.0"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
