"""`llmcourse lab`: JupyterLab in the course's folder, on a free port, with or without a browser."""

from __future__ import annotations

import errno
import json
import logging
import os
import secrets
import socket
import sys
import threading
import time
import urllib.request
import webbrowser
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote

from llmcourse.errors import CourseError
from llmcourse.parts import PARTS
from llmcourse.paths import course_root

PORTS_TO_TRY = 100
START_SECONDS = 60.0  # longer than any start we have seen, cold disk included


@dataclass(frozen=True)
class Lab:
    """Open the course in JupyterLab."""

    notebook: str = PARTS[0].notebook  # what to open first, a path inside the course
    port: int = 8888  # the first port to try; the next free one is taken if it is busy
    ip: str = "127.0.0.1"  # the address to listen on; 0.0.0.0 inside a container
    no_browser: bool = False  # only print the address

    def __post_init__(self) -> None:
        if not 0 < self.port < 65536:
            raise ValueError(f"port={self.port} must be between 1 and 65535")


def run(argv: Sequence[str]) -> int:
    from llmcourse.options import read_options

    options = read_options(Lab, argv, "lab")
    root = course_root()
    if root is None:
        raise CourseError(
            "the notebooks are not here: run this inside a copy of the course, "
            "or set up one with git clone and make lab"
        )
    if not (root / options.notebook).is_file():
        raise CourseError(f"there is no notebook {options.notebook} in {root}")
    port = free_port(options.ip, options.port)
    if port != options.port:
        print(f"Port {options.port} is busy; using {port}.")
    token = os.environ.get("JUPYTER_TOKEN") or secrets.token_hex(16)
    host = "127.0.0.1" if options.ip in ("0.0.0.0", "::") else options.ip
    base = f"http://{host}:{port}"
    address = f"{base}/lab/tree/{quote(options.notebook)}?token={token}"
    show = None if options.no_browser else find_browser()
    # The address is announced once the server really answers, from a thread beside it.
    announce = threading.Thread(target=_announce, args=(base, token, address, show), daemon=True)
    announce.start()
    return _serve(str(root), options, port, token)


def free_port(ip: str, first: int) -> int:
    """The first free port from `first` on.

    Raises:
        CourseError: none of the next hundred is free, or the address is not this machine's.
    """
    for port in range(first, min(first + PORTS_TO_TRY, 65536)):
        with socket.socket(socket.AF_INET6 if ":" in ip else socket.AF_INET) as probe:
            if os.name != "nt":  # as servers do: a port in TIME_WAIT is free
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((ip, port))
                probe.listen(1)
                return port
            except OSError as error:
                if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
                    raise CourseError(f"cannot listen on {ip}: it is not an address here") from None
    raise CourseError(f"ports {first} to {port} are all busy; name another with --port")


def find_browser() -> webbrowser.BaseBrowser | None:
    """The reader's browser, or None where there is no screen to show it on."""
    linux = sys.platform.startswith("linux")
    screen = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if linux and not screen and not os.environ.get("BROWSER"):
        return None
    try:
        return webbrowser.get()
    except webbrowser.Error:
        return None


def _announce(base: str, token: str, address: str, browser: webbrowser.BaseBrowser | None) -> None:
    request = urllib.request.Request(
        f"{base}/api/status", headers={"Authorization": f"token {token}"}
    )
    # A proxy set for the outside world has no business with this machine's own address.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        try:
            with opener.open(request, timeout=2) as answer:
                json.load(answer)
            break
        except (OSError, ValueError):
            time.sleep(0.1)
    opened = browser is not None and browser.open(address)
    print("The course is open in your browser:" if opened else "Open this address in a browser:")
    print(f"\n    {address}\n\nCtrl-C here stops it.", flush=True)


def _serve(root: str, options: Lab, port: int, token: str) -> int:
    from jupyterlab.labapp import LabApp

    # A classroom's configuration is not missed by a reader who has no class.
    logging.getLogger("NbGrader").addFilter(lambda r: "nbgrader_config" not in r.getMessage())
    # torch's threads spin while they wait for one another. Beside a browser, which always wants a
    # bit of a core, that makes two threads slower than one by far; waiting quietly costs a quarter
    # of the speed of a machine that does nothing else. The kernels inherit it.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ["JUPYTER_TOKEN"] = token  # in the environment, not on the command line, others read
    settings = [
        "--no-browser",  # we open it ourselves, once it answers
        f"--ServerApp.root_dir={root}",
        f"--ServerApp.ip={options.ip}",
        f"--ServerApp.port={port}",
        "--ServerApp.port_retries=0",  # the printed address must be the real one
        "--ServerApp.answer_yes=True",  # one Ctrl-C stops it
        "--ServerApp.log_level=ERROR",
        "--LabApp.log_level=ERROR",
        f"--LabApp.default_url=/lab/tree/{quote(options.notebook)}",
        # Nothing asks the network, and no pop-up stands between the reader and the notebook.
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
        "--LabApp.news_url=None",
        "--LabApp.extension_manager=readonly",
    ]
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        settings.append("--allow-root")
    try:
        LabApp.launch_instance(settings)
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0
