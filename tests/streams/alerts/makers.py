"""Makers: records of denied connections, rules, and an engine whose clock the test turns."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import orjson

from streams.alerts.alert import State
from streams.alerts.counting import Counter
from streams.alerts.engine import Engine
from streams.alerts.model import Rule
from streams.alerts.read import read
from tests.enrich.test_flow_schema import SCHEMA as FLOW_SCHEMA

__all__ = ["FLOW_SCHEMA", "T0", "World", "flow", "loss", "rule", "stamp"]

T0 = 1_790_000_000


def stamp(second: float) -> str:
    """RFC 3339 with nine digits."""
    return f"{datetime.fromtimestamp(int(second), UTC):%Y-%m-%dT%H:%M:%S}.{int(second % 1 * 1e9):09d}Z"


_NUMBER = iter(range(1, 1 << 40))


def flow(
    at: float = T0, *, src: str = "shop/web", dest: str = "data/db", port: int = 5432, **more: Any
) -> dict[str, Any]:
    """A denied egress of a Deployment's pod."""
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
    """A status record that tells a loss."""
    told = {"schema": 1, "timestamp": stamp(at), "worker": "w1", "type": "lost", "reason": "ring_full", "verdicts": 5}
    return {**told, "cluster": "c1", "node": "n1", "ring": "r1", **more}


def rule(**fields: Any) -> Rule:
    """A rule as a file says it."""
    given = {"name": "one", "group_by": ["subject.namespace"], **fields}
    return read(orjson.dumps({"version": 1, "rules": [given]}), "f").rules[0]


class World:
    """Some rules at work. What they say is in ``said``, what outlives them in ``kept``."""

    def __init__(self, *rules: Rule, most: int = 1000, kept: Mapping[tuple[str, str], State] | None = None) -> None:
        self.now = float(T0)
        self.rules, self.counts = rules, Tally[str]()
        self.said: list[dict[str, Any]] = []
        self.kept: dict[tuple[str, str], State] = dict(kept or {})
        self.deltas: list[Any] = []
        self._counter = Counter(rules)
        self.engine = Engine(rules, most, self._count)
        for (_, name), state in self.kept.items():
            self.engine.load(name, state, self.now)

    def _count(self, _rule: str, what: str, number: int) -> None:
        self.counts[what] += number

    def see(self, *records: Mapping[str, Any], replayed: bool = False) -> list[dict[str, Any]]:
        """Records come in now; what is said of it."""
        for record in records:
            if "type" in record:
                self._counter.status(record)
            else:
                self._counter.flow(record)
        deltas = self._counter.drain()
        self.deltas += deltas
        self.engine.take(deltas, self.now, replayed=replayed)
        return self.look()

    def wait(self, seconds: float) -> list[dict[str, Any]]:
        """Time passes, looked at each second."""
        said = []
        for _ in range(int(seconds)):
            self.now += 1
            self.engine.tick(self.now)
            said += self.look()
        return said

    def look(self) -> list[dict[str, Any]]:
        """What is new."""
        out = self.engine.drain()
        for rule_name, name, state in out.states:
            if state is None:
                self.kept.pop((rule_name, name), None)
            else:
                self.kept[rule_name, name] = state
        self.said += out.alerts
        return out.alerts
