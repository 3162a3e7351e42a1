"""Denied connections as Kubernetes Events on the pod whose policy decided: `kubectl describe pod` shows them.

Events are for people and few: equal ones make one in a while, there is a most a minute, and what is old makes none. The
account needs `create` on `events` (core) in the namespaces of the pods.
"""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import orjson

from enrich.sources.client import AnswerError
from streams.sinks.sink import RefusedError, SinkError

Flow = Mapping[str, Any]

_OLD_S: Final = 600
_REMEMBERED: Final = 50_000
_AGAIN: Final = frozenset({0, 401, 403, 408, 429})
"""And whatever begins with 5: what passes, or the operator can mend."""


class EventSink:
    """Creates Events. ``suppressed`` is told why a record makes none of its own."""

    def __init__(
        self,
        post: Callable[[str, Any], None],
        every_s: float,
        per_minute: int,
        suppressed: Callable[[str], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        """``post`` creates an object at a path, as :meth:`enrich.sources.client.Client.post` does."""
        self._post, self._every_s, self._per_minute = post, every_s, per_minute
        self._suppressed, self._clock = suppressed, clock
        self._told: OrderedDict[tuple[Any, ...], float] = OrderedDict()
        self._left, self._filled = float(per_minute), clock()

    def write(self, values: Sequence[bytes]) -> None:
        """An Event for each that is worth one."""
        for value in values:
            flow = orjson.loads(value)
            why = self._why_none(flow)
            if why is not None:
                self._suppressed(why)
                continue
            self._send(flow)
            self._told[_likeness(flow)] = self._clock()
            self._left -= 1
            if len(self._told) > _REMEMBERED:
                self._told.popitem(last=False)

    def close(self) -> None:
        """Nothing to let go."""

    def _why_none(self, flow: Flow) -> str | None:
        now = self._clock()
        self._left = min(float(self._per_minute), self._left + (now - self._filled) * self._per_minute / 60)
        self._filled = now
        subject = _subject(flow)
        if flow["disposition"] == "allow" or "pod_uid" not in subject:
            return "no_pod"
        if now - datetime.fromisoformat(flow["last_timestamp"]).timestamp() > _OLD_S:
            return "old"
        if now - self._told.get(_likeness(flow), float("-inf")) < self._every_s:
            return "repeated"
        return None if self._left >= 1 else "rate"

    def _send(self, flow: Flow) -> None:
        event = event_of(flow)
        try:
            self._post(f"/api/v1/namespaces/{event['metadata']['namespace']}/events", event)
        except AnswerError as error:
            if error.status in _AGAIN or error.status >= 500:
                raise SinkError(str(error)) from error
            raise RefusedError(str(error)) from error


def event_of(flow: Flow) -> dict[str, Any]:
    """The Event of a record. Its name is made of the record's id: a repeat is the same Event."""
    subject = _subject(flow)
    digest = hashlib.sha256(flow["id"].encode()).hexdigest()[:16]
    seconds = f"{flow['timestamp'][:19]}Z"
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"namespace": subject["namespace"], "name": f"{subject['pod_name'][:230]}.{digest}"},
        "involvedObject": {
            "apiVersion": "v1",
            "kind": "Pod",
            "namespace": subject["namespace"],
            "name": subject["pod_name"],
            "uid": subject["pod_uid"],
        },
        "type": "Warning" if flow["disposition"] == "deny" else "Normal",
        "reason": "ConnectionDenied" if flow["disposition"] == "deny" else "ConnectionAudited",
        "message": _message(flow),
        "firstTimestamp": seconds,
        "lastTimestamp": f"{flow['last_timestamp'][:19]}Z",
        "count": max(1, min(flow["count"], (1 << 31) - 1)),
        "source": {"component": "kubeweir", "host": flow["node_name"]},
        "reportingComponent": "kubeweir",
        "reportingInstance": flow["node_name"],
    }


def _subject(flow: Flow) -> dict[str, Any]:
    found: dict[str, Any] = flow["dest" if flow["connection"]["direction"] == "ingress" else "src"]
    return found


def _likeness(flow: Flow) -> tuple[Any, ...]:
    connection = flow["connection"]
    return (
        _subject(flow)["pod_uid"],
        connection["direction"],
        flow["disposition"],
        flow["reason"],
        _peer(flow),
        connection.get("protocol"),
        connection.get("dest_port"),
    )


def _peer(flow: Flow) -> str:
    side = "src" if flow["connection"]["direction"] == "ingress" else "dest"
    end = flow[side]
    if end.get("pod_name"):
        return f"{end['namespace']}/{end['pod_name']}"
    return str(flow["connection"].get(f"{side}_ip") or end.get("node_name") or "many")


def _message(flow: Flow) -> str:
    connection = flow["connection"]
    what = "was denied" if flow["disposition"] == "deny" else "would be denied"
    way = "from" if connection["direction"] == "ingress" else "to"
    port = f", port {connection['dest_port']}/{connection['protocol']}" if "dest_port" in connection else ""
    refs = flow["policies"] or flow["isolated_by"]
    by = ", ".join(f"{ref['kind']} {ref.get('namespace', '')}/{ref['name']}".replace(" /", " ") for ref in refs[:5])
    return f"connection {way} {_peer(flow)}{port} {what}: {flow['reason'].replace('_', ' ')}{f' ({by})' if by else ''}"
