"""Commands that talk to Kafka in tests: they give up soon, and get a file of routes where one is needed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from streams.kafka import consumer_groups, reading, topics
from streams.kafka.reading import TopicReader

_ROUTES = "version: 1\nroutes:\n  - name: all\n    outputs:\n      - name: out\n        file: {path: /tmp/out}\n"


def give_up_after(call_s: float, read_s: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let commands wait only so long for an answer to a call, and for records."""
    for module in (consumer_groups, reading, topics):
        monkeypatch.setattr(module, "CALL_TIMEOUT_S", call_s)
    monkeypatch.setattr(TopicReader.__init__, "__defaults__", (read_s,))


def with_routes(arguments: Sequence[str], folder: Path) -> list[str]:
    """Write a file of routes into a folder, and return the arguments with its path for the word ROUTES."""
    path = folder / "routes.yaml"
    path.write_text(_ROUTES)
    return [str(path) if argument == "ROUTES" else argument for argument in arguments]
