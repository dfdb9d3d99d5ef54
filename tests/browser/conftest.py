"""A real JupyterLab, driven by a real browser.

`course` starts JupyterLab on a free port in a copy of the course, so that running a notebook cannot
change the checkout; `browser` is a headless Chromium. Where either is missing the tests skip and
say why; with LLMCOURSE_REQUIRE_BROWSER=1 (as in continuous integration) they fail instead.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-sync",
]
# Every widget view on the page, as the reader sees it.
WIDGETS = ".jp-OutputArea-output .widget-html-content, .jp-OutputArea-output .widget-image"


def give_up(reason: str) -> None:
    """Skip with a reason; where the browser is required, fail with it."""
    if os.environ.get("LLMCOURSE_REQUIRE_BROWSER") == "1":
        pytest.fail(f"{reason}, and LLMCOURSE_REQUIRE_BROWSER=1", pytrace=False)
    pytest.skip(reason)


def find_chromium() -> str | None:
    """The browser to drive: LLMCOURSE_CHROMIUM, or the first one on the path."""
    named = os.environ.get("LLMCOURSE_CHROMIUM")
    if named:
        return named if Path(named).exists() else None
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return next((found for found in map(shutil.which, names) if found), None)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A headless Chromium with a fresh profile."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        give_up("playwright is not installed")
    path = find_chromium()
    if path is None:
        give_up("no Chromium was found")
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=path, args=CHROMIUM_FLAGS)
        yield running
        running.close()


@dataclass
class Course:
    """A running JupyterLab and the copy of the course it serves."""

    folder: Path
    address: str
    token: str

    def api(self, path: str) -> Any:
        """What the server's REST interface answers."""
        request = urllib.request.Request(
            f"{self.address}/api/{path}", headers={"Authorization": f"token {self.token}"}
        )
        with urllib.request.urlopen(request, timeout=5) as answer:
            return json.load(answer)

    def open(self, browser: Any, notebook: str) -> NotebookPage:
        """Open a notebook (path inside the course) in a new page, once its kernel is connected."""
        context = browser.new_context(viewport={"width": 1280, "height": 1000})
        page = context.new_page()
        page.goto(f"{self.address}/lab/tree/{notebook}?token={self.token}&reset")
        opened = NotebookPage(self, page, notebook)
        opened.wait_for_kernel()
        return opened


@dataclass
class NotebookPage:
    """One notebook in one browser page."""

    course: Course
    page: Any  # playwright.sync_api.Page
    notebook: str

    def wait_for_kernel(self, timeout: float = 60) -> None:
        """The toolbar says idle before the kernel is connected, and Run All would then be lost."""
        self.page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=timeout * 1000)

        def connected() -> bool:
            for session in self.course.api("sessions"):
                kernel = session["kernel"]
                if session["path"] == self.notebook:
                    return kernel["execution_state"] == "idle" and kernel["connections"] > 0
            return False

        wait_until(connected, timeout, f"the kernel of {self.notebook} is not connected")

    def cells(self) -> list[dict[str, Any]]:
        """Every code cell with source, count, prompt and outputs, from JupyterLab's own model.

        The page itself holds only the cells in view; the model holds them all.
        """
        return self.page.evaluate(
            """() => {
              const panel = window.jupyterapp.shell.currentWidget;
              return panel.content.widgets
                .filter(cell => cell.model.type === 'code')
                .map(cell => ({
                  source: cell.model.sharedModel.getSource(),
                  count: cell.model.executionCount,
                  prompt: cell.inputArea ? cell.inputArea.promptNode.textContent : null,
                  state: cell.model.executionState,
                  outputs: cell.model.outputs.toJSON(),
                }));
            }"""
        )

    def clear(self) -> None:
        """Clear all outputs, so that nothing seen later can be left from an earlier run."""
        self._menu("Edit", "Clear Outputs of All Cells")
        wait_until(
            lambda: not any(cell["outputs"] for cell in self.cells()),
            10,
            "outputs were not cleared",
        )

    def run_all(self, timeout: float = 120) -> list[dict[str, Any]]:
        """Run > Run All Cells; returns the code cells once every one has been executed.

        Fails on an error output, unless the cell is meant to raise (tag `raises-exception`).
        """
        self.clear()
        self._menu("Run", "Run All Cells")

        meant = self._meant_to_raise()

        def failure(cells: list[dict[str, Any]]) -> str | None:
            for number, cell in enumerate(cells):
                for output in cell["outputs"]:
                    if output["output_type"] == "error" and number not in meant:
                        name, value = output["ename"], output["evalue"]
                        return f"code cell {number}: {name}: {value}\n{cell['source']}"
            return None

        def done() -> bool:
            cells = [cell for cell in self.cells() if cell["source"].strip()]
            if failure(self.cells()):
                return True  # JupyterLab leaves the cells after an error unexecuted
            running = any(
                cell["count"] is None
                or cell["state"] in ("running", "scheduled")
                or "*" in (cell["prompt"] or "")
                for cell in cells
            )
            return bool(cells) and not running and self._kernel_state() == "idle"

        wait_until(done, timeout, f"{self.notebook} had not run to its end", every=0.5)
        cells = self.cells()
        if broken := failure(cells):
            pytest.fail(f"{self.notebook}, {broken}", pytrace=False)
        return cells

    def slider(self, description: str) -> Any:
        """The handle of the slider with this description."""
        row = self.page.locator(".widget-slider").filter(
            has=self.page.get_by_text(description, exact=True)
        )
        handle = row.locator(".noUi-handle").first
        handle.scroll_into_view_if_needed()
        return handle

    def press(self, description: str, key: str, times: int = 1) -> None:
        """Move a slider by keyboard, as a person without a mouse would."""
        handle = self.slider(description)
        handle.focus()
        for _ in range(times):
            handle.press(key)

    def views(self) -> list[str]:
        """What the widgets show now: the HTML of each view, the address of each image."""
        return self.page.eval_on_selector_all(
            WIDGETS,
            "nodes => nodes.map(node => node.tagName === 'IMG' ? node.src : node.innerHTML)",
        )

    def wait_for_change(self, before: list[str], timeout: float = 20) -> list[str]:
        """Wait until a widget's view differs from `before`; returns the new views."""
        wait_until(lambda: self.views() != before, timeout, "no widget changed its view")
        return self.views()

    def screenshot(self, path: Path) -> None:
        """A picture of the page as it is."""
        self.page.screenshot(path=path)

    def close(self) -> None:
        self.page.context.close()

    def _kernel_state(self) -> str | None:
        for session in self.course.api("sessions"):
            if session["path"] == self.notebook:
                return session["kernel"]["execution_state"]
        return None

    def _meant_to_raise(self) -> set[int]:
        stored = json.loads((self.course.folder / self.notebook).read_text(encoding="utf-8"))
        code = [cell for cell in stored["cells"] if cell["cell_type"] == "code"]
        return {
            number
            for number, cell in enumerate(code)
            if "raises-exception" in cell["metadata"].get("tags", [])
        }

    def _menu(self, menu: str, item: str) -> None:
        self.page.locator(".lm-MenuBar-itemLabel", has_text=re.compile(f"^{menu}$")).click()
        self.page.locator(".lm-Menu-itemLabel", has_text=re.compile(f"^{item}$")).click()


