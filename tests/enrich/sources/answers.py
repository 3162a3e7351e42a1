"""A connection that gives one answer."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any, cast
from unittest.mock import MagicMock

from enrich.sources.client import Client
from enrich.sources.connection import Connection


class _Client:
    def __init__(self, body: bytes) -> None:
        self._body = body

    @contextlib.contextmanager
    def get(self, path: str, query: Mapping[str, str], accept: str, silence_s: float) -> Iterator[Any]:
        yield MagicMock(read=lambda: self._body)


def connection(body: bytes) -> Connection:
    """A connection whose every answer is ``body``."""
    return Connection(cast(Client, _Client(body)))
