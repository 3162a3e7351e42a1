"""A batch of rows to JSON records: what recurs is rendered once a batch, a row is one splice.

Rows that agree in everything but addresses, ports, count and time share a template (there are few of them in a batch);
a row fills it in. So no dict is made and no JSON encoder called per row.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
import orjson

from enrich.cluster import Cluster
from enrich.flow import (
    DEFAULT_LABELS,
    ICMP,
    PROTOCOLS,
    SCHEMA_VERSION,
    WITH_PORTS,
    Ends,
    LabelChoice,
    address_text,
    policies_json,
    second_text,
)
from enrich.records import AGGREGATED, INGRESS, Batch, Header, Reason, Verdict

_SECOND: Final = 1_000_000_000
_DISPOSITIONS: Final = {int(v): v.name.lower() for v in Verdict}
_REASONS: Final = {int(reason): reason.name.lower() for reason in Reason}
_BY_POLICY: Final = frozenset({Reason.POLICY, Reason.EXPLICIT_DENY, Reason.ADOPTED})
"""Reasons whose rule is the policies that decided; a default deny's are those that isolate."""


@dataclass(frozen=True, slots=True)
class Records:
    """The records of a batch, in the order of its rows: four lists of one length."""

    keys: Sequence[bytes]
    """The local pod's namespace/name, or the node's name."""
    values: Sequence[bytes]
    """JSON."""
    denied: Sequence[bool]
    """Denied, or would have been."""
    times_ms: Sequence[int]
    """Wall clock of the first packet counted, never later than now: a broker refuses what is from the future."""


class _Shape(NamedTuple):
    """What rows with one template agree in."""

    endpoint: int
    rule: int
    protocol: int
    verdict: int
    reason: int
    flags: int


_SHAPE: Final = list(_Shape._fields)


