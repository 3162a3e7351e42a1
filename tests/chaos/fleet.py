"""Nodes whose pods come and go and reuse addresses, and whose probes publish verdicts. The truth about each is kept.

The order of things is a kubelet's: the pod is created, it gets its address, the API server learns it; at the end the
address is free first, and then the pod is deleted. Spool and publishers are the probe's own.
"""

from __future__ import annotations

import itertools
import random
import threading
import time
from array import array
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np

from enrich.wire.address_interval import AddressInterval, encode_interval
from enrich.wire.batch import INGRESS, EndpointRef, Reason, Verdict, encode_batch
from enrich.wire.topics import Topics
from tests.chaos.api import LocalApi
from tests.kafka.batches import make_header, make_rows, mapped
from tests.kafka.exporter import Exporter
from tests.probe.export.spooling import append

CLUSTER: Final = "c1"
NODES: Final = ("n1", "n2")
THRESHOLD: Final = 10
"""So many denies of a port are an alert; every other port gets one less."""
_FIRST_PORT: Final = 10_000
_ADDRESSES: Final = 5
_BATCH: Final = 20
_EVERY_S: Final = 0.2
_DENIED: Final = 0.1


@dataclass
class Slot:
    """One address, and the pod that has it; without a pod it is free, and the API server knows that."""

    node: str
    ip: str
    pod: int | None = None
    of: int = 0
    """The pod that is about to get the address, has it, or has just lost it."""
    busy: bool = False
    """Whether the API server does not know yet that the address is free."""
    next_at: float = 0.0
    step: int = 0


@dataclass
class Truth:
    """What was published of one ring, by number: the serial numbers of the judged pod and of the peer (0: no pod)."""

    subjects: array[int] = field(default_factory=lambda: array("i"))
    peers: array[int] = field(default_factory=lambda: array("i"))


