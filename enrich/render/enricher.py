"""Rows to JSON records: what recurs is rendered once, a row is one splice.

Columns become lists once for all batches that are taken together; what each value stands for (a template, an address,
a remote end, a Service) is in a cache that lives until the index changes. So no dict is made and no JSON encoder called
per row.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Any, Final

import numpy as np

from enrich.index.cluster import Cluster
from enrich.render.fragments import DEFAULT_LABELS, EndRenderer, LabelChoice, RenderedPeer, address_text, second_text
from enrich.render.interning import Int64Array, InternTable
from enrich.render.merged_batch import Mask, MergedBatch, VerdictArray
from enrich.render.template import RingTemplates, Templates, shapes_of
from enrich.wire.batch import AGGREGATED, INGRESS, Header, Reason

_SECOND: Final = 1_000_000_000
_NOWHERE: Final = bytes(16)
_EVER: Final = (-(1 << 63), 1 << 63)
_CACHED: Final = 200_000
"""Entries a cache may have; it is emptied then."""


@dataclass(frozen=True, slots=True)
class RecordColumns:
    """The columns that records were rendered from, one entry a record: routes choose by them without parsing JSON."""

    headers: Sequence[Header]
    verdicts: VerdictArray
    templates: Templates
    template: Int64Array
    """The number of each record's template."""
    peers: InternTable[str]
    """The peers as JSON."""
    peer: Int64Array
    """The number of each record's peer."""
    dialled: Sequence[str]
    """The JSON of the member ``dialled`` behind its comma, or nothing."""


@dataclass(frozen=True, slots=True)
class Records:
    """The records of some batches, in the order of their rows: five lists of one length."""

    keys: Sequence[bytes]
    """The local pod's namespace/name, or the node's name."""
    values: Sequence[bytes]
    """JSON."""
    denied: Sequence[bool]
    """Denied, or would have been."""
    times_ms: Sequence[int]
    """Wall clock of the first packet counted, never later than now: a broker refuses what is from the future."""
    owners: Sequence[int]
    """The place of the batch that it is of."""
    columns: RecordColumns | None = None


@dataclass(frozen=True, slots=True)
class Lookup:
    """What was looked up of rows, one entry a row."""

    peers: InternTable[str]
    peer: Int64Array
    """The number of the other end."""
    unsettled: Mask | None
    """Rows whose ends the index may be able to name, or to name better, in a moment; None: there are none."""
    sources: Sequence[bytes] = ()
    destinations: Sequence[bytes] = ()

    def pick(self, verdicts: Mask) -> Lookup:
        """Return the part of the lookup that belongs to ``MergedBatch.pick(verdicts)``."""
        unsettled = None if self.unsettled is None else self.unsettled[verdicts]
        return Lookup(
            self.peers,
            self.peer[verdicts],
            unsettled,
            list(compress(self.sources, verdicts)),
            list(compress(self.destinations, verdicts)),
        )


class _Others(InternTable[str]):
    """Other ends as JSON."""

    def __init__(self) -> None:
        super().__init__()
        self._numbers: dict[tuple[str, bool], int] = {}
        self._unsettled: InternTable[bool] = InternTable()
        self._any_unsettled = False

    def number(self, end: str, *, settled: bool) -> int:
        """The number of an end, a new one or one that is known."""
        number = self._numbers.get((end, settled))
        if number is None:
            number = self._numbers[end, settled] = self.add(end)
            self._unsettled.add(not settled)
            self._any_unsettled = self._any_unsettled or not settled
        return number

    def unsettled(self, numbers: Int64Array) -> Mask | None:
        """Which of them the index may name better soon; None: none."""
        return np.array(self._unsettled.of(numbers), bool) if self._any_unsettled else None


class _Remotes:
    """Other ends by their address, as they are by one node's clock for a span of time."""

    def __init__(self) -> None:
        self.numbers: dict[bytes, int] = {}
        self.span = _EVER

    def keep(self, raw: bytes, number: int, end: RenderedPeer) -> None:
        """One that is the same for some time."""
        self.numbers[raw] = number
        self.span = max(self.span[0], end.since_ns), min(self.span[1], end.until_ns)


