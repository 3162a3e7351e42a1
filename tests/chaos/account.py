"""The account: what arrived of what was published, once or more, under which names, and whether health was true."""

from __future__ import annotations

import re
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import orjson
from confluent_kafka import Consumer, Message, TopicPartition

from enrich.wire.topics import Topics
from streams.main import ROLES
from tests.chaos.fleet import NODES, THRESHOLD, Fleet, name_of, ring_of, uid_of
from tests.chaos.workers import Workers
from tests.kafka.health_truth import HealthTruth

ALLOWED_S: Final = 60.0
"""For so long health may differ from the truth."""
_ID: Final = re.compile(rb'"id":"(c[^"]*)-(\d+)"')
_MAX_EXAMPLES: Final = 10
_RINGS: Final = frozenset(map(ring_of, NODES))


class Seen:
    """How often each verdict was seen in one place."""

    def __init__(self) -> None:
        self._counts: defaultdict[str, bytearray] = defaultdict(bytearray)
        self.distinct = self.repeats = 0

    def add(self, ring: str, number: int) -> None:
        """Note one copy of a verdict."""
        counts = self._counts[ring]
        if number >= len(counts):
            counts.extend(bytes(number + 1 - len(counts)))
        self.repeats += counts[number] > 0
        self.distinct += counts[number] == 0
        counts[number] = min(counts[number] + 1, 255)

    def missing(self, published: Mapping[str, int]) -> list[str]:
        """Return the ids that were published and not seen."""
        return [
            f"{ring}-{number}"
            for ring, count in published.items()
            for number in range(count)
            if number >= len(self._counts[ring]) or not self._counts[ring][number]
        ]

    def invented(self, published: Mapping[str, int]) -> int:
        """Return how many were seen that were never published."""
        return sum(sum(map(bool, counts[published.get(ring, 0) :])) for ring, counts in self._counts.items())


class Tail:
    """Reads what is appended to a file of records."""

    def __init__(self, path: Path) -> None:
        self._path, self._at, self.seen = path, 0, Seen()

    def read(self) -> None:
        """Take the whole lines that are new."""
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._at)
            while block := file.read(4 << 20):
                whole = block[: block.rfind(b"\n") + 1]
                if not whole:
                    break
                self._at += len(whole)
                for ring, number in _ID.findall(whole):
                    self.seen.add(ring.decode(), int(number))
                file.seek(self._at)


