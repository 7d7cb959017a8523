"""A private JupyterLab server and a page of headless Chromium, for tests of the rendered notebook."""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = Path("/usr/bin/chromium")
WAIT_MS = 180_000
"""Deadline of each wait, in milliseconds: long, because a busy machine starts a kernel slowly."""
ROOT = Path(__file__).resolve().parents[2]
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SETTINGS: dict[str, dict[str, Any]] = {
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    # Cells outside the window must be in the page too.
    "notebook-extension/tracker": {"windowingMode": "none"},
}


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """Start JupyterLab, and yield its address and the folder that it serves."""
    missing = [m for m in ("jupyterlab", "playwright") if importlib.util.find_spec(m) is None]
    if missing or not CHROMIUM.exists():
        pytest.skip(f"needs {' and '.join(missing or [str(CHROMIUM)])}")
    home, root = tmp_path_factory.mktemp("jupyter"), tmp_path_factory.mktemp("lab")
    for name, values in SETTINGS.items():
        file = home / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(values))
    folders = {
        "JUPYTER_CONFIG_DIR": "config",
        "JUPYTER_DATA_DIR": "data",
        "JUPYTER_RUNTIME_DIR": "runtime",
        "IPYTHONDIR": "ipython",
        "JUPYTERLAB_SETTINGS_DIR": "settings",
        "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
    }
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("KALSHI", "PYTEST_"))}
    environment |= {name: str(home / folder) for name, folder in folders.items()}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), environment.get("PYTHONPATH")]))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}",
        "--ServerApp.port_retries=0", "--IdentityProvider.token=", "--ServerApp.password=",
        f"--ServerApp.root_dir={root}",
    ]  # fmt: skip
    log = home / "server.log"
    with log.open("wb") as out:
        server = subprocess.Popen(command, env=environment, stdout=out, stderr=subprocess.STDOUT)
        try:
            _wait_for(f"http://127.0.0.1:{port}/api", server, log)
            yield f"http://127.0.0.1:{port}", root
        finally:
            server.terminate()
            try:
                server.wait(20)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait(20)


def _wait_for(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline_s = time.monotonic() + WAIT_MS / 1_000
    while server.poll() is None and time.monotonic() < deadline_s:
        try:
            with urllib.request.urlopen(url, timeout=10):
                return
        except OSError:
            time.sleep(0.25)
    pytest.fail(f"JupyterLab did not start:\n{log.read_text(errors='replace')[-2_000:]}")


@pytest.fixture
def open_notebook(lab: tuple[str, Path]) -> Iterator[Callable[[Path], Any]]:
    """Yield a function that opens a notebook of the served folder, with an idle kernel, and returns its page.

    `errors` of the page collects the exceptions of its scripts, `foreign` its requests to other hosts.
    """
    from playwright.sync_api import sync_playwright

    address, root = lab
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=str(CHROMIUM), headless=True, args=FLAGS, timeout=WAIT_MS
        )

        def show(path: Path) -> Any:
            page = browser.new_page(viewport={"width": 1400, "height": 1250})
            page.set_default_timeout(WAIT_MS)
            page.set_default_navigation_timeout(WAIT_MS)
            page.errors = []
            page.foreign = []
            page.on("pageerror", lambda error: page.errors.append(str(error)[:300]))
            page.on("request", lambda r: None if _is_local(r.url, address) else page.foreign.append(r.url))
            page.goto(f"{address}/lab/tree/{path.relative_to(root)}?reset", wait_until="load")
            page.wait_for_selector(".jp-Notebook .jp-CodeCell")
            # The kernel is there and idle, and the layout is restored: an earlier click is lost.
            page.wait_for_function(
                "() => document.querySelector('#jp-main-statusbar')?.innerText.includes('| Idle')"
                " && document.querySelector('.jp-Spinner') === null"
            )
            return page

        yield show
        browser.close()


def _is_local(url: str, address: str) -> bool:
    return url.startswith((address, address.replace("http:", "ws:"), "data:", "blob:"))
