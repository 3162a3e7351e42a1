"""What tests do with Kafka and the services: start, send, read, stop."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import orjson
from confluent_kafka import Consumer, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from tests.attachments import attach, remember_if_failing
from tests.pages import page_of
from tests.waiting import described, pause
from tests.whole_lines import whole_lines

PATIENCE_S = 240
"""For what is a matter of seconds, on a machine that takes ten times as long or stands still for a minute. Only a test
that fails waits so long."""
T = TypeVar("T")


class Service:
    """A running `weir-streams`."""

    def __init__(self, arguments: Sequence[str], env: dict[str, str], log: Path) -> None:
        self.log = log
        self._lines: list[dict[str, Any]] = []
        self._read_bytes = 0
        self._reading = threading.Lock()
        with log.open("ab") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "streams.main", *arguments],
                env=env,
                stdout=file,
                stderr=file,
                stdin=subprocess.DEVNULL,
            )
        attach(f"weir-streams {' '.join(arguments)}", self.process, log)

    def lines(self) -> list[dict[str, Any]]:
        """Return its log so far, complete lines only."""
        with self._reading:
            with self.log.open("rb") as file:
                file.seek(self._read_bytes)
                text = file.read()
            complete = text[: text.rfind(b"\n") + 1]
            self._read_bytes += len(complete)
            self._lines += [json.loads(line) for line in complete.split(b"\n") if line.startswith(b"{")]
            return self._lines.copy()

    def wait_for(self, event: str, **fields: Any) -> dict[str, Any]:
        """Wait for the first log line with this event and these fields."""

        def look() -> dict[str, Any] | None:
            assert self.process.poll() is None, self.log.read_text()
            for line in self.lines():
                if line["event"] == event and fields.items() <= line.items():
                    return line
            return None

        return until(look, f"the line {event!r} in {self.log}")

    def get(self, path: str, role: str = "enrich") -> tuple[int, str]:
        """Return status and text of a page of its health port."""
        self.wait_for("starting", role=role)
        starts = [line for line in self.lines() if (line["event"], line.get("role")) == ("starting", role)]
        # The last one's: a process may have begun again.
        return page_of(starts[-1]["metrics_port"], path, timeout_s=60)

    def metric(self, name: str) -> float:
        """Return a counter or gauge; ``name`` includes the labels as /metrics prints them."""
        for line in self.get("/metrics")[1].splitlines():
            if line.startswith(f"{name} "):
                return float(line.split()[-1])
        return 0.0

    def stop(self) -> int:
        """Send SIGTERM; return the exit code."""
        self.process.terminate()
        return self.process.wait(PATIENCE_S)


def until(look: Callable[[], T | None], what: str | Callable[[], str], patience_s: float = PATIENCE_S) -> T:
    """Return the first answer that is true: neither None, nor False, nor empty. ``what`` is for the failure, and is
    asked for the state at that time if it can be called."""
    started = time.monotonic()
    while not (found := look()):
        # After the last pause, which may be longer than what is left of the time, there is one more look.
        if time.monotonic() >= started + patience_s:
            text = what if isinstance(what, str) else what()
            raise AssertionError(f"waited {patience_s:.0f} s in vain for {text}: {described(look)}")
        pause(started, 0.05)
    return found


def written(path: Path) -> list[bytes]:
    """The whole lines in a file and in those that were rotated from it: what one look at a folder at work can tell.

    A file that is renamed meanwhile is missed, or read twice: wait until all that is expected is there."""
    found = []
    for file in path.parent.glob(f"{path.name}*"):
        with contextlib.suppress(FileNotFoundError):
            found += whole_lines(file)
    return found


def ids_of(path: Path) -> set[str]:
    """Return the ids of records."""
    return {orjson.loads(line)["id"] for line in written(path)}


def make_again(admin: AdminClient, topic: str, partitions: int) -> None:
    """Delete a topic, and make it again at once."""
    admin.delete_topics([topic])[topic].result(120)

    def is_made() -> bool | None:
        try:
            admin.create_topics([NewTopic(topic, partitions)])[topic].result(120)
        except KafkaException:
            return None
        return True

    until(is_made, f"the topic {topic}")


class Site:
    """Topics with a prefix of their own, and the services on them."""

    def __init__(
        self,
        broker: str,
        prefix: str,
        folder: Path,
        connection: dict[str, str] | None = None,
        settings: dict[str, str] | None = None,
    ) -> None:
        """``connection``: librdkafka's settings, if the address is not enough. ``settings``: of the services."""
        self.settings = settings or {}
        self.broker, self.prefix, self.folder = broker, prefix, folder
        self.connection = connection or {"bootstrap.servers": broker}
        self.services: list[Service] = []
        self._producer: Producer | None = None

    def env(self, **more: str) -> dict[str, str]:
        """Return the environment of the services."""
        return {
            **os.environ,
            "WEIR_KAFKA": self.broker,
            "WEIR_TOPIC_PREFIX": self.prefix,
            "WEIR_SOURCE": f"manifests:{self.folder / 'manifests'}",
            "WEIR_METRICS": "127.0.0.1:0",
            "WEIR_PARTITIONS": "4",
            "WEIR_LOG_FORMAT": "json",
            **self.settings,
            **more,
        }

    def start(self, *arguments: str, **more: str) -> Service:
        """Start `weir-streams` with these arguments and settings."""
        service = Service(arguments, self.env(**more), self.folder / f"service-{len(self.services)}.log")
        self.services.append(service)
        return service

    def start_enrich(self, **more: str) -> Service:
        """Start the enricher alone, and wait until it reads."""
        service = self.start("enrich", "--alone", **more)
        service.wait_for("partitions assigned")
        return service

    def send(self, value: bytes | None, key: str = "c1/n1/r1") -> None:
        """Send one record to the raw topic; :meth:`flush` waits for all."""
        if self._producer is None:
            self._producer = Producer({**self.connection, "partitioner": "murmur2_random"})
        self._producer.produce(f"{self.prefix}.verdicts.raw", value, key.encode())

    def forget_producer(self) -> None:
        """Send by a new producer from now on: an old one takes a topic that was made again for the earlier one."""
        self._producer = None

    def flush(self) -> None:
        """Wait until Kafka has everything that was sent."""
        assert self._producer is not None
        assert self._producer.flush(PATIENCE_S) == 0

    def read(
        self, topic: str, enough: Callable[[list[Message]], bool], patience_s: float = PATIENCE_S
    ) -> list[Message]:
        """Read a topic from its beginning until ``enough`` is true."""
        consumer = Consumer({**self.connection, "group.id": "test", "enable.auto.commit": False})
        name = f"{self.prefix}.{topic}"
        partitions = until(
            lambda: consumer.list_topics(name, timeout=120).topics[name].partitions or None, f"the topic {name}"
        )
        consumer.assign([TopicPartition(name, partition, 0) for partition in partitions])
        found: list[Message] = []
        deadline = time.monotonic() + patience_s
        while not enough(found):
            assert time.monotonic() < deadline, f"only {len(found)} records in {name}"
            found += consumer.consume(5000, 0.2)
        # A moment more: there may be more than there should be.
        found += consumer.consume(5000, 0.5)
        consumer.close()
        return found

    def read_flows(self, count: int, topic: str = "flows") -> list[dict[str, Any]]:
        """Read until there are ``count`` different ids; return the flows by partition."""
        seen: set[str] = set()
        flows: list[dict[str, Any]] = []

        def enough(found: list[Message]) -> bool:
            for message in found[len(flows) :]:
                flows.append(orjson.loads(message.value() or b""))
                seen.add(flows[-1]["id"])
            return len(seen) >= count

        found = self.read(topic, enough)
        enough(found)
        return flows

    def end(self) -> None:
        """Stop the services that still run."""
        remember_if_failing()
        for service in self.services:
            if service.process.poll() is None:
                service.process.kill()
                service.process.wait()
