"""Denied connections as Kubernetes Events on the pod whose policy decided: `kubectl describe pod` shows them.

Events are read by people and stored in etcd, so they are limited: equal denials make one Event in ``every_s`` seconds,
at most ``per_minute`` Events are made, and records older than ten minutes make none. The service account needs the verb
``create`` on ``events`` (core API group) in the namespaces of the pods."""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Final

from enrich.sources.client import AnswerError
from enrich.wire.bounds import is_namespace
from enrich.wire.flow import Flow, sides
from streams.sinks.sink import RefusedError, SinkError, decode, write_in_requests

_MAX_AGE_S: Final = 600
_MAX_REMEMBERED: Final = 50_000
"""Denials remembered, to recognize repeated ones."""
_MAX_COUNT: Final = (1 << 31) - 1
"""An Event's count is an int32."""
_OBJECT_STATUSES: Final = frozenset({400, 409, 422})
"""Bad Request, Conflict, Invalid: what the API server's own answer then says is about the object."""
_TOO_LARGE: Final = 413
EventKey = tuple[str | int | None, ...]


class EventSink:
    """Creates Events, at a limited rate (a token bucket of ``per_minute`` tokens)."""

    def __init__(
        self,
        post: Callable[[str, Any], None],
        every_s: float,
        per_minute: int,
        suppressed: Callable[[str], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        """``post`` creates an object at a path, as :meth:`enrich.sources.client.Client.post` does. ``suppressed`` is
        called with the reason for each record without an Event: no_pod, old, repeated, rate."""
        self._post, self._every_s, self._per_minute = post, every_s, per_minute
        self._suppressed, self._clock = suppressed, clock
        self._sent_at: OrderedDict[EventKey, float] = OrderedDict()
        self._tokens, self._filled_at = float(per_minute), clock()

    def write(self, values: Sequence[bytes]) -> None:
        """Create an Event for each record that is not suppressed. Raises SinkError, RefusedError."""
        write_in_requests(values, 1, lambda one: self._write(one[0]))

    def close(self) -> None:
        """Do nothing: the client belongs to the caller."""

    def _write(self, value: bytes) -> None:
        flow = decode(value)
        reason = self._suppression_reason(flow)
        if reason is not None:
            self._suppressed(reason)
            return
        try:
            self._send(flow)
        except RefusedError:
            # It counts as sent: each further denial in a namespace that is being deleted would be asked and refused.
            self._remember(flow)
            raise
        self._remember(flow)

    def _remember(self, flow: Flow) -> None:
        self._sent_at[_event_key(flow)] = self._clock()
        self._tokens -= 1
        if len(self._sent_at) > _MAX_REMEMBERED:
            self._sent_at.popitem(last=False)

    def _suppression_reason(self, flow: Flow) -> str | None:
        now = self._clock()
        # A clock that was ahead and is set back takes no tokens away, and repeats count only after it.
        passed = max(0.0, now - self._filled_at)
        self._tokens = min(float(self._per_minute), self._tokens + passed * self._per_minute / 60)
        self._filled_at = now
        if flow.disposition == "allow" or not flow.subject.pod_uid:
            return "no_pod"
        if now - datetime.fromisoformat(flow.last_timestamp).timestamp() > _MAX_AGE_S:
            return "old"
        if 0 <= now - self._sent_at.get(_event_key(flow), float("-inf")) < self._every_s:
            return "repeated"
        return None if self._tokens >= 1 else "rate"

    def _send(self, flow: Flow) -> None:
        if not is_namespace(flow.subject.namespace):
            # It would be another path, and the answer to that says nothing about the record.
            raise RefusedError(f"{flow.subject.namespace[:80]!r} is not the name of a namespace")
        event = event_of(flow)
        try:
            self._post(f"/api/v1/namespaces/{event['metadata']['namespace']}/events", event)
        except AnswerError as error:
            if _is_final(error):
                raise RefusedError(str(error)) from error
            raise SinkError(str(error), retry_after_s=error.retry_after_s) from error


def _is_final(error: AnswerError) -> bool:
    """Return whether the API server will never create this one Event, and says nothing about others.

    The status does not tell: 403 is the answer to a missing right, which stops all Events until somebody grants it, and
    also the answer for a namespace that is being deleted; 404 is the answer for a namespace that is gone, and also that
    of a proxy with a wrong path."""
    if error.status == _TOO_LARGE:
        return True
    details, message = error.answer.get("details"), str(error.answer.get("message"))
    about = details if isinstance(details, dict) else {}
    causes = about.get("causes")
    if isinstance(causes, list) and any(
        isinstance(one, dict) and one.get("reason") == "NamespaceTerminating" for one in causes
    ):
        return True
    if error.answer.get("reason") == "NotFound":
        return about.get("kind") == "namespaces"
    if "denied the request" in message or "denied request" in message:  # an admission webhook; an admission policy
        return True
    if "exceeded quota" in message:
        return True
    return bool(error.answer) and error.status in _OBJECT_STATUSES


def event_of(flow: Flow) -> dict[str, Any]:
    """Return the Event of a record. Its name is derived from the record's id, so that a repeat is the same Event."""
    subject = flow.subject
    digest = hashlib.sha256(flow.id.encode()).hexdigest()[:16]
    return {
        "apiVersion": "v1",
        "kind": "Event",
        # An object's name has at most 253 characters; the digest needs 17.
        "metadata": {"namespace": subject.namespace, "name": f"{subject.pod_name[:230]}.{digest}"},
        "involvedObject": {
            "apiVersion": "v1",
            "kind": "Pod",
            "namespace": subject.namespace,
            "name": subject.pod_name,
            "uid": subject.pod_uid,
        },
        "type": "Warning" if flow.disposition == "deny" else "Normal",
        "reason": "ConnectionDenied" if flow.disposition == "deny" else "ConnectionAudited",
        "message": _message(flow),
        "firstTimestamp": f"{flow.timestamp[:19]}Z",
        "lastTimestamp": f"{flow.last_timestamp[:19]}Z",
        "count": max(1, min(flow.count, _MAX_COUNT)),
        "source": {"component": "kubeweir", "host": flow.node_name},
        "reportingComponent": "kubeweir",
        "reportingInstance": flow.node_name,
    }


def _event_key(flow: Flow) -> EventKey:
    """Return what two denials have in common that make one Event."""
    return (
        flow.subject.pod_uid,
        flow.direction,
        flow.disposition,
        flow.reason,
        _peer_text(flow),
        flow.protocol,
        flow.connection.dest_port,
    )


def _peer_text(flow: Flow) -> str:
    (side,) = sides("peer", flow.direction)
    return flow.text(side, "many")


def _message(flow: Flow) -> str:
    what = "was denied" if flow.disposition == "deny" else "would be denied"
    preposition = "from" if flow.direction == "ingress" else "to"
    port = f", port {flow.connection.dest_port}/{flow.protocol}" if flow.connection.dest_port is not None else ""
    policies = ", ".join(f"{policy.kind} {policy.path}" for policy in (flow.policies or flow.isolated_by)[:5])
    by = f" ({policies})" if policies else ""
    return f"connection {preposition} {_peer_text(flow)}{port} {what}: {flow.reason.replace('_', ' ')}{by}"
