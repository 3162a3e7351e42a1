"""Measure the time from a packet to its alert in Alertmanager, and the memory that groups of alert rules take.

10,000 connections per second are denied meanwhile. Their verdicts are those of eight nodes, each of which sends ten
batches per second, as a probe does. `weir-streams enrich` and `weir-streams alerts` run as processes with all built-in
rules and one more, and Alertmanager is Debian's. Now and then a verdict has a port that only the additional rule
matches: a sample is the time from that verdict until Alertmanager's API lists the alert.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import numpy as np
import orjson
from confluent_kafka import Producer
from ports import free_port

from enrich.wire.batch import INGRESS, Reason, Verdict
from enrich.wire.topics import topics
from probe.export.batcher import Verdicts
from streams.kafka.topics import prepare_topics
from tests.bench.groups import CASES
from tests.bench.result import BenchError, Figure, Part, expect, say
from tests.bench.scale import Scale
from tests.bench.streams import cpu_seconds
from tests.bench.verdicts import NODES, key_of, make_batches, make_verdicts, write_manifests
from tests.kafka.alertmanager import Alertmanager
from tests.kafka.site import until

_ROOT: Final = Path(__file__).parents[2]
_AIM_S: Final = 3.0
_AIM_MB: Final = 200.0
_TICK_S: Final = 0.1
_FIRST_PORT: Final = 20_000
_POLL_S: Final = 0.02
_PARTITIONS: Final = 8
_RULE: Final = {"name": "bench", "match": {"port": "20000-30000"}, "group_by": ["port"], "above": {"threshold": 1}}


def measure(scale: Scale, folder: Path, servers: str) -> Part:
    """Measure the groups first, because they need much memory, then the stream of denies."""
    figures, counts = _groups(scale)
    say(f"alerts: {scale.denies_a_second:,} denies per second, {scale.alert_samples} samples")
    waits, cpu, more = _Stream(folder, servers, scale).run()
    case = f"{scale.denies_a_second:,} denies per second"
    figures += [
        Figure(case, "seconds from packet to Alertmanager", tuple(waits), _AIM_S),
        Figure(case, "CPU seconds per second, role alerts", (cpu,)),
    ]
    how = (
        "Denies of 8 nodes, ten batches per second each, pass through `weir-streams enrich` and `weir-streams alerts` "
        "with all built-in rules to a real Alertmanager. A sample is the time from a verdict until Alertmanager's API "
        "lists its alert. Groups: the growth of a process in which each group has five records in its window, for one "
        "kind of rule at a time."
    )
    return Part("Alerts", how, figures, {**counts, **more})


def _groups(scale: Scale) -> tuple[list[Figure], dict[str, int]]:
    figures, counts = [], {"groups": 0, "groups_kept": 0}
    for case in CASES:
        say(f"alerts: {scale.alert_groups:,} groups, {case}")
        done = subprocess.run(
            [sys.executable, "-m", "tests.bench.groups", case, str(scale.alert_groups)],
            cwd=_ROOT, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            raise BenchError(done.stderr[-2000:])
        found = json.loads(done.stdout)
        expect(found["groups"], scale.alert_groups, f"groups ({case})")
        counts["groups"] += scale.alert_groups
        counts["groups_kept"] += found["groups"]
        name = f"{scale.alert_groups:,} groups in a window, {case}"
        figures += [
            Figure(name, "MB", (max(found["megabytes"], 0.01),), _AIM_MB),
            Figure(name, "deltas/s", (found["deltas_a_second"],)),
        ]
    return figures, counts


class _Stream:
    """A stream of denies at a steady rate. Some of them, the marked ones, raise an alert whose delay is measured."""

    def __init__(self, folder: Path, servers: str, scale: Scale) -> None:
        self._folder, self._servers, self._scale = folder, servers, scale
        self._prefix = f"bench{secrets.token_hex(3)}"
        self._sent = dict.fromkeys(NODES, 0)
        self._marks: list[tuple[int, float]] = []
        self._mark_requested = threading.Event()
        self._stop = threading.Event()
        self._failed: BaseException | None = None

    def run(self) -> tuple[list[float], float, dict[str, int]]:
        """Run the stream; return the seconds of each sample, the CPU seconds per second of the role, and the counts."""
        write_manifests(self._folder / "manifests")
        own_topics = topics(self._prefix, _PARTITIONS)
        prepare_topics({"bootstrap.servers": self._servers}, own_topics, 0, threading.Event())
        with self._alertmanager() as am, self._service("enrich", am), self._service("alerts", am) as alerts:
            until(lambda: True if "alert partitions assigned" in self._log("alerts") else None, "the role alerts")
            sender = threading.Thread(target=self._send, args=(own_topics.raw.name,), daemon=True)
            sender.start()
            time.sleep(self._scale.alert_warmup_s)
            started, cpu = time.monotonic(), cpu_seconds(alerts)
            waits = [self._sample(am) for _ in range(self._scale.alert_samples)]
            share = (cpu_seconds(alerts) - cpu) / (time.monotonic() - started)
            self._stop.set()
            sender.join()
            sent = sum(self._sent.values())
            until(lambda: True if self._counted() >= sent else None, f"{sent:,} denies in the role")
            return waits, share, {"denies": sent, "denies_counted": self._counted(), "alerts": len(waits)}

    def _sample(self, am: Alertmanager) -> float:
        """Return the seconds from a marked verdict until Alertmanager lists its alert."""
        marks_before = len(self._marks)
        self._mark_requested.set()
        until(lambda: True if len(self._marks) > marks_before or self._failed else None, "a marked verdict")
        if self._failed:
            raise BenchError(f"verdicts could not be sent: {self._failed!r}")
        port, sent_at = self._marks[-1]
        deadline = time.monotonic() + 60
        while not am.alerts(alertname="bench", port=str(port)):
            if time.monotonic() > deadline:
                raise BenchError(f"no alert within 60 s; the role's log ends with: {self._log('alerts')[-2000:]}")
            time.sleep(_POLL_S)
        return time.time() - sent_at

    def _send(self, raw: str) -> None:
        try:
            producer = Producer(
                {"bootstrap.servers": self._servers, "partitioner": "murmur2_random", "linger.ms": 5,
                 "compression.type": "lz4"}
            )  # fmt: skip
            share = int(self._scale.denies_a_second * _TICK_S) // len(NODES)
            due = time.monotonic()
            while not self._stop.is_set():
                for node in NODES:
                    verdicts, port, now = _denied(node, share), _FIRST_PORT + len(self._marks), time.time()
                    marked = self._mark_requested.is_set()
                    if marked:
                        verdicts["destination_port"][-1] = port
                    for value in make_batches(node, verdicts, share, self._sent[node]):
                        producer.produce(raw, value, key_of(node))
                    self._sent[node] += share
                    if marked:
                        self._mark_requested.clear()
                        self._marks.append((port, now))
                producer.poll(0)
                due += _TICK_S
                self._stop.wait(max(0.0, due - time.monotonic()))
            expect(producer.flush(60), 0, "batches that Kafka did not acknowledge")
        except BaseException as error:
            self._failed = error
            raise

    def _counted(self) -> int:
        """Return the number of records that the role has counted, from its metrics."""
        port = json.loads(self._log("alerts").splitlines()[0])["metrics_port"]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        name = 'kubeweir_streams_alerts_counted_total{what="records"} '
        return sum(int(float(line.removeprefix(name))) for line in lines if line.startswith(name))

    def _log(self, name: str) -> str:
        return (self._folder / f"{name}.log").read_text()

    @contextmanager
    def _alertmanager(self) -> Iterator[Alertmanager]:
        am = Alertmanager(self._folder, free_port())
        try:
            am.start()
            yield am
        finally:
            am.kill()

    @contextmanager
    def _service(self, role: str, am: Alertmanager) -> Iterator[subprocess.Popen[bytes]]:
        rules = self._folder / "alerts.yaml"
        rules.write_bytes(orjson.dumps({"version": 1, "rules": [_RULE]}))
        env = {
            **os.environ,
            "PYTHONPATH": str(_ROOT),
            "WEIR_KAFKA": self._servers,
            "WEIR_TOPIC_PREFIX": self._prefix,
            "WEIR_PARTITIONS": str(_PARTITIONS),
            "WEIR_SOURCE": f"manifests:{self._folder / 'manifests'}",
            "WEIR_METRICS": "127.0.0.1:0",
            "WEIR_LOG_FORMAT": "json",
            "WEIR_ALERTS": str(rules),
            "WEIR_ALERTMANAGER": am.url,
            "WEIR_SUPERVISED": "1",
        }
        with (self._folder / f"{role}.log").open("wb") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", "streams.main", role, "--alone"],
                cwd=self._folder, env=env, stdin=subprocess.DEVNULL, stdout=file, stderr=file,
            )  # fmt: skip
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _denied(node: str, count: int) -> Verdicts:
    """Return verdicts of this moment, all of them denies."""
    verdicts = make_verdicts(node, count)
    verdicts["verdict"] = Verdict.DENY | (verdicts["verdict"] & INGRESS)
    verdicts["reason"] = Reason.DEFAULT_DENY
    verdicts["time_ns"] = time.monotonic_ns() + np.arange(count) - count
    return verdicts
