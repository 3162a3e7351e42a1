"""Starts the demo's page, and takes a picture of its map. Without a browser the demo says what is missing."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from page_picture import missing
from stack import ROOT, Stack, script, wait_for_port

LIBRARIES = ROOT / "streams/web/static/vendor"
"""What the page needs, which `make setup` downloads."""
PICTURE = ROOT / "build/demo.png"
_PATIENCE_S = 180.0


def start_page(stack: Stack, env: Mapping[str, str], port: int, say: Callable[[str], None]) -> bool:
    """Start the page, and return whether it runs."""
    if not LIBRARIES.is_dir():
        say("no picture of the map: the page's libraries are missing (make setup, with npm)")
        return False
    stack.start("web", [script("weir-streams"), "web", "--alone"], {**env, "WEIR_WEB": f"127.0.0.1:{port}"})
    wait_for_port(stack, "web", port, _PATIENCE_S)
    return True


def draw_map(stack: Stack, port: int, say: Callable[[str], None]) -> None:
    """Take a picture of the map that the page shows now."""
    if why := missing():
        say(f"no picture of the map: {why}")
        return
    maker = str(Path(__file__).with_name("page_picture.py"))
    stack.start("picture", [sys.executable, maker, f"http://127.0.0.1:{port}/map?since=6h", str(PICTURE)], {})
    deadline = time.monotonic() + _PATIENCE_S
    while stack.is_alive("picture") and time.monotonic() < deadline:
        time.sleep(0.1)
    if stack.stop("picture") == 0:
        say(f"a picture of the map of all this: {PICTURE.relative_to(ROOT)}")
    else:
        say(f"no picture of the map: {stack.last_lines('picture', 1)}")
