"""What the map asks of the past: the pairs of a window, of which the viewer may see an end, added up.

The pairs are read as `weir recommend` reads them (:mod:`streams.cli.pairs_reading`), in bounded time and memory. What
the viewer may not see is never added: neither its names nor its counts are in the answer.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Final

import msgspec

from enrich.history.pair_hours import TooManyPairsError
from enrich.wire.pair import Pair
from streams.cli.advice_window import CannotSayError, Window, window_of_names
from streams.cli.pairs_reading import Limits
from streams.kafka.connection import Connection, NoTopicError
from streams.observing import observe
from streams.settings import Settings
from streams.web.past import TIMEOUT_S, decided
from streams.web.query import QueryError
from streams.web.traffic import Edge, Place, TooWideError, Traffic, steps_of
from streams.web.viewers import Viewer, sees_ends

_MAX_BYTES: Final = 96 << 20
_MAX_DECODED: Final = 60_000
"""How many bytes of pairs, and how many decoded ones, a map may keep in memory while it reads."""
_HOUR_S: Final = 3600


class TrafficMap(msgspec.Struct, frozen=True, kw_only=True):
    """A map."""

    begins_s: int
    """When the first step begins, in seconds since the epoch."""
    step_s: int
    steps: int
    places: list[Place]
    edges: list[Edge]
    notes: list[str]
    """What a person must know about it."""
    empty: str = ""
    """Why it has nothing to show, if it is known."""


class MapQuestion:
    """Asks Kafka about pairs."""

    def __init__(self, settings: Settings, connection: Callable[[], Connection]) -> None:
        self._settings, self._connection = settings, connection

    def ask(self, window: observe.Window, viewer: Viewer) -> TrafficMap:
        """Return the map of a window. Raises ReadError, UndecidedError, QueryError."""
        check = partial(_check_time, time.monotonic() + TIMEOUT_S)
        span = observe.unix_ns(window.since), observe.unix_ns(window.until or datetime.now(UTC))
        steps = steps_of(*span)
        traffic, empty = Traffic(steps), ""
        notes: list[str] = []
        limits = Limits(check, _MAX_BYTES, _MAX_DECODED)
        cluster = viewer.cluster or self._settings.cluster
        try:
            opened = window_of_names(self._connection(), self._settings.topics, span, cluster, limits)
            _read(opened, traffic, _Visible(viewer), check)
            notes = opened.notes
        except (NoTopicError, CannotSayError) as error:
            empty = str(error)
        except (TooManyPairsError, TooWideError) as error:
            raise QueryError("since", f"{error}: choose a shorter time, or weir sql") from error
        if traffic.is_coarse:
            notes.append(
                "there are too many connections for one map: each namespace stands for its workloads, and all networks "
                "outside the cluster are shown as one, as all nodes are"
            )
        elif traffic.has_other_networks:
            notes.append("the networks outside the cluster are many: some are shown as one")
        places, edges = traffic.places_and_edges()
        return TrafficMap(
            begins_s=steps.begins_hour * _HOUR_S, step_s=steps.hours * _HOUR_S, steps=steps.number,
            places=places, edges=edges, notes=notes, empty=empty,
        )  # fmt: skip


def _check_time(deadline: float) -> None:
    """Raise QueryError when the time is over."""
    if time.monotonic() > deadline:
        raise QueryError(
            "since", f"reading this takes longer than {TIMEOUT_S:.0f} s: choose a shorter time, or weir sql"
        )


def _read(window: Window, traffic: Traffic, seen: _Visible, check: Callable[[], None]) -> None:
    cluster = window.cluster
    for pair in window.pairs():
        check()
        cluster = cluster or pair.cluster
        if pair.cluster != cluster:
            # Namespaces of the same name in two clusters would become one place.
            raise QueryError("", "several clusters share these topics: set WEIR_CLUSTER to the one that the map shows")
        if seen.has(pair):
            traffic.add(pair)


class _Visible:
    """Says which pairs a viewer may see, and asks about each combination of namespaces once."""

    def __init__(self, viewer: Viewer) -> None:
        self._viewer = viewer
        self._known: dict[tuple[str, str, str], bool] = {}

    def has(self, pair: Pair) -> bool:
        """Return whether the viewer may see a pair. Raises UndecidedError."""
        ends = pair.cluster, pair.key.subject.namespace, pair.key.peer.namespace
        if ends not in self._known:
            self._known[ends] = decided(lambda: sees_ends(self._viewer, *ends))
        return self._known[ends]
