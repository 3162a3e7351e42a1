"""A node with a client and a server pod, `weir-probe` as a process, and a Kafka that can be stopped."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from confluent_kafka import Consumer, TopicPartition
from netns import Net, open_socket
from ports import free_port

from enrich.wire.batch import Batch, decode_batch
from tests.attachments import attach, remember_if_failing
from tests.kafka.broker import start_broker, wait_until_it_answers
from tests.kafka.site import PATIENCE_S, until
from tests.pages import page_of
from tests.waiting import freeze
from tests.whole_lines import whole_lines

OPEN, CLOSED = 10_000, 9
"""Ports of the server: the policy allows UDP from OPEN to 65535, and denies CLOSED."""
PREFIX = "e2e"
_MANIFESTS = """\
apiVersion: v1
kind: Namespace
metadata: {name: shop, uid: uid-shop}
---
apiVersion: v1
kind: Node
metadata: {name: n1, uid: uid-n1}
status: {addresses: [{type: InternalIP, address: 192.0.2.1}]}
---
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: shop, uid: uid-client, labels: {app: client}}
spec: {nodeName: n1, containers: [{name: main, image: none}]}
status: {phase: Running, podIP: 10.244.0.1, podIPs: [{ip: 10.244.0.1}, {ip: "fd44::1"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: server, namespace: shop, uid: uid-server, labels: {app: server}}
spec: {nodeName: n1, containers: [{name: main, image: none}]}
status: {phase: Running, podIP: 10.244.0.2, podIPs: [{ip: 10.244.0.2}, {ip: "fd44::2"}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: high-ports, namespace: shop}
spec:
  podSelector: {matchLabels: {app: server}}
  ingress: [{from: [{podSelector: {}}], ports: [{protocol: UDP, port: 10000, endPort: 65535}]}]
"""


class Broker:
    """Apache Kafka on one port; its data survives a stop."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._port = folder, free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._port}"

    def start(self) -> None:
        if self._process is not None:
            return
        self._process = process = start_broker(self._folder, self._port)
        wait_until_it_answers(process, self._folder, self._port)

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(240)
            self._process = None

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Freeze the broker: connections stay open, and nothing answers."""
        assert self._process is not None
        freeze(self._process.pid)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def batches(self, topic: str) -> list[Batch]:
        """Return all batches of a topic, partition by partition."""
        consumer = Consumer({"bootstrap.servers": self.address, "group.id": "e2e", "enable.auto.commit": False})
        found = []
        try:
            for partition in consumer.list_topics(topic, timeout=120).topics[topic].partitions:
                place = TopicPartition(topic, partition, 0)
                end = consumer.get_watermark_offsets(place, timeout=120)[1]
                consumer.assign([place])
                deadline = time.monotonic() + PATIENCE_S
                while consumer.position([place])[0].offset < end and (end or 0) > 0:
                    assert time.monotonic() < deadline, f"{topic} cannot be read to its end"
                    for message in consumer.consume(500, 0.5):
                        assert message.error() is None, message.error()
                        batch = decode_batch(message.value() or b"")
                        assert message.key() == batch.header.key
                        found.append(batch)
        finally:
            consumer.close()
        return found


class Probe:
    """One run of `weir-probe`, or of the version of it in the folder ``source``."""

    def __init__(
        self, env: dict[str, str], log: Path, arguments: Sequence[str] = (), source: Path | None = None
    ) -> None:
        self.log = log
        command: list[str | Path] = [Path(sys.executable).with_name("weir-probe")]
        if source is not None:
            command = [sys.executable, "-c", "from probe.main import main; main()"]
            env = {**env, "PYTHONPATH": str(source)}
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                [*command, *arguments], env=env, cwd=source, stdin=subprocess.DEVNULL, stdout=file, stderr=file
            )
        attach(f"weir-probe {' '.join(arguments)}".strip(), self.process, log)

    def lines(self, event: str) -> list[dict[str, Any]]:
        """Return the log lines whose event begins so."""
        found = (json.loads(line) for line in whole_lines(self.log) if line.startswith(b"{"))
        return [line for line in found if line["event"].startswith(event)]

    def wait_for(self, event: str, patience_s: float = PATIENCE_S) -> dict[str, Any]:
        def look() -> dict[str, Any] | None:
            assert self.process.poll() is None, self.log.read_text()
            return next(iter(self.lines(event)), None)

        return until(look, f"the line {event!r} in {self.log}", patience_s)

    def get(self, path: str) -> tuple[int, str]:
        return page_of(self.wait_for("started")["metrics_port"], path)

    def metric(self, name: str) -> float:
        return next(float(line.split()[-1]) for line in self.get("/metrics")[1].splitlines() if line.startswith(name))

    def wait_until_sent(self) -> None:
        """Wait until Kafka has all verdicts of the kernel: a stop sends what is left for some seconds only."""
        left = ("kubeweir_probe_ring_unread_verdicts", "kubeweir_probe_spool_batches")
        until(lambda: not any(self.metric(name) for name in left), lambda: f"an empty spool: {self.get('/metrics')[1]}")

    def wait_until_enforced(self) -> None:
        def enforced() -> bool | None:
            if "policy:" in self.get("/readyz")[1] or self.metric("kubeweir_probe_attached_pods") != 2:
                return None
            return True

        until(enforced, "both pods under policy")

    def kill(self) -> None:
        remember_if_failing()
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(240)


class Node:
    """Pods, manifests, pins and folders of one test."""

    def __init__(self, broker: Broker, folder: Path) -> None:
        self.broker, self.folder = broker, folder
        self.source: Path | None = None
        """Folder of the version that is started; None: this one."""
        self.topic_prefix = f"{PREFIX}{secrets.token_hex(4)}"
        self.pins = Path("/sys/fs/bpf") / f"kubeweir-test-{secrets.token_hex(3)}"
        (folder / "manifests").mkdir()
        (folder / "manifests/all.yaml").write_text(_MANIFESTS)
        self._net = Net()
        self.space = self._net.node()
        self._probes: list[Probe] = []

    def begin(self, **settings: str) -> Probe:
        """Start a probe, then the pods: UDP flows of older pods would be allowed for a minute."""
        probe = self.start(**settings)
        unattached = "kubeweir_probe_unattached_pods"
        until(lambda: probe.metric(unattached) == 2 or None, "pods that have no interface")
        self.client = self._net.pod(self.space, "10.244.0.1", "fd44::1")
        self.server = self._net.pod(self.space, "10.244.0.2", "fd44::2")
        probe.wait_until_enforced()
        return probe

    def delete_pods(self) -> None:
        """Delete both pods, and their interfaces with them."""
        manifests = self.folder / "manifests/all.yaml"
        kept = [one for one in yaml.safe_load_all(manifests.read_text()) if one["kind"] != "Pod"]
        manifests.write_text(yaml.safe_dump_all(kept))
        for space in (self.client, self.server):
            self._net.remove(space)

    def start(self, **settings: str) -> Probe:
        return self._run([], settings)

    def detach(self) -> None:
        """Run `weir-probe detach`."""
        folders = {f"WEIR_CNI_{name}_DIR": str(self.folder / name) for name in ("BIN", "CONF")}
        done = self._run(["detach"], folders)
        assert done.process.wait(240) == 0, done.log.read_text()

    def _run(self, arguments: list[str], settings: dict[str, str]) -> Probe:
        env = {
            **os.environ,
            "WEIR_KAFKA": self.broker.address,
            "WEIR_TOPIC_PREFIX": self.topic_prefix,
            "WEIR_PARTITIONS": "3",
            "WEIR_NODE": "n1",
            "WEIR_SOURCE": f"manifests:{self.folder / 'manifests'}",
            "WEIR_NETNS": str(self.space.path),
            "WEIR_PIN_DIR": str(self.pins),
            "WEIR_RUN_DIR": str(self.folder / "run"),
            "WEIR_STATE_DIR": str(self.folder / "state"),
            "WEIR_METRICS": "127.0.0.1:0",
            "WEIR_DENY_WINDOW": "1",
            "WEIR_LOG_FORMAT": "json",
            **settings,
        }
        probe = Probe(env, self.folder / f"probe-{len(self._probes)}.log", arguments, self.source)
        self._probes.append(probe)
        return probe

    def batches(self) -> list[Batch]:
        """Return all batches of the raw topic."""
        return self.broker.batches(f"{self.topic_prefix}.verdicts.raw")

    def socket(self, port: int = 0, *, server: bool = False) -> socket.socket:
        made = open_socket(self.server if server else self.client, 4, socket.SOCK_DGRAM)
        made.bind(("0.0.0.0", port))  # noqa: S104 - a namespace of the test's own
        return made

    def close(self) -> None:
        for probe in self._probes:
            if probe.process.poll() is None:
                probe.kill()
        self._net.close()
        shutil.rmtree(self.pins, ignore_errors=True)


class Rows:
    """The verdicts of all batches, each once."""

    def __init__(self, batches: list[Batch]) -> None:
        seen: dict[tuple[str, int], Any] = {}
        for batch in batches:
            names = {int(number): ref.pod for number, ref in batch.header.endpoints.items()}
            for number, row in zip(batch.numbers().tolist(), batch.verdicts, strict=True):
                found = (names[int(row["endpoint"])], row)
                before = seen.setdefault((batch.header.ring, number), found)
                assert (before[0], before[1].tobytes()) == (found[0], found[1].tobytes()), "one number, two verdicts"
        self.numbers = sorted(number for _, number in seen)
        self.rings = {ring for ring, _ in seen}
        self._rows = list(seen.values())

    def of(self, pod: str, verdict: int) -> Any:
        """Return the UDP verdicts of this kind at a pod's interface."""
        rows = [row for name, row in self._rows if name == pod and row["verdict"] & 0x7F == verdict]
        return np.array([row for row in rows if row["protocol"] == 17], rows[0].dtype) if rows else np.empty(0)