class Enricher:
    """Renders rows. Not thread safe: its caches are its own."""

    def __init__(
        self,
        cluster: Cluster,
        labels: Sequence[str] = DEFAULT_LABELS,
        now_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._cluster = cluster
        self._ends = EndRenderer(cluster, LabelChoice.of(labels))
        self._now_ns = now_ns
        self._addresses = _Texts()
        self._generation = -1
        self._rings: dict[tuple[str, str, str], RingTemplates] = {}
        self._templates = Templates()
        self._remotes: dict[str, _Remotes] = {}
        self._others = _Others()
        self._found = 0
        self._dialled: dict[bytes, str] = {}

    @property
    def generation(self) -> int:
        """Grows when what is known of the cluster changes: then what was unsettled may not be any more."""
        return self._cluster.generation

    def lookup(self, batch: MergedBatch) -> Lookup:
        """Look up who the verdicts' remote ends were, as far as the index knows now."""
        self._refresh()
        sources, destinations = _blocks(batch.verdicts["source"]), _blocks(batch.verdicts["destination"])
        peers = _peers(batch.verdicts, sources, destinations)
        peer = np.array(self._other_ends(batch, peers), np.int64)
        own = batch.verdicts["reason"] == Reason.NODE
        if own.any():
            self._name_nodes(peer, batch, own)
        unsettled = self._others.unsettled(peer)
        strangers = self._strangers(batch)
        if strangers is not None:
            unsettled = strangers if unsettled is None else unsettled | strangers
        if unsettled is not None and not unsettled.any():
            unsettled = None
        return Lookup(self._others, peer, unsettled, sources, destinations)

    def mark_ambiguous(self, batch: MergedBatch, found: Lookup, until_ns: int) -> None:
        """Withdraw the names of remote ends in verdicts later than ``until_ns``: the index is not synced up to their
        time, so their pods may have disappeared already. ``found``, the latest lookup of this enricher or a part of
        it, is changed in place. The own node keeps its name: the kernel saw it."""
        late = batch.wall > until_ns
        if late.any():
            peers = _peers(batch.verdicts, found.sources, found.destinations)
            late &= batch.verdicts["reason"] != Reason.NODE
            for verdict in np.flatnonzero(late).tolist():
                end = self._ends.in_doubt(self._addresses[peers[verdict]], found.peers[found.peer[verdict]])
                found.peer[verdict] = self._others.number(end, settled=True)

    def records(self, batch: MergedBatch, lookup_result: Lookup | None = None) -> Records:
        """One record a row. Never raises for batches that :func:`enrich.wire.batch.decode_batch` took. ``looked``: of
        the
        same rows, just now."""
        verdicts = batch.verdicts
        if not len(verdicts):
            return Records([], [], [], [], [])
        if lookup_result is None:
            lookup_result = self.lookup(batch)
        templates = self._templates
        template = self._template_numbers(batch)
        # As np.clip does, which costs more than all the rest of a small batch's times.
        times = np.minimum(np.maximum(batch.wall, 0), self._now_ns()) // 1_000_000
        dialled = self._services(verdicts)
        values = [
            f"{h}{a}{peer}{b}{count}{c}{first}{d}{last}{e}{number}{f}{service}}}".encode()
            for h, (a, b, c, d, e, f), peer, count, first, last, number, service in zip(
                self._heads(verdicts, template, lookup_result),
                templates.tails.of(template),
                lookup_result.peers.of(lookup_result.peer),
                verdicts["count"].tolist(),
                *_stamps(verdicts, batch.wall),
                batch.numbers.tolist(),
                dialled,
                strict=True,
            )
        ]
        columns = RecordColumns(
            batch.headers, verdicts, templates, template, lookup_result.peers, lookup_result.peer, dialled
        )
        keys, denied = templates.keys.of(template), templates.denied.of(template)
        return Records(keys, values, denied, times.tolist(), batch.owner.tolist(), columns)

    def _refresh(self) -> None:
        """Forget what was looked up in an older state of the index, and what has become too much."""
        if len(self._addresses) > _CACHED:
            self._addresses.clear()
        many = len(self._rings) > _CACHED >> 4 or len(self._templates) > _CACHED or len(self._others) > _CACHED
        if self._generation != self._cluster.generation or many:
            self._generation = self._cluster.generation
            self._rings.clear()
            self._templates = Templates()
            self._dialled.clear()
            self._forget_remotes()

    def _forget_remotes(self) -> None:
        self._remotes.clear()
        self._others = _Others()
        self._found = 0

    def _template_numbers(self, batch: MergedBatch) -> Int64Array:
        """The number of each row's template."""
        shapes = shapes_of(batch.verdicts)
        found: list[int] = []
        for _, header, span in batch.parts():
            found += self._ring(header).templates(shapes[span])
        return np.array(found, np.int64)

    def _ring(self, header: Header) -> RingTemplates:
        name = (header.cluster, header.node, header.ring)
        ring = self._rings.get(name)
        if ring is None:
            ring = self._rings[name] = RingTemplates(header, self._ends, self._templates)
        ring.learn(header)
        return ring

    def _heads(self, verdicts: VerdictArray, template: Int64Array, lookup_result: Lookup) -> list[str]:
        """The connection of each row."""
        columns = (
            list(map(self._addresses.__getitem__, lookup_result.sources)),
            list(map(self._addresses.__getitem__, lookup_result.destinations)),
            verdicts["source_port"].tolist(), verdicts["destination_port"].tolist(),
        )  # fmt: skip
        if all(self._templates.plain.of(template)) and "" not in columns[0] and "" not in columns[1]:
            heads = self._templates.heads.of(template)
            return [
                f"{o}{source}{p}{destination}{q}{a}{r}{b}{s}"
                for (o, p, q, r, s), source, destination, a, b in zip(heads, *columns, strict=True)
            ]
        return [
            one.filled(source, destination, a, b)
            for one, source, destination, a, b in zip(self._templates.of(template), *columns, strict=True)
        ]

    def _other_ends(self, batch: MergedBatch, peers: list[bytes]) -> list[int]:
        """The number of the other end of each row, as the index knows it at the row's time."""
        if self._found > _CACHED:
            self._forget_remotes()
        found: list[int] = []
        for _, header, span in batch.parts():
            found += self._ends_of_node(header.node, peers[span], batch.wall[span])
        return found

    def _ends_of_node(self, node: str, peers: list[bytes], wall: Int64Array) -> list[int]:
        first, last = int(wall.min()), int(wall.max())
        known = self._known_remotes(node, first, last)
        found = list(map(known.numbers.get, peers))
        if None in found:
            return self._find_remotes(known, peers, wall, node)
        return found  # type: ignore[return-value]  # None was ruled out

    def _known_remotes(self, node: str, first: int, last: int) -> _Remotes:
        """Those that were found before, if they are the same from first to last."""
        known = self._remotes.get(node)
        if known is None or not known.span[0] <= first <= last < known.span[1]:
            known = self._remotes[node] = _Remotes()
        return known

    def _find_remotes(self, known: _Remotes, peers: list[bytes], wall: Int64Array, node: str) -> list[int]:
        """Look up what is missing; what changes within the batch is looked up row by row, and not kept."""
        first, last = int(wall.min()), int(wall.max())
        for raw in set(peers) - known.numbers.keys():
            end = self._ends.peer(self._addresses[raw], first, node)
            if end.since_ns <= first and last < end.until_ns:
                known.keep(raw, self._others.number(end.json, settled=end.settled), end)
                self._found += 1
        found: list[int] = []
        for raw, at in zip(peers, wall.tolist(), strict=True):
            number = known.numbers.get(raw)
            if number is None:
                end = self._ends.peer(self._addresses[raw], at, node)
                number = self._others.number(end.json, settled=end.settled)
            found.append(number)
        return found

    def _name_nodes(self, peer: Int64Array, batch: MergedBatch, own: Mask) -> None:
        """The kernel saw that it was the own node, by whichever of its addresses: kubelet takes a bridge's."""
        for _, header, span in batch.parts():
            peer[span][own[span]] = self._others.number(self._ends.node(header.node), settled=True)

    def _strangers(self, batch: MergedBatch) -> Mask | None:
        """Rows of local pods that the index does not know; None: none."""
        found: Mask | None = None
        for _, header, span in batch.parts():
            unknown = [int(number) for number, ref in header.endpoints.items() if not self._ends.knows(ref)]
            if unknown:
                found = np.zeros(len(batch.verdicts), bool) if found is None else found
                found[span] = np.isin(batch.verdicts["endpoint"][span], unknown)
        return found

    def _services(self, verdicts: VerdictArray) -> list[str]:
        """The address before the Service's DNAT, where there was one."""
        if not verdicts["dialled"].any():
            return [""] * len(verdicts)
        raw = np.empty(len(verdicts), _DIALLED)
        raw["address"], raw["port"] = verdicts["dialled"], verdicts["dialled_port"]
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


def _peers(verdicts: VerdictArray, sources: Sequence[bytes], destinations: Sequence[bytes]) -> list[bytes]:
    """The address of each row's other end."""
    inward = (verdicts["verdict"] & INGRESS).tolist()
    peers = [s if i else d for s, d, i in zip(sources, destinations, inward, strict=True)]
    aggregated = verdicts["flags"] & AGGREGATED
    if aggregated.any():
        peers = [_NOWHERE if flag else raw for raw, flag in zip(peers, aggregated.tolist(), strict=True)]
    return peers


def _blocks(addresses: np.ndarray[Any, Any]) -> list[bytes]:
    blocks: list[bytes] = np.ascontiguousarray(addresses).view("V16").ravel().tolist()
    return blocks


def _stamps(verdicts: VerdictArray, wall: Int64Array) -> tuple[list[str], list[str]]:
    """RFC 3339 text, without the zone, of the first and the last packet of each row."""
    first = _stamp(wall)
    spans = verdicts["span_ms"]
    if not spans.any():
        return first, first
    return first, _stamp(wall + spans.astype(np.int64) * 1_000_000)


def _stamp(wall: Int64Array) -> list[str]:
    seconds, nanos = np.divmod(wall, _SECOND)
    listed = seconds.tolist()
    texts = {second: second_text(second) for second in set(listed)}
    # The leading 1 keeps the zeros.
    return [texts[second] + str(nano)[1:] for second, nano in zip(listed, (nanos + _SECOND).tolist(), strict=True)]
