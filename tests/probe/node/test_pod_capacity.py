"""How many pods the node can have, by the API server's answer, or its silence."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import orjson
import pytest

from enrich.sources.client import AnswerError, Client
from probe.node.pod_capacity import pod_capacity


class _Answering(Client):
    def __init__(self, answer: Any) -> None:
        self._answer, self.asked = answer, ""
        self.held = threading.Event()

    @contextlib.contextmanager
    def get(self, path: str, query: Mapping[str, str], accept: str, silence_s: float) -> Iterator[Any]:
        self.asked = f"{path}?{query['fieldSelector']}"
        if isinstance(self._answer, Exception):
            raise self._answer
        if self._answer is None:
            self.held.wait(60)
        yield _Body(self._answer)


class _Body:
    def __init__(self, answer: Any) -> None:
        self._answer = answer

    def read(self) -> bytes:
        return orjson.dumps(self._answer)


def of(**status: Any) -> dict[str, Any]:
    return {"items": [{"status": status}]}


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (of(allocatable={"pods": "110"}, capacity={"pods": "250"}), 110),
        (of(allocatable={"cpu": "2"}, capacity={"pods": "250"}), 250),
        (of(allocatable={"pods": "1k"}), 1000),
        (of(allocatable={"pods": "1.5k"}), 1500),
        (of(allocatable={"pods": "1e3"}), 1000),
        (of(allocatable={"pods": "2Ki"}), 2048),
        (of(allocatable={"pods": 110}), 110),
        (of(allocatable={"pods": "-3"}), None),
        (of(allocatable={"pods": "1e99999999"}), None),
        (of(allocatable=["110"]), None),
        ({"items": [{"status": None}]}, None),
        (of(), None),
        ({"items": []}, None),
        ({}, None),
        (of(allocatable={"pods": "many"}), None),
        (AnswerError("forbidden", 403), None),
        (OSError("no route"), None),
    ],
)
def test_the_node_object_says_how_many(answer: Any, expected: int | None) -> None:
    client = _Answering(answer)
    assert pod_capacity(client, "n1") == expected
    assert client.asked == "/api/v1/nodes?metadata.name=n1"


def test_a_server_that_does_not_answer_holds_up_no_start() -> None:
    client = _Answering(None)
    assert pod_capacity(client, "n1", 0.01) is None
    client.held.set()
