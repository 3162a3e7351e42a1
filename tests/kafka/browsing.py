"""A real browser: Debian's Chromium, driven by Playwright. One for all tests of a file."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page

from tests.served_page import chromium

_AXE = Path(os.environ.get("KUBEWEIR_CACHE", "/var/cache/kubeweir")) / "page-tests/axe-core/axe.min.js"
PATIENCE_MS = 60_000


def run_browser() -> Iterator[Browser]:
    """Yield Chromium, and end it."""
    if shutil.which("chromium") is None or not _AXE.exists():
        pytest.skip("needs Debian's chromium and npm's axe-core (make setup)")
    with chromium() as browser:
        yield browser


class Tab:
    """A tab, and what went wrong in it."""

    def __init__(self, context: BrowserContext) -> None:
        self.page: Page = context.new_page()
        self.page.set_default_timeout(PATIENCE_MS)
        self.errors: list[str] = []
        self.requests: list[str] = []
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", lambda line: self.errors.append(line.text) if line.type == "error" else None)
        self.page.on("dialog", lambda dialog: self.errors.append(f"dialog {dialog.message}"))
        self.page.on("request", lambda request: self.requests.append(request.url))

    def picture(self, name: str) -> None:
        """Keep what is seen, if `make pictures` asks for it."""
        folder = os.environ.get("KUBEWEIR_PICTURES")
        if folder:
            self.page.screenshot(path=Path(folder) / f"{name}.png")

    def violations(self) -> list[str]:
        """Return what axe finds wrong for people who use a keyboard or a screen reader."""
        if not self.page.evaluate("() => Boolean(window.axe)"):
            # By the debugger: the page's policy lets no script in.
            self.page.evaluate(_AXE.read_text())
        found: list[dict[str, Any]] = self.page.evaluate("async () => (await axe.run()).violations")
        return [f"{one['id']}: {one['help']}: {[node['html'][:200] for node in one['nodes'][:3]]}" for one in found]


def close(tab: Tab) -> None:
    """Close a tab, in which there must be no error and no request to another origin."""
    origin = re.match(r"http://[^/]+/", tab.page.url)
    assert origin is not None
    tab.page.context.close()
    assert tab.errors == [], tab.errors
    foreign = [url for url in tab.requests if not url.startswith(origin[0])]
    assert foreign == [], foreign