class Fleet:
    """All nodes, on a thread for pods and one for each node's verdicts."""

    def __init__(self, api: LocalApi, names: Topics, connection: Mapping[str, Any], folder: Path, seed: int) -> None:
        """``connection``: librdkafka's settings of the probes."""
        self._api, self._chance = api, random.Random(seed)  # noqa: S311 - the same each time
        self._lock, self._stop = threading.Lock(), threading.Event()
        # Measured once: between the two clocks of a later measurement this process may be suspended.
        self._clock = min(-(time.monotonic_ns() - time.time_ns()) for _ in range(100))
        self._serial = itertools.count(1)
        self._slots = [Slot(node, f"10.0.{at}.{1 + one}") for at, node in enumerate(NODES) for one in range(_ADDRESSES)]
        self._pods: dict[int, dict[str, Any]] = {}
        self.exporters = {}
        for node in NODES:
            (folder / node).mkdir()
            self.exporters[node] = Exporter(names, connection, folder / node)
        self.truths = {ring_of(node): Truth() for node in NODES}
        self.ports: Counter[int] = Counter()
        """How many denies of each port were published."""
        self._open: list[int] = []
        self._new_port = itertools.count(_FIRST_PORT)
        self.problem: Exception | None = None
        """Why a thread has ended."""
        work = [self._live, *(lambda node=node: self._speak(node) for node in NODES)]
        self._threads = [threading.Thread(target=self._guarded, args=(one,), name="fleet") for one in work]
        for thread in self._threads:
            thread.start()

    @property
    def published(self) -> int:
        """The verdicts that the probes were given."""
        return sum(len(truth.subjects) for truth in self.truths.values())

    @property
    def acknowledged(self) -> int:
        """The batches that Kafka has acknowledged."""
        return sum(one.batches.acked_batches for one in self.exporters.values())

    @property
    def given(self) -> int:
        """The batches that the probes were given."""
        return self.published // _BATCH

    def stop(self) -> None:
        """Publish nothing more."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def close(self) -> None:
        """End the probes."""
        self.stop()
        for one in self.exporters.values():
            one.stop()

    def renew(self, connection: Mapping[str, Any]) -> None:
        """Let the probes use other credentials."""
        for one in self.exporters.values():
            one.renew(connection)

    def _guarded(self, work: Any) -> None:
        try:
            work()
        except Exception as error:
            self.problem = error
            raise

    # --- pods

    def _live(self) -> None:
        while not self._stop.wait(0.02):
            for slot in self._slots:
                if time.monotonic() >= slot.next_at:
                    self._step(slot)

    def _step(self, slot: Slot) -> None:
        """Take the next step in the life of a slot: create, start, report, end, delete."""
        chance = self._chance
        if slot.step == 0:
            slot.of = self._create(slot)
        steps = (
            (self._start, (0.0, 0.3)), (self._report, (1.0, 12.0)), (self._end, (0.0, 0.4)),
            (self._delete, (0.02, 0.9)),
        )  # fmt: skip
        work, (least, most) = steps[slot.step]
        work(slot)
        slot.step = (slot.step + 1) % len(steps)
        slot.next_at = time.monotonic() + chance.uniform(least, most)

    def _create(self, slot: Slot) -> int:
        serial = next(self._serial)
        labels = {"app": f"a{serial % 7}"}
        meta = {"name": name_of(serial), "namespace": "shop", "uid": uid_of(serial), "labels": labels}
        spec = {"nodeName": slot.node, "containers": [{"name": "main", "image": "none"}]}
        self._pods[serial] = {"metadata": meta, "spec": spec, "begun": _text(time.time())}
        self._api.set("Pod", meta, spec=spec, status={"phase": "Pending"})
        return serial

    def _start(self, slot: Slot) -> None:
        with self._lock:
            slot.pod = slot.of
            pod = self._pods[slot.pod]
            pod["start"] = self._now()
            self._publish(slot, slot.pod)

    def _report(self, slot: Slot) -> None:
        pod = self._pods[slot.of]
        ready = {"type": "PodReadyToStartContainers", "status": "True", "lastTransitionTime": _text(time.time())}
        status = {"podIP": slot.ip, "podIPs": [{"ip": slot.ip}], "phase": "Running", "startTime": pod["begun"]}
        self._api.set("Pod", pod["metadata"], spec=pod["spec"], status={**status, "conditions": [ready]})

    def _end(self, slot: Slot) -> None:
        with self._lock:
            slot.pod, slot.busy = None, True
            self._publish(slot, slot.of, self._now())

    def _delete(self, slot: Slot) -> None:
        self._api.delete("Pod", name_of(slot.of))
        del self._pods[slot.of]
        slot.busy = False

    def _now(self) -> int:
        """Return the wall clock of all nodes."""
        return time.monotonic_ns() + self._clock

    def _publish(self, slot: Slot, serial: int, end: int | None = None) -> None:
        start = self._pods[serial]["start"]
        interval = AddressInterval(
            cluster=CLUSTER, node=slot.node, ip=slot.ip, uid=uid_of(serial), namespace="shop", pod=name_of(serial),
            first=start, start=start, end=end, last=end,
        )  # fmt: skip
        self.exporters[slot.node].intervals.publish({interval.key: encode_interval(interval)})

    # --- verdicts

    def _speak(self, node: str) -> None:
        chance = random.Random(f"{self._chance.random()}/{node}")  # noqa: S311 - the same each time
        while not self._stop.wait(_EVERY_S):
            with self._lock:
                value = self._batch(node, chance)
            if value is not None:
                append(self.exporters[node].spool, value)

    def _batch(self, node: str, chance: random.Random) -> bytes | None:
        """Make a batch of what the pods of a node send and receive now, and note the truth about it."""
        own = [slot for slot in self._slots if slot.node == node and slot.pod is not None]
        peers = [slot for slot in self._slots if not slot.busy]
        if not own:
            return None
        truth, first = self.truths[ring_of(node)], len(self.truths[ring_of(node)].subjects)
        rows = make_rows(_BATCH)
        rows["time_ns"] = time.monotonic_ns()
        endpoints = {}
        for row in rows:
            subject, ingress = chance.choice(own), chance.random() < 0.5
            peer = chance.choice([slot for slot in peers if slot is not subject])
            assert subject.pod is not None
            endpoints[str(subject.pod)] = EndpointRef("shop", name_of(subject.pod), uid_of(subject.pod))
            ends = (peer.ip, subject.ip) if ingress else (subject.ip, peer.ip)
            row["source"], row["destination"] = map(mapped, ends)
            denied = chance.random() < _DENIED
            row["destination_port"] = self._port(chance) if denied else 8080
            row["verdict"] = (Verdict.DENY if denied else Verdict.ALLOW) | (INGRESS if ingress else 0)
            row["reason"] = Reason.DEFAULT_DENY if denied else Reason.POLICY
            row["endpoint"] = subject.pod
            truth.subjects.append(subject.pod)
            truth.peers.append(peer.pod or 0)
        header = make_header(
            first, _BATCH, node=node, ring=ring_of(node), cluster=CLUSTER, endpoints=endpoints,
            clock=self._clock,
        )  # fmt: skip
        return encode_batch(header, np.asarray(rows))

    def _port(self, chance: random.Random) -> int:
        """Return the next port to deny. Some ports are under way at a time, so that their denies are far apart."""
        while len(self._open) < 2 * THRESHOLD:
            port = next(self._new_port)
            self._open += [port] * (THRESHOLD - port % 2)
        chosen = self._open.pop(chance.randrange(len(self._open)))
        self.ports[chosen] += 1
        return chosen


def ring_of(node: str) -> str:
    """Return the ring of a node."""
    return f"c{node}"


def name_of(serial: int) -> str:
    """Return the name of a pod."""
    return f"pod-{serial}"


def uid_of(serial: int) -> str:
    """Return the UID of a pod."""
    return f"uid-{serial}"


def _text(seconds: float) -> str:
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
