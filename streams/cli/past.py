"""Loads the past of a cluster for commands: its journal as a timeline, and what else judging needs."""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from enrich.history.distinctions import Network
from enrich.history.stand_ins import EVERYWHERE, Known
from enrich.history.timeline import Timeline
from enrich.history.versions import FOREVER_NS
from enrich.wire.address_interval import AddressIntervalError, decode_interval_key
from enrich.wire.journal import JournalEntry, unreadable_entry
from enrich.wire.topics import Topics
from streams.cli.terminal import listed
from streams.journal.reading import OFF, read_journal
from streams.kafka.connection import Connection, ReadError
from streams.kafka.reading import TopicReader, read_committed
from streams.kafka.records import Record

SILENCE_NS: Final = 400 * 1_000_000_000
"""A writer of the journal says every five minutes that it is complete. After a longer silence it is not."""


_MAX_NAMED: Final = 5


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
) -> Past:
    """Read the journal, early enough for the state as of ``since_ns``.

    ``pod_cidrs``: where the addresses of pods are; empty: where the nodes say so, if no pod proves them wrong. Raises
    ReadError."""
    bad: list[str] = []
    entries: list[JournalEntry] = []

    def on_bad(record: Record, why: str) -> None:
        bad.append(why)
        # It may be an entry of a newer form, so that its object is not what it was. The order is that of the topic.
        if entries and (one := unreadable_entry(record.key or b"", entries[-1].seen_ns)) is not None:
            entries.append(one)

    for entry in read_journal(connection, topics, cluster, since_ns, on_bad):
        entries.append(entry)
    if not entries:
        raise ReadError(
            f"{topics.journal.name} has nothing{f' of cluster {cluster}' if cluster else ''}: is the role journal of "
            f"weir-streams running? {OFF}"
        )
    made = timeline_of(entries, time.time_ns())
    notes = [f"{len(bad)} records of the journal cannot be read: {bad[0]}"] if bad else []
    if refused := made.refused_profiles:
        named = listed(sorted(set(refused.values())), _MAX_NAMED)
        notes.append(
            f"{len(refused)} profiles of pods did not fit the journal: what pods of {named} are is not all known"
        )
    ranges, note = (tuple(pod_cidrs), "") if pod_cidrs else _pod_ranges(connection, topics.endpoints.name, made)
    return Past(made, Known(made.profiles, ranges), notes + ([note] if note else []))


def timeline_of(entries: Sequence[JournalEntry], now_ns: int) -> Timeline:
    """Return the timeline of entries of one cluster. It ends where they end, if the journal seems not to be
    written any more."""
    last = max(entry.seen_ns for entry in entries)
    return Timeline(entries[-1].cluster, entries, last if now_ns - last > SILENCE_NS else FOREVER_NS)


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
