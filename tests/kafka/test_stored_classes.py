"""What brokers load from the cache: classes (deploy/local/kafka_classes.py), and what a new storage holds."""

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


@pytest.mark.parametrize("secure", [False, True])
def test_a_storage_has_the_files_that_kafkas_tool_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, secure: bool
) -> None:
    monkeypatch.setitem(brokers.FORMATTED, secure, tmp_path / "kept")
    ids, checkpoints = [], []
    for number in (1, 2):
        folder = tmp_path / str(number)
        brokers.prepare(folder, [brokers.Broker(number, folder, 9092, 9093)], brokers.Options(secure=secure))
        assert {file.name for file in (folder / "data").iterdir()} == {"bootstrap.checkpoint", "meta.properties"}
        lines = (folder / "data/meta.properties").read_text().splitlines()
        ids.append(dict(line.split("=", 1) for line in lines if not line.startswith("#")))
        checkpoints.append((folder / "data/bootstrap.checkpoint").read_bytes())
    by_the_tool, by_us = ids
    assert by_the_tool.keys() == by_us.keys()
    assert (by_us["version"], by_us["node.id"]) == (by_the_tool["version"], "2")
    assert all(by_us[name] != by_the_tool[name] for name in ("cluster.id", "directory.id"))
    assert checkpoints[0] == checkpoints[1] == (tmp_path / "kept").read_bytes()
