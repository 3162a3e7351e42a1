"""The far ends of alerts: each a loop of its own on the topic of alerts, with a group of its own."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Mapping, Sequence
from functools import partial

import msgspec
import structlog

from enrich.runtime.process import Exit, StopServiceError
from streams.alerts.alert import State
from streams.alerts.model import Alertmanager, Alerts, Output
from streams.kafka.connection import ReadError
from streams.kafka.dead_letters import DeadLetters
from streams.kafka.exactly_once import AgainError
from streams.kafka.group import GroupReader
from streams.kafka.reading import read_committed
from streams.kafka.topics import partitions_of
from streams.metrics.roles import SinkMetrics
from streams.routes.model import seconds
from streams.settings import Settings
from streams.sinks.alertmanager import AlertmanagerSink
from streams.sinks.http import Poster
from streams.sinks.pump import Feed, Pump
from streams.sinks.sink import Sink
from streams.sinks.webhook import WebhookSink

log = structlog.get_logger("kubeweir.streams")


def wanted_outputs(alerts: Alerts, settings: Settings) -> dict[str, Output]:
    """Those of the file, and the Alertmanagers that the setting names."""
    named = {output.name: output for output in alerts.outputs}
    for url in settings.alertmanager:
        # By its address: another order in the setting must not swap their groups.
        name = f"setting-{hashlib.blake2b(url.encode(), digest_size=4).hexdigest()}"
        named[name] = Output(name=name, alertmanager=Alertmanager(url=url))
    return named


class _Loop:
    """One far end at work on its thread."""

    def __init__(self, output: Output, settings: Settings, metrics: SinkMetrics, dead: DeadLetters) -> None:
        """Raises StopServiceError."""
        self.output = output
        self.failed: StopServiceError | None = None
        self._settings, self._stop = settings, threading.Event()
        self._name = f"alerts.{output.name}"
        sink = self._sink()
        topic = settings.topics.alerts.name
        group = f"{settings.prefix}.alerts.to.{output.name}"
        owned = partial(self._own, sink) if isinstance(sink, AlertmanagerSink) else None
        reader = GroupReader(settings.connection(), group, topic, owned)
        feed = Feed(self._name, lambda _: True)
        self._pump = Pump(feed, sink, reader, partial(dead.bury, topic), metrics, self._stop)
        self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
        self._thread.start()
        log.info("sink started", sink=self._name, topic=topic, group=group)

    def problem(self) -> str | None:
        """What keeps it from its work."""
        told = self._pump.problem()
        return f"{self._name}: {told}" if told else None

    def stop(self) -> None:
        """End; what is not committed comes again."""
        self._stop.set()
        self._thread.join()

    def _sink(self) -> Sink:
        end = self.output.alertmanager or self.output.webhook
        assert end is not None  # noqa: S101 - the file was checked
        missing = [name for name in end.headers.values() if name not in os.environ]
        if missing:
            raise StopServiceError(
                f"output {self.output.name}: headers: {missing[0]} is not in the environment", Exit.USAGE
            )
        headers = {header: os.environ[name] for header, name in end.headers.items()}
        if isinstance(end, Alertmanager):
            poster = Poster(f"{end.url.rstrip('/')}/api/v2/alerts", headers, seconds(end.timeout))
            return AlertmanagerSink(poster, seconds(end.resend))
        return WebhookSink(Poster(end.url, headers, seconds(end.timeout)))

    def _own(self, sink: AlertmanagerSink, partitions: Sequence[int]) -> None:
        """Who reads the topic repeats what fires; it is of one partition."""
        sink.own(self._firing() if partitions else ())

    def _firing(self) -> list[Mapping[str, object]]:
        topic, connection = self._settings.topics.alert_state.name, self._settings.connection()
        try:
            records = list(read_committed(connection, topic, range(partitions_of(connection, [topic])[topic])))
        except ReadError as error:
            raise AgainError(str(error)) from error
        latest = {record.key: record.value for record in records if not record.key.startswith(b"change/")}
        states = [msgspec.json.decode(value, type=State) for value in latest.values() if value]
        return [state.record for state in states if state.status == "firing"]

    def _run(self) -> None:
        try:
            self._pump.run()
        except StopServiceError as error:
            self.failed = error
        except Exception as error:
            # A bug of ours, or Kafka away at a bad moment; a thread that ended in silence would leave it behind
            log.exception("a sink ended", sink=self._name)
            self.failed = StopServiceError(f"sink {self._name}: {error!r}", Exit.UNEXPECTED)


class AlertSinks:
    """All of them."""

    def __init__(self, settings: Settings, metrics: SinkMetrics, dead: DeadLetters) -> None:
        self._settings, self._metrics, self._dead = settings, metrics, dead
        self._loops: dict[str, _Loop] = {}

    def take_over(self, alerts: Alerts) -> None:
        """Stop what is no longer wanted, start what is new. Raises StopServiceError."""
        wanted = wanted_outputs(alerts, self._settings)
        for name, loop in list(self._loops.items()):
            if wanted.get(name) != loop.output:
                loop.stop()
                del self._loops[name]
                log.info("sink stopped", sink=f"alerts.{name}")
        for name, output in wanted.items():
            if name not in self._loops:
                self._loops[name] = _Loop(output, self._settings, self._metrics, self._dead)

    def problem(self) -> str | None:
        """What keeps any of them from its work."""
        return "; ".join(told for loop in self._loops.values() if (told := loop.problem())) or None

    def check(self) -> None:
        """Raises StopServiceError if one has ended for good."""
        for loop in self._loops.values():
            if loop.failed is not None:
                raise loop.failed

    def stop(self) -> None:
        """End all."""
        for loop in self._loops.values():
            loop.stop()
