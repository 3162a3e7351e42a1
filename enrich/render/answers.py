"""Peers by node and address, each for the span of time in which the answer holds.

An answer is a number: its place in some arrays, so that a whole column of answers is checked and turned into peers at
once. Answers are found by the address and by the pods that they were made from, and are forgotten when one of these
changes. A place that was forgotten is used again by the same node's next answer about the address.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Final

import numpy as np

from enrich.render.fragments import RenderedPeer
from enrich.render.interning import Int64Array
from enrich.render.merged_batch import Mask

_NEVER: Final = -(1 << 63)
_FIRST_PLACES: Final = 1024

Places = dict[bytes, int]
"""The place of the answer about each address."""
View = tuple[str, bool]
"""The node whose clock measured the verdicts, empty if it was corrected; and whether they are from a time of which the
index may not know all."""


class Answers:
    """Answers by place."""

    def __init__(self) -> None:
        self._by_view: dict[View, Places] = {}
        self._columns = np.zeros((3, _FIRST_PLACES), np.int64)
        """Number of the peer, since when, until when (not included)."""
        self._count = 0
        self._by_address: defaultdict[str, list[int]] = defaultdict(list)
        self._by_pod: defaultdict[str, set[int]] = defaultdict(set)
        self._pods: list[tuple[str, ...]] = []
        self._nobody: set[int] = set()
        """The answers that name no pod."""

    def __len__(self) -> int:
        return self._count

    def seen_by(self, view: View) -> Places:
        """Return the places of the answers of a view."""
        places = self._by_view.get(view)
        if places is None:
            places = self._by_view[view] = {}
        return places

    def set(self, places: Places, raw: bytes, text: str, number: int, peer: RenderedPeer) -> None:
        """Keep an answer about an address, given as bytes and as text, in place of an earlier one."""
        place = places.get(raw)
        if place is None:
            place = places[raw] = self._add()
            self._by_address[text].append(place)
        else:
            self._detach(place)
        self._columns[:, place] = number, peer.since_ns, peer.until_ns
        self._pods[place] = peer.pods
        for uid in peer.pods:
            self._by_pod[uid].add(place)
        if not peer.pods:
            self._nobody.add(place)

    def at(self, places: Int64Array, wall: Int64Array) -> tuple[Int64Array, Mask]:
        """Return the number of the peer at each place, and which of the answers do not hold at the given times."""
        numbers, since, until = self._columns[:, places]
        return numbers, (wall < since) | (wall >= until)

    def forget(self, text: str) -> None:
        """Forget every answer about an address."""
        for place in self._by_address.get(text, ()):
            self._expire(place)

    def forget_pod(self, uid: str) -> None:
        """Forget every answer that was made from a pod."""
        for place in tuple(self._by_pod.get(uid, ())):
            self._expire(place)

    def forget_nobodies(self) -> None:
        """Forget every answer that names no pod."""
        for place in tuple(self._nobody):
            self._expire(place)

    def _add(self) -> int:
        place = self._count
        if place == self._columns.shape[1]:
            self._columns = np.concatenate([self._columns, np.zeros_like(self._columns)], axis=1)
        self._pods.append(())
        self._count = place + 1
        return place

    def _expire(self, place: int) -> None:
        self._detach(place)
        self._columns[1:, place] = _NEVER

    def _detach(self, place: int) -> None:
        for uid in self._pods[place]:
            self._by_pod[uid].discard(place)
            if not self._by_pod[uid]:
                del self._by_pod[uid]
        self._pods[place] = ()
        self._nobody.discard(place)
