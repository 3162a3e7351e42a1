"""One Kafka for all tests of the whole path; a node for each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.node import Broker, Node


@pytest.fixture(scope="session")
def _broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    broker = Broker(tmp_path_factory.mktemp("e2e"))
    yield broker
    broker.stop()


@pytest.fixture
def node(_broker: Broker, tmp_path: Path) -> Iterator[Node]:
    _broker.start()
    node = Node(_broker, tmp_path)
    yield node
    node.close()
