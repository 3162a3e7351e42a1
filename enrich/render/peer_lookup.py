"""Looks up who the peers of verdicts were, and keeps the answers as long as they hold.

A peer is the other end of a verdict: not the pod whose interface the packet passed, but the address that it talked to.
An answer depends on the address, on the time of the packet, and on the node whose clock measured it. Most addresses
belong to one pod for long, so an answer is kept for each address and node with the span of time in which it is the
same (:mod:`enrich.render.answers`). A verdict costs one dictionary lookup, and a few operations on arrays with all
others of its batch. An answer is forgotten when the index changes what it was made from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Final

import numpy as np

from enrich.index.changes import ANYBODY, Key
from enrich.render.answers import Answers, View
from enrich.render.columns import NO_ADDRESS, AddressTexts, raw_addresses
from enrich.render.eviction import KEPT, victims
from enrich.render.fragments import EndRenderer, RenderedEnd, node_part
from enrich.render.interning import Int64Array, InternTable
from enrich.render.merged_batch import Mask, MergedBatch, VerdictArray, clock_of
from enrich.wire.batch import AGGREGATED, INGRESS, UNNAMED, Reason

MAX_ANSWERS: Final = 200_000
"""Answers in memory; at more, a part is evicted."""
ANSWER_BYTES: Final = 480
"""What an answer takes, about: measured, and rounded up."""
MAX_PEER_BYTES: Final = 80 << 20
"""Bytes of distinct peers in memory, beside ends that are among the rendered pods; at more, a part is evicted."""
_PEER_BYTES: Final = 220
"""What a peer takes beside its end, about."""


@dataclass(frozen=True, slots=True)
class Lookup:
    """The peers of a merged batch, one entry for each verdict."""

    peers: PeerTable
    peer: Int64Array
    """The number of each verdict's peer in ``peers``."""
    unsettled: Mask | None
    """Verdicts whose ends the index may be able to name, or to name better, in a moment; None if there are none."""
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


class PeerTable(InternTable[RenderedEnd]):
    """Peers, each with its JSON and whether it is settled."""

    def __init__(self, is_kept: Callable[[RenderedEnd], bool] = lambda _: False) -> None:
        """``is_kept``: whether an end is among the rendered pods, where its memory counts."""
        super().__init__()
        self.bytes = 0
        """About how much memory the peers take."""
        self._is_kept = is_kept
        self.json: InternTable[str] = InternTable()
        self._numbers: dict[tuple[str, str, bool], int] = {}
        self._unsettled: InternTable[bool] = InternTable()
        self._any_unsettled = False

    def number(self, peer: RenderedEnd, *, settled: bool) -> int:
        """Return the number of a peer, which is added if it is new."""
        # A label that no record has may change the profile alone.
        key = (peer.json, peer.profile, settled)
        number = self._numbers.get(key)
        if number is None:
            number = self._numbers[key] = self.add(peer)
            self.json.add(peer.json)
            self.bytes += _PEER_BYTES + (0 if self._is_kept(peer) else peer.cost)
            self._unsettled.add(not settled)
            self._any_unsettled = self._any_unsettled or not settled
        return number

    def part(self, numbers: Int64Array) -> tuple[PeerTable, Int64Array]:
        """Return a table of only these peers, and the number there of each peer of this table, or -1."""
        made, renumbered = PeerTable(self._is_kept), np.full(len(self) + 1, -1)
        peers, unsettled = self.of(numbers), self._unsettled.of(numbers)
        renumbered[numbers] = [made.number(peer, settled=not u) for peer, u in zip(peers, unsettled, strict=True)]
        return made, renumbered

    def unsettled(self, numbers: Int64Array) -> Mask | None:
        """Return which of the peers the index may name better soon; None if there are none."""
        return np.array(self._unsettled.of(numbers), bool) if self._any_unsettled else None


