"""A batch of rows to JSON records: what recurs is rendered once, a row is one splice.

Columns become lists once a batch; what each value stands for (a template, an address, a remote end, a Service) is in a
cache that lives from batch to batch until the index changes. So no dict is made and no JSON encoder called per row.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np

from enrich.cluster import Cluster
from enrich.flow import DEFAULT_LABELS, Ends, LabelChoice, Remote, address_text, second_text
from enrich.records import AGGREGATED, INGRESS, Batch, Header, Reason
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


@dataclass(frozen=True, slots=True)
class Looked:
    """What was looked up of a batch's rows, one entry a row."""

    remotes: Sequence[str]
    """The JSON of the other end."""
    unsettled: Sequence[bool] | None
    """Rows whose ends the index may be able to name, or to name better, in a moment; None: there are none."""
    columns: _Columns | None = None
    """What was taken out of the rows for it; None: to be taken anew."""


class _Columns(NamedTuple):
    """Of a batch's rows."""

    wall: Times
    sources: list[bytes]
    destinations: list[bytes]


class _Remotes:
    """Other ends by their address, as they are by one node's clock for a span of time."""

    def __init__(self) -> None:
        self.ends: dict[bytes, str] = {}
        self.unsettled: set[bytes] = set()
        self.span = _EVER

    def keep(self, raw: bytes, end: Remote) -> None:
        """One that is the same for some time."""
        self.ends[raw] = end.json
        self.span = max(self.span[0], end.since_ns), min(self.span[1], end.until_ns)
        if not end.settled:
            self.unsettled.add(raw)


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
        self._remotes: dict[str, _Remotes] = {}
        self._found = 0
        self._dialled: dict[bytes, str] = {}

    @property
    def generation(self) -> int:
        """Grows when what is known of the cluster changes: then what was unsettled may not be any more."""
        return self._cluster.generation

    def look(self, batch: Batch, until_ns: int | None = None) -> Looked:
        """Look up who the rows' other ends were. ``until_ns``: of what was later the index does not know all: pods may
        have gone since, and so none is named."""
        self._refresh()
        rows, header = batch.rows, batch.header
        columns = wall, sources, destinations = _columns(batch)
        remotes, unsettled = self._remote_ends(rows, sources, destinations, wall, header)
        if until_ns is not None and (wall > until_ns).any():
            inward = (rows["verdict"] & INGRESS).astype(bool)
            peers = _blocks(np.where(inward[:, None], rows["source"], rows["destination"]))
            remotes = [
                self._ends.in_doubt(self._addresses[raw], end) if at > until_ns else end
                for raw, end, at in zip(peers, remotes, wall.tolist(), strict=True)
            ]
        own = rows["reason"] == Reason.NODE
        if own.any():
            # The kernel saw that it was the own node, by whichever of its addresses: kubelet takes a bridge's.
            node, is_own = self._ends.node(header.node), own.tolist()
            remotes = [node if told else end for told, end in zip(is_own, remotes, strict=True)]
            unsettled = unsettled and [a and not told for told, a in zip(is_own, unsettled, strict=True)]
        unknown = [int(number) for number, ref in header.endpoints.items() if not self._ends.knows(ref)]
        if unknown:
            strangers = np.isin(rows["endpoint"], unknown).tolist()
            unsettled = [a or b for a, b in zip(unsettled, strangers, strict=True)] if unsettled else strangers
        return Looked(remotes, unsettled if unsettled and any(unsettled) else None, columns)

    def records(self, batch: Batch, looked: Looked | None = None) -> Records:
        """One record a row. Never raises for a batch that :func:`enrich.records.decode_batch` took. ``looked``: of the
        same batch, just now."""
        rows, header = batch.rows, batch.header
        if not len(rows):
            return Records([], [], [], [])
        if looked is None:
            looked = self.look(batch)
        wall, sources, destinations = looked.columns or _columns(batch)
        ring = self._ring(header)
        templates = ring.templates(rows)
        # As np.clip does, which costs more than all the rest of a small batch's times.
        times = np.minimum(np.maximum(wall, 0), self._now_ns()) // 1_000_000
        dialled = self._services(rows)
        values = [
            f"{h}{a}{remote}{b}{count}{c}{first}{d}{last}{e}{number}{f}{service}}}".encode()
            for h, (a, b, c, d, e, f), remote, count, first, last, number, service in zip(
                self._heads(rows, templates, sources, destinations),
                [template.tail for template in templates],
                looked.remotes,
                rows["count"].tolist(),
                *_stamps(rows, wall),
                _numbers(batch),
                dialled,
                strict=True,
            )
        ]
        facts = Facts(header.node, rows, templates, looked.remotes, dialled)
        return Records([t.key for t in templates], values, [t.denied for t in templates], times.tolist(), facts)

    def _refresh(self) -> None:
        """Forget what was looked up in an older state of the index, and what has become too much."""
        if len(self._addresses) > _CACHED:
            self._addresses.clear()
        if self._generation != self._cluster.generation or len(self._rings) > _CACHED >> 4:
            self._generation = self._cluster.generation
            self._rings.clear()
            self._dialled.clear()
            self._remotes.clear()
            self._found = 0

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

    def _remote_ends(
        self, rows: Rows, sources: list[bytes], destinations: list[bytes], wall: Times, header: Header
    ) -> tuple[list[str], list[bool] | None]:
        """The other end of each row, as the index knows it at the row's time; and which may be named better soon."""
        if not len(rows):
            return [], None
        inward = (rows["verdict"] & INGRESS).tolist()
        peers = [s if i else d for s, d, i in zip(sources, destinations, inward, strict=True)]
        aggregated = rows["flags"] & AGGREGATED
        if aggregated.any():
            peers = [_NOWHERE if flag else raw for raw, flag in zip(peers, aggregated.tolist(), strict=True)]
        known = self._known_remotes(header.node, int(wall.min()), int(wall.max()))
        found = list(map(known.ends.get, peers))
        if None in found:
            return self._find_remotes(known, peers, wall, header.node)
        unsettled = known.unsettled
        return found, [raw in unsettled for raw in peers] if unsettled else None  # type: ignore[return-value]  # None was ruled out

    def _known_remotes(self, node: str, first: int, last: int) -> _Remotes:
        """Those that were found before, if they are the same from first to last."""
        if self._found > _CACHED:
            self._remotes.clear()
            self._found = 0
        known = self._remotes.get(node)
        if known is None or not known.span[0] <= first <= last < known.span[1]:
            known = self._remotes[node] = _Remotes()
        return known

    def _find_remotes(
        self, known: _Remotes, peers: list[bytes], wall: Times, node: str
    ) -> tuple[list[str], list[bool]]:
        """Look up what is missing; what changes within the batch is looked up row by row, and not kept."""
        first, last = int(wall.min()), int(wall.max())
        for raw in set(peers) - known.ends.keys():
            end = self._ends.remote(self._addresses[raw], first, node)
            if end.since_ns <= first and last < end.until_ns:
                known.keep(raw, end)
                self._found += 1
        ends: list[str] = []
        unsettled: list[bool] = []
        for raw, at in zip(peers, wall.tolist(), strict=True):
            kept = known.ends.get(raw)
            if kept is None:
                end = self._ends.remote(self._addresses[raw], at, node)
                ends.append(end.json)
                unsettled.append(not end.settled)
            else:
                ends.append(kept)
                unsettled.append(raw in known.unsettled)
        return ends, unsettled

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
    """The rows' numbers; an array is made only for a batch that was thinned, or is a part of one."""
    header = batch.header
    if header.kept is None and batch.picked is None:
        return range(header.first, header.first + header.rows)
    numbers: list[int] = batch.numbers().tolist()
    return numbers


def _columns(batch: Batch) -> _Columns:
    rows = batch.rows
    wall = rows["time_ns"].astype(np.int64) + batch.header.clock
    return _Columns(wall, _blocks(rows["source"]), _blocks(rows["destination"]))


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
