"""Part 2 in the real JupyterLab: open it, run it all, move a slider, see the output change."""

from __future__ import annotations

from pathlib import Path

import pytest

pytestmark = pytest.mark.browser

NOTEBOOK = "notebooks/part02_tiny_llm.ipynb"


def test_part02_runs_and_its_slider_changes_the_picture(course, browser, tmp_path: Path):
    assert (course.folder / NOTEBOOK).exists(), f"{NOTEBOOK} is missing from the course"
    page = course.open(browser, NOTEBOOK)
    try:
        cells = page.run_all(timeout=180)
        counts = [cell["count"] for cell in cells if cell["source"].strip()]
        assert counts == list(range(1, len(counts) + 1))  # each once, in order
        pictures = page.page.locator(".jp-RenderedImage img").count()
        assert pictures >= 3, f"only {pictures} figures on the page"

        before = page.views()
        assert before, "the notebook shows no widget"
        page.press("temperature", "ArrowRight", times=8)
        after = page.wait_for_change(before)
        assert [view for view in after if "can be sampled" in view] != [
            view for view in before if "can be sampled" in view
        ]
        page.screenshot(tmp_path / "part02.png")
        assert (tmp_path / "part02.png").stat().st_size > 10_000
    finally:
        page.close()
