"""The tables of the journal: versions of policies, and profiles."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from enrich.history.moments import moment
from enrich.history.timeline import Timeline
from enrich.history.versions import Version
from enrich.model import ClusterNetworkPolicy, NetworkPolicy
from enrich.wire.journal import Profile
from enrich.wire.journal_objects import encode_state
from enrich.wire.topics import Topics
from streams.cli.advice_window import CannotSayError
from streams.cli.past import load_timeline
from streams.cli.sql.arrow import schema_of
from streams.cli.sql.columns import POLICIES, PROFILES
from streams.cli.sql.rows import microseconds
from streams.cli.sql.verdicts import protocol_text
from streams.kafka.connection import Connection

POLICY_SCHEMA: Final = schema_of(POLICIES)
PROFILE_SCHEMA: Final = schema_of(PROFILES)


class PolicyVersion(NamedTuple):
    """A version of a policy, and how long it was true."""

    version: Version
    state: NetworkPolicy | ClusterNetworkPolicy
    until_ns: int | None
    cluster: str


class NumberedProfile(NamedTuple):
    """A profile with its number."""

    number: str
    profile: Profile
    cluster: str


@dataclass(slots=True)
class Journal:
    """The journal as of a window. It is read once, when a query first needs it: it is small."""

    connection: Connection
    topics: Topics
    since_ns: int
    until_ns: int
    cluster: str
    _timeline: Timeline | None = None
    _notes: tuple[str, ...] = ()

    def policies(self) -> Iterator[PolicyVersion]:
        """Yield the versions of policies that were true in the window. Raises
        :class:`~streams.kafka.connection.ReadError` and CannotSayError."""
        timeline = self._read()
        following: dict[tuple[str, str, str], int] = {}
        for version in reversed(timeline.changes(None, -1, self.until_ns)):
            key = version.kind, version.namespace, version.name
            until = following.get(key)
            following[key] = version.seen_ns
            state, has_ended = version.state, until is not None and until <= self.since_ns
            if isinstance(state, NetworkPolicy | ClusterNetworkPolicy) and not has_ended:
                yield PolicyVersion(version, state, until, timeline.cluster)

    def profiles(self) -> Iterator[NumberedProfile]:
        """Yield the profiles. Raises :class:`~streams.kafka.connection.ReadError` and CannotSayError."""
        timeline = self._read()
        for number, profile in timeline.profiles.items():
            yield NumberedProfile(number, profile, timeline.cluster)

    def notes(self) -> list[str]:
        """Return what a person must know about the answer."""
        return list(self._notes)

    def _read(self) -> Timeline:
        if self._timeline is None:
            timeline, notes = load_timeline(self.connection, self.topics, self.cluster, self.since_ns)
            if timeline.begins_ns >= self.until_ns:
                raise CannotSayError(f"the journal begins at {moment(timeline.begins_ns)}, after the window")
            last_ns = min(self.until_ns, time.time_ns())
            why = timeline.unknown(None, self.since_ns, last_ns)
            self._notes = (*notes, *([f"policies are not known for all of the window: {why}"] if why else []))
            self._timeline = timeline
        return self._timeline


def _ports(profile: Profile) -> list[dict[str, Any]]:
    return [
        {"name": one.name, "port": one.port, "protocol": (protocol_text(one.protocol) or "").upper()}
        for one in profile.ports
    ]


POLICY_VALUES: Final[Mapping[str, Callable[[PolicyVersion], Any]]] = {
    "kind": lambda one: one.version.kind,
    "namespace": lambda one: one.version.namespace or None,
    "name": lambda one: one.version.name,
    "since": lambda one: microseconds(one.version.seen_ns),
    "until": lambda one: None if one.until_ns is None else microseconds(one.until_ns),
    "changed_by": lambda one: one.version.changed_by or None,
    "resource_version": lambda one: one.version.resource_version or None,
    "generation": lambda one: one.version.generation,
    "audit": lambda one: one.state.audit,
    "object": lambda one: encode_state(one.state).decode(),
    "cluster": lambda one: one.cluster,
}
"""What each column has of a version."""
PROFILE_VALUES: Final[Mapping[str, Callable[[NumberedProfile], Any]]] = {
    "profile": lambda one: one.number,
    "namespace": lambda one: one.profile.namespace,
    "workload_kind": lambda one: one.profile.workload_kind or None,
    "workload_name": lambda one: one.profile.workload_name or None,
    "labels": lambda one: list(one.profile.labels.items()),
    "ports": lambda one: _ports(one.profile),
    "host_network": lambda one: one.profile.host_network,
    "cluster": lambda one: one.cluster,
}
"""What each column has of a profile."""
