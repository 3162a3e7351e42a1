"""The memory of a whole worker beside what docs/scale.md states, on a real Apache Kafka."""

from __future__ import annotations

import time

import msgspec
import pytest
from confluent_kafka import Producer

from enrich.wire.address_interval import AddressInterval
from tests.docs.test_scale import rows
from tests.kafka.site import Site
from tests.kafka.test_inflating_records import peak_mib

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(900)]

_SECOND = 1_000_000_000
_INTERVALS = 100_000


def old_interval(number: int, now_ns: int) -> AddressInterval:
    """An interval that ended two hours ago: a worker keeps those of one hour."""
    end = now_ns - 7200 * _SECOND
    return AddressInterval(
        cluster="c1", node=f"n{number // 200}", ip=f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}",
        uid=f"{number:08x}-1234-5678-9abc-def012345678", namespace=f"team-{number % 300}", pod=f"app-{number}",
        first=end - _SECOND, start=end - _SECOND, end=end, last=end, labels={"app": f"app-{number % 2000}"},
    )  # fmt: skip


def test_a_worker_that_starts_keeps_no_intervals_of_yesterday(site: Site) -> None:
    empty = site.start_enrich()
    peak_without = peak_mib(empty)
    assert empty.stop() == 0
    producer = Producer({"bootstrap.servers": site.broker, "batch.size": 100_000, "linger.ms": 50})
    now = time.time_ns()
    for number in range(_INTERVALS):
        interval = old_interval(number, now)
        while True:
            try:
                producer.produce(f"{site.prefix}.endpoints", msgspec.json.encode(interval), interval.key)
                break
            except BufferError:
                producer.poll(0.1)
    assert producer.flush(120) == 0
    service = site.start_enrich()
    assert service.metric("kubeweir_streams_address_interval_records_total") == _INTERVALS
    # The page states that much for as many intervals that are kept.
    assert peak_mib(service) - peak_without < rows()["index"] / 5
    assert service.stop() == 0
