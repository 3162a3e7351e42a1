"""Loads the past of a cluster for commands: its journal as a timeline, and what else judging needs."""

from __future__ import annotations

import ipaddress
import itertools
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from enrich.history.distinctions import Network
from enrich.history.stand_ins import EVERYWHERE, Known
from enrich.history.timeline import Timeline
from enrich.wire.address_interval import AddressIntervalError, decode_interval_key
from enrich.wire.journal import MAX_AHEAD_NS, JournalEntry, unreadable_entry
from enrich.wire.topics import Topics
from streams.cli.terminal import listed
from streams.journal.reading import MAX_MEMORY, OFF, read_journal, within_memory
from streams.kafka.connection import Connection, ReadError
from streams.kafka.lasting_transactions import unreadable_yet
from streams.kafka.reading import TopicReader, read_committed
from streams.kafka.records import Record

SILENCE_NS: Final = 400 * 1_000_000_000
"""A writer of the journal says every five minutes that it is complete. After a longer silence it is not."""


_MAX_NAMED: Final = 5
_MAX_WAITING: Final = 100_000
"""Objects whose records cannot be read, between two entries."""


@dataclass(slots=True)
class Past:
    """What is known of the past of one cluster."""

    timeline: Timeline
    known: Known
    notes: list[str] = field(default_factory=list)
    """What a reader of the answer must know."""


def load_past(
    connection: Connection,
    topics: Topics,
    cluster: str,
    since_ns: int,
    pod_cidrs: Sequence[Network] = (),
    max_bytes: int = MAX_MEMORY,
) -> Past:
    """Read the journal, early enough for the state as of ``since_ns``.

    ``pod_cidrs``: where the addresses of pods are; empty: where the nodes say so, if no pod proves them wrong;
    ``max_bytes``: the memory for the journal. Raises ReadError, and JournalSizeError if that is not enough."""
    made, notes = load_timeline(connection, topics, cluster, since_ns, max_bytes)
    ranges, note = (tuple(pod_cidrs), "") if pod_cidrs else _pod_ranges(connection, topics.endpoints.name, made)
    return Past(made, Known(made.profiles, ranges), notes + ([note] if note else []))


def load_timeline(
    connection: Connection, topics: Topics, cluster: str, since_ns: int, max_bytes: int = MAX_MEMORY
) -> tuple[Timeline, list[str]]:
    """Read the journal, early enough for the state as of ``since_ns``. Return it, and what a reader of the answer must
    know. Raises ReadError."""
    unreadable = _Unreadable()
    entries = read_journal(connection, topics, cluster, since_ns, unreadable.add)
    made = timeline_of(within_memory(unreadable.placed(entries), topics.journal.name, max_bytes), time.time_ns())
    if made is None:
        raise ReadError(
            f"{topics.journal.name} has nothing{f' of cluster {cluster}' if cluster else ''}: is the role journal of "
            f"weir-streams running? {OFF}"
        )
    for lost_ns in unreadable.lost_ns:
        made.lose(lost_ns)
    notes = [*unreadable.notes(), *unreadable_yet(connection, topics.journal.name)]
    if made.impossible:
        notes.append(
            f"{made.impossible} entries of the journal are left out, because their times are long before those of "
            "earlier ones: somebody else than the role journal writes to the topic"
        )
    if refused := made.refused_profiles:
        named = listed(sorted(set(refused.values())), _MAX_NAMED)
        notes.append(
            f"{len(refused)} profiles of pods did not fit the journal: what pods of {named} are is not all known"
        )
    return made, notes


