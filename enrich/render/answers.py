"""Peers by node and address, each for the span of time in which the answer holds.

An answer is a number: its place in some arrays, so that a whole column of answers is checked and turned into peers at
once. Answers are found by the address and by the pods that they were made from, and are forgotten when one of these
changes. A place that was forgotten is used again by the same node's next answer about the address, and one that was
evicted by any answer.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Final

import numpy as np

from enrich.render.eviction import Mask, victims
from enrich.render.fragments import RenderedPeer
from enrich.render.interning import Int64Array

_NEVER: Final = -(1 << 63)
_FIRST_PLACES: Final = 1024

Places = dict[bytes, int]
"""The place of the answer about each address."""
_NOTHING: Final[tuple[Places, bytes, str]] = ({}, b"", "")
View = tuple[str, bool]
"""The node whose clock measured the verdicts, empty if it was corrected; and whether they are from a time of which the
index may not know all."""


class Answers:
    """Answers by place."""

    def __init__(self) -> None:
        self._by_view: dict[View, Places] = {}
        self._columns = np.zeros((3, _FIRST_PLACES), np.int64)
        """Number of the peer, since when, until when (not included)."""
        self._used = np.zeros(_FIRST_PLACES, bool)
        """Whether each answer was used since the last eviction."""
        self._count = 0
        self._free: list[int] = []
        """Places of evicted answers."""
        self._about: list[tuple[Places, bytes, str]] = []
        """What each answer is about: its view's places, and the address as bytes and as text."""
        self._by_address: defaultdict[str, list[int]] = defaultdict(list)
        self._by_pod: defaultdict[str, set[int]] = defaultdict(set)
        self._pods: list[tuple[str, ...]] = []
        self._nobody: set[int] = set()
        """The answers that name no pod."""

    def __len__(self) -> int:
        return self._count - len(self._free)

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
            place = places[raw] = self._add((places, raw, text))
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
        self._used[places] = True
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

    def evict(self, count: int) -> None:
        """Evict some answers."""
        present = np.ones(self._count, bool)
        present[self._free] = False
        places = np.flatnonzero(present)
        self._evict(places[victims(self._used[places], count)].tolist())

    def peers(self) -> Int64Array:
        """Return the numbers of the peers in all answers that have not been forgotten."""
        held: Int64Array = np.unique(self._columns[0, : self._count][self._held()])
        return held

    def used_peers(self) -> Int64Array:
        """Return those of :meth:`peers` in answers that were used since the last eviction."""
        used: Int64Array = np.unique(self._columns[0, : self._count][self._held() & self._used[: self._count]])
        return used

    def renumber(self, numbers: Int64Array) -> None:
        """Replace the number of each peer by another. Answers whose peer gets a negative number are evicted."""
        held = self._held()
        renumbered = np.where(held, numbers[np.where(held, self._columns[0, : self._count], 0)], 0)
        self._columns[0, : self._count] = renumbered
        if (renumbered < 0).any():
            self._evict(np.flatnonzero(renumbered < 0).tolist())

    def _evict(self, places: list[int]) -> None:
        for place in places:
            self._expire(place)
            of_view, raw, _ = self._about[place]
            del of_view[raw]
        evicted = set(places)
        for text in {self._about[place][2] for place in places}:
            left = [place for place in self._by_address[text] if place not in evicted]
            if left:
                self._by_address[text] = left
            else:
                del self._by_address[text]
        for place in places:
            self._about[place] = _NOTHING
        self._free += places
        self._used[:] = False
        for view in [view for view, of_view in self._by_view.items() if not of_view]:
            del self._by_view[view]

    def _held(self) -> Mask:
        """Return which places have an answer that has not been forgotten."""
        held: Mask = self._columns[2, : self._count] != _NEVER
        return held

    def _add(self, about: tuple[Places, bytes, str]) -> int:
        if self._free:
            place = self._free.pop()
            self._about[place] = about
            return place
        place = self._count
        if place == self._columns.shape[1]:
            self._columns = np.concatenate([self._columns, np.zeros_like(self._columns)], axis=1)
            self._used = np.concatenate([self._used, np.zeros_like(self._used)])
        self._pods.append(())
        self._about.append(about)
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
