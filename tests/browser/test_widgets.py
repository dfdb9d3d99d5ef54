"""The widgets in the real JupyterLab, on two small notebooks made here."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest

pytestmark = pytest.mark.browser

SETUP = """\
import torch, matplotlib.pyplot as plt
from IPython.display import display
from llmcourse import show
from llmcourse.model import ModelConfig, Transformer
from llmcourse.tokenizers import ByteTokenizer
from llmcourse.train import TrainConfig, training_steps
from llmcourse.data.batches import sliding_window

torch.manual_seed(0)
tokenizer = ByteTokenizer()
text = "The cat sleeps in the basket. The dog sleeps by the door. " * 40
tokens = torch.tensor(tokenizer.encode(text))
config = ModelConfig(
    vocab_size=256, context_length=48, n_layers=2, n_heads=4, d_model=32, dropout=0.0
)
model = Transformer(config, generator=torch.Generator().manual_seed(0))"""

LIVE = """\
live = show.LiveCurve(60, floor=0.0)
display(live)
batches = sliding_window(tokens, 48, 8, torch.Generator().manual_seed(1))
settings = TrainConfig(steps=60, learning_rate=1e-2, warmup_steps=5)
for record in training_steps(model, batches, settings):
    live.update(record)"""

EXPLORER = """\
explorer = show.attention_explorer(model, tokenizer, "The cat sleeps by the door.")
explorer"""

PLAYGROUND = """\
playground = show.sampling_playground(model, tokenizer, "The dog ", length=40)
playground"""

STATIC = """\
playground.static()
plt.show()"""


@pytest.fixture(scope="module")
def scratch(course):
    """A notebook that trains a toy and shows all three widgets; its path inside the course."""
    sources = (SETUP, LIVE, EXPLORER, PLAYGROUND, STATIC)
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    return notebook_of(course, "scratch.ipynb", cells)


@pytest.fixture(scope="module")
def page(course, browser, scratch):
    opened = course.open(browser, scratch)
    opened.cells_run = opened.run_all()
    yield opened
    opened.close()


def the(views: list[str], sign: str) -> str:
    """The one view that contains `sign`."""
    [found] = [view for view in views if sign in view]
    return found


def test_every_cell_ran_and_said_only_what_is_stable(page):
    assert [cell["count"] for cell in page.cells_run] == [1, 2, 3, 4, 5]
    plain = [
        output["data"]["text/plain"]
        for cell in page.cells_run[1:4]
        for output in cell["outputs"]
        if "data" in output
    ]
    assert ["".join(text) for text in plain] == [
        "LiveCurve(60 steps)",
        "AttentionExplorer(2 layers, 4 heads)",
        "SamplingPlayground(256 tokens)",
    ]
    assert page.page.locator(".jp-RenderedImage img").count() == 1  # the static figure


def test_live_curve_ends_complete(page):
    view = the(page.views(), "progressbar")
    assert 'aria-valuenow="60"' in view and "60 / 60" in view


def test_query_slider_moves_the_attention(page, tmp_path: Path):
    before = page.views()
    assert "position 26 looks" in the(before, "looks mostly at")
    page.press("query position", "ArrowLeft", times=3)
    after = page.wait_for_change(before)
    page.page.wait_for_function(
        "() => document.body.innerText.includes('position 23 looks')", timeout=20_000
    )
    assert the(after, "can be sampled") == the(
        before, "can be sampled"
    )  # the other widget is still
    page.screenshot(tmp_path / "explorer.png")
    assert (tmp_path / "explorer.png").stat().st_size > 10_000


def test_temperature_slider_reshapes_bars_and_text(page, tmp_path: Path):
    before = page.views()
    page.press("temperature", "ArrowRight", times=10)
    after = page.wait_for_change(before)
    assert the(after, "can be sampled") != the(before, "can be sampled")
    assert the(after, "looks mostly at") == the(before, "looks mostly at")
    page.press("top-k (0: off)", "ArrowRight", times=3)
    page.page.wait_for_function(
        "() => document.body.innerText.includes('3 of 256 tokens can be sampled')", timeout=20_000
    )
    page.screenshot(tmp_path / "playground.png")


def notebook_of(course, name: str, cells: list) -> str:
    """Write a notebook into the course and return its path there."""
    notebook = nbformat.v4.new_notebook(
        cells=cells, metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    )
    nbformat.write(notebook, course.folder / name)
    return name


def test_an_error_in_a_cell_is_not_overlooked(course, browser):
    """Otherwise every test that runs a notebook here would pass whatever happened."""
    cells = [nbformat.v4.new_code_cell(source) for source in ("1 + 1", "1 / 0", "3")]
    opened = course.open(browser, notebook_of(course, "broken.ipynb", cells))
    try:
        with pytest.raises(pytest.fail.Exception, match=r"(?s)broken.ipynb, code cell 1.*1 / 0"):
            opened.run_all()
    finally:
        opened.close()


def test_an_error_that_is_meant_is_allowed(course, browser):
    meant = nbformat.v4.new_code_cell("1 / 0", metadata={"tags": ["raises-exception"]})
    cells = [meant, nbformat.v4.new_code_cell("2")]
    opened = course.open(browser, notebook_of(course, "meant.ipynb", cells))
    try:
        first, second = opened.run_all()
        assert first["outputs"][0]["ename"] == "ZeroDivisionError" and second["count"] == 2
    finally:
        opened.close()


def test_a_figure_is_not_taken_for_a_widget(page):
    """The helper sees three views, and none of them is the static figure."""
    assert len(page.views()) == 3


MODERN = (
    "from llmcourse import show",
    "rotary = show.rotary_explorer(d_head=16)\nrotary",
    'calculator = show.cache_calculator(model="gpt2")\ncalculator',
    "stepper = show.flash_stepper(tokens=14, tile=4)\nstepper",
    "import matplotlib.pyplot as plt\nstepper.static()\nplt.show()",
)


@pytest.fixture(scope="module")
def modern(course, browser):
    """A notebook with the three widgets of Part 3."""
    cells = [nbformat.v4.new_code_cell(source) for source in MODERN]
    opened = course.open(browser, notebook_of(course, "modern.ipynb", cells))
    opened.cells_run = opened.run_all()
    yield opened
    opened.close()


def wait_for_words(opened, words: str) -> None:
    opened.page.wait_for_function(
        "words => document.body.innerText.includes(words)", arg=words, timeout=20_000
    )


def test_modern_widgets_appear_and_say_only_what_is_stable(modern):
    plain = [
        "".join(output["data"]["text/plain"])
        for cell in modern.cells_run[1:4]
        for output in cell["outputs"]
    ]
    assert plain[0] == "RotaryExplorer(trained on 1024 tokens)"
    assert plain[1].startswith("CacheCalculator(") and plain[2] == "FlashStepper(up to 32 tokens)"
    assert len(modern.views()) == 3
    assert modern.page.locator(".jp-RenderedImage img").count() == 1  # the static figure


def test_rotary_sliders_turn_the_hands(modern, tmp_path: Path):
    before = modern.views()
    assert "query at position 28" in the(before, "query at position")
    modern.press("distance", "ArrowRight", times=4)
    wait_for_words(modern, "query at position 32")
    after = modern.views()
    assert the(after, "(this model)") == the(before, "(this model)")  # the others are still
    modern.page.screenshot(path=tmp_path / "rotary.png")
    assert (tmp_path / "rotary.png").stat().st_size > 10_000


def test_cache_sliders_change_the_bytes(modern, tmp_path: Path):
    assert "37.7 MB" in the(modern.views(), "(this model)")
    modern.press("batch", "ArrowRight", times=2)
    wait_for_words(modern, "1,024 tokens × batch 4")
    assert "151 MB" in the(modern.views(), "(this model)")
    modern.page.screenshot(path=tmp_path / "cache.png")


def test_stepper_walks_through_the_tiles(modern, tmp_path: Path):
    modern.press("step", "ArrowRight", times=2)
    wait_for_words(modern, "Step 3 of 10: queries 4 to 7, keys 4 to 7, partly masked.")
    wait_for_words(modern, "Query 4 is done: its output is the exact one.")
    modern.press("row in the tile", "ArrowRight", times=1)
    wait_for_words(modern, "Query 5 is done")
    modern.page.screenshot(path=tmp_path / "stepper.png")


SCALING_UP = (
    "from llmcourse import show\nfrom llmcourse.tokenizers import BPETokenizer",
    "tokenizer = BPETokenizer.train(['low lower lowest slow slower slowest'] * 3, 268)\n"
    "merges = show.bpe_stepper(['low lower lowest', 'slow slower'], tokenizer)\nmerges",
    "designer = show.schedule_designer(schedule='cosine', total=1000, step=400)\ndesigner",
    "import matplotlib.pyplot as plt\nmerges.static()\nplt.show()\ndesigner.static()\nplt.show()",
)


@pytest.fixture(scope="module")
def scaling_up(course, browser):
    """A notebook with the two widgets of Part 4."""
    cells = [nbformat.v4.new_code_cell(source) for source in SCALING_UP]
    opened = course.open(browser, notebook_of(course, "scaling_up.ipynb", cells))
    opened.cells_run = opened.run_all()
    yield opened
    opened.close()


def test_scaling_up_widgets_appear_and_say_only_what_is_stable(scaling_up):
    plain = [
        "".join(output["data"]["text/plain"])
        for cell in scaling_up.cells_run[1:3]
        for output in cell["outputs"]
    ]
    assert plain == ["BPEStepper(up to 40 merges)", "ScheduleDesigner(4 schedules)"]
    assert len(scaling_up.views()) == 2
    assert scaling_up.page.locator(".jp-RenderedImage img").count() == 2  # the static figures


def test_arrow_keys_make_one_merge_after_the_other(scaling_up, tmp_path: Path):
    assert "0 merges: vocabulary" in the(scaling_up.views(), "tokens per byte")
    scaling_up.press("merges", "ArrowRight", times=2)
    wait_for_words(scaling_up, "2 merges: vocabulary 258, 16 bytes in 10 tokens")
    wait_for_words(scaling_up, "lo + w → low")
    scaling_up.press("merges", "ArrowLeft", times=1)
    wait_for_words(scaling_up, "1 merge: vocabulary 257, 16 bytes in 13 tokens")
    scaling_up.screenshot(tmp_path / "merges.png")
    assert (tmp_path / "merges.png").stat().st_size > 10_000


def test_designer_moves_with_the_resumed_step(scaling_up, tmp_path: Path):
    before = the(scaling_up.views(), "tokens per byte")
    wait_for_words(scaling_up, "Step 400: rate")
    scaling_up.press("resume at step", "ArrowRight", times=3)
    wait_for_words(scaling_up, "Step 403: rate")
    scaling_up.press("warm-up share", "ArrowRight", times=5)
    wait_for_words(scaling_up, "Warm-up of 100 updates")
    assert the(scaling_up.views(), "tokens per byte") == before  # the other widget is still
    scaling_up.screenshot(tmp_path / "designer.png")


SPARSE = (
    "from llmcourse import show\nfrom llmcourse.model import ModelConfig, Transformer\n"
    "from llmcourse.model.experts_config import Experts\n"
    "from llmcourse.tokenizers import ByteTokenizer\nimport torch\n"
    "def made(seed, layers):\n"
    "    experts = Experts(n_experts=8, n_active=2, layers=layers)\n"
    "    config = ModelConfig(vocab_size=256, context_length=64, n_layers=4, n_heads=4, d_model=32,"
    " init_std=0.2, experts=experts)\n"
    "    return Transformer(config, generator=torch.Generator().manual_seed(seed))",
    "viewer = show.routing_viewer({0.0: made(0, (1, 3)), 0.01: made(1, (1, 3))}, ByteTokenizer())\n"
    "viewer",
    "single = show.routing_viewer(made(2, (3,)), ByteTokenizer(), 'One model')\nsingle",
    "import matplotlib.pyplot as plt\nviewer.static()\nplt.show()",
)


@pytest.fixture(scope="module")
def sparse(course, browser):
    """A notebook with the widget of Part 5: over two models, and over one with one layer."""
    cells = [nbformat.v4.new_code_cell(source) for source in SPARSE]
    opened = course.open(browser, notebook_of(course, "sparse.ipynb", cells))
    opened.cells_run = opened.run_all()
    yield opened
    opened.close()


def test_routing_viewers_appear_and_say_only_what_is_stable(sparse):
    plain = [
        "".join(output["data"]["text/plain"])
        for cell in sparse.cells_run[1:3]
        for output in cell["outputs"]
    ]
    assert plain == [
        "RoutingViewer(2 models, 2 sparse layers, 8 experts)",
        "RoutingViewer(1 model, 1 sparse layer, 8 experts)",
    ]
    assert len(sparse.views()) == 2
    assert sparse.page.locator(".jp-RenderedImage img").count() == 1  # the static figure


def press_first(opened, description: str, key: str, times: int = 1) -> None:
    """Move the first of several sliders of one name by keyboard."""
    row = opened.page.locator(".widget-slider").filter(
        has=opened.page.get_by_text(description, exact=True)
    )
    handle = row.first.locator(".noUi-handle").first
    handle.scroll_into_view_if_needed()
    handle.focus()
    for _ in range(times):
        handle.press(key)


def test_keys_choose_model_layer_and_token(sparse, tmp_path: Path):
    single = the(sparse.views(), "<b>O</b> at 0")
    wait_for_words(sparse, "Balance loss 0.01, layer 1: B at 0 goes to experts")
    before = sparse.views()
    press_first(sparse, "balance loss", "ArrowLeft")
    wait_for_words(sparse, "Balance loss 0, layer 1: B at 0 goes to experts")
    assert sparse.views() != before
    press_first(sparse, "layer", "ArrowRight")
    wait_for_words(sparse, "Balance loss 0, layer 3: B at 0 goes to experts")
    press_first(sparse, "token", "ArrowRight", times=2)
    wait_for_words(sparse, "Balance loss 0, layer 3: a at 2 goes to experts")
    assert single in sparse.views()  # the other widget is still
    sparse.screenshot(tmp_path / "routing.png")
    assert (tmp_path / "routing.png").stat().st_size > 10_000


def test_a_typed_sentence_is_routed(sparse, tmp_path: Path):
    press_first(sparse, "token", "Home")  # wherever the test before has left it
    field = sparse.page.locator(".widget-text input").first
    field.fill("Zoe ran.")
    field.press("Enter")
    wait_for_words(sparse, ": Z at 0 goes to experts")
    [view] = [view for view in sparse.views() if "<b>Z</b> at 0" in view]
    assert view.count("data-token=") == 8 and view.count("data-expert=") == 8
    sparse.screenshot(tmp_path / "typed.png")
