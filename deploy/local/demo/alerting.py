"""Queries to the demo's Alertmanager."""

from __future__ import annotations

import json
import time
import urllib.request
from typing import Any

from stack import DemoError

_TIMEOUT_S = 60.0


def active(url: str) -> list[dict[str, Any]]:
    """Return the alerts that fire in Alertmanager. Raises DemoError."""
    try:
        with urllib.request.urlopen(f"{url}/api/v2/alerts?active=true", timeout=5) as answer:  # noqa: S310 - loopback
            found: list[dict[str, Any]] = json.load(answer)
    except OSError as error:
        raise DemoError(f"Alertmanager does not answer: {error}") from error
    return found


def wait_until(url: str, *, fires: bool) -> list[dict[str, Any]]:
    """Wait until some alert fires, or until none does, and return what fires then. Raises DemoError."""
    deadline = time.monotonic() + _TIMEOUT_S
    while bool(found := active(url)) != fires:
        if time.monotonic() > deadline:
            raise DemoError(f"Alertmanager has {len(found)} alerts after {_TIMEOUT_S:.0f} s")
        time.sleep(0.1)
    return found