def wait_until(condition: Any, timeout: float, otherwise: str, every: float = 0.1) -> None:
    """Poll until `condition()` holds; fail the test with `otherwise` after `timeout` seconds."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        if condition():
            return
        time.sleep(every)
    pytest.fail(f"{otherwise} (waited {timeout:.0f} s)", pytrace=False)


def _settings(folder: Path) -> dict[str, str]:
    """An environment in which JupyterLab reads and writes nothing of the user's."""
    config = folder / "config"
    settings = folder / "settings" / "@jupyterlab"
    disabled = {"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": True}}
    files = {
        config / "labconfig" / "page_config.json": disabled,
        # All cells stay in the page, so that what is off screen can be looked at too.
        settings / "notebook-extension" / "tracker.jupyterlab-settings": {"windowingMode": "none"},
    }
    for path, content in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content), encoding="utf-8")
    environment = {
        **os.environ,
        "HOME": str(folder / "home"),
        "JUPYTER_CONFIG_DIR": str(config),
        "JUPYTER_DATA_DIR": str(folder / "data"),
        "JUPYTER_RUNTIME_DIR": str(folder / "runtime"),
        "JUPYTERLAB_SETTINGS_DIR": str(folder / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(folder / "workspaces"),
        "IPYTHONDIR": str(folder / "ipython"),
        "LLMCOURSE_HOME": str(folder / "llmcourse-home"),
    }
    environment.pop("JUPYTER_TOKEN", None)
    environment.pop("MPLBACKEND", None)  # a test's own backend would leave the page without figures
    (folder / "home").mkdir()
    return environment


@pytest.fixture(scope="session")
def course(tmp_path_factory: pytest.TempPathFactory, browser: Any) -> Iterator[Course]:
    """JupyterLab serving a copy of the course's notebooks and package."""
    try:
        import jupyterlab  # noqa: F401
    except ImportError:
        give_up("jupyterlab is not installed")
    base = tmp_path_factory.mktemp("jupyterlab")
    folder = base / "course"
    skip = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints")
    for name in ("llmcourse", "notebooks", "configs"):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=skip)
    environment = _settings(base)
    # The kernel imports the copy, whatever is installed.
    environment["PYTHONPATH"] = os.pathsep.join(
        [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    )
    token = secrets.token_hex(16)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        *(sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"),
        f"--ServerApp.root_dir={folder}",
        "--ServerApp.ip=127.0.0.1",
        f"--ServerApp.port={port}",
        "--ServerApp.port_retries=0",
        f"--IdentityProvider.token={token}",
        "--LabApp.expose_app_in_browser=True",
    ]
    log = base / "jupyterlab.log"
    with log.open("w", encoding="utf-8") as sink:
        server = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=sink, stderr=subprocess.STDOUT
        )
    running = Course(folder, f"http://127.0.0.1:{port}", token)

    def answers() -> bool:
        if server.poll() is not None:
            pytest.fail(f"JupyterLab ended at once:\n{log.read_text(encoding='utf-8')[-3000:]}")
        try:
            return bool(running.api("status"))
        except (urllib.error.URLError, OSError):
            return False

    try:
        wait_until(answers, 60, "JupyterLab did not answer", every=0.2)
        yield running
    finally:
        server.terminate()
        try:
            server.wait(10)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait(10)
