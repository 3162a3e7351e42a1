"""What the API server sends to a client that lists and watches: pages, events, and a status as an error."""

from __future__ import annotations

import random
from typing import Any, Final

import msgspec

from enrich.sources.client import AnswerError

METADATA_ONLY: Final = "application/json;as=PartialObjectMetadata%s;g=meta.k8s.io;v=v1,application/json"
"""The ``Accept`` header for objects without spec and status; ``List`` belongs at %s for a list."""


class GoneError(Exception):
    """The resource version is too old to watch from: list again (410)."""


class AbsentError(Exception):
    """The server does not serve this kind (404)."""


class _PageMeta(msgspec.Struct, gc=False):
    version: str = msgspec.field(name="resourceVersion")
    token: str = msgspec.field(default="", name="continue")


class _Page(msgspec.Struct, gc=False):
    metadata: _PageMeta
    items: list[msgspec.Raw] | None = None
    kind: str = ""


class _Event(msgspec.Struct, gc=False):
    type: str
    object: msgspec.Raw


decode_page = msgspec.json.Decoder(_Page).decode
decode_event = msgspec.json.Decoder(_Event).decode


def error_of(status: dict[str, Any]) -> Exception:
    """Make the exception that a ``Status`` object in an ERROR event means."""
    code = status.get("code")
    if code == 410:
        return GoneError()
    details = status.get("details")
    seconds = details.get("retryAfterSeconds") if isinstance(details, dict) else 0
    wait_s = float(seconds) if isinstance(seconds, int) else 0.0
    return AnswerError(str(status.get("message") or status), code if isinstance(code, int) else 0, wait_s)


def in_words(error: Exception) -> str:
    """Describe an error of a request to the API server."""
    reason = getattr(error, "reason", None)
    return f"the API server cannot be reached: {reason}" if reason else str(error)


def watch_query(**more: str) -> dict[str, str]:
    """Make the query of a watch."""
    return {"watch": "true", "allowWatchBookmarks": "true", "timeoutSeconds": str(_timeout_s()), **more}


def _timeout_s() -> int:
    """Return when the server is to end the watch: each at another time, so that they do not all come back at once."""
    return random.randint(240, 300)  # noqa: S311 - spreads load
