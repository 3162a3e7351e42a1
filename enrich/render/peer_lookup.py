"""Looks up who the peers of verdicts were, and keeps the answers as long as they hold.

A peer is the other end of a verdict: not the pod whose interface the packet passed, but the address that it talked to.
An answer depends on the address, on the time of the packet, and on the node whose clock measured it. Most addresses
belong to one pod for long, so a node's answers are kept together with the span of time in which all of them stay the
same. A batch that lies within the span costs one dictionary lookup for each verdict.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Final

import numpy as np

from enrich.render.columns import NO_ADDRESS, AddressTexts, raw_addresses
from enrich.render.fragments import EndRenderer, RenderedEnd, RenderedPeer
from enrich.render.interning import Int64Array, InternTable
from enrich.render.merged_batch import Mask, MergedBatch, VerdictArray
from enrich.wire.batch import AGGREGATED, INGRESS, UNNAMED, Reason

_ALWAYS: Final = (-(1 << 63), 1 << 63)
_MAX_ANSWERS: Final = 200_000
"""Answers in memory; at more, all are evicted."""


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

    def __init__(self) -> None:
        super().__init__()
        self.json: InternTable[str] = InternTable()
        self._numbers: dict[tuple[str, bool], int] = {}
        self._unsettled: InternTable[bool] = InternTable()
        self._any_unsettled = False

    def number(self, peer: RenderedEnd, *, settled: bool) -> int:
        """Return the number of a peer, which is added if it is new."""
        number = self._numbers.get((peer.json, settled))
        if number is None:
            number = self._numbers[peer.json, settled] = self.add(peer)
            self.json.add(peer.json)
            self._unsettled.add(not settled)
            self._any_unsettled = self._any_unsettled or not settled
        return number

    def unsettled(self, numbers: Int64Array) -> Mask | None:
        """Return which of the peers the index may name better soon; None if there are none."""
        return np.array(self._unsettled.of(numbers), bool) if self._any_unsettled else None


class _NodeAnswers:
    """The peers by address as one node's clock sees them; all of them are the same throughout ``span``."""

    def __init__(self) -> None:
        self.numbers: dict[bytes, int] = {}
        self.span = _ALWAYS

    def add(self, raw: bytes, number: int, peer: RenderedPeer) -> None:
        """Keep an answer; the span shrinks to the time in which this one is the same, too."""
        self.numbers[raw] = number
        self.span = max(self.span[0], peer.since_ns), min(self.span[1], peer.until_ns)


