"""A batch of rows to JSON records: what recurs is rendered once, a row is one splice.

Columns become lists once a batch; what each value stands for (a template, an address, a remote end, a Service) is in a
cache that lives from batch to batch until the index changes. So no dict is made and no JSON encoder called per row.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from enrich.cluster import Cluster
from enrich.flow import DEFAULT_LABELS, Ends, LabelChoice, address_text, second_text
from enrich.records import AGGREGATED, INGRESS, Batch, Header
from enrich.template import Ring, Template

_SECOND: Final = 1_000_000_000
_NOWHERE: Final = bytes(16)
_EVER: Final = (-(1 << 63), 1 << 63)
_CACHED: Final = 200_000
"""Entries a cache may have; it is emptied then."""

Rows = np.ndarray[Any, np.dtype[np.void]]
Times = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True, slots=True)
class Facts:
    """What records were rendered from, one entry a record: for who must choose among them without reading them."""

    node: str
    rows: Rows
    templates: Sequence[Template]
    remotes: Sequence[str]
    """The JSON of the other end."""
    dialled: Sequence[str]
    """The JSON of the member ``dialled`` behind its comma, or nothing."""


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
    facts: Facts | None = None


class Enricher:
    """Renders batches. Not thread safe: its caches are its own."""

    def __init__(
        self,
        cluster: Cluster,
        labels: Sequence[str] = DEFAULT_LABELS,
        now_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._cluster = cluster
        self._ends = Ends(cluster, LabelChoice.of(labels))
        self._now_ns = now_ns
        self._addresses = _Texts()
        self._generation = -1
        self._rings: dict[tuple[str, str, str], Ring] = {}
        self._remotes: dict[bytes, str] = {}
        self._span = _EVER
        self._dialled: dict[bytes, str] = {}

    def records(self, batch: Batch) -> Records:
        """One record a row. Never raises for a batch that :func:`enrich.records.decode_batch` took."""
        rows, header = batch.rows, batch.header
        if not len(rows):
            return Records([], [], [], [])
        self._refresh()
        wall = rows["time_ns"].astype(np.int64) + header.clock
        ring = self._ring(header)
        templates = ring.templates(rows)
        sources, destinations = _blocks(rows["source"]), _blocks(rows["destination"])
        # As np.clip does, which costs more than all the rest of a small batch's times.
        times = np.minimum(np.maximum(wall, 0), self._now_ns()) // 1_000_000
        remotes, dialled = self._remote_ends(rows, sources, destinations, wall), self._services(rows)
        values = [
            f"{h}{a}{remote}{b}{count}{c}{first}{d}{last}{e}{number}{f}{service}}}".encode()
            for h, (a, b, c, d, e, f), remote, count, first, last, number, service in zip(
                self._heads(rows, templates, sources, destinations),
                [template.tail for template in templates],
                remotes,
                rows["count"].tolist(),
                *_stamps(rows, wall),
                _numbers(batch),
                dialled,
                strict=True,
            )
        ]
        facts = Facts(header.node, rows, templates, remotes, dialled)
        return Records([t.key for t in templates], values, [t.denied for t in templates], times.tolist(), facts)

    def _refresh(self) -> None:
        """Forget what was looked up in an older state of the index, and what has become too much."""
        if len(self._addresses) > _CACHED:
            self._addresses.clear()
        if self._generation != self._cluster.generation or len(self._rings) > _CACHED >> 4:
            self._generation = self._cluster.generation
            self._rings.clear()
            self._dialled.clear()
            self._forget_remotes()

    def _forget_remotes(self) -> None:
        self._remotes.clear()
        self._span = _EVER

    def _ring(self, header: Header) -> Ring:
        name = (header.cluster, header.node, header.ring)
        ring = self._rings.get(name)
        if ring is None:
            ring = self._rings[name] = Ring(header, self._ends)
        ring.learn(header)
        return ring

    def _heads(
        self, rows: Rows, templates: list[Template], sources: list[bytes], destinations: list[bytes]
    ) -> list[str]:
        """The connection of each row."""
        columns = (
            list(map(self._addresses.__getitem__, sources)), list(map(self._addresses.__getitem__, destinations)),
            rows["source_port"].tolist(), rows["destination_port"].tolist(),
        )  # fmt: skip
        if {template.plain for template in templates} == {True} and "" not in columns[0] and "" not in columns[1]:
            heads = [template.head for template in templates]
            return [
                f"{o}{source}{p}{destination}{q}{a}{r}{b}{s}"
                for (o, p, q, r, s), source, destination, a, b in zip(heads, *columns, strict=True)
            ]
        return [
            template.filled(source, destination, a, b)
            for template, source, destination, a, b in zip(templates, *columns, strict=True)
        ]

    def _remote_ends(self, rows: Rows, sources: list[bytes], destinations: list[bytes], wall: Times) -> list[str]:
        """The other end of each row, as the index knows it at the row's time."""
        inward = (rows["verdict"] & INGRESS).tolist()
        peers = [s if i else d for s, d, i in zip(sources, destinations, inward, strict=True)]
        aggregated = rows["flags"] & AGGREGATED
        if aggregated.any():
            peers = [_NOWHERE if flag else raw for raw, flag in zip(peers, aggregated.tolist(), strict=True)]
        first, last = int(wall.min()), int(wall.max())
        if not self._span[0] <= first <= last < self._span[1] or len(self._remotes) > _CACHED:
            self._forget_remotes()
        found = list(map(self._remotes.get, peers))
        if None not in found:
            return found  # type: ignore[return-value]  # None was ruled out
        for raw in {raw for raw, end in zip(peers, found, strict=True) if end is None}:
            self._find_remote(raw, first, last)
        return [
            self._remotes[raw] if raw in self._remotes else self._ends.remote(self._addresses[raw], at)[0]
            for raw, at in zip(peers, wall.tolist(), strict=True)
        ]

    def _find_remote(self, raw: bytes, first: int, last: int) -> None:
        """Keep an end that is the same at every moment of the batch, and for how long it is."""
        end, since, until = self._ends.remote(self._addresses[raw], first)
        if since <= first and last < until:
            self._remotes[raw] = end
            self._span = max(self._span[0], since), min(self._span[1], until)

    def _services(self, rows: Rows) -> list[str]:
        """The address before the Service's DNAT, where there was one."""
        if not rows["dialled"].any():
            return [""] * len(rows)
        raw = np.empty(len(rows), _DIALLED)
        raw["address"], raw["port"] = rows["dialled"], rows["dialled_port"]
        wanted = raw.view(f"V{_DIALLED.itemsize}").tolist()
        found = list(map(self._dialled.get, wanted))
        if None not in found:
            return found  # type: ignore[return-value]  # None was ruled out
        if len(self._dialled) > _CACHED:
            self._dialled.clear()
        for one in {one for one in wanted if one not in self._dialled}:
            address, port = one[:16], int.from_bytes(one[16:], "little")
            self._dialled[one] = self._ends.dialled(self._addresses[address], port)
        return [self._dialled[one] for one in wanted]


