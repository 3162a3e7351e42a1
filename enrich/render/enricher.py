"""Renders verdicts as JSON records, thousands at a time.

THEORY OF OPERATION

A node with busy pods sends thousands of verdicts a second, so no dict is built and no JSON encoder is called for a
single verdict. A record is text with gaps, and most of the text recurs:

1. Batches that wait together are merged into one array (:mod:`enrich.render.merged_batch`).
2. The *shape* of a verdict (endpoint, rule, protocol, verdict, reason, flags) selects a *template*: the text of the
   record without addresses, ports, counts and times (:mod:`enrich.render.template`). Pod shop/web-1 that refuses TCP by
   default deny is one template, however many clients knock::

       {"connection":{"src_ip":"~","dest_ip":"~","src_port":~,"dest_port":~,"protocol":"tcp","direction":"ingress"},
       "disposition":"deny","reason":"default_deny","policies":[],"isolated_by":[...],"src":~,"dest":{"pod_name":"web-1",
       ...},"count":~,"timestamp":"~Z","last_timestamp":"~Z","node_name":"n1","cluster":"c1","schema":1,"id":"9f3c-~"~}

3. The *peer*, here the client, is looked up by its address at the packet's time and rendered once
   (:mod:`enrich.render.peer_lookup`).
4. A column of template numbers and a column of peer numbers select the text of each verdict, and one f-string fills the
   gaps: address texts, ports, count, times, and the verdict's number in its ring, which ends the record's id.

Every cache forgets exactly what a change of the index touches (:mod:`enrich.index.changes`), before the next lookup. A
stale name is never right, and filling all caches again at each of a hundred changes a second would cost more than all
rendering. A test compares this enricher with one that keeps nothing, over random histories.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from enrich.index.changes import Follower, Key
from enrich.index.cluster import Cluster
from enrich.index.intervals import FOREVER
from enrich.render.columns import AddressTexts, timestamps
from enrich.render.eviction import KEPT
from enrich.render.flow_columns import FlowColumns
from enrich.render.fragments import DEFAULT_LABELS, EndRenderer, LabelChoice, ProfileNumber
from enrich.render.interning import Int64Array
from enrich.render.merged_batch import MergedBatch, VerdictArray
from enrich.render.peer_lookup import Lookup, PeerLookup
from enrich.render.rings import Rings
from enrich.render.template import shapes_of
from enrich.wire.flow import Dialled, encode

MAX_TEXTS: Final = 100_000
"""Addresses whose text is kept; at more, some are forgotten."""
TEXT_BYTES: Final = 210
MAX_DIALLED: Final = 50_000
"""Dialled addresses that are kept; at more, all are forgotten."""
DIALLED_BYTES: Final = 900
_DIALLED: Final = np.dtype([("address", "u1", (16,)), ("port", "<u2"), ("protocol", "u1")])


@dataclass(frozen=True, slots=True)
class Records:
    """The records of a merged batch, in the order of its verdicts: five sequences of one length."""

    keys: Sequence[bytes]
    """The subject's ``namespace/name``, or the node's name where no pod is known."""
    values: Sequence[bytes]
    """The records as JSON."""
    denied: Sequence[bool]
    """Whether the packets were denied, or would have been without audit mode."""
    times_ms: Sequence[int]
    """The wall clock at the first packet counted, at most now: a broker refuses a record from the future."""
    owners: Sequence[int]
    """The index of the header, in the merged batch, that each record belongs to."""
    columns: FlowColumns | None = None


class Enricher:
    """Renders verdicts by what the index knows. Not thread safe. ``labels`` chooses the pod labels in a record."""

    def __init__(
        self,
        cluster: Cluster,
        labels: Sequence[str] = DEFAULT_LABELS,
        now_ns: Callable[[], int] = time.time_ns,
        profile: ProfileNumber | None = None,
    ) -> None:
        """``profile``: if given, rendered ends have the number of their pod's profile."""
        self._cluster = cluster
        self._ends = EndRenderer(cluster, LabelChoice.of(labels), profile)
        self._now_ns = now_ns
        self._texts = AddressTexts()
        self._peers = PeerLookup(self._ends, self._texts)
        self._changes = cluster.changes.follow()
        self._rings = Rings(self._ends)
        self._dialled: dict[bytes, str] = {}
        self._moved_ns: dict[bytes, int] = {}
        """Of what was dialled, those addresses that had several owners, with since when the text surely holds."""
        self._latest_move_ns = -FOREVER
        self._dialled_by: defaultdict[Key, set[bytes]] = defaultdict(set)
        """What was dialled, by the keys that it was made from."""
        self._dialled_values: dict[str, Dialled] = {}

    def follow(self) -> Follower:
        """Return a follower of the changes after which unsettled verdicts may have names."""
        return self._cluster.changes.follow()

    def awaited(self, batch: MergedBatch, found: Lookup) -> list[tuple[Key, ...]]:
        """Return what each unsettled verdict waits for: keys of changes after which it must be looked up again."""
        return self._peers.awaited(batch, found)

    def lookup(self, batch: MergedBatch, *, is_final: bool = False) -> Lookup:
        """Look up the peers of the verdicts, as far as the index knows them now. ``is_final``: the verdicts do not wait
        for the index any more, so which of them are unsettled is not noted."""
        self._refresh()
        return self._peers.lookup(batch, is_final=is_final)

    def mark_ambiguous(self, batch: MergedBatch, found: Lookup, until_ns: int) -> None:
        """Withdraw the names of peers in verdicts later than ``until_ns``: the index is not synced up to their time,
        so their pods may have disappeared already. ``found``, the latest lookup of this enricher or a part of it, is
        changed in place. The own node keeps its name: the kernel saw it."""
        self._peers.mark_ambiguous(batch, found, until_ns)

    def records(self, batch: MergedBatch, lookup_result: Lookup | None = None) -> Records:
        """Render one record for each verdict. ``lookup_result``: the lookup of the same verdicts, made just now.

        Never raises for batches that :func:`enrich.wire.batch.decode_batch` accepted."""
        verdicts = batch.verdicts
        if not len(verdicts):
            return Records([], [], [], [], [])
        if lookup_result is None:
            lookup_result = self.lookup(batch, is_final=True)
        template = self._template_numbers(batch)
        templates = self._rings.templates
        # The same as np.clip, which costs more than all other arithmetic of a small batch.
        times = np.minimum(np.maximum(batch.node_wall, 0), self._now_ns()) // 1_000_000
        dialled = self._services(verdicts, batch.wall)
        values = [
            f"{h}{a}{peer}{b}{count}{c}{first}{d}{last}{e}{number}{f}{service}}}".encode()
            for h, (a, b, c, d, e, f), peer, count, first, last, number, service in zip(
                self._heads(verdicts, template, lookup_result),
                templates.tails.of(template),
                lookup_result.peers.json.of(lookup_result.peer),
                verdicts["count"].tolist(),
                *timestamps(verdicts, batch.node_wall),
                batch.numbers.tolist(),
                dialled,
                strict=True,
            )
        ]
        columns = FlowColumns(
            batch, templates, template, lookup_result.peers, lookup_result.peer, dialled, self._dialled_values
        )
        keys, denied = templates.keys.of(template), templates.denied.of(template)
        return Records(keys, values, denied, times.tolist(), batch.owner.tolist(), columns)

    def _refresh(self) -> None:
        """Forget what the index has changed since the last call, or everything if that may be everything; then a part
        of each cache that has grown too large."""
        keys = self._changes.take()
        if keys is None:
            self._rings.clear()
            self._forget_dialled()
            self._peers.clear()
            self._ends.clear()
            return
        before = self._ends.bytes
        pods = self._ends.forget(keys) | self._ends.evict()
        if keys or pods:
            unkept = before - self._ends.bytes
            self._rings.forget(pods, unkept)
            self._peers.forget(keys, pods, unkept)
            for key in keys:
                for dialled in self._dialled_by.pop(key, ()):
                    self._dialled.pop(dialled, None)
                    self._moved_ns.pop(dialled, None)
        self._rings.evict()
        self._peers.evict()
        if len(self._texts) > MAX_TEXTS:
            self._texts.evict(len(self._texts) - int(KEPT * MAX_TEXTS))

    def _template_numbers(self, batch: MergedBatch) -> Int64Array:
        """Return the number of each verdict's template."""
        shapes = shapes_of(batch.verdicts)
        found: list[int] = []
        for _, header, span in batch.parts():
            ring = self._rings.ring(header)
            found += ring.templates(shapes[span])
            earliest = int(batch.wall[span].min())
            for endpoint, since in self._ends.changed_endpoints(header, earliest).items():
                former = (batch.verdicts["endpoint"][span] == endpoint) & (batch.wall[span] < since)
                for place in (np.flatnonzero(former) + span.start).tolist():
                    found[place] = ring.template_at(shapes[place], int(batch.wall[place]))
        return np.array(found, np.int64)

    def _heads(self, verdicts: VerdictArray, template: Int64Array, lookup_result: Lookup) -> list[str]:
        """Render the head of each record: its connection."""
        columns = (
            list(map(self._texts.__getitem__, lookup_result.sources)),
            list(map(self._texts.__getitem__, lookup_result.destinations)),
            verdicts["source_port"].tolist(), verdicts["destination_port"].tolist(),
        )  # fmt: skip
        if all(self._rings.templates.plain.of(template)) and "" not in columns[0] and "" not in columns[1]:
            heads = self._rings.templates.heads.of(template)
            return [
                f"{o}{source}{p}{destination}{q}{a}{r}{b}{s}"
                for (o, p, q, r, s), source, destination, a, b in zip(heads, *columns, strict=True)
            ]
        return [
            shared.filled(source, destination, a, b)
            for shared, source, destination, a, b in zip(self._rings.templates.of(template), *columns, strict=True)
        ]

    def _services(self, verdicts: VerdictArray, wall: Int64Array) -> list[str]:
        """Render the member ``dialled`` of each record: the address before the Service's DNAT, where there was one."""
        if not verdicts["dialled"].any():
            return [""] * len(verdicts)
        raw = np.empty(len(verdicts), _DIALLED)
        raw["address"], raw["port"], raw["protocol"] = (
            verdicts["dialled"], verdicts["dialled_port"], verdicts["protocol"]
        )  # fmt: skip
        dialled = raw.view(f"V{_DIALLED.itemsize}").tolist()
        found = list(map(self._dialled.get, dialled))
        # Addresses move all the time somewhere, and verdicts are seldom older than the last move.
        if None not in found and int(wall.min()) >= self._latest_move_ns:
            return found  # type: ignore[return-value]  # None was ruled out
        if max(len(self._dialled), len(self._dialled_values)) > MAX_DIALLED:
            self._forget_dialled()
        for one in {one for one in dialled if one not in self._dialled}:
            self._dialled[one], since, _ = self._dialled_at(one, FOREVER - 1)
            for key in self._dialled_keys(one):
                self._dialled_by[key].add(one)
            if since > -FOREVER:
                self._moved_ns[one] = since
                self._latest_move_ns = max(self._latest_move_ns, since)
        texts = [self._dialled[one] for one in dialled]
        if int(wall.min()) < self._latest_move_ns:
            for place, (one, at_ns) in enumerate(zip(dialled, wall.tolist(), strict=True)):
                if at_ns < self._moved_ns.get(one, -FOREVER):
                    texts[place] = self._dialled_at(one, at_ns)[0]
        return texts

    def _dialled_at(self, dialled: bytes, at_ns: int) -> tuple[str, int, int]:
        """Render what was dialled at a moment, with since and until when it is the same."""
        address, port, protocol = self._texts[dialled[:16]], int.from_bytes(dialled[16:18], "little"), dialled[18]
        value, since, until = self._ends.dialled(address, protocol, port, at_ns)
        if value is None:
            return "", since, until
        text = f',"dialled":{encode(value)}'
        self._dialled_values[text] = value
        return text, since, until

    def _dialled_keys(self, dialled: bytes) -> tuple[Key, Key]:
        """Return the keys of what was dialled: its address, and its protocol and port, by which it may be a node's."""
        port = dialled[18], int.from_bytes(dialled[16:18], "little")
        return Key("address", self._texts[dialled[:16]]), Key("node_port", port)

    def _forget_dialled(self) -> None:
        # Columns that were handed out keep their own values.
        self._dialled, self._dialled_values, self._moved_ns, self._latest_move_ns = {}, {}, {}, -FOREVER
        self._dialled_by.clear()
