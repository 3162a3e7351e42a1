"""Makers: records of denied connections, rules, and an engine whose clock the test turns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import orjson

from streams.alerts.alert import AlertState
from streams.alerts.counting import RecordCounter
from streams.alerts.engine import Engine
from streams.alerts.model import AlertRule
from streams.alerts.read import read
from tests.enrich.render.test_flow_schema import SCHEMA as FLOW_SCHEMA

__all__ = ["FLOW_SCHEMA", "T0", "World", "flow", "loss", "rule", "stamp"]

T0 = 1_790_000_000


def stamp(second: float) -> str:
    """RFC 3339 with nine digits."""
    return f"{datetime.fromtimestamp(int(second), UTC):%Y-%m-%dT%H:%M:%S}.{int(second % 1 * 1e9):09d}Z"


_NUMBER = iter(range(1, 1 << 40))


def flow(
    at: float = T0, *, src: str = "shop/web", dest: str = "data/db", port: int = 5432, **more: Any
) -> dict[str, Any]:
    """Make a record of a denied connection from a pod of a Deployment."""
    ends = [
        {"pod_name": f"{name}-0", "namespace": ns, "pod_namespace": ns, "pod_uid": f"uid-{name}",
         "workload_kind": "Deployment", "workload_name": name, "node_name": "n1", "labels": {"app": name}}
        for ns, name in (one.split("/") for one in (src, dest))
    ]  # fmt: skip
    made: dict[str, Any] = {
        "connection": {"src_ip": "10.0.0.1", "dest_ip": "10.0.0.2", "src_port": 40000, "dest_port": port,
                       "protocol": "tcp", "direction": "egress"},
        "disposition": "deny", "reason": "default_deny", "policies": [],
        "isolated_by": [{"kind": "NetworkPolicy", "namespace": "shop", "name": "default-deny"}],
        "src": ends[0], "dest": ends[1], "count": 1, "timestamp": stamp(at), "last_timestamp": stamp(at),
        "node_name": "n1", "cluster": "c1", "schema": 1, "id": f"r1-{next(_NUMBER)}",
    }  # fmt: skip
    connection = {**made["connection"], **more.pop("connection", {})}
    return {**made, "connection": connection, **more}


def loss(at: float = T0, **more: Any) -> dict[str, Any]:
    """Make a status record that reports a loss."""
    status = {"schema": 1, "timestamp": stamp(at), "worker": "w1", "type": "lost", "reason": "ring_full", "verdicts": 5}
    return {**status, "cluster": "c1", "node": "n1", "ring": "r1", **more}


def rule(**fields: Any) -> AlertRule:
    """Make a rule as it is read from a file."""
    given = {"name": "one", "group_by": ["subject.namespace"], **fields}
    return read(orjson.dumps({"version": 1, "rules": [given]}), "f").rules[0]


class World:
    """Some rules at work. Alert records are in ``written``, the state that outlives the engine in ``stored``."""

    def __init__(
        self, *rules: AlertRule, limit: int = 1000, stored: Mapping[tuple[str, str], AlertState] | None = None
    ) -> None:
        self.now = float(T0)
        self.rules, self.counts = rules, Counter[str]()
        self.written: list[dict[str, Any]] = []
        self.stored: dict[tuple[str, str], AlertState] = dict(stored or {})
        self.deltas: list[Any] = []
        self._counter = RecordCounter(rules)
        self.engine = Engine(rules, limit, self._count)
        for (_, name), state in self.stored.items():
            self.engine.load(name, state, self.now)

    def _count(self, _rule: str, what: str, number: int) -> None:
        self.counts[what] += number

    def take(self, *records: Mapping[str, Any], replayed: bool = False) -> list[dict[str, Any]]:
        """Process records that arrive now, and return the alert records."""
        for record in records:
            value = orjson.dumps(record)
            if "type" in record:
                self._counter.count_status(value)
            else:
                self._counter.count_flow(self._counter.read_flow(value))
        deltas = self._counter.drain()
        self.deltas += deltas
        self.engine.take(deltas, self.now, replayed=replayed)
        return self.drain()

    def wait(self, seconds: float) -> list[dict[str, Any]]:
        """Let time pass, with a tick each second, and return the alert records."""
        written = []
        for _ in range(int(seconds)):
            self.now += 1
            self.engine.tick(self.now)
            written += self.drain()
        return written

    def drain(self) -> list[dict[str, Any]]:
        """Apply the engine's output, and return the alert records."""
        out = self.engine.drain()
        for rule_name, name, state in out.states:
            if state is None:
                self.stored.pop((rule_name, name), None)
            else:
                self.stored[rule_name, name] = state
        self.written += out.alerts
        return out.alerts
