"""The role of a sink: read flows, give them to the far end, commit what it has."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from typing import Final

import structlog
from prometheus_client import CollectorRegistry

from enrich.runtime.health import Check, HealthServer
from enrich.runtime.process import Exit
from streams.kafka import GroupReader, Record, prepare_topics
from streams.metrics import SinkMetrics
from streams.settings import Settings
from streams.sinks.file import FileSink
from streams.sinks.sink import Sink, SinkError
from streams.sinks.stdout import StdoutSink

log = structlog.get_logger("kubeweir.streams")

_MOST: Final = 2000
_WAIT_S: Final = 0.5
_LONGEST_RETRY_S: Final = 10.0


def make_sink(name: str, settings: Settings) -> Sink:
    """The sink of that name. Raises StopServiceError."""
    if name == "file":
        return FileSink(Path(settings.file_path), settings.file_max_bytes, settings.file_keep)
    return StdoutSink(sys.stdout.buffer)


def run_sink(name: str, settings: Settings, stop: threading.Event) -> int:
    """Run until ``stop``; the exit code. Raises StopServiceError."""
    registry = CollectorRegistry()
    metrics = SinkMetrics(registry)
    problems: dict[str, str | None] = {"kafka": "Kafka has not been reached yet", "far end": None}
    checks: dict[str, Check] = {what: (lambda what=what: problems[what]) for what in problems}  # type: ignore[misc]  # mypy cannot type a default
    health = HealthServer(settings.metrics, registry, checks)
    log.info("starting", role=name, metrics_port=health.port, kafka=settings.kafka, prefix=settings.prefix)
    try:
        sink = make_sink(name, settings)
        if not prepare_topics(settings.connection(), [settings.topics.flows], settings.replication, stop):
            return Exit.OK
        reader = GroupReader(settings.connection(), f"{settings.prefix}.sink.{name}", settings.topics.flows.name)
        try:
            while not stop.is_set():
                records = reader.take(_MOST, _WAIT_S)
                problems["kafka"] = reader.problem
                if records and _deliver(sink, records, metrics, problems, stop):
                    reader.commit(records)
        finally:
            reader.close()
            sink.close()
        log.info("stopped", role=name)
        return Exit.OK
    finally:
        health.close()


def _deliver(
    sink: Sink, records: list[Record], metrics: SinkMetrics, problems: dict[str, str | None], stop: threading.Event
) -> bool:
    """Until the far end has them. False: stopped before."""
    wait = 0.5
    while True:
        try:
            sink.write([record.value for record in records])
        except SinkError as error:
            metrics.failures.inc()
            if problems["far end"] is None:
                log.error("the far end cannot take records, trying on", error=str(error))
            problems["far end"] = str(error)
            if stop.wait(wait):
                return False
            wait = min(wait * 2, _LONGEST_RETRY_S)
        else:
            problems["far end"] = None
            metrics.records.inc(len(records))
            return True