class PeerLookup:
    """Looks up peers in the index. Not thread safe. :meth:`forget` must follow each change of the index."""

    def __init__(self, ends: EndRenderer, texts: AddressTexts) -> None:
        self._ends = ends
        self._texts = texts
        self._answers = Answers()
        self._peers = PeerTable(ends.is_kept)

    def clear(self) -> None:
        """Forget every answer. Lookups that were handed out stay valid: they keep their own table."""
        self._answers = Answers()
        self._peers = PeerTable(self._ends.is_kept)

    def evict(self) -> None:
        """Forget some answers if there are too many, or if their distinct peers take too much memory.

        Lookups that were handed out stay valid: they keep their own table."""
        if len(self._answers) > MAX_ANSWERS:
            self._answers.evict(len(self._answers) - int(KEPT * MAX_ANSWERS))
        if self._peers.bytes <= MAX_PEER_BYTES:
            return
        self._keep(self._answers.peers())  # the peers of forgotten answers go
        while self._peers.bytes > KEPT * MAX_PEER_BYTES:
            used = np.zeros(len(self._peers), bool)
            used[self._answers.used_peers()] = True
            share = 1 - KEPT * MAX_PEER_BYTES / self._peers.bytes
            kept = np.ones(len(self._peers), bool)
            kept[victims(used, 1 + int(share * len(self._peers)))] = False
            self._keep(np.flatnonzero(kept))

    def _keep(self, numbers: Int64Array) -> None:
        """Keep only some of the peers, and their answers."""
        self._peers, renumbered = self._peers.part(numbers)
        self._answers.renumber(renumbered)

    def forget(self, keys: Iterable[Key], pods: Iterable[str], unkept_bytes: int = 0) -> None:
        """Forget the answers that were made from some keys or from some pods, by UID. ``unkept_bytes``: what ends take
        that are not among the rendered pods any more."""
        self._peers.bytes += unkept_bytes  # some may be peers until these are renumbered
        for key in keys:
            if key.kind == "address":
                self._answers.forget(str(key.name))
            elif key == ANYBODY:
                self._answers.forget_nobodies()
            elif key.kind == "node":
                self._answers.forget_pod(node_part(str(key.name)))
        for uid in pods:
            self._answers.forget_pod(uid)

    def lookup(self, batch: MergedBatch, *, is_final: bool = False) -> Lookup:
        """See :meth:`enrich.render.enricher.Enricher.lookup`."""
        sources, destinations = raw_addresses(batch.verdicts["source"]), raw_addresses(batch.verdicts["destination"])
        addresses = _peer_addresses(batch.verdicts, sources, destinations)
        peer = self._numbers(batch, addresses)
        own = batch.verdicts["reason"] == Reason.NODE
        if own.any():
            self._name_own_nodes(peer, batch, own)
        for place in np.flatnonzero(batch.verdicts["flags"] & UNNAMED).tolist():
            peer[place] = self._peers.number(self._ends.unnamed(self._texts[addresses[place]]), settled=True)
        if is_final:
            return Lookup(self._peers, peer, None, sources, destinations)
        unsettled = self._peers.unsettled(peer)
        unknown = self._unknown_subjects(batch)
        if unknown is not None:
            unsettled = unknown if unsettled is None else unsettled | unknown
        if unsettled is not None and not unsettled.any():
            unsettled = None
        return Lookup(self._peers, peer, unsettled, sources, destinations)

    def awaited(self, batch: MergedBatch, found: Lookup) -> list[tuple[Key, ...]]:
        """See :meth:`enrich.render.enricher.Enricher.awaited`."""
        if found.unsettled is None:
            return []
        places = np.flatnonzero(found.unsettled)
        endpoints = batch.verdicts["endpoint"][places].tolist()
        owners = batch.owner[places].tolist()
        keys: list[tuple[Key, ...]] = []
        for raw, endpoint, owner in zip(_addresses_at(places, batch, found), endpoints, owners, strict=True):
            address, ref = Key("address", self._texts[raw]), batch.headers[owner].endpoints.get(str(endpoint))
            keys.append((address,) if ref is None else (address, Key("pod", ref.uid)))
        return keys

    def mark_ambiguous(self, batch: MergedBatch, found: Lookup, until_ns: int) -> None:
        """See :meth:`enrich.render.enricher.Enricher.mark_ambiguous`."""
        late = batch.wall > until_ns
        if late.any():
            late &= batch.verdicts["reason"] != Reason.NODE
            places = np.flatnonzero(late)
            for place, raw in zip(places.tolist(), _addresses_at(places, batch, found), strict=True):
                text, at = self._texts[raw], int(batch.wall[place])
                node = clock_of(batch.headers[batch.owner[place]])
                peer = self._ends.in_doubt(text, at, node, found.peers[found.peer[place]])
                found.peer[place] = self._peers.number(peer, settled=True)

    def _numbers(self, batch: MergedBatch, addresses: list[bytes]) -> Int64Array:
        """Return the number of each verdict's peer at the verdict's time."""
        # What is said of a time that the index may not know all pods of is not to be said of a later time.
        old = batch.wall < self._ends.complete_since_ns()
        places = self._places(batch, addresses, old)
        numbers, stale = self._answers.at(places, batch.wall)
        if not stale.any():
            return numbers
        nodes = [clock_of(header) for header in batch.headers]

        def of(place: int) -> View:
            return nodes[batch.owner[place]], bool(old[place])

        # The last verdict about each address has the answer that later verdicts will need.
        for place in {places[place]: place for place in np.flatnonzero(stale).tolist()}.values():
            self._answer(of(place), addresses[place], int(batch.wall[place]))
        numbers, stale = self._answers.at(places, batch.wall)
        for place in np.flatnonzero(stale).tolist():
            node, at = of(place)[0], int(batch.wall[place])
            peer = self._ends.peer(self._texts[addresses[place]], at, node)
            numbers[place] = self._peers.number(peer.end, settled=peer.settled)
        return numbers

    def _places(self, batch: MergedBatch, addresses: list[bytes], old: Mask) -> Int64Array:
        """Return the place of the answer about each verdict's peer, which may not hold at the verdict's time."""
        any_old = bool(old.any())
        places: list[int] = []
        for _, header, span in batch.parts():
            if any_old and old[span].any() and not old[span].all():
                for place in range(span.start, span.stop):
                    one = slice(place, place + 1)
                    view = clock_of(header), bool(old[place])
                    places += self._places_of(view, addresses[one], batch.wall[one])
            else:
                is_old = any_old and bool(old[span.start])
                places += self._places_of((clock_of(header), is_old), addresses[span], batch.wall[span])
        return np.array(places, np.int64)

    def _places_of(self, view: View, addresses: list[bytes], wall: Int64Array) -> list[int]:
        places = self._answers.seen_by(view)
        found = list(map(places.get, addresses))
        if None in found:
            missing = {raw: at for raw, at in zip(addresses, wall.tolist(), strict=True) if raw not in places}
            for raw, at in missing.items():
                self._answer(view, raw, at)
            return [places[raw] for raw in addresses]
        return found  # type: ignore[return-value]  # None was ruled out

    def _answer(self, view: View, raw: bytes, at_ns: int) -> None:
        """Look up an address, and keep the answer."""
        text = self._texts[raw]
        peer = self._ends.peer(text, at_ns, view[0])
        number = self._peers.number(peer.end, settled=peer.settled)
        self._answers.set(self._answers.seen_by(view), raw, text, number, peer)

    def _name_own_nodes(self, peer: Int64Array, batch: MergedBatch, own: Mask) -> None:
        """Name the node itself as the peer: the kernel recognized it, whichever of its addresses was used.

        A kubelet probes its pods from the address of a bridge, which the API does not list among the node's."""
        for _, header, span in batch.parts():
            peer[span][own[span]] = self._peers.number(self._ends.node(header.node), settled=True)

    def _unknown_subjects(self, batch: MergedBatch) -> Mask | None:
        """Return which verdicts belong to local pods that the index does not know; None if none does."""
        found: Mask | None = None
        for _, header, span in batch.parts():
            unknown = self._ends.unknown(header.endpoints)
            if unknown:
                found = np.zeros(len(batch.verdicts), bool) if found is None else found
                found[span] = np.isin(batch.verdicts["endpoint"][span], unknown)
        return found


def _addresses_at(places: Int64Array, batch: MergedBatch, found: Lookup) -> list[bytes]:
    """Return the addresses of some verdicts' peers, which are few beside all."""
    chosen = places.tolist()
    sources, destinations = [found.sources[at] for at in chosen], [found.destinations[at] for at in chosen]
    return _peer_addresses(batch.verdicts[places], sources, destinations)


def _peer_addresses(verdicts: VerdictArray, sources: Sequence[bytes], destinations: Sequence[bytes]) -> list[bytes]:
    """Return the address of each verdict's peer: the source of ingress, the destination of egress."""
    inward = (verdicts["verdict"] & INGRESS).tolist()
    addresses = [s if i else d for s, d, i in zip(sources, destinations, inward, strict=True)]
    aggregated = verdicts["flags"] & AGGREGATED
    if aggregated.any():
        addresses = [NO_ADDRESS if flag else raw for raw, flag in zip(addresses, aggregated.tolist(), strict=True)]
    return addresses