class PeerLookup:
    """Looks up peers in the index. Not thread safe. :meth:`clear` must follow each change of the index."""

    def __init__(self, ends: EndRenderer, texts: AddressTexts) -> None:
        self._ends = ends
        self._texts = texts
        self._by_node: dict[str, _NodeAnswers] = {}
        self._peers = PeerTable()
        self._answers = 0

    def is_full(self) -> bool:
        """Whether more distinct peers are in memory than should be."""
        return len(self._peers) > _MAX_ANSWERS

    def clear(self) -> None:
        """Forget every answer. Lookups that were handed out stay valid: they keep their own table."""
        self._by_node.clear()
        self._peers = PeerTable()
        self._answers = 0

    def lookup(self, batch: MergedBatch) -> Lookup:
        """Look up the peer of each verdict as the index knows it now."""
        sources, destinations = raw_addresses(batch.verdicts["source"]), raw_addresses(batch.verdicts["destination"])
        addresses = _peer_addresses(batch.verdicts, sources, destinations)
        peer = np.array(self._numbers(batch, addresses), np.int64)
        own = batch.verdicts["reason"] == Reason.NODE
        if own.any():
            self._name_own_nodes(peer, batch, own)
        for place in np.flatnonzero(batch.verdicts["flags"] & UNNAMED).tolist():
            peer[place] = self._peers.number(self._ends.unnamed(self._texts[addresses[place]]), settled=True)
        unsettled = self._peers.unsettled(peer)
        unknown = self._unknown_subjects(batch)
        if unknown is not None:
            unsettled = unknown if unsettled is None else unsettled | unknown
        if unsettled is not None and not unsettled.any():
            unsettled = None
        return Lookup(self._peers, peer, unsettled, sources, destinations)

    def mark_ambiguous(self, batch: MergedBatch, found: Lookup, until_ns: int) -> None:
        """See :meth:`enrich.render.enricher.Enricher.mark_ambiguous`."""
        late = batch.wall > until_ns
        if late.any():
            addresses = _peer_addresses(batch.verdicts, found.sources, found.destinations)
            late &= batch.verdicts["reason"] != Reason.NODE
            for place in np.flatnonzero(late).tolist():
                peer = self._ends.in_doubt(self._texts[addresses[place]], found.peers[found.peer[place]])
                found.peer[place] = self._peers.number(peer, settled=True)

    def _numbers(self, batch: MergedBatch, addresses: list[bytes]) -> list[int]:
        """Return the number of each verdict's peer at the verdict's time."""
        if self._answers > _MAX_ANSWERS:
            self.clear()
        numbers: list[int] = []
        for _, header, span in batch.parts():
            numbers += self._numbers_of_node(header.node, addresses[span], batch.wall[span])
        return numbers

    def _numbers_of_node(self, node: str, addresses: list[bytes], wall: Int64Array) -> list[int]:
        first, last = int(wall.min()), int(wall.max())
        answers = self._by_node.get(node)
        if answers is None or not answers.span[0] <= first <= last < answers.span[1]:
            answers = self._by_node[node] = _NodeAnswers()
        numbers = list(map(answers.numbers.get, addresses))
        if None in numbers:
            return self._find(answers, addresses, wall, node)
        return numbers  # type: ignore[return-value]  # None was ruled out

    def _find(self, answers: _NodeAnswers, addresses: list[bytes], wall: Int64Array, node: str) -> list[int]:
        """Look up what is missing. A peer that changes within the batch is looked up for each verdict and not kept."""
        first, last = int(wall.min()), int(wall.max())
        for raw in set(addresses) - answers.numbers.keys():
            peer = self._ends.peer(self._texts[raw], first, node)
            if peer.since_ns <= first and last < peer.until_ns:
                answers.add(raw, self._peers.number(peer.end, settled=peer.settled), peer)
                self._answers += 1
        numbers: list[int] = []
        for raw, at in zip(addresses, wall.tolist(), strict=True):
            number = answers.numbers.get(raw)
            if number is None:
                peer = self._ends.peer(self._texts[raw], at, node)
                number = self._peers.number(peer.end, settled=peer.settled)
            numbers.append(number)
        return numbers

    def _name_own_nodes(self, peer: Int64Array, batch: MergedBatch, own: Mask) -> None:
        """Name the node itself as the peer: the kernel recognized it, whichever of its addresses was used.

        A kubelet probes its pods from the address of a bridge, which the API does not list among the node's."""
        for _, header, span in batch.parts():
            peer[span][own[span]] = self._peers.number(self._ends.node(header.node), settled=True)

    def _unknown_subjects(self, batch: MergedBatch) -> Mask | None:
        """Return which verdicts belong to local pods that the index does not know; None if none does."""
        found: Mask | None = None
        for _, header, span in batch.parts():
            unknown = [int(number) for number, ref in header.endpoints.items() if not self._ends.knows(ref)]
            if unknown:
                found = np.zeros(len(batch.verdicts), bool) if found is None else found
                found[span] = np.isin(batch.verdicts["endpoint"][span], unknown)
        return found


def _peer_addresses(verdicts: VerdictArray, sources: Sequence[bytes], destinations: Sequence[bytes]) -> list[bytes]:
    """Return the address of each verdict's peer: the source of ingress, the destination of egress."""
    inward = (verdicts["verdict"] & INGRESS).tolist()
    addresses = [s if i else d for s, d, i in zip(sources, destinations, inward, strict=True)]
    aggregated = verdicts["flags"] & AGGREGATED
    if aggregated.any():
        addresses = [NO_ADDRESS if flag else raw for raw, flag in zip(addresses, aggregated.tolist(), strict=True)]
    return addresses
