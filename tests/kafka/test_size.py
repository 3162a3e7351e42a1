"""What `weir size` counts with is what a verdict takes on the disk of a real Kafka."""

from __future__ import annotations

from pathlib import Path

import pytest

from streams.cli.size_facts import DENIED_BYTES, FLOW_BYTES, RAW_BYTES_LARGE, RAW_BYTES_SMALL
from tests.bench.topic_sizes import measure

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(600)]


def test_bytes_of_a_verdict(broker: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    work = tmp_path / f"sizes-{tmp_path.parent.name}"
    work.mkdir()
    found = measure(broker, tmp_path_factory.getbasetemp(), work, 8_000, (1000, 10))
    expected = {
        "raw, batches of 1000": RAW_BYTES_LARGE.value, "raw, batches of 10": RAW_BYTES_SMALL.value,
        "flows": FLOW_BYTES.value, "flows.denied": DENIED_BYTES.value,
    }  # fmt: skip
    # A new field in the record or the header changes them: then measure again, and correct docs/scale.md.
    wrong = {name: found[name] for name, value in expected.items() if not 0.85 * value < found[name] < 1.15 * value}
    assert wrong == {}