_DIALLED: Final = np.dtype([("address", "u1", (16,)), ("port", "<u2")])


class _Texts(dict[bytes, str]):
    """16 bytes to the text of the address; none for none."""

    def __missing__(self, raw: bytes) -> str:
        text = self[raw] = address_text(raw) if raw != _NOWHERE else ""
        return text


def _numbers(batch: Batch) -> Iterable[int]:
    """The rows' numbers; an array is made only for a batch that was thinned."""
    header = batch.header
    return range(header.first, header.first + header.rows) if header.kept is None else batch.numbers().tolist()


def _blocks(addresses: np.ndarray[Any, Any]) -> list[bytes]:
    blocks: list[bytes] = np.ascontiguousarray(addresses).view("V16").ravel().tolist()
    return blocks


def _stamps(rows: Rows, wall: Times) -> tuple[list[str], list[str]]:
    """RFC 3339 text, without the zone, of the first and the last packet of each row."""
    first = _stamp(wall)
    spans = rows["span_ms"]
    if not spans.any():
        return first, first
    return first, _stamp(wall + spans.astype(np.int64) * 1_000_000)


def _stamp(wall: Times) -> list[str]:
    seconds, nanos = np.divmod(wall, _SECOND)
    listed = seconds.tolist()
    texts = {second: second_text(second) for second in set(listed)}
    # The leading 1 keeps the zeros.
    return [texts[second] + str(nano)[1:] for second, nano in zip(listed, (nanos + _SECOND).tolist(), strict=True)]
