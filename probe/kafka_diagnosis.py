"""What the probe needs on Kafka, for the diagnosis of a connection that makes no progress."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from enrich.diagnosis.rights import Needs
from enrich.diagnosis.watch import Diagnosis
from enrich.wire.topics import topics
from probe.settings import Settings


@contextlib.contextmanager
def kafka_diagnosis(settings: Settings) -> Iterator[Diagnosis]:
    """Run the diagnosis for the block."""
    names = topics(settings.topic_prefix, settings.partitions)
    needs = Needs(writes=frozenset({names.raw.name, names.endpoints.name}))
    diagnosis = Diagnosis(settings.connection, lambda: needs)
    diagnosis.start()
    try:
        yield diagnosis
    finally:
        diagnosis.stop()