@dataclass
class Account:
    """Reads topics and files on threads of its own, and asks every role for its health."""

    fleet: Fleet
    workers: Workers
    tails: Mapping[str, Tail]
    """By the role that writes the file."""
    names: Topics
    connection: Mapping[str, Any]
    notified: Callable[[], Iterable[str]]
    """The ids of the alerts that the webhook got."""
    flows: Seen = field(default_factory=Seen)
    alerts: Counter[str] = field(default_factory=Counter)
    """How often each port has begun to fire."""
    alert_ids: Counter[str] = field(default_factory=Counter)
    denies: Counter[int] = field(default_factory=Counter)
    """Distinct denies on `flows`, by port."""
    dead: set[tuple[str, int, int]] = field(default_factory=set)
    """Topic, partition and offset of what was dead-lettered."""
    problems: list[str] = field(default_factory=list)
    """Wrong names, dead letters of verdicts, losses that did not happen: examples in words."""
    wrong_names: int = 0
    false_losses: int = 0
    """Status records about losses, gaps, expired batches and dropped alerts: a run has none of these."""
    nameless: int = 0
    """Peers that had a pod and are not named, which is allowed."""
    broken: Exception | None = None
    """Why a thread of the account itself has ended."""

    def __post_init__(self) -> None:
        self.truths = {name: HealthTruth(ALLOWED_S) for name in ("probe", *ROLES)}
        self._stop = threading.Event()
        work = (self._read, self._look)
        self._threads = [threading.Thread(target=self._guarded, args=(one,), name="account") for one in work]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Read and ask nothing more."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:
            self.broken = error
            raise

    @property
    def false_health_s(self) -> float:
        """The seconds for which health was false, of all roles together."""
        return sum(truth.false_s for truth in self.truths.values())

    def published(self) -> dict[str, int]:
        """Return how many verdicts of each ring were published."""
        return {ring: len(truth.subjects) for ring, truth in self.fleet.truths.items()}

    def expected_alerts(self) -> set[str]:
        """Return the ports of which enough denies were published."""
        return {str(port) for port, count in list(self.fleet.ports.items()) if count >= THRESHOLD}

    def places(self) -> dict[str, Seen]:
        """Return every place in which each verdict must arrive, by name: the topic, and the files of the roles."""
        return {"flows": self.flows, **{role: tail.seen for role, tail in self.tails.items()}}

    def missing(self) -> dict[str, int]:
        """Return what is missing now, by place; empty if nothing is."""
        published = self.published()
        found = {name: len(seen.missing(published)) for name, seen in self.places().items()}
        expected = self.expected_alerts()
        found["alerts"] = len(expected - self.alerts.keys())
        found["notifications"] = len(set(self.alert_ids) - set(self.notified()))
        return {name: count for name, count in found.items() if count}

    # --- topics

    def _read(self) -> None:
        """Read the topics from their beginning, also while brokers are away."""
        consumer = Consumer(
            {**self.connection, "group.id": "account", "enable.auto.commit": False, "auto.offset.reset": "earliest",
             "isolation.level": "read_committed", "log_level": 0}
        )  # fmt: skip
        work = {
            self.names.flows.name: self._take_flow, self.names.alerts.name: self._take_alert,
            self.names.dead.name: self._take_dead, self.names.status.name: self._take_status,
        }  # fmt: skip
        partitions = {topic.name: topic.partitions for topic in self.names}
        consumer.assign([TopicPartition(name, number, 0) for name in work for number in range(partitions[name])])
        while not self._stop.is_set():
            for message in consumer.consume(2000, 0.2):
                if message.error() is None:
                    work[message.topic()](message)
        consumer.close()

    def _take_flow(self, message: Message) -> None:
        record = _object(message)
        ring, _, number = str(record.get("id")).rpartition("-")
        if ring not in _RINGS:
            return  # a hostile record, which the readers of the topic must stand
        before = self.flows.distinct
        self.flows.add(ring, int(number))
        if self.flows.distinct > before and record["disposition"] == "deny":
            self.denies[record["connection"]["dest_port"]] += 1
        self._check_names(ring, int(number), record)

    def _check_names(self, ring: str, number: int, record: dict[str, Any]) -> None:
        truth = self.fleet.truths[ring]
        if number >= len(truth.subjects):
            return  # counted as invented
        ingress = record["connection"]["direction"] == "ingress"
        ends = {"dest" if ingress else "src": truth.subjects[number], "src" if ingress else "dest": truth.peers[number]}
        for end, serial in ends.items():
            found = record[end].get("pod_name"), record[end].get("pod_uid")
            if found == (None, None):
                self.nameless += serial != 0
            elif found != (name_of(serial), uid_of(serial)):
                self.wrong_names += 1
                self._note(f"{record['id']} at {record['timestamp']}: {end} is {found}, in truth {serial or 'no pod'}; "
                           f"{record['connection']}")  # fmt: skip

    def _take_alert(self, message: Message) -> None:
        alert = _object(message)
        if alert.get("rule") == "denied":
            self.alert_ids[alert["id"]] += 1
            self.alerts[alert["group"]["port"]] += alert["status"] == "firing"

    def _take_dead(self, message: Message) -> None:
        headers = {name: value or b"" for name, value in message.headers() or []}
        self.dead.add((headers["topic"].decode(), int(headers["partition"]), int(headers["offset"])))

    def _take_status(self, message: Message) -> None:
        status = _object(message)
        is_ours = status.get("ring") in _RINGS and status.get("type") in ("lost", "gap")
        if is_ours or status.get("type") in ("expired", "alerts_dropped"):
            self.false_losses += 1
            self._note(f"a loss that did not happen is reported: {status}")

    def _note(self, problem: str) -> None:
        if len(self.problems) < _MAX_EXAMPLES:
            self.problems.append(problem)

    # --- health

    def _look(self) -> None:
        with ThreadPoolExecutor(len(ROLES)) as pool:
            while not self._stop.wait(0.5):
                for tail in self.tails.values():
                    tail.read()
                ready = dict(zip(ROLES, pool.map(self.workers.ready, ROLES), strict=True))
                ready["probe"] = all(one.problems() == (None, None) for one in self.fleet.exporters.values())
                for name, (given, done) in self._progress().items():
                    self.truths[name].look(time.monotonic(), ready=ready[name], given=given, done=done, name=name)

    def _progress(self) -> dict[str, tuple[int, int]]:
        """Return what each was given and has done. A record in any place proves that the enricher has made it."""
        done = {role: tail.seen.distinct for role, tail in self.tails.items()}
        made = max(self.flows.distinct, *done.values())
        due = sum(count >= THRESHOLD for count in list(self.denies.values()))
        return {
            "probe": (self.fleet.given, self.fleet.acknowledged), "enrich": (self.fleet.acknowledged, made),
            "alerts": (due, len(self.alerts)), **{role: (made, count) for role, count in done.items()},
        }  # fmt: skip


def _object(message: Message) -> dict[str, Any]:
    """Return the JSON object in a record; an empty one if there is none, because others may write anything."""
    try:
        found = orjson.loads(message.value() or b"")
    except orjson.JSONDecodeError:
        return {}
    return found if isinstance(found, dict) else {}
