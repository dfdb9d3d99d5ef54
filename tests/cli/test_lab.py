"""`llmcourse lab`: the real JupyterLab, on a busy port, without a browser."""

from __future__ import annotations

import json
import os
import queue
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import webbrowser
from pathlib import Path

import pytest

from llmcourse.cli.lab import find_browser, free_port
from llmcourse.errors import CourseError

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 90


@pytest.fixture
def busy_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(1)
        yield server.getsockname()[1]


@pytest.fixture
def course(tmp_path: Path) -> Path:
    """A copy of the course as far as the lab looks at it, in a folder with a space."""
    folder = tmp_path / "my course"
    (folder / "notebooks").mkdir(parents=True)
    (folder / "llmcourse").mkdir()
    (folder / "llmcourse/parts.py").write_text("")
    empty = {"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    name = "part01_transformer_core.ipynb"
    (folder / "notebooks" / name).write_text(json.dumps(empty))
    return folder


def read_lines(process: subprocess.Popen[str]) -> queue.Queue[str]:
    lines: queue.Queue[str] = queue.Queue()

    def pump() -> None:
        for line in process.stdout:
            lines.put(line)

    threading.Thread(target=pump, daemon=True).start()
    return lines


def wait_for_address(process: subprocess.Popen[str]) -> tuple[str, str]:
    """(everything printed so far, the address)."""
    lines, said = read_lines(process), ""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        try:
            said += lines.get(timeout=0.5)
        except queue.Empty:
            assert process.poll() is None, said
            continue
        found = re.search(r"http://\S+", said)
        if found:
            return said, found[0]
    raise AssertionError(f"no address within {START_SECONDS} s: {said}")


def get(address: str) -> bytes:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(address, timeout=30) as answer:
        return answer.read()


def test_the_lab_serves_on_a_busy_port_without_a_screen(course: Path, busy_port: int):
    screenless = {k: v for k, v in os.environ.items() if k not in ("DISPLAY", "WAYLAND_DISPLAY")}
    process = subprocess.Popen(
        [sys.executable, "-m", "llmcourse", "lab", "--port", str(busy_port)],
        cwd=course / "notebooks",  # from inside the course, too
        env=screenless | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "BROWSER": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        said, address = wait_for_address(process)
        assert f"Port {busy_port} is busy" in said
        base, _, token = address.partition(
            "/lab/tree/notebooks/part01_transformer_core.ipynb?token="
        )
        assert re.fullmatch(r"[0-9a-f]{32}", token)
        port = int(base.rpartition(":")[2])
        assert busy_port < port <= busy_port + 100
        # The address was printed when it already answered, so no retry here.
        status = json.loads(get(f"{base}/api/status?token={token}"))
        assert status["kernels"] == 0
        page = get(address)
        assert b"JupyterLab" in page
        listed = json.loads(get(f"{base}/api/contents/notebooks?token={token}"))
        assert [entry["name"] for entry in listed["content"]] == ["part01_transformer_core.ipynb"]
        # Without the token nobody gets in.
        with pytest.raises(urllib.error.HTTPError) as refused:
            get(f"{base}/api/contents")
        assert refused.value.code == 403
        # One Ctrl-C ends it, without a question.
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 0
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def test_the_first_free_port(busy_port: int):
    found = free_port("127.0.0.1", busy_port)
    assert found > busy_port
    assert free_port("127.0.0.1", found) == found


def test_an_address_of_another_machine_is_refused():
    with pytest.raises(CourseError, match="not an address here"):
        free_port("192.0.2.1", 8888)  # reserved for documentation


def test_no_screen_no_browser(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"):
        monkeypatch.delenv(name, raising=False)
    assert find_browser() is None
    monkeypatch.setenv("DISPLAY", ":0")
    browser = object()
    monkeypatch.setattr(webbrowser, "get", lambda: browser)
    assert find_browser() is browser

    def none() -> None:
        raise webbrowser.Error("could not locate runnable browser")

    monkeypatch.setattr(webbrowser, "get", none)
    assert find_browser() is None


def test_mistakes(mistake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert "port=0" in mistake("lab", "--port", "0")
    assert "port must be a whole number" in mistake("lab", "--port", "x")
    assert "did you mean '--no-browser'?" in mistake("lab", "--no-browzer")
    assert "no notebook" in mistake("lab", "--notebook", "notebooks/part99.ipynb")
    monkeypatch.setattr("llmcourse.cli.lab.course_root", lambda: None)
    assert "git clone" in mistake("lab")
