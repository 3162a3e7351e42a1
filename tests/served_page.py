"""The real page on loopback with made-up answers, and the browser that shows it: for measurements and pictures."""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

from playwright.sync_api import Browser, sync_playwright
from prometheus_client import CollectorRegistry

from enrich.runtime.settings import load
from streams.metrics.web import WebMetrics
from streams.settings import Settings
from streams.web.answers import Answers
from streams.web.app import Page
from streams.web.feed import FlowFeed
from streams.web.map_question import MapQuestion
from streams.web.past import PastQuestions
from streams.web.role import _listening, _serve


@contextmanager
def served(feed: FlowFeed, past: PastQuestions, pairs: MapQuestion, cluster: str) -> Iterator[str]:
    """Serve the page for the block, without authentication and without alerts; yield its address."""
    alerts, stop, metrics = cast("Any", None), threading.Event(), WebMetrics(CollectorRegistry())
    make_page = partial(Page, feed, past, pairs, alerts, metrics, Answers(metrics, None, cluster), cluster)
    with _listening(("127.0.0.1", 0)) as listener:
        serving = _serve(load(Settings, {}), None, listener, make_page, stop)
        thread = threading.Thread(target=asyncio.run, args=(serving,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
        finally:
            stop.set()
            thread.join()


@contextmanager
def chromium() -> Iterator[Browser]:
    """Run Debian's Chromium, without a window, for the block."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"]
        )
        yield browser
        browser.close()
