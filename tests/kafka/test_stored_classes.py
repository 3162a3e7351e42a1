"""The classes that brokers load from the cache (deploy/local/kafka_classes.py)."""

from __future__ import annotations

import subprocess
from pathlib import Path

import brokers
import kafka_classes
import pytest

pytestmark = pytest.mark.kafka


def test_brokers_use_the_stored_classes() -> None:
    assert brokers.CLASSES.exists(), f"{brokers.CLASSES} does not exist: run deploy/local/setup"
    assert str(brokers.CLASSES) in " ".join(brokers.java("kafka.Kafka"))
    assert kafka_classes.is_usable()


def test_brokers_start_without_those_of_another_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "kafka.jsa"
    other.write_bytes(bytes(4096) + brokers.CLASSES.read_bytes()[4096:])  # its first page names the version
    monkeypatch.setattr(brokers, "CLASSES", other)
    assert not kafka_classes.is_usable()
    subprocess.run(brokers.java("-version"), check=True, capture_output=True, timeout=240)
