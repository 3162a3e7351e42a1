"""Fixtures of the tests against a real Apache Kafka."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from tests.kafka.batches import write_manifests
from tests.kafka.broker import run_broker
from tests.kafka.browsing import run_browser
from tests.kafka.elasticsearch import Elasticsearch, run_elasticsearch
from tests.kafka.guarded import GuardedBroker, run_guarded_broker
from tests.kafka.hook import Hook
from tests.kafka.site import Site


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """host:port of one Kafka for all tests."""
    yield from run_broker(tmp_path_factory.mktemp("kafka"))


@pytest.fixture(scope="session")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GuardedBroker]:
    """One Kafka with SASL_SSL and Apache's StandardAuthorizer for all tests; users and ACLs are each test's own."""
    yield from run_guarded_broker(tmp_path_factory.mktemp("guarded"))


@pytest.fixture(scope="session")
def elasticsearch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Elasticsearch]:
    """One Elasticsearch for all tests."""
    yield from run_elasticsearch(tmp_path_factory.mktemp("elasticsearch"))


@pytest.fixture
def site(broker: str, tmp_path: Path) -> Iterator[Site]:
    """Topics of a prefix of their own, and the services that a test starts on them."""
    write_manifests(tmp_path / "manifests")
    made = Site(broker, f"t{secrets.token_hex(4)}", tmp_path)
    yield made
    made.end()


@pytest.fixture
def hook() -> Iterator[Hook]:
    """A webhook receiver."""
    made = Hook()
    yield made
    made.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One Chromium for all tests of a file. Playwright runs an event loop in this thread as long as it lives, and no
    other test could start one."""
    yield from run_browser()
