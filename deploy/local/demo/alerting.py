"""The demo's Alertmanager, asked what it has."""

from __future__ import annotations

import json
import time
import urllib.request
from typing import Any

from stack import DemoError

_PATIENCE_S = 60.0


def active(url: str) -> list[dict[str, Any]]:
    """The alerts that fire there."""
    try:
        with urllib.request.urlopen(f"{url}/api/v2/alerts?active=true", timeout=5) as answer:  # noqa: S310 - loopback
            found: list[dict[str, Any]] = json.load(answer)
    except OSError as error:
        raise DemoError(f"Alertmanager does not answer: {error}") from error
    return found


def wait_until(url: str, *, fires: bool) -> list[dict[str, Any]]:
    """Until something fires there, or nothing does any more."""
    deadline = time.monotonic() + _PATIENCE_S
    while bool(found := active(url)) != fires:
        if time.monotonic() > deadline:
            raise DemoError(f"Alertmanager has {len(found)} alerts after {_PATIENCE_S:.0f} s")
        time.sleep(0.1)
    return found
