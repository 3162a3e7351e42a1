"""The table of pairs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from enrich.render.template import BY_POLICY, ICMP
from enrich.wire.batch import Reason
from enrich.wire.pair import HOUR_NS, Pair, PairEnd
from enrich.wire.topics import Topics
from streams.cli.advice_window import window_of_names
from streams.cli.sql.arrow import schema_of
from streams.cli.sql.columns import PAIRS
from streams.cli.sql.rows import microseconds
from streams.cli.sql.verdicts import protocol_text, rule_value
from streams.kafka.connection import Connection

SCHEMA: Final = schema_of(PAIRS)
Value = Callable[[Pair], Any]
_BY_POLICY: Final = frozenset(reason.name.lower() for reason in Reason if reason in BY_POLICY)


class Pairs:
    """The pairs of the hours that a window touches, to be read any number of times."""

    def __init__(self, connection: Connection, topics: Topics, since_ns: int, until_ns: int, cluster: str) -> None:
        self._given = connection, topics, (since_ns, until_ns), cluster
        self._notes: list[str] = []

    def __iter__(self) -> Iterator[Pair]:
        """Yield the pairs of which a packet is in the window. Raises
        :class:`~streams.kafka.connection.ReadError`, TooManyPairsError, and CannotSayError if pairs were not
        counted."""
        window = window_of_names(*self._given)
        self._notes = window.notes
        yield from window.pairs()

    def notes(self) -> list[str]:
        """Return what a person must know about the answer."""
        return self._notes


def _end(name: str, end_of: Callable[[Pair], PairEnd]) -> dict[str, Value]:
    return {
        f"{name}_namespace": lambda pair: end_of(pair).namespace or None,
        f"{name}_workload_kind": lambda pair: end_of(pair).workload.partition("/")[0] or None,
        f"{name}_workload_name": lambda pair: end_of(pair).workload.partition("/")[2] or None,
        f"{name}_profile": lambda pair: end_of(pair).profile or None,
        f"{name}_node_name": lambda pair: end_of(pair).node or None,
        f"{name}_block": lambda pair: end_of(pair).block or None,
        f"{name}_coarse": lambda pair: end_of(pair).coarse,
        f"{name}_unknown": lambda pair: end_of(pair).unknown,
    }


def _icmp(pair: Pair, part: int) -> int | None:
    return part if pair.key.protocol in ICMP else None


def _rules(pair: Pair, *, by_policy: bool) -> list[dict[str, Any]]:
    is_meant = (pair.key.reason in _BY_POLICY) == by_policy
    return [rule_value(ref) for ref in pair.key.policies] if is_meant else []


VALUES: Final[Mapping[str, Value]] = {
    "hour": lambda pair: microseconds(pair.hour * HOUR_NS),
    **_end("subject", lambda pair: pair.key.subject),
    **_end("peer", lambda pair: pair.key.peer),
    "disposition": lambda pair: pair.key.verdict,
    "reason": lambda pair: pair.key.reason,
    "direction": lambda pair: pair.key.direction,
    "protocol": lambda pair: protocol_text(pair.key.protocol),
    "dest_port": lambda pair: None if pair.key.protocol in ICMP else pair.key.port,
    "icmp_type": lambda pair: _icmp(pair, pair.key.port >> 8),
    "icmp_code": lambda pair: _icmp(pair, pair.key.port & 0xFF),
    "policies": lambda pair: _rules(pair, by_policy=True),
    "isolated_by": lambda pair: _rules(pair, by_policy=False),
    "service_namespace": lambda pair: pair.key.service.partition("/")[0] or None,
    "service_name": lambda pair: pair.key.service.partition("/")[2] or None,
    "verdicts": lambda pair: pair.verdicts,
    "packets": lambda pair: pair.packets,
    "timestamp": lambda pair: microseconds(pair.first_ns),
    "last_timestamp": lambda pair: microseconds(pair.last_ns),
    "examples": lambda pair: list(pair.examples),
    "cluster": lambda pair: pair.cluster,
}
"""What each column has of a pair."""