class _Unreadable:
    """Records of the journal that are not entries, on their way into the timeline."""

    def __init__(self) -> None:
        self._count, self._first = 0, ""
        self._waiting: dict[bytes, None] = {}
        self._is_batch = False
        self.lost_ns: list[int] = []
        """When batches begin that cannot be read: any object may have changed in them."""

    def add(self, record: Record, why: str) -> None:
        """Take a record, before the entry that follows it."""
        self._first = self._first or why
        self._count += 1
        self._is_batch = self._is_batch or bool(record.unread)
        if len(self._waiting) < _MAX_WAITING:
            self._waiting[record.key or b""] = None

    def placed(self, entries: Iterable[JournalEntry]) -> Iterator[JournalEntry]:
        """Yield entries in the order of the topic, with one in place of each record that cannot be read: that may be an
        entry of a newer form, so that its object is not what it was."""
        last: JournalEntry | None = None
        for entry in itertools.chain(entries, [None]):
            keys, self._waiting = self._waiting, {}
            if len(keys) >= _MAX_WAITING:
                raise ReadError(f"the journal has more than {_MAX_WAITING:,} records in a row that cannot be read")
            if last is not None:
                if self._is_batch:
                    self.lost_ns.append(last.seen_ns)
                found = (unreadable_entry(key, last.seen_ns) for key in keys)
                yield from (one for one in found if one is not None and one.cluster == last.cluster)
            self._is_batch = False
            if entry is not None:
                last = entry
                yield entry

    def notes(self) -> list[str]:
        """Return what a reader of the answer must know."""
        return [f"{self._count} records of the journal cannot be read: {self._first}"] if self._count else []


def timeline_of(entries: Iterable[JournalEntry], now_ns: int) -> Timeline | None:
    """Return the timeline of entries of one cluster; None if there are none. It ends where they end, if the journal
    seems not to be written any more."""
    rest = iter(entries)
    first = next(rest, None)
    if first is None:
        return None
    made = Timeline(first.cluster, itertools.chain([first], rest))
    last_ns = max(made.last_ns, first.seen_ns if first.seen_ns <= now_ns + MAX_AHEAD_NS else 0)
    if now_ns - last_ns > SILENCE_NS:
        made.end(last_ns)
    return made


def _pod_ranges(connection: Connection, topic: str, timeline: Timeline) -> tuple[tuple[Network, ...], str]:
    """Return where the addresses of pods are, and a note if that is not known.

    A network plugin need not keep to ``spec.podCIDRs``. So they are believed only if all addresses that pods are known
    to have are within them."""
    cidrs = ranges_of(timeline)
    if not cidrs:
        return EVERYWHERE, "the nodes do not say where the addresses of pods are (spec.podCIDRs); --pod-cidr can"
    try:
        outside = next((ip for ip in _addresses(connection, topic, timeline.cluster) if not _within(ip, cidrs)), "")
    except ReadError as error:
        return EVERYWHERE, f"where the addresses of pods are is not known: {error}; --pod-cidr can say it"
    if outside:
        return EVERYWHERE, f"a pod has the address {outside}, outside spec.podCIDRs of the nodes; use --pod-cidr"
    return cidrs, ""


def parse_pod_cidrs(texts: Sequence[str]) -> tuple[Network, ...]:
    """Return the networks of ``--pod-cidr``. Raises ValueError, which names the option."""
    try:
        return tuple(map(ipaddress.ip_network, texts))
    except ValueError as error:
        raise ValueError(f"--pod-cidr: {error}; write it like 10.244.0.0/16") from error


def ranges_of(timeline: Timeline) -> tuple[Network, ...]:
    """Return the ranges of pods' addresses that the nodes have; none if one of them says nothing."""
    nodes = timeline.all_nodes()
    if not all(node.pod_cidrs for node in nodes):
        return ()
    return tuple(dict.fromkeys(ipaddress.ip_network(cidr) for node in nodes for cidr in node.pod_cidrs))


def _within(ip: str, ranges: Sequence[Network]) -> bool:
    address = ipaddress.ip_address(ip)
    return any(address in one for one in ranges)


def _addresses(connection: Connection, topic: str, cluster: str) -> Iterator[str]:
    """Yield the addresses that pods of the cluster have or had lately."""
    reader = TopicReader(connection, topic)
    try:
        partitions = list(reader.bounds())
    finally:
        reader.close()
    for record in read_committed(connection, topic, partitions):
        try:
            key = decode_interval_key(record.key or b"")
        except AddressIntervalError:
            continue
        if key.cluster == cluster and record.value:
            yield key.ip
