"""Figures are drawn without a screen, and every test must close what it opened."""

from __future__ import annotations

import matplotlib
import pytest

matplotlib.use("Agg")


@pytest.fixture(autouse=True)
def no_figure_is_left_open():
    """Count figures that a test's own code did not close; plots are closed by `drawn`."""
    import matplotlib.pyplot as plt

    plt.close("all")
    before = dict(matplotlib.rcParams)
    yield
    left = plt.get_fignums()
    plt.close("all")
    assert left == [], f"{len(left)} figures were left open"
    assert dict(matplotlib.rcParams) == before, "a plot changed matplotlib's global settings"


@pytest.fixture
def drawn():
    """Calls a plot function, draws it fully, and closes it at the end of the test."""
    import matplotlib.pyplot as plt

    figures = []

    def draw(function, *arguments, **options):
        figure = function(*arguments, **options)
        figures.append(figure)
        assert plt.get_fignums() == [one.number for one in figures]  # one new figure, no more
        figure.canvas.draw()
        return figure

    yield draw
    for figure in figures:
        plt.close(figure)
