"""Both publishers of a probe, and the numbers of what they were given."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from enrich.wire.topics import Topics
from probe.export.interval_publisher import AddressIntervalPublisher
from probe.export.publisher import Publisher
from probe.export.spool import Spool
from tests.kafka.batches import make_batch
from tests.probe.export.spooling import append


class Exporter:
    """The publishers of batches and of address intervals. ``given`` counts what each was given."""

    def __init__(self, names: Topics, connection: Mapping[str, Any], folder: Path, stall_s: float = 30.0) -> None:
        """``connection``: librdkafka's settings. ``stall_s``: see :mod:`enrich.runtime.stall`."""
        self.spool, self.given = Spool(folder / "spool"), 0
        self.batches = Publisher(self.spool, names.raw, connection, stall_s)
        self.intervals = AddressIntervalPublisher(names.endpoints, connection, stall_s)
        self.batches.start()

    def give(self, number: int = 1) -> None:
        """Give each publisher so many records."""
        for _ in range(number):
            append(self.spool, make_batch(self.given * 10, 10))
            self.intervals.publish({b"c1/n1/10.0.0.1/%d" % self.given: b"{}"})
            self.given += 1

    def has_sent_all(self) -> bool:
        """Return whether Kafka has all. Some intervals are sent twice if a producer is replaced."""
        return self.spool.unacked_batches == 0 and self.intervals.published >= self.given

    def problems(self) -> tuple[str | None, str | None]:
        """Return what each says on /readyz."""
        return self.batches.problem, self.intervals.problem

    def renew(self, connection: Mapping[str, Any]) -> None:
        """Let both use other credentials."""
        self.batches.renew(connection)
        self.intervals.renew(connection)

    def stop(self) -> None:
        """Stop both, also if they still have something to send."""
        self.batches.stop(0)
        self.intervals.stop(0)
        self.spool.close()