class Enricher:
    """Renders batches. Not thread safe: its caches are its own."""

    def __init__(
        self,
        cluster: Cluster,
        labels: Sequence[str] = DEFAULT_LABELS,
        now_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._ends = Ends(cluster, LabelChoice.of(labels))
        self._now_ns = now_ns
        self._seconds: dict[int, bytes] = {}
        self._addresses: dict[bytes, bytes] = {}

    def records(self, batch: Batch) -> Records:
        """One record a row. Never raises for a batch that :func:`enrich.records.decode_batch` took."""
        rows, header = batch.rows, batch.header
        if not len(rows):
            return Records([], [], [], [])
        wall = rows["time_ns"].astype(np.int64) + header.clock
        last = wall + rows["span_ms"].astype(np.int64) * 1_000_000
        shapes, which = self._shapes(rows)
        templates = [self._template(header, shape) for shape in shapes]
        keys = [_key(header, shape) for shape in shapes]
        denied = [shape.verdict & 0x7F in (Verdict.DENY, Verdict.AUDIT) for shape in shapes]
        filled = zip(*self._columns(batch, wall, last), strict=True)
        values = [templates[shape] % row for shape, row in zip(which, filled, strict=True)]
        times = np.minimum(wall, self._now_ns()) // 1_000_000
        return Records([keys[s] for s in which], values, [denied[s] for s in which], times.tolist())

    def _shapes(self, rows: np.ndarray[Any, np.dtype[np.void]]) -> tuple[list[_Shape], list[int]]:
        index: dict[tuple[int, ...], int] = {}
        which = [
            index.setdefault(shape, len(index)) for shape in zip(*(rows[name].tolist() for name in _SHAPE), strict=True)
        ]
        return [_Shape(*shape) for shape in index], which

    def _columns(self, batch: Batch, wall: np.ndarray[Any, Any], last: np.ndarray[Any, Any]) -> list[list[Any]]:
        """What a row fills into its template, a list a placeholder."""
        rows = batch.rows
        source, destination = _blocks(rows["source"]), _blocks(rows["destination"])
        inward = (rows["verdict"] & INGRESS).astype(bool).tolist()
        peers = [s if i else d for s, d, i in zip(source, destination, inward, strict=True)]
        icmp = np.isin(rows["protocol"], list(ICMP))
        first = np.where(icmp, rows["destination_port"] >> 8, rows["source_port"])
        second = np.where(icmp, rows["destination_port"] & 0xFF, rows["destination_port"])
        return [
            first.tolist(),
            second.tolist(),
            [self._address(raw) for raw in source],
            [self._address(raw) for raw in destination],
            self._remote(peers, wall),
            rows["count"].tolist(),
            *self._times(wall),
            *self._times(last),
            batch.numbers().tolist(),
            self._dialled(rows),
        ]

    def _address(self, raw: bytes) -> bytes:
        text = self._addresses.get(raw)
        if text is None:
            if len(self._addresses) > 100_000:
                self._addresses.clear()
            text = self._addresses[raw] = address_text(raw)
        return text

    def _remote(self, peers: list[bytes], wall: np.ndarray[Any, Any]) -> list[bytes]:
        """The other end of each row: once an address, unless its owner changed within the batch."""
        first, last = int(wall.min()), int(wall.max())
        known: dict[bytes, bytes | None] = {}
        for raw in set(peers):
            ip = self._address(raw).decode()
            at_first, at_last = self._ends.remote(ip, first), self._ends.remote(ip, last)
            known[raw] = at_first if at_first == at_last else None
        found = [known[raw] for raw in peers]
        return [
            end if end is not None else self._ends.remote(self._address(raw).decode(), at)
            for end, raw, at in zip(found, peers, wall.tolist(), strict=True)
        ]

    def _times(self, wall: np.ndarray[Any, Any]) -> tuple[list[bytes], list[int]]:
        seconds, nanos = np.divmod(wall, _SECOND)
        if len(self._seconds) > 10_000:
            self._seconds.clear()
        texts = {second: self._seconds.setdefault(second, second_text(second)) for second in set(seconds.tolist())}
        return [texts[second] for second in seconds.tolist()], nanos.tolist()

    def _dialled(self, rows: np.ndarray[Any, np.dtype[np.void]]) -> list[bytes]:
        """The address before the Service's DNAT, where there was one."""
        parts = [b""] * len(rows)
        for index in np.flatnonzero(rows["dialled"].any(axis=1)).tolist():
            ip = self._address(rows["dialled"][index].tobytes()).decode()
            told: dict[str, Any] = {"dialled": {"ip": ip, "port": int(rows["dialled_port"][index])}}
            service = self._ends.service(ip)
            if service:
                told["dialled"]["service"] = service
            parts[index] = b"," + orjson.dumps(told)[1:-1]
        return parts

    def _template(self, header: Header, shape: _Shape) -> bytes:
        """The record with a placeholder for each of :meth:`_columns`, in that order."""
        inward = bool(shape.verdict & INGRESS)
        local = _plain(self._ends.local(header.endpoints.get(str(shape.endpoint)), header.node))
        named = _plain(policies_json(header.rules.get(str(shape.rule), [])))
        by_policy = shape.reason in _BY_POLICY
        remote = b"{}%.0b" if shape.flags & AGGREGATED else b"%b"
        disposition = _DISPOSITIONS.get(shape.verdict & 0x7F, "unknown")
        return b"".join(
            (
                b"{",
                _connection(shape, b"ingress" if inward else b"egress"),
                b',"disposition":"%b","reason":"%b"' % (disposition.encode(), _reason(shape).encode()),
                b',"policies":' + (named if by_policy else b"[]"),
                b',"isolated_by":' + (b"[]" if by_policy else named),
                b',"src":' + (remote if inward else local),
                b',"dest":' + (local if inward else remote),
                b',"count":%d,"timestamp":"%b%09dZ","last_timestamp":"%b%09dZ"',
                b',"node_name":' + _plain(orjson.dumps(header.node)),
                b',"cluster":' + _plain(orjson.dumps(header.cluster)),
                b',"schema":%d' % SCHEMA_VERSION,
                b',"id":' + _plain(orjson.dumps(header.ring)[:-1]) + b'-%d"',
                b',"aggregated":true' if shape.flags & AGGREGATED else b"",
                b"%b}",
            )
        )


_OMITTED: Final = b"%.0a"
"""Takes any value and writes nothing of it."""


def _connection(shape: _Shape, direction: bytes) -> bytes:
    """The five-tuple as far as there is one: placeholders for ports or type and code, source and destination."""
    if shape.flags & AGGREGATED:
        return b'"connection":{%b"direction":"%b"}' % (_OMITTED * 4, direction)
    protocol = PROTOCOLS.get(shape.protocol, str(shape.protocol)).encode()
    addresses = b'"src_ip":"%%b","dest_ip":"%%b","protocol":"%b","direction":"%b"}' % (protocol, direction)
    if shape.protocol in WITH_PORTS:
        return b'"connection":{"src_port":%d,"dest_port":%d,' + addresses
    if shape.protocol in ICMP:
        return b'"icmp":{"type":%d,"code":%d},"connection":{' + addresses
    return b'"connection":{' + _OMITTED * 2 + addresses


def _reason(shape: _Shape) -> str:
    return _REASONS.get(shape.reason, "unknown")


def _plain(text: bytes) -> bytes:
    """Text for a template: a percent sign stands for itself."""
    return text.replace(b"%", b"%%")


def _blocks(addresses: np.ndarray[Any, Any]) -> list[bytes]:
    blob = addresses.tobytes()
    return [blob[start : start + 16] for start in range(0, len(blob), 16)]


def _key(header: Header, shape: _Shape) -> bytes:
    ref = header.endpoints.get(str(shape.endpoint))
    return f"{ref.namespace}/{ref.pod}".encode() if ref else header.node.encode()
