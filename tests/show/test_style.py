"""The visual language: readable in grey, local in its effects."""

from __future__ import annotations

import subprocess
import sys

import matplotlib
import numpy as np
import pytest

from llmcourse.show import style


def test_every_series_differs_in_style_and_in_marker():
    assert len({s.linestyle for s in style.SERIES}) == len(style.SERIES)
    assert len({s.marker for s in style.SERIES}) == len(style.SERIES)
    assert len({s.color for s in style.SERIES}) == len(style.SERIES)


def test_neighbouring_series_differ_in_lightness():
    lightness = [style.lightness(style.series(i).color) for i in range(len(style.SERIES) + 1)]
    gaps = np.abs(np.diff(lightness))
    assert gaps.min() > 8, lightness


def test_lightness_of_known_colours():
    # CIE L* of mid grey #777777 is 50.0; black and white are the ends of the scale.
    assert style.lightness("#000000") == 0
    assert style.lightness("#ffffff") == pytest.approx(100)
    assert style.lightness("#777777") == pytest.approx(50.0, abs=0.1)


@pytest.mark.parametrize("make", [style.weight_colormap, style.signed_colormap])
def test_colour_maps_are_monotone_in_lightness(make):
    from matplotlib.colors import to_hex

    lightness = [style.lightness(to_hex(make()(x))) for x in np.linspace(0, 1, 64)]
    steps = np.diff(lightness)
    assert (steps < 0).all() or (steps > 0).all()
    assert abs(lightness[-1] - lightness[0]) > 65


def test_meanings_are_apart_in_grey():
    assert abs(style.lightness(style.KEPT) - style.lightness(style.CUT)) > 20


def test_applied_is_local():
    before = matplotlib.rcParams["axes.spines.top"], matplotlib.rcParams["font.size"]
    with style.applied():
        assert matplotlib.rcParams["axes.spines.top"] is False
    assert (matplotlib.rcParams["axes.spines.top"], matplotlib.rcParams["font.size"]) == before


def test_detached_figure_is_unknown_to_pyplot():
    figure, axes = style.figure(rows=2, columns=3, attached=False)
    assert axes.shape == (2, 3)
    figure.canvas.draw()  # and needs no closing: the fixture counts open figures


def test_ticks_made_late_keep_the_style(drawn):
    figure = drawn(lambda: style.figure()[0])
    axes = figure.axes[0]
    axes.set_xlim(0, 1000)  # new ticks, outside the style's context
    figure.canvas.draw()
    assert {label.get_fontsize() for label in axes.get_xticklabels()} == {style.SMALL_SIZE}


def test_a_figure_without_axes_is_refused():
    with pytest.raises(ValueError, match="0 x 3"):
        style.figure(rows=0, columns=3)


def test_importing_show_costs_nothing():
    code = (
        "import sys, llmcourse.show, llmcourse.show.style, llmcourse.show.attention;"
        "heavy = {'matplotlib', 'torch', 'ipywidgets', 'PIL'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_public_name_exists():
    from llmcourse import show

    for name in show.__all__:
        assert callable(getattr(show, name))
    assert set(show.__all__) <= set(dir(show))
    with pytest.raises(AttributeError, match="no_such_plot"):
        show.no_such_plot  # noqa: B018
